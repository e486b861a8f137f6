"""Saved MACs beside saved seconds: every adaptive network at several budgets, in one run. Run it on a quiet machine.

    python benchmarks/adaptive.py --weights DIR [--photo PHOTO] [--only fast,camixer] [--dtypes fp32,bf16]
                                  [--size 510x339] [--scale 4] [--budgets 0.25,0.5,1] [--cpu]
    python benchmarks/adaptive.py --weights DIR --maps FILE          the effort maps of a photo, method by method
    python benchmarks/adaptive.py --weights DIR --photos FOLDER      is a budget ever exceeded?

The centre of PHOTO is the LR picture. For each network and budget: the share of the MACs that was spent, the part of
them that was the rims of patches, the median seconds of `enlarge` without file decoding and encoding over those at 100%
(budgets taken in turns; with `--cpu` CPU seconds, for a busy machine and OMP_NUM_THREADS=1), and the largest time share
that is promised for that share of the MACs. AdaFormer and TADT have no published weights and run with random ones. The
last table runs ENAF-FSRCNN's patches batched, one at a time, and as a literal loop. `--photos` spends each budget on
the centre (480×320) of every photo of a folder.
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
from common import PHOTO, centre, enlarged, medians, size_of
from rich.console import Console
from rich.table import Table

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.budget.cost import CostReport
from scalewise.budget.route import paint
from scalewise.encoders.adaformer import AdaFormer
from scalewise.encoders.tadt import TADT
from scalewise.errors import BudgetInfeasible
from scalewise.execution.plan import RunOptions
from scalewise.machine.device import Dtype, fast_bf16, for_inference, numbers, pick_dtype
from scalewise.models.model import Model
from scalewise.models.patchwise import PatchwiseModel
from scalewise.models.super_resolver import SuperResolver
from scalewise.upsamplers.fixed import DirectShuffle

SCALE = 4
BUDGETS = "0.25,0.4,0.6,0.8,0.9,1"
PHOTO_SIZE = (320, 480)  # LR pixels of each photo of --photos


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


def run(picture: torch.Tensor, model: Model, budget: Budget, dtype: Dtype, scale: int = SCALE) -> CostReport:
    """The whole picture as one tile."""
    return enlarged(picture, model, scale, budget, RunOptions(tile=max(picture.shape[-2:]), dtype=dtype))


def shares(
    method: Method,
    model: Model,
    picture: torch.Tensor,
    dtype: Dtype,
    repeats: int,
    budgets: list[float],
    scale: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Table, bool]:
    """One network at all its budgets, in turns."""
    requests = [*method.native, *budgets]
    times: dict[str | float, list[float]] = {}
    reports: dict[str | float, CostReport] = {}
    for turn in range(repeats + 1):  # the first turn warms up, and finds which budgets are below the floor
        for request in requests:
            if turn and request not in times:
                continue
            began = clock()
            try:
                report = run(picture, model, Budget.parse(request), dtype, scale)
            except BudgetInfeasible:
                continue
            reports[request] = report
            times.setdefault(request, [])
            if turn:
                times[request].append(clock() - began)
    full = statistics.median(times[1.0])
    kept = True
    table = Table(f"{method.title}, {dtype}", "MACs", "rims", "time", "promised", "seconds")
    for request, seconds in times.items():
        ratio, report = statistics.median(seconds) / full, reports[request]
        share = report.share
        promise = method.promise(share) if method.promise and share < 1 else float("inf")
        kept &= ratio <= promise
        words = "" if promise == float("inf") else f"{promise:.2f} {'ok' if ratio <= promise else 'MISSED'}"
        label = request if isinstance(request, str) else f"{request:.0%}"
        table.add_row(
            label, f"{share:.3f}", f"{report.rim:.3f}", f"{ratio:.3f}", words, f"{statistics.median(seconds):.2f}"
        )
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
    times = medians(patch_sides(model, picture, dtypes), repeats)
    base = times["literal loop, fp32"]
    table = Table("ENAF FSRCNN, η = 0.5", "seconds", "times faster", title="its patches")
    for name, middle in times.items():
        table.add_row(name, f"{middle:.3f}", f"{base / middle:.1f}")
    return table


def never_over(title: str, model: Model, photos: list[Path], budgets: list[float], dtype: Dtype, scale: int) -> Table:
    """The share of the MACs that each budget spends on each photo."""
    table, least = Table("photo", *(f"{b:.0%}" for b in budgets), title=f"{title}, ×{scale}: share of MACs spent"), 0.0
    for path in photos:
        picture, row = centre(path, PHOTO_SIZE), []
        for budget in budgets:
            share = run(picture, model, Budget.fraction(budget), dtype, scale).share
            if share > budget:
                raise SystemExit(f"{path.name}: {share:.4f} is over the budget of {budget}")
            least = max(least, budget - share)
            row.append(f"{share:.3f}")
        table.add_row(path.stem, *row)
    table.caption = f"never over; at most {least:.4f} of the full MACs under"
    return table


def draw_maps(picture: torch.Tensor, models: dict[str, Model], out: Path, budget: float) -> None:
    """The photo, and for each method where the work went at one budget: one picture."""
    import matplotlib.pyplot as plt

    drawn = {"the picture": picture.permute(1, 2, 0).numpy()}
    for title, model in models.items():
        try:
            report = run(picture, model, Budget.fraction(budget), "auto")
        except BudgetInfeasible as error:
            report = run(picture, model, Budget.fraction(min(1.0, (error.floor or 0.95) + 0.05)), "auto")
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder with the published weight files")
    parser.add_argument("--photo", type=Path, default=PHOTO)
    parser.add_argument("--photos", type=Path, help="spend the budgets on every photo of this folder, and stop")
    parser.add_argument("--size", default="510x339", help="LR pixels: the centre of the photo")
    parser.add_argument("--scale", type=int, default=SCALE, help="networks of one scale take theirs")
    parser.add_argument("--budgets", default=BUDGETS, help="shares of the MACs; 1 is what the others are compared with")
    parser.add_argument("--only", default=",".join(METHODS))
    parser.add_argument("--dtypes", default="fp32,bf16" if fast_bf16(torch.device("cpu")) else "fp32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cpu", action="store_true", help="CPU seconds, not those of the clock")
    parser.add_argument("--maps", type=Path, help="draw the effort maps to this PNG and stop")
    parser.add_argument("--budget", type=float, default=0.6, help="of the maps")
    given = parser.parse_args()
    chosen = {name: METHODS[name] for name in given.only.split(",")}
    models = {name: open_method(method, given.weights) for name, method in chosen.items()}
    picture, dtypes = centre(given.photo, size_of(given.size)), given.dtypes.split(",")
    budgets = sorted({float(share) for share in given.budgets.split(",")} | {1.0})
    clock = time.process_time if given.cpu else time.perf_counter
    console, kept = Console(width=120), True
    if given.maps:
        draw_maps(picture, {METHODS[name].title: m for name, m in models.items()}, given.maps, given.budget)
        return 0
    if given.photos:
        photos = sorted(path for path in given.photos.iterdir() if path.suffix.lower() in images.READABLE)
        for name, model in models.items():
            console.print(never_over(METHODS[name].title, model, photos, budgets, dtypes[0], given.scale))
        return 0
    for name, method in chosen.items():
        for dtype in dtypes:
            model = models[name]
            table, all_kept = shares(method, model, picture, dtype, given.repeats, budgets, given.scale, clock)
            kept &= all_kept
            console.print(table)
    if isinstance(model := models.get("enaf-fsrcnn"), PatchwiseModel):
        console.print(patch_by_patch(model, picture, given.repeats, dtypes))
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
