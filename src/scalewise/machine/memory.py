"""Memory: how much a run took, how much a tile will take, and how much there is."""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from scalewise.errors import InvalidRequest, shown

INTERVAL_SECONDS = 0.02  # between two samples of the memory in use
OUT_OF_MEMORY = "allocate memory", "not enough memory", "could not create a primitive"  # the last is oneDNN's
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(text: str | int) -> int:
    """`2GiB`, `800MB`, `1.5g`, or a count of bytes. Raises InvalidRequest."""
    match = re.fullmatch(r"\s*(\d{1,20}(?:\.\d*)?|\.\d+)\s*([kmgt]i?)?b?\s*", str(text).lower())
    if not match:
        raise InvalidRequest(f"memory {shown(text)} is no amount of memory: write 2GiB or 800MB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def free_bytes(device: torch.device) -> int:
    """What could be allocated now: on the GPU, or in main memory within the limits of the container we run in."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available, limited = psutil.virtual_memory().available, cgroup_free_bytes()
    return available if limited is None else min(available, limited)


CGROUP_FILES = {  # version of control groups → (limit, usage, the part of the usage that can be given back)
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def cgroup_free_bytes(own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the control groups of this process still allow, of either version; None where none of them sets a limit.

    `own` lists the groups: `0::/a/b` (version 2), `9:memory:/a/b` (version 1). Every group above counts too. In a
    container those folders may not exist, as its own group is mounted at the root.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    free = []
    for line in lines:
        number, _, rest = line.partition(":")
        kinds, _, group = rest.partition(":")
        if number == "0" and not kinds:
            version, mount = 2, root
        elif "memory" in kinds.split(","):
            version, mount = 1, root / "memory"
        else:
            continue
        folder = mount / group.strip("/")
        above = [one for one in (folder, *folder.parents) if one == mount or mount in one.parents]
        free += [left for one in above if (left := _left_in(one, *CGROUP_FILES[version])) is not None]
    return min(free, default=None)


def _left_in(folder: Path, limit_file: str, usage_file: str, reclaimable: str) -> int | None:
    """What one control group still allows; None if it sets no limit, or is not there."""
    try:
        limit, usage = (int((folder / name).read_text()) for name in (limit_file, usage_file))
        statistics = dict(line.split(maxsplit=1) for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, limit - usage + min(usage, int(statistics.get(reclaimable, 0))))
    except (OSError, ValueError):  # version 2 writes "max" for no limit
        return None


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
    message = str(error).lower()
    return isinstance(error, RuntimeError) and any(part in message for part in OUT_OF_MEMORY)


class PeakMemory:
    """`with PeakMemory(device) as peak: …; peak.bytes`: the peak of `used_bytes` while the block runs.

    It is sampled. Where the process held more in the block than ever before, Linux knows the peak exactly.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes = 0
        self._highest = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._highest = _highest_resident()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device)
            return
        self._done.set()
        self._thread.join()
        self.bytes = max(self.bytes, used_bytes(self.device))
        highest = _highest_resident()
        if highest > self._highest:
            self.bytes = max(self.bytes, highest - _shared_bytes())

    def _watch(self) -> None:
        while not self._done.wait(INTERVAL_SECONDS):
            self.bytes = max(self.bytes, used_bytes(self.device))


def _shared_bytes() -> int:
    """Resident pages of files, libraries among them: they are not counted, as the system can drop them."""
    return getattr(psutil.Process().memory_info(), "shared", 0)


def _highest_resident() -> int:
    """The most resident memory that this process ever had; 0 where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


class LiveTensors(TorchDispatchMode):
    """`with LiveTensors() as live: …; live.peak`: the most bytes that tensors made in the block held at once.

    It is counted, not sampled, so it is the same at every run. What an operator needs while it runs is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False, or torch would import its compiler to keep these lines out of it: two seconds of one core."""
        return False

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
