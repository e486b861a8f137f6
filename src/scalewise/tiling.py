"""Tiles: which LR pixels to read for which output pixels, with the context that the model declares."""

from __future__ import annotations

from dataclasses import dataclass

from scalewise.grid import Box, Size, output_box

DEFAULT_MEMORY = 1 << 30


@dataclass(frozen=True)
class Tile:
    """`core`: the LR pixels the tile answers for; `source`: the LR pixels it reads; `target`: its output pixels."""

    core: Box
    source: Box
    target: Box


def tile_side(bytes_per_pixel: float, grid: int, memory: int = DEFAULT_MEMORY) -> int:
    """The largest side (a multiple of `grid`) whose tile fits in `memory` bytes."""
    return max(grid, int((memory / bytes_per_pixel) ** 0.5) // grid * grid)


def plan(size: Size, out: Size, *, side: int, grid: int, context: int, unit: int = 1) -> list[Tile]:
    """Cut an image into tiles of `side` LR pixels without their context, row by row.

    Cores start at multiples of `grid` (patches, windows), so `side` is rounded up to it; sources start at multiples of
    `unit` (the encoder's window grid). A side that covers the image gives one tile.
    """
    height, width = size
    side = -(-side // grid) * grid
    tiles = []
    for top in range(0, height, side):
        for left in range(0, width, side):
            core = (top, left, min(top + side, height), min(left + side, width))
            source = (
                max(0, (top - context) // unit * unit),
                max(0, (left - context) // unit * unit),
                min(height, core[2] + context),
                min(width, core[3] + context),
            )
            target = output_box(core, size, out)
            if target[0] < target[2] and target[1] < target[3]:
                tiles.append(Tile(core, source, target))
    return tiles
