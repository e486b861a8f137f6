"""Where output pixels lie on the LR image: Frame, Query, and the integer arithmetic between the two grids.

Coordinates are LR pixels; the centre of LR pixel i is i + 0.5. With n LR and N output pixels on an axis, output pixel
j has its centre at (j + 0.5)·n/N, so the effective factor is N/n per axis. Everything is computed
in float64 from integers, shifted to the tile, then cast to float32: a tile sees the same numbers as the whole image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scalewise.errors import UnsupportedScale

MAX_SCALE = 100.0
MAX_SIDE = 1_000_000  # output pixels

Size = tuple[int, int]  # (rows, columns)
Box = tuple[int, int, int, int]  # (row start, column start, row stop, column stop)


@dataclass(frozen=True)
class Frame:
    """Where a tile lies: whole LR `size`, the tile's `origin` (row, column) in it.

    A 360° image goes on beyond its borders, in longitude (`wrap`) and over its `poles` (top, bottom): tiles reach
    beyond them, so `origin` can be negative, and what they read outside are copies of pixels inside (`projection.py`).
    Beyond its other borders an image is continued by `mirrored` LR pixels, the reflection of those inside: so a network
    that pads with zeros does not see its padding next to the picture.
    """

    size: Size
    origin: Size = (0, 0)
    wrap: bool = False
    poles: tuple[bool, bool] = (False, False)
    mirrored: int = 0

    @property
    def goes_on(self) -> tuple[tuple[bool, bool], tuple[bool, bool]]:
        """Rows and columns: does the image go on before the first, and after the last?"""
        return self.poles, (self.wrap, self.wrap)


@dataclass(frozen=True)
class Query:
    """Points to render, in LR pixels from the frame's origin.

    `y` and `x` broadcast: (b, hq, 1) with (b, 1, wq) is a rectangle, (b, q) with (b, q) are points.
    `cell` (b, 2) is the size (rows, columns) of one output pixel in LR pixels.
    """

    y: Tensor
    x: Tensor
    cell: Tensor

    @property
    def rectangle(self) -> bool:
        """True if the points form a grid of rows times columns."""
        return self.y.dim() == 3 and self.y.shape[-1] == 1


def inside(frame: Frame, tile: Size) -> Box:
    """The LR pixels of a tile at `frame` that are the image's, or lie where it goes on; not those of its reflection."""
    (oy, ox), (height, width), (rows, columns) = frame.origin, frame.size, frame.goes_on
    return (
        oy if rows[0] else max(oy, 0),
        ox if columns[0] else max(ox, 0),
        oy + tile[0] if rows[1] else min(oy + tile[0], height),
        ox + tile[1] if columns[1] else min(ox + tile[1], width),
    )


def output_size(size: Size, scale: float | tuple[float, float]) -> Size:
    """LR size and scale (one factor, or rows × columns) → output size: Python's round, at least 1.

    Raises UnsupportedScale for factors that are not finite, below 1 or above 100.
    """
    factors = scale if isinstance(scale, tuple) else (scale, scale)
    for factor in factors:
        if not math.isfinite(factor) or factor < 1 or factor > MAX_SCALE:
            raise UnsupportedScale(
                f"scale {factor:.9g} is out of range: allowed is 1 to {MAX_SCALE:g} (scalewise enlarges only)"
            )
    height, width = (max(1, round(n * factor)) for n, factor in zip(size, factors, strict=True))
    return check_output(size, (height, width))


def check_output(size: Size, out: Size) -> Size:
    """Return `out` if an image of `size` can be enlarged to it; raises UnsupportedScale otherwise."""
    for n, target in zip(size, out, strict=True):
        if target < n:
            raise UnsupportedScale(
                f"target {out[1]}x{out[0]} is smaller than the input {size[1]}x{size[0]}: scalewise enlarges only"
            )
        if target > MAX_SIDE or target > n * MAX_SCALE:
            raise UnsupportedScale(
                f"target {out[1]}x{out[0]} is too large: allowed are ×{MAX_SCALE:g} and {MAX_SIDE} pixels a side"
            )
    return out


def first_output(i: int, n: int, out: int) -> int:
    """The first of `out` output pixels whose centre lies at or beyond LR position `i` of an axis with `n` LR pixels.

    Integer arithmetic: the smallest j with (j + 0.5)·n/out ≥ i. Boxes of LR pixels thus partition the output. Beyond
    the borders of the image both count on, as a 360° image does.
    """
    return -((n - 2 * i * out) // (2 * n))


def output_box(box: Box, size: Size, out: Size) -> Box:
    """The output pixels whose centres lie in an LR box."""
    y0, x0, y1, x1 = box
    return (
        first_output(y0, size[0], out[0]),
        first_output(x0, size[1], out[1]),
        first_output(y1, size[0], out[0]),
        first_output(x1, size[1], out[1]),
    )


def axis_positions(start: int, stop: int, n: int, out: int, origin: int = 0) -> Tensor:
    """Centres of output pixels start..stop-1 in LR pixels from `origin`; float64, shape (stop - start,)."""
    j = torch.arange(start, stop, dtype=torch.float64)
    return (2 * j + 1) * n / (2 * out) - origin


def rectangle(frame: Frame, out: Size, box: Box | None = None, *, device: torch.device | None = None) -> Query:
    """The Query of an output rectangle (all of it by default), for one image (b = 1)."""
    y0, x0, y1, x1 = box or (0, 0, *out)
    (h, w), (oy, ox) = frame.size, frame.origin
    y = axis_positions(y0, y1, h, out[0], oy).to(device, torch.float32)
    x = axis_positions(x0, x1, w, out[1], ox).to(device, torch.float32)
    cell = torch.tensor([[h / out[0], w / out[1]]], dtype=torch.float32, device=device)
    return Query(y.view(1, -1, 1), x.view(1, 1, -1), cell)


def phase_distances(scale: int, taps: int) -> Tensor:
    """(scale, taps) float64: at a whole factor s, from the LR pixels i - taps // 2 … i + taps // 2 to output pixel
    s·i + r, for each r."""
    place = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    return place.unsqueeze(1) - (torch.arange(taps) - taps // 2)
