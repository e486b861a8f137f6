"""No encoder: the features are the pixels."""

from __future__ import annotations

from torch import Tensor

from scalewise.budget.cost import Macs
from scalewise.budget.route import Route
from scalewise.contracts import PlainEncoder, Scale
from scalewise.geometry.grid import Size


class Pixels(PlainEncoder):
    """No encoder: the features are the pixels. For upsamplers that need none."""

    channels = 3
    context = 0

    def forward(self, lr: Tensor) -> Tensor:
        return lr

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        return Macs()
