"""What a run will take, known before it starts: tiles, memory, seconds. What is not declared is read off a probe."""

from __future__ import annotations

import math
import time
from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch

from scalewise import images
from scalewise.budget.budget import Budget
from scalewise.errors import BudgetInfeasible, InvalidRequest
from scalewise.geometry import tiling
from scalewise.geometry.grid import Box, Frame, Size, output_box
from scalewise.geometry.projection import Projection, frame_of
from scalewise.geometry.tiling import Tile
from scalewise.images.sink import CANVAS_BYTES
from scalewise.machine.device import Dtype, numbers, pick_device, pick_dtype
from scalewise.machine.memory import LiveTensors, free_bytes, used_bytes
from scalewise.models.model import Model
from scalewise.models.rescaled import Rescaled

CONTEXT_OF_THE_UNBOUNDED = 32  # LR pixels around a tile of a model whose context is the whole image
SURVEY_SIDE = 1024  # LR pixels a side that the router sees at once
TILE_BYTES = 1 << 30  # beyond this, larger tiles bring little ...
MUCH_CONTEXT = 0.15  # ... unless this share of the pixels read is context, and computed more than once
BESIDE_BYTES = 160 << 20  # the encoder, the tables of both axes, and what Python needs on the way
DECODED_BYTES = 100 << 20  # of an input in memory: libvips keeps larger ones in a file
QUEUED = 40, 24  # bytes of an LR pixel that is being read, and of an output pixel on its way to the canvas
UNSEEN = 1.25  # what operators need while they run, over the tensors they give
PROBE_SIDES, PROBE_MACS = (128, 48), 2e10  # the largest side within these MACs
WORTH_PARTS, PARTS_CONTEXT = 200_000, 0.08  # LR pixels of a picture; share of the pixels read that are context
SECONDS_PER_PIXEL = 1e-7  # to round, write and encode an output pixel


@dataclass(frozen=True)
class Job:
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
class Outlook:
    """How one picture will be run. `side` of a tile, `memory` in bytes, `seconds` or None where there is one tile only
    and nothing was tried; `allowance`: the bytes that tiles were chosen by."""

    source: images.Source
    out: Size
    model: Model
    frame: Frame
    side: int
    context: int
    job: Job
    device: torch.device
    dtype: torch.dtype
    memory: int
    seconds: float | None
    notes: tuple[str, ...] = ()
    started: float = field(default_factory=lambda: time.perf_counter())  # a budget in seconds counts from here

    @cached_property
    def plan(self) -> list[Tile]:
        """All tiles of the picture, row by row."""
        grid, unit = self.model.grid, self.model.unit
        places = {"side": self.side, "grid": grid, "context": self.context, "unit": unit, "frame": self.frame}
        return tiling.plan(self.source.size, self.out, **places)

    @property
    def tiles(self) -> list[Tile]:
        """The tiles that will be run: those that the crop touches."""
        return [tile for tile in self.plan if self.job.crop is None or tiling.meet(tile.core, self.job.crop)]

    @property
    def window(self) -> Box:
        """The output pixels that will be written."""
        return window_of(self.source.size, self.out, self.job.crop)

    @property
    def canvas(self) -> Size:
        y0, x0, y1, x1 = self.window
        return y1 - y0, x1 - x0

    @property
    def recomputed(self) -> float:
        """The share of the LR pixels read that are context, and computed more than once."""
        tiles = self.tiles
        return 1 - sum(_area(t.core) for t in tiles) / sum(_area(t.source) for t in tiles)


def window_of(size: Size, out: Size, crop: Box | None) -> Box:
    """The output pixels of `crop` in LR pixels, all of them by default. Raises InvalidRequest if it is not inside."""
    if crop is None:
        return 0, 0, *out
    y0, x0, y1, x1 = crop
    if not (0 <= y0 < y1 <= size[0] and 0 <= x0 < x1 <= size[1]):
        place = f"{x0},{y0},{x1 - x0},{y1 - y0}"
        raise InvalidRequest(f"crop {place} (x, y, width, height) is not inside the input, {size[1]}x{size[0]} pixels")
    return output_box(crop, size, out)


def look_ahead(source: images.Source, out: Size, model: Model, budget: Budget, job: Job) -> Outlook:
    """How to run `model` on `source`: which tiles, by memory and context. Raises InvalidRequest for what cannot be."""
    device, size = pick_device(job.device), source.size
    dtype, notes = pick_dtype(job.dtype, device), list(source.notes)
    own = model
    if model.scales is not None and not _own_scale(model.scales, size, out):
        if job.exact_scale:
            made = ", ".join(f"×{s:g}" for s in model.scales)
            raise InvalidRequest(f"this model was made for {made} only; leave out the exact scale to resize the rest")
        model = Rescaled(model, size, out)
        notes.append(model.note)
    frame = frame_of(size, job.projection, source.gpano)
    if frame.wrap and not model.wraps:
        frame = Frame(size)
        notes.append("this model cannot look across the seam of a 360° picture: it was enlarged as a flat one")
    elif frame.wrap:
        notes.append("enlarged as a 360° picture, " + ("poles included" if any(frame.poles) else "without poles"))
    scale = (out[0] / size[0], out[1] / size[1])
    unbounded = model.context is None
    context = CONTEXT_OF_THE_UNBOUNDED if model.context is None else model.context
    used, beside, allowance = _allowance(source, out, device, job)
    rough = model.bytes_per_pixel(scale)
    most = allowance if unbounded else min(allowance, TILE_BYTES)
    whole = _held(max(size), size, 0, rough) <= most / 2  # well within, whatever the rough number is worth
    ahead = Outlook(source, out, model, frame, max(size), context, job, device, dtype, 0, None, tuple(notes))
    if whole and job.tile is None:
        ahead = replace(ahead, memory=used + beside + round(_held(max(size), size, 0, rough)))
        return _in_parts(ahead) if budget.kind == "seconds" else ahead
    found = _probe(own, model, scale, budget, device, dtype)
    used, beside, allowance = _allowance(source, out, device, job)  # after what a first run leaves behind
    most = allowance if unbounded else min(allowance, TILE_BYTES)
    if job.tile is not None:
        side = job.tile
    elif _held(max(size), size, 0, found.bytes) <= (allowance if unbounded else most):
        side = max(size)
    else:
        side = _side(found.bytes, model.grid, context, most)
        if replace(ahead, side=side).recomputed > MUCH_CONTEXT:
            side = min(max(size), _side(found.bytes, model.grid, context, allowance))
    side = -(-side // model.grid) * model.grid
    needed = _held(side, size, context, found.bytes)
    if job.max_memory is not None and job.tile is None and needed > max(allowance, 0):
        least = math.ceil((used + beside + needed) / 2**20)
        raise InvalidRequest(
            f"--max-memory {job.max_memory / 2**20:.0f} MiB is not enough here, even for the smallest tiles: give "
            f"{least} MiB"
        )
    if unbounded and side < max(size):
        notes.append(
            f"this model looks at the whole picture, but ran in tiles of {side} with {context} pixels of context: the "
            "result differs from an untiled one"
        )
    ahead = replace(ahead, side=side, memory=used + beside + round(needed), notes=tuple(notes))
    if budget.kind == "seconds" and job.tile is None:
        ahead = _in_parts(ahead)
    read = sum(_area(tile.source) for tile in ahead.tiles)
    return replace(ahead, seconds=found.seconds * read + math.prod(ahead.canvas) * SECONDS_PER_PIXEL)


def _in_parts(ahead: Outlook) -> Outlook:
    """In four tiles or so if it is in one, where that costs little: a run in seconds is corrected between tiles."""
    if len(ahead.tiles) > 1 or ahead.model.context is None or math.prod(ahead.source.size) < WORTH_PARTS:
        return ahead
    grid = ahead.model.grid
    parts = replace(ahead, side=-(-max(ahead.source.size) // (2 * grid)) * grid)
    return parts if parts.recomputed <= PARTS_CONTEXT else ahead


def in_one_tile(source: images.Source, out: Size, model: Model, job: Job) -> Outlook:
    """How to run a small picture, nothing asked and nothing tried: all of it at once."""
    device = pick_device(job.device)
    own = model.scales is None or _own_scale(model.scales, source.size, out)
    ran, frame, side = model if own else Rescaled(model, source.size, out), Frame(source.size), max(source.size)
    context = CONTEXT_OF_THE_UNBOUNDED if ran.context is None else ran.context
    return Outlook(source, out, ran, frame, side, context, job, device, pick_dtype(job.dtype, device), 0, None)


def _allowance(source: images.Source, out: Size, device: torch.device, job: Job) -> tuple[int, int, int]:
    """Bytes that the process holds, bytes that it will hold beside tiles, and what is left for those."""
    used = used_bytes(device)
    limit = job.max_memory or used + free_bytes(device) // 2
    if device.type == "cuda":
        return used, 0, limit - used
    y0, x0, y1, x1 = window_of(source.size, out, job.crop)
    canvas, decoded = raw_bytes(source, (y1 - y0, x1 - x0)), raw_bytes(source, source.size)
    beside = BESIDE_BYTES + (canvas if canvas <= CANVAS_BYTES else 0)
    if source.path is not None and decoded <= DECODED_BYTES:
        beside += decoded
    return used, beside, limit - used - beside


def raw_bytes(source: images.Source, size: Size) -> int:
    """Pixels of the kind and depth of `source`, not compressed."""
    channels = (1 if source.kind == "gray" else 3) + source.alpha
    return {"uint8": 1, "uint16": 2, "float32": 4}[source.dtype] * channels * math.prod(size)


def _held(side: int, size: Size, context: int, bytes_per_pixel: float) -> float:
    """What a tile of `side` takes, itself and its context, cut off where the image ends."""
    height, width = (min(side + 2 * context, n) for n in size)
    return height * width * bytes_per_pixel


def _side(bytes_per_pixel: float, grid: int, context: int, memory: int) -> int:
    """The largest side (a multiple of `grid`) whose tile with its context fits in `memory` bytes."""
    return tiling.tile_side(bytes_per_pixel, grid, memory, context)


# --- the probe --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """Per LR pixel of a tile: bytes held at once, and seconds."""

    bytes: float
    seconds: float


# Of one model object; a folder of pictures asks again and again.
_PROBES: MutableMapping[Any, dict[tuple[Any, ...], Probe]] = WeakKeyDictionary()


def _probe(
    own: Model,
    model: Model,
    scale: tuple[float, float],
    budget: Budget,
    device: torch.device,
    dtype: torch.dtype,
) -> Probe:
    """Run a small picture of noise through `model`, which is `own` or a resized one of it, and look."""
    share = budget if budget.kind not in ("macs", "seconds") else Budget.full()
    key = (tuple(round(s, 1) for s in scale), share, device, dtype)
    known = _PROBES.setdefault(own, {})
    if key not in known:
        known[key] = _run_probe(own, scale, share, device, dtype)
    return known[key]


@torch.no_grad()
def _run_probe(
    own: Model, scale: tuple[float, float], budget: Budget, device: torch.device, dtype: torch.dtype
) -> Probe:
    def sized(side: int) -> tuple[Model, Size, Size]:
        size, out = (side, side), (max(1, round(side * scale[0])), max(1, round(side * scale[1])))
        return (own if own.scales is None or _own_scale(own.scales, size, out) else Rescaled(own, size, out)), size, out

    first, last = (max(own.grid, side // own.grid * own.grid) for side in PROBE_SIDES)
    model, size, out = sized(first)
    if model.full_macs(Frame(size), size, (0, 0, *size), out) > PROBE_MACS:
        model, size, out = sized(last)
    noise = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    with numbers(device, torch.float32):
        evidence = model.survey(noise, (out[0] / size[0], out[1] / size[1]))
    try:
        plan = model.decide(evidence, size, out, budget)
    except BudgetInfeasible:  # a small picture has another floor
        plan = model.decide(evidence, size, out, Budget.full())

    def run() -> float:
        started = time.perf_counter()
        with numbers(device, dtype):
            model.render(noise, Frame(size), (0, 0, *size), out, plan).rgb.cpu()
        return time.perf_counter() - started

    with LiveTensors() as live:
        seconds = run()
    if seconds < 20:  # the first time, a machine still gets ready
        seconds = min(seconds, run())
    pixels, outputs = math.prod(size), math.prod(out)
    read, written = QUEUED
    return Probe((UNSEEN * live.peak + written * outputs) / pixels + read, seconds / pixels)


def _own_scale(scales: tuple[float, ...], size: Size, out: Size) -> bool:
    return any(out == (round(size[0] * s), round(size[1] * s)) for s in scales)


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
