"""The canvas that frames share: patches that are computed are written over what was there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalewise.execution.plan import RunPlan
from scalewise.execution.tiles import TileRunner
from scalewise.geometry.grid import Box, Size, first_output
from scalewise.images.sink import put, to_levels
from scalewise.images.source import Depth, Source
from scalewise.models.model import RoutePlan


class FrameCanvas:
    """Output pixels (H, W, c) of the last frame. While `mask` (gy, gx) is set, only pixels of its patches are written.

    A canvas of tiles, as `images.Sink` is; it is never finished."""

    def __init__(self, size: Size, like: Source, patch: int) -> None:
        self.size = size
        self.pixels = np.zeros((*size, 3 + like.alpha), like.dtype)
        self.mask: np.ndarray | None = None
        self.shape = tuple(-(-n // patch) for n in like.size)
        self._dtype: Depth = like.dtype
        self._patch_of = [  # of each output row, and each column
            np.searchsorted([first_output(k * patch, n, out) for k in range(count)], np.arange(out), "right") - 1
            for n, out, count in zip(like.size, size, self.shape, strict=True)
        ]

    def __enter__(self) -> FrameCanvas:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> None:
        pass

    def finish(self) -> np.ndarray:
        return self.pixels

    def write(self, y0: int, x0: int, rgb: Tensor, alpha: Tensor | None = None) -> None:
        """As `Sink.write`."""
        pixels = rgb.detach().float()
        if alpha is not None:
            pixels = torch.cat([pixels, alpha.detach().to(pixels)])
        planes = to_levels(pixels, self._dtype).cpu().numpy()
        rows, columns = slice(y0, y0 + planes.shape[1]), slice(x0, x0 + planes.shape[2])
        here = self.pixels[rows, columns]
        if self.mask is None:
            put(planes, here)
        else:
            wanted = self.mask[self._patch_of[0][rows]][:, self._patch_of[1][columns]]
            block = planes.transpose(1, 2, 0).astype(self.pixels.dtype, copy=False)
            np.copyto(here, block, where=wanted[..., None])


@dataclass
class _Floats:
    """Output pixels before they are rounded."""

    size: Size
    pixels: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.pixels = torch.zeros(4, *self.size)

    def __enter__(self) -> _Floats:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> None:
        pass

    def finish(self) -> Tensor:
        return self.pixels

    def write(self, y0: int, x0: int, rgb: Tensor, alpha: Tensor | None = None) -> None:
        block = rgb if alpha is None else torch.cat([rgb, alpha])
        self.pixels[: len(block), y0 : y0 + rgb.shape[1], x0 : x0 + rgb.shape[2]] = block


def same_in_boxes(run_plan: RunPlan, route: RoutePlan, patch: int) -> bool:
    """True if some boxes of a frame are computed to the bit as they are in the whole frame."""
    whole = _Floats(run_plan.out)
    TileRunner.of(run_plan, route).render(whole)
    for box in _samples(run_plan.source.size, patch):
        part = replace(run_plan, parts=(box,))
        floats = _Floats(run_plan.out)
        TileRunner.of(part, route).render(floats)
        for tile in part.tiles:
            y0, x0, y1, x1 = tile.target
            if not torch.equal(floats.pixels[:, y0:y1, x0:x1], whole.pixels[:, y0:y1, x0:x1]):
                return False
    return True


def _samples(size: Size, patch: int) -> list[Box]:
    """A patch in the middle, some in two corners, a row and a column of them."""
    rows, columns = (-(-n // patch) for n in size)
    y, x = (max(0, n // patch - 1) // 2 for n in size)
    bottom, right = (max(0, n // patch - 1) for n in size)
    boxes = [(y, x, y + 1, x + 1), (0, 0, min(2, rows), min(3, columns)), (y, 0, y + 1, columns), (0, x, rows, x + 1)]
    boxes.append((bottom, right, rows, columns))
    return [(a * patch, b * patch, min(c * patch, size[0]), min(d * patch, size[1])) for a, b, c, d in boxes]
