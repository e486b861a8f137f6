"""Rectangles of cells that are worth their cost, for a network that runs on rectangles.

A network that runs on a part of a picture also reads a margin around it, so scattered cells are dear and joined ones
are cheap. The rectangles considered are dyadic: sides of 1, 2, 4, … cells at multiples of their length. Among all sets
of disjoint ones, `Choices.best` finds the one of greatest gain minus price times cost, by dynamic programming.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
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

    def read(self, box: Box, unit: int = 1) -> int:
        """LR pixels that a rectangle of cells reads: itself and its margin, up to multiples of `unit`."""
        top, left, bottom, right = self.pixels(box)
        rows = min(bottom + self.margin, self.size[0]) - max(top - self.margin, 0)
        columns = min(right + self.margin, self.size[1]) - max(left - self.margin, 0)
        return -(-rows // unit) * -(-columns // unit) * unit * unit

    def choices(self, gain: Tensor) -> Choices:
        """Which rectangles are worth a price, for gains (gy, gx) of the cells."""
        return Choices(self, gain.double().numpy())

    def cover(self, taken: Tensor) -> list[Box]:
        """Rectangles of cells, row by row, that hold the cells of `taken` (gy, gx) and no others, at least cost."""
        whole = 1.0 + 4 * math.prod(self.size) + self.overhead * taken.numel()  # more than any set of rectangles costs
        gain = np.full(self.shape, -np.inf)
        gain[taken.numpy()] = whole
        return sorted(Choices(self, gain).best(1.0))


class Choices:
    """The gain and the cost of every dyadic rectangle of a picture, for several prices.

    Level (y, x) holds the rectangles of 2**y by 2**x cells.
    """

    def __init__(self, cells: Cells, gain: np.ndarray) -> None:
        self.shape = cells.shape
        self.levels = [max(0, math.ceil(math.log2(n))) for n in self.shape]
        padding = [(0, (1 << level) - n) for level, n in zip(self.levels, self.shape, strict=True)]
        rows, columns = (_sides(cells, level, length) for level, length in zip(self.levels, cells.size, strict=True))
        tall = np.pad(gain, padding)
        self.gain: dict[Size, np.ndarray] = {}
        self.cost: dict[Size, np.ndarray] = {}
        for y, rows_read in enumerate(rows):
            summed = tall
            for x, columns_read in enumerate(columns):
                area = np.outer(rows_read, columns_read)
                self.gain[y, x], self.cost[y, x] = summed, np.where(area > 0, area + cells.overhead, np.inf)
                summed = _pairs(summed, 1) if x < self.levels[1] else summed
            tall = _pairs(tall, 0) if y < self.levels[0] else tall

    def best(self, price: float) -> list[Box]:
        """The disjoint rectangles of cells for which the sum of gain - price · cost is greatest."""
        take, value = {}, {}
        for y, x in self.gain:
            take[y, x] = self.gain[y, x] - price * self.cost[y, x]
            best = np.maximum(take[y, x], 0.0)
            if y:
                np.maximum(best, _pairs(value[y - 1, x], 0), out=best)
            if x:
                np.maximum(best, _pairs(value[y, x - 1], 1), out=best)
            value[y, x] = best
        (rows, columns), found = self.shape, []
        pending = [(self.levels[0], self.levels[1], 0, 0)]
        while pending:
            y, x, i, j = pending.pop()
            best = value[y, x][i, j]
            if best <= 0:
                continue
            if take[y, x][i, j] >= best:
                found.append((i << y, j << x, min((i + 1) << y, rows), min((j + 1) << x, columns)))
            elif y and value[y - 1, x][2 * i, j] + value[y - 1, x][2 * i + 1, j] >= best:
                pending += [(y - 1, x, 2 * i, j), (y - 1, x, 2 * i + 1, j)]
            else:
                pending += [(y, x - 1, i, 2 * j), (y, x - 1, i, 2 * j + 1)]
        return found


def _sides(cells: Cells, levels: int, length: int) -> list[np.ndarray]:
    """For each level: how many LR pixels of an axis its rectangles read, 0 for those beyond the picture."""
    found = []
    for level in range(levels + 1):
        start = (np.arange(1 << (levels - level)) << level) * cells.cell
        stop = np.minimum(start + (cells.cell << level), length)
        read = np.minimum(stop + cells.margin, length) - np.maximum(start - cells.margin, 0)
        found.append(np.where(start < length, read, 0).astype(np.float64))
    return found


def _pairs(values: np.ndarray, axis: int) -> np.ndarray:
    """Sums of neighbours two by two along an axis."""
    return values[0::2] + values[1::2] if axis == 0 else values[:, 0::2] + values[:, 1::2]
