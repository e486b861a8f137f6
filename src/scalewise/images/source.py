"""Source: a picture to read from, box by box, whatever it was: a file, an array, a tensor, a PIL image."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyvips
import torch
from torch import Tensor

from scalewise.errors import InvalidRequest, UnreadableImage
from scalewise.images.arrays import Origin, check_range, from_memory
from scalewise.images.metadata import Metadata, metadata_of

Kind = Literal["gray", "rgb"]
Depth = Literal["uint8", "uint16", "float32"]
Box = tuple[int, int, int, int]  # y0, x0, y1, x1; the end is not included

READABLE = frozenset((".avif", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
MAX_PIXELS = 2**29  # 537 million; a scan of A1 at 600 dpi has 280

# libvips also takes text for a table of numbers, and SVG: those are not pictures made of pixels.
_LOADERS = {"gifload": "gif", "heifload": "heif", "jpegload": "jpeg", "pngload": "png", "tiffload": "tiff"}
_LOADERS |= {"webpload": "webp"}
_AS_THEY_ARE = ("b-w", "grey16", "srgb", "rgb", "rgb16", "scrgb", "multiband")  # the rest is converted to sRGB
_DEPTHS: dict[str, Depth] = {"uchar": "uint8", "ushort": "uint16", "float": "float32", "double": "float32"}
_HIGHEST = {"uint8": 255, "uint16": 65535}


@dataclass(frozen=True, eq=False)
class Source:
    """A picture that is read in boxes as float in [0, 1]; pixels of a file are decoded at the first read."""

    size: tuple[int, int]  # H, W, upright
    kind: Kind
    alpha: bool
    dtype: Depth
    origin: Origin
    metadata: Metadata
    path: Path | None = None
    format: str | None = None  # of a file: png, jpeg, webp, tiff, avif, heic, gif
    pages: int = 1  # frames or pages in the file, of which this is the first
    fetch: Callable[[Box], np.ndarray] = field(repr=False, kw_only=True)  # raw pixels (h, w, c)
    restore: Callable[[np.ndarray], Any] = field(repr=False, kw_only=True)  # canvas (h, w, c) → the kind that came in

    def read(self, box: Box | None = None, *, wrap: bool = False) -> Tensor:
        """Colour as float32 (3, h, w) in [0, 1], gray repeated; no box: all of it.

        With `wrap`, x may lie outside the image and goes round, as in a 360° image.
        """
        pixels = self._read(box, wrap)
        colour = pixels[:-1] if self.alpha else pixels
        return colour.repeat(3, 1, 1) if self.kind == "gray" else colour.contiguous()

    def read_alpha(self, box: Box | None = None, *, wrap: bool = False) -> Tensor | None:
        """Opacity as float32 (1, h, w) in [0, 1], or None if the picture has none."""
        return self._read(box, wrap)[-1:].contiguous() if self.alpha else None

    def _read(self, box: Box | None, wrap: bool) -> Tensor:
        height, width = self.size
        y0, x0, y1, x1 = box or (0, 0, height, width)
        inside = 0 <= y0 < y1 <= height and x0 < x1 and (wrap or (x0 >= 0 and x1 <= width))
        if not inside:
            raise InvalidRequest(f"box {box} does not lie in an image of {height}x{width} (y0, x0, y1, x1)")
        parts = []
        while x0 < x1:  # once, unless columns wrap
            start = x0 % width
            stop = min(width, start + x1 - x0)
            parts.append(self.fetch((y0, start, y1, stop)))
            x0 += stop - start
        raw = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        pixels = raw.astype(np.float32)
        if self.dtype == "float32":
            check_range(pixels, repr(str(self.path)) if self.path else f"{self.origin} image")
        else:
            pixels /= _HIGHEST[self.dtype]
        return torch.from_numpy(pixels).permute(2, 0, 1)


def open(image: str | os.PathLike[str] | object, *, max_pixels: int = MAX_PIXELS) -> Source:
    """A path, numpy array (H, W[, C]), torch tensor (C, H, W) or PIL image, as a `Source`.

    A file with more than `max_pixels` is refused before it is decoded. Truncated or damaged files are refused here if
    their header shows it, else at the first read.
    """
    if isinstance(image, str | os.PathLike):
        return _open_file(Path(os.fsdecode(image)), max_pixels)
    memory = from_memory(image)
    pixels = memory.pixels

    def fetch(box: Box) -> np.ndarray:
        y0, x0, y1, x1 = box
        return pixels[y0:y1, x0:x1]

    kind, alpha = _channels(pixels.shape[2])
    dtype = "float32" if pixels.dtype.kind == "f" else _DEPTHS["uchar" if pixels.dtype.itemsize == 1 else "ushort"]
    return Source(
        pixels.shape[:2], kind, alpha, dtype, memory.origin, memory.metadata, fetch=fetch, restore=memory.restore
    )


def _open_file(path: Path, max_pixels: int) -> Source:
    name = repr(str(path))
    _check_file(path, name)
    try:
        # A source takes the name as it is: new_from_file would read options out of "photo[1].png", and would answer
        # from its cache for a file that has changed. "error" and not "truncated": cut TIFFs pass the latter.
        source = pyvips.Source.new_from_file(os.fsencode(path))  # pyright: ignore[reportArgumentType] (typed str, takes bytes)
        image = pyvips.Image.new_from_source(source, "", fail_on="error")
    except pyvips.Error as error:
        raise UnreadableImage(f"{name} is damaged or not a picture that can be read: {reason(error)}") from error
    format = _LOADERS.get(str(image.get("vips-loader")).removesuffix("_source"))
    if format is None:
        allowed = " ".join(sorted(READABLE))
        raise UnreadableImage(f"{name} is not a picture of a kind that can be read; allowed are {allowed}")
    if format == "heif":
        format = "avif" if image.get("heif-compression") == "av1" else "heic"
    if image.width * image.height > max_pixels:
        raise UnreadableImage(
            f"{name} has {image.height}x{image.width} pixels; at most {max_pixels} are read unless max_pixels is raised"
        )
    pages, orientation = _integer(image, "n-pages"), _integer(image, "orientation")
    try:
        image = _as_gray_or_rgb(image.autorot())
    except pyvips.Error as error:
        raise UnreadableImage(f"{name} cannot be converted to sRGB: {reason(error)}") from error
    band_format = str(image.format)
    if band_format not in _DEPTHS or image.bands > 4:
        raise UnreadableImage(
            f"{name} has {image.bands} channels of type {band_format}; allowed are 1 to 4 of 8 or 16 bit or float"
        )

    def fetch(box: Box) -> np.ndarray:
        y0, x0, y1, x1 = box
        try:
            # A region belongs to one thread, so each call makes its own.
            data = pyvips.Region.new(image).fetch(x0, y0, x1 - x0, y1 - y0)
        except pyvips.Error as error:
            raise UnreadableImage(f"{name} is truncated or damaged: {reason(error)}") from error
        dtype = np.float64 if band_format == "double" else _DEPTHS[band_format]
        return np.frombuffer(data, dtype).reshape(y1 - y0, x1 - x0, image.bands)

    kind, alpha = _channels(image.bands)
    return Source(
        size=(image.height, image.width),
        kind=kind,
        alpha=alpha,
        dtype=_DEPTHS[band_format],
        origin="path",
        metadata=metadata_of(image, orientation),
        path=path,
        format=format,
        pages=pages,
        fetch=fetch,
        restore=lambda canvas: canvas[..., 0] if canvas.shape[2] == 1 else canvas,  # as numpy, if no file is asked
    )


def _check_file(path: Path, name: str) -> None:
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise UnreadableImage(f"cannot open {name}: {getattr(error, 'strerror', None) or error}") from error
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableImage(f"{name} is a folder; name a file in it")
    if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever
        raise UnreadableImage(f"{name} is not a regular file")
    if status.st_size == 0:
        raise UnreadableImage(f"{name} is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise UnreadableImage(f"cannot open {name}: permission denied")


def _integer(image: pyvips.Image, name: str) -> int:
    value = image.get(name) if image.get_typeof(name) else 1
    return value if isinstance(value, int) else 1


def _as_gray_or_rgb(image: pyvips.Image) -> pyvips.Image:
    """CMYK, Lab and the like become sRGB of 8 bit, or of 16 if they had more; gray and RGB keep their profile."""
    if image.interpretation in _AS_THEY_ARE:
        return image
    deep = image.format != "uchar"
    if image.get_typeof("icc-profile-data"):
        return image.icc_transform("srgb", embedded=True, depth=16 if deep else 8)
    return image.colourspace("rgb16" if deep else "srgb")


def _channels(count: int) -> tuple[Kind, bool]:
    return ("gray" if count <= 2 else "rgb"), count in (2, 4)


def reason(error: pyvips.Error) -> str:
    """The last line that libvips said, which is the one about this failure: its log is shared by all threads."""
    lines = [" ".join(line.split()) for line in str(error.detail).splitlines() if line.strip()]
    return (lines[-1] if lines else " ".join(str(error.message).split()))[:200]
