"""SuperResolver with a base: a residual on an interpolated picture, the same in tiles, points, files and counts."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scalewise.budget.budget import Budget
from scalewise.encoders.edsr import EDSR
from scalewise.export.onnx_file import one_scale
from scalewise.geometry.grid import Box, Frame, Query, rectangle
from scalewise.models.super_resolver import Base, SuperResolver
from scalewise.upsamplers.fixed import PixelShuffle
from scalewise.upsamplers.liif import LIIF

BASES = get_args(Base)


def network(base: Base | None, *, silent: bool = False) -> SuperResolver:
    """`silent`: the upsampler gives nothing, so that the base is left."""
    torch.manual_seed(0)
    model = SuperResolver(EDSR(4, 1), LIIF(4, (8,)), base=base).eval()
    if silent:
        last = model.upsampler.mlp.last  # type: ignore[attr-defined]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return model


def whole(model: SuperResolver, lr: torch.Tensor, out: tuple[int, int]) -> torch.Tensor:
    size = (lr.shape[-2], lr.shape[-1])
    scale = torch.tensor([[out[0] / size[0], out[1] / size[1]]])
    with torch.no_grad():
        return model(lr, rectangle(Frame(size), out), scale).rgb


@pytest.mark.parametrize("base", BASES)
def test_a_network_that_adds_nothing_interpolates(base: Base) -> None:
    lr = torch.rand(1, 3, 9, 12)
    found = whole(network(base, silent=True), lr, (27, 30))
    torch.testing.assert_close(found, F.interpolate(lr, (27, 30), mode=base, align_corners=False), atol=1e-5, rtol=0)


@pytest.mark.parametrize("base", BASES)
def test_points_have_the_colours_of_the_rectangle(base: Base) -> None:
    lr, model = torch.rand(2, 3, 8, 8), network(base, silent=True)
    query = rectangle(Frame((8, 8)), (20, 20))
    grid = model.finished(torch.zeros(2, 3, 20, 20), lr, query)
    y, x = torch.broadcast_tensors(query.y, query.x)
    points = Query(y.flatten(1).expand(2, -1), x.flatten(1).expand(2, -1), query.cell)
    found = model.finished(torch.zeros(2, 400, 3), lr, points)
    torch.testing.assert_close(found.transpose(1, 2).unflatten(2, (20, 20)), grid)


@pytest.mark.parametrize("base", BASES)
@torch.no_grad()
def test_a_tile_has_the_pixels_of_the_whole(base: Base) -> None:
    model, lr, out = network(base), torch.rand(1, 3, 40, 40), (100, 100)
    context = model.limits.context
    assert context is not None
    plan = model.plan(None, (40, 40), out, Budget.full())
    core: Box = (12, 12, 24, 28)
    top, left = (core[0] - context, core[1] - context)
    tile = lr[..., max(0, top) : core[2] + context, max(0, left) : core[3] + context]
    frame = Frame((40, 40), (max(0, top), max(0, left)))
    found = model.render(tile, frame, core, out, plan).rgb
    torch.testing.assert_close(found, whole(model, lr, out)[0][:, 30:60, 30:70], atol=1e-5, rtol=0)


def test_its_taps_are_counted_outside_the_macs() -> None:
    plain, bilinear, bicubic = (network(base).macs((8, 8), (20, 20)) for base in (None, "bilinear", "bicubic"))
    assert plain.total == bilinear.total == bicubic.total
    assert [one.sampling - plain.sampling for one in (bilinear, bicubic)] == [3 * 4 * 400, 3 * 16 * 400]


@pytest.mark.parametrize("base", BASES)
def test_an_exported_network_has_its_base(base: Base) -> None:
    torch.manual_seed(0)
    model = SuperResolver(EDSR(4, 1), PixelShuffle(4, 2), scales=(2,), base=base).eval()
    lr = torch.rand(1, 3, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(one_scale(model, 2)(lr), whole(model, lr, (18, 16)), atol=1e-5, rtol=0)
