"""Where overlapping patches lie, how they fade into each other, and what each path costs on one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Box, Size
from scalewise.models.patch_contracts import EarlyExits, MultiPath


@dataclass(frozen=True)
class PatchLayout:
    """Squares of `patch` LR pixels at multiples of `step`, and a last one that ends at the border; `scale` of the
    network that enlarges them."""

    patch: int
    step: int
    scale: int

    def side(self, size: Size) -> Size:
        """Patches are square, but for images that are smaller."""
        return min(self.patch, size[0]), min(self.patch, size[1])

    def starts(self, length: int) -> list[int]:
        """Where patches start on an axis: multiples of the step, and one that ends at the border."""
        last = max(0, length - self.patch)
        return [*range(0, last, self.step), last]

    def fades(self, length: int) -> Tensor:
        """(patches, side times scale): how much each patch counts for its output pixels on an axis."""
        return _fades(tuple(self.starts(length)), min(self.patch, length), length, self.scale, self.step)

    def touching(self, size: Size, core: Box) -> list[tuple[int, int]]:
        """The patches that cover a pixel of the core."""
        rows, columns = (
            [k for k, start in enumerate(self.starts(n)) if start < stop and start + self.patch > first]
            for n, first, stop in zip(size, core[:2], core[2:], strict=True)
        )
        return [(i, j) for i in rows for j in columns]


def prices_of(network: MultiPath | EarlyExits, side: Size) -> list[Macs]:
    """The cost of each path on a patch of `side`."""
    return [network.path_macs(path, side) for path in range(network.paths)]


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
