"""Quirk of published windowed networks: the picture stays padded through the upsampler, and the result is cropped.

Ours crops the features, so the upsampler never sees what was invented. The two differ where an upsampler looks beyond
the right and bottom edge. LTE and SwinIR are evaluated with a whole window added where none is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scalewise.contracts import Encoder, Sampled, Upsampler
from scalewise.cost import Macs
from scalewise.effort import Effort
from scalewise.grid import Frame, Query, Size
from scalewise.model import SuperResolver, pad_to_grid
from scalewise.route import Route


@dataclass(frozen=True)
class Padding:
    """Right and bottom, to a `multiple`: mirrored about the edge pixel, or `flip`ped with it repeated.

    `always`: a whole multiple more where the side is one already.
    """

    multiple: int
    flip: bool = False
    always: bool = False

    def size(self, size: Size) -> Size:
        height, width = (
            (n // self.multiple + 1 if self.always else -(-n // self.multiple)) * self.multiple for n in size
        )
        return height, width

    def __call__(self, lr: Tensor) -> Tensor:
        if not self.flip:
            return pad_to_grid(lr, self.multiple)
        for axis, n in zip((-2, -1), self.size((lr.shape[-2], lr.shape[-1])), strict=True):
            side = lr.shape[axis]
            index = torch.arange(n, device=lr.device) % (2 * side)
            lr = lr.index_select(axis, torch.minimum(index, 2 * side - 1 - index))
        return lr


class PaddedThroughout(SuperResolver):
    """A SuperResolver whose upsampler sees the padded picture. Whole images only."""

    def __init__(
        self,
        encoder: Encoder,
        upsampler: Upsampler,
        padding: Padding,
        *,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
        scales: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__(encoder, upsampler, mean=mean, std=std, scales=scales)
        self.padding = padding

    def forward(
        self, lr: Tensor, query: Query, scale: Tensor, effort: Effort | None = None, frame: Frame | None = None
    ) -> Sampled:
        padded = self.padding(lr)  # points are in LR pixels from the top left: padding does not move them
        return super().forward(padded, query, scale, effort, Frame((padded.shape[-2], padded.shape[-1])))

    def macs(self, size: Size, out: Size, route: Route = ()) -> Macs:
        """The upsampler's work on the padded picture included."""
        padded = self.padding.size(size)
        height, width = (round(n * target / side) for n, target, side in zip(padded, out, size, strict=True))
        return super().macs(padded, (height, width), route)
