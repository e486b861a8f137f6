"""How one picture will be run, known before it starts: tiles by memory and context, seconds."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from scalewise import images
from scalewise.budget.budget import Budget
from scalewise.errors import InvalidRequest
from scalewise.execution.plan import (
    CONTEXT_OF_THE_UNBOUNDED,
    DECODED_BYTES,
    RunOptions,
    RunPlan,
    area,
    own_scale,
    raw_bytes,
    window_of,
)
from scalewise.execution.probe import probe
from scalewise.geometry import tiling
from scalewise.geometry.grid import Frame, Size
from scalewise.geometry.projection import frame_of
from scalewise.images.sink import CANVAS_BYTES
from scalewise.machine.device import pick_device, pick_dtype
from scalewise.machine.memory import free_bytes, used_bytes
from scalewise.models.model import Model
from scalewise.models.rescaled import Rescaled

TILE_BYTES = 1 << 30  # beyond this, larger tiles bring little ...
MUCH_CONTEXT = 0.15  # ... unless this share of the pixels read is context, and computed more than once
BESIDE_BYTES = 160 << 20  # the encoder, the tables of both axes, and what Python needs on the way

WORTH_PARTS, PARTS_CONTEXT = 200_000, 0.08  # LR pixels of a picture; share of the pixels read that are context
SECONDS_PER_PIXEL = 1e-7  # to round, write and encode an output pixel


def plan_run(source: images.Source, out: Size, model: Model, budget: Budget, options: RunOptions) -> RunPlan:
    """How to run `model` on `source`: which tiles, by memory and context. Raises InvalidRequest for what cannot be."""
    device, size = pick_device(options.device), source.size
    dtype, notes = pick_dtype(options.dtype, device), list(source.notes)
    own = model
    if model.scales is not None and not own_scale(model.scales, size, out):
        if options.exact_scale:
            made = ", ".join(f"×{s:g}" for s in model.scales)
            raise InvalidRequest(f"this model was made for {made} only; leave out the exact scale to resize the rest")
        model = Rescaled(model, size, out)
        notes.append(model.note)
    frame = frame_of(size, options.projection, source.gpano)
    if frame.wrap and not model.wraps:
        frame = Frame(size)
        notes.append("this model cannot look across the seam of a 360° picture: it was enlarged as a flat one")
    elif frame.wrap:
        notes.append("enlarged as a 360° picture, " + ("poles included" if any(frame.poles) else "without poles"))
    scale = (out[0] / size[0], out[1] / size[1])
    unbounded = model.context is None
    context = CONTEXT_OF_THE_UNBOUNDED if model.context is None else model.context
    used, beside, allowance = _allowance(source, out, device, options)
    rough = model.bytes_per_pixel(scale)
    most = allowance if unbounded else min(allowance, TILE_BYTES)
    whole = _held(max(size), size, 0, rough) <= most / 2  # well within, whatever the rough number is worth
    run_plan = RunPlan(source, out, model, frame, max(size), context, options, device, dtype, 0, None, tuple(notes))
    if whole and options.tile is None:
        run_plan = replace(run_plan, memory=used + beside + round(_held(max(size), size, 0, rough)))
        return _in_parts(run_plan) if budget.kind == "seconds" else run_plan
    found = probe(own, model, scale, budget, device, dtype)
    used, beside, allowance = _allowance(source, out, device, options)  # after what a first run leaves behind
    most = allowance if unbounded else min(allowance, TILE_BYTES)
    if options.tile is not None:
        side = options.tile
    elif _held(max(size), size, 0, found.bytes) <= (allowance if unbounded else most):
        side = max(size)
    else:
        side = _side(found.bytes, model.grid, context, most)
        if replace(run_plan, side=side).recomputed > MUCH_CONTEXT:
            side = min(max(size), _side(found.bytes, model.grid, context, allowance))
    side = -(-side // model.grid) * model.grid
    needed = _held(side, size, context, found.bytes)
    if options.max_memory is not None and options.tile is None and needed > max(allowance, 0):
        least = math.ceil((used + beside + needed) / 2**20)
        raise InvalidRequest(
            f"--max-memory {options.max_memory / 2**20:.0f} MiB is not enough here, even for the smallest tiles: give "
            f"{least} MiB"
        )
    if unbounded and side < max(size):
        notes.append(
            f"this model looks at the whole picture, but ran in tiles of {side} with {context} pixels of context: the "
            "result differs from an untiled one"
        )
    run_plan = replace(run_plan, side=side, memory=used + beside + round(needed), notes=tuple(notes))
    if budget.kind == "seconds" and options.tile is None:
        run_plan = _in_parts(run_plan)
    read = sum(area(tile.source) for tile in run_plan.tiles)
    return replace(run_plan, seconds=found.seconds * read + math.prod(run_plan.canvas) * SECONDS_PER_PIXEL)


def _in_parts(run_plan: RunPlan) -> RunPlan:
    """In four tiles or so if it is in one, where that costs little: a run in seconds is corrected between tiles."""
    if len(run_plan.tiles) > 1 or run_plan.model.context is None or math.prod(run_plan.source.size) < WORTH_PARTS:
        return run_plan
    grid = run_plan.model.grid
    parts = replace(run_plan, side=-(-max(run_plan.source.size) // (2 * grid)) * grid)
    return parts if parts.recomputed <= PARTS_CONTEXT else run_plan


def _allowance(source: images.Source, out: Size, device: torch.device, options: RunOptions) -> tuple[int, int, int]:
    """Bytes that the process holds, bytes that it will hold beside tiles, and what is left for those."""
    used = used_bytes(device)
    limit = options.max_memory or used + free_bytes(device) // 2
    if device.type == "cuda":
        return used, 0, limit - used
    y0, x0, y1, x1 = window_of(source.size, out, options.crop)
    canvas, decoded = raw_bytes(source, (y1 - y0, x1 - x0)), raw_bytes(source, source.size)
    beside = BESIDE_BYTES + (canvas if canvas <= CANVAS_BYTES else 0)
    if source.path is not None and decoded <= DECODED_BYTES:
        beside += decoded
    return used, beside, limit - used - beside


def _held(side: int, size: Size, context: int, bytes_per_pixel: float) -> float:
    """What a tile of `side` takes, itself and its context, cut off where the image ends."""
    height, width = (min(side + 2 * context, n) for n in size)
    return height * width * bytes_per_pixel


def _side(bytes_per_pixel: float, grid: int, context: int, memory: int) -> int:
    """The largest side (a multiple of `grid`) whose tile with its context fits in `memory` bytes."""
    return tiling.tile_side(bytes_per_pixel, grid, memory, context)
