"""PageWriter: the pages or frames of one file into one file: every page of a TIFF, every frame of an animation."""

from __future__ import annotations

import math
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
from torch import Tensor

from scalewise.errors import UnwritableOutput
from scalewise.images.encode import EncodedFile, Encoding, check_written, depth_for, encode, unwritten, write_container
from scalewise.images.metadata.tiff import TiffWriter
from scalewise.images.sink import Sink, canvas_for, canvas_of, channels_of, encoder_for, encoding_seconds
from scalewise.images.source import Depth, Source, which_page
from scalewise.storage import atomic_write

Size = tuple[int, int]

ANIMATIONS = ("gif", "webp")  # frames of one size and kind, shown one after the other
_USUAL_DELAY_MS = 100  # for frames that name no delay
_SAFE_TIFF_BYTES = 2**30  # pages that may differ in size are counted as the first, so with room to spare


class PageWriter:
    """Pages to be written in order, then a file; this one has a single page. Made by `create_pages`.

    with create_pages("out.tif", source, size_of) as writer:
        for page, sink in writer:           # a Source and the Sink for it: write all of it and finish it, in turn
            ...
        path = writer.finish()              # leaving the block without it discards everything
    """

    def __init__(self, path: Path, source: Source, sink: Sink | None = None) -> None:
        self.path, self.source = path, source
        self.done = 0  # pages
        self._said: dict[str, None] = {}  # notes, each once
        self._sink = sink  # the one being written: earlier ones are released, with the files that they read

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[tuple[Source, Sink]]:
        assert self._sink is not None, "pages after abort"
        yield from self._turn(self.source, self._sink)

    def _turn(self, page: Source, sink: Sink) -> Iterator[tuple[Source, Sink]]:
        """One page, and its notes afterwards."""
        self._sink = sink
        yield page, sink
        self._said |= dict.fromkeys((*page.notes, *sink.notes))
        self._sink = None
        self.done += 1

    @property
    def notes(self) -> tuple[str, ...]:
        """What was converted on the way in and what the container could not hold; complete after `finish`."""
        which = which_page(self.source)
        others = tuple(note for note in self._said if note not in which)
        return (*which, *others) if self.source.pages > len(self) else others

    def encoding_seconds(self, sample: Tensor) -> float:
        """How long `finish` will take, measured by encoding `sample`, float (3, h, w) of pixels like those of the
        pages; 0 where pages are encoded one by one."""
        return 0.0

    def finish(self) -> Path:
        return self.path

    def abort(self) -> None:
        if self._sink is not None:
            self._sink.abort()

    def __enter__(self) -> PageWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.abort()


class TiffPages(PageWriter):
    """A TIFF: each page is encoded when it is finished, into a file without a name."""

    def __init__(
        self, path: Path, source: Source, size_of: Callable[[Size], Size], how: Encoding, overwrite: bool
    ) -> None:
        super().__init__(path, source)
        self._size_of, self._how, self._overwrite = size_of, how, overwrite
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 (closed by abort)
        except OSError as error:
            raise UnwritableOutput(f"cannot write in folder {str(path.parent)!r}: {error.strerror}") from error
        self._tiff = TiffWriter(self._file)
        height, width = size_of(source.size)
        byte_count = height * width * channels_of(source) * np.dtype(source.dtype).itemsize * source.pages
        self._big = source.big or byte_count > _SAFE_TIFF_BYTES

    def __len__(self) -> int:
        return self.source.pages

    def __iter__(self) -> Iterator[tuple[Source, Sink]]:
        for number in range(len(self)):
            page = self.source.at(number)
            size = self._size_of(page.size)
            encoding_with, folder = encoder_for(self.path, "tiff", page, self._how, big=self._big), self.path.parent
            sink = Sink(size, page, page.dtype, self._deliver, folder=folder, encode=encoding_with, format="tiff")
            yield from self._turn(page, sink)

    def _deliver(self, encoded: EncodedFile) -> tuple[None, list[str]]:
        try:
            return None, write_container(encoded, self._file, "tiff", writer=self._tiff, pages=len(self))
        except struct.error:
            raise UnwritableOutput(f"{str(self.path)!r} grows beyond 4 GiB: write its pages apart") from None
        except OSError as error:
            raise UnwritableOutput(f"could not write {str(self.path)!r}: {error.strerror}") from error

    def finish(self) -> Path:
        assert self._tiff.pages == len(self), "finish before all pages are"
        with atomic_write(self.path, overwrite=self._overwrite) as temporary:
            with temporary.open("r+b") as out:
                self._file.seek(0)
                shutil.copyfileobj(self._file, out)
            first = self._size_of(self.source.at(0).size)
            check_written(temporary, self.path, "tiff", first, len(self))
        self.abort()
        return self.path

    def abort(self) -> None:
        super().abort()
        self._file.close()


class Animation(PageWriter):
    """An animation: all frames on one canvas, one below the other, encoded at the end."""

    def __init__(
        self, path: Path, format: str, source: Source, size_of: Callable[[Size], Size], how: Encoding, overwrite: bool
    ) -> None:
        super().__init__(path, source)
        self._format, self._how, self._overwrite = format, how, overwrite
        self._first = source.at(0)
        self._size = size_of(source.size)
        self._dtype: Depth
        self._dtype, note = depth_for(format, self._first)
        height, width = self._size
        shape = (height * source.pages, width, channels_of(self._first))
        self._canvas: np.ndarray | None = canvas_for(shape, self._dtype, path.parent)
        self._said |= dict.fromkeys([note] if note else [])

    def __len__(self) -> int:
        return self.source.pages

    def __iter__(self) -> Iterator[tuple[Source, Sink]]:
        height = self._size[0]
        for number in range(len(self)):
            page = self.source.at(number)
            assert self._canvas is not None, "pages after finish or abort"
            part = self._canvas[number * height : (number + 1) * height]
            yield from self._turn(page, Sink(self._size, page, self._dtype, lambda _: (None, []), canvas=part))

    def encoding_seconds(self, sample: Tensor) -> float:
        def trial(canvas: np.ndarray) -> None:
            with encode(canvas, self._format, self._first, self._how, self.path.parent, frames=(_USUAL_DELAY_MS,)):
                pass

        canvas = canvas_of(sample, self._first, self._dtype)
        return encoding_seconds(trial, canvas, math.prod(self._size) * len(self))

    def finish(self) -> Path:
        assert self._canvas is not None and self.done == len(self), "finish before all frames are"
        delays = (*self._first.metadata.delay, *[_USUAL_DELAY_MS] * len(self))[: len(self)]
        with (
            unwritten(self.path),
            encode(self._canvas, self._format, self._first, self._how, self.path.parent, frames=delays) as encoded,
            atomic_write(self.path, overwrite=self._overwrite) as temporary,
        ):
            with temporary.open("r+b") as out:
                left_out = write_container(encoded, out, self._format)
            check_written(temporary, self.path, self._format, self._size)
        self._said |= dict.fromkeys(left_out)
        self._canvas = None
        return self.path

    def abort(self) -> None:
        super().abort()
        self._canvas = None
