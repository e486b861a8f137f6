"""CAMixerSR for 360° images (ODI): larger convolutions, shifted windows, deformable convolutions led by the latitude.
Wang et al., CVPR 2024, arXiv:2402.19289; the latitude as a condition is OSRT's (Yu et al., CVPR 2023).

Blocks and routing are CAMixerSR's (`camixer.py`). Every second block shifts its windows by half a window. The published
code rolls some of a block's maps and not others and lets the poles attend to each other; here pixels, their values,
offsets and conditions stay together, windows wrap around in longitude if the frame does, and never over the poles.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.encoders.camixer import BASE, Group, MixerTrunk
from scalewise.encoders.camixer_block import Block, GatedConvolution, Mixer
from scalewise.geometry.grid import Frame, Size
from scalewise.geometry.projection import latitude_weights
from scalewise.layers import conv3
from scalewise.routing.window import EPS, WINDOW, Predictor

SLOPE = 0.2
TAPS = 9


def deformable(x: Tensor, offset: Tensor, factor: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Modulated deformable convolution (Zhu et al., CVPR 2019), 3×3, stride 1, zeros around the image.

    x (b, c, h, w); offset (b, 18, h, w): rows and columns of the taps in turn; factor (b, 9, h, w) → (b, ·, h, w).
    """
    b, c, h, w = x.shape
    taps = torch.arange(TAPS, device=x.device)
    offset = offset.float().view(b, TAPS, 2, h, w).permute(0, 3, 4, 1, 2)  # (b, h, w, 9, 2)
    rows = offset[..., 0] + (torch.arange(h, device=x.device).view(h, 1, 1) + taps // 3 - 1)
    columns = offset[..., 1] + (torch.arange(w, device=x.device).view(w, 1) + taps % 3 - 1)
    first_row, first_column = rows.detach().floor(), columns.detach().floor()
    image = (torch.arange(b, device=x.device) * (h * w)).view(b, 1, 1, 1)
    factor = factor.float().permute(0, 2, 3, 1)
    index, part = [], []
    for down in (0, 1):
        for right in (0, 1):
            y, x_at = first_row + down, first_column + right
            inside = (y >= 0) & (y < h) & (x_at >= 0) & (x_at < w)
            index.append(image + y.clamp(0, h - 1).long() * w + x_at.clamp(0, w - 1).long())
            near = (1 - (rows - y).abs()) * (1 - (columns - x_at).abs())
            part.append(near * inside * factor)
    tokens = x.permute(0, 2, 3, 1).reshape(-1, c)
    bags, shares = torch.stack(index, -1).view(-1, 4), torch.stack(part, -1).view(-1, 4).to(tokens.dtype)
    columns_of_taps = F.embedding_bag(bags, tokens, mode="sum", per_sample_weights=shares).view(b, h, w, TAPS * c)
    return F.linear(columns_of_taps, weight.permute(0, 2, 3, 1).flatten(1), bias).permute(0, 3, 1, 2)


class LatitudeConvolution(nn.Module):
    """A deformable convolution whose offsets and factors follow from the condition alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3(channels, channels)
        self.guide = nn.Sequential(
            nn.Conv2d(1, channels, 1), nn.LeakyReLU(SLOPE), nn.Conv2d(channels, channels, 1), nn.LeakyReLU(SLOPE)
        )
        self.offset = conv3(channels, 3 * TAPS)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (b, c, h, w), condition (b, 1, h, w) → (b, c, h, w)."""
        offset, factor = self.offset(self.guide(condition)).split((2 * TAPS, TAPS), 1)
        return deformable(x, offset, factor.sigmoid(), self.conv.weight, self.conv.bias)  # type: ignore[arg-type]

    def macs(self, size: Size) -> Macs:
        c, pixels = self.conv.in_channels, size[0] * size[1]
        guide = cost.conv2d(1, c, 1, *size) + cost.conv2d(c, c, 1, *size) + cost.conv2d(c, 3 * TAPS, 3, *size)
        return guide + cost.linear(TAPS * c, c, pixels) + Macs(sampling=4 * TAPS * c * pixels)


class CAMixerODI(MixerTrunk):
    """Defaults: the paper's, 1.32 M at ×4. `condition` of the predictors is cos(latitude), as OSRT's."""

    mixer: type[Mixer] = Mixer

    def __init__(
        self, channels: int = BASE, depths: Sequence[int] = (6, 6, 6, 6), *, predictor: str = "published"
    ) -> None:
        groups = []
        for depth in depths:
            blocks = []
            for i in range(depth):
                scorer = Predictor(channels, 1, kind=predictor, slope=SLOPE, normalise=False, bounded=False)
                shift = i % 2 * (WINDOW // 2)
                mixer = self.mixer(channels, scorer, wide_convolutions(channels), shift=shift, warped_queries=True)
                blocks.append(Block(mixer, GatedConvolution(channels, kernel=5, bias=True)))
            groups.append(Group(blocks, LatitudeConvolution(channels)))
        super().__init__(channels, groups)
        self.norm = nn.LayerNorm(channels, EPS)
        self.tail = LatitudeConvolution(channels)

    def condition(self, shallow: Tensor, frame: Frame) -> Tensor:
        """cos(latitude) of every row of the tile, (b, 1, h, w); rows beyond a pole come down on its other side."""
        height = frame.size[0]
        row = (frame.origin[0] + torch.arange(shallow.shape[2])) % (2 * height)
        cosine = latitude_weights(height)[torch.minimum(row, 2 * height - 1 - row)].to(shallow)
        return cosine.view(1, 1, -1, 1).expand(len(shallow), -1, -1, shallow.shape[3])

    def enter(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens)

    def leave_group(self, group: Group, tokens: Tensor, condition: Tensor) -> Tensor:
        return group.tail(tokens.permute(0, 3, 1, 2), condition).permute(0, 2, 3, 1)

    def leave(self, features: Tensor, condition: Tensor) -> Tensor:
        return self.tail(self.conv_after_body(features), condition)

    def own_macs(self, size: Size) -> Macs:
        tails = (group.tail.macs(size) for group in self.groups)  # type: ignore[union-attr, operator]
        return sum(tails, self.tail.macs(size))


def wide_convolutions(channels: int) -> nn.Sequential:
    """1×1, depthwise 5×5, depthwise 5×5 with dilation 3."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 1),
        nn.Conv2d(channels, channels, 5, padding=2, groups=channels),
        nn.Conv2d(channels, channels, 5, padding=6, dilation=3, groups=channels),
    )
