"""Sink: a picture to write to, rectangle by rectangle in any order; rounding, range and encoding happen here, once."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyvips
import torch
from torch import Tensor

from scalewise.errors import InvalidRequest, UnwritableOutput
from scalewise.images.atomic import atomic_write, check_writable
from scalewise.images.source import Depth, Source, open, reason

_FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff"}
if pyvips.type_find("VipsForeignSave", "heifsave_target"):  # libvips can be built without it
    _FORMATS[".avif"] = "avif"
WRITABLE = frozenset(_FORMATS)

QUALITY = 95  # of JPEG, WebP and AVIF where nothing is asked
CANVAS_BYTES = 2**28  # a canvas beyond this is a file that is mapped into memory
_LONGEST_SIDE = {"jpeg": 65500, "webp": 16383, "avif": 16384}  # libjpeg's own limit; the standard would have 65535
_CLASSIC_TIFF_BYTES = 2**32 - 2**26  # offsets have 32 bits; some room for the rest of the file
_BAND_FORMATS = {"uint8": "uchar", "uint16": "ushort", "float32": "float"}
_BAND_ROWS = 512


def create(
    path: str | os.PathLike[str] | None,
    size: tuple[int, int],
    like: Source,
    *,
    quality: int | None = None,
    overwrite: bool = False,
) -> Sink:
    """A `Sink` of `size` (H, W) with the channels, depth and metadata of `like`; `path` None: the result is returned.

    The format follows the extension. PNG keeps 8 and 16 bit (float becomes 16 bit), TIFF also float; JPEG, WebP and
    AVIF take 8-bit pictures only, JPEG no alpha. `quality`, 1 to 100, is for these three and is ignored by the others;
    100 makes WebP and AVIF lossless. What the format cannot hold is refused here, before any work is done.
    """
    if min(size) < 1:
        raise InvalidRequest(f"size is {size[0]}x{size[1]}; each side must be at least 1")
    if quality is not None and not 1 <= quality <= 100:
        raise InvalidRequest(f"quality is {quality}; allowed is 1 to 100")
    if path is None:
        return Sink(None, size, like, like.dtype, QUALITY)
    path = Path(os.fsdecode(path))
    format = _FORMATS.get(path.suffix.lower())
    if format is None:
        raise UnwritableOutput(f"{str(path)!r} has extension {path.suffix!r}; allowed are {' '.join(sorted(WRITABLE))}")
    _check_format(path, format, size, like)
    if like.path is not None and _same_file(path, like.path):
        raise UnwritableOutput(f"{str(path)!r} is the input itself; choose another name")
    check_writable(path, overwrite=overwrite)
    dtype: Depth = "uint16" if format == "png" and like.dtype == "float32" else like.dtype
    return Sink(path, size, like, dtype, quality or QUALITY, overwrite=overwrite)


class Sink:
    """Takes rectangles, gives a file or an array. Made by `create`.

    with create("out.png", (h, w), like=source) as sink:
        sink.write(y0, x0, rgb, alpha)      # as often as it takes
        result = sink.finish()              # leaving the block without it discards everything
    """

    def __init__(
        self,
        path: Path | None,
        size: tuple[int, int],
        like: Source,
        dtype: Depth,
        quality: int,
        *,
        overwrite: bool = False,
    ) -> None:
        self.path, self.size, self.like = path, size, like
        self.dtype: Depth = dtype
        self.quality, self.overwrite = quality, overwrite
        channels = (1 if like.kind == "gray" else 3) + like.alpha
        self._canvas: np.ndarray | None = _canvas((*size, channels), dtype, path.parent if path else None)
        self._written = 0

    def write(self, y0: int, x0: int, rgb: Tensor, alpha: Tensor | None = None) -> None:
        """Put float (3, h, w) and alpha (1, h, w) with its top left pixel at (y0, x0).

        Values are clamped to [0, 1] and rounded to the nearest level. A gray picture gets BT.601 luma, which equal
        channels leave exactly as they are. Threads may write different rectangles at once.
        """
        assert self._canvas is not None, "write after finish or abort"
        assert not rgb.isnan().any(), "NaN must be dealt with where it arises"
        _, height, width = rgb.shape
        if min(y0, x0) < 0 or y0 + height > self.size[0] or x0 + width > self.size[1]:
            raise InvalidRequest(f"{height}x{width} pixels at ({y0}, {x0}) do not fit an output of {self.size}")
        if (alpha is not None) != self.like.alpha:
            raise InvalidRequest(f"the output {'has' if self.like.alpha else 'has no'} alpha; {alpha is None=}")
        pixels = rgb.detach().float()
        if self.like.kind == "gray":
            red, green, blue = pixels.split(1)
            pixels = green + 0.299 * (red - green) + 0.114 * (blue - green)
        if alpha is not None:
            pixels = torch.cat([pixels, alpha.detach().to(pixels)])
        levels = to_levels(pixels, self.dtype)
        self._canvas[y0 : y0 + height, x0 : x0 + width] = levels.permute(1, 2, 0).cpu().numpy()
        self._written += height * width

    def finish(self) -> Any:
        """Encode the file and return its path, or return the picture in the kind and dtype that the input had."""
        canvas = self._canvas
        assert canvas is not None, "finish after finish or abort"
        missing = self.size[0] * self.size[1] - self._written
        if missing > 0:
            raise InvalidRequest(f"{missing} of {self.size[0] * self.size[1]} pixels were never written")
        if self.path is None:
            result = self.like.restore(canvas)
        else:
            with atomic_write(self.path, overwrite=self.overwrite) as temporary:
                self._encode(canvas, temporary)
            result = self.path
        self._canvas = None
        return result

    def abort(self) -> None:
        """Drop what was written; nothing stays on disk."""
        self._canvas = None

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _encode(self, canvas: np.ndarray, temporary: Path) -> None:
        assert self.path is not None
        height, width, channels = canvas.shape
        gray, deep = self.like.kind == "gray", self.dtype == "uint16"
        colours = ("grey16" if deep else "b-w") if gray else ("rgb16" if deep else "srgb")
        image = pyvips.Image.new_from_memory(canvas.data, width, height, channels, _BAND_FORMATS[self.dtype])
        image = self.like.metadata.attach(image.copy(interpretation=colours), gray)
        # Through a descriptor: a name may hold what libvips takes for options, or bytes that are not UTF-8.
        descriptor = os.open(temporary, os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            target = pyvips.Target.new_to_descriptor(descriptor)
            match _FORMATS[self.path.suffix.lower()]:
                case "png":
                    image.pngsave_target(target, filter=pyvips.enums.ForeignPngFilter.ALL)
                case "jpeg":
                    image.jpegsave_target(target, Q=self.quality, subsample_mode="off")
                case "webp":
                    lossless = self.quality == 100
                    q = 75 if lossless else self.quality  # of a lossless file, Q is the effort: 100 takes far longer
                    image.webpsave_target(target, Q=q, lossless=lossless, smart_subsample=True)
                case "avif":
                    lossless = self.quality == 100
                    image.heifsave_target(
                        target, compression="av1", Q=self.quality, lossless=lossless, subsample_mode="off"
                    )
                case "tiff":
                    big = canvas.nbytes > _CLASSIC_TIFF_BYTES
                    image.tiffsave_target(target, compression="deflate", predictor="horizontal", bigtiff=big)
        except pyvips.Error as error:
            free = shutil.disk_usage(temporary.parent).free / 2**20  # libvips does not always name a full disk
            raise UnwritableOutput(
                f"could not write {str(self.path)!r}: {reason(error)} ({free:.0f} MiB are free there)"
            ) from error
        finally:
            os.close(descriptor)


def save(
    path: str | os.PathLike[str],
    image: object,
    *,
    like: Source | None = None,
    quality: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a picture that is in memory (numpy, PIL, torch) to a file; metadata comes from `like`, if given."""
    source = open(image)
    if like is not None:
        source = replace(source, metadata=like.metadata, path=like.path)
    height, width = source.size
    with create(path, source.size, source, quality=quality, overwrite=overwrite) as sink:
        for top in range(0, height, _BAND_ROWS):
            band = (top, 0, min(top + _BAND_ROWS, height), width)
            sink.write(top, 0, source.read(band), source.read_alpha(band))
        return sink.finish()


def to_levels(pixels: Tensor, dtype: Depth) -> Tensor:
    """Float to the nearest level of `dtype`, clamped to its range first; the one place where pixels are rounded."""
    pixels = pixels.clamp(0, 1)
    if dtype == "float32":
        return pixels
    if dtype == "uint8":
        return pixels.mul_(255).round_().to(torch.uint8)
    return pixels.mul_(65535).round_().to(torch.int32)  # numpy makes uint16 of it: torch has few operators for that


def _check_format(path: Path, format: str, size: tuple[int, int], like: Source) -> None:
    """Raise `UnwritableOutput` if `format` would lose alpha or depth, or cannot be that large."""
    name, longest = repr(str(path)), _LONGEST_SIDE.get(format)
    if longest is not None and max(size) > longest:
        raise UnwritableOutput(
            f"{name} would be {size[0]}x{size[1]}; {format} holds at most {longest} per side: write .tif instead"
        )
    if format == "jpeg" and like.alpha:
        raise UnwritableOutput(f"{name} would lose the alpha channel, which jpeg cannot hold: write .png instead")
    if longest is not None and like.dtype != "uint8":
        raise UnwritableOutput(
            f"{name} would lose depth: {format} holds 8 bit and the input is {like.dtype}; write .png or .tif instead"
        )


def _same_file(a: Path, b: Path) -> bool:
    try:
        return os.path.samefile(a, b)
    except (OSError, ValueError):  # one of them does not exist
        return False


def _canvas(shape: tuple[int, ...], dtype: Depth, folder: Path | None) -> np.ndarray:
    """Zeros in memory, or in a file in `folder` that has no name, so that even a killed process leaves nothing."""
    byte_count = math.prod(shape) * np.dtype(dtype).itemsize
    if byte_count <= CANVAS_BYTES:
        return np.zeros(shape, dtype)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, and not a crash at some later pixel
                os.posix_fallocate(file.fileno(), 0, byte_count)
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
    except OSError as error:
        place = str(folder or tempfile.gettempdir())
        raise UnwritableOutput(
            f"cannot keep {byte_count / 2**30:.1f} GiB of pixels in folder {place!r}: {error.strerror}"
        ) from error
