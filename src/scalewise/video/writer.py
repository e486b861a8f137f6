"""Frames to an encoder, and its packets to a file that can be played wherever it was cut off."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from scalewise import images
from scalewise.errors import UnwritableOutput
from scalewise.geometry.grid import Size
from scalewise.video.colour import encoded
from scalewise.video.formats import CODECS, FRAGMENTS, Coding

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

MAX_PENDING = 2  # frames on their way to the encoder while the next one is computed


@dataclass(frozen=True)
class Timing:
    """How a stream counts time: its unit in seconds, and its mean frame rate."""

    base: Fraction
    rate: Fraction


class Writer(Protocol):
    """Takes frames one after another. Closing it leaves what was written so far, whole: so many `frames`."""

    @property
    def frames(self) -> int: ...

    def write(self, pixels: np.ndarray, time: int) -> None: ...

    def close(self) -> None: ...


class PartWriter:
    """Encodes frames into one file, in a thread of its own."""

    def __init__(self, path: Path, coding: Coding, size: Size, timing: Timing, aspect: Fraction | None) -> None:
        import av

        kind = CODECS[coding.codec]
        self.path, self.coding, self.timing = path, coding, timing
        options = dict(FRAGMENTS) if kind.part != "matroska" else {"cluster_time_limit": "1000", "flush_packets": "1"}
        with written(path):
            self._container = av.open(str(path), "w", format=kind.part, options=options)
            self._stream = add_video(self._container, coding, size, timing, aspect)
        self.frames = 0
        self._encoder = ThreadPoolExecutor(1)
        self._pending: deque[Future[None]] = deque()

    def write(self, pixels: np.ndarray, time: int) -> None:
        """A frame (h, w, 3 or 4) that is shown from `time` on. Raises UnwritableOutput."""
        while len(self._pending) >= MAX_PENDING:
            self._pending.popleft().result()
        self._pending.append(self._encoder.submit(self._encode, pixels.copy(), time))

    def _encode(self, pixels: np.ndarray, time: int) -> None:
        with written(self.path):
            frame = encoded(pixels, self.coding.pixel_format, self.coding.layout, self.coding.colour)
            frame.pts, frame.time_base = time, self.timing.base
            self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def close(self) -> None:
        """Encode what is left and end the file. Raises UnwritableOutput."""
        try:
            while self._pending:
                self._pending.popleft().result()
            with written(self.path):
                self._container.mux(self._stream.encode(None))
        finally:
            self._encoder.shutdown()
            self._container.close()


class FolderWriter:
    """Frames as PNG files in a folder: 000001.png, …, each whole or not there."""

    def __init__(self, folder: Path, first: int) -> None:
        self.folder, self._first, self.frames = folder, first, 0

    def write(self, pixels: np.ndarray, time: int) -> None:
        images.save(self.folder / f"{self._first + self.frames + 1:06}.png", pixels, overwrite=True)
        self.frames += 1

    def close(self) -> None:
        pass


def add_video(
    container: OutputContainer, coding: Coding, size: Size, timing: Timing, aspect: Fraction | None
) -> VideoStream:
    """A video stream for encoding, with all that the picture's look depends on."""
    os.environ.setdefault("SVT_LOG", "1")  # errors alone
    stream: Any = container.add_stream(coding.encoder, rate=timing.rate, options=coding.options(timing.rate))
    context = stream.codec_context
    context.width, context.height, context.pix_fmt = size[1], size[0], coding.pixel_format
    stream.time_base = context.time_base = timing.base
    if aspect is not None:
        context.sample_aspect_ratio = aspect
    colour = coding.colour
    context.color_range, context.color_primaries = colour.range, colour.primaries
    context.color_trc, context.colorspace = colour.transfer, colour.matrix
    return stream


@contextmanager
def written(path: Path) -> Iterator[None]:
    """What FFmpeg and the system say of an output, as UnwritableOutput."""
    from av import error as errors

    try:
        yield
    except (errors.FFmpegError, OSError, ValueError) as error:
        text = getattr(error, "strerror", None) or str(error)
        raise UnwritableOutput(f"could not write {str(path)!r}: {' '.join(str(text).split())}") from error


@dataclass(frozen=True)
class Trial:
    """What encoding took on a few frames: seconds of one, bytes of a keyframe and of another frame."""

    seconds: float
    key_bytes: float
    bytes: float

    def total_bytes(self, frames: int, rate: Fraction, intra: bool) -> float:
        """Of a clip of so many frames."""
        from scalewise.video.formats import KEYFRAME_SECONDS

        keys = frames if intra else max(1.0, frames / max(1.0, KEYFRAME_SECONDS * float(rate)))
        return keys * self.key_bytes + (frames - min(keys, frames)) * self.bytes


def trial(frames: Sequence[np.ndarray], coding: Coding, size: Size, timing: Timing) -> Trial:
    """Encode a few frames, enlarged quickly, to nowhere. Raises UnwritableOutput if the encoder refuses them."""
    import av

    sizes: list[int] = []
    with written(Path(os.devnull)), av.open(os.devnull, "w", format="null") as container:
        stream = add_video(container, replace(coding, colour=coding.colour), size, timing, None)
        large = [enlarged_quickly(frame, size) for frame in frames]
        began, counted = time.perf_counter(), max(1, len(large) - 1)
        for k, pixels in enumerate(large):
            frame = encoded(pixels, coding.pixel_format, coding.layout, coding.colour)
            frame.pts, frame.time_base = k * max(1, round(1 / (timing.rate * timing.base))), timing.base
            sizes += [packet.size for packet in stream.encode(frame)]
            if k == 0 and len(large) > 1:  # the first one also opens the encoder
                began = time.perf_counter()
        sizes += [packet.size for packet in stream.encode(None)]
        seconds = (time.perf_counter() - began) / counted
    rest = sizes[1:] or sizes
    return Trial(seconds, float(sizes[0]) if sizes else 0.0, sum(rest) / max(1, len(rest)))


def enlarged_quickly(pixels: np.ndarray, size: Size) -> np.ndarray:
    """A frame at another size, by libswscale's bicubic."""
    import av

    names = {("uint8", 3): "rgb24", ("uint8", 4): "rgba", ("uint16", 3): "rgb48le", ("uint16", 4): "rgba64le"}
    name = names[str(pixels.dtype), pixels.shape[-1]]
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=name)
    return frame.reformat(width=size[1], height=size[0], format=name, interpolation="BICUBIC").to_ndarray()
