"""Budgets in seconds, kept or missed: what was asked, what it took, file to file. Run it on a quiet machine.

    python benchmarks/seconds.py [--weights DIR] [--photo PHOTO] [--only fast,camixer,enaf-carn] [--json FILE]

For each model and size of the picture, ×4: once at full budget and once at the least, to know its range; then budgets
in seconds between them, of a model that is loaded and measured. A picture is read from a PNG and written as a PNG. The
last column says whether it took within 15% of what was asked. Exit code 1 if one did not. `--sizes 1` takes only the
smallest picture of each model.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.budget.cost import CostReport
from scalewise.errors import BudgetInfeasible
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run
from scalewise.models.model import Model

SCALE = 4
PROMISED = 0.15
PARTS = (0.3, 0.6, 0.85)  # of the way from the least seconds to those at full budget
MODELS = {  # name → weight file, and the pictures: (rows, columns) of LR pixels
    "fast": ("fast", ((240, 360), (437, 656), (678, 1020))),
    "enaf-carn": ("carn_eunaf.t7", ((240, 360), (437, 656))),
    "camixer": ("CAMixerSR_S.pth", ((128, 192), (240, 360))),
}


def run(lr: Path, model: Model, budget: Budget, folder: Path) -> tuple[float, CostReport]:
    """Seconds from opening the file to the finished one."""
    began = time.perf_counter()
    source = images.open(lr)
    out = (source.size[0] * SCALE, source.size[1] * SCALE)
    sink = images.create(folder / "sr.png", out, source, overwrite=True)
    run_plan = plan_run(source, out, model, budget, RunOptions())
    report = enlarge(run_plan, sink)[1]
    return time.perf_counter() - began, report


def least(lr: Path, model: Model, folder: Path) -> float:
    """Seconds at about the least effort."""
    for share in (0.02, 0.1, 0.3, 0.5):
        try:
            return run(lr, model, Budget.fraction(share), folder)[0]
        except BudgetInfeasible as error:
            if error.floor is not None and error.floor < 0.97:
                return run(lr, model, Budget.fraction(error.floor + 0.02), folder)[0]
    raise BudgetInfeasible("this model has no range")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--weights", type=Path, default=root.parent / "shared" / "weights")
    parser.add_argument("--photo", type=Path, default=root / "examples" / "photo.jpg")
    parser.add_argument("--only", default=",".join(MODELS), help="names, separated by commas")
    parser.add_argument("--sizes", type=int, help="how many pictures of each model; all by default")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    photo = images.open(arguments.photo).read()
    rows, kept = [], True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title in arguments.only.split(","):
            file, sizes = MODELS[title]
            model = zoo.load(file if file in zoo.MODELS else arguments.weights / file).model
            table = Table("size", "asked", "took", "over", "MACs", "corrected", "", title=f"{title}, ×{SCALE}")
            for height, width in sizes[: arguments.sizes]:
                lr = folder / "lr.png"
                tiled = photo.repeat(1, -(-height // photo.shape[1]), -(-width // photo.shape[2]))[:, :height, :width]
                images.save(lr, (tiled * 255).round().to(torch.uint8), overwrite=True)
                run(lr, model, Budget.full(), folder)
                run(lr, model, Budget.seconds(1000), folder)  # measures the model, at first use
                low, high = least(lr, model, folder), run(lr, model, Budget.full(), folder)[0]
                for part in PARTS:
                    asked = round(low + part * (high - low), 2)
                    try:
                        took, report = run(lr, model, Budget.seconds(asked), folder)
                    except BudgetInfeasible as error:
                        table.add_row(f"{width}x{height}", f"{asked:.2f}", "", "", "", "", f"REFUSED: {error}")
                        kept = False
                        continue
                    over, fits = took / asked - 1, abs(took / asked - 1) <= PROMISED
                    kept &= fits
                    changes = sum(note.count(", then ") for note in report.notes)
                    cells = [f"{width}x{height}", f"{asked:.2f}", f"{took:.2f}", f"{over:+.0%}", f"{report.share:.0%}"]
                    table.add_row(*cells, str(changes), "ok" if fits else "MISSED")
                    row = {"model": title, "size": [width, height], "asked": asked, "took": took, "share": report.share}
                    rows.append(row | {"corrections": changes, "least": low, "full": high})
            Console().print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
