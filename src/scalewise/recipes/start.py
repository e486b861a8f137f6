"""From a weight file to the start of a training: read without trusting it, and compared with the recipe's network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scalewise.checkpoints import files, native
from scalewise.checkpoints.load import few, fitting, load_native
from scalewise.errors import CheckpointError
from scalewise.training.recipe import Recipe
from scalewise.training.start import Origin, Start


def read_start(path: Path, recipe: Recipe, name: str | None = None) -> Start:
    """The weights of one of our own files, or of one with plain tensors by the names of the recipe's network; `name`:
    what the card calls it, the file's name if None.

    Raises CheckpointError for what is no weight file or is another network than the recipe's, and TrainingError if the
    recipe's first stage cannot go on from it."""
    name = name or path.name
    content = files.read(path)
    if isinstance(content.data, Mapping) and {"format", "stage", "weights"} <= content.data.keys():
        raise CheckpointError(f"{name} is the state of a training: resume that, or begin with the weights next to it")
    about, found = content.metadata, None
    if native.accepts(content):
        found = load_native(content, {})
        about = found.description.about
    model = _new(recipe)
    ours = f"the network of recipe {recipe.name}" + ("" if found else "; published files are converted first")
    weights = fitting(Path(name), model.state_dict(), dict(files.leaves(content.data)), ours)
    if found:
        _check_settings(name, found.model, model, recipe)
    licence = about.get("licence") or about.get("license")
    start = Start(weights, Origin(name, files.sha256(path), about.get("training_data"), licence))
    start.begin(model, recipe.stages[0])  # what cannot be is said now, not when the pictures have been read
    return start


def check_follows(recipe: Recipe, before: Recipe) -> None:
    """Whether a training may begin with what another will make. Raises CheckpointError if their networks differ."""
    name, theirs, ours = f"what {before.name} makes", _new(before), _new(recipe)
    fitting(Path(name), ours.state_dict(), theirs.state_dict(), f"the network of recipe {recipe.name}")
    _check_settings(name, theirs, ours, recipe)


def _new(recipe: Recipe) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # nobody's random numbers change
        return recipe.network.build()


def _check_settings(name: str, their_model: nn.Module, our_model: nn.Module, recipe: Recipe) -> None:
    theirs, ours = settings(their_model), settings(our_model)
    differing = [key for key in {**theirs, **ours} if theirs.get(key) != ours.get(key)]
    if differing:
        other = [f"{key} {theirs.get(key)} in place of {ours.get(key)}" for key in differing]
        raise CheckpointError(f"{name} is another network than that of recipe {recipe.name}: {few(other)}")


def settings(model: nn.Module) -> dict[str, Any]:
    """What a network computes with besides its weights, by name: kinds of modules, their plain values, and buffers that
    are in no file. Two networks may have weights of the same names and shapes and differ here."""
    found: dict[str, Any] = {}
    for place, module in model.named_modules():
        found[place or "network"] = type(module).__name__
        for name, value in vars(module).items():
            if not name.startswith("_") and name != "training" and _is_plain(value):
                found[f"{place}.{name}".lstrip(".")] = value
    stored = model.state_dict().keys()
    return found | {name: buffer.tolist() for name, buffer in model.named_buffers() if name not in stored}


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str) or is_dataclass(value)
