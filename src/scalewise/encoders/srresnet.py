"""SRResNet without batch normalisation. Ledig et al., CVPR 2017, arXiv:1609.04802.

The trunk is the one that ESRGAN, ClassSR, ARM and ENAF use.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget.cost import Macs, conv2d
from scalewise.budget.route import Route
from scalewise.contracts import PlainEncoder, Scale
from scalewise.geometry.grid import Size
from scalewise.layers import ResidualBlock, conv3


class SRResNet(PlainEncoder):
    """head with LeakyReLU(0.1), then residual blocks; no convolution and no long skip at the end of the trunk."""

    def __init__(self, channels: int = 64, blocks: int = 16) -> None:
        super().__init__()
        self.channels = channels
        self.context = 2 * blocks + 1
        self.head = conv3(3, channels)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))

    def forward(self, lr: Tensor) -> Tensor:
        """(b, 3, h, w) → (b, channels, h, w)."""
        return self.blocks(F.leaky_relu_(self.head(lr), 0.1))

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        c = self.channels
        return conv2d(3, c, 3, *size) + conv2d(c, c, 3, *size) * (2 * len(self.blocks))
