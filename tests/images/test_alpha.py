"""Colour under transparent pixels: no halos, the same in any tile, nothing else touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalewise import images, zoo
from scalewise.geometry.grid import Frame
from scalewise.geometry.resize import bicubic_base
from scalewise.images.alpha import REACH_PIXELS, Weighing, bleed
from scalewise.machine.memory import LiveTensors
from scalewise.pipeline import upscale

BICUBIC = zoo.bicubic()


def test_visible_pixels_stay_and_hidden_ones_take_the_colour_beside_them() -> None:
    colour = torch.zeros(3, 1, 30)
    weight = torch.zeros(1, 1, 30)
    colour[:, :, :5], weight[:, :, :5] = 0.75, 1.0
    result = bleed(colour, weight)
    assert torch.equal(result[..., :5], colour[..., :5])
    end = 5 + REACH_PIXELS
    assert torch.equal(result[..., 5:end], torch.full((3, 1, REACH_PIXELS), 0.75))
    assert torch.equal(result[..., end:], colour[..., end:]), "beyond the reach it is the file's"


def test_nothing_hidden_or_nothing_visible_changes_nothing() -> None:
    colour = torch.rand(3, 6, 7)
    assert torch.equal(bleed(colour, torch.full((1, 6, 7), 0.01)), colour), "all are of the same little opacity"
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


def translucent(shape: tuple[int, int] = (30, 36)) -> np.ndarray:
    """Opaque white next to a black shadow whose opacity falls off, next to nothing; colours of their own everywhere."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    far = np.hypot(y - shape[0] / 2, x - shape[1] / 2)
    picture = np.zeros((*shape, 4), np.float32)
    picture[..., 3] = np.clip(1.4 - far / 11, 0, 0.45)
    picture[far < 7] = 1
    hidden = far > 16
    picture[hidden, :3] = np.random.default_rng(0).random((int(hidden.sum()), 3), np.float32)
    return picture


def over(picture: np.ndarray, ground: tuple[float, float, float]) -> np.ndarray:
    return picture[..., :3] * picture[..., 3:] + (1 - picture[..., 3:]) * np.array(ground, np.float32)


@pytest.mark.parametrize("model", ["bicubic", "fast"])
@pytest.mark.parametrize("scale", [2, 3.3])
def test_opacity_weighs_colour_as_in_premultiplied_interpolation(model: str, scale: float) -> None:
    picture = translucent()
    weighed = np.concatenate([picture[..., :3] * picture[..., 3:], picture[..., 3:]], -1)
    parts = [upscale(np.ascontiguousarray(weighed[..., c]), scale, model=BICUBIC).image for c in range(4)]
    result = upscale(picture, scale, model=model).image
    for ground in ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.9, 0.2, 0.1)):
        expected = np.stack([parts[c] + (1 - parts[3]) * ground[c] for c in range(3)], -1)
        assert np.abs(over(result, ground) - expected).max() < 8 / 255


@pytest.mark.parametrize("model", ["bicubic", "fast"])
def test_hardly_visible_is_as_invisible(model: str) -> None:
    picture = (translucent() * 255).round().astype(np.uint8)
    hardly = picture.copy()
    hardly[..., 3] = np.maximum(picture[..., 3], 1)
    results = [upscale(one, 3, model=model).image.astype(np.float32) / 255 for one in (picture, hardly)]
    seen = [over(result, (1.0, 1.0, 1.0)) for result in results]
    assert np.abs(seen[0] - seen[1]).max() < 3 / 255


def test_tiles_weigh_alike() -> None:
    picture = translucent()
    whole, tiles = (upscale(picture, 2.5, model=BICUBIC, tile=tile).image for tile in (None, 8))
    assert np.abs(whole - tiles).max() < 1e-4


def test_an_opaque_part_keeps_the_detail_of_a_model() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (60, 40, 4)).astype(np.uint8)
    picture[..., 3] = 255
    picture[:4, :, 3] = 0
    plain = upscale(picture[..., :3].copy(), 2, model="fast", budget=1.0).image
    result = upscale(picture, 2, model="fast", budget=1.0).image
    assert np.abs(result[100:, :, :3].astype(int) - plain[100:]).max() <= 1


def test_what_weighs_a_tile_has_the_size_of_its_input() -> None:
    """An output of any size is weighed some rows at a time: no plane of it is held."""
    pixels, scale, rows = 32, 20, slice(64, 128)
    planes, out = torch.rand(7, pixels, pixels), (pixels * scale, pixels * scale)

    def enlarge(planes: torch.Tensor, rows: slice) -> torch.Tensor:
        return bicubic_base(planes, Frame((pixels, pixels)), out, (rows.start, 0, rows.stop, out[1]))

    rgb = torch.rand(3, *out)
    with LiveTensors() as live:
        weighing = Weighing(planes[:3], planes[3:6], planes[6:], enlarge)
        kept = live.bytes
        part, alpha = weighing(rgb, rows, slice(0, out[1]))
    assert kept <= 16 * 4 * pixels**2
    assert live.peak - rgb.nbytes < 25 * 4 * 64 * out[1], "rows of some planes, and not the whole of any"
    assert part.shape == (3, 64, out[1]) and alpha.shape == (1, 64, out[1])
