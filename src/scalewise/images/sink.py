"""Sink: a picture to write to, rectangle by rectangle in any order; rounding, range and encoding happen here, once."""

from __future__ import annotations

import math
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalewise.errors import InvalidRequest, UnwritableOutput
from scalewise.images.encode import (
    STREAMED,
    EncodedFile,
    Encoding,
    encode,
    unwritten,
)
from scalewise.images.source import Depth, Source
from scalewise.images.stream import BackgroundEncoder, StreamedCanvas

CANVAS_BYTES = 2**28  # a larger canvas is a file that is mapped into memory
STREAMED_MIN_PIXELS = 2**20  # a smaller picture is encoded when it is complete: a thread would gain nothing

# A full canvas, or its encoded file → the result, and what was left out.
Deliver = Callable[[Any], tuple[Any, list[str]]]
Trial = Callable[[np.ndarray], None]  # encodes a canvas and discards the result
Encode = Callable[[np.ndarray | StreamedCanvas], AbstractContextManager[EncodedFile]]


def encoder_for(path: Path, format: str, like: Source, how: Encoding, *, big: bool = False) -> Encode:
    """The function by which a `Sink` encodes its canvas."""

    @contextmanager
    def encoded(pixels: np.ndarray | StreamedCanvas) -> Iterator[EncodedFile]:
        with unwritten(path), encode(pixels, format, like, how, path.parent, big=big) as made:
            yield made

    return encoded


class Sink:
    """Takes rectangles, gives a file or an array. Made by `create`.

    with create("out.png", (h, w), like=source) as sink:
        sink.write(y0, x0, rgb, alpha)      # as often as it takes
        result = sink.finish()              # leaving the block without it discards everything

    PNG, JPEG and TIFF (not GeoTIFF) of STREAMED_MIN_PIXELS or more are encoded in a thread of their own while rows
    below are still being written, as far as rectangles come row by row from above and from left to right. `notes` says
    what the container could not hold; it is complete after `finish`.
    """

    def __init__(
        self,
        size: tuple[int, int],
        like: Source,
        dtype: Depth,
        deliver: Deliver,
        *,
        folder: Path | None = None,
        notes: tuple[str, ...] = (),
        scratch: Path | None = None,
        canvas: np.ndarray | None = None,
        encode: Encode | None = None,
        format: str = "",
        trial: Trial | None = None,
    ) -> None:
        self.size, self.like, self.notes, self.scratch, self._encode = size, like, notes, scratch, encode
        self._trial = trial if encode is None else discarded(encode)
        self.dtype: Depth = dtype
        # Float that stays float goes back to the file's own range.
        self.levels = like.levels if dtype == "float32" else (0.0, 1.0)
        self._deliver = deliver
        shape = (*size, channels_of(like))
        self._canvas = canvas_for(shape, dtype, folder, scratch) if canvas is None else canvas
        self._written = 0
        self.streams = encode is not None and format in STREAMED and math.prod(size) >= STREAMED_MIN_PIXELS
        self._covered = np.zeros(size[0], np.int64) if self.streams else None  # columns from the left, row by row
        self._rows = 0  # complete rows from above
        self._encoder: BackgroundEncoder[EncodedFile] | None = None
        self._forgotten: weakref.finalize[..., Sink] | None = None  # stops the encoder of a sink that is collected
        self._writing = threading.Lock()

    def write(self, y0: int, x0: int, rgb: Tensor, alpha: Tensor | None = None) -> None:
        """Put float (3, h, w) and alpha (1, h, w) with its top left pixel at (y0, x0).

        Values are clamped to [0, 1] and rounded to the nearest level; those of a float file are scaled back to its
        range. A gray picture gets BT.601 luma, which equal channels leave exactly as they are. Threads may write
        different rectangles at once.
        """
        assert self._canvas is not None, "write after finish or abort"
        # The sum of all is quicker to look at; that of +∞ and -∞ is NaN too.
        assert not (rgb.sum().isnan() and rgb.isnan().any()), "NaN must be dealt with where it arises"
        _, height, width = rgb.shape
        if min(y0, x0) < 0 or y0 + height > self.size[0] or x0 + width > self.size[1]:
            raise InvalidRequest(
                f"{width}x{height} pixels at x {x0}, y {y0} do not fit an output of {self.size[1]}x{self.size[0]}"
            )
        if (alpha is not None) != self.like.alpha:
            raise InvalidRequest(f"the output {'has' if self.like.alpha else 'has no'} alpha; {alpha is None=}")
        pixels = rgb.detach().float()
        if self.like.kind == "gray":
            red, green, blue = pixels.split(1)
            pixels = green + 0.299 * (red - green) + 0.114 * (blue - green)
        if alpha is not None:
            pixels = torch.cat([pixels, alpha.detach().to(pixels)])
        levels = to_levels(pixels, self.dtype)
        if self.levels != (0.0, 1.0):
            low, high = self.levels
            colour = levels[:-1] if alpha is not None else levels
            colour.mul_(high - low).add_(low).clamp_(low, high)
        here = self._canvas[y0 : y0 + height, x0 : x0 + width]
        if self.like.holes and self.dtype == "float32":
            here[...] = self._with_holes(levels.permute(1, 2, 0).cpu().numpy(), y0, x0)
        else:
            put(levels.cpu().numpy(), here)
        self._cover((y0, x0, y0 + height, x0 + width))

    def _cover(self, box: tuple[int, int, int, int]) -> None:
        """Count a rectangle as written, and pass on rows that are complete now; `finish` passes on the last ones."""
        y0, x0, y1, x1 = box
        with self._writing:
            self._written += (y1 - y0) * (x1 - x0)
            if self._covered is None:
                return
            part = self._covered[y0:y1]
            part[(part >= x0) & (part < x1)] = x1
            rest = self._covered[self._rows :] < self.size[1]
            self._rows += int(rest.argmax()) if rest.any() else len(rest)
            if self._encoder is None and 0 < self._rows < self.size[0]:
                assert self._canvas is not None and self._encode is not None
                self._encoder = BackgroundEncoder(StreamedCanvas(self._canvas), self._encode)
                self._forgotten = weakref.finalize(self, self._encoder.stop)
            if self._encoder is not None:
                if self._encoder.error is not None:
                    raise self._encoder.error
                self._encoder.rows.mark_done(self._rows)

    def encoding_seconds(self, sample: Tensor) -> float:
        """How long encoding alone takes, measured by encoding `sample`, float (3, h, w) of pixels like those of the
        picture; 0 if the result stays in memory."""
        if self._trial is None:
            return 0.0
        return encoding_seconds(self._trial, canvas_of(sample, self.like, self.dtype), math.prod(self.size))

    def resume(self, rows: int) -> None:
        """Count the first `rows` rows as written: an earlier run left them in `scratch`."""
        assert self.scratch is not None and 0 <= rows <= self.size[0]
        if rows:
            self._cover((0, 0, rows, self.size[1]))

    def flush(self) -> None:
        """Write the pixels so far to the disk, if there is a scratch file."""
        if isinstance(self._canvas, np.memmap):
            self._canvas.flush()

    def finish(self) -> Any:
        """Encode the file and return its path, or return the picture in the kind and dtype that the input had."""
        canvas = self._canvas
        assert canvas is not None, "finish after finish or abort"
        missing = self.size[0] * self.size[1] - self._written
        if missing > 0:
            raise InvalidRequest(f"{missing} of {self.size[0] * self.size[1]} pixels were never written")
        if self._encoder is not None:
            result, left_out = self._deliver(self._encoder.finish())
            self._stop_encoder()
        elif self._encode is not None:
            with self._encode(canvas) as encoded:
                result, left_out = self._deliver(encoded)
        else:
            result, left_out = self._deliver(canvas)
        self.notes = tuple(dict.fromkeys((*self.notes, *left_out)))  # reader and writer may find the same
        self._canvas = None
        return result

    def abort(self) -> None:
        """Drop what was written; nothing stays on disk but a scratch file that was asked for."""
        self._stop_encoder()
        self._canvas = None

    def _stop_encoder(self) -> None:
        """Stop the encoder, which holds the canvas."""
        if self._encoder is not None and self._forgotten is not None:
            self._encoder.stop()
            self._forgotten.detach()
            self._encoder = self._forgotten = None

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *error: object) -> None:
        self.abort()

    def _with_holes(self, block: np.ndarray, y0: int, x0: int) -> np.ndarray:
        """NaN where the nearest pixel of the input is not finite."""
        (h, w), (out_h, out_w) = self.like.size, self.size
        y = ((2 * np.arange(y0, y0 + block.shape[0]) + 1) * h) // (2 * out_h)
        x = ((2 * np.arange(x0, x0 + block.shape[1]) + 1) * w) // (2 * out_w)
        raw = self.like.fetch((int(y[0]), int(x[0]), int(y[-1]) + 1, int(x[-1]) + 1))
        colour = raw[..., :-1] if self.like.alpha else raw
        finite = np.asarray(np.isfinite(colour).all(axis=-1))[y - y[0]][:, x - x[0]]
        block = block.copy()
        block[..., : -1 if self.like.alpha else None][~finite] = np.nan
        return block


def to_levels(pixels: Tensor, dtype: Depth) -> Tensor:
    """Float to the nearest level of `dtype`, clamped to its range first; the one place where pixels are rounded."""
    pixels = pixels.clamp(0, 1)
    if dtype == "float32":
        return pixels
    if dtype == "uint8":
        return pixels.mul_(255).round_().to(torch.uint8)
    return pixels.mul_(65535).round_().to(torch.int32)  # numpy turns it into uint16, for which torch has few operators


def put(planes: np.ndarray, here: np.ndarray) -> None:
    """Put levels (channels, h, w) into part of a canvas (h, w, channels)."""
    if planes.strides[0] < planes.strides[2]:  # pixels lie together, as on the canvas
        here[...] = planes.transpose(1, 2, 0)
    else:
        for channel, plane in enumerate(planes):  # all at once they take 1.5 to 2 times as long
            here[..., channel] = plane


def canvas_of(sample: Tensor, like: Source, dtype: Depth) -> np.ndarray:
    """A small canvas, (h, w, channels), of opaque pixels of float (3, h, w)."""
    levels = to_levels(sample[:1] if like.kind == "gray" else sample, dtype)
    if like.alpha:
        levels = torch.cat([levels, to_levels(torch.ones(1, *sample.shape[1:]), dtype)])
    return np.ascontiguousarray(levels.permute(1, 2, 0).numpy(), dtype=dtype)


def encoding_seconds(trial: Trial, canvas: np.ndarray, pixels: int) -> float:
    """How long `trial` would take for so many pixels like those of a small canvas."""

    def seconds(part: np.ndarray) -> float:
        began = time.perf_counter()
        trial(part)
        return time.perf_counter() - began

    few = canvas[: max(1, len(canvas) // 8)]
    seconds(few)  # the first call also sets libvips up
    start, whole = seconds(few), min(seconds(canvas), seconds(canvas))
    rate = max(whole / 2, whole - start) / max(1, math.prod(canvas.shape[:2]) - math.prod(few.shape[:2]))
    return whole + rate * max(0, pixels - math.prod(canvas.shape[:2]))


def discarded(encode: Encode) -> Trial:
    def trial(canvas: np.ndarray) -> None:
        with encode(canvas):
            pass

    return trial


def channels_of(like: Source) -> int:
    return (1 if like.kind == "gray" else 3) + like.alpha


def same_file(a: Path, b: Path) -> bool:
    try:
        return os.path.samefile(a, b)
    except (OSError, ValueError):  # one of them does not exist
        return False


def canvas_for(shape: tuple[int, ...], dtype: Depth, folder: Path | None, scratch: Path | None = None) -> np.ndarray:
    """Zeros in memory, or in a file in `folder` that has no name, so that even a killed process leaves nothing.

    `scratch` names the file instead; one of the right length is opened with its contents.
    """
    byte_count = math.prod(shape) * np.dtype(dtype).itemsize
    if byte_count <= CANVAS_BYTES and scratch is None:
        return np.zeros(shape, dtype)
    try:
        if scratch is not None:
            mode = "r+b" if scratch.is_file() and scratch.stat().st_size == byte_count else "w+b"
            with scratch.open(mode) as file:
                _reserve(file.fileno(), byte_count)
                return np.memmap(file, dtype, "r+", shape=shape)
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file.fileno(), byte_count)
            return np.memmap(file, dtype, "r+", shape=shape)
    except OSError as error:
        place = str(folder or tempfile.gettempdir())
        raise UnwritableOutput(
            f"cannot keep {byte_count / 2**30:.1f} GiB of pixels in folder {place!r}: {error.strerror}"
        ) from error


def _reserve(descriptor: int, byte_count: int) -> None:
    """Make a full disk an error now, not a crash at some later pixel; where the system cannot, the file grows."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, byte_count)
    else:
        os.ftruncate(descriptor, byte_count)
