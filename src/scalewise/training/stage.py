"""Stage: one optimizer's run, as a value: samples, loss, steps, learning rate; and the schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scalewise.data import Samples
from scalewise.errors import TrainingError

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class StepContext:
    """Where in its stage a step is: its number, how many there are, and the step's own random numbers.

    `generator` is on the CPU and seeded by seed, stage, step and process; torch's global one is seeded so too. Where
    samples are made on the device (`device_loop.py`) it is None: numbers come from the device's own."""

    step: int
    steps: int
    generator: torch.Generator | None


# (model, batch, context) → "loss", which is minimised, and what else is to be logged, all scalars.
Loss = Callable[[nn.Module, Batch, StepContext], dict[str, Tensor]]
Schedule = Callable[[float], float]  # share done in [0, 1] → factor of the learning rate


def constant(done: float) -> float:
    return 1.0


@dataclass(frozen=True)
class cosine_to:
    """From 1 to `end` along half a cosine."""

    end: float

    def __call__(self, done: float) -> float:
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * done))


cosine = cosine_to(0.01)


def one_cycle(done: float) -> float:
    """Up from 1/25 for 0.3 of the time, then down to nearly nothing, along cosines (Smith, arXiv:1708.07120)."""
    low, rise = (0.04, done / 0.3) if done < 0.3 else (4e-6, (1 - done) / 0.7)
    return low + (1 - low) * 0.5 * (1 - math.cos(math.pi * rise))


@dataclass(frozen=True)
class inverse_root:
    """1/√(1 + done/after): falls ever more slowly, so that a stage can be ended at any time by one that falls to 0."""

    after: float

    def __call__(self, done: float) -> float:
        return (1 + done / self.after) ** -0.5


@dataclass(frozen=True)
class halved:
    """Halved at each of these shares of the stage: LIIF is `halved(0.2, 0.4, 0.6, 0.8)`."""

    at: tuple[float, ...]

    def __init__(self, *at: float) -> None:
        object.__setattr__(self, "at", at)

    def __call__(self, done: float) -> float:
        return 0.5 ** sum(done >= part for part in self.at)


@dataclass(frozen=True)
class Stage:
    """One optimizer's run. `batch` counts all processes together. `optimizer`: AdamW, or SOAP (`soap.py`), both with
    decoupled `decay`.

    `ema`: decay of the weights' moving average, which is what the stage leaves; None leaves the last weights. `trains`:
    the parameters that learn (all by default), the others are frozen. `clip`: largest norm of the gradient. `warmup`:
    steps over which the learning rate rises. `exact`: fp32 even where bf16 is fast. `prepare` is called with the model
    before the stage, and again on resuming, before the weights are read; what it sets, as a first bias, it also sets in
    weights that a training begins with. `task`: what makes another `task.StageTask`, for what one loss and one
    optimizer cannot say (`gan.Adversarial`)."""

    name: str
    steps: int
    samples: Samples
    loss: Loss
    batch: int = 16
    learning_rate: float = 1e-4
    schedule: Schedule = constant
    optimizer: Literal["adamw", "soap"] = "adamw"
    warmup: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    decay: float = 0.0
    clip: float | None = None
    ema: float | None = None
    trains: Callable[[nn.Module], Iterable[nn.Parameter]] | None = None
    exact: bool = False
    prepare: Callable[[nn.Module], object] | None = None
    task: Callable[..., Any] | None = None

    def forgetting(self, step: int) -> float:
        """How much the weights of a step (0-based) count in the moving average. Early weights are soon far away, so the
        average begins short and lengthens to `ema`."""
        assert self.ema is not None
        return 1 - min(self.ema, (1 + step) / (10 + step))

    def rate(self, step: int) -> float:
        """The learning rate of a step (0-based)."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * self.schedule(min(1.0, done))


def check_losses(losses: Mapping[str, Tensor]) -> None:
    """What a loss gave must have "loss"; our own recipes do, so this is for others'."""
    if "loss" not in losses:
        raise TrainingError(f"a loss must give 'loss', more may follow; it gave {', '.join(losses) or 'nothing'}")
