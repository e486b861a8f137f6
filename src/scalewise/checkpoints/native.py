"""Our own files: safetensors whose metadata says which function builds the network, with which arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from scalewise.checkpoints.files import Content, tensors_sha256, write_safetensors
from scalewise.errors import CheckpointError

TITLE = "scalewise safetensors"
VERSION = "1"
LARGEST = 10_000  # channels, blocks, …: no argument of a network is larger


@dataclass(frozen=True)
class Native:
    """What the metadata says: `builder` is a name of `build.BUILDERS`, `about` everything else it carries."""

    builder: str
    arguments: Mapping[str, Any]
    tensors: dict[str, Tensor]
    about: Mapping[str, str]


def accepts(content: Content) -> bool:
    return "scalewise" in content.metadata


def read(content: Content) -> Native:
    """Raises CheckpointError if the metadata or a digest is wrong."""
    metadata = dict(content.metadata)
    if metadata.pop("scalewise") != VERSION:
        raise CheckpointError(f"{content.path} was written by a newer scalewise; this one reads version {VERSION}")
    try:
        builder, arguments = metadata.pop("builder"), json.loads(metadata.pop("arguments"))
        digest = metadata.pop("sha256")
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{content.path}: its metadata lacks {error}; convert the original again") from None
    if largest_number(arguments) > LARGEST:
        raise CheckpointError(f"{content.path}: its metadata asks for a network of absurd size")
    if digest != tensors_sha256(content.data):
        raise CheckpointError(f"{content.path}: its weights are not those that were written (sha256 differs)")
    return Native(builder, arguments, content.data, metadata)


def largest_number(value: Any) -> float:
    """Of nested arguments; 0 if there is none."""
    if isinstance(value, Mapping):
        return largest_number(list(value.values()))
    if isinstance(value, list):
        return max((largest_number(item) for item in value), default=0)
    return abs(value) if isinstance(value, int | float) else 0


def write(
    path: Path,
    tensors: Mapping[str, Tensor],
    builder: str,
    arguments: Mapping[str, Any],
    about: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """`about`: what else the file says of itself (source, licence, calibration); JSON for what is not a string."""
    metadata = {"format": "pt", "scalewise": VERSION, "builder": builder, "arguments": dict(arguments)}
    write_safetensors(path, tensors, {**metadata, "sha256": tensors_sha256(tensors), **about}, overwrite)
