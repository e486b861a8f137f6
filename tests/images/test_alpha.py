"""Colour under transparent pixels: no halos, the same in any tile, nothing else touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalewise import images, zoo
from scalewise.images.alpha import REACH, bleed
from scalewise.pipeline import upscale

BICUBIC = zoo.bicubic()


def test_visible_pixels_stay_and_hidden_ones_take_the_colour_beside_them() -> None:
    colour = torch.zeros(3, 1, 30)
    weight = torch.zeros(1, 1, 30)
    colour[:, :, :5], weight[:, :, :5] = 0.75, 1.0
    result = bleed(colour, weight)
    assert torch.equal(result[..., :5], colour[..., :5])
    assert torch.equal(result[..., 5 : 5 + REACH], torch.full((3, 1, REACH), 0.75))
    assert torch.equal(result[..., 5 + REACH :], colour[..., 5 + REACH :]), "beyond the reach it is the file's"


def test_nothing_hidden_or_nothing_visible_changes_nothing() -> None:
    colour = torch.rand(3, 6, 7)
    assert torch.equal(bleed(colour, torch.full((1, 6, 7), 0.01)), colour)
    assert torch.equal(bleed(colour, torch.zeros(1, 6, 7)), colour)


@given(st.data())
def test_a_tile_read_alone_equals_the_whole(data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    array = random.integers(0, 256, (50, 60, 4), dtype=np.uint8)
    y, x = data.draw(st.integers(0, 45)), data.draw(st.integers(0, 55))
    array[..., 3] = np.where(random.random((50, 60)) < data.draw(st.sampled_from([0.01, 0.3])), array[..., 3], 0)
    source = images.open(array)
    box = (y, x, data.draw(st.integers(y + 1, 50)), data.draw(st.integers(x + 1, 60)))
    whole = source.read(bled=True)
    assert torch.equal(source.read(box, bled=True), whole[:, box[0] : box[2], box[1] : box[3]])
    assert torch.equal(source.read(box), source.read()[:, box[0] : box[2], box[1] : box[3]]), "unasked, all stays"


@pytest.mark.parametrize("tile", [None, 8])
def test_no_halo_around_a_shape_on_transparent_black(tile: int | None) -> None:
    y, x = np.mgrid[0:24, 0:24]
    disc = np.zeros((24, 24, 4), np.float32)
    disc[(y - 12) ** 2 + (x - 12) ** 2 < 64] = 1  # white and opaque; the rest is black and transparent
    result = upscale(disc, 3.3, model=BICUBIC, tile=tile).image
    over_white = result[..., :3] * result[..., 3:] + (1 - result[..., 3:])
    assert over_white.min() > 0.999, "white on white: a dark rim would be a halo"
    assert 0 < (result[..., 3] > 0.5).mean() < 0.6 and result[..., 3].min() == 0
