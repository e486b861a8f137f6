"""Recipe: how a model is made, as one value: network, stages, what it should reach, and where that is from."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from scalewise.errors import InvalidRequest
from scalewise.training.stage import Stage
from scalewise.training.state import save_tensors


class Buildable(Protocol):
    """What makes a model and writes its weight file: `checkpoints.spec.Pair` or `Network`, or `CustomModel`."""

    def build(self) -> nn.Module: ...

    def save(self, model: nn.Module, path: Path, about: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Recipe:
    """How a model is made. `expects` is the promise: protocol, data set and scale → dB. `card` goes into the weight
    file with what the engine knows (data, steps, hours, machine). `validate_at`: scales of the validation."""

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

    def begun_at(self, name: str) -> Recipe:
        """The same without the stages before this one, whose work is in the weights that it begins with."""
        names = [stage.name for stage in self.stages]
        if name not in names:
            raise InvalidRequest(f"{self.name} has no stage {name!r}: its stages are {', '.join(names)}")
        return replace(self, stages=self.stages[names.index(name) :])

    def shortened(self, steps: int) -> Recipe:
        """The same in so many steps, shared among the stages as before; each has at least one."""
        if steps < len(self.stages):
            raise InvalidRequest(f"{steps} steps are too few: {self.name} has {len(self.stages)} stages, one each")
        ends, before = [], 0
        for left, stage in zip(range(len(self.stages) - 1, -1, -1), self.stages, strict=True):
            before += stage.steps
            end = round(steps * before / self.steps)
            ends.append(min(max(end, (ends or [0])[-1] + 1), steps - left))
        parts = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        shorter = tuple(
            replace(stage, steps=part, warmup=round(stage.warmup * part / stage.steps))
            for stage, part in zip(self.stages, parts, strict=True)
        )
        return replace(self, stages=shorter)


@dataclass(frozen=True)
class CustomModel:
    """A user's own model: `package.module:build` or `file.py:build`, a function that gives a SuperResolver.

    Its weight file holds plain tensors, as nothing of ours can build it: `model.load_state_dict(load_file(path))`."""

    target: str

    def build(self) -> nn.Module:
        model = named_function(self.target, f"model {self.target}")()
        if not isinstance(model, nn.Module):
            raise InvalidRequest(f"model {self.target} gave {type(model).__name__}: it must give a SuperResolver")
        return model

    def save(self, model: nn.Module, path: Path, about: Mapping[str, Any]) -> None:
        save_tensors(path, model.state_dict(), {key: str(value) for key, value in about.items()})


def named_function(target: str, subject: str) -> Callable[..., Any]:
    """What `package.module:function` or `file.py:function` names. Raises InvalidRequest that begins with `subject`."""
    place, _, name = target.rpartition(":")
    if not place:
        raise InvalidRequest(f"{subject}: write package.module:function or file.py:function")
    found = getattr(_module(place, subject), name, None)
    if not callable(found):
        raise InvalidRequest(f"{subject}: {place} has no function {name!r}")
    return found


def _module(place: str, subject: str) -> Any:
    if place.endswith(".py"):
        path = Path(place)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise InvalidRequest(f"{subject}: there is no file {place!r}")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(path.stem, module)
        spec.loader.exec_module(module)
        return module
    if "" not in sys.path:
        sys.path.insert(0, "")  # the working directory, as with python -m
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise InvalidRequest(f"{subject}: {error}") from None
