"""What the first frames of a clip take: the forecast, and the clock of a budget in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scalewise.budget.budget import Budget
from scalewise.budget.speed import Speed, format_seconds
from scalewise.errors import BudgetInfeasible
from scalewise.execution.eight_bits import number_type
from scalewise.execution.probe import probe, probe_size
from scalewise.geometry.grid import Size
from scalewise.machine.device import pick_device
from scalewise.models.model import Model
from scalewise.video.clip import Clip
from scalewise.video.formats import FOLDER, Coding
from scalewise.video.frames import FrameUpscaler
from scalewise.video.report import Forecast
from scalewise.video.request import VideoRequest
from scalewise.video.seconds import Clock
from scalewise.video.writer import Timing, Trial, trial

TRIAL_FRAMES = 6  # that are encoded to see what that takes
MAX_OVERRUN = 1.2  # predicted over given time, from which on a budget in seconds is refused


@dataclass(frozen=True)
class Measured:
    """What the first frames took: seconds to read one, what changes in a later one, and encoding."""

    reading: float
    changing: float
    encoding: Trial
    speed: Speed
    macs_full: int

    @classmethod
    def of(
        cls,
        model: Model,
        frames: list[np.ndarray],
        out: Size,
        budget: Budget,
        still: float,
        request: VideoRequest,
        coding: Coding,
        clip: Clip,
        reading: float,
    ) -> Measured:
        size, device = clip.size, pick_device(request.options.device)
        upscaler = FrameUpscaler(model, frames[0], out, still=-1, options=request.options)
        model, dtype, _ = number_type(model, request.options, device)
        found = probe(model, *probe_size(model, size, out, math.inf), budget, device, dtype)
        looked = upscaler.changes(frames, still, request.refresh)
        later = looked[1:] or looked
        timing = Timing(clip.time_base, clip.rate)
        encoding = trial(frames[:TRIAL_FRAMES], coding, out, timing)
        return cls(reading, sum(later) / len(later), encoding, found.speed, upscaler.macs_full)

    def forecast(
        self, whole: int, done: int, out: Size, budget: Budget, still: float, clip: Clip, coding: Coding
    ) -> tuple[Forecast, Clock | None]:
        """Raises BudgetInfeasible for seconds that are not even enough for reading and writing."""
        pixels = math.prod(clip.size)
        left = max(1, whole - done)
        other = self.reading + self.encoding.seconds
        share = self.changing
        clock = None
        if budget.kind == "fraction":
            share = min(share, budget.value)
        seconds = left * (other + self.speed.seconds(pixels * self.changing, share * self.macs_full))
        if budget.kind == "seconds":
            clock = Clock.of(budget.value, left, self.macs_full, self.speed, pixels, other)
            least = left * (other + self.speed.seconds(pixels * self.changing, 0.02 * self.changing * self.macs_full))
            if least > MAX_OVERRUN * budget.value:
                raise BudgetInfeasible(
                    f"budget {budget.value:g} s is below what this clip needs on this machine, about "
                    f"{format_seconds(least)}: ask for more, for a smaller size, or for a quicker preset"
                )
            share = min(share, clock.share())
            seconds = min(seconds, budget.value)
        intra = coding.crf is None
        size = self.encoding.total_bytes(max(1, whole), clip.rate, intra) * (1 if coding.codec == FOLDER else 2)
        return Forecast(whole, out, seconds, size, share, still), clock
