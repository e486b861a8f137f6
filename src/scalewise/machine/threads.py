"""How the threads of torch's operators wait for each other. Nothing here loads torch."""

from __future__ import annotations

import os
import sys

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
