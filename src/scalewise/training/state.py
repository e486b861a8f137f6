"""States on the disk: all that the next step depends on, and half-precision weights that are small enough to commit.

`OUT/last.ckpt` is whole or not there. A portable state is the averaged weights in half precision: it has no optimizer,
so a run that goes on from it warms its learning rate up.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from scalewise.errors import TrainingError
from scalewise.storage import atomic_write

LAST = "last.ckpt"
FORMAT = 1


def write_state(out: Path, state: Mapping[str, Any]) -> None:
    """Replace the last state; the one before stays whole until this one is."""
    with atomic_write(out / LAST) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)


def read_state(out: Path) -> dict[str, Any] | None:
    """The last state; None if there is none. Raises TrainingError."""
    path = out / LAST
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged zip or pickle can fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrainingError(f"{path} cannot be read: {reason}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TrainingError(f"{path} is no training state of this version: start again in another folder")
    return state


def portable(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def portable_log(folder: Path, name: str) -> Path:
    """The log of the training that a portable state is of."""
    return folder / f"{name}.jsonl"


def write_portable(folder: Path, name: str, model: nn.Module, about: Mapping[str, Any]) -> Path:
    """Replace `folder/NAME.safetensors` by the model's weights in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    halves = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    path = portable(folder, name)
    save_tensors(path, halves, {key: json.dumps(value) for key, value in about.items()})
    return path


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file, whole or not there, that others may read too (the library makes it ours alone)."""
    with atomic_write(path) as temporary:
        usual = temporary.stat().st_mode
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, dict(metadata))
        temporary.chmod(usual)


def read_portable(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Weights (float32) and what the file says of them; None if there is no such state. Raises TrainingError."""
    path = portable(folder, name)
    if not path.exists():
        return None
    try:
        with safe_open(str(path), "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            about = {key: json.loads(value) for key, value in (file.metadata() or {}).items() if key != "format"}
    except (SafetensorError, OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}, about


def has_state(out: Path, folder: Path | None, name: str) -> bool:
    """Whether there is a state to go on from: the last of a run's folder, or a portable one in `folder`."""
    return (out / LAST).exists() or (folder is not None and portable(folder, name).exists())


def check_space(out: Path, needed: int) -> None:
    """Raise TrainingError if the disk has no room for two states, which hours of work would need."""
    free = shutil.disk_usage(out).free
    if free < needed:
        raise TrainingError(f"{out} has {free >> 20} MiB free and states need {needed >> 20}: free some space")
