"""Where overlapping patches lie, what they are padded by, how they fade into each other, and what each path costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Protocol

import torch
from torch import Tensor

from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Box, Frame, Size, output_box
from scalewise.models.model import Rendered

Padding = tuple[int, int, int, int]  # LR pixels at the top, the bottom, the left and the right of a patch
UNPADDED = (0, 0, 0, 0)


class PricedPaths(Protocol):
    """What a layout asks of the network whose patches it lays out."""

    paths: int
    scale: int

    def path_macs(self, path: int, side: Size) -> Macs: ...


@dataclass(frozen=True)
class PatchLayout:
    """Squares of `patch` LR pixels at multiples of `step`, and a last one that ends at the border; `network` enlarges
    each of them along one of its paths.

    `border`: by how many LR pixels a patch is padded on those of its sides that lie at the border of the image. A `rim`
    is what is computed around a patch on all sides, of an image that goes on there.
    """

    patch: int
    step: int
    network: PricedPaths
    border: int = 0

    def side(self, size: Size) -> Size:
        """Patches are square, but for images that are smaller."""
        return min(self.patch, size[0]), min(self.patch, size[1])

    def starts(self, length: int) -> list[int]:
        """Where patches start on an axis: multiples of the step, and one that ends at the border."""
        last = max(0, length - self.patch)
        return [*range(0, last, self.step), last]

    def fades(self, length: int) -> Tensor:
        """(patches, side times scale): how much each patch counts for its output pixels on an axis."""
        return _fades(tuple(self.starts(length)), min(self.patch, length), length, self.network.scale, self.step)

    def touching(self, size: Size, core: Box) -> list[tuple[int, int]]:
        """The patches that cover a pixel of the core."""
        return list(product(*self._touching(size, core)))

    def _touching(self, size: Size, core: Box) -> tuple[list[int], list[int]]:
        """Their rows and their columns."""
        rows, columns = (
            [k for k, start in enumerate(self.starts(n)) if start < stop and start + self.patch > first]
            for n, first, stop in zip(size, core[:2], core[2:], strict=True)
        )
        return rows, columns

    def corners(self, frame: Frame, core: Box) -> list[Size]:
        """The first pixel, in the tile at `frame`, of each patch that touches the core."""
        (rows, columns), (oy, ox) = (self.starts(n) for n in frame.size), frame.origin
        return [(rows[i] - oy, columns[j] - ox) for i, j in self.touching(frame.size, core)]

    def prices(self, side: Size, rim: int = 0) -> list[Macs]:
        """The cost of each path on a patch of `side` that is computed with a rim of so many LR pixels."""
        computed = side[0] + 2 * rim, side[1] + 2 * rim
        return [self.network.path_macs(path, computed) for path in range(self.network.paths)]

    def paddings(self, size: Size, core: Box) -> list[Padding]:
        """What each patch that touches the core is padded by."""
        (rows, columns), (i, j) = (self._pads(n) for n in size), self._touching(size, core)
        return [(*rows[row], *columns[column]) for row, column in product(i, j)]

    def _pads(self, length: int) -> list[tuple[int, int]]:
        """What each patch of an axis is padded by, before and after: no more than it has pixels, for a reflection."""
        last, pad = len(self.starts(length)) - 1, min(self.border, self.patch, length)
        return [(pad if k == 0 else 0, pad if k == last else 0) for k in range(last + 1)]

    def _computed(self, size: Size, rim: int = 0) -> tuple[list[int], list[int]]:
        """The sides that patches are computed at: of each row of patches, and of each column."""
        rows, columns = ([min(self.patch, n) + 2 * rim + sum(pads) for pads in self._pads(n)] for n in size)
        return rows, columns

    def price_map(self, size: Size) -> Tensor:
        """(paths, ny, nx) float64: the MACs of each path on each patch of an image of `size`."""
        rows, columns = self._computed(size)
        height, width = torch.tensor(rows).unsqueeze(1), torch.tensor(columns)
        table = torch.empty(self.network.paths, len(rows), len(columns), dtype=torch.float64)
        for side in product(set(rows), set(columns)):
            here = (height == side[0]) & (width == side[1])
            for path, price in enumerate(self.prices(side)):
                table[path, here] = price.total
        return table

    def macs(self, size: Size, core: Box, choice: Tensor, rim: int = 0) -> Macs:
        """What all patches that touch the core cost; `choice` (ny, nx) is the path of each patch of the image."""
        (i, j), (rows, columns) = self._touching(size, core), self._computed(size, rim)
        sides = product([rows[k] for k in i], [columns[k] for k in j])
        counts = Counter(zip(choice[i][:, j].flatten().tolist(), sides, strict=True))
        return sum((self.network.path_macs(path, side) * count for (path, side), count in counts.items()), Macs())

    def full_macs(self, size: Size, core: Box, rim: int = 0) -> int:
        """MACs of all patches that touch the core, each on the last path."""
        last = torch.tensor(self.network.paths - 1).expand(*(len(self.starts(n)) for n in size))
        return self.macs(size, core, last, rim).total

    def render(
        self, pictures: Iterable[tuple[int, Tensor]], choice: Tensor, frame: Frame, core: Box, out: Size, rim: int = 0
    ) -> Rendered:
        """The output pixels of `core` from the enlarged patches that touch it: (index in `touching`, (3, side times
        scale)) in any order, paddings and rims cut off. `choice` (ny, nx) is the path of each patch of the image."""
        s, (ph, pw) = self.network.scale, self.side(frame.size)
        rows, columns = (self.starts(n) for n in frame.size)
        row_fades, column_fades = (self.fades(n) for n in frame.size)
        top, left, bottom, right = output_box(core, frame.size, out)
        patches = self.touching(frame.size, core)
        canvas = None
        for index, sr in pictures:
            if canvas is None:
                canvas = torch.zeros(3, bottom - top, right - left, device=sr.device)
                row_fades, column_fades = row_fades.to(sr.device), column_fades.to(sr.device)
            i, j = patches[index]
            y0, x0 = rows[i] * s, columns[j] * s
            y, x = max(y0, top), max(x0, left)
            y1, x1 = min(y0 + ph * s, bottom), min(x0 + pw * s, right)
            weight = torch.outer(row_fades[i, y - y0 : y1 - y0], column_fades[j, x - x0 : x1 - x0])
            part = sr[:, y - y0 : y1 - y0, x - x0 : x1 - x0].float()
            canvas[:, y - top : y1 - top, x - left : x1 - left].addcmul_(part, weight)
        assert canvas is not None  # a core holds a pixel, and every pixel is in a patch
        own = [p for p in patches if core[0] <= rows[p[0]] < core[2] and core[1] <= columns[p[1]] < core[3]]
        ran = self.macs(frame.size, core, choice, rim)
        once = frame.size[0] * frame.size[1] / (len(rows) * len(columns) * ph * pw)
        lean = self.prices((ph, pw))
        return Rendered(canvas, ran, round(once * sum(lean[int(choice[p])].total for p in own)))


def patch_at(lr: Tensor, corner: Size, side: Size, rim: int = 0) -> Tensor:
    """The patch of `side` at `corner` of lr (1, 3, h, w), and `rim` LR pixels around it: (3, ·, ·)."""
    (y, x), (height, width) = corner, side
    return lr[0, :, y - rim : y + height + rim, x - rim : x + width + rim]


def padded(patches: Tensor, padding: Padding) -> Tensor:
    """Patches (…, h, w) with their own reflection around them, which repeats the edge pixel; no more than a side."""
    for axis, before, after in ((-2, *padding[:2]), (-1, *padding[2:])):
        n = patches.shape[axis]
        parts = patches.narrow(axis, 0, before).flip(axis), patches, patches.narrow(axis, n - after, after).flip(axis)
        patches = torch.cat(parts, axis) if before or after else patches
    return patches


def unpadded(sr: Tensor, padding: Padding, scale: int) -> Tensor:
    """Enlarged patches (…, h, w) without the output pixels of their padding."""
    top, bottom, left, right = (scale * n for n in padding)
    return sr[..., top : sr.shape[-2] - bottom, left : sr.shape[-1] - right]


@lru_cache(maxsize=64)
def _fades(starts: tuple[int, ...], side: int, length: int, scale: int, step: int) -> Tensor:
    """Linear over an overlap of side - step, none at the borders of the image, and the sum over patches is 1."""
    up = ((torch.arange(side * scale, dtype=torch.float64) + 0.5) / max(1, (side - step) * scale)).clamp(max=1)
    weights = torch.ones(len(starts), side * scale, dtype=torch.float64)
    total = torch.zeros(length * scale, dtype=torch.float64)
    for k, start in enumerate(starts):
        if start > 0:
            weights[k] *= up
        if start + side < length:
            weights[k] *= up.flip(0)
        total[start * scale : (start + side) * scale] += weights[k]
    for k, start in enumerate(starts):
        weights[k] /= total[start * scale : (start + side) * scale]
    return weights.float()
