"""Where overlapping patches lie, how they fade into each other, and what each path costs on one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Box, Frame, Size, output_box
from scalewise.models.model import Rendered


class PricedPaths(Protocol):
    """What a layout asks of the network whose patches it lays out."""

    paths: int
    scale: int

    def path_macs(self, path: int, side: Size) -> Macs: ...


@dataclass(frozen=True)
class PatchLayout:
    """Squares of `patch` LR pixels at multiples of `step`, and a last one that ends at the border; `network` enlarges
    each of them along one of its paths."""

    patch: int
    step: int
    network: PricedPaths

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
        rows, columns = (
            [k for k, start in enumerate(self.starts(n)) if start < stop and start + self.patch > first]
            for n, first, stop in zip(size, core[:2], core[2:], strict=True)
        )
        return [(i, j) for i in rows for j in columns]

    def corners(self, frame: Frame, core: Box) -> list[Size]:
        """The first pixel, in the tile at `frame`, of each patch that touches the core."""
        (rows, columns), (oy, ox) = (self.starts(n) for n in frame.size), frame.origin
        return [(rows[i] - oy, columns[j] - ox) for i, j in self.touching(frame.size, core)]

    def prices(self, side: Size, rim: int = 0) -> list[Macs]:
        """The cost of each path on a patch of `side` that is computed with a rim of so many LR pixels."""
        computed = side[0] + 2 * rim, side[1] + 2 * rim
        return [self.network.path_macs(path, computed) for path in range(self.network.paths)]

    def full_macs(self, frame: Frame, core: Box) -> int:
        """MACs of all patches that touch the core, each on the last path."""
        return len(self.touching(frame.size, core)) * self.prices(self.side(frame.size), frame.mirrored)[-1].total

    def render(
        self, pictures: Iterable[tuple[int, Tensor]], choice: Tensor, frame: Frame, core: Box, out: Size
    ) -> Rendered:
        """The output pixels of `core` from the enlarged patches that touch it: (index in `touching`, (3, side times
        scale)) in any order, their rims cut off. `choice` (ny, nx) is the path of each patch of the image."""
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
        prices = self.prices((ph, pw), frame.mirrored)
        own = [p for p in patches if core[0] <= rows[p[0]] < core[2] and core[1] <= columns[p[1]] < core[3]]
        ran = sum((prices[int(choice[p])] for p in patches), Macs())
        once = frame.size[0] * frame.size[1] / (len(rows) * len(columns) * ph * pw)
        lean = self.prices((ph, pw))
        return Rendered(canvas, ran, round(once * sum(lean[int(choice[p])].total for p in own)))


def with_rim(lr: Tensor, corner: Size, side: Size, rim: int) -> Tensor:
    """The patch of `side` at `corner` of lr (1, 3, h, w), and `rim` LR pixels around it: (3, ·, ·)."""
    (y, x), (height, width) = corner, side
    return lr[0, :, y - rim : y + height + rim, x - rim : x + width + rim]


def without_rim(sr: Tensor, rim: int) -> Tensor:
    """Pixels (…, h, w) without `rim` output pixels on each side."""
    return sr[..., rim : sr.shape[-2] - rim, rim : sr.shape[-1] - rim]


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
