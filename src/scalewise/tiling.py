"""Tiles: which LR pixels to read for which output pixels, with the context that the model declares."""

from __future__ import annotations

from dataclasses import dataclass

from scalewise.grid import Box, Size, output_box

BYTES_PER_LR_PIXEL = 640  # features, and the temporaries of one layer, at 48 channels in fp32
BYTES_PER_OUTPUT_PIXEL = 36  # base, canvas and rounded copy of three colours
DEFAULT_MEMORY = 1 << 30


@dataclass(frozen=True)
class Tile:
    """`core`: the LR pixels the tile answers for; `source`: the LR pixels it reads; `target`: its output pixels."""

    core: Box
    source: Box
    target: Box


def tile_side(scale: tuple[float, float], grid: int, memory: int = DEFAULT_MEMORY) -> int:
    """The largest side (a multiple of `grid`) whose tile fits in `memory` bytes."""
    per_pixel = BYTES_PER_LR_PIXEL + BYTES_PER_OUTPUT_PIXEL * scale[0] * scale[1]
    return max(grid, int((memory / per_pixel) ** 0.5) // grid * grid)


def plan(size: Size, out: Size, *, side: int, grid: int, context: int | None, unit: int = 1) -> list[Tile]:
    """Cut an image into tiles of `side` LR pixels without their context, row by row.

    Cores start at multiples of `grid` (patches, windows), so `side` is rounded up to it; sources start at multiples of
    `unit` (the encoder's window grid). A context of None means the whole image: one tile.
    """
    height, width = size
    if context is None:
        whole = (0, 0, height, width)
        return [Tile(whole, whole, (0, 0, *out))]
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


def recomputed_share(tiles: list[Tile]) -> float:
    """Share of the read LR pixels that are context."""
    area = [
        sum((b[2] - b[0]) * (b[3] - b[1]) for b in (getattr(t, name) for t in tiles)) for name in ("core", "source")
    ]
    return 1 - area[0] / area[1]
