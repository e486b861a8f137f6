"""A recipe of seconds, and a child process that runs it: `python toy.py OUT [key=value …]`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from scalewise.checkpoints.spec import Pair, spec, tail
from scalewise.data import AnyScaleCrops
from scalewise.encoders.edsr import EDSR
from scalewise.training.engine import Trained, TrainOptions, train
from scalewise.training.losses.pixel import l1
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Batch, Stage, StepContext, cosine
from scalewise.training.task import StageTask
from scalewise.upsamplers.liif import LIIF

NETWORK = Pair(spec(EDSR, channels=4, blocks=1), tail(LIIF, hidden=(8,)))
CROPS = AnyScaleCrops(lr_side=8, points=4, scales=(1.0, 3.0), tries=3)
STAGE = Stage("l1", 6, CROPS, l1, batch=4, learning_rate=1e-2, schedule=cosine, warmup=2, ema=0.9)
TOY = Recipe("toy", NETWORK, (STAGE, replace(STAGE, name="finish", steps=3)), source="tests")
PLAN = TrainOptions(save_every=2, workers=0, dtype="fp32", quiet=True)


def waves(count: int = 2, side: int = 40) -> list[Tensor]:
    """Smooth pictures."""
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(count):
        slopes = random.uniform(0.1, 1, (3, 2))
        planes = [np.sin(np.add.outer(np.arange(side) * a, np.arange(side + 2) * b)) for a, b in slopes]
        pictures.append(torch.from_numpy(((np.stack(planes) * 0.4 + 0.5) * 255).astype(np.uint8)))
    return pictures


@dataclass(frozen=True)
class At:
    """L1 that does something when it reaches a step."""

    step: int
    act: Callable[[], object]

    def __call__(self, model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        if context.step == self.step:
            self.act()
        return l1(model, batch, context)


def acting(step: int, act: Callable[[], object], recipe: Recipe = TOY) -> Recipe:
    """The recipe with something that happens at a step of its first stage."""
    first, *others = recipe.stages
    return replace(recipe, stages=(replace(first, loss=At(step, act)), *others))


def check_going_on_is_exact(recipe: Recipe, plan: TrainOptions, stage: str, straight: Trained, out: Path) -> Trained:
    """A run in `out` that is stopped after each of two steps of `stage` ends with the weights of `straight`."""
    for step in (1, 2):
        stopped = train(recipe, waves(), out, replace(plan, resume=True, seconds=0.0))
        assert (stopped.stage, stopped.step) == (stage, step)
    done = train(recipe, waves(), out, replace(plan, resume=True))
    ours, theirs = load_file(done.weights), load_file(straight.weights)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    return done


class Watched(StageTask):
    """Keeps the gradient that the optimizer gets."""

    def check_gradient(self, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
        super().check_gradient(optimizer, batch)
        if self.global_rank == 0:
            torch.save({name: p.grad for name, p in self.learnt.items()}, self.out / f"gradient{self.step}.pt")


def main() -> None:
    out, given = Path(sys.argv[1]), dict(word.split("=") for word in sys.argv[2:])
    torch.set_num_threads(int(given["threads"]))  # sums are taken in another order by another number of threads
    recipe = TOY
    if "kill" in given:
        recipe = acting(int(given["kill"]), lambda: os.kill(os.getpid(), signal.SIGKILL))
    if "devices" in given:
        recipe = replace(TOY, stages=(replace(STAGE, steps=2, task=Watched),))
    train(recipe, waves(), out, replace(PLAN, workers=1, devices=int(given.get("devices", 1))))


if __name__ == "__main__":
    main()
