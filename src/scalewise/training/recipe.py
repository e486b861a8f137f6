"""Recipe: how a model is made, as one value: network, data, stages, what it should reach, and where that is from."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from scalewise.data import Samples
from scalewise.data.pack import save_tensors
from scalewise.errors import InvalidRequest, TrainingError

if TYPE_CHECKING:
    from scalewise.training.task import Way

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Moment:
    """Where in a stage a loss is asked: the step's number, how many there are, and the step's own random numbers.

    `generator` is on the CPU and seeded by seed, stage, step and process; torch's global one is seeded so too. Where
    samples are made on the device (`device_loop.py`) it is None: numbers come from the device's own."""

    step: int
    steps: int
    generator: torch.Generator | None


# (model, batch, moment) → "loss", which is minimised, and what else is to be logged, all scalars.
Loss = Callable[[nn.Module, Batch, Moment], dict[str, Tensor]]
Schedule = Callable[[float], float]  # share done in [0, 1] → factor of the learning rate


def constant(done: float) -> float:
    return 1.0


def cosine(done: float) -> float:
    """From 1 to 0.01 along half a cosine."""
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))


def one_cycle(done: float) -> float:
    """Up from 1/25 for 0.3 of the time, then down to nearly nothing, along cosines (Smith, arXiv:1708.07120)."""
    low, rise = (0.04, done / 0.3) if done < 0.3 else (4e-6, (1 - done) / 0.7)
    return low + (1 - low) * 0.5 * (1 - math.cos(math.pi * rise))


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
    """One optimizer's run. `batch` counts all processes together. Adam, with decoupled `decay` if it is not 0.

    `ema`: decay of the weights' moving average, which is what the stage leaves; None keeps the last weights. `trains`:
    the parameters that learn (all by default), the others are frozen. `clip`: largest norm of the gradient. `warmup`:
    steps over which the learning rate rises. `exact`: fp32 even where bf16 is fast. `prepare` is called with the model
    before the stage, and again on resuming, before the weights come back. `way`: makes another Lightning module than
    `Way`, for what one loss and one optimizer cannot say (`gan.Adversarial`)."""

    name: str
    steps: int
    samples: Samples
    loss: Loss
    batch: int = 16
    learning_rate: float = 1e-4
    schedule: Schedule = constant
    warmup: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    decay: float = 0.0
    clip: float | None = None
    ema: float | None = 0.999
    trains: Callable[[nn.Module], Iterable[nn.Parameter]] | None = None
    exact: bool = False
    prepare: Callable[[nn.Module], object] | None = None
    way: Callable[..., Way] | None = None

    def rate(self, step: int) -> float:
        """The learning rate of a step (0-based)."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * self.schedule(min(1.0, done))


class Buildable(Protocol):
    """What makes a model and writes its weight file: `zoo.Network`, or `Theirs`."""

    def build(self) -> nn.Module: ...

    def save(self, model: nn.Module, path: Path, about: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Recipe:
    """How a model is made. `expects` is the promise: protocol, data set and scale → dB. `card` goes into the weight
    file beside what the engine knows (data, steps, hours, machine). `validate_at`: scales of the validation."""

    name: str
    network: Buildable
    stages: tuple[Stage, ...]
    source: str
    summary: str = ""
    expects: Mapping[str, float] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    validate_at: tuple[float, ...] = (2.0, 3.0, 4.0)
    seed: int = 1
    licence: str = "Apache-2.0"

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def needs(self) -> int:
        """Pixels that a picture must have on both sides."""
        return max(stage.samples.needs for stage in self.stages)

    def shortened(self, steps: int) -> Recipe:
        """The same in so many steps, shared among the stages as before; each has at least one."""
        if steps < len(self.stages):
            raise InvalidRequest(f"{steps} steps are too few: {self.name} has {len(self.stages)} stages, one each")
        ends, behind = [], 0
        for left, stage in zip(range(len(self.stages) - 1, -1, -1), self.stages, strict=True):
            behind += stage.steps
            end = round(steps * behind / self.steps)
            ends.append(min(max(end, (ends or [0])[-1] + 1), steps - left))
        parts = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        shorter = tuple(
            replace(stage, steps=part, warmup=round(stage.warmup * part / stage.steps))
            for stage, part in zip(self.stages, parts, strict=True)
        )
        return replace(self, stages=shorter)


@dataclass(frozen=True)
class Theirs:
    """A model of one's own: `package.module:build` or `file.py:build`, a function that gives a SuperResolver.

    Its weight file holds plain tensors, as nothing of ours can build it: `model.load_state_dict(load_file(path))`."""

    target: str

    def build(self) -> nn.Module:
        place, _, name = self.target.rpartition(":")
        if not place:
            raise InvalidRequest(f"--model {self.target}: write package.module:function or file.py:function")
        build = getattr(self._module(place), name, None)
        if build is None:
            raise InvalidRequest(f"--model {self.target}: {place} has no {name!r}")
        model = build()
        if not isinstance(model, nn.Module):
            raise InvalidRequest(f"--model {self.target} gave {type(model).__name__}: it must give a SuperResolver")
        return model

    def _module(self, place: str) -> Any:
        if place.endswith(".py"):
            path = Path(place)
            spec = importlib.util.spec_from_file_location(path.stem, path)
            if spec is None or spec.loader is None or not path.is_file():
                raise InvalidRequest(f"--model {self.target}: there is no file {place!r}")
            module = importlib.util.module_from_spec(spec)
            sys.modules.setdefault(path.stem, module)
            spec.loader.exec_module(module)
            return module
        if "" not in sys.path:
            sys.path.insert(0, "")  # where they are, as with python -m
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise InvalidRequest(f"--model {self.target}: {error}") from None

    def save(self, model: nn.Module, path: Path, about: Mapping[str, Any]) -> None:
        save_tensors(path, model.state_dict(), {key: str(value) for key, value in about.items()})


def check_losses(losses: Mapping[str, Tensor]) -> None:
    """What a loss gave must have "loss"; our own recipes do, so this is for others'."""
    if "loss" not in losses:
        raise TrainingError(f"a loss must give 'loss' beside what it logs; it gave {', '.join(losses) or 'nothing'}")
