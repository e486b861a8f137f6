"""States on the disk: one file that is whole or not there, parts of it that travel, and half-precision weights to keep.

`OUT/last.ckpt` is all that the next step depends on. `split` and `join` cut any file into parts and back. A portable
state is the averaged weights in half precision: no optimizer, so a run that goes on from it warms its learning rate up.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from scalewise.data.pack import save_tensors
from scalewise.errors import TrainingError
from scalewise.storage import atomic_write

LAST = "last.ckpt"
PART_BYTES = 15 << 20
PORTABLE_BYTES = 20 << 20
FORMAT = 1


def write_state(out: Path, state: Mapping[str, Any]) -> None:
    """Replace the last state; the one before stays whole until this one is."""
    with atomic_write(out / LAST) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)


def read_state(out: Path) -> dict[str, Any] | None:
    """The last state, from its parts if it came in parts; None if there is none. Raises TrainingError."""
    path = out / LAST
    for folder in (out, out / "parts"):
        if not path.exists() and (folder / f"{LAST}.parts.json").exists():
            join(folder, LAST, path)
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged zip or pickle can fail in any way
        words = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrainingError(f"{path} cannot be read: {words}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TrainingError(f"{path} is no training state of this version: start anew in another folder")
    return state


def split(path: Path, folder: Path, limit: int = PART_BYTES) -> list[Path]:
    """Cut a file into parts of at most `limit` bytes: NAME.part000, … and NAME.parts.json, which has their digest.

    Parts of an older file of that name are removed, so the folder holds one."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{path.name}.part*"):
        old.unlink()
    digest, parts = hashlib.sha256(), []
    with path.open("rb") as file:
        while piece := file.read(limit):
            digest.update(piece)
            parts.append(folder / f"{path.name}.part{len(parts):03d}")
            with atomic_write(parts[-1]) as temporary:
                temporary.write_bytes(piece)
    with atomic_write(folder / f"{path.name}.parts.json") as temporary:
        temporary.write_text(json.dumps({"parts": len(parts), "sha256": digest.hexdigest()}))
    return parts


def join(folder: Path, name: str, path: Path) -> None:
    """The file that `split` cut, at `path`. Raises TrainingError if a part is missing or damaged."""
    about = json.loads((folder / f"{name}.parts.json").read_text())
    parts = [folder / f"{name}.part{number:03d}" for number in range(about["parts"])]
    missing = [part.name for part in parts if not part.exists()]
    if missing:
        raise TrainingError(f"{folder} lacks {', '.join(missing)}: fetch all parts of {name}")
    digest = hashlib.sha256()
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        for part in parts:
            piece = part.read_bytes()
            digest.update(piece)
            file.write(piece)
        if digest.hexdigest() != about["sha256"]:
            raise TrainingError(f"the parts of {name} in {folder} are damaged or mixed: fetch them again")


def write_portable(folder: Path, name: str, model: nn.Module, about: Mapping[str, Any]) -> Path:
    """Replace `folder/NAME.safetensors` by the model's weights in half precision. Raises TrainingError if the folder
    would hold more than 20 MiB."""
    folder.mkdir(parents=True, exist_ok=True)
    halves = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    path = folder / f"{name}.safetensors"
    others = sum(file.stat().st_size for file in folder.iterdir() if file.is_file() and file != path)
    size = sum(value.numel() * value.element_size() for value in halves.values())
    if others + size > PORTABLE_BYTES:
        raise TrainingError(
            f"{folder} would hold {(others + size) >> 20} MiB, more than {PORTABLE_BYTES >> 20}: remove old states"
        )
    save_tensors(path, halves, {key: json.dumps(value) for key, value in about.items()})
    return path


def read_portable(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Weights (float32) and what was said of them; None if there is no such state. Raises TrainingError."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        return None
    try:
        with safe_open(str(path), "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            about = {key: json.loads(value) for key, value in (file.metadata() or {}).items() if key != "format"}
    except (SafetensorError, OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}, about


def check_space(out: Path, needed: int) -> None:
    """Raise TrainingError if the disk has no room for two states: asked before hours of work, not after."""
    free = shutil.disk_usage(out).free
    if free < needed:
        raise TrainingError(f"{out} has {free >> 20} MiB free and states need {needed >> 20}: free some space")
