"""Our own files: safetensors whose metadata says which function builds the network, with which arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from scalewise.checkpoints.files import Content, tensors_sha256, write_safetensors
from scalewise.errors import CheckpointError

TITLE = "scalewise safetensors"
VERSION = "1"
MAX_ARGUMENT = 10_000  # channels, window sides, …: no argument of a network is larger
# Arguments that count layers, each of which has weights: as nested loops they multiply.
NESTED_COUNTS = ("groups", "blocks", "layers")
COUNTS = ("depth", "maps", "encoder_blocks", "decoder_blocks")


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
    """The metadata of our own file. Raises CheckpointError if they or a digest are wrong."""
    metadata = dict(content.metadata)
    if metadata.pop("scalewise") != VERSION:
        raise CheckpointError(f"{content.path} was written by a newer scalewise; this one reads version {VERSION}")
    try:
        builder, arguments = metadata.pop("builder"), json.loads(metadata.pop("arguments"))
        digest = metadata.pop("sha256")
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{content.path}: its metadata lacks {error}; convert the original again") from None
    if largest_number(arguments) > MAX_ARGUMENT:
        raise CheckpointError(f"{content.path}: its metadata asks for a network of absurd size")
    if (layers := layer_count(arguments)) > len(content.data):
        held = f"{len(content.data)} tensors"
        raise CheckpointError(f"{content.path}: its metadata asks for {layers:,} layers, and it holds {held}")
    if digest != tensors_sha256(content.data):
        raise CheckpointError(f"{content.path}: its weights are not those that were written (sha256 differs)")
    return Native(builder, arguments, content.data, metadata)


def largest_number(value: Any) -> float:
    """The largest number in nested arguments; 0 if there is none."""
    if isinstance(value, Mapping):
        return largest_number(list(value.values()))
    if isinstance(value, list):
        return max((largest_number(item) for item in value), default=0)
    return abs(value) if isinstance(value, int | float) else 0


def layer_count(value: Any, name: str = "") -> int:
    """The greatest number of layers that nested arguments ask for, before any is built; each has a tensor or more."""
    if isinstance(value, Mapping):
        counts = [value[count] for count in NESTED_COUNTS if isinstance(value.get(count), int)]
        return max([prod(counts) if counts else 0, *(layer_count(one, key) for key, one in value.items())])
    if isinstance(value, list):
        each = [one for one in value if isinstance(one, int)] if name in ("depths", "exit_after") else []
        most = sum(each) if name == "depths" else max(each, default=0)
        listed = 0 if name in ("mean", "std") else len(value)
        return max([listed, most, *(layer_count(one) for one in value)])
    return value if name in COUNTS and isinstance(value, int) else 0


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
