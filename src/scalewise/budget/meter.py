"""The work of a run while it lasts: before each layer, whoever listens on that thread hears what it will compute.

A model is shared between threads and keeps nothing of a run, so the listener belongs to the thread. It hears every
module by one hook that torch calls for all modules; the hook is installed only while somebody listens. Long loops that
call no module call `tick`, and so do convolutions that run without theirs. A listener may raise, which ends the run
between two layers.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.module import register_module_forward_pre_hook

Listener = Callable[[int], None]  # gets the MACs of the layer that comes next; 0 for anything but a layer with weights


class _Thread(threading.local):
    listener: Listener | None = None


class _Hook:
    """One hook for all threads: adding one for each could change torch's table while another thread reads it."""

    def __init__(self) -> None:
        self._lock, self._users, self._handle = threading.Lock(), 0, None

    def acquire(self) -> None:
        with self._lock:
            self._users += 1
            if self._handle is None:
                self._handle = register_module_forward_pre_hook(_before)

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._handle is not None:
                self._handle.remove()
                self._handle = None


_THREAD, _HOOK = _Thread(), _Hook()


@contextmanager
def listening(listener: Listener | None) -> Iterator[None]:
    """Inside the block `listener` hears the modules that this thread calls, in place of an outer one; None: nobody."""
    outer = _THREAD.listener
    _THREAD.listener = listener
    if listener is not None:
        _HOOK.acquire()
    try:
        yield
    finally:
        _THREAD.listener = outer
        if listener is not None:
            _HOOK.release()


def tick(macs: int = 0) -> None:
    """A place where the run may end: in a long loop without modules, or before `macs` that no module computes."""
    if not torch.compiler.is_compiling() and _THREAD.listener is not None:
        _THREAD.listener(macs)


def _before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    if _THREAD.listener is not None:
        _THREAD.listener(layer_macs(module, inputs))


def layer_macs(module: nn.Module, inputs: tuple[Any, ...]) -> int:
    """The MACs of a convolution or a linear layer, its border taken for part of the inside; 0 for another module."""
    x = inputs[0] if inputs else None
    if not isinstance(x, Tensor):
        return 0
    if isinstance(module, nn.Linear):
        return module.weight.numel() * (x.numel() // module.in_features)
    if isinstance(module, _ConvNd):
        positions = x.numel() // module.in_channels
        step = 1 if isinstance(module, _ConvTransposeNd) else math.prod(module.stride)
        return module.weight.numel() * (positions // step)
    return 0
