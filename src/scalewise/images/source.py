"""Source: a picture to read from, box by box, whatever it was: a file, bytes, an array, a tensor, a PIL image."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from scalewise.errors import InvalidRequest
from scalewise.images.alpha import MARGIN_PIXELS, bleed
from scalewise.images.arrays import Origin
from scalewise.images.held import HeldFile
from scalewise.images.metadata.metadata import Metadata

Kind = Literal["gray", "rgb"]
Depth = Literal["uint8", "uint16", "float32"]
Box = tuple[int, int, int, int]  # y0, x0, y1, x1; the end is not included

READABLE = frozenset(
    (".avif", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
)
MAX_PIXELS = 2**29  # 537 million; a scan of A1 at 600 dpi has 280
LEVELS: dict[Depth, tuple[float, float]] = {"uint8": (0, 255), "uint16": (0, 65535), "float32": (0, 1)}


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
    format: str | None = None  # a file's: png, jpeg, webp, tiff, avif, heic, gif
    pages: int = 1  # frames or pages in the file, of which this is one: `at` gives the others
    page: int = 0
    sizes: tuple[tuple[int, int], ...] = ()  # (h, w) upright of every page, in the first one of a TIFF
    levels: tuple[float, float] = (0.0, 255.0)  # the raw values that are read as 0 and 1; alpha of float: 0 and 1
    holes: bool = False  # a float file with pixels that are not finite
    depth: int | None = None  # bits of an AVIF or HEIC sample: 8, 10 or 12
    tiled: bool = False  # a TIFF in tiles
    big: bool = False  # a BigTIFF
    bands: Any = None  # which bands of a GeoTIFF this page is (`geotiff.read.Group`)
    notes: tuple[str, ...] = ()  # what was converted or left out on reading, for the user
    fetch: Callable[[Box], np.ndarray] = field(repr=False, kw_only=True)  # raw pixels (h, w, c)
    restore: Callable[[np.ndarray], Any] = field(repr=False, kw_only=True)  # canvas (h, w, c) → the kind that came in
    turn: Callable[[int], Source] | None = field(default=None, repr=False, kw_only=True)  # page → its Source
    held: HeldFile | None = field(
        default=None, repr=False, kw_only=True
    )  # what `path` is of a picture that came as bytes
    reopen: Callable[..., Source] | None = field(default=None, repr=False, kw_only=True)  # (path, page=) → its Source

    def read(self, box: Box | None = None, *, bled: bool = False) -> Tensor:
        """Colour as float32 (3, h, w) in [0, 1], gray repeated; without a box, the whole picture.

        With `bled`, pixels of little opacity have the colour of the visible ones near them (alpha.py), which is what a
        network should see. Pixels of a float file that are not finite always have that colour.
        """
        pixels = self._read(box)
        colour = pixels[:-1] if self.alpha else pixels
        translucent = bled and self.alpha and not bool((pixels[-1] == 1).all())
        if translucent or (self.holes and not bool(pixels.isfinite().all())):
            colour = self._read_bled(box or (0, 0, *self.size), bled and self.alpha)
        return colour.repeat(3, 1, 1) if self.kind == "gray" else colour.contiguous()

    def read_alpha(self, box: Box | None = None) -> Tensor | None:
        """Opacity as float32 (1, h, w) in [0, 1], or None if the picture has none."""
        return self._read(box)[-1:].nan_to_num(0, 1, 0).contiguous() if self.alpha else None

    def at(self, page: int) -> Source:
        """Another page or frame of the same file. Raises InvalidRequest beyond the last, UnreadableImage."""
        if not 0 <= page < self.pages:
            raise InvalidRequest(f"page {page} is not there: the file has {self.pages}, counted from 0")
        if self.turn is None:
            return self
        with self._named():
            return replace(self.turn(page), held=self.held, reopen=self.reopen)

    def __getstate__(self) -> dict[str, Any]:
        """The state that is pickled and copied: without a decoder, as a file is opened again when it is read."""
        state = dict(self.__dict__)
        if self.reopen is not None:
            del state["fetch"], state["turn"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.reopen is not None:
            path = self.path if self.held is None else self.held.path
            again = _Reopened(self.reopen, path, self.page)
            self.__dict__.update(path=path, fetch=again.fetch, turn=again.turn if self.pages > 1 else None)

    @property
    def gpano(self) -> dict[str, str] | None:
        """The fields of a panorama in the XMP, as written; None if it is none."""
        return self.metadata.gpano

    def _named(self) -> AbstractContextManager[None]:
        return nullcontext() if self.held is None else self.held.named()

    def _read_bled(self, box: Box, by_alpha: bool) -> Tensor:
        """Colour of a box, bled; read with the margin that makes it the same in any box."""
        y0, x0, y1, x1 = box
        top, bottom = min(y0, MARGIN_PIXELS), min(self.size[0] - y1, MARGIN_PIXELS)
        left, right = min(x0, MARGIN_PIXELS), min(self.size[1] - x1, MARGIN_PIXELS)
        pixels = self._read((y0 - top, x0 - left, y1 + bottom, x1 + right))
        colour = pixels[:-1] if self.alpha else pixels
        weight = pixels[-1:].nan_to_num(0, 1, 0) if by_alpha else torch.ones_like(pixels[:1])
        if self.holes:
            finite = colour.isfinite().all(0, keepdim=True)
            colour, weight = colour.nan_to_num(0, 0, 0), weight * finite
        return bleed(colour, weight)[:, top : top + y1 - y0, left : left + x1 - x0]

    def _read(self, box: Box | None) -> Tensor:
        height, width = self.size
        y0, x0, y1, x1 = box or (0, 0, height, width)
        if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
            raise InvalidRequest(f"box {box} does not lie in an image of {width}x{height} (y0, x0, y1, x1)")
        with self._named():
            raw = self.fetch((y0, x0, y1, x1))
        pixels = raw.astype(np.float32)
        low, high = self.levels
        if self.dtype != "float32":
            pixels /= high
        elif (low, high) != (0, 1):
            colour = pixels[..., :-1] if self.alpha else pixels
            colour -= np.float32(low)
            colour /= np.float32(high - low)
        return torch.from_numpy(pixels).permute(2, 0, 1)


class _Reopened:
    """The file of a `Source` that was copied, opened when it is needed."""

    def __init__(self, reopen: Callable[..., Source], path: Path | None, page: int) -> None:
        self._reopen, self._path, self._page = reopen, path, page

    @cached_property
    def _source(self) -> Source:
        return self._reopen(self._path, page=self._page)

    def fetch(self, box: Box) -> np.ndarray:
        return self._source.fetch(box)

    def turn(self, page: int) -> Source:
        return self._reopen(self._path, page=page)


def which_page(source: Source) -> tuple[str, ...]:
    """A note that a source is one page of several; none if it is the only one."""
    if source.pages == 1:
        return ()
    if source.bands is not None:
        return (f"bands {source.bands} of {source.bands.count}",)
    return (f"page or frame {source.page + 1} of {source.pages}",)


def channels(count: int) -> tuple[Kind, bool]:
    """Gray or RGB, and whether there is alpha, for 1 to 4 channels."""
    return ("gray" if count <= 2 else "rgb"), count in (2, 4)
