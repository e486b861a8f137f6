"""CARN-M: cascading residual network, the mobile one. Ahn, Kang, Sohn, ECCV 2018, arXiv:1803.08664.

The efficient residual block is `Unit`, the cascading block `Cascade`; the network cascades its blocks in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from scalewise.budget.cost import Macs, conv2d
from scalewise.budget.route import Route
from scalewise.contracts import PlainEncoder, Scale
from scalewise.geometry.grid import Size
from scalewise.layers import conv3

STEPS = 3  # units of a block, and blocks of the trunk


class Unit(nn.Module):
    """Efficient residual unit: two grouped 3×3 convolutions and a 1×1."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.conv2(self.conv1(x).relu_()).relu_()).add_(x).relu_()


def cascade(x: Tensor, steps: Sequence[Callable[[Tensor], Tensor]], fusions: nn.ModuleList) -> Tensor:
    """Every fusion sees the input and all outputs so far: o_k = ReLU(1×1([x, b_1, …, b_k])), b_k = step_k(o_{k-1})."""
    known = out = x
    for step, fuse in zip(steps, fusions, strict=True):
        known = torch.cat((known, step(out)), 1)
        out = fuse(known).relu_()
    return out


def fusions(channels: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Conv2d((k + 2) * channels, channels, 1) for k in range(STEPS))


class Cascade(nn.Module):
    """A cascading block: one residual unit used three times (the recursion of CARN-M)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.unit = Unit(channels, groups)
        self.fusions = fusions(channels)

    def forward(self, x: Tensor) -> Tensor:
        return cascade(x, [self.unit] * STEPS, self.fusions)


class CARN(PlainEncoder):
    """CARN-M up to the upsampler: entry, three cascading blocks, cascaded themselves."""

    def __init__(self, channels: int = 64, groups: int = 4) -> None:
        super().__init__()
        self.channels, self.groups = channels, groups
        self.context = 1 + 2 * STEPS * STEPS
        self.entry = conv3(3, channels)
        self.blocks = nn.ModuleList(Cascade(channels, groups) for _ in range(STEPS))
        self.fusions = fusions(channels)

    def forward(self, lr: Tensor) -> Tensor:
        """(b, 3, h, w) → (b, channels, h, w)."""
        return cascade(self.entry(lr), list(self.blocks), self.fusions)

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        return conv2d(3, self.channels, 3, *size) + self.cascade_macs(size, STEPS)

    def cascade_macs(self, size: Size, blocks: int) -> Macs:
        """The first cascading blocks, and the fusion after each."""
        c = self.channels
        unit = conv2d(c, c, 3, *size, groups=self.groups) * 2 + conv2d(c, c, 1, *size)
        fused = [conv2d((k + 2) * c, c, 1, *size) for k in range(STEPS)]
        return (unit * STEPS + sum(fused, Macs())) * blocks + sum(fused[:blocks], Macs())
