"""Progress in layers: the share done moves within a tile, and a run can be ended between two layers of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from scalewise.errors import Cancelled

Progress = Callable[[float], bool | None]

STEP_SHARE = 0.001  # of the picture, between two calls of `progress` ...
STEP_SECONDS = 0.1  # ... or so long after the last one, whatever was done
UNFINISHED = 0.99  # of a tile, that its layers count for at most: MACs are counted a little differently there


class ProgressMeter:
    """Calls `progress` with the share done, which never falls. Raises Cancelled where that returns False, and lets
    through what it raises. `hear` is called before each layer (`budget/meter.py`)."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.share = 0.0  # done
        self._reported, self._time = -1.0, 0.0
        self._first, self._last, self._macs, self._heard = 0.0, 0.0, 0, 0
        self._place = "before the first tile"

    def begin_tile(self, first: float, last: float, macs: float, place: str) -> None:
        """A tile takes the share from `first` to `last`, and about so many MACs; `place` says where a run ended."""
        self._first, self._last, self._macs, self._heard, self._place = first, last, round(macs), 0, place
        self._report(max(self.share, first))

    def hear(self, macs: int) -> None:
        """A layer of so many MACs comes next."""
        part = min(self._heard / self._macs, 1.0) * UNFINISHED if self._macs else 0.0
        self._heard += macs
        share = max(self.share, self._first + part * (self._last - self._first))
        if share - self._reported >= STEP_SHARE or time.monotonic() - self._time >= STEP_SECONDS:
            self._report(share)

    def _report(self, share: float) -> None:
        self.share = self._reported = share
        self._time = time.monotonic()
        if self.progress(share) is False:
            raise Cancelled(f"cancelled {self._place}")
