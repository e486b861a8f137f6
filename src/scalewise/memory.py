"""How much memory a run took: the peak of the process's anonymous memory, sampled while it runs."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil
import torch

INTERVAL_SECONDS = 0.02


class PeakMemory:
    """`with PeakMemory(device) as peak: …; peak.bytes`: resident memory that is not shared, or the GPU's."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device)
        else:
            self._done.set()
            self._thread.join()
            self.bytes = max(self.bytes, _anonymous_bytes())

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL_SECONDS):
            self.bytes = max(self.bytes, _anonymous_bytes())


def _anonymous_bytes() -> int:
    info = psutil.Process().memory_info()
    return info.rss - getattr(info, "shared", 0)
