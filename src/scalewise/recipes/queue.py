"""A queue of trainings: a TOML file that lists them in order, each with its recipe, data and options.

[[training]]
recipe = "best"
data = ["photos", "pages"]
val = "held-out"
val_every = 500
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from scalewise.errors import InvalidRequest
from scalewise.recipes import find
from scalewise.training.recipe import Recipe


@dataclass(frozen=True)
class QueuedTraining:
    """One training; its options are those of `scalewise train`. Folders are relative to the queue's file, and so is
    `start` if it names a file: a word without a dot or a slash is a network's name."""

    recipe: str
    data: tuple[Path, ...] = ()
    val: Path | None = None
    out: Path | None = None
    start: str | None = None
    stage: str | None = None
    steps: int | None = None
    seed: int | None = None
    dtype: str = "auto"
    workers: int = 1
    protocol: str = "default"
    val_side: int = 384
    val_every: int = 1000
    save_every: int = 250
    state: Path | None = None
    about: str | None = None

    def found(self) -> Recipe:
        """Raises InvalidRequest."""
        return find(self.recipe, stage=self.stage, steps=self.steps, seed=self.seed)


def read_queue(path: Path) -> list[QueuedTraining]:
    """The trainings of a file in order. Raises InvalidRequest if it cannot be read or asks for what there is not."""
    try:
        listed = tomllib.loads(path.read_text(encoding="utf-8")).get("training")
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"queue {path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(listed, list) or not listed:
        raise InvalidRequest(f"queue {path} lists nothing: write [[training]] with recipe = NAME for each")
    trainings = [_training(path, number, values) for number, values in enumerate(listed, 1)]
    for one in trainings:
        one.found()
    return trainings


def _training(path: Path, number: int, values: dict[str, Any]) -> QueuedTraining:
    place, hints = f"queue {path}, training {number}", get_type_hints(QueuedTraining)
    known = [field.name for field in fields(QueuedTraining)]
    if "recipe" not in values or not set(values) <= set(known):
        unknown = ", ".join(set(values) - set(known)) or "no recipe"
        raise InvalidRequest(f"{place} has {unknown}: allowed are {', '.join(known)}")
    if "stage" in values and "start" not in values:
        raise InvalidRequest(f"{place} has a stage to begin at and no weights: write start = FILE or NAME")
    chosen: dict[str, Any] = {}
    for name, value in values.items():
        folders: list[Any] = value if name == "data" and isinstance(value, list) else [value]
        is_folder = name == "data" or hints[name] == Path | None
        kind = str if is_folder else hints[name]
        if any(isinstance(one, bool) or not isinstance(one, kind) for one in folders):
            raise InvalidRequest(f"{place}: {name} = {value!r} is not of the right kind")
        if name == "data":
            chosen[name] = tuple(path.parent / folder for folder in folders)
        elif is_folder:
            chosen[name] = path.parent / folders[0]
        elif name == "start" and ("." in value or "/" in value):
            chosen[name] = str(path.parent / str(value))
        else:
            chosen[name] = value
    return QueuedTraining(**chosen)
