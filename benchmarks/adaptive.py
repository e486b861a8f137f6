"""Saved MACs beside saved seconds: every adaptive network at several budgets, in one run. Run it on a quiet machine.

    python benchmarks/adaptive.py --weights DIR [--photo PHOTO] [--only fast,camixer] [--dtypes fp32,bf16] [--maps FILE]

One 510×339 LR picture (the centre of PHOTO), ×4. For each network and budget: the share of the MACs that was spent, the
median seconds of `enlarge` without file decoding and encoding over those at 100% (budgets taken in turns), and the
largest time share that is promised for that share of the MACs. Networks whose weight file is not in DIR run with random
weights and say so; AdaFormer and TADT have none published. `--maps` draws the effort maps of a photo, method by method.
The last table runs ENAF-FSRCNN's patches batched, one at a time, and as a literal loop.
Ends with exit code 1 if a promise is not kept.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.budget.route import paint
from scalewise.encoders.adaformer import AdaFormer
from scalewise.encoders.tadt import TADT
from scalewise.errors import BudgetInfeasible
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run
from scalewise.machine.device import Dtype, fast_bf16, for_inference, numbers, pick_dtype
from scalewise.models.model import Model
from scalewise.models.patchwise import PatchwiseModel
from scalewise.models.super_resolver import SuperResolver
from scalewise.upsamplers.fixed import DirectShuffle

LR_SIZE = (339, 510)
SCALE = 4
BUDGETS = (0.25, 0.4, 0.6, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Method:
    """A network to time: a weight `file` in --weights, or a function that builds one; `promise`: MAC → time share."""

    title: str
    source: str | Callable[[], Model]
    promise: Callable[[float], float] | None = None
    native: tuple[str, ...] = ()


def by_patch(share: float) -> float:
    return 1.15 * share + 0.05


def quarter(share: float) -> float:
    """CAMixerSR at γ = 0.25, which is about half of its MACs."""
    return 0.72 if share < 0.6 else float("inf")


def adaformer() -> Model:
    return seeded(lambda: SuperResolver(AdaFormer(), DirectShuffle(64, SCALE), scales=(SCALE,)))


def tadt() -> Model:
    return seeded(lambda: SuperResolver(TADT(), DirectShuffle(64, SCALE), scales=(SCALE,)))


def seeded(build: Callable[[], SuperResolver]) -> Model:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return for_inference(build(), torch.device("cpu"))


METHODS: dict[str, Method] = {
    "fast": Method("fast (ours)", lambda: zoo.load("fast").model, by_patch),
    "enaf-fsrcnn": Method("ENAF FSRCNN", "fsrcnn_eunaf.t7", by_patch, ("eta=0.5",)),
    "enaf-carn": Method("ENAF CARN-M", "carn_eunaf.t7", by_patch, ("eta=0.5",)),
    "arm-fsrcnn": Method("ARM FSRCNN", "arm-fsrcnn.pth", by_patch, ("k=1.5",)),
    "arm-carn": Method("ARM CARN-M", "arm-carn.pth", by_patch, ("k=1.36",)),
    "camixer": Method("CAMixerSR-S", "CAMixerSR_S.pth", quarter, ("gamma=0.25", "gamma=0.5")),
    "adaformer": Method("AdaFormer, random weights", adaformer),
    "tadt": Method("TADT, random weights", tadt),
}


def open_method(method: Method, weights: Path) -> Model:
    return zoo.load(weights / method.source).model if isinstance(method.source, str) else method.source()


def run(picture: torch.Tensor, model: Model, budget: Budget, dtype: Dtype):
    source = images.open(picture)
    sink = images.create(None, (source.size[0] * SCALE, source.size[1] * SCALE), source)
    options = RunOptions(tile=max(source.size), dtype=dtype)
    return enlarge(plan_run(source, sink.size, model, budget, options), sink)[1]


def centre(photo: Path) -> torch.Tensor:
    source = images.open(photo)
    top, left = ((n - m) // 2 for n, m in zip(source.size, LR_SIZE, strict=True))
    return (source.read((top, left, top + LR_SIZE[0], left + LR_SIZE[1])) * 255).round().to(torch.uint8)


def shares(method: Method, model: Model, picture: torch.Tensor, dtype: Dtype, repeats: int) -> tuple[Table, bool]:
    """One network at all its budgets, in turns."""
    wishes = [*method.native, *BUDGETS]
    times: dict[str | float, list[float]] = {}
    spent: dict[str | float, float] = {}
    for turn in range(repeats + 1):  # the first turn warms up, and finds which budgets are below the floor
        for request in wishes:
            if turn and request not in times:
                continue
            try:
                report = run(picture, model, Budget.parse(request), dtype)
            except BudgetInfeasible:
                continue
            spent[request] = report.share
            times.setdefault(request, [])
            if turn:
                times[request].append(report.seconds)
    full = statistics.median(times[1.0])
    kept = True
    table = Table(f"{method.title}, {dtype}", "MACs", "time", "promised", "seconds")
    for request, seconds in times.items():
        ratio, share = statistics.median(seconds) / full, spent[request]
        promise = method.promise(share) if method.promise and share < 1 else float("inf")
        kept &= ratio <= promise
        words = "" if promise == float("inf") else f"{promise:.2f} {'ok' if ratio <= promise else 'MISSED'}"
        label = request if isinstance(request, str) else f"{request:.0%}"
        table.add_row(label, f"{share:.3f}", f"{ratio:.3f}", words, f"{statistics.median(seconds):.2f}")
    return table, kept


def patch_sides(model: PatchwiseModel, picture: torch.Tensor, dtypes: list[Dtype]) -> dict[str, Callable[[], None]]:
    """ENAF at η = 0.5: batches, one patch at a time, and the published order (estimator and network per patch,
    contiguous fp32, a transposed convolution)."""
    lr = picture.unsqueeze(0).float() / 255
    size = (lr.shape[-2], lr.shape[-1])
    rows, columns = model.layout.starts(size[0]), model.layout.starts(size[1])
    places, side = [(y, x) for y in rows for x in columns], model.layout.side(size)

    def choose() -> torch.Tensor:
        return model.router.native(model.router.evidence(lr, rows, columns, side), 0.5).flatten()

    def batched(dtype: Dtype) -> None:
        with numbers(torch.device("cpu"), pick_dtype(dtype, torch.device("cpu"))):
            for _ in model.run(lr, places, side, choose()):
                pass

    def single() -> None:
        choice = choose()
        for k in range(len(places)):
            for _ in model.run(lr, places[k : k + 1], side, choice[k : k + 1]):
                pass

    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    plain.requires_grad_(False)

    def literal() -> None:
        for y, x in places:
            patch = lr[..., y : y + side[0], x : x + side[1]].contiguous()
            evidence = plain.router.evidence(patch, [0], [0], side)
            choice = plain.router.native(evidence, 0.5).flatten()
            if int(choice):
                with torch.enable_grad():  # a transposed convolution runs as one
                    plain.network.run(patch, choice)
            else:
                torch.nn.functional.interpolate(patch, scale_factor=SCALE, mode="bicubic", align_corners=False)

    sides: dict[str, Callable[[], None]] = {"literal loop, fp32": literal, "ours, one patch at a time, fp32": single}
    sides |= {f"ours, batched, {dtype}": lambda dtype=dtype: batched(dtype) for dtype in dtypes}
    return sides


@torch.no_grad()
def patch_by_patch(model: PatchwiseModel, picture: torch.Tensor, repeats: int, dtypes: list[Dtype]) -> Table:
    sides = patch_sides(model, picture, dtypes)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, go in sides.items():
            start = time.perf_counter()
            go()
            if turn:
                times[name].append(time.perf_counter() - start)
    base = statistics.median(times["literal loop, fp32"])
    table = Table("ENAF FSRCNN, η = 0.5", "seconds", "times faster", title="its patches")
    for name, seconds in times.items():
        middle = statistics.median(seconds)
        table.add_row(name, f"{middle:.3f}", f"{base / middle:.1f}")
    return table


def draw_maps(photo: Path, models: dict[str, Model], out: Path, budget: float) -> None:
    """The photo, and for each method where the work went at one budget: one picture."""
    import matplotlib.pyplot as plt

    picture = centre(photo)
    drawn = {"the picture": picture.permute(1, 2, 0).numpy()}
    for title, model in models.items():
        try:
            report = run(picture, model, Budget.fraction(budget), "auto")
        except BudgetInfeasible as error:
            report = run(picture, model, Budget.fraction(min(1.0, error.floor + 0.05)), "auto")
        gray = picture.float().mean(0) / 255
        label = f"{title}, {report.share:.0%} of its MACs"
        drawn[label] = paint(report.effort_map, report.effort_unit, gray).numpy()
    across = 3
    down = -(-len(drawn) // across)
    figure, axes = plt.subplots(down, across, figsize=(5 * across, 3.6 * down), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, image) in zip(axes.flat, drawn.items(), strict=False):
        axis.imshow(image)
        axis.set_title(title, fontsize=10)
    figure.savefig(out, dpi=72)


def main() -> int:
    parser = argparse.ArgumentParser(description="Saved MACs beside saved seconds.")
    parser.add_argument("--weights", type=Path, required=True, help="folder with the published weight files")
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--only", default=",".join(METHODS))
    parser.add_argument("--dtypes", default="fp32,bf16" if fast_bf16(torch.device("cpu")) else "fp32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--maps", type=Path, help="draw the effort maps to this PNG and stop")
    parser.add_argument("--budget", type=float, default=0.6, help="of the maps")
    given = parser.parse_args()
    chosen = {name: METHODS[name] for name in given.only.split(",")}
    models = {name: open_method(method, given.weights) for name, method in chosen.items()}
    if given.maps:
        draw_maps(given.photo, {METHODS[name].title: m for name, m in models.items()}, given.maps, given.budget)
        return 0
    console, kept = Console(width=110), True
    picture, dtypes = centre(given.photo), given.dtypes.split(",")
    for name, method in chosen.items():
        for dtype in dtypes:
            table, all_kept = shares(method, models[name], picture, dtype, given.repeats)
            kept &= all_kept
            console.print(table)
    if isinstance(model := models.get("enaf-fsrcnn"), PatchwiseModel):
        console.print(patch_by_patch(model, picture, given.repeats, dtypes))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
