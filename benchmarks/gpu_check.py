"""All networks on a GPU: the pixels of the CPU in fp32, near them in bf16 and fp16, and their times.

    PYTHONPATH=src python benchmarks/gpu_check.py [--only edsr-liif,fast] [--size 256] [--device cuda] [--json FILE]

Without a GPU it says so and exits with 0. It needs torch, numpy and the folder `src`, nothing else: no libvips, no
safetensors, no command line, no weight files (weights are random and seeded, of the published sizes or a little below).
Under a minute on a GPU of 2022. Exit code 1 if a network is outside its tolerance, not finite, or fails.

Checked on a picture of 48×64 LR pixels, ×4, against the CPU in fp32: the root of the mean squared difference over that
of the picture around its mean. Timed: one render of size×size LR pixels, ×4, median of 5 in each number type; and how
often it makes the host wait for the device (`waits`), at a quarter of the pixels and at all: a wait for each unit would
grow fourfold. Routed networks run at full budget, and at half of it where that is not below their floor.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from scalewise.budget.budget import Budget
from scalewise.encoders.adaformer import AdaFormer
from scalewise.encoders.camixer import SMALL, CAMixer
from scalewise.encoders.carn import CARN
from scalewise.encoders.cat import CAT
from scalewise.encoders.edsr import EDSR
from scalewise.encoders.elan import ELAN
from scalewise.encoders.fsrcnn import FSRCNN
from scalewise.encoders.nlsa import NLSA
from scalewise.encoders.rcan import RCAN
from scalewise.encoders.rdn import RDN
from scalewise.encoders.srresnet import SRResNet
from scalewise.encoders.swinir import SwinIR
from scalewise.encoders.tadt import TADT
from scalewise.errors import BudgetInfeasible, InvalidRequest
from scalewise.geometry.grid import Frame, Size
from scalewise.machine.device import for_inference, numbers, pick_device
from scalewise.models.early_exit import EarlyExitModel
from scalewise.models.model import Model
from scalewise.models.multi_exit import MultiExitModel
from scalewise.models.patchwise import PatchwiseModel
from scalewise.models.super_resolver import SuperResolver
from scalewise.multiexit.anyscale import AnyScaleExits
from scalewise.multiexit.ape import APE
from scalewise.multiexit.classsr import ClassSR
from scalewise.multiexit.enaf import CARNExits, FSRCNNExits, SRResNetExits
from scalewise.multiexit.paths import Backbone
from scalewise.routing.estimator import ClassRouter, ENAFRouter
from scalewise.routing.patch import PatchRouter
from scalewise.upsamplers.ciaosr import CiaoSR
from scalewise.upsamplers.fixed import CascadeTail, Deconvolution, DirectShuffle, PixelShuffle, ResNetTail
from scalewise.upsamplers.itsrn import ITSRN
from scalewise.upsamplers.liif import LIIF
from scalewise.upsamplers.lte import LTE
from scalewise.upsamplers.metasr import MetaSR

SCALE = 4
CHECKED: Size = (48, 64)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = {"fp32": 1e-3, "bf16": 0.06, "fp16": 0.02}
LOOSE = {"nlsa": 10.0}  # it sorts by hashes: one that falls differently moves a pixel to another chunk
COSTS = (0.0, 1.0, 2.0, 3.0)


def pair(encoder: nn.Module, upsampler: Callable[[int], nn.Module]) -> SuperResolver:
    tail = upsampler(encoder.channels)  # type: ignore[arg-type]
    return SuperResolver(encoder, tail, scales=getattr(tail, "scales", None))  # type: ignore[arg-type]


def fast() -> MultiExitModel:
    """As the default model was first built; its weights may have another shape by now."""
    network = AnyScaleExits(48, exit_after=(1, 3, 6), kernels=(4, 4, 5))
    return MultiExitModel(PatchRouter(network.exits, patch=32), network, patch=32)


def classsr() -> PatchwiseModel:
    network = ClassSR(Backbone("fsrcnn", 56, shrink=12), (16, 36, 56))
    return PatchwiseModel(ClassRouter(COSTS[: network.paths]), network)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "srresnet": lambda: pair(SRResNet(), lambda c: ResNetTail(c, SCALE)),
    "edsr": lambda: pair(EDSR(), lambda c: PixelShuffle(c, SCALE)),
    "carn": lambda: pair(CARN(), lambda c: CascadeTail(c, (SCALE,))),
    "fsrcnn": lambda: pair(FSRCNN(), lambda c: Deconvolution(c, SCALE)),
    "rcan": lambda: pair(RCAN(groups=3, blocks=5), lambda c: PixelShuffle(c, SCALE)),
    "elan": lambda: pair(ELAN(), lambda c: DirectShuffle(c, SCALE)),
    "swinir": lambda: pair(SwinIR(60, (6,) * 4, heads=(6,) * 4, features=None), lambda c: DirectShuffle(c, SCALE)),
    "cat": lambda: pair(CAT(60, (2, 2), heads=(6, 6), splits=((4, 16),) * 2), lambda c: PixelShuffle(c, SCALE)),
    "nlsa": lambda: pair(NLSA(64, 8, res_scale=1.0), lambda c: PixelShuffle(c, SCALE)),
    "rdn-lte": lambda: pair(RDN(64, 4, layers=4), LTE),
    "edsr-liif": lambda: pair(EDSR(), LIIF),
    "edsr-metasr": lambda: pair(EDSR(), MetaSR),
    "edsr-itsrn": lambda: pair(EDSR(), ITSRN),
    "edsr-ciaosr": lambda: pair(EDSR(), CiaoSR),
    "camixer": lambda: pair(CAMixer(SMALL), lambda c: DirectShuffle(c, SCALE)),
    "adaformer": lambda: pair(AdaFormer(), lambda c: DirectShuffle(c, SCALE)),
    "tadt-liif": lambda: pair(TADT(), LIIF),
    "fast": fast,
    "enaf-fsrcnn": lambda: PatchwiseModel(ENAFRouter(COSTS), FSRCNNExits()),
    "enaf-carn": lambda: PatchwiseModel(ENAFRouter(COSTS), CARNExits()),
    "enaf-srresnet": lambda: PatchwiseModel(ENAFRouter(COSTS), SRResNetExits()),
    "classsr": classsr,
    "ape": lambda: EarlyExitModel(APE(64, 16, interval=4, scale=SCALE, res_scale=1.0)),
}


@dataclass
class Found:
    """One network: differences from the CPU, milliseconds and waits by number type; what was wrong, if anything."""

    name: str
    difference: dict[str, float] = field(default_factory=dict)
    milliseconds: dict[str, float] = field(default_factory=dict)
    waits: tuple[int, int] | None = None  # at a quarter of the pixels, and at all
    half_milliseconds: float | None = None
    wrong: list[str] = field(default_factory=list)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build()


def noise(size: Size) -> Tensor:
    """A smooth picture with some noise on it, (1, 3, h, w) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    fine = torch.rand(1, 3, *size, generator=generator)
    return 0.8 * nn.functional.interpolate(coarse, size, mode="bilinear") + 0.2 * fine


@torch.no_grad()
def render(model: Model, lr: Tensor, dtype: torch.dtype, budget: Budget) -> Tensor:
    """In one tile, as the pipeline does: survey in fp32, decide, render in `dtype`; (3, H, W) on its device."""
    size = (lr.shape[-2], lr.shape[-1])
    out = (size[0] * SCALE, size[1] * SCALE)
    plan = model.plan(model.score(lr, (SCALE, SCALE)), size, out, budget)
    with numbers(lr.device, dtype):
        return model.render(lr, Frame(size), (0, 0, *size), out, plan).rgb


def relative(found: Tensor, expected: Tensor) -> float:
    found = found.float().cpu()
    return float((found - expected).square().mean().sqrt() / expected.std().clamp_min(1e-12))


def settled(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def timed(model: Model, lr: Tensor, dtype: torch.dtype, budget: Budget, repeats: int) -> float:
    """Milliseconds, the median; the first run warms up."""
    seconds = []
    for _ in range(repeats + 1):
        settled(lr.device)
        started = time.perf_counter()
        render(model, lr, dtype, budget)
        settled(lr.device)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[1:])


def waits(model: Model, lr: Tensor, budget: Budget) -> int:
    """How often a render makes the host wait for the device."""
    render(model, lr, torch.bfloat16, budget)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            render(model, lr, torch.bfloat16, budget)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in seen)


def look(name: str, device: torch.device, size: int, repeats: int) -> Found:
    found = Found(name)
    plain = for_inference(seeded(NETWORKS[name]), torch.device("cpu"))  # type: ignore[arg-type]
    model = for_inference(plain, device)
    picture, larger, full = noise(CHECKED), noise((size, size)).to(device), Budget.full()
    expected = render(plain, picture, torch.float32, full).float()
    for word, dtype in DTYPES.items():
        got = render(model, picture.to(device), dtype, full)
        if not bool(torch.isfinite(got).all()):
            found.wrong.append(f"{word}: not finite")
            continue
        found.difference[word] = relative(got, expected)
        if found.difference[word] > TOLERANCE[word] * LOOSE.get(name, 1.0):
            found.wrong.append(f"{word}: {found.difference[word]:.1e} from the CPU, allowed {TOLERANCE[word]:g}")
        found.milliseconds[word] = timed(model, larger, dtype, full, repeats)
    if device.type == "cuda":
        quarter = larger[..., : size // 2, : size // 2].contiguous()
        found.waits = waits(model, quarter, full), waits(model, larger, full)
    with contextlib.suppress(BudgetInfeasible):
        found.half_milliseconds = timed(model, larger, torch.bfloat16, Budget.fraction(0.5), repeats)
    return found


def rows(found: Found) -> str:
    """One line of the table."""
    cells = [f"{found.name:<14}"]
    cells += [f"{found.difference.get(word, float('nan')):>9.1e}" for word in DTYPES]
    cells += [f"{found.milliseconds.get(word, float('nan')):>9.2f}" for word in DTYPES]
    cells.append(f"{found.half_milliseconds:>9.2f}" if found.half_milliseconds is not None else f"{'-':>9}")
    cells.append(f"{found.waits[0]:>5}{found.waits[1]:>5}" if found.waits is not None else f"{'-':>10}")
    return "".join(cells) + "  " + ("; ".join(found.wrong) or "ok")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(NETWORKS), help="names, separated by commas")
    parser.add_argument("--size", type=int, default=256, help="LR pixels a side of the picture that is timed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", help="cuda, cuda:1, mps; cpu tries the script itself. Default: the GPU there is")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    arguments = parser.parse_args()
    name = arguments.device
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
    if name is None:
        print("no GPU at hand: nothing was checked")
        return 0
    try:
        device = pick_device(name)
    except InvalidRequest as error:
        print(f"gpu_check: {error}")
        return 2
    torch.backends.cudnn.allow_tf32 = False  # fp32 is to be fp32
    title = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    sizes = f"checked at {CHECKED[1]}x{CHECKED[0]}, timed at {arguments.size}², ×{SCALE}"
    print(f"{title}, torch {torch.__version__}; {sizes}")
    print(f"{'':<14}{'difference from the CPU in fp32':>27}{'milliseconds':>27}{'half':>5}{'waits':>10}")
    print(f"{'':<14}" + "".join(f"{word:>9}" for word in (*DTYPES, *DTYPES, "bf16")) + f"{'¼':>5}{'all':>5}")
    results, started = [], time.perf_counter()
    for network in arguments.only.split(","):
        try:
            found = look(network, device, arguments.size, arguments.repeats)
        except Exception as error:  # the others are still worth a look
            found = Found(network, wrong=[f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"])
        results.append(found)
        print(rows(found), flush=True)
    wrong = [found.name for found in results if found.wrong]
    print(f"{len(results)} networks in {time.perf_counter() - started:.0f} s; wrong: {', '.join(wrong) or 'none'}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(found) for found in results], indent=1), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
