"""TADT on a trunk whose branches matter: β, MACs and dB by scale for each price on β, over seeds.

    python benchmarks/tadt_prices.py --data DIR --val DIR --out DIR [--first 4000] [--steps 400] [--seeds 3]

First the Baseline learns: 48 channels, four groups (--channels, --groups), LIIF's head, crops of 32×32. The gate: with
all branches off it must lose 0.2 dB at ×2 and ×4, or branches are worth nothing, and less work at equal dB says
nothing; below it the script ends with exit code 1, unless --anyway. Printed too: what half of the branches cost in L1,
over λ/2, the price that leaving them out saves. Then, from the same weights and in equal steps: the Baseline goes on,
and the network with its controller learns by no price, by Eq. 5, and by Eq. 5 without the mask, each with every seed.
dB: protocol default on the centres of the photos in --val. MACs: of the encoder, over those with all branches. A second
call goes on where the first was stopped.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adaptive_training import Measured, centre, pictures_for
from common import trained
from torch import nn

from scalewise import zoo
from scalewise.budget.budget import Budget
from scalewise.checkpoints import files
from scalewise.checkpoints.spec import Pair, spec, tail
from scalewise.data import AnyScaleCrops, decode_folder, open_pictures
from scalewise.encoders.tadt import TADT
from scalewise.evaluate import bicubic, upscaler_of
from scalewise.evaluate.figures import intensities
from scalewise.recipes.tadt import BASELINE, start_at_three_quarters
from scalewise.routing.branch import PENALTY
from scalewise.training.losses.adaptive import RoutedL1, all_branches_l1, without_controller
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage, cosine
from scalewise.upsamplers.liif import LIIF

CONTROLLER = "encoder.controller."
LOSS_DB = 0.2  # what all branches together must be worth
SCALES = (2.0, 3.0, 4.0)


def network(channels: int, groups: int) -> Pair:
    """The controller sees the logarithm of the scale, as in our recipes."""
    trunk = spec(
        TADT, channels=channels, groups=groups, windows=(4, 8, 16), global_window=32, pooled=8, features=channels,
        scale_input="log",
    )  # fmt: skip
    return Pair(trunk, tail(LIIF, hidden=(64, 64)), base="bilinear")


CROPS = AnyScaleCrops(lr_side=32, points=24, whole=0.3)


def wide_start(model: nn.Module) -> None:
    """Linear layers start at the width that keeps the size of what passes them. With Swin's 0.02, made for wider
    networks, a branch of 12 channels starts at next to nothing, and short trainings leave it there."""
    for module in model.get_submodule("encoder.groups").modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)


FIRST = replace(
    BASELINE, samples=CROPS, batch=4, learning_rate=1e-3, schedule=cosine, warmup=100, clip=1.0, prepare=wide_start,
)  # fmt: skip
NEXT = replace(FIRST, batch=2, warmup=20, trains=None)


@dataclass(frozen=True)
class FromTrunk:
    """Starts a stage from the Baseline's weights, and from a controller of the run's own seed at β = 0.75."""

    weights: Path

    def __call__(self, model: nn.Module) -> None:
        trunk = {name: one for name, one in files.read(self.weights).data.items() if CONTROLLER not in name}
        missing = model.load_state_dict(trunk, strict=False).missing_keys
        assert all(CONTROLLER in name for name in missing)
        start_at_three_quarters(model)


PRICES = {
    "Eq. 5": RoutedL1(PENALTY),
    "no mask": RoutedL1(PENALTY, threshold=None),
    "no price": RoutedL1(0.0),
}
ALL, HALF, NONE, OWN = (Budget.native("beta", value) for value in (1.0, 0.5, 1e-6, 0.0))


def decibels(model: Any, measured: list[Measured], budget: Budget) -> list[float]:
    return [one.score(upscaler_of(model, budget))[0] for one in measured]


@torch.no_grad()
def errors(model: Any, measured: list[Measured], budget: Budget) -> list[float]:
    """The mean L1 of RGB in [-1, 1] by scale, as Eq. 5 weighs it against the price."""
    run, found = upscaler_of(model, budget), []
    for one in measured:
        srs = [run(lr, (hr.shape[-2], hr.shape[-1]), one.scale).sr for lr, hr in one.pairs]
        off = [float((sr - hr).abs().mean()) for sr, (_, hr) in zip(srs, one.pairs, strict=True)]
        found.append(2 * float(np.mean(off)))
    return found


def recipe(name: str, made: Pair, stage: Stage, seed: int) -> Recipe:
    return Recipe(name, made, (stage,), source="TADT (arXiv:2408.08736)", seed=seed)


def words(values: list[float], form: str = "{:.3f}") -> str:
    return "  ".join(form.format(value) for value in values)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--channels", type=int, default=48)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--first", type=int, default=4000, help="steps of the first stage")
    parser.add_argument("--steps", type=int, default=400, help="of the second stage")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--side", type=int, default=320, help="HR pixels of the centres")
    parser.add_argument("--anyway", action="store_true", help="the second stage even if the gate is shut")
    given = parser.parse_args()
    photos = open_pictures(given.data)
    centres = [centre(picture, given.side) for picture in decode_folder(given.val)]
    measured = [pictures_for(None, scale, centres, None) for scale in SCALES]

    halved = [lr for lr, _ in measured[0].pairs]
    made = network(given.channels, given.groups)
    first = replace(FIRST, steps=given.first)
    trunk = trained(recipe("trunk", made, first, 1), photos, given.out)
    model: Any = zoo.load(trunk).model
    every, nothing = decibels(model, measured, ALL), decibels(model, measured, NONE)
    worth = [more - less for more, less in zip(every, nothing, strict=True)]
    print("×2, ×3, ×4")
    print(f"bicubic            {words([one.score(bicubic)[0] for one in measured])} dB")
    print(f"trunk, all on      {words(every)} dB")
    print(f"branches are worth {words(worth, '{:+.3f}')} dB")
    half = [less - more for less, more in zip(errors(model, measured, HALF), errors(model, measured, ALL), strict=True)]
    saved = [cost / (PENALTY / 2) for cost in half]
    print(f"half of them off   {words(saved)} × the price that it saves", flush=True)
    if min(worth[0], worth[-1]) < LOSS_DB and not given.anyway:
        print(f"the gate is shut: all branches off costs less than {LOSS_DB} dB")
        return 1

    start = FromTrunk(trunk)
    stages = {"Baseline": replace(NEXT, loss=all_branches_l1, trains=without_controller, prepare=start)}
    stages |= {name: replace(NEXT, loss=loss, prepare=start) for name, loss in PRICES.items()}
    for seed in range(1, given.seeds + 1):
        for name, stage in stages.items():
            label = f"{name} {seed}".replace(" ", "-").replace(".", "")
            stage = replace(stage, steps=given.steps)
            model = zoo.load(trained(recipe(label, made, stage, seed), photos, given.out)).model
            gained = decibels(model, measured, ALL if name == "Baseline" else OWN)
            print(f"{name:9} seed {seed}  {words(gained)} dB", end="")
            if name != "Baseline":
                found = intensities(model, halved)
                print("  β", words(found.beta[::8]), " MACs", words(found.share[::8]), end="")
            print(flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
