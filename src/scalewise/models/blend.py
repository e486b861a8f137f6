"""How the rectangles of a picture on which a model runs meet each other, and bicubic around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scalewise.geometry.grid import Box, Size, axis_positions, first_output
from scalewise.geometry.resize import resample

CELL = 8  # LR pixels a side of what is decided about
FADE = 2  # LR pixels over which a cell fades into bicubic, and on each side of a border between two rectangles


@dataclass(frozen=True)
class Part:
    """A rectangle in a tile, in LR pixels: the `whole` of it, and what of that is its `own` in the tile; `around`, the
    whole with a seam where it touches others; the `box` of that to render, and the `source` to read for it."""

    own: Box
    whole: Box
    around: Box
    box: Box
    source: Box

    def weight(self, place: Box, size: Size, out: Size) -> Tensor:
        """(H, W) at the output pixels `place`: 1 inside, a half where another begins, 0 where the seam ends."""
        ramps = []
        for axis in (0, 1):
            at = axis_positions(place[axis], place[axis + 2], size[axis], out[axis])
            ramp = torch.ones_like(at)
            for start, end, depth in (
                (self.around[axis], self.whole[axis], at - self.around[axis]),
                (self.whole[axis + 2], self.around[axis + 2], self.around[axis + 2] - at),
            ):
                ramp = ramp * (depth / (2 * (end - start))).clamp(0, 1) if end > start else ramp
            ramps.append(ramp)
        return torch.outer(*ramps).float()


class Fade:
    """How what the model adds to bicubic loses its tone, and fades out where it ends.

    `taken` are the cells of the picture on which the model runs, `region` the LR pixels and `window` the output pixels
    of those that are looked at.
    """

    def __init__(self, taken: Tensor, size: Size, out: Size, region: Box, window: Box) -> None:
        self.first = region[0] // CELL, region[1] // CELL
        last = -(-region[2] // CELL), -(-region[3] // CELL)
        self.here = taken[self.first[0] : last[0], self.first[1] : last[1]].float()
        self.size, self.out, self.window = size, out, window
        self.tone = self.here.new_zeros(3, *self.here.shape)

    def see(self, added: Tensor, box: Box, place: Box) -> None:
        """Take the mean of each cell of a part: (3, H, W) at the output pixels `place`, LR pixels `box`."""
        rows, columns = (_cells(box, axis) for axis in (0, 1))
        (top, left), means = self.first, cell_means(added, box, self.size, self.out)
        self.tone[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = means.cpu()

    def apply(self, added: Tensor, place: Box) -> Tensor:
        """`added` at the output pixels `place` without its tone, times how far it counts."""
        tone = self._between(torch.cat((self.tone, self.here[None])), place, linear=True).to(added)
        weight = (2 * self._between(self.here[None], place, linear=False) - 1).clamp_(0, 1).to(added)
        return (added - tone[:3] / tone[3].clamp_min(1e-6)) * weight

    def _between(self, cells: Tensor, place: Box, *, linear: bool) -> Tensor:
        """Values of cells (n, gy, gx) at output pixels: linear from centre to centre, or a step with a ramp of FADE LR
        pixels on each side of the border."""
        taps = []
        for axis, count in enumerate(cells.shape[1:]):
            j = torch.arange(place[axis], place[axis + 2], dtype=torch.float64) + 0.5
            centre = j * self.size[axis] / (self.out[axis] * CELL) - 0.5 - self.first[axis]
            lower = centre.floor()
            way = centre - lower if linear else ((centre - lower - 0.5) * CELL / (2 * FADE) + 0.5).clamp(0, 1)
            index = torch.stack((lower, lower + 1), 1).clamp(0, count - 1).long()
            taps.append((index, torch.stack((1 - way, way), 1)))
        return resample(cells, taps[0], taps[1])


def cell_means(values: Tensor, box: Box, size: Size, out: Size) -> Tensor:
    """(c, H, W) at the output pixels of a box of LR pixels → (c, gy, gx): the means over the cells that they lie in."""
    for axis in (0, 1):
        cells, length = _cells(box, axis), size[axis]
        edges = [first_output(min(k * CELL, length), length, out[axis]) for k in (*cells, cells.stop)]
        counts = torch.tensor(edges).diff()
        index = torch.repeat_interleave(torch.arange(len(cells)), counts).to(values.device)
        shape = (len(values), len(cells), values.shape[2]) if axis == 0 else (*values.shape[:2], len(cells))
        values = values.new_zeros(shape).index_add_(axis + 1, index, values)
        values /= counts.clamp_min(1).to(values).view(*((-1, 1) if axis == 0 else (-1,)))
    return values


def _cells(box: Box, axis: int) -> range:
    """The cells, along an axis, that a box of LR pixels reaches."""
    return range(box[axis] // CELL, -(-box[axis + 2] // CELL))


def meet(a: Box, b: Box) -> Box:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def pixels_of(box: Box, window: Box) -> tuple[Any, ...]:
    """The pixels of a box, in a canvas that shows a window."""
    rows, columns = slice(box[0] - window[0], box[2] - window[0]), slice(box[1] - window[1], box[3] - window[1])
    return ..., rows, columns
