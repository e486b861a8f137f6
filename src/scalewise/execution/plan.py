"""How one picture is run: what was asked for (Job), and what was planned (RunPlan): tiles, memory, device."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from scalewise import images
from scalewise.errors import InvalidRequest
from scalewise.geometry import tiling
from scalewise.geometry.grid import Box, Frame, Size, output_box
from scalewise.geometry.projection import Projection
from scalewise.geometry.tiling import Tile
from scalewise.machine.device import Dtype, pick_device, pick_dtype
from scalewise.models.model import Model
from scalewise.models.rescaled import Rescaled

CONTEXT_OF_THE_UNBOUNDED = 32  # LR pixels around a tile of a model whose context is the whole image
DECODED_BYTES = 100 << 20  # of an input in memory: libvips keeps larger ones in a file


@dataclass(frozen=True)
class RunOptions:
    """How to run: tile side in LR pixels, device, number type; `exact_scale` refuses other scales than the model's;
    `projection`: "erp" for a 360° picture, "flat" for none, "auto": as its metadata say. `max_memory`: bytes that the
    process may hold at its peak, or the GPU; without it half of what is free. `crop`: only these LR pixels (y0, x0,
    y1, x1), as they will be in the whole picture."""

    tile: int | None = None
    device: str | None = None
    dtype: Dtype = "auto"
    exact_scale: bool = False
    projection: Projection = "auto"
    max_memory: int | None = None
    crop: Box | None = None

    def __post_init__(self) -> None:
        if self.tile is not None and not (isinstance(self.tile, int) and self.tile > 0):
            raise InvalidRequest(f"tile is {self.tile!r}: allowed is a side in LR pixels, at least 1")


@dataclass(frozen=True)
class RunPlan:
    """How one picture will be run. `side` of a tile, `memory` in bytes, `seconds` or None where there is one tile only
    and nothing was tried; `allowance`: the bytes that tiles were chosen by."""

    source: images.Source
    out: Size
    model: Model
    frame: Frame
    side: int
    context: int
    options: RunOptions
    device: torch.device
    dtype: torch.dtype
    memory: int
    seconds: float | None
    notes: tuple[str, ...] = ()
    started: float = field(default_factory=lambda: time.perf_counter())  # a budget in seconds counts from here

    @cached_property
    def all_tiles(self) -> list[Tile]:
        """All tiles of the picture, row by row."""
        grid, unit = self.model.grid, self.model.unit
        places = {"side": self.side, "grid": grid, "context": self.context, "unit": unit, "frame": self.frame}
        return tiling.plan_tiles(self.source.size, self.out, **places)

    @property
    def tiles(self) -> list[Tile]:
        """The tiles that will be run: those that the crop touches."""
        return [
            tile for tile in self.all_tiles if self.options.crop is None or tiling.meet(tile.core, self.options.crop)
        ]

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
        return 1 - sum(area(t.core) for t in tiles) / sum(area(t.source) for t in tiles)


def window_of(size: Size, out: Size, crop: Box | None) -> Box:
    """The output pixels of `crop` in LR pixels, all of them by default. Raises InvalidRequest if it is not inside."""
    if crop is None:
        return 0, 0, *out
    y0, x0, y1, x1 = crop
    if not (0 <= y0 < y1 <= size[0] and 0 <= x0 < x1 <= size[1]):
        place = f"{x0},{y0},{x1 - x0},{y1 - y0}"
        raise InvalidRequest(f"crop {place} (x, y, width, height) is not inside the input, {size[1]}x{size[0]} pixels")
    return output_box(crop, size, out)


def in_one_tile(source: images.Source, out: Size, model: Model, options: RunOptions) -> RunPlan:
    """How to run a small picture, nothing asked and nothing tried: all of it at once."""
    device = pick_device(options.device)
    own = model.scales is None or own_scale(model.scales, source.size, out)
    ran, frame, side = model if own else Rescaled(model, source.size, out), Frame(source.size), max(source.size)
    context = CONTEXT_OF_THE_UNBOUNDED if ran.context is None else ran.context
    return RunPlan(source, out, ran, frame, side, context, options, device, pick_dtype(options.dtype, device), 0, None)


def raw_bytes(source: images.Source, size: Size) -> int:
    """Pixels of the kind and depth of `source`, not compressed."""
    channels = (1 if source.kind == "gray" else 3) + source.alpha
    return {"uint8": 1, "uint16": 2, "float32": 4}[source.dtype] * channels * math.prod(size)


def own_scale(scales: tuple[float, ...], size: Size, out: Size) -> bool:
    return any(out == (round(size[0] * s), round(size[1] * s)) for s in scales)


def area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def full_macs(model: Model, tile: Tile, run_plan: RunPlan) -> int:
    """MACs of a tile with everything on."""
    y0, x0, y1, x1 = tile.source
    return model.full_macs(replace(run_plan.frame, origin=(y0, x0)), (y1 - y0, x1 - x0), tile.core, run_plan.out)
