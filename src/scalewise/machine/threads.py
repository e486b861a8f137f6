"""How the threads of torch's operators wait for each other, and that a fork loses them. Nothing here loads torch."""

from __future__ import annotations

import os
import sys

from scalewise.errors import InvalidRequest

SPIN_COUNT = 5000  # rounds of GNU OpenMP's waiting loop; its default is about as long as a time slice


def set_idle_threads(spin_count: int = SPIN_COUNT) -> bool:
    """Let threads that have done their part of an operator sleep after `spin_count` rounds; True if that takes effect.

    GNU OpenMP lets them spin until the others are done too. Where another program, or the encoder of our own output,
    has one of two cores, every operator then waits for a whole time slice: `fast` took up to 25 times as long. It is
    an environment variable (GOMP_SPINCOUNT), read when torch is loaded: call this before `import torch`. The command
    line does. What the environment says already stays, and child processes inherit it.
    """
    if limits_spinning():
        return True
    if "torch" in sys.modules:
        return False
    os.environ["GOMP_SPINCOUNT"] = str(spin_count)
    return True


def limits_spinning() -> bool:
    """True if the environment says how long threads spin."""
    return "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ


class _Process:
    """The process in which operators first ran in several threads."""

    number: int | None = None


def check_forked(threads: int) -> None:
    """To be called before operators run in so many threads. Raises InvalidRequest in a process that was forked from
    one in which they had: torch waits for the parent's threads for ever."""
    if threads == 1:
        return
    if _Process.number is None:
        _Process.number = os.getpid()
    elif _Process.number != os.getpid():
        raise InvalidRequest(
            "this process was forked from one in which torch had run in several threads, for which it would wait for "
            "ever: start workers by multiprocessing's 'spawn', or call torch.set_num_threads(1) in each first"
        )
