"""What a budget saves: MACs kept to, and seconds saved, in one run. Run it on a quiet machine.

    python benchmarks/budget.py --photos DIR [--large PHOTO] [--dtype bf16]

First table: for each photo (its centre 480×320 as LR) and budget, the share of the full model's MACs that was spent.
Second: one 1020×678 LR picture, budgets 50% and 100% taken in turns, median seconds of `enlarge` without file
decoding and encoding, and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run
from scalewise.machine.device import Dtype

BUDGETS = (0.25, 0.5, 0.75, 1.0)
SCALES = (2, 4)


def centre(path: Path, width: int, height: int) -> torch.Tensor:
    source = images.open(path)
    top, left = (source.size[0] - height) // 2, (source.size[1] - width) // 2
    return (source.read((top, left, top + height, left + width)) * 255).round().to(torch.uint8)


def run(picture: torch.Tensor, model: object, scale: int, budget: float, dtype: Dtype):
    source = images.open(picture)
    size = (source.size[0] * scale, source.size[1] * scale)
    sink = images.create(None, size, source)
    run_plan = plan_run(source, sink.size, model, Budget.fraction(budget), RunOptions(dtype=dtype))  # type: ignore[arg-type]
    return enlarge(run_plan, sink)[1]


def shares(photos: list[Path], model: object, dtype: Dtype) -> Table:
    table = Table("photo", *(f"×{s} {b:.0%}" for s in SCALES for b in BUDGETS), title="share of MACs spent")
    worst = 0.0
    for path in photos:
        picture = centre(path, 480, 320)
        row = []
        for scale in SCALES:
            for budget in BUDGETS:
                report = run(picture, model, scale, budget, dtype)
                if report.share > budget:
                    raise SystemExit(f"{path.name} ×{scale}: {report.share:.4f} is over the budget of {budget}")
                worst = max(worst, budget - report.share)
                row.append(f"{report.share:.3f}")
        table.add_row(path.stem, *row)
    table.caption = f"never over; at most {worst:.4f} of the full MACs under"
    return table


def seconds(photo: Path, model: object, repeats: int, dtype: Dtype) -> Table:
    picture = centre(photo, 1020, 678)
    table = Table(
        "scale", "50%: s", "100%: s", "ratio", "rim at 50%", title=f"1020×678, {photo.name}, median of {repeats}"
    )
    for scale in SCALES:
        times: dict[float, list[float]] = {0.5: [], 1.0: []}
        rim = 0.0
        for turn in range(repeats + 1):  # the first turn warms up
            for budget in times:
                report = run(picture, model, scale, budget, dtype)
                rim = report.rim if budget == 0.5 else rim
                if turn:
                    times[budget].append(report.seconds)
        half, full = (statistics.median(times[b]) for b in (0.5, 1.0))
        table.add_row(f"×{scale}", f"{half:.2f}", f"{full:.2f}", f"{half / full:.3f}", f"{rim:.1%}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="What a budget saves.")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--large", type=Path, help="the photo for the timing; default: the first one")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("-n", "--model", default="fast")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    given = parser.parse_args()
    photos = sorted(p for p in given.photos.iterdir() if p.suffix.lower() in images.READABLE)
    model = zoo.load(given.model).model
    console = Console(width=140)
    console.print(seconds(given.large or photos[0], model, given.repeats, given.dtype))
    console.print(shares(photos, model, given.dtype))


if __name__ == "__main__":
    main()
