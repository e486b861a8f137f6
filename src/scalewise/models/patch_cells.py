"""The patches of a tile as cells: what each one is in the image, in the tile and in the output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from scalewise.geometry.grid import Box, Frame, Size, first_output

TRIMMED = 0.75  # of a tile: if its core is smaller, each block leaves out the context that no later one sees


@dataclass(frozen=True)
class Cells:
    """The patches of a tile, n of them in rows of (row, column) pairs.

    `patch` says which one of the plan a cell is: beyond the borders of a 360° image, of which it is a copy. Cell k is
    pixels start..stop-1 of the whole image and renders output pixels first..last-1; in the tile it is `boxes[k]`.
    """

    tile: Size
    origin: Size
    patch: Tensor
    start: Tensor
    stop: Tensor
    first: Tensor
    last: Tensor

    @cached_property
    def boxes(self) -> list[Box]:
        origin = torch.tensor(self.origin)
        return [tuple(box) for box in torch.cat((self.start - origin, self.stop - origin), 1).tolist()]  # type: ignore[misc]

    @property
    def lengths(self) -> Tensor:
        return (self.stop - self.start).double()

    @property
    def outputs(self) -> Tensor:
        return (self.last - self.first).double()

    @cached_property
    def kinds(self) -> tuple[Tensor, Tensor]:
        """Cells of one kind have the same sides: (kinds, 4) float64, rows and columns in LR pixels, then in output
        pixels; and the kind of each cell. There are few, so costs are computed for those."""
        sides = torch.cat((self.stop - self.start, self.last - self.first), 1)
        base = int(sides.max()) + 1
        codes = ((sides[:, 0] * base + sides[:, 1]) * base + sides[:, 2]) * base + sides[:, 3]
        codes, kind = codes.unique(return_inverse=True)
        columns = [codes // base**power % base for power in (3, 2, 1, 0)]
        return torch.stack(columns, 1).double(), kind

    def inside(self, core: Box) -> Tensor:
        """(n,) bool: cells that belong to the core of the tile."""
        y, x = self.start.unbind(1)
        return (core[0] <= y) & (y < core[2]) & (core[1] <= x) & (x < core[3])

    def mostly_context(self, core: Box) -> bool:
        """True if the context of a tile is large enough beside its core to be left out bit by bit."""
        return (core[2] - core[0]) * (core[3] - core[1]) < TRIMMED * self.tile[0] * self.tile[1]


def cut(frame: Frame, tile: Size, patch: int, out: Size) -> Cells:
    """Cut a tile that lies at `frame` where the whole image is cut: at multiples of `patch`. Copies of pixels, beyond
    the borders of a 360° image, are cut as the originals are."""
    (height, width), (oy, ox), half = frame.size, frame.origin, frame.size[1] // 2

    def line(axis: int, spans: Iterable[tuple[int, int, int]]) -> Tensor:
        """(patch, start, stop, first, last) of each span of an axis."""
        n, target = frame.size[axis], out[axis]
        rows = [(k, a, b, first_output(a, n, target), first_output(b, n, target)) for k, a, b in spans]
        return torch.tensor(rows, dtype=torch.int64).view(-1, 5)

    here = line(1, _spans(ox, ox + tile[1], patch, width))
    turned = ((j, a - half, b - half) for j, a, b in _spans(ox + half, ox + tile[1] + half, patch, width))
    rows = line(0, _spans(oy, oy + tile[0], patch, height, poles=True))
    over = rows[:, 1].div(height, rounding_mode="floor") % 2 == 1
    if bool(over.any()):
        beyond = line(1, turned)
        cells = torch.cat([_crossed(row[None], beyond if pole else here) for row, pole in zip(rows, over, strict=True)])
    else:
        cells = _crossed(rows, here)
    index, start, stop, first, last = cells.unbind(1)
    return Cells(tile, (oy, ox), index, start, stop, first, last)


def _crossed(rows: Tensor, columns: Tensor) -> Tensor:
    """(r, 5) and (c, 5) → (r·c, 5, 2): every row with every column."""
    grid = torch.stack((rows[:, None].expand(-1, len(columns), -1), columns.expand(len(rows), -1, -1)), -1)
    return grid.reshape(-1, 5, 2)


def _spans(start: int, stop: int, patch: int, n: int, poles: bool = False) -> Iterator[tuple[int, int, int]]:
    """Pixels start..stop-1 of an axis with n LR pixels, cut: (patch, first pixel, last + 1). Beyond its ends the axis
    is repeated, or with `poles` run backwards every other time."""
    for turn in range(start // n, -(-stop // n)):
        patches = range(-(-n // patch))
        for index in reversed(patches) if poles and turn % 2 else patches:
            first, last = index * patch, min((index + 1) * patch, n)
            if poles and turn % 2:
                first, last = n - last, n - first
            first, last = max(start, turn * n + first), min(stop, turn * n + last)
            if first < last:
                yield index, first, last
