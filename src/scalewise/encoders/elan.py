"""ELAN: efficient long-range attention network. Zhang et al., ECCV 2022, arXiv:2203.06697.

A block (ELAB) alternates local feature extraction, two shift-convolutions (`LocalFeatures`), and group-wise
multi-scale self-attention, GMSA, in windows of 4, 8 and 16 (`GroupAttention`): queries double as keys, without scale,
bias or mask (accelerated self-attention), and later attentions of a block reuse the maps of the first.

Windows at the edge of a shifted layer hold pixels from the opposite edge of the picture, unmasked. So a tile at the
edge never equals the whole image: `context` is None.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.budget.route import Route
from scalewise.contracts import PlainEncoder, Scale
from scalewise.errors import InvalidRequest
from scalewise.geometry.grid import Size
from scalewise.layers import conv3, merge, partition

# In what direction each fifth of the channels looks: (rows, columns). The rest looks at its own pixel.
LOOKS = ((0, 1), (0, -1), (1, 0), (-1, 0))


class ShiftConv(nn.Module):
    """Four fifths of the channels are moved by a pixel, in four directions, zeros moving in; then a 1×1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        fifth = x.shape[1] // 5
        padded = nn.functional.pad(x, (1, 1, 1, 1))
        moved = [
            padded[:, i * fifth : (i + 1) * fifth, 1 + y : 1 + y + height, 1 + x : 1 + x + width]
            for i, (y, x) in enumerate(LOOKS)
        ]
        return self.conv(torch.cat([*moved, x[:, 4 * fifth :]], 1))

    def macs(self, height: int, width: int) -> Macs:
        return cost.conv2d(self.conv.in_channels, self.conv.out_channels, 1, height, width)


class LocalFeatures(nn.Module):
    """LFE: shift-convolution, ReLU, shift-convolution; the input is added by the caller."""

    def __init__(self, channels: int, expand: int) -> None:
        super().__init__()
        self.conv1 = ShiftConv(channels, channels * expand)
        self.conv2 = ShiftConv(channels * expand, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x).relu())

    def macs(self, height: int, width: int) -> Macs:
        return self.conv1.macs(height, width) + self.conv2.macs(height, width)


class GroupAttention(nn.Module):
    """GMSA: a group of channels per window size. The first of a block makes the maps, later ones `reuse` them."""

    def __init__(self, channels: int, windows: tuple[int, ...], *, shifted: bool, reuse: bool) -> None:
        super().__init__()
        self.windows = windows
        self.shifted = shifted
        self.reuse = reuse
        width = channels if reuse else 2 * channels  # values, or queries and values
        self.project_in = nn.Sequential(nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width))
        self.project_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, maps: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(b, c, h, w) and maps per window size (b, rows, columns, n, n) → features, the maps that were used."""
        groups = self.project_in(x).permute(0, 2, 3, 1).chunk(len(self.windows), -1)  # (b, h, w, c / 3 or 2·c / 3)
        out, used = [], []
        for i, (group, window) in enumerate(zip(groups, self.windows, strict=True)):
            shift = window // 2 if self.shifted else 0
            parts = partition(roll(group, -shift), (window, window))
            if self.reuse:
                attention, v = maps[i], parts
            else:
                q, v = parts.chunk(2, -1)
                attention = (q @ q.transpose(-2, -1)).softmax(-1)
            used.append(attention)
            out.append(roll(merge(attention @ v, (window, window)), shift))
        return self.project_out(torch.cat(out, -1).permute(0, 3, 1, 2)), used

    def macs(self, height: int, width: int) -> Macs:
        pixels, channels = height * width, self.project_out.in_channels
        total = cost.conv2d(channels, channels * (2 if self.reuse else 3), 1, height, width)
        products = 1 if self.reuse else 2
        for window in self.windows:
            total += cost.matmul(window**2, window**2, channels // len(self.windows), pixels // window**2) * products
        return total


def roll(x: Tensor, shift: int) -> Tensor:
    """Move (b, h, w, c) down and to the right; what leaves comes in at the opposite edge."""
    return x.roll((shift, shift), (1, 2)) if shift else x


class Block(nn.Module):
    """ELAB: [local features, attention] `share` + 1 times, each added to its input."""

    def __init__(self, channels: int, windows: tuple[int, ...], *, share: int, expand: int, shifted: bool) -> None:
        super().__init__()
        self.local = nn.ModuleList(LocalFeatures(channels, expand) for _ in range(share + 1))
        self.attention = nn.ModuleList(
            GroupAttention(channels, windows, shifted=shifted, reuse=i > 0) for i in range(share + 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        maps: list[Tensor] = []
        for local, attention in zip(self.local, self.attention, strict=True):
            x = x + local(x)
            out, maps = attention(x, maps)
            x = x + out
        return x

    def macs(self, height: int, width: int) -> Macs:
        layers = (*self.local, *self.attention)
        return sum((layer.macs(height, width) for layer in layers), Macs())  # type: ignore[operator]


class ELAN(PlainEncoder):
    """ELAN's trunk, without mean shift and upsampler. Defaults are ELAN-light; ELAN(180, 36, share=0) is ELAN.

    `depth` counts pairs of local features and attention, `share` + 1 to a block; every second block is shifted.
    Published weights see RGB in 0..255 with the mean subtracted. Sides are multiples of every window.
    """

    context = None

    def __init__(
        self,
        channels: int = 60,
        depth: int = 24,
        *,
        windows: tuple[int, ...] = (4, 8, 16),
        share: int = 1,
        expand: int = 2,
    ) -> None:
        super().__init__()
        if channels % len(windows):
            raise InvalidRequest(f"{channels} channels cannot be split over windows {windows}; choose a multiple")
        self.channels = channels
        self.grid = math.lcm(*windows)
        self.head = conv3(3, channels)
        self.body = nn.Sequential(
            *(
                Block(channels, windows, share=share, expand=expand, shifted=bool(i % 2))
                for i in range(depth // (share + 1))
            )
        )

    def forward(self, lr: Tensor) -> Tensor:
        """(b, 3, h, w) → (b, channels, h, w)."""
        shallow = self.head(lr)
        return shallow + self.body(shallow)

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        head = cost.conv2d(3, self.channels, 3, *size)
        return sum((block.macs(*size) for block in self.body), head)  # type: ignore[operator]
