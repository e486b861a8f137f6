"""A canvas that libvips encodes from above while it is still being written below, and the thread that does so.

libvips takes pixels from Python only in one piece, or as the bytes of a file. So the canvas is shown to it as one: a
TIFF without compression, of which only the header is made. A reader of a strip that is not finished waits.
"""

from __future__ import annotations

import io
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

import numpy as np
import pyvips

STRIP_ROWS = 16  # so many are read at once
_STOP_SECONDS = 60  # a stopped thread has ended by then, whatever it was doing
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS = 256, 257, 258, 259, 262, 273
_SAMPLES, _ROWS, _BYTES, _PLANAR, _EXTRA, _FORMAT = 277, 278, 279, 284, 338, 339
_SHORT, _LONG8 = (3, "H"), (16, "Q")
_FORMATS = {"u": 1, "f": 3}  # SampleFormat by the kind of number


class StreamedCanvas:
    """The rows of `canvas` (h, w, c) from above, as far as they are done; it is safe to call from several threads.

    `stop` releases blocked readers; their reads then fail inside libvips.
    """

    def __init__(self, canvas: np.ndarray) -> None:
        self.canvas = canvas
        self._bytes = canvas.reshape(-1).view(np.uint8).data
        self._header = _header(canvas)
        self._row = canvas.nbytes // len(canvas)
        self._done = 0
        self._stopped = False
        self._source: pyvips.SourceCustom | None = None
        self._changed = threading.Condition()

    def mark_done(self, rows: int) -> None:
        """The first `rows` rows have their final values."""
        with self._changed:
            self._done = max(self._done, rows)
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def close(self) -> None:
        """Release the canvas, which callbacks of libvips would hold, once nothing reads any more."""
        self._source = None
        self._bytes = memoryview(b"")
        del self.canvas

    def image(self) -> pyvips.Image:
        """All rows as an image that can be read once, from above; its pixels have no meaning yet."""
        source, at = pyvips.SourceCustom(), 0
        length = len(self._header) + self.canvas.nbytes

        def seek(offset: int, whence: int) -> int:
            nonlocal at
            at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: at, io.SEEK_END: length}[whence]
            return at

        def read(count: int) -> bytes | None:
            nonlocal at
            part = self._part(at, count)
            at += len(part)
            return bytes(part) or None

        source.on_seek(seek)
        source.on_read(read)
        self._source = source  # libvips calls back into it, and does not keep it
        image = pyvips.Image.tiffload_source(source, access="sequential", fail_on="warning").copy()
        for field in (
            "bits-per-sample",
            "n-pages",
            "orientation",
            "vips-loader",
        ):  # they describe the header above, not the output
            image.remove(field)
        return image

    def _part(self, start: int, count: int) -> memoryview:
        """At most `count` bytes of the file from `start` on; none at its end, and after `stop`."""
        first = start - len(self._header)
        if first < 0:
            return memoryview(self._header)[start : start + count]
        stop = min(first + count, self.canvas.nbytes)
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._done * self._row >= stop)
            return memoryview(b"") if self._stopped else self._bytes[first:stop]


EncodedFile = TypeVar("EncodedFile")


class BackgroundEncoder(Generic[EncodedFile]):
    """A thread that encodes `rows` as they are done. `finish` gives the encoded file, which is gone after `stop`."""

    def __init__(
        self, rows: StreamedCanvas, encode: Callable[[StreamedCanvas], AbstractContextManager[EncodedFile]]
    ) -> None:
        self.rows, self._encode, self._height = rows, encode, len(rows.canvas)
        self._encoded: EncodedFile | None = None
        self._error: BaseException | None = None
        self._encoded_event, self._release = threading.Event(), threading.Event()
        # A daemon: a sink that was forgotten must not keep Python from ending.
        self._thread = threading.Thread(target=self._run, daemon=True, name="scalewise encoder")
        self._thread.start()

    @property
    def error(self) -> BaseException | None:
        """why encoding ended early, if it did."""
        return self._error

    def finish(self) -> EncodedFile:
        """The encoded file, once all rows are done. Raises what encoding raised."""
        self.rows.mark_done(self._height)
        self._encoded_event.wait()
        if self._error is not None:
            raise self._error
        assert self._encoded is not None
        return self._encoded

    def stop(self) -> None:
        """Drop the result; the thread has ended when this returns."""
        self.rows.stop()
        self._release.set()
        if threading.current_thread() is not self._thread:  # the garbage collector may run in any thread
            self._thread.join(_STOP_SECONDS)
        self._encoded = self._error = None  # the frames of an error hold the canvas

    def _run(self) -> None:
        try:
            with self._encode(self.rows) as encoded:
                self._encoded = encoded
                self._encoded_event.set()
                self._release.wait()
        except BaseException as error:
            self._error = error
            self._encoded_event.set()
        finally:
            self.rows.close()


def _header(canvas: np.ndarray) -> bytes:
    """All of a BigTIFF before its pixels: one directory, and where the strips lie."""
    height, width, samples = canvas.shape
    row, strips = canvas.nbytes // height, -(-height // STRIP_ROWS)
    entries = [
        (_WIDTH, _LONG8, [width]),
        (_HEIGHT, _LONG8, [height]),
        (_BITS, _SHORT, [8 * canvas.itemsize] * samples),
        (_COMPRESSION, _SHORT, [1]),
        (_PHOTOMETRIC, _SHORT, [1]),
        (_OFFSETS, _LONG8, [STRIP_ROWS * row * k for k in range(strips)]),
        (_SAMPLES, _SHORT, [samples]),
        (_ROWS, _LONG8, [STRIP_ROWS]),
        (_BYTES, _LONG8, [min(STRIP_ROWS, height - STRIP_ROWS * k) * row for k in range(strips)]),
        (_PLANAR, _SHORT, [1]),
        *([(_EXTRA, _SHORT, [0] * (samples - 1))] if samples > 1 else []),
        (_FORMAT, _SHORT, [_FORMATS[canvas.dtype.kind]] * samples),
    ]
    order, mark = ("<", b"II") if sys.byteorder == "little" else (">", b"MM")
    values_at = 16 + 8 + 20 * len(entries) + 8  # where values lie that do not fit into an entry
    end = values_at + sum(_padded(values, code) for _, (_, code), values in entries)
    directory, data = struct.pack(f"{order}Q", len(entries)), b""
    for tag, (kind, code), values in entries:
        values = [value + end for value in values] if tag == _OFFSETS else values
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(packed) > 8:
            place = struct.pack(f"{order}Q", values_at + len(data))
            data += packed.ljust(-(-len(packed) // 8) * 8, b"\0")
        else:
            place = packed.ljust(8, b"\0")
        directory += struct.pack(f"{order}HHQ", tag, kind, len(values)) + place
    return mark + struct.pack(f"{order}HHHQ", 43, 8, 0, 16) + directory + bytes(8) + data


def _padded(values: list[int], code: str) -> int:
    """Bytes that the values of an entry take after the directory."""
    length = len(values) * struct.calcsize(code)
    return -(-length // 8) * 8 if length > 8 else 0
