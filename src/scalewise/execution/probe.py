"""What is not declared is read off a probe: bytes and seconds of a tile; and how quick a model is on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F

from scalewise import images
from scalewise.budget.budget import Budget
from scalewise.budget.speed import SMALL, Speed, Tried, measure_speed, read_speed, speed_file, write_speed
from scalewise.errors import BudgetInfeasible
from scalewise.execution.decide import decide
from scalewise.execution.plan import RunOptions, RunPlan, full_macs, in_one_tile, own_scale
from scalewise.execution.tiles import Run
from scalewise.geometry.grid import Frame, Size
from scalewise.machine.device import machine_of, numbers
from scalewise.machine.memory import LiveTensors
from scalewise.models.digest import digest_of_model
from scalewise.models.model import Model
from scalewise.models.rescaled import Rescaled
from scalewise.version import __version__

QUEUED = 40, 24  # bytes of an LR pixel that is being read, and of an output pixel on its way to the canvas
UNSEEN = 1.25  # what operators need while they run, over the tensors they give
PROBE_SIDES, PROBE_MACS = (128, 48), 2e10  # the largest side within these MACs


@dataclass(frozen=True)
class Probe:
    """Per LR pixel of a tile: bytes held at once, and seconds."""

    bytes: float
    seconds: float


# Of one model object; a folder of pictures asks again and again.
_PROBES: MutableMapping[Any, dict[tuple[Any, ...], Probe]] = WeakKeyDictionary()


def probe(
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
        return (own if own.scales is None or own_scale(own.scales, size, out) else Rescaled(own, size, out)), size, out

    first, last = (max(own.grid, side // own.grid * own.grid) for side in PROBE_SIDES)
    model, size, out = sized(first)
    if model.full_macs(Frame(size), size, (0, 0, *size), out) > PROBE_MACS:
        model, size, out = sized(last)
    noise = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    with numbers(device, torch.float32):
        evidence = model.score(noise, (out[0] / size[0], out[1] / size[1]))
    try:
        plan = model.plan(evidence, size, out, budget)
    except BudgetInfeasible:  # a small picture has another floor
        plan = model.plan(evidence, size, out, Budget.full())

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


# Of one model object, what is on the disk too: (scale, device, number type, threads) → speed.
_SPEEDS: MutableMapping[Any, dict[tuple[Any, ...], Speed]] = WeakKeyDictionary()


def speed_of(model: Model, run_plan: RunPlan) -> Speed:
    """Milliseconds of the levels of `model` at this scale on this machine; measured at first use, then kept."""
    here, known = _here(run_plan), _SPEEDS.setdefault(model, {})
    if here not in known:
        key = _key(model, run_plan)
        found = read_speed(speed_file(key))
        run = partial(_tried, model, here[0], run_plan)
        if found is None:
            found = measure_speed(run)
            write_speed(speed_file(key), found, key, measured=time.time())
        else:
            run(Budget.full(), SMALL)  # in a new process, the first run gets ready
        known[here] = found
    return known[here]


def learn_speed(model: Model, run_plan: RunPlan, share: float, ratio: float) -> None:
    """A run at `share` took `ratio` times what `speed_of` said."""
    learned, key = speed_of(model, run_plan).learned(share, ratio), _key(model, run_plan)
    _SPEEDS[model][_here(run_plan)] = learned
    write_speed(speed_file(key), learned, key)


def _here(run_plan: RunPlan) -> tuple[Any, ...]:
    scale = tuple(round(m / n, 1) for m, n in zip(run_plan.out, run_plan.source.size, strict=True))
    return scale, str(run_plan.device), str(run_plan.dtype), torch.get_num_threads()


def _key(model: Model, run_plan: RunPlan) -> tuple[Any, ...]:
    return digest_of_model(model), *_here(run_plan), machine_of(run_plan.device), __version__, torch.__version__


def _tried(model: Model, scale: tuple[float, float], run_plan: RunPlan, budget: Budget, side: int) -> Tried:
    """A run of a picture of `side`: smooth in places, and rough in others."""
    generator = torch.Generator().manual_seed(side)
    smooth = F.interpolate(torch.rand(1, 3, 12, 12, generator=generator), (side, side), mode="bilinear")[0]
    rough = F.interpolate(torch.rand(1, 1, 6, 6, generator=generator), (side, side), mode="nearest")[0].square()
    picture = (smooth + rough * (torch.rand(3, side, side, generator=generator) - 0.5)).clamp(0, 1)
    source = images.open((picture * 255).round().to(torch.uint8))
    out = (max(1, round(side * scale[0])), max(1, round(side * scale[1])))
    how = RunOptions(
        side, str(run_plan.device), "bf16" if run_plan.dtype == torch.bfloat16 else "fp32", projection="flat"
    )
    began = time.perf_counter()
    plain = in_one_tile(source, out, model, how)
    with images.create(None, out, source) as sink, torch.no_grad():
        run = Run.of(plain, decide(plain, budget))
        run.render(sink)
        sink.finish()
    seconds, tally = time.perf_counter() - began, run.tally
    work = sum(full_macs(plain.model, tile, plain) for tile in plain.tiles)
    return Tried(tally.ran.total / tally.full if tally.full else 1.0, work, seconds)
