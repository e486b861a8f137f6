"""Every exception that scalewise raises on purpose.

    ScalewiseError
    ├── InvalidRequest              what was asked for cannot be (command line: exit code 2)
    │   ├── UnsupportedScale        scale or size out of range, or not supported by the model
    │   ├── BudgetInfeasible        a budget below the floor of the model, or not a budget
    │   ├── UnknownModel            no such name in the zoo, no such file
    │   ├── RequestDiffers          an unfinished run of the same output was asked for something else
    │   ├── ProtocolMismatch        an evaluation protocol that cannot apply to this data
    │   └── MissingDependency       an optional library that is not installed
    ├── ImageError                  a picture (exit code 1)
    │   ├── UnreadableImage         missing, empty, truncated, not an image, absurdly large
    │   └── UnwritableOutput        folder missing or read-only, format limit, disk full
    │       └── OutputExists        a file of that name, and nobody allowed to replace it
    ├── CheckpointError             a weight file that is damaged, hostile, incomplete or of an unknown kind
    │   └── UnknownNetwork          weights, but of no network that is known
    ├── DataError                   a data folder that a recipe or protocol cannot use
    ├── TrainingError               a training run that cannot go on: not a number, a state that does not fit
    └── Cancelled                   the caller's progress callback asked to stop

Messages are one line: what came, what is allowed, what to do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence


def shown(value: object, most: int = 60) -> str:
    """A value as an error quotes it: on one line, cut to so many characters."""
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[:most]}…"


class ScalewiseError(Exception):
    """The root: catch this to catch everything that scalewise raises on purpose."""


class InvalidRequest(ScalewiseError, ValueError):
    """What was asked for cannot be."""


class UnsupportedScale(InvalidRequest):
    """A scale or size that is out of range or that the model does not support."""


class BudgetInfeasible(InvalidRequest):
    """A budget below the model's floor; `floor` is the least share of MACs that is possible, or None."""

    def __init__(self, message: str, floor: float | None = None) -> None:
        super().__init__(message)
        self.floor = floor


class UnknownModel(InvalidRequest):
    """No model of this name, and no file either."""


class RequestDiffers(InvalidRequest):
    """`folder` holds `bands` finished rows of tiles of a run that was asked for something else: `changed` says what."""

    def __init__(self, folder: str, bands: int, changed: Sequence[str]) -> None:
        super().__init__(
            f"{folder!r} holds {bands} finished rows of tiles of a run with another {', '.join(changed)}: ask for the "
            "same again to go on, allow a restart to drop them, or choose another output"
        )
        self.folder, self.bands, self.changed = folder, bands, tuple(changed)

    def __reduce__(self) -> tuple[type[RequestDiffers], tuple[str, int, tuple[str, ...]]]:
        return type(self), (self.folder, self.bands, self.changed)


class ProtocolMismatch(InvalidRequest):
    """An evaluation protocol that cannot apply to this data."""


class MissingDependency(InvalidRequest):
    """An optional library that is not installed; `install` is the command that brings it, if the message has one."""

    def __init__(self, message: str, install: str = "") -> None:
        super().__init__(message)
        self.install = install


class ImageError(ScalewiseError):
    """A picture that cannot be read or written."""


class UnreadableImage(ImageError):
    """Missing, empty, truncated, not an image, or absurdly large."""


class UnwritableOutput(ImageError):
    """Folder missing or read-only, format limit exceeded, disk full, or the file exists."""


class OutputExists(UnwritableOutput):
    """A file of the name `path`, which may not be replaced."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(f"{os.fspath(path)!r} exists; allow overwriting or choose another name")
        self.path = os.fspath(path)

    def __reduce__(self) -> tuple[type[OutputExists], tuple[str]]:
        return type(self), (self.path,)


class CheckpointError(ScalewiseError):
    """A weight file that is damaged, hostile, incomplete or of an unknown kind."""


class UnknownNetwork(CheckpointError):
    """Weights of a network that is not known."""


class DataError(ScalewiseError):
    """A data folder that a recipe or protocol cannot use."""


class TrainingError(ScalewiseError):
    """A training run that cannot go on: a loss that is not a number, a state that does not fit the recipe."""


class Cancelled(ScalewiseError):
    """The caller's progress callback asked to stop."""
