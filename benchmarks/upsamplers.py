"""What the exact rewrites of the any-scale upsamplers bring: ours over the published order of computing.

    python benchmarks/upsamplers.py [--size 192] [--scale 4] [--only liif,lte] [--threads 2]

One LR image, features of EDSR-baseline, float32, the same weights on both sides. The published order is
`tests/upsamplers/literal.py`, which the tests compare with golden outputs: chunks of 30 000 points, features unfolded
and (CiaoSR) attention across scales computed again in every chunk. GMAC are of convolutions and matrix products; the
published side's are counted while it runs, which costs it well under 1% of its time. Memory is the peak of anonymous
memory above what was there before. Ends with exit code 1 if the numbers differ or a promise is not kept.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

# `literal` is a module of the tests; `tests` itself would not do, as this file has the name of the tests' folder
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "upsamplers"))

import literal

from scalewise.encoders.edsr import EDSR
from scalewise.geometry.grid import Frame, Query, output_size, rectangle
from scalewise.upsamplers.ciaosr import CiaoSR
from scalewise.upsamplers.itsrn import ITSRN
from scalewise.upsamplers.liif import LIIF
from scalewise.upsamplers.lte import LTE
from scalewise.upsamplers.metasr import MetaSR

# Name → upsampler, times faster and times less memory that we promise at size 192, scale 4.
PROMISES: dict[str, tuple[Callable[[int], nn.Module], float, float]] = {
    "metasr": (MetaSR, 6.0, 0.0),
    "liif": (LIIF, 2.5, 0.0),
    "lte": (LTE, 1.0, 0.0),
    "itsrn": (ITSRN, 2.5, 0.0),
    "ciaosr": (CiaoSR, 5.0, 8.0),
}
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
TOLERANCE = 1e-4  # of the largest output; published coordinates are off by up to 1e-4 at these sizes


class PeakMemory:
    """The largest anonymous memory of this process while the context is open, above that at its start; bytes."""

    def __enter__(self) -> PeakMemory:
        give_memory_back()
        self.start = self.peak = anonymous_bytes()
        self.open = True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.open:
            self.peak = max(self.peak, anonymous_bytes())
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        self.open = False
        self.thread.join()

    @property
    def bytes(self) -> int:
        return self.peak - self.start


def give_memory_back() -> None:
    """What earlier runs freed goes back to the system, or it would not count as new here."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not the GNU C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


@dataclass(frozen=True)
class Run:
    rgb: Tensor
    seconds: float
    cpu_seconds: float
    macs: int
    peak_bytes: int

    @property
    def gflops(self) -> float:
        """2 per MAC, as processors are rated."""
        return 2 * self.macs / self.seconds / 1e9


def run_ours(upsampler: nn.Module, features: Tensor, lr: Tensor, out: tuple[int, int]) -> Run:
    size = (lr.shape[2], lr.shape[3])

    def render(features: Tensor, lr: Tensor, frame: Frame, query: Query) -> Tensor:
        field = upsampler.prepare(features, lr, frame)  # type: ignore[operator]
        return upsampler.sample(field, query)  # type: ignore[operator]

    warm = Frame((16, 16))
    render(features[..., :16, :16], lr[..., :16, :16], warm, rectangle(warm, (64, 64)))
    frame = Frame(size)
    with PeakMemory() as memory:
        start, cpu = time.perf_counter(), time.process_time()
        rgb = render(features, lr, frame, rectangle(frame, out))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Run(rgb, seconds, cpu, upsampler.macs(size, out).total, memory.bytes)  # type: ignore[operator]


def run_published(name: str, upsampler: nn.Module, features: Tensor, lr: Tensor, out: tuple[int, int]) -> Run:
    counter = FlopCounterMode(display=False)
    with PeakMemory() as memory, counter:
        start, cpu = time.perf_counter(), time.process_time()
        spelled = literal.lte(upsampler, features) if name == "lte" else getattr(literal, name)(upsampler)
        rgb = literal.whole(spelled, features, lr, out)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Run(rgb, seconds, cpu, counter.get_total_flops() // 2, memory.bytes)


def bf16_is_fast() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and bool(BF16_FLAGS & set(cpuinfo.read_text().split()))


def decibel(one: Tensor, other: Tensor) -> float:
    """PSNR between two pictures in [-1, 1]."""
    return float(10 * torch.log10(4 / (one - other).square().mean()))


def compare(name: str, features: Tensor, lr: Tensor, out: tuple[int, int], judged: bool) -> bool:
    build, faster, smaller = PROMISES[name]
    torch.manual_seed(0)
    upsampler = build(features.shape[1]).eval()
    ours = run_ours(upsampler, features, lr, out)
    published = run_published(name, upsampler, features, lr, out)
    speed = published.seconds / ours.seconds
    memory = published.peak_bytes / max(ours.peak_bytes, 1)
    difference = float((ours.rgb - published.rgb).abs().max() / published.rgb.abs().max().clamp_min(1))
    kept = difference <= TOLERANCE and (not judged or (speed >= faster and memory >= smaller))
    for label, run in (("ours", ours), ("published", published)):
        print(
            f"{name:<8} {label:<10} {run.seconds:>8.2f} s {run.cpu_seconds:>8.2f} s of CPU {run.macs / 1e9:>9.1f} GMAC "
            f"{run.gflops:>6.1f} GFLOP/s {run.peak_bytes / 2**20:>6.0f} MiB"
        )
    promise = f"promised {faster:g}" + (f", memory {smaller:g}" if smaller else "")
    by_cpu = published.cpu_seconds / ours.cpu_seconds
    print(
        f"{name:<8} {speed:.2f} times faster ({by_cpu:.2f} by CPU time), {memory:.1f} times less memory ({promise}); "
        f"largest difference {difference:.1e}: {'ok' if kept else 'NOT KEPT'}",
        flush=True,
    )
    if bf16_is_fast():
        half = run_ours(upsampler.bfloat16(), features.bfloat16(), lr.bfloat16(), out)
        print(
            f"{name:<8} bf16       {half.seconds:>8.2f} s, {published.seconds / half.seconds:.2f} times faster, "
            f"{decibel(half.rgb, ours.rgb):.1f} dB from float32"
        )
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=192, help="LR pixels per side")
    parser.add_argument("--scale", type=float, default=4.0)
    parser.add_argument("--only", default=",".join(PROMISES), help="names, separated by commas")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    size = (arguments.size, arguments.size)
    out = output_size(size, arguments.scale)
    judged = arguments.size == 192 and arguments.scale == 4
    print(f"{size[1]}x{size[0]} to {out[1]}x{out[0]}, {arguments.threads} threads, torch {torch.__version__}")
    if not bf16_is_fast():
        print("bf16: not fast here (the processor has neither AVX512-BF16 nor AMX)")
    with torch.inference_mode():
        lr = 2 * torch.rand(1, 3, *size) - 1
        features = EDSR().eval()(lr)
        results = [compare(name, features, lr, out, judged) for name in arguments.only.split(",")]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
