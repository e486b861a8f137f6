"""How one picture is run: what was asked for (RunOptions), and what was planned (RunPlan): tiles, memory, device."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from scalewise import images
from scalewise.budget.budget import Budget
from scalewise.budget.speed import Speed
from scalewise.errors import InvalidRequest, shown
from scalewise.geometry import tiling
from scalewise.geometry.grid import Box, Frame, Size, output_box
from scalewise.geometry.projection import Projection
from scalewise.geometry.tiling import Tile
from scalewise.machine.device import NumberType
from scalewise.models.model import Model, RoutePlan

Beyond = Literal["bicubic", "again"]

DECODED_BYTES = 100 << 20  # an input that decodes to more is kept in a file by libvips
SECONDS_PER_PIXEL = 1e-7  # to round, write and encode an output pixel, about


@dataclass(frozen=True)
class RunOptions:
    """How to run: side of a tile in LR pixels, device, number type.

    `exact_scale` refuses scales that the model was not made for. `projection` is "erp" for a 360° picture, "flat" for
    none, "auto" for what the metadata say. `max_memory` is the most bytes that the process, or the GPU, may hold; by
    default half of what is free. `crop` is a box of LR pixels (y0, x0, y1, x1): only these are rendered, as they will
    be in the whole picture. `beyond` says how a model of fixed scales goes beyond its largest: by "bicubic", or by
    running "again" on its own output. `effort_mask` is a picture of any kind, stretched over this one: white grants all
    of the effort, and comes first; black grants the least. `mirror`: networks that pad with zeros see the picture
    mirrored beyond its borders; without it they run as published, and their padding shows there; a PatchwiseModel pads
    its patches either way. Raises InvalidRequest for a side that is not a number of pixels.
    """

    tile: int | None = None
    device: str | None = None
    dtype: NumberType = "auto"
    exact_scale: bool = False
    projection: Projection = "auto"
    max_memory: int | None = None
    crop: Box | None = None
    beyond: Beyond = "bicubic"
    effort_mask: object = None
    mirror: bool = True

    def __post_init__(self) -> None:
        if self.tile is not None and not (isinstance(self.tile, int) and self.tile > 0):
            raise InvalidRequest(f"tile is {shown(self.tile)}: allowed is a side in LR pixels, at least 1")
        known = (
            ("dtype", self.dtype, NumberType),
            ("projection", self.projection, Projection),
            ("beyond", self.beyond, Beyond),
        )
        for name, given, allowed in known:
            if not (isinstance(given, str) and given in get_args(allowed)):
                raise InvalidRequest(f"{name} {shown(given)} is not known: allowed are {', '.join(get_args(allowed))}")


@dataclass(frozen=True)
class RunPlan:
    """How one picture will be run: what was asked for, and the tiles, memory and device chosen for it.

    `side` is that of a tile in LR pixels, `memory` the bytes that the process will hold. `parts` are boxes of LR pixels
    that start on the model's grid: only these are rendered; None: the whole picture. `speed` is what a probe
    measured, None where one tile was sure to fit and nothing was measured; `probe_bytes` is the most that was held
    while it did.
    """

    source: images.Source
    out: Size
    model: Model
    frame: Frame
    side: int
    context: int
    budget: Budget
    options: RunOptions
    device: torch.device
    dtype: torch.dtype
    memory: int = 0
    speed: Speed | None = None
    notes: tuple[str, ...] = ()
    probe_bytes: int = 0
    mask: Tensor | None = None  # of effort, (h, w) in [0, 1]
    parts: tuple[Box, ...] | None = None
    started: float = field(default_factory=time.perf_counter)  # a budget in seconds counts from here

    @cached_property
    def all_tiles(self) -> list[Tile]:
        """All tiles of the picture, or of its parts, row by row."""
        return self.cut(self.side, self.parts)

    def cut(self, side: int, parts: Iterable[Box] | None = None) -> list[Tile]:
        """Tiles of `side` of the whole picture, or of these boxes of it."""
        return tiling.plan_tiles(
            self.source.size,
            self.out,
            side=side,
            grid=self.model.limits.patch_stride,
            context=self.context,
            unit=self.model.limits.window_multiple,
            frame=self.frame,
            parts=parts,
        )

    @property
    def tiles(self) -> list[Tile]:
        """The tiles that will be run: those that the crop touches."""
        crop = self.options.crop
        return [tile for tile in self.all_tiles if crop is None or tiling.meet(tile.core, crop)]

    @property
    def window(self) -> Box:
        """The output pixels that will be written."""
        return window_of(self.source.size, self.out, self.options.crop)

    @property
    def canvas(self) -> Size:
        y0, x0, y1, x1 = self.window
        return y1 - y0, x1 - x0

    @property
    def recomputed(self) -> float:
        """The share of the LR pixels read that are context, and computed more than once."""
        tiles = self.tiles
        return 1 - sum(area(tile.core) for tile in tiles) / sum(area(tile.source) for tile in tiles)

    def full_macs(self, tile: Tile) -> int:
        """MACs of a tile with everything on."""
        return self.model.full_macs(self.frame_at(tile), source_size(tile), tile.core, self.out)

    def planned_macs(self, tile: Tile, plan: RoutePlan) -> int | None:
        """MACs of a tile under a plan; None where that is decided while the tile runs."""
        return self.model.planned_macs(self.frame_at(tile), source_size(tile), tile.core, self.out, plan)

    def frame_at(self, tile: Tile) -> Frame:
        """The frame as a tile sees it: its origin is the first pixel that the tile reads."""
        return replace(self.frame, origin=tile.source[:2])

    @cached_property
    def seconds(self) -> float | None:
        """Roughly how long the run will take; None where nothing was measured."""
        if self.speed is None:
            return None
        tiles = self.tiles
        macs = sum(self.full_macs(tile) for tile in tiles) if self.speed.per_mac else 0
        share = 1.0
        if self.budget.kind in ("fraction", "macs"):
            share = self.budget.allowed(macs) / max(macs, 1)
        rendering = self.speed.seconds(sum(area(tile.source) for tile in tiles), share * macs)
        rendering += SECONDS_PER_PIXEL * math.prod(self.canvas)
        return min(rendering, self.budget.value) if self.budget.kind == "seconds" else rendering


def window_of(size: Size, out: Size, crop: Box | None) -> Box:
    """The output pixels of `crop` in LR pixels, all of them by default. Raises InvalidRequest if it is not inside."""
    if crop is None:
        return 0, 0, *out
    y0, x0, y1, x1 = crop
    if not (0 <= y0 < y1 <= size[0] and 0 <= x0 < x1 <= size[1]):
        raise InvalidRequest(
            f"the crop of columns {x0} to {x1}, rows {y0} to {y1} is not inside the input, {size[1]}x{size[0]} pixels"
        )
    return output_box(crop, size, out)


def raw_bytes(source: images.Source, size: Size) -> int:
    """Pixels of the kind and depth of `source`, not compressed."""
    channels = (1 if source.kind == "gray" else 3) + source.alpha
    return {"uint8": 1, "uint16": 2, "float32": 4}[source.dtype] * channels * math.prod(size)


def own_scale(scales: tuple[float, ...], size: Size, out: Size) -> bool:
    """True if `out` is `size` at one of the scales."""
    return any(out == (round(size[0] * s), round(size[1] * s)) for s in scales)


def area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def source_size(tile: Tile) -> Size:
    """Rows and columns of LR pixels that a tile reads."""
    y0, x0, y1, x1 = tile.source
    return y1 - y0, x1 - x0
