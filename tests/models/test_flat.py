"""A flat picture stays flat within a level, its borders too, whatever the network pads with."""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from scalewise import zoo
from scalewise.evaluate.upscalers import upscaler_of
from scalewise.execution.plan import RunOptions
from scalewise.geometry.grid import Frame, rectangle
from scalewise.geometry.projection import read_beyond
from scalewise.geometry.tiling import plan_tiles
from scalewise.models.model import Model
from scalewise.models.patchwise import PatchwiseModel
from scalewise.models.super_resolver import SuperResolver
from scalewise.pipeline import upscale
from scalewise.recipes import RECIPES

COLOURS = ((255, 255, 255), (0, 0, 0), (204, 77, 26))
SHIPPED = [name for name, entry in zoo.MODELS.items() if entry.weights or not entry.needs_weights]
SCALES = (1.5, 2, 2.7, 4)
# Patch networks see zeros inside the picture too, where patches meet, and show them before they are trained.
BY_PATCHES = ("enaf", "arm", "classsr")
TINY = [name for name in RECIPES if name.endswith("-tiny") and not name.startswith(BY_PATCHES)]
QUICK = {
    "adaformer-x2-tiny",
    "camixer-tiny",
    "edsr-liif-tiny",
    "edsr-x4-tiny",
    "fast-tiny",
    "lean-tiny",
    "tadt-liif-tiny",
}
PUBLISHED = (
    "disp_x4.pth",
    "etds_m7c48_x4.pth",
    "carn_m_multiscale.pth",
    "CAMixerSR_S.pth",
    "arm-carn.pth",
    "arm-fsrcnn.pth",
    "fsrcnn_eunaf.t7",
    "carn_eunaf.t7",
)


def enlarged(model: Any, size: tuple[int, int], scale: float, colour: tuple[int, int, int]) -> np.ndarray:
    flat = np.broadcast_to(np.array(colour, np.uint8), (*size, 3)).copy()
    return upscale(flat, scale, model=model, dtype="fp32").image.astype(int)


def unevenness(model: Any, size: tuple[int, int], scale: float, colour: tuple[int, int, int]) -> int:
    """The largest difference, in levels, between two pixels of a flat picture that is enlarged."""
    image = enlarged(model, size, scale, colour)
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


@pytest.mark.slow
@pytest.mark.skipif("SCALEWISE_SHARED" not in os.environ, reason="published weights are not here")
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_flat_picture_stays_flat_with_published_networks(name: str) -> None:
    model = zoo.load(Path(os.environ["SCALEWISE_SHARED"]) / "weights" / name)
    # Patches see zeros where they meet, and fade into each other there: with FSRCNN a level more is left of that.
    most = 2 if isinstance(model.model, PatchwiseModel) else 1
    for scale, colour in product((2.5, 4), COLOURS):
        assert unevenness(model, (40, 44), scale, colour) <= most, (scale, colour)


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TINY]
)
def test_the_border_is_like_the_inside_with_first_weights(name: str) -> None:
    """A network that is not trained makes a pattern of a flat picture, the same for every LR pixel: at its border too,
    to a level or 3% of the pattern's height."""
    torch.manual_seed(0)
    model: Any = RECIPES[name].network.build()
    scale = int((cast(Model, model).limits.scales or (2,))[0])
    height, width = 40, 44
    image = enlarged(model, (height, width), scale, COLOURS[2])
    inside = image[scale * 20 : scale * 21, scale * 20 : scale * 21]
    swing = int((inside.max((0, 1)) - inside.min((0, 1))).max())
    expected = np.tile(inside, (height, width, 1))
    if "odi" in name:  # its offsets depend on the latitude, so rows differ
        expected = np.tile(image[:, scale * 20 : scale * 21], (1, width, 1))
    off = np.abs(image - expected).max()
    assert off <= max(1, 0.03 * swing), (off, swing)


def test_measuring_leaves_a_network_as_it_was_published() -> None:
    """What is compared with published numbers is the network's own forward, which sees zeros beyond the picture."""
    torch.manual_seed(0)
    model = RECIPES["edsr-x4-tiny"].network.build().eval()
    assert isinstance(model, SuperResolver)
    lr = torch.rand(3, 20, 24)
    with torch.no_grad():
        query = rectangle(Frame((20, 24)), (80, 96))
        own = model(lr[None], query, 1 / query.cell).rgb[0]
    options = RunOptions(dtype="fp32", device="cpu")
    measured = upscaler_of(model, None, options)(lr, (80, 96), 4).sr
    assert torch.allclose(measured, own, atol=1e-5)
    made = torch.from_numpy(upscale(lr.permute(1, 2, 0).numpy(), 4, model=model, dtype="fp32").image).permute(2, 0, 1)
    assert (made - own.clamp(0, 1)).abs().max() > 1e-3, "pictures are made with the reflection"


@pytest.mark.parametrize("tile", [8, 16])
def test_tiles_of_a_mirrored_picture_equal_the_whole(tile: int) -> None:
    torch.manual_seed(0)
    model: Any = RECIPES["edsr-liif-tiny"].network.build()
    picture = np.random.default_rng(0).random((37, 29, 3), np.float32)
    whole, parts = (upscale(picture, 2.3, model=model, dtype="fp32", tile=side).image for side in (None, tile))
    assert np.abs(whole - parts).max() < 1e-4


def test_beyond_a_border_lies_the_reflection() -> None:
    picture = torch.arange(12.0).view(1, 3, 4)
    frame = Frame((3, 4), mirrored=6)

    def read(box: tuple[int, int, int, int]) -> torch.Tensor:
        y0, x0, y1, x1 = box
        assert 0 <= y0 < y1 <= 3 and 0 <= x0 < x1 <= 4
        return picture[:, y0:y1, x0:x1]

    rows, columns = [2, 2, 1, 0, 0, 1, 2, 2, 1], [1, 0, 0, 1, 2, 3, 3, 2]
    found = read_beyond(read, frame, (-4, -2, 5, 6))
    assert torch.equal(found, picture[:, rows][:, :, columns])
    (only,) = plan_tiles((3, 4), (6, 8), side=4, grid=4, context=9, unit=4, frame=frame)
    assert only.source == (-8, -8, 9, 10), "at the top and left to the next multiple of the window"
