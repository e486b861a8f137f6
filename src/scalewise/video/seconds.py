"""A budget in seconds for a clip: before each window, the share of the MACs that fits in the time left."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from scalewise.budget.budget import Budget
from scalewise.budget.speed import Speed
from scalewise.errors import BudgetInfeasible

REALTIME = "realtime"
MIN_SHARE = 1e-4
TRUST = 0.5  # weight of the last window in what a MAC and a frame take
_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}


def parse_budget(text: str | float | Budget | None, seconds: float) -> Budget:
    """As `Budget.parse`, and also `realtime` (as long as a clip of `seconds` is), `2min` and `1h`.

    Raises BudgetInfeasible."""
    if isinstance(text, str):
        if text.strip().lower() == REALTIME:
            if seconds <= 0:
                raise BudgetInfeasible("budget realtime: the file does not say how long it is; give a time, as 2min")
            return Budget.seconds(seconds)
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(min|h)\s*", text)
        if match:
            return Budget.seconds(float(match[1]) * _UNITS[match[2]])
    budget = Budget.parse(text)
    if budget.kind == "macs":
        raise BudgetInfeasible("a clip takes a share of the MACs (40%), realtime, or seconds (90s, 2min)")
    return budget


@dataclass
class Clock:
    """Measures what frames take while they are made. `frame_seconds` is what a frame takes besides its MACs."""

    seconds: float
    frames: int
    macs_full: int
    per_mac: float
    frame_seconds: float

    def __post_init__(self) -> None:
        self._deadline = time.perf_counter() + self.seconds
        self._done = 0

    @classmethod
    def of(cls, seconds: float, frames: int, macs_full: int, speed: Speed, pixels: int, other: float) -> Clock:
        """From a probe of the model, and the seconds that reading and encoding a frame take."""
        per_mac = speed.per_mac or speed.per_pixel * pixels / max(1, macs_full)
        return cls(seconds, frames, macs_full, per_mac, other)

    def share(self) -> float:
        """What every frame that is left may take of its full MACs."""
        left = max(0.0, self._deadline - time.perf_counter())
        each = left / max(1, self.frames - self._done) - self.frame_seconds
        return min(1.0, max(MIN_SHARE, each / max(1e-12, self.per_mac * self.macs_full)))

    def learn(self, frames: int, macs: int, network: float, whole: float) -> None:
        """A window of `frames` took `network` seconds for its MACs, and `whole` seconds in all."""
        self._done += frames
        if macs > self.macs_full * 0.05:  # of fewer, the time is not that of the MACs
            self.per_mac += TRUST * (network / macs - self.per_mac)
        other = max(0.0, whole - macs * self.per_mac) / max(1, frames)
        self.frame_seconds += TRUST * (other - self.frame_seconds)
