"""Plain stacks: networks of 3×3 convolutions at LR size that won challenges of efficient super-resolution.

`DISP` (NTIRE 2026), `SPAN` (Wan et al., CVPR workshops 2024, arXiv:2311.12770), `ETDS` (Chao et al., CVPR 2023) and
`ECBSR` (Zhang et al., ACM MM 2021) in the form in which they run: branches that exist in training only are added up
when a file is read.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget.cost import Macs, conv2d
from scalewise.budget.route import Route
from scalewise.contracts import PlainEncoder, Scale
from scalewise.geometry.grid import Size
from scalewise.layers import conv3, luma


def silu(x: Tensor) -> Tensor:
    """In place where no gradient needs the input."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class SiLUBlock(nn.Module):
    """x plus a row of convolutions, each with SiLU."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(conv3(channels, channels) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for conv in self.convs:
            y = silu(conv(y))
        return x + y


class DISP(PlainEncoder):
    """Convolution, `blocks` blocks of `layers` convolutions, a 1×1 convolution, plus the output of the first."""

    def __init__(self, channels: int = 32, blocks: int = 4, *, layers: int = 4) -> None:
        super().__init__()
        self.channels, self.layers = channels, layers
        self.context = 1 + blocks * layers
        self.head = conv3(3, channels)
        self.blocks = nn.Sequential(*(SiLUBlock(channels, layers) for _ in range(blocks)))
        self.mix = nn.Conv2d(channels, channels, 1)

    def forward(self, lr: Tensor) -> Tensor:
        """(b, 3, h, w) → (b, channels, h, w)."""
        shallow = self.head(lr)
        return self.mix(self.blocks(shallow)) + shallow

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        c = self.channels
        blocks = conv2d(c, c, 3, *size) * (len(self.blocks) * self.layers)
        return conv2d(3, c, 3, *size) + blocks + conv2d(c, c, 1, *size)


class ETDS(PlainEncoder):
    """`layers` convolutions with ReLU after a first one. The tail is `upsamplers.fixed.RectifiedShuffle`."""

    def __init__(self, channels: int = 48, layers: int = 7) -> None:
        super().__init__()
        self.channels = channels
        self.context = 1 + layers
        self.head = conv3(3, channels)
        self.layers = nn.ModuleList(conv3(channels, channels) for _ in range(layers))

    def forward(self, lr: Tensor) -> Tensor:
        """(b, 3, h, w) → (b, channels, h, w)."""
        x = self.head(lr).relu_()
        for layer in self.layers:
            x = layer(x).relu_()
        return x

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        c = self.channels
        return conv2d(3, c, 3, *size) + conv2d(c, c, 3, *size) * len(self.layers)


Activation = Literal["prelu", "relu", "softplus"]


class ECBSR(PlainEncoder):
    """`layers` convolutions after a first one, each with an activation. The tail is `upsamplers.fixed.RepeatedShuffle`.

    With one of `colours` the network sees the luma of what it is given.
    """

    def __init__(
        self, channels: int = 16, layers: int = 4, *, colours: int = 3, activation: Activation = "prelu"
    ) -> None:
        super().__init__()
        self.channels, self.colours = channels, colours
        self.context = 1 + layers
        self.head = conv3(colours, channels)
        self.layers = nn.ModuleList(conv3(channels, channels) for _ in range(layers))
        kinds = {"prelu": lambda: nn.PReLU(channels), "relu": nn.ReLU, "softplus": nn.Softplus}
        self.activations = nn.ModuleList(kinds[activation]() for _ in range(1 + layers))

    def forward(self, lr: Tensor) -> Tensor:
        """(b, 3, h, w) → (b, channels, h, w)."""
        x = luma(lr) if self.colours == 1 else lr
        for conv, activation in zip((self.head, *self.layers), self.activations, strict=True):
            x = activation(conv(x))
        return x

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        c = self.channels
        return conv2d(self.colours, c, 3, *size) + conv2d(c, c, 3, *size) * len(self.layers)


class AttentionBlock(nn.Module):
    """SPAN's block: what three convolutions make of x, plus x, weighted by how far the former is from zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (conv3(channels, channels) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and that of the first convolution."""
        first = self.conv1(x)
        y = self.conv3(silu(self.conv2(F.silu(first))))
        return (y + x) * (y.sigmoid() - 0.5), first


class SPAN(PlainEncoder):
    """`blocks` blocks; the first features, those after the first and the last block and the first of the last block's
    convolutions are joined by a 1×1 convolution."""

    def __init__(self, channels: int = 48, blocks: int = 6) -> None:
        super().__init__()
        self.channels = channels
        self.context = 2 + 3 * blocks
        self.head = conv3(3, channels)
        self.blocks = nn.ModuleList(AttentionBlock(channels) for _ in range(blocks))
        self.body_end = conv3(channels, channels)
        self.mix = nn.Conv2d(4 * channels, channels, 1)

    def forward(self, lr: Tensor) -> Tensor:
        """(b, 3, h, w) → (b, channels, h, w)."""
        shallow = x = early = inner = self.head(lr)
        for number, block in enumerate(self.blocks):
            x, inner = block(x)
            early = early if number else x
        return self.mix(torch.cat((shallow, self.body_end(x), early, inner), 1))

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        c = self.channels
        convs = conv2d(c, c, 3, *size) * (3 * len(self.blocks) + 1)
        return conv2d(3, c, 3, *size) + convs + conv2d(4 * c, c, 1, *size)
