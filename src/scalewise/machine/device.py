"""A model made ready to run: an eval copy on its device, channels last, and the number type the machine is good at."""

from __future__ import annotations

import copy
import os
import platform
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import nn

from scalewise.errors import InvalidRequest, shown
from scalewise.machine.threads import check_forked, limits_spinning

if TYPE_CHECKING:
    from scalewise.models.model import Model

Dtype = Literal["auto", "fp32", "bf16", "fp16"]
NumberType = Literal[Dtype, "int8"]  # what a picture may be run in
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def for_inference(model: Model, device: torch.device) -> Model:
    """An independent copy in eval mode on `device`, convolutions channels last; the original is untouched."""
    module = copy.deepcopy(cast(nn.Module, model)).eval().requires_grad_(False).to(device)
    return cast("Model", module.to(memory_format=torch.channels_last))  # pyright: ignore[reportCallIssue]


def pick_device(name: str | None) -> torch.device:
    """`cpu`, `cuda`, `cuda:1`, `mps`; None takes CUDA if there is one, else the CPU. Raises InvalidRequest."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z]+(:[0-9]{1,4})?", name):
        raise InvalidRequest(f"device {shown(name)} is not known: use cpu, cuda, cuda:N or mps")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("no such kind of device")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:120]
        if "device type" in reason:  # followed by all that torch knows
            raise InvalidRequest(f"device {name!r} is not known: use cpu, cuda, cuda:N or mps") from None
        raise InvalidRequest(f"device {name!r} cannot be used: {reason} (use cpu, cuda, cuda:N or mps)") from None
    return device


def pick_dtype(name: Dtype, device: torch.device) -> torch.dtype:
    """`auto`: bf16 where the machine multiplies it in hardware (AMX, AVX512-BF16, CUDA from Ampere), else fp32."""
    if name in DTYPES:
        return DTYPES[name]
    if name != "auto":
        raise InvalidRequest(f"dtype {shown(name)} is not known: allowed are auto, {', '.join(DTYPES)}")
    return torch.bfloat16 if fast_bf16(device) else torch.float32


@contextmanager
def numbers(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Compute in `dtype` where that is safe; weights and images stay fp32."""
    if dtype == torch.float32:
        yield
    else:
        with torch.autocast(device.type, dtype):
            yield


class _DefaultDtype:
    """fp32 as torch's default number type, as long as anybody needs it. The default is one for all threads, so the
    first one in saves what the program had set, and the last one out restores it."""

    def __init__(self) -> None:
        self._lock, self._users, self._saved = threading.Lock(), 0, torch.float32

    def acquire(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._saved = torch.get_default_dtype()
                if self._saved != torch.float32:
                    torch.set_default_dtype(torch.float32)

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._saved != torch.float32:
                torch.set_default_dtype(self._saved)


_DEFAULT_DTYPE = _DefaultDtype()


@contextmanager
def torch_defaults(device: torch.device) -> Iterator[None]:
    """Torch as it is when it is loaded: new tensors in fp32 on the CPU, and no autocast.

    A program around us may have set another default number type or device, or run us in autocast for `device`; tables
    and models made then would be cached and spoil later runs. Raises InvalidRequest where a fork lost torch's threads.
    """
    check_forked(torch.get_num_threads())
    with ExitStack() as stack:
        _DEFAULT_DTYPE.acquire()
        stack.callback(_DEFAULT_DTYPE.release)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def use_one_thread(usual: int) -> None:
    """For a thread that works while another one runs a model with `usual` threads: its torch operators run on it
    alone from now on.

    Otherwise it gets a team of threads of its own. Where the teams have more threads than there are cores, OpenMP puts
    all of them to sleep at the end of every operator, the model's too, and `fast` took 1.2 times as long. Where nobody
    limits how long idle threads spin (`machine/threads.py`) that is the lesser evil, and nothing is changed.
    """
    if not limits_spinning():
        return
    with _THREAD_COUNT:
        torch.set_num_threads(1)
        # The number set last is also what a new thread starts with: a thread that ends at once puts that back.
        helper = threading.Thread(target=torch.set_num_threads, args=(usual,))
        helper.start()
        helper.join()


_THREAD_COUNT = threading.Lock()


def fast_bf16(device: torch.device) -> bool:
    """True if bf16 is faster than fp32 here: emulated bf16 is hundreds of times slower (docs/performance.md)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool((supported and supported()) or (tiles and tiles()))


def fast_int8(device: torch.device) -> bool:
    """True if 8-bit products are faster than others here: a processor that has them (AVX512-VNNI), and a torch that
    multiplies by oneDNN. Without VNNI their sums overflow, too."""
    supported = getattr(torch.cpu, "_is_vnni_supported", None)
    convolution = hasattr(torch.ops.onednn, "qconv2d_pointwise") and hasattr(torch, "quantize_per_tensor")
    return (
        device.type == "cpu"
        and bool(supported and supported())
        and torch.backends.mkldnn.is_available()
        and convolution
    )


def machine_of(device: torch.device) -> str:
    """What computes: the GPU's name, or the processor's and how many cores it has."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"
