"""The models that a server offers: those of the zoo by name, and a visitor's own weight file."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from scalewise import images, zoo
from scalewise.app.problems import Refused
from scalewise.budget.budget import Budget
from scalewise.errors import BudgetInfeasible, ScalewiseError
from scalewise.execution.decide import decide
from scalewise.execution.enlarge import enlarge
from scalewise.execution.mask import takes_mask
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import in_parts, plan_run

OWN_TRIAL = 24  # LR pixels a side that a visitor's model is tried on

# What a visitor reads for a model; the other names of the zoo are for research.
WORDS = {
    "fast": ("Fast", "For most pictures, in the least time."),
    "quality": ("Best", "The finest detail. Takes longer."),
    "photo": ("Old or compressed", "Also cleans JPEG blocks and noise."),
}


@dataclass(frozen=True)
class OwnModel:
    """A visitor's weight file, loaded; `summary` says what it turned out to be, `least` the least share of the work."""

    loaded: zoo.LoadedModel
    summary: str
    least: float


def known(model: str) -> str:
    """A name of the zoo that can run. Raises Refused: paths are not for visitors."""
    names = runnable()
    if model in zoo.REMOVED:
        raise Refused(422, zoo.REMOVED[model], "model")
    if model not in names:
        raise Refused(422, f"model {model[:60]!r} is not served here: choose one of {', '.join(names)}", "model")
    return model


def runnable() -> tuple[str, ...]:
    return tuple(name for name, entry in zoo.MODELS.items() if entry.weights or not entry.needs_weights)


_FLOORS: dict[str, float] = {}
_FLOORS_LOCK = threading.Lock()


def floor_of(model: str) -> float:
    """The least share of the full work that a model can do on a small picture of noise; 1.0: it has none to spare."""
    with _FLOORS_LOCK:
        if model not in _FLOORS:
            _FLOORS[model] = _least(zoo.load(model))
        return _FLOORS[model]


def _least(loaded: zoo.LoadedModel, device: str | None = None) -> float:
    least, how, out = Budget.fraction(1e-4), RunOptions(device=device), (192, 192)
    if in_parts(loaded.model, (96, 96), out, least, how) is not loaded.model:
        return 0.01  # one level of effort: it runs on a part of the picture
    noise = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
    try:
        source = images.open((noise * 255).round().to(torch.uint8))
        decide(plan_run(source, out, loaded.model, least, how), least)
        return 0.01
    except BudgetInfeasible as error:
        return min(1.0, 1.0 if error.floor is None else error.floor)


def own_model(path: Path, name: str, device: str | None) -> OwnModel:
    """A visitor's weight file, which must be that of a network that can run. Raises Refused."""
    try:
        loaded = zoo.load_file(path, name, device=device)
        source = images.open(torch.zeros(3, OWN_TRIAL, OWN_TRIAL, dtype=torch.uint8))
        how, out = RunOptions(device=device), (2 * OWN_TRIAL, 2 * OWN_TRIAL)
        run_plan = plan_run(source, out, loaded.model, Budget.full(), how)
        enlarge(run_plan, images.create(None, run_plan.canvas, source))  # or the first job would find out
        return OwnModel(loaded, str(loaded.card["network"]), _least(loaded, device))
    except (ScalewiseError, RuntimeError, ValueError, TypeError, MemoryError) as error:
        said = str(error) if isinstance(error, ScalewiseError) else "it does not fit a network that is known here"
        said = said.replace(repr(str(path)), "it").replace(f"{path}: ", "").replace(str(path), "it")
        raise Refused(422, f"this weight file cannot be used: {said}", "file") from None


def models() -> list[dict[str, Any]]:
    """What can be asked for: name, plain words, summary, whether it is for research, the least budget, whether it
    takes a mask."""
    return [dict(_about(name)) for name in runnable()]


@lru_cache
def _about(name: str) -> dict[str, Any]:
    """What is said of a model by name; asked once, since loading all of them pushes out those that jobs use."""
    summary = zoo.MODELS[name].summary
    title, words = WORDS.get(name, (name, summary))
    about = {"name": name, "title": title, "words": words, "summary": summary, "research": name not in WORDS}
    return about | {"least_budget": floor_of(name), "mask": takes_mask(zoo.load(name).model)}
