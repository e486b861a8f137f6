"""A flat picture stays flat within a level, its borders too, whatever the network pads with."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from scalewise import zoo
from scalewise.models.model import Model
from scalewise.pipeline import upscale

COLOURS = ((255, 255, 255), (0, 0, 0), (204, 77, 26))
SHIPPED = [name for name, entry in zoo.MODELS.items() if entry.weights or not entry.needs_weights]
SCALES = (1.5, 2, 2.7, 4)


def unevenness(model: Model | str, size: tuple[int, int], scale: float, colour: tuple[int, int, int]) -> int:
    """The largest difference, in levels, between two pixels of a flat picture that is enlarged."""
    flat = np.broadcast_to(np.array(colour, np.uint8), (*size, 3)).copy()
    image = upscale(flat, scale, model=model, dtype="fp32").image.astype(int)
    return int((image.max((0, 1)) - image.min((0, 1))).max())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_flat_picture_stays_flat_with_every_shipped_model(name: str) -> None:
    for scale, colour in zip(SCALES, (*COLOURS, COLOURS[2]), strict=True):
        assert unevenness(name, (40, 44), scale, colour) <= 1, (scale, colour)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("size", [(96, 96), (7, 5), (1, 1)])
def test_also_when_it_is_large_or_tiny(name: str, size: tuple[int, int]) -> None:
    for scale, colour in product((2, 2.5, 3, 4), COLOURS):
        assert unevenness(name, size, scale, colour) <= 1, (scale, colour)
