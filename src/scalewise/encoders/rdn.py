"""RDN: residual dense network. Zhang et al., CVPR 2018, arXiv:1802.08797."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scalewise.budget.cost import Macs, conv2d
from scalewise.budget.route import Route
from scalewise.contracts import PlainEncoder, Scale
from scalewise.geometry.grid import Size
from scalewise.layers import conv3


class DenseBlock(nn.Module):
    """`layers` convolutions that each see everything before them; a 1×1 fusion; plus the input."""

    def __init__(self, channels: int, layers: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv3(channels + i * growth, growth) for i in range(layers))
        self.fuse = nn.Conv2d(channels + layers * growth, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        dense = x
        for layer in self.layers:
            dense = torch.cat((dense, layer(dense).relu()), 1)
        return self.fuse(dense) + x


class RDN(PlainEncoder):
    """Two shallow convolutions, D dense blocks, fusion of all their outputs. Defaults: configuration B, 21.97 M.

    `blocks`, `layers`, `growth` are the paper's D, C, G; `channels` its G0. Configuration A is (20, 6, 32).
    """

    def __init__(self, channels: int = 64, blocks: int = 16, *, layers: int = 8, growth: int = 64) -> None:
        super().__init__()
        self.channels = channels
        self.context = 3 + blocks * layers
        self.layers, self.growth = layers, growth
        self.shallow1 = conv3(3, channels)
        self.shallow2 = conv3(channels, channels)
        self.blocks = nn.ModuleList(DenseBlock(channels, layers, growth) for _ in range(blocks))
        self.fuse = nn.Conv2d(blocks * channels, channels, 1)
        self.body_end = conv3(channels, channels)

    def forward(self, lr: Tensor) -> Tensor:
        """(b, 3, h, w) → (b, channels, h, w)."""
        shallow = self.shallow1(lr)
        x = self.shallow2(shallow)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return self.body_end(self.fuse(torch.cat(outputs, 1))) + shallow

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        c, growth, blocks = self.channels, self.growth, len(self.blocks)
        block = conv2d(c + self.layers * growth, c, 1, *size)
        for i in range(self.layers):
            block += conv2d(c + i * growth, growth, 3, *size)
        ends = conv2d(3, c, 3, *size) + conv2d(c, c, 3, *size) * 2 + conv2d(blocks * c, c, 1, *size)
        return block * blocks + ends
