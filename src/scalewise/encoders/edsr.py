"""EDSR: enhanced deep residual networks. Lim et al., CVPR workshops 2017, arXiv:1707.02921; the trunk of Fig. 3."""

from __future__ import annotations

from torch import Tensor, nn

from scalewise.budget.cost import Macs, conv2d
from scalewise.budget.route import Route
from scalewise.contracts import PlainEncoder, Scale
from scalewise.geometry.grid import Size
from scalewise.layers import ResidualBlock, conv3


class EDSR(PlainEncoder):
    """head → `blocks` residual blocks → convolution, plus the head's output. Defaults: the baseline, 1.22 M parameters.

    The large network is `EDSR(256, 32, res_scale=0.1)`.
    """

    def __init__(self, channels: int = 64, blocks: int = 16, *, res_scale: float = 1.0) -> None:
        super().__init__()
        self.channels = channels
        self.context = 2 * blocks + 2
        self.head = conv3(3, channels)
        self.blocks = nn.Sequential(*(ResidualBlock(channels, res_scale) for _ in range(blocks)))
        self.body_end = conv3(channels, channels)

    def forward(self, lr: Tensor) -> Tensor:
        """(b, 3, h, w) → (b, channels, h, w)."""
        shallow = self.head(lr)
        return self.body_end(self.blocks(shallow)) + shallow

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        c = self.channels
        return conv2d(3, c, 3, *size) + conv2d(c, c, 3, *size) * (2 * len(self.blocks) + 1)
