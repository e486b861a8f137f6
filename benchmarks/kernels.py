"""Networks and upsamplers against the published order of computing in fp32, and bf16 against fp32. On a quiet machine.

    python benchmarks/kernels.py --weights DIR [--bench DIR] [--only camixer,liif] [--repeats 5] [--malloc heap]

Literal: eager fp32, channels first, as published (`tests/encoders/published.py`, `tests/upsamplers/literal.py`: the
tests hold them to the golden outputs); ours: the model as the pipeline runs it, in fp32 and in bf16. All three in turns
in one process, medians. CAMixerSR_S: 256×256; the rest: 320×180, ×4. CiaoSR's and LIIF's literal side is timed on its
first chunks of 30 000 points, which are alike, and multiplied. `peak`: the better of a 64-channel 3×3 convolution and a
2048³ product in bf16, and the share of it that ours reaches. `--malloc`: default, or heap (glibc keeps what is freed).
dB: |PSNR of bf16 - PSNR of fp32| on Set14 (--bench, for networks with published weights), and the PSNR between the two
pictures. Networks without published weights have random ones.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from adaptive import patch_sides
from encoders import published
from upsamplers import literal

from scalewise import compat, images
from scalewise.budget.budget import Budget
from scalewise.encoders.edsr import EDSR
from scalewise.encoders.srresnet import SRResNet
from scalewise.encoders.swinir import SwinIR
from scalewise.evaluate.metrics import eight_bit, psnr
from scalewise.evaluate.pairs import find_pairs, load_pair
from scalewise.evaluate.protocols import find_protocol
from scalewise.geometry.grid import Frame, rectangle
from scalewise.machine.device import for_inference, numbers
from scalewise.models.model import Model
from scalewise.models.patchwise import PatchwiseModel
from scalewise.models.super_resolver import SuperResolver, pad_to_grid
from scalewise.upsamplers.ciaosr import CiaoSR
from scalewise.upsamplers.fixed import DirectShuffle, PixelShuffle, ResNetTail
from scalewise.upsamplers.liif import LIIF

CPU = torch.device("cpu")
SCALE = 4
SIZE = (180, 320)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PHOTO = Path(__file__).resolve().parent.parent / "examples" / "photo.jpg"
CHUNKS = 2  # of the literal upsamplers


@dataclass(frozen=True)
class Case:
    """`literal` gives seconds; `ours(dtype)` a picture; `macs` of ours; `asked`: times faster in fp32 and bf16."""

    title: str
    literal: Callable[[], float]
    ours: Callable[[torch.dtype], Tensor | None]
    macs: int
    asked: tuple[float, float]
    loss: Callable[[], float] | None = None


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def picture(size: tuple[int, int]) -> Tensor:
    """The centre of the photo, (1, 3, h, w)."""
    source = images.open(PHOTO)
    top, left = ((n - m) // 2 for n, m in zip(source.size, size, strict=True))
    return source.read((top, left, top + size[0], left + size[1])).unsqueeze(0)


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


def network(title: str, model: SuperResolver, size: tuple[int, int], asked: tuple[float, float], **given: Any) -> Case:
    """A fixed-scale network against its literal `trunk(encoder, normal)`, by default its own layers channels first."""
    trunk, budget, bench = given.get("trunk"), given.get("budget", Budget.full()), given.get("bench")
    lr, plain = picture(size), copy.deepcopy(model).eval().requires_grad_(False)
    ours = for_inference(cast(Model, model), CPU)
    encoder, tail = cast(Any, plain.encoder), cast(Any, plain.upsampler)

    def literally() -> None:
        normal = pad_to_grid((lr - plain.mean) / plain.std, plain.grid)
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
        asked,
        loss_on_set14(ours, budget, bench),
    )


def upsampler(title: str, build: Callable[[int], nn.Module], asked: tuple[float, float]) -> Case:
    """An upsampler on features of EDSR-baseline, without the encoder."""
    encoder, head = EDSR().eval().requires_grad_(False), cast(Any, build(64).eval().requires_grad_(False))
    lr = picture(SIZE) * 2 - 1
    features = encoder(lr)
    out, frame = (SIZE[0] * SCALE, SIZE[1] * SCALE), Frame(SIZE)
    own = cast(Any, for_inference(cast(Model, head), CPU))
    given = {dtype: features.to(dtype, memory_format=torch.channels_last) for dtype in DTYPES.values()}

    def ours(dtype: torch.dtype) -> Tensor:
        with numbers(CPU, dtype):
            field = own.prepare(given[dtype], lr, frame)
            return own.sample(field, rectangle(frame, out)).float()

    def literally() -> float:
        coordinates = literal.make_coord(out).view(1, -1, 2)
        cells = literal.make_cell(1, coordinates.shape[1], out)
        spelled = (literal.ciaosr if isinstance(head, CiaoSR) else literal.liif)(head)
        some = [slice(k * literal.CHUNK, (k + 1) * literal.CHUNK) for k in range(CHUNKS)]
        took = seconds(lambda: [spelled(features, lr, coordinates[:, one], cells[:, one]) for one in some])
        return took * coordinates.shape[1] / (CHUNKS * literal.CHUNK)

    return Case(title, literally, ours, head.macs(SIZE, out).total, asked)


def seeded(build: Callable[[], SuperResolver]) -> SuperResolver:
    torch.manual_seed(0)
    return build()


def from_file(path: Path) -> Any:
    return compat.load(path).super_resolver


def camixer(weights: Path, gamma: float, asked: tuple[float, float], bench: Path | None) -> Case:
    return network(
        f"CAMixerSR_S, γ = {gamma:g}",
        from_file(weights / "CAMixerSR_S.pth"),
        (256, 256),
        asked,
        trunk=lambda encoder, normal: published.camixer(encoder, normal, gamma),
        budget=Budget.parse(f"gamma={gamma:g}"),
        bench=bench,
    )


def patches(weights: Path) -> Case:
    """ENAF-FSRCNN's patches at η = 0.5, estimator included."""
    model = cast(PatchwiseModel, for_inference(from_file(weights / "fsrcnn_eunaf.t7"), CPU))
    sides = patch_sides(model, (picture(SIZE)[0] * 255).round().to(torch.uint8), list(DTYPES))  # type: ignore[arg-type]
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


def cases(weights: Path, bench: Path | None) -> Iterator[tuple[str, Callable[[], Case]]]:
    yield "camixer", lambda: camixer(weights, 1.0, (2.5, 5), bench)
    yield "camixer-quarter", lambda: camixer(weights, 0.25, (0, 4), bench)
    yield (
        "srresnet",
        lambda: network("SRResNet", seeded(lambda: fixed(SRResNet(), ResNetTail(64, SCALE))), SIZE, (0, 5)),
    )
    yield (
        "edsr",
        lambda: network("EDSR-baseline", seeded(lambda: fixed(EDSR(), PixelShuffle(64, SCALE))), SIZE, (0, 5)),
    )
    yield "carn", lambda: network("CARN-M", from_file(weights / "carn_m_multiscale.pth"), SIZE, (0, 3.5), bench=bench)
    yield "fsrcnn", lambda: patches(weights)
    yield "liif", lambda: upsampler("LIIF upsampler", LIIF, (3, 12))
    yield "ciaosr", lambda: upsampler("CiaoSR upsampler", CiaoSR, (0, 8))
    yield (
        "swinir",
        lambda: network("SwinIR-light", seeded(small_swinir), SIZE, (0, 4), trunk=published.swinir),
    )


def keep_freed_memory() -> None:
    """glibc takes large blocks from the heap too, and gives nothing back: no page faults after the first turn."""
    libc = ctypes.CDLL("libc.so.6")
    for option, value in ((-3, 2**30), (-1, 2**31 - 1), (-2, 2**28)):  # mmap threshold, trim threshold, top pad
        libc.mallopt(option, value)


def peak_flops() -> float:
    """FLOP per second in bf16: the better of a 64-channel 3×3 convolution at 320×180 and a 2048³ product."""
    x = torch.rand(1, 64, *SIZE, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    w = torch.rand(64, 64, 3, 3, dtype=torch.bfloat16)
    a = torch.rand(2048, 2048, dtype=torch.bfloat16)
    both = []
    for run, flops in ((lambda: F.conv2d(x, w, padding=1), 2 * 9 * 64**2 * SIZE[0] * SIZE[1]), (lambda: a @ a, 2**34)):
        run()
        both.append(flops / statistics.median(seconds(run) for _ in range(7)))
    return max(both)


def measure(case: Case, repeats: int) -> list[str]:
    times: dict[str, list[float]] = {"literal": [], **{name: [] for name in DTYPES}}
    pictures: dict[str, Tensor | None] = {}
    for turn in range(repeats + 1):
        for name, dtype in DTYPES.items():
            start = time.perf_counter()
            pictures[name] = case.ours(dtype)
            times[name].append(time.perf_counter() - start)
        if turn or repeats > 2:  # a slow literal side needs no warming up
            times["literal"].append(case.literal())
    base = statistics.median(times["literal"][repeats > 2 :])
    middle = {name: statistics.median(times[name][1:]) for name in DTYPES}
    ratios = [base / middle[name] for name in DTYPES]
    words = [f"{r:.2f}" + (f" ({a:g} {'ok' if r >= a else 'MISSED'})" if a else "") for r, a in zip(ratios, case.asked)]  # noqa: B905
    apart = ""
    if (one := pictures["fp32"]) is not None and (other := pictures["bf16"]) is not None:
        apart = f"{-10 * float((one - other).square().mean().log10()):.1f}"
    share = f"{2 * case.macs / middle['bf16'] / peak_flops():.0%}" if case.macs else ""
    lost = f"{case.loss():+.4f}" if case.loss else ""
    return [case.title, f"{base:.3f}", f"{middle['fp32']:.3f}", f"{middle['bf16']:.3f}", *words, share, lost, apart]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder with the published weight files")
    parser.add_argument("--bench", type=Path, help="Set14: HR beside LR_bicubic/X4")
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--malloc", choices=("default", "heap"), default="default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.malloc == "heap":
        keep_freed_memory()
    known = dict(cases(given.weights, given.bench))
    table = Table(
        "", "literal s", "fp32 s", "bf16 s", "fp32 ×", "bf16 ×", "of peak", "Set14 dB", "bf16 to fp32 dB",
        title=f"{given.threads} threads, malloc {given.malloc}, peak {peak_flops() / 1e9:.0f} GFLOP/s in bf16",
    )  # fmt: skip
    for name in given.only.split(",") if given.only else known:
        table.add_row(*measure(known[name](), given.repeats))
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
