"""Every tiny recipe trained and measured: `make train-tiny DATA=photos VAL=held-out`. Stopped at any time, it goes on.

    python benchmarks/train_tiny.py --data DIR --val DIR [--pano DIR] [--out runs/tiny] [--threads 2] [--only NAME …]

Each recipe of `scalewise train --list` that ends in -tiny gets a folder in --out: what `scalewise train` leaves, and
`row.json` once it is measured; what has one is skipped. At the end --out/table.md has the rows, and what fails a
promise is named, with exit code 1.

- minutes: processor time of --threads threads, samples made by the same process, all calls together. Where nothing else
  runs and --threads is 1 that is about the time on the clock.
- gain: dB over MATLAB's bicubic on the centres (--side HR pixels) of the pictures in --val, degraded as the recipe
  degrades them: protocol default (Y, border ceil(scale), 8 bits) with everything on. Recipes for 360° pictures: WS-PSNR
  of protocol odi on --pano.
- route: of the units that a routed network decided about (patches, windows, tokens, branches; all layers), the share of
  each option, cheapest first, at the paper's own dial, or at half of the MACs where there is none; and the MACs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalewise.budget.budget import Budget
from scalewise.cli.format import table_text
from scalewise.data import AnyScaleCrops, FixedScaleCrops, bicubic_8bit, decode_folder, open_pictures
from scalewise.encoders.camixer_odi import CAMixerODI
from scalewise.evaluate import EvalProtocol, Upscaler, bicubic, find_protocol, make_lr, predict, score, upscaler_of
from scalewise.evaluate.upscalers import wrapped
from scalewise.geometry.grid import Frame
from scalewise.models.model import Model
from scalewise.models.super_resolver import SuperResolver
from scalewise.recipes import RECIPES
from scalewise.training.engine import TrainOptions, train
from scalewise.training.gan import Adversarial
from scalewise.training.recipe import Recipe

WANTED_DB = 0.3  # over bicubic
MOST_LOSS_DB = 1.0  # a stage against a discriminator may lose it
FAIR = (0.55, 0.95)  # a discriminator's accuracy
# What the papers set their dials to. TADT, ClassSR: what the network itself chooses.
OWN = {"beta": 0.0, "epsilon": 0.05, "gamma": 0.5, "eta": 0.5, "k": 1.5, "lambda": 0.0, "threshold": 0.0}
HALF = Budget.fraction(0.5)


@dataclass(frozen=True)
class Val:
    """Pictures (3, h, w) in [0, 1] and how they are measured."""

    pictures: Sequence[Tensor]
    protocol: EvalProtocol
    metric: str

    @classmethod
    def of(cls, folder: Path, side: int) -> Val:
        pictures = []
        for picture in decode_folder(folder):
            top, left = (max(0, (n - side) // 2) for n in picture.shape[-2:])
            pictures.append(picture[:, top : top + side, left : left + side].float() / 255)
        return cls(pictures, find_protocol("default"), "psnr")

    @classmethod
    def round(cls, folder: Path) -> Val:
        """360° pictures, whole, reduced to 2048×1024."""
        random = np.random.default_rng(0)
        pictures = [bicubic_8bit(picture.float() / 255, (1024, 2048), random) for picture in decode_folder(folder)]
        return cls(pictures, find_protocol("odi"), "ws_psnr")

    def pairs(self, recipe: Recipe, scale: float) -> list[tuple[Tensor, Tensor]]:
        """(lr, hr) of every picture, the LR made as the recipe's last stage makes it."""
        samples = recipe.stages[-1].samples
        reduce = samples.reduce if isinstance(samples, AnyScaleCrops | FixedScaleCrops) else bicubic_8bit
        found = []
        for number, picture in enumerate(self.pictures):
            h, w = (int(n / scale + 1e-9) for n in picture.shape[-2:])
            hr = picture[:, : round(h * scale), : round(w * scale)]
            if reduce is bicubic_8bit:
                found.append((make_lr(hr, (h, w), scale, self.protocol), hr))
            else:
                found.append((reduce(hr, (h, w), np.random.default_rng(number)), hr))
        return found

    def mean(self, upscaler: Upscaler, pairs: Sequence[tuple[Tensor, Tensor]], scale: float) -> float:
        values = []
        for lr, hr in pairs:
            sr = predict(upscaler, lr, (hr.shape[-2], hr.shape[-1]), scale, self.protocol).sr.float()
            values.append(score(sr, hr[:, : sr.shape[-2], : sr.shape[-1]], scale, self.protocol)[self.metric])
        return float(np.mean(values))


@torch.no_grad()
def routes(model: Model, lrs: Sequence[Tensor], scale: float) -> dict[str, Any] | None:
    """The share of each option and of the MACs; None for a network that has nothing to choose."""
    budget = dial(model)
    if budget is None:
        return None
    counts: dict[str, np.ndarray] = {}
    spent = full = 0
    for lr in lrs:
        size = (lr.shape[-2], lr.shape[-1])
        out = (round(size[0] * scale), round(size[1] * scale))
        plan = model.plan(model.score(lr[None], (scale, scale)), size, out, budget)
        rendered = model.render(lr[None], Frame(size), (0, 0, *size), out, plan)
        spent += rendered.macs.total + plan.overhead.total
        full += plan.macs_full
        for decision in rendered.route or plan.route:
            taken = decision.choice.flatten().cpu().numpy()
            found = np.bincount(taken, minlength=len(decision.cost))
            before = counts.get(decision.unit, np.zeros(0, int))
            width = max(len(before), len(found))
            counts[decision.unit] = sum(np.pad(count, (0, width - len(count))) for count in (before, found))  # type: ignore[assignment]
    shares = {unit: (count / count.sum()).round(4).tolist() for unit, count in counts.items()}
    at = f"{budget.dial}={budget.value:g}" if budget.dial else f"{budget.value:.0%}"
    return {"at": at, "shares": shares, "macs": spent / full}


def dial(model: Model) -> Budget | None:
    """The paper's own dial at its own value; half of the MACs for ours; None if the network has no choice."""
    if isinstance(model, SuperResolver):
        names = getattr(model.encoder, "dials", ())
        return Budget.native(names[0], OWN[names[0]]) if names else None
    router = getattr(model, "router", None)
    names = getattr(router, "dials", () if router is not None else ("threshold",))
    return Budget.native(names[0], OWN[names[0]]) if names else HALF


def gains(recipe: Recipe, model: Model, val: Val) -> dict[str, float]:
    """Scale → dB over bicubic."""
    upscaler: Upscaler = upscaler_of(model)
    floor: Upscaler = bicubic
    if val.metric == "ws_psnr":
        upscaler, floor = wrapped(upscaler), wrapped(bicubic)
    found = {}
    for scale in recipe.validate_at:
        pairs = val.pairs(recipe, scale)
        found[f"{scale:g}"] = round(val.mean(upscaler, pairs, scale) - val.mean(floor, pairs, scale), 3)
    return found


def make(recipe: Recipe, pictures: Sequence[Tensor], val: Val, out: Path) -> dict[str, Any]:
    """Train a recipe, or go on with it, and measure it; before a stage against a discriminator too."""
    against = isinstance(recipe.stages[-1].task, Adversarial)
    before = out / "before.json"
    if against and not before.exists():
        model = trained(replace(recipe, stages=recipe.stages[:-1]), pictures, out)
        before.write_text(json.dumps(gains(recipe, model, val)))
    model = trained(recipe, pictures, out)
    first = recipe.validate_at[0]
    row = {
        "recipe": recipe.name,
        "steps": recipe.steps,
        "minutes": round(float((out / "seconds.txt").read_text()) / 60, 2),
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "protocol": f"{val.protocol.name}, {val.metric}",
        "gain": gains(recipe, model, val),
        "route": routes(model, [lr for lr, _ in val.pairs(recipe, first)], first),
    }
    if against:
        row |= {"before": json.loads(before.read_text()), "accuracy": judged(out / "log.jsonl", recipe.stages[-1].name)}
    return row


def trained(recipe: Recipe, pictures: Sequence[Tensor], out: Path) -> Any:
    """The model at the end of the recipe's last stage; what it took is added to `seconds.txt`."""
    used, began = out / "seconds.txt", sum(os.times()[:4])
    done = train(recipe, pictures, out, TrainOptions(resume=True, workers=0))
    before = float(used.read_text()) if used.exists() else 0.0
    used.write_text(f"{before + sum(os.times()[:4]) - began:.1f}")
    if done.reason != "done":
        sys.exit(130)
    return done.model


def judged(log: Path, stage: str) -> list[float]:
    """The discriminator's accuracy, the means over the steps between two lines of the log."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [round(line["accuracy"], 3) for line in lines if line["stage"] == stage and "accuracy" in line]


def failures(row: dict[str, Any]) -> list[str]:
    """The promises that a row does not keep."""
    found = []
    if "before" in row:
        found += [
            f"{row['recipe']}: x{scale} lost {row['before'][scale] - gain:.2f} dB against the discriminator"
            for scale, gain in row["gain"].items()
            if row["before"][scale] - gain > MOST_LOSS_DB
        ]
        if not FAIR[0] <= row["accuracy"][-1] <= FAIR[1]:
            found.append(f"{row['recipe']}: the discriminator's accuracy is {row['accuracy'][-1]:.2f}")
    gain = row.get("before", row["gain"])
    found += [f"{row['recipe']}: x{scale} gains {value:+.2f} dB" for scale, value in gain.items() if value < WANTED_DB]
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    cells = []
    for row in rows:
        route = row["route"]
        words = "-"
        if route:
            parts = [f"{unit} " + "/".join(f"{100 * x:.0f}" for x in share) for unit, share in route["shares"].items()]
            words = f"{route['at']}: {', '.join(parts)}%; MACs {100 * route['macs']:.1f}%"
        gain = " ".join(f"×{scale} {value:+.2f}" for scale, value in row["gain"].items())
        cells.append([row["recipe"], f"{row['steps']:,}", f"{row['minutes']:.1f}", gain, row["protocol"], words])
    return table_text(["recipe", "steps", "minutes", "gain, dB", "protocol", "share of each option"], cells, "markdown")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--pano", type=Path, help="360° pictures, for the recipes that need them")
    parser.add_argument("--out", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", help="names; the table still has all rows that there are")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    pictures, val = open_pictures(given.data), Val.of(given.val, given.side)
    tiny = [recipe for name, recipe in RECIPES.items() if name.endswith("-tiny")]
    by_name = {recipe.name: recipe for recipe in tiny}
    for recipe in [by_name[name] for name in given.only or by_name]:
        folder = given.out / recipe.name
        if (folder / "row.json").exists():
            continue
        print(f"{recipe.name}: {recipe.steps} steps", flush=True)
        measured = val
        if isinstance(getattr(recipe.network.build(), "encoder", None), CAMixerODI):
            if given.pano is None:
                print(f"{recipe.name} is left out: it is measured on 360° pictures, --pano DIR", flush=True)
                continue
            measured = Val.round(given.pano)
        row = make(recipe, pictures, measured, folder)
        (folder / "row.json").write_text(json.dumps(row, indent=1))
        print(json.dumps(row), flush=True)
    paths = [given.out / recipe.name / "row.json" for recipe in tiny]
    rows = [json.loads(path.read_text()) for path in paths if path.exists()]
    (given.out / "table.md").write_text(table(rows))
    print(table(rows))
    broken = [words for row in rows for words in failures(row)]
    print("\n".join(broken), file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
