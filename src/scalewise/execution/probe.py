"""What a model takes on this machine, read off a small picture of noise: bytes of a pixel, and seconds."""

from __future__ import annotations

import math
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from scalewise import images
from scalewise.budget.budget import Budget
from scalewise.budget.speed import Speed, Timing
from scalewise.errors import BudgetInfeasible
from scalewise.execution.plan import own_scale
from scalewise.geometry.grid import Frame, Size
from scalewise.machine.device import numbers
from scalewise.machine.memory import LiveTensors, PeakMemory
from scalewise.models.model import Model, RoutePlan
from scalewise.models.rescaled import Rescaled

PROBE_SIDES = 128, 96, 64, 48, 32, 16, 8, 1  # LR pixels, before they are rounded to the model's grid
PROBE_MAX_MACS = 2e10  # with everything on; a second or so of one core
PROBE_MAX_PIXELS = 2**22  # of its output
PROBE_LESS = 0.3  # share of the full MACs at its second render; the line goes through both
PROBE_SECONDS = 0.5  # renders are repeated for so long, at most PROBE_REPEATS times: the quickest counts
PROBE_REPEATS = 3
ROUGH_ERROR = 2.0  # real memory over a model's rough word for it, at most

READ_BYTES, WRITTEN_BYTES = 40, 24  # of an LR pixel that is being read, and of an output pixel that is being written
OPERATOR_BYTES = 1.25  # memory over that of the tensors: operators need some of their own


@dataclass(frozen=True)
class Probe:
    """`bytes` that an LR pixel of a tile holds at once, the `speed`, and the most that the process held meanwhile."""

    bytes: float
    speed: Speed
    peak_bytes: int


# The probes of one model object: a folder of pictures asks again and again.
_PROBES: MutableMapping[Any, dict[tuple[Any, ...], Probe]] = WeakKeyDictionary()


def probe(model: Model, size: Size, out: Size, budget: Budget, device: torch.device, dtype: torch.dtype) -> Probe:
    """Run a picture of noise of `size` through `model`, resized where it was made for other scales, to `out`.

    A budget below 100% is measured at two efforts. The result is cached for the process.
    """
    key = (size, out, budget != Budget.full(), device, dtype, torch.get_num_threads())
    known = _PROBES.setdefault(model, {})
    if key not in known:
        with PeakMemory(device) as peak:
            bytes_per_pixel, speed = _measure(model, size, out, key[2], device, dtype)
        known[key] = Probe(bytes_per_pixel, speed, peak.bytes)
    return known[key]


def probe_size(model: Model, size: Size, out: Size, room: float) -> tuple[Size, Size]:
    """The size of the picture that is rendered for a probe, and that of its output.

    It is never larger than the picture itself, takes at most `room` bytes by the model's own rough word, and stays
    small enough to be rendered in about a second. The smallest one is taken even if it does not keep to that.
    """
    scale = (out[0] / size[0], out[1] / size[1])
    small, enlarged = size, out
    for side in PROBE_SIDES:
        stride = model.limits.patch_stride
        aligned = max(stride, side // stride * stride)
        small = (min(size[0], aligned), min(size[1], aligned))
        enlarged = (max(1, round(small[0] * scale[0])), max(1, round(small[1] * scale[1])))
        ran = model_at(model, small, enlarged)
        if (
            probe_bytes(model, small, enlarged) <= room
            and math.prod(enlarged) <= PROBE_MAX_PIXELS
            and ran.full_macs(Frame(small), small, (0, 0, *small), enlarged) <= PROBE_MAX_MACS
        ):
            break
    return small, enlarged


def probe_bytes(model: Model, size: Size, out: Size) -> float:
    """The most that rendering such a picture may hold."""
    per_pixel = model_at(model, size, out).bytes_per_pixel((out[0] / size[0], out[1] / size[1]))
    return ROUGH_ERROR * per_pixel * math.prod(size)


def model_at(model: Model, size: Size, out: Size) -> Model:
    """`model` itself, or resized where it was not made for that scale."""
    own = model.limits.scales
    return model if own is None or own_scale(own, size, out) else Rescaled(model, size, out)


@torch.no_grad()
def _measure(
    own: Model, size: Size, out: Size, less: bool, device: torch.device, dtype: torch.dtype
) -> tuple[float, Speed]:
    model, scale = model_at(own, size, out), (out[0] / size[0], out[1] / size[1])
    noise = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    source = images.open((noise * 255).round().to(torch.uint8))
    frame, box = Frame(size), (0, 0, *size)

    def read() -> Tensor:
        return source.read(box).unsqueeze(0).to(device)

    def once(plan: RoutePlan) -> Timing:
        """Read, look, render and round: all but the plan and the encoder."""
        began = time.perf_counter()
        lr = read()
        model.score(lr, scale)
        with numbers(device, dtype):
            rendered = model.render(lr, frame, box, out, plan)
        with images.create(None, out, source) as sink:
            sink.write(0, 0, rendered.rgb.cpu())
        return Timing(math.prod(size), rendered.macs.total, time.perf_counter() - began)

    def timed(plan: RoutePlan) -> tuple[Timing, int]:
        """The quickest of some renders, and the bytes that tensors held at most."""
        began = time.perf_counter()
        lr = read()
        with LiveTensors() as live, numbers(device, dtype):
            model.render(lr, frame, box, out, plan).rgb.cpu()
        found = Timing(math.prod(size), 0, math.inf)
        for _ in range(PROBE_REPEATS):
            found = min(found, once(plan), key=lambda timing: timing.seconds)
            if time.perf_counter() - began > PROBE_SECONDS:
                break
        return found, live.peak

    looked = model.score(read(), scale)
    full, held = timed(model.plan(looked, size, out, Budget.full()))
    speed = Speed.of(full)
    if less:
        began = time.perf_counter()
        plan = _less(model, looked, size, out)
        planning = time.perf_counter() - began
        if plan is not None:
            part, held_less = timed(plan)
            speed, held = Speed.of(full, part, planning), max(held, held_less)
    pixels = math.prod(size)
    return (OPERATOR_BYTES * held + WRITTEN_BYTES * math.prod(out)) / pixels + READ_BYTES, speed


def _less(model: Model, evidence: Tensor | None, size: Size, out: Size) -> RoutePlan | None:
    """A plan at PROBE_LESS, or between the model's floor and 100%; None of a model with one level of effort."""
    share = PROBE_LESS
    for _ in range(2):
        try:
            return model.plan(evidence, size, out, Budget.fraction(share))
        except BudgetInfeasible as error:
            share = (1 + (1.0 if error.floor is None else error.floor)) / 2
            if share >= 1:
                break
    return None
