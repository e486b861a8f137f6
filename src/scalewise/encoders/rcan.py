"""RCAN: residual channel attention network. Zhang et al., ECCV 2018, arXiv:1807.02758."""

from __future__ import annotations

from torch import Tensor, nn

from scalewise.budget.cost import Macs, conv2d
from scalewise.budget.route import Route
from scalewise.contracts import PlainEncoder, Scale
from scalewise.geometry.grid import Size
from scalewise.layers import conv3


class ChannelAttention(nn.Module):
    """Each channel times a weight in (0, 1) that the means of all channels decide."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1)
        self.excite = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)  # (b, c, 1, 1): the whole image
        return x * self.excite(self.squeeze(mean).relu()).sigmoid()


class AttentionBlock(nn.Module):
    """x + res_scale · attention(conv(ReLU(conv(x)))): the paper's RCAB."""

    def __init__(self, channels: int, reduction: int, res_scale: float) -> None:
        super().__init__()
        self.conv1 = conv3(channels, channels)
        self.conv2 = conv3(channels, channels)
        self.attention = ChannelAttention(channels, reduction)
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res_scale * self.attention(self.conv2(self.conv1(x).relu()))


class ResidualGroup(nn.Module):
    """Blocks and a convolution, plus the input."""

    def __init__(self, channels: int, blocks: int, reduction: int, res_scale: float) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(AttentionBlock(channels, reduction, res_scale) for _ in range(blocks)))
        self.end = conv3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.blocks(x)) + x


class RCAN(PlainEncoder):
    """`groups` residual groups of `blocks` attention blocks. Defaults: the paper's, 15.30 M parameters.

    Channel attention averages over the whole image: tiles differ from the whole, so `context` is None. `width` adds the
    convolution to another number of channels that TADT puts before its upsamplers (15.33 M at 64).
    """

    context = None

    def __init__(
        self,
        channels: int = 64,
        groups: int = 10,
        *,
        blocks: int = 20,
        reduction: int = 16,
        res_scale: float = 1.0,
        width: int | None = None,
    ) -> None:
        super().__init__()
        self.channels = width or channels
        self.features, self.reduction, self.depth = channels, reduction, (groups, blocks)
        self.head = conv3(3, channels)
        self.groups = nn.Sequential(*(ResidualGroup(channels, blocks, reduction, res_scale) for _ in range(groups)))
        self.body_end = conv3(channels, channels)
        self.widen = conv3(channels, width) if width else nn.Identity()

    def forward(self, lr: Tensor) -> Tensor:
        """(b, 3, h, w) → (b, channels, h, w)."""
        shallow = self.head(lr)
        return self.widen(self.body_end(self.groups(shallow)) + shallow)

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        c = self.features
        conv = conv2d(c, c, 3, *size)
        attention = conv2d(c, c // self.reduction, 1, 1, 1) * 2
        groups, blocks = self.depth
        total = conv2d(3, c, 3, *size) + conv + (conv + (conv * 2 + attention) * blocks) * groups
        return total + (conv2d(c, self.channels, 3, *size) if isinstance(self.widen, nn.Conv2d) else Macs())
