"""A folder of photos → pictures (3, h, w) uint8, decoded once: in memory, or mapped from a cache on the disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scalewise.errors import DataError, ImageError
from scalewise.storage import atomic_write, cache_folder

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
Progress = Callable[[str], None]


def decode_folder(folder: Path | str, *, limit: int | None = None, progress: Progress | None = None) -> list[Tensor]:
    """Every picture of a folder as (3, h, w) uint8, sorted by name. Raises DataError if there is none or one is bad."""
    return [decode(path, progress) for path in find(folder)[:limit]]


def find(folder: Path | str) -> list[Path]:
    """The pictures of a folder by name, its own folders not searched. Raises DataError if there is none."""
    folder = Path(folder)
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not paths:
        raise DataError(f"no pictures in {str(folder)!r}: give a folder that holds {', '.join(SUFFIXES)}")
    return paths


def decode(path: Path, progress: Progress | None = None) -> Tensor:
    from scalewise import images  # here, so that other data does not need libvips

    if progress is not None:
        progress(path.name)
    try:
        return (images.open(path).read() * 255).round().to(torch.uint8)
    except ImageError as error:
        raise DataError(f"training data: {error}") from error


def open_pictures(folder: Path | str, *, cache: Path | None = None, progress: Progress | None = None) -> list[Tensor]:
    """The same pictures, mapped from one raw file under `cache` (by default the user's cache folder), which the first
    call writes; a changed folder gets a new file. Memory is shared by all processes that train on it."""
    paths = find(folder)
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    name = hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:24]
    cache = cache or cache_folder()
    index, raw = cache / f"{name}.json", cache / f"{name}.raw"
    if not (index.exists() and raw.exists()):
        try:
            cache.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make the cache {str(cache)!r}: {error.strerror}; set XDG_CACHE_HOME") from error
        sizes = []
        with atomic_write(raw) as temporary, temporary.open("wb") as file:
            for picture in (decode(path, progress) for path in paths):
                sizes.append(list(picture.shape))
                file.write(picture.numpy().data)
        with atomic_write(index) as temporary:
            temporary.write_text(json.dumps(sizes))
    return list(_mapped(raw, json.loads(index.read_text())))


def _mapped(raw: Path, sizes: list[list[int]]) -> Iterator[Tensor]:
    whole = torch.from_numpy(np.memmap(raw, np.uint8, mode="c"))  # copy on write: torch wants it writable
    start = 0
    for size in sizes:
        count = size[0] * size[1] * size[2]
        yield whole[start : start + count].view(size)
        start += count
