"""Memory: how much a run took, how much a tile will take, and how much there is."""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from scalewise.errors import InvalidRequest

INTERVAL_SECONDS = 0.02
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(text: str | int) -> int:
    """`2GiB`, `800MB`, `1.5g`, or a count of bytes. Raises InvalidRequest."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]i?)?b?\s*", str(text).lower())
    if not match:
        raise InvalidRequest(f"memory {text!r} is no amount of memory: write 2GiB or 800MB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def free_bytes(device: torch.device) -> int:
    """What could be allocated now, on the GPU or in main memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def used_bytes(device: torch.device) -> int:
    """What this process holds: resident memory that is not shared, or the GPU's."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    info = psutil.Process().memory_info()
    return info.rss - getattr(info, "shared", 0)


def is_out_of_memory(error: BaseException) -> bool:
    """True for what Python, torch and CUDA raise when memory cannot be had."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and ("allocate memory" in words or "not enough memory" in words)


class PeakMemory:
    """`with PeakMemory(device) as peak: …; peak.bytes`: the peak of `used_bytes`, sampled while the block runs."""

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
            self.bytes = max(self.bytes, used_bytes(self.device))

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL_SECONDS):
            self.bytes = max(self.bytes, used_bytes(self.device))


class LiveTensors(TorchDispatchMode):
    """`with LiveTensors() as live: …; live.peak`: the most bytes that tensors made in the block held at once.

    Counted, not sampled: the same at every run. What an operator needs while it runs is not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size
