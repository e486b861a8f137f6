"""`open`: a path, bytes, an open file, an array, a tensor or a PIL image as a Source."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from scalewise.errors import UnreadableImage
from scalewise.images.arrays import from_memory
from scalewise.images.held import HeldFile, is_bytes
from scalewise.images.source import LEVELS, MAX_PIXELS, Box, Depth, Source, channels, which_page


def open(image: str | os.PathLike[str] | object, *, page: int | None = None, max_pixels: int = MAX_PIXELS) -> Source:
    """A picture as a `Source`: a path, bytes of a file, a file object open for reading bytes, a numpy array
    (H, W[, C]), a torch tensor (C, H, W) or a PIL image.

    `page` of a file with several, counted from 0; without it the first, or the one that a HEIC calls primary. A file
    with more than `max_pixels` is refused before it is decoded. Truncated or damaged files are refused here if their
    header shows it, else at the first read. Raises UnreadableImage.
    """
    if isinstance(image, str | os.PathLike):
        return _opened(Path(os.fsdecode(image)), page, max_pixels)
    if is_bytes(image):
        held = HeldFile(image)
        with held.named():
            return replace(_opened(held.path, page, max_pixels), held=held)
    if page:
        raise UnreadableImage(f"page {page} of a picture in memory: it has one")
    memory = from_memory(image)
    pixels = memory.pixels
    kind, alpha = channels(pixels.shape[2])
    dtype: Depth = "float32" if pixels.dtype.kind == "f" else "uint8" if pixels.dtype.itemsize == 1 else "uint16"
    return Source(
        size=pixels.shape[:2],
        kind=kind,
        alpha=alpha,
        dtype=dtype,
        origin=memory.origin,
        metadata=memory.metadata,
        levels=LEVELS[dtype],
        fetch=partial(_part, pixels),
        restore=memory.restore,
    )


def _opened(path: Path, page: int | None, max_pixels: int) -> Source:
    from scalewise.images.files import open_file

    source = open_file(path, max_pixels, page)
    return replace(source, notes=(*source.notes, *which_page(source)), reopen=partial(open_file, max_pixels=max_pixels))


def _part(pixels: np.ndarray, box: Box) -> np.ndarray:
    y0, x0, y1, x1 = box
    return pixels[y0:y1, x0:x1]
