"""How one picture will be run, known before it starts: tiles by memory and context, seconds."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch

from scalewise import images
from scalewise.budget.budget import Budget
from scalewise.errors import InvalidRequest
from scalewise.execution.eight_bits import number_type
from scalewise.execution.mask import read_mask, takes_mask
from scalewise.execution.plan import (
    DECODED_BYTES,
    RunOptions,
    RunPlan,
    own_scale,
    raw_bytes,
    window_of,
)
from scalewise.execution.probe import probe, probe_bytes, probe_size
from scalewise.geometry import tiling
from scalewise.geometry.grid import Frame, Size
from scalewise.geometry.projection import frame_of
from scalewise.images.sink import CANVAS_BYTES
from scalewise.machine.device import pick_device, torch_defaults
from scalewise.machine.memory import free_bytes, used_bytes
from scalewise.models.chained import Chained
from scalewise.models.model import UNBOUNDED_CONTEXT, Model
from scalewise.models.partial import PartialModel, effective_margin
from scalewise.models.rescaled import Rescaled

MAX_TILE_BYTES = 1 << 30  # beyond this, larger tiles bring little ...
MAX_CONTEXT_SHARE = 0.15  # ... unless this share of the pixels read is context, and computed more than once
ALPHA_BYTES = 120  # of an LR pixel with opacity: what weighs its colour, of the tile in work and of the next one
OTHER_BYTES = 160 << 20  # the encoder, the tables of both axes, and what Python needs on the way

CORRECTED_PIXELS = 100_000  # LR pixels of a picture from which a run in seconds is cut up, to be corrected on the way
CORRECTED_CONTEXT_SHARE = 0.12  # of the pixels read, that this may cost


def plan_run(source: images.Source, out: Size, model: Model, budget: Budget, options: RunOptions) -> RunPlan:
    """How to run `model` on `source`: which tiles, by memory and context.

    A small picture is rendered first (`probe`) where memory may not suffice for one tile, or seconds are asked for.
    Raises InvalidRequest for what cannot be.
    """
    device = pick_device(options.device)
    with torch_defaults(device):
        return _plan_run(source, out, model, budget, options, device)


def _plan_run(
    source: images.Source, out: Size, own: Model, budget: Budget, options: RunOptions, device: torch.device
) -> RunPlan:
    size, notes = source.size, list(source.notes)
    own, dtype, said = number_type(own, options, device)
    notes += said
    scales = own.limits.scales
    if options.beyond == "again" and scales is not None and _goes_beyond(max(scales), size, out):
        own = Chained(own, own)
        notes.append("run a second time on its own output")
    notes += own.limits.notes
    model = in_parts(own, size, out, budget, options)
    if isinstance(model, PartialModel):
        effective_margin(own)  # measured once for a model, so not within the seconds of its first picture
    if own.limits.scales is not None and not own_scale(own.limits.scales, size, out):
        if options.exact_scale:
            made = ", ".join(f"×{s:g}" for s in own.limits.scales)
            raise InvalidRequest(f"this model was made for {made} only; leave out the exact scale to resize the rest")
        model = Rescaled(model, size, out)
        notes.append(model.note)
    limits = model.limits
    frame = frame_of(size, options.projection, source.gpano)
    if frame.wrap and not limits.wraps:
        frame = Frame(size)
        notes.append("this model cannot look across the seam of a 360° picture: it was enlarged as a flat one")
    elif frame.wrap:
        notes.append("enlarged as a 360° picture, " + ("poles included" if any(frame.poles) else "without poles"))
    mask = None if options.effort_mask is None else read_mask(options.effort_mask, size)
    if options.mirror:
        frame = replace(frame, mirrored=limits.border)
    unbounded = limits.context is None
    context = UNBOUNDED_CONTEXT if limits.context is None else limits.context
    used, other, room = _room(source, out, device, options)
    most = room if unbounded else min(room, MAX_TILE_BYTES)
    weighing = ALPHA_BYTES if source.alpha else 0
    rough = model.bytes_per_pixel((out[0] / size[0], out[1] / size[1])) + weighing
    run_plan = RunPlan(
        source, out, model, frame, max(size), context, budget, options, device, dtype, notes=tuple(notes), mask=mask
    )
    whole = _held(max(size), frame, 0, rough)
    if whole <= most / 2 and options.tile is None and budget.kind != "seconds":  # however rough that number is
        return replace(run_plan, memory=used + other + round(whole))
    probed, bytes_per_pixel = probe_size(own, size, out, room), rough
    if options.max_memory is None or probe_bytes(own, *probed) <= room:
        found = probe(own, *probed, budget, device, dtype)
        bytes_per_pixel = found.bytes + weighing
        run_plan = replace(run_plan, speed=found.speed, probe_bytes=found.peak_bytes, started=time.perf_counter())
        used, other, room = _room(source, out, device, options)  # after what a first run leaves in memory
        most = room if unbounded else min(room, MAX_TILE_BYTES)
    elif options.tile is None or budget.kind == "seconds":
        raise _too_little(options.max_memory, used + other + _held(limits.patch_stride, frame, context, rough))
    if options.tile is not None:
        side = options.tile
    elif _held(max(size), frame, 0, bytes_per_pixel) <= most:
        side = max(size)
    else:
        side = tiling.tile_side(bytes_per_pixel, limits.patch_stride, int(most), context)
        if replace(run_plan, side=side).recomputed > MAX_CONTEXT_SHARE:
            side = min(max(size), tiling.tile_side(bytes_per_pixel, limits.patch_stride, int(room), context))
    side = -(-side // limits.patch_stride) * limits.patch_stride
    needed = _held(side, frame, context, bytes_per_pixel)
    if options.max_memory is not None and options.tile is None and needed > max(room, 0):
        raise _too_little(options.max_memory, used + other + needed)
    if unbounded and side < max(size):
        notes.append(
            f"this model looks at the whole picture, but ran in tiles of {side} with {context} pixels of context: the "
            "result differs from an untiled one"
        )
    run_plan = replace(run_plan, side=side, memory=used + other + round(needed), notes=tuple(notes))
    return _correctable(run_plan) if budget.kind == "seconds" and options.tile is None else run_plan


def _goes_beyond(scale: float, size: Size, out: Size) -> bool:
    return any(target > round(n * scale) for n, target in zip(size, out, strict=True))


def in_parts(model: Model, size: Size, out: Size, budget: Budget, options: RunOptions) -> Model:
    """`model`, or where it has one level of effort and less is asked for, the same on a part of the picture. A mask
    asks for that of every model that does not choose patches."""
    less = budget.kind in ("seconds", "macs") or (budget.kind == "fraction" and budget.value < 1)
    levels = model.limits.levels
    if options.effort_mask is not None and not takes_mask(model):
        raise InvalidRequest(
            "this model has no patches that an effort mask could steer: take fast, or a model that routes patches"
        )
    if levels == "cells" or (levels == "inside" and options.effort_mask is None):
        return model
    if not less and options.effort_mask is None:
        return model
    scale = 1.0 if model.limits.scales is None else max(model.limits.scales)
    whole = out if model.limits.scales is None else (round(size[0] * scale), round(size[1] * scale))
    # Bicubic interpolation has no MACs to spare.
    return PartialModel(model) if model.full_macs(Frame(size), size, (0, 0, *size), whole) else model


def _too_little(given: int, needed: float) -> InvalidRequest:
    return InvalidRequest(
        f"max_memory {given / 2**20:.0f} MiB is not enough here, even for the smallest tiles: give "
        f"{math.ceil(needed / 2**20)} MiB"
    )


def _correctable(run_plan: RunPlan) -> RunPlan:
    """The same run in some rows of tiles, where that costs little: a budget in seconds is corrected after each row."""
    size, grid = run_plan.source.size, run_plan.model.limits.patch_stride
    if len(run_plan.tiles) > 1 or run_plan.model.limits.context is None or math.prod(size) < CORRECTED_PIXELS:
        return run_plan
    for rows in (4, 3, 2):
        parts = replace(run_plan, side=-(-size[0] // (rows * grid)) * grid)
        if parts.recomputed <= CORRECTED_CONTEXT_SHARE:
            return parts
    return run_plan


def _room(source: images.Source, out: Size, device: torch.device, options: RunOptions) -> tuple[int, int, float]:
    """Bytes that the process holds, bytes that it will hold for anything but tiles, and what is left for tiles."""
    used = used_bytes(device)
    limit = used + free_bytes(device) // 2 if options.max_memory is None else options.max_memory
    if device.type == "cuda":
        return used, 0, limit - used
    y0, x0, y1, x1 = window_of(source.size, out, options.crop)
    canvas, decoded = raw_bytes(source, (y1 - y0, x1 - x0)), raw_bytes(source, source.size)
    other = OTHER_BYTES + (canvas if canvas <= CANVAS_BYTES else 0)
    if source.path is not None and decoded <= DECODED_BYTES:
        other += decoded
    return used, other, limit - used - other


def _held(side: int, frame: Frame, context: int, bytes_per_pixel: float) -> float:
    """What a tile of `side` takes, itself and its context, cut off where the image or its reflection ends."""
    height, width = (min(side + 2 * context, n) + 2 * frame.mirrored for n in frame.size)
    return height * width * bytes_per_pixel
