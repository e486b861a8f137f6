"""Tiles: which LR pixels to read for which output pixels, with the context that the model declares."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scalewise.geometry import projection
from scalewise.geometry.grid import Box, Frame, Size, output_box


@dataclass(frozen=True)
class Tile:
    """`core`: the LR pixels the tile answers for; `source`: the LR pixels it reads; `target`: its output pixels."""

    core: Box
    source: Box
    target: Box


def tile_side(bytes_per_pixel: float, grid: int, memory: int, context: int = 0) -> int:
    """The largest side (a multiple of `grid`) whose tile, with its context, fits in `memory` bytes."""
    return max(grid, (int((max(memory, 0) / bytes_per_pixel) ** 0.5) - 2 * context) // grid * grid)


def plan_tiles(
    size: Size,
    out: Size,
    *,
    side: int,
    grid: int,
    context: int,
    unit: int = 1,
    frame: Frame | None = None,
    parts: Iterable[Box] | None = None,
) -> list[Tile]:
    """Cut an image into tiles of `side` LR pixels without their context, row by row.

    Cores start at multiples of `grid` (patches, windows), so `side` is rounded up to it; sources start at multiples of
    `unit` (the encoder's window grid). A side that covers the image gives one tile. Where the image of `frame` goes on
    or is mirrored, sources reach beyond it: `projection.read_beyond` reads them. `parts` are boxes to cut instead of
    the whole image, one after another: the cores of larger tiles.
    """
    frame = frame or Frame(size)
    reach = projection.reach(frame)
    # A reflection may be longer than asked for, up to the next multiple of the unit.
    least = [
        -(-first // unit * unit) if goes_on[0] else first // unit * unit
        for first, goes_on in zip(reach[:2], frame.goes_on, strict=True)
    ]
    side = -(-side // grid) * grid
    tiles = []
    for y0, x0, y1, x1 in parts if parts is not None else [(0, 0, *size)]:
        for top in range(y0, y1, side):
            for left in range(x0, x1, side):
                core = (top, left, min(top + side, y1), min(left + side, x1))
                source = (
                    max(least[0], (top - context) // unit * unit),
                    max(least[1], (left - context) // unit * unit),
                    min(reach[2], core[2] + context),
                    min(reach[3], core[3] + context),
                )
                target = output_box(core, size, out)
                if target[0] < target[2] and target[1] < target[3]:
                    tiles.append(Tile(core, source, target))
    return tiles


def meet(a: Box, b: Box) -> bool:
    """True if two boxes share a pixel."""
    return max(a[0], b[0]) < min(a[2], b[2]) and max(a[1], b[1]) < min(a[3], b[3])
