"""Tails of fixed-scale networks, and bicubic: pixels, costs, context, refusals."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scalewise.encoders.edsr import EDSR
from scalewise.errors import UnsupportedScale
from scalewise.geometry.grid import Frame, Query, rectangle
from scalewise.geometry.resize import imresize
from scalewise.models.super_resolver import SuperResolver
from scalewise.upsamplers.fixed import (
    Bicubic,
    CascadeTail,
    Deconvolution,
    DirectShuffle,
    FixedTail,
    PixelShuffle,
    RectifiedShuffle,
    RepeatedShuffle,
    Residual,
    ResNetTail,
    pick,
)

SIZE = (7, 9)
TAILS = [
    *(PixelShuffle(8, scale) for scale in (2, 3, 4, 8)),
    PixelShuffle(8, 4, width=4),
    DirectShuffle(8, 3),
    RectifiedShuffle(8, 3, width=10),
    RepeatedShuffle(8, 3),
    RepeatedShuffle(8, 2, colours=1),
    Residual(8),
    *(ResNetTail(8, scale) for scale in (2, 3, 4)),
    CascadeTail(8, groups=2),
    *(Deconvolution(8, scale) for scale in (2, 3, 4)),
]
every_tail = pytest.mark.parametrize(
    ("tail", "scale"),
    [pytest.param(tail, scale, id=f"{type(tail).__name__}-x{scale}") for tail in TAILS for scale in tail.scales],
)


def out_size(scale: int) -> tuple[int, int]:
    return SIZE[0] * scale, SIZE[1] * scale


@torch.no_grad()
def render(tail: FixedTail, features: torch.Tensor, lr: torch.Tensor, query: Query) -> torch.Tensor:
    return tail.sample(tail.prepare(features, lr, Frame(SIZE)), query)


@every_tail
def test_macs_are_what_torch_counts(tail: FixedTail, scale: int) -> None:
    field = tail.prepare(torch.rand(1, 8, *SIZE), torch.rand(1, 3, *SIZE), Frame(SIZE))
    with FlopCounterMode(display=False) as counter:  # with gradients: without, a deconvolution is a convolution
        rgb = tail.sample(field, rectangle(Frame(SIZE), out_size(scale)))
    assert rgb.shape == (1, 3, *out_size(scale))
    assert tail.macs(SIZE, out_size(scale)).total == counter.get_total_flops() // 2


def test_a_deconvolution_without_gradients_is_the_same_by_another_way() -> None:
    tail, features = Deconvolution(8, 4), torch.rand(1, 8, *SIZE)
    with torch.enable_grad():
        slow = tail.upscale(features, features, 4)
    with torch.no_grad():
        torch.testing.assert_close(tail.upscale(features, features, 4), slow, rtol=0, atol=1e-5)


@every_tail
def test_points_are_pixels_of_the_picture(tail: FixedTail, scale: int) -> None:
    features, lr = torch.rand(2, 8, *SIZE), torch.rand(2, 3, *SIZE)
    grid = rectangle(Frame(SIZE), out_size(scale))
    picture = render(tail, features, lr, grid)
    rows, columns = torch.randint(out_size(scale)[0], (2, 5)), torch.randint(out_size(scale)[1], (2, 5))
    points = Query(grid.y[0, rows, 0], grid.x[0, 0, columns], grid.cell)
    expected = torch.stack([picture[b, :, rows[b], columns[b]].T for b in range(2)])
    assert torch.equal(render(tail, features, lr, points), expected)
    band = rectangle(Frame(SIZE), out_size(scale), (1, 2, 4, 7))
    assert torch.equal(render(tail, features, lr, band), picture[..., 1:4, 2:7])


@pytest.mark.parametrize("rows", [(2, 3, 4, 5), (2, 2, 3), (1, 3, 4), (6,)])
@pytest.mark.parametrize("columns", [(0, 1, 2, 3, 4, 5, 6, 7, 8), (4, 4), (3, 5, 8)])
def test_rows_and_columns_may_be_left_out_or_repeated(rows: tuple[int, ...], columns: tuple[int, ...]) -> None:
    image = torch.rand(1, 3, *SIZE)
    y, x = (torch.tensor(index, dtype=torch.float64) + 0.5 for index in (rows, columns))
    found = pick(image, Query(y.view(1, -1, 1), x.view(1, 1, -1), torch.ones(1, 2)), 1)
    assert torch.equal(found, image[:, :, rows, :][..., columns])


@every_tail
def test_a_pixel_sees_no_farther_than_the_context(tail: FixedTail, scale: int) -> None:
    features = torch.rand(1, 8, 15, 15, dtype=torch.float64, requires_grad=True)
    picture = tail.double().upscale(features, torch.rand(1, 3, 15, 15, dtype=torch.float64), scale)
    cell = picture[..., 7 * scale : 8 * scale, 7 * scale : 8 * scale]  # of LR pixel 7
    (gradient,) = torch.autograd.grad((cell * torch.rand_like(cell)).sum(), features)
    seen = gradient.abs().amax((0, 1, 3)).nonzero().flatten()
    tail.float()
    assert max(7 - int(seen[0]), int(seen[-1]) - 7) <= tail.context


def test_other_scales_are_refused_by_name() -> None:
    tail = CascadeTail(8, groups=2)
    for out in ((15, 19), (14, 27), (35, 45)):
        with pytest.raises(UnsupportedScale, match="×2 or ×3 or ×4"):
            render(tail, torch.rand(1, 8, *SIZE), torch.rand(1, 3, *SIZE), rectangle(Frame(SIZE), out))
    with pytest.raises(UnsupportedScale, match="power of two"):
        PixelShuffle(8, 5)


def test_one_network_has_three_scales() -> None:
    model = SuperResolver(EDSR(8, 1), CascadeTail(8, groups=2), scales=(2, 3, 4)).eval()
    lr = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        for scale in (2, 3, 4):
            rgb = model(lr, rectangle(Frame(SIZE), out_size(scale)), torch.full((1, 2), float(scale))).rgb
            assert rgb.shape[-2:] == out_size(scale)


@pytest.mark.parametrize("out", [(7, 9), (14, 18), (25, 31), (90, 40)])
def test_bicubic_is_matlab_resizing(out: tuple[int, int]) -> None:
    lr, bicubic = torch.rand(2, 3, *SIZE), Bicubic()
    rgb = bicubic.sample(bicubic.prepare(lr, lr, Frame(SIZE)), rectangle(Frame(SIZE), out))
    torch.testing.assert_close(rgb, imresize(lr, out), rtol=0, atol=2e-6)


def test_bicubic_tiles_and_points_equal_the_whole() -> None:
    size, out = (20, 30), (47, 71)
    lr, bicubic = torch.rand(1, 3, *size), Bicubic()
    whole = bicubic.sample(bicubic.prepare(lr, lr, Frame(size)), rectangle(Frame(size), out))
    frame, tile = Frame(size, (6, 8)), lr[..., 6:18, 8:24]
    box = (20, 30, 35, 50)  # output pixels well inside the tile
    field = bicubic.prepare(tile, tile, frame)
    part = bicubic.sample(field, rectangle(frame, out, box))
    torch.testing.assert_close(part, whole[..., 20:35, 30:50], rtol=0, atol=2e-6)
    query = rectangle(frame, out, box)
    points = Query(query.y[:, :5, 0], query.x[:, 0, :5], query.cell)
    diagonal = bicubic.sample(field, points)
    torch.testing.assert_close(diagonal[0], whole[0, :, range(20, 25), range(30, 35)].T, rtol=0, atol=1e-5)


def test_bicubic_goes_around_a_wrapped_picture() -> None:
    size, out = (8, 12), (16, 30)
    lr, bicubic = torch.rand(1, 3, *size), Bicubic()
    frame = Frame(size, wrap=True)
    rgb = bicubic.sample(bicubic.prepare(lr, lr, frame), rectangle(frame, out))
    turned = lr.roll(2, -1)  # 2 LR pixels are 5 output pixels
    again = bicubic.sample(bicubic.prepare(turned, turned, frame), rectangle(frame, out))
    torch.testing.assert_close(rgb.roll(5, -1), again, rtol=0, atol=1e-5)
