"""How long a network takes on this machine's processor, on one thread and on all of them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from scalewise.errors import InvalidRequest
from scalewise.evaluate.upscalers import ModelUpscaler, Upscaler
from scalewise.geometry.grid import Size, output_size
from scalewise.machine.device import machine_of, pick_device


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one picture of `size` (LR): of the processor on one thread, which other programs on the machine
    hardly change, and of the clock on all `threads`; the least of some turns."""

    size: Size
    one_thread: float
    all_threads: float
    threads: int
    machine: str


def timed(upscaler: Upscaler, size: Size, scale: float, *, turns: int = 3) -> Timing:
    """Times an upscaler on noise, one thread and all in turns, after a run that does not count. Raises InvalidRequest
    for one that runs elsewhere."""
    if isinstance(upscaler, ModelUpscaler) and pick_device(upscaler.options.device).type != "cpu":
        raise InvalidRequest("times are those of the processor: take the device cpu")
    lr = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    out, threads = output_size(size, scale), torch.get_num_threads()
    least = {1: math.inf, threads: math.inf}
    try:
        upscaler(lr, out, scale)
        for count in list(least) * turns:
            torch.set_num_threads(count)
            clock = time.process_time if count == 1 else time.perf_counter
            start = clock()
            upscaler(lr, out, scale)
            least[count] = min(least[count], 1e3 * (clock() - start))
    finally:
        torch.set_num_threads(threads)
    return Timing(size, least[1], least[threads], threads, machine_of(torch.device("cpu")))
