"""Networks and upsamplers against the published order of computing in fp32, and bf16 against fp32. On a quiet machine.

    python benchmarks/kernels.py [--weights DIR] [--bench DIR] [--only camixer,liif] [--repeats 5] [--malloc heap]
                                 [--size 320x180]

Literal: eager fp32, channels first, as published (`common.literal`, `common.published`); ours: the model as the
pipeline runs it, in fp32 and, where the processor multiplies it, in bf16. All in turns in one process, medians, ×4.
Upsamplers run without their encoder; their literal side is timed on its first chunks of 30 000 points, which are
alike, and multiplied. For them also: the peak of anonymous memory of the literal side over that of ours, and the
largest difference between the two, over the largest output. `of peak`: the share that ours reaches of the better of a
64-channel 3×3 convolution and a 2048³ product. `--malloc`: default, or heap (glibc keeps what is freed). dB: |PSNR of
bf16 - PSNR of fp32| on Set14 (--bench, for networks with published weights), and the PSNR between the two pictures.
Networks without published weights have random ones. Exit code 1 if an upsampler differs from the literal code, or if a
promise is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import ctypes
import gc
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from adaptive import patch_sides
from common import CPU, PHOTO, centre, decibel, literal, peaks, published, seconds, size_of
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from scalewise import compat
from scalewise.budget.budget import Budget
from scalewise.encoders.edsr import EDSR
from scalewise.encoders.srresnet import SRResNet
from scalewise.encoders.swinir import SwinIR
from scalewise.evaluate.metrics import eight_bit, psnr
from scalewise.evaluate.pairs import find_pairs, load_pair
from scalewise.evaluate.protocols import find_protocol
from scalewise.geometry.grid import Frame, rectangle
from scalewise.layers import pad_to_grid
from scalewise.machine.device import for_inference, numbers
from scalewise.models.model import Model
from scalewise.models.patchwise import PatchwiseModel
from scalewise.models.super_resolver import SuperResolver
from scalewise.upsamplers.ciaosr import CiaoSR
from scalewise.upsamplers.fixed import DirectShuffle, PixelShuffle, ResNetTail
from scalewise.upsamplers.itsrn import ITSRN
from scalewise.upsamplers.liif import LIIF
from scalewise.upsamplers.lte import LTE
from scalewise.upsamplers.metasr import MetaSR

SCALE = 4
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CHUNKS = 2  # chunks of points that the literal side of an upsampler is timed on
TOLERANCE = 1e-4  # share of the largest output; published coordinates are off by up to 1e-4 at these sizes


@dataclass(frozen=True)
class Case:
    """`literal` gives seconds; `ours(dtype)` a picture; `macs` of ours; `promised`: times faster in fp32 and bf16.

    `points`: the first points of the literal code and of ours, where the two are compared; `smaller`: how many times
    less memory is promised."""

    title: str
    literal: Callable[[], float]
    ours: Callable[[torch.dtype], Tensor | None]
    macs: int
    promised: tuple[float, float]
    loss: Callable[[], float] | None = None
    points: Callable[[], tuple[Tensor, Tensor]] | None = None
    smaller: float = 0


class PeakMemory:
    """The largest anonymous memory of this process while the context is open, above that at its start; bytes."""

    def __enter__(self) -> PeakMemory:
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # not the GNU C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what earlier runs freed would not count as new
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
        self.bytes = max(self.peak, anonymous_bytes()) - self.start


def anonymous_bytes() -> int:
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def picture(size: tuple[int, int]) -> Tensor:
    """The centre of the photo, (1, 3, h, w) in [0, 1]."""
    return centre(PHOTO, size).unsqueeze(0).float() / 255


def render(model: Model, lr: Tensor, dtype: torch.dtype, budget: Budget) -> Tensor:
    size = (lr.shape[-2], lr.shape[-1])
    out = (size[0] * SCALE, size[1] * SCALE)
    with numbers(CPU, dtype):
        plan = model.plan(None, size, out, budget)
        lr = lr.contiguous(memory_format=torch.channels_last)
        return model.render(lr, Frame(size), (0, 0, *size), out, plan).rgb.float()


def loss_on_set14(model: Model, budget: Budget, bench: Path | None) -> Callable[[], float] | None:
    """dB that bf16 loses against fp32."""
    if bench is None:
        return None

    def loss() -> float:
        protocol, found = find_protocol("default"), []
        for pair in find_pairs(bench, SCALE):
            lr, hr = load_pair(pair, SCALE, protocol)
            both = [eight_bit(render(model, lr.unsqueeze(0), dtype, budget)) for dtype in DTYPES.values()]
            fp32, bf16 = (psnr(sr[:, : hr.shape[1], : hr.shape[2]], hr, channel="y", shave=SCALE) for sr in both)
            found.append(fp32 - bf16)
        return statistics.fmean(found)

    return loss


def network(
    title: str, model: SuperResolver, size: tuple[int, int], promised: tuple[float, float], **given: Any
) -> Case:
    """A fixed-scale network against its literal `trunk(encoder, normal)`, by default its own layers channels first."""
    trunk, budget, bench = given.get("trunk"), given.get("budget", Budget.full()), given.get("bench")
    lr, plain = picture(size), copy.deepcopy(model).eval().requires_grad_(False)
    ours = for_inference(cast(Model, model), CPU)
    encoder, tail = cast(Any, plain.encoder), cast(Any, plain.upsampler)

    def literally() -> None:
        normal = pad_to_grid((lr - plain.mean) / plain.std, plain.limits.patch_stride)
        features = trunk(encoder, normal) if trunk else encoder(normal)
        sr = tail.upscale(features, normal, SCALE) * plain.std + plain.mean
        sr[..., : size[0] * SCALE, : size[1] * SCALE].clone()

    out = (size[0] * SCALE, size[1] * SCALE)
    macs = ours.plan(None, size, out, budget).macs
    return Case(
        title,
        lambda: seconds(literally),
        lambda dtype: render(ours, lr, dtype, budget),
        macs,
        promised,
        loss_on_set14(ours, budget, bench),
    )


def upsampler(
    build: Callable[[int], nn.Module], size: tuple[int, int], promised: tuple[float, float], smaller: float = 0
) -> Case:
    """An upsampler on features of EDSR-baseline, without the encoder."""
    encoder, head = EDSR().eval().requires_grad_(False), cast(Any, build(64).eval().requires_grad_(False))
    lr, name = picture(size) * 2 - 1, type(head).__name__
    features = encoder(lr)
    out, frame = (size[0] * SCALE, size[1] * SCALE), Frame(size)
    own = cast(Any, for_inference(cast(Model, head), CPU))
    given = {dtype: features.to(dtype, memory_format=torch.channels_last) for dtype in DTYPES.values()}

    def ours(dtype: torch.dtype) -> Tensor:
        with numbers(CPU, dtype):
            field = own.prepare(given[dtype], lr, frame)
            return own.sample(field, rectangle(frame, out)).float()

    coordinates = literal.make_coord(out).view(1, -1, 2)
    cells = literal.make_cell(1, coordinates.shape[1], out)
    chunks = [slice(k * literal.CHUNK, (k + 1) * literal.CHUNK) for k in range(CHUNKS)]

    def chunk(one: slice) -> Tensor:
        spelled = literal.lte(head, features) if name == "LTE" else getattr(literal, name.lower())(head)
        return spelled(features, lr, coordinates[:, one], cells[:, one])

    def literally() -> float:
        took = seconds(lambda: [chunk(one) for one in chunks])
        return took * coordinates.shape[1] / min(CHUNKS * literal.CHUNK, coordinates.shape[1])

    def points() -> tuple[Tensor, Tensor]:
        rgb = ours(torch.float32).flatten(2).transpose(1, 2)
        return chunk(chunks[0]), rgb[:, chunks[0]]

    return Case(
        f"{name} upsampler", literally, ours, head.macs(size, out).total, promised, points=points, smaller=smaller
    )


def seeded(build: Callable[[], SuperResolver]) -> SuperResolver:
    torch.manual_seed(0)
    return build()


def from_file(path: Path) -> Any:
    return compat.load(path).super_resolver


def camixer(weights: Path, gamma: float, promised: tuple[float, float], bench: Path | None) -> Case:
    return network(
        f"CAMixerSR_S, γ = {gamma:g}",
        from_file(weights / "CAMixerSR_S.pth"),
        (256, 256),
        promised,
        trunk=lambda encoder, normal: published.camixer(encoder, normal, gamma),
        budget=Budget.parse(f"gamma={gamma:g}"),
        bench=bench,
    )


def patches(weights: Path, size: tuple[int, int]) -> Case:
    """ENAF-FSRCNN's patches at η = 0.5, estimator included."""
    model = cast(PatchwiseModel, for_inference(from_file(weights / "fsrcnn_eunaf.t7"), CPU))
    sides = patch_sides(model, centre(PHOTO, size), list(DTYPES))  # type: ignore[arg-type]
    own = {dtype: sides[f"ours, batched, {name}"] for name, dtype in DTYPES.items()}
    return Case(
        "FSRCNN patches by exit",
        lambda: seconds(sides["literal loop, fp32"]),
        lambda dtype: own[dtype](),
        0,
        (0, 6),
    )


def small_swinir() -> SuperResolver:
    encoder = SwinIR(60, depths=(6,) * 4, heads=(6,) * 4, features=None)
    return SuperResolver(encoder, DirectShuffle(60, SCALE), mean=(0, 0, 0), std=(1, 1, 1), scales=(SCALE,))


def fixed(encoder: Any, tail: Any) -> SuperResolver:
    return SuperResolver(encoder, tail, scales=(SCALE,))


def cases(weights: Path, bench: Path | None, size: tuple[int, int]) -> dict[str, Callable[[], Case]]:
    """CAMixerSR's weights are timed from 256×256, the rest from `size`."""
    return {
        "camixer": lambda: camixer(weights, 1.0, (2.5, 5), bench),
        "camixer-quarter": lambda: camixer(weights, 0.25, (0, 4), bench),
        "srresnet": lambda: network("SRResNet", seeded(lambda: fixed(SRResNet(), ResNetTail(64, SCALE))), size, (0, 5)),
        "edsr": lambda: network("EDSR-baseline", seeded(lambda: fixed(EDSR(), PixelShuffle(64, SCALE))), size, (0, 5)),
        "carn": lambda: network("CARN-M", from_file(weights / "carn_m_multiscale.pth"), size, (0, 3.5), bench=bench),
        "fsrcnn": lambda: patches(weights, size),
        "swinir": lambda: network("SwinIR-light", seeded(small_swinir), size, (0, 4), trunk=published.swinir),
        "metasr": lambda: upsampler(MetaSR, size, (6, 0)),
        "liif": lambda: upsampler(LIIF, size, (3, 12)),
        "lte": lambda: upsampler(LTE, size, (1, 0)),
        "itsrn": lambda: upsampler(ITSRN, size, (2.5, 0)),
        "ciaosr": lambda: upsampler(CiaoSR, size, (5, 8), smaller=8),
    }


def keep_freed_memory() -> None:
    """glibc takes large blocks from the heap too, and gives nothing back: no page faults after the first turn."""
    libc = ctypes.CDLL("libc.so.6")
    for option, value in ((-3, 2**30), (-1, 2**31 - 1), (-2, 2**28)):  # mmap threshold, trim threshold, top pad
        libc.mallopt(option, value)


def against_literal(case: Case) -> tuple[str, str, bool]:
    """Memory of the literal side over ours, the largest difference, and whether both are as promised."""
    if case.points is None:
        return "", "", True
    with PeakMemory() as mine:
        case.ours(torch.float32)
    with PeakMemory() as theirs:
        case.literal()
    published_points, points = case.points()
    difference = float((points - published_points).abs().max() / published_points.abs().max().clamp_min(1))
    ratio = theirs.bytes / max(mine.bytes, 1)
    return f"{ratio:.1f}", f"{difference:.1e}", difference <= TOLERANCE and ratio >= case.smaller


def measure(case: Case, repeats: int, top: dict[str, float]) -> tuple[list[str], bool]:
    dtypes = {name: dtype for name, dtype in DTYPES.items() if name in top}
    times: dict[str, list[float]] = {"literal": [], **{name: [] for name in dtypes}}
    pictures: dict[str, Tensor | None] = {}
    for turn in range(repeats + 1):
        for name, dtype in dtypes.items():
            start = time.perf_counter()
            pictures[name] = case.ours(dtype)
            times[name].append(time.perf_counter() - start)
        if turn or repeats > 2:  # a slow literal side needs no warming up
            times["literal"].append(case.literal())
    base = statistics.median(times["literal"][repeats > 2 :])
    middle = {name: statistics.median(times[name][1:]) for name in dtypes}
    memory, difference, kept = against_literal(case)
    row = [case.title, f"{base:.3f}", *(f"{middle[name]:.3f}" if name in middle else "" for name in DTYPES)]
    for name, promise in zip(DTYPES, case.promised, strict=True):
        if name not in middle:
            row.append("")
            continue
        ratio = base / middle[name]
        kept &= ratio >= promise
        row.append(f"{ratio:.2f}" + (f" ({promise:g} {'ok' if ratio >= promise else 'MISSED'})" if promise else ""))
    apart = ""
    if (one := pictures["fp32"]) is not None and (other := pictures.get("bf16")) is not None:
        apart = f"{decibel(one, other):.1f}"
    best = "bf16" if "bf16" in middle else "fp32"
    share = f"{2 * case.macs / middle[best] / top[best] / 1e12:.0%}" if case.macs else ""
    lost = f"{case.loss():+.4f}" if case.loss and "bf16" in top else ""
    return [*row, share, memory, difference, lost, apart], kept


@torch.no_grad()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=Path(), help="folder with the published weight files")
    parser.add_argument("--bench", type=Path, help="Set14: HR beside LR_bicubic/X4")
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--size", default="320x180", help="LR pixels: the centre of the photo")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--malloc", choices=("default", "heap"), default="default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.malloc == "heap":
        keep_freed_memory()
    known, top, all_kept = cases(given.weights, given.bench, size_of(given.size)), peaks(), True
    rates = ", ".join(f"{rate * 1000:.0f} GFLOP/s in {name}" for name, rate in top.items())
    table = Table(
        "", "literal s", "fp32 s", "bf16 s", "fp32 ×", "bf16 ×", "of peak", "memory ×", "difference", "Set14 dB",
        "bf16 to fp32 dB", title=f"{given.threads} threads, malloc {given.malloc}, peak {rates}",
    )  # fmt: skip
    for name in given.only.split(",") if given.only else known:
        row, kept = measure(known[name](), given.repeats, top)
        table.add_row(*row)
        all_kept &= kept
    Console(width=150).print(table)
    return 0 if all_kept else 1


if __name__ == "__main__":
    sys.exit(main())
