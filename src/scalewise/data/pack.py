"""A pack: the most detailed crops of a data set in one safetensors file, to train where there is nothing but torch.

Crops are kept without loss: colours against green, each pixel against the sum of its neighbours above and left of it
less the one between, then zlib. Photos take about half of their bytes that way, so a file holds twice the crops.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scalewise.data.crops import detail
from scalewise.errors import DataError
from scalewise.storage import atomic_write

LARGEST = 48 << 20  # bytes of a pack
KIND = "scalewise-pack-1"


def write_pack(
    path: Path | str, pictures: Sequence[Tensor], side: int, about: Mapping[str, Any], *, limit: int = LARGEST
) -> int:
    """Write crops of `side` × `side` pixels until `limit` bytes are full; returns how many. Every picture gives its
    most detailed crop first, then its second, …, so that no picture fills the file alone. Raises DataError."""
    ranked = []
    for number, picture in enumerate(pictures):
        height, width = picture.shape[-2:]
        places = [(y, x) for y in range(0, height - side + 1, side) for x in range(0, width - side + 1, side)]
        scored = sorted(((detail(crop_at(picture, y, x, side)), y, x) for y, x in places), reverse=True)
        ranked += [(rank, -score, number, y, x) for rank, (score, y, x) in enumerate(scored)]
    if not ranked:
        raise DataError(f"no picture has {side} pixels on both sides, which the crops of this recipe need")
    pieces: list[bytes] = []
    room = limit - 65_536 - 8 * len(ranked)  # header and ends
    for _, _, number, y, x in sorted(ranked):
        piece = squeeze(crop_at(pictures[number], y, x, side))
        if len(piece) > room:
            break
        pieces.append(piece)
        room -= len(piece)
    if not pieces:
        raise DataError(f"not one crop of {side}x{side} fits into {limit} bytes: raise the limit")
    tensors = {
        "crops": torch.frombuffer(bytearray(b"".join(pieces)), dtype=torch.uint8),
        "ends": torch.tensor(np.cumsum([len(piece) for piece in pieces])),
    }
    metadata = {"kind": KIND, "side": str(side), "about": json.dumps(dict(about))}
    save_tensors(path, tensors, metadata)
    return len(pieces)


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], words: Mapping[str, str]) -> None:
    """A safetensors file, whole or not there, that others may read too (the library makes it ours alone)."""
    with atomic_write(path) as temporary:
        usual = temporary.stat().st_mode
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, dict(words))
        temporary.chmod(usual)


def read_pack(path: Path | str) -> tuple[list[Tensor], dict[str, Any]]:
    """The crops (3, side, side) uint8 of a pack, and what was said about them. Raises DataError."""
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("kind") != KIND:
                raise DataError(f"{path} is no pack of training crops: make one by `scalewise train RECIPE --pack`")
            data, ends = file.get_tensor("crops").numpy(), file.get_tensor("ends").tolist()
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read as a pack: {str(error).splitlines()[0]}") from error
    side = int(metadata["side"])
    crops = [
        unsqueeze(data[start:end].tobytes(), side) for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]  # fmt: skip
    return crops, json.loads(metadata["about"])


def crop_at(picture: Tensor, y: int, x: int, side: int) -> Tensor:
    return picture[:, y : y + side, x : x + side]


def squeeze(crop: Tensor) -> bytes:
    """(3, h, w) uint8 → bytes; all arithmetic is modulo 256."""
    red, green, blue = crop.numpy()
    planes = np.stack([green, red - green, blue - green])
    down = np.diff(planes, axis=1, prepend=np.uint8(0))
    return zlib.compress(np.diff(down, axis=2, prepend=np.uint8(0)).tobytes(), 7)


def unsqueeze(data: bytes, side: int) -> Tensor:
    planes = np.frombuffer(zlib.decompress(data), np.uint8).reshape(3, side, side)
    green, red, blue = planes.cumsum(2, dtype=np.uint8).cumsum(1, dtype=np.uint8)
    return torch.from_numpy(np.stack([red + green, green, blue + green]))
