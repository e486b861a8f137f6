"""Rectangles of cells that are worth their cost, for a network that runs on rectangles.

A network that runs on a part of a picture also reads a margin around it, so scattered cells are dear and joined ones
are cheap. The rectangles considered are dyadic: sides of 1, 2, 4, … cells at multiples of their length. Among all sets
of disjoint ones, `worth` finds the one of greatest gain minus price times cost, by dynamic programming.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from scalewise.geometry.grid import Box, Size


@dataclass(frozen=True)
class Cells:
    """Squares of `cell` LR pixels that cover a picture of `size`; the last ones of an axis may be smaller.

    A rectangle costs its area with `margin` LR pixels around it, as far as the picture goes, plus `overhead`, the LR
    pixels that could be computed in the time that starting a network takes.
    """

    size: Size
    cell: int
    margin: int
    overhead: float = 0.0

    @property
    def shape(self) -> Size:
        return -(-self.size[0] // self.cell), -(-self.size[1] // self.cell)

    def sums(self, values: Tensor) -> Tensor:
        """(h, w) per LR pixel → (gy, gx) summed over cells."""
        height, width = values.shape
        padded = F.pad(values, (0, -width % self.cell, 0, -height % self.cell))
        return F.avg_pool2d(padded[None, None], self.cell, divisor_override=1)[0, 0]

    def areas(self) -> Tensor:
        """(gy, gx) float64: LR pixels of each cell."""
        rows, columns = (
            (torch.arange(1, k + 1) * self.cell).clamp(max=n) - torch.arange(k) * self.cell
            for k, n in zip(self.shape, self.size, strict=True)
        )
        return torch.outer(rows.double(), columns.double())

    def pixels(self, box: Box) -> Box:
        """A box of cells in LR pixels."""
        return (
            box[0] * self.cell,
            box[1] * self.cell,
            min(box[2] * self.cell, self.size[0]),
            min(box[3] * self.cell, self.size[1]),
        )

    def worth(self, gain: Tensor, price: float) -> Tensor:
        """(gy, gx) bool: the cells of the rectangles for which the sum of gain - price · cost is greatest."""
        taken = torch.zeros(self.shape, dtype=torch.bool)
        for top, left, bottom, right in self._best(gain.double(), price):
            taken[top:bottom, left:right] = True
        return taken

    def cover(self, taken: Tensor) -> list[Box]:
        """Rectangles of cells, row by row, that hold the cells of `taken` (gy, gx) and no others, at least cost."""
        whole = 1.0 + 4 * math.prod(self.size) + self.overhead * taken.numel()  # more than any set of rectangles costs
        gain = torch.full(self.shape, -torch.inf, dtype=torch.float64)
        gain[taken] = whole
        return sorted(self._best(gain, 1.0))

    def _best(self, gain: Tensor, price: float) -> list[Box]:
        rows, columns = self.shape
        levels = [max(0, math.ceil(math.log2(n))) for n in self.shape]
        padded = F.pad(gain, (0, 2 ** levels[1] - columns, 0, 2 ** levels[0] - rows))
        sides = [self._sides(level, n) for level, n in zip(levels, self.size, strict=True)]
        value: dict[Size, Tensor] = {}
        action: dict[Size, Tensor] = {}  # 0: leave it, 1: take it, 2: cut its rows in halves, 3: its columns
        tall = padded
        for y in range(levels[0] + 1):
            summed = tall
            for x in range(levels[1] + 1):
                area = torch.outer(sides[0][y], sides[1][x])
                take = summed - price * (area + self.overhead)
                options = [torch.zeros_like(take), torch.where(area > 0, take, -torch.inf)]
                options.append(_pairs(value[y - 1, x], 0) if y else torch.full_like(take, -torch.inf))
                options.append(_pairs(value[y, x - 1], 1) if x else torch.full_like(take, -torch.inf))
                value[y, x], action[y, x] = torch.stack(options).max(0)
                if x < levels[1]:
                    summed = _pairs(summed, 1)
            if y < levels[0]:
                tall = _pairs(tall, 0)
        found, pending = [], [(levels[0], levels[1], 0, 0)]
        while pending:
            y, x, i, j = pending.pop()
            match int(action[y, x][i, j]):
                case 1:
                    found.append((i << y, j << x, min((i + 1) << y, rows), min((j + 1) << x, columns)))
                case 2:
                    pending += [(y - 1, x, 2 * i, j), (y - 1, x, 2 * i + 1, j)]
                case 3:
                    pending += [(y, x - 1, i, 2 * j), (y, x - 1, i, 2 * j + 1)]
        return found

    def _sides(self, levels: int, length: int) -> list[Tensor]:
        """For each level: how many LR pixels of an axis its rectangles read, 0 for those beyond the picture."""
        found = []
        for level in range(levels + 1):
            start = (torch.arange(1 << (levels - level)) << level) * self.cell
            stop = (start + (self.cell << level)).clamp(max=length)
            read = (stop + self.margin).clamp(max=length) - (start - self.margin).clamp(min=0)
            found.append(torch.where(start < length, read, 0).double())
        return found


def _pairs(values: Tensor, axis: int) -> Tensor:
    """Sums of neighbours two by two along an axis."""
    return values[0::2] + values[1::2] if axis == 0 else values[:, 0::2] + values[:, 1::2]
