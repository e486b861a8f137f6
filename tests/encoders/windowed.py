"""What the tests of windowed encoders share: golden cases, properties, and measured receptive fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from scalewise import compat
from scalewise.budget.budget import Effort
from scalewise.contracts import PlainEncoder
from scalewise.geometry.grid import Box, Frame, rectangle
from scalewise.layers import pad_to_grid
from scalewise.models.super_resolver import SuperResolver

CORES: list[Box] = [(16, 16, 24, 24), (0, 0, 8, 8), (17, 21, 26, 23), (40, 33, 48, 48)]  # of pictures of 48 × 48
MEAN = torch.tensor((0.4488, 0.4371, 0.4040)).view(1, 3, 1, 1)


class Golden:
    """One folder of official outputs, and the network that our loader makes of its weights, in parity mode."""

    def __init__(self, folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        self.cases: dict[str, dict[str, Any]] = {case["id"]: case for case in meta["cases"]}
        self.tensors = load_file(folder / "cases.safetensors")
        self.model: Any = compat.load(folder / meta["weights"]["file"], parity=True).model

    def input(self, case: str) -> Tensor:
        (key,) = (key for name, key in self.cases[case]["inputs"].items() if name in ("x", "inp"))
        return self.tensors[key]

    @torch.no_grad()
    def features(self, lr: Tensor) -> Tensor:
        """Of the padded picture, as published encoders give them; `lr` in the network's own range."""
        encoder = getattr(self.model, "encoder", self.model)
        return encoder(pad_to_grid(lr, encoder.grid))

    def check(self, case: str, name: str, ours: Tensor) -> None:
        tolerance = self.cases[case]["output_info"][name]["suggested_atol"]
        torch.testing.assert_close(ours, self.tensors[f"{case}.out.{name}"], rtol=0, atol=tolerance)


@torch.no_grad()
def upscale(model: SuperResolver, lr: Tensor, scale: int) -> Tensor:
    """The whole image through the front door, at an integer scale."""
    height, width = lr.shape[-2:]
    factors = torch.full((len(lr), 2), float(scale))
    query = rectangle(Frame((height, width)), (height * scale, width * scale))
    return model(lr, query, factors, Effort()).rgb


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@torch.no_grad()
def counted_macs(encoder: PlainEncoder, size: tuple[int, int]) -> int:
    with FlopCounterMode(display=False) as counter:
        encoder.eval()(torch.rand(1, 3, *size))
    return counter.get_total_flops() // 2


@torch.no_grad()
def check_batch_is_one_by_one_and_repeats(encoder: PlainEncoder, size: tuple[int, int]) -> None:
    lr = torch.rand(3, 3, *size)
    together = encoder.eval()(lr)
    assert together.shape == (3, encoder.channels, *size)
    assert torch.equal(together, encoder(lr))
    torch.testing.assert_close(together, torch.cat([encoder(one) for one in lr.split(1)]), rtol=0, atol=1e-5)


def check_gradients_reach_every_parameter(encoder: PlainEncoder, size: tuple[int, int]) -> None:
    encoder.train()(torch.rand(2, 3, *size)).square().mean().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def measured_reach(encoder: PlainEncoder, axis: int) -> int:
    """Farthest input pixel that changes an output row (axis -2) or column (axis -1), by gradients in float64.

    Looks from every pixel of one grid cell, in a strip that is wider than the declared context on both sides.
    """
    context = encoder.context
    assert context is not None
    encoder = encoder.eval().double()
    middle = -(-context // encoder.grid) + 1  # grid cells before the one that is looked from
    size = [encoder.grid, encoder.grid]
    size[axis] = (2 * middle + 1) * encoder.grid
    lr = torch.rand(1, 3, *size, dtype=torch.float64, requires_grad=True)
    out = encoder(lr)
    out = out * torch.randn_like(out)
    farthest = 0
    for i in range(middle * encoder.grid, (middle + 1) * encoder.grid):
        (gradient,) = torch.autograd.grad(out.select(axis, i).sum(), lr, retain_graph=True)
        # masked attention leaks exp(-100) in float64, which is none in float32
        seen = (gradient.abs().amax((0, 1, -1 if axis == -2 else -2)) > 1e-25).nonzero().flatten()
        farthest = max(farthest, i - int(seen[0]), int(seen[-1]) - i)
    return farthest


@torch.no_grad()
def tile_error(encoder: PlainEncoder, lr: Tensor, core: Box, context: int) -> float:
    """Largest difference between a core of the whole image's features and those of a tile with `context` around it."""
    whole = encoder.eval()(lr)
    y0, x0, y1, x1 = core
    grid, (height, width) = encoder.grid, lr.shape[-2:]
    top, left = (max(start - context, 0) // grid * grid for start in (y0, x0))
    bottom, right = (min(-(-(stop + context) // grid) * grid, n) for stop, n in ((y1, height), (x1, width)))
    tile = encoder(lr[..., top:bottom, left:right])
    difference = whole[..., y0:y1, x0:x1] - tile[..., y0 - top : y1 - top, x0 - left : x1 - left]
    return float(difference.abs().max())


def check_tile_equals_the_whole_image(encoder: PlainEncoder, core: Box) -> None:
    """With the declared context, and not without any."""
    assert encoder.context is not None
    lr = torch.rand(1, 3, 48, 48)
    assert tile_error(encoder, lr, core, encoder.context) <= 1e-5
    assert tile_error(encoder, lr, core, 0) > 1e-4
