"""FSRCNN: fast super-resolution by a small network. Dong et al., ECCV 2016, arXiv:1608.00367."""

from __future__ import annotations

from torch import Tensor, nn

from scalewise.budget.cost import Macs, conv2d
from scalewise.budget.route import Route
from scalewise.contracts import PlainEncoder, Scale
from scalewise.geometry.grid import Size
from scalewise.layers import conv3


class FSRCNN(PlainEncoder):
    """Everything before the deconvolution, on RGB: extract, shrink, map, expand.

    `channels`, `shrink`, `maps` are the paper's d, s, m. There is no activation between the mapping layers, one PReLU
    after them: so are the networks of ClassSR, ARM and ENAF, whose weights are published.
    """

    def __init__(self, channels: int = 56, shrink: int = 12, *, maps: int = 4) -> None:
        super().__init__()
        self.channels, self.shrunk = channels, shrink
        self.context = 2 + maps
        self.extract = nn.Sequential(nn.Conv2d(3, channels, 5, padding=2), nn.PReLU())
        self.shrink = nn.Sequential(nn.Conv2d(channels, shrink, 1), nn.PReLU())
        self.maps = nn.Sequential(*(conv3(shrink, shrink) for _ in range(maps)))
        self.activation = nn.PReLU()
        self.expand = nn.Sequential(nn.Conv2d(shrink, channels, 1), nn.PReLU())

    def forward(self, lr: Tensor) -> Tensor:
        """(b, 3, h, w) → (b, channels, h, w)."""
        return self.expand(self.activation(self.maps(self.shrink(self.extract(lr)))))

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        d, s = self.channels, self.shrunk
        return conv2d(3, d, 5, *size) + conv2d(d, s, 1, *size) * 2 + conv2d(s, s, 3, *size) * len(self.maps)
