"""The trunk that SwinIR and CAT share: residual groups of transformer blocks between convolutions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.budget.route import Route
from scalewise.contracts import PlainEncoder, Scale
from scalewise.geometry.grid import Size
from scalewise.layers import TransformerBlock, conv3, init_transformer


class Bottleneck(nn.Sequential):
    """SwinIR's "3conv": 3×3 to a quarter of the channels, 1×1, 3×3 back, with LeakyReLU(0.2) between them."""

    def __init__(self, channels: int) -> None:
        inner = channels // 4
        ends = conv3(channels, inner), conv3(inner, channels)
        super().__init__(ends[0], nn.LeakyReLU(0.2), nn.Conv2d(inner, inner, 1), nn.LeakyReLU(0.2), ends[1])
        self.channels = channels

    def macs(self, height: int, width: int) -> Macs:
        outer, inner = self.channels, self.channels // 4
        return cost.conv2d(outer, inner, 3, height, width) * 2 + cost.conv2d(inner, inner, 1, height, width)


def group_end(channels: int, bottleneck: bool) -> nn.Module:
    """What follows the blocks of a group, and all groups: one 3×3 convolution, or three."""
    return Bottleneck(channels) if bottleneck else conv3(channels, channels)


def group_end_macs(end: nn.Module, height: int, width: int) -> Macs:
    if isinstance(end, Bottleneck):
        return end.macs(height, width)
    assert isinstance(end, nn.Conv2d)
    return cost.conv2d(end.in_channels, end.out_channels, 3, height, width)


class ResidualGroup(nn.Module):
    """SwinIR's RSTB: blocks, a convolution (or a bottleneck of three), and the input added, on (b, h, w, c)."""

    def __init__(self, channels: int, blocks: Iterable[TransformerBlock], bottleneck: bool = False) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.conv = group_end(channels, bottleneck)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.blocks(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def macs(self, height: int, width: int) -> Macs:
        blocks = (block.macs(height, width) for block in self.blocks)  # type: ignore[operator]
        return sum(blocks, group_end_macs(self.conv, height, width))


class TransformerTrunk(PlainEncoder):
    """Convolution, LayerNorm, residual groups, LayerNorm, convolution, skip: SwinIR's layout (its Eq. 1-3), and CAT's.

    `features`: channels of one more convolution with LeakyReLU(0.01), or None.
    """

    def __init__(
        self, embed: int, groups: Iterable[ResidualGroup], features: int | None, bottleneck: bool = False
    ) -> None:
        super().__init__()
        self.embed = embed
        self.channels = features or embed
        self.conv_first = conv3(3, embed)
        self.norm_first = nn.LayerNorm(embed)
        self.groups = nn.ModuleList(groups)
        self.norm = nn.LayerNorm(embed)
        self.conv_after_body = group_end(embed, bottleneck)
        self.conv_features = conv3(embed, features) if features else None
        init_transformer(self)

    def forward(self, lr: Tensor) -> Tensor:
        """(b, 3, h, w) → (b, channels, h, w)."""
        shallow = self.conv_first(lr)
        x = self.norm_first(shallow.permute(0, 2, 3, 1))  # (b, h, w, c) inside
        for group in self.groups:
            x = group(x)
        x = shallow + self.conv_after_body(self.norm(x).permute(0, 3, 1, 2))
        return x if self.conv_features is None else nn.functional.leaky_relu(self.conv_features(x), 0.01)

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        height, width = size
        total = cost.conv2d(3, self.embed, 3, height, width)
        total += group_end_macs(self.conv_after_body, height, width)
        if self.conv_features is not None:
            total += cost.conv2d(self.embed, self.channels, 3, height, width)
        return sum((group.macs(height, width) for group in self.groups), total)  # type: ignore[operator]


def drop_path_rates(depths: Sequence[int], last: float) -> list[list[float]]:
    """Rates of every block, group by group: rising linearly from 0 to `last` over all blocks."""
    steps = max(sum(depths) - 1, 1)
    return [[last * (sum(depths[:g]) + i) / steps for i in range(depth)] for g, depth in enumerate(depths)]
