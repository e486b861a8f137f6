"""What a picture is written by: `create` a Sink, `save` a whole picture, `create_pages` for all pages of a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from scalewise.errors import InvalidRequest, UnwritableOutput
from scalewise.images.encode import (
    EncodedFile,
    Encoding,
    check_format,
    check_written,
    depth_for,
    unwritten,
    write_container,
)
from scalewise.images.geotiff import write as geotiff
from scalewise.images.pages import ANIMATIONS, Animation, PageWriter, Size, TiffPages
from scalewise.images.read import open
from scalewise.images.sink import Sink, encoder_for, same_file
from scalewise.images.source import Source
from scalewise.storage import atomic_write, check_writable

_BAND_ROWS = 512


def create(
    path: str | os.PathLike[str] | None,
    size: tuple[int, int],
    like: Source,
    *,
    encoding: Encoding | None = None,
    quality: int | None = None,
    overwrite: bool = False,
    scratch: Path | None = None,
) -> Sink:
    """A `Sink` of `size` (H, W) with the channels, depth and metadata of `like`; `path` None: the result is returned.

    The format follows the extension. PNG keeps 8 and 16 bit, TIFF also float, AVIF up to 12 bit; JPEG, WebP and GIF
    take 8 bit, JPEG no alpha. Depth that is lost is in `Sink.notes`; what the format cannot hold at all is refused
    here, before any work is done. `encoding` says how it is written; `quality` is short for one of quality only.
    `scratch` names the file that holds the pixels until they are encoded: an interrupted run finds them again.
    """
    if min(size) < 1:
        raise InvalidRequest(f"size is {size[1]}x{size[0]}; each side must be at least 1")
    how = encoding or Encoding(quality=quality)
    if path is None:
        return Sink(size, like, like.dtype, lambda canvas: (like.restore(canvas), []), scratch=scratch)
    path = Path(os.fsdecode(path))
    format = check_format(path, size, like, how)
    if like.path is not None and same_file(path, like.path):
        raise UnwritableOutput(f"{str(path)!r} is the input itself; choose another name")
    check_writable(path, overwrite=overwrite)
    if like.bands is not None and format == "tiff":
        geotiff.check_place(path, like, overwrite=overwrite)
    dtype, note = depth_for(format, like)
    if like.bands is not None:
        lost: tuple[str, ...] = like.bands.lost
        if format == "tiff":
            finish, trial = geotiff.deliver(path, like, how, overwrite=overwrite), geotiff.trial(like)
            return Sink(size, like, dtype, finish, folder=path.parent, scratch=scratch, trial=trial)
        parts = (f"{what} no place in a {format} and {'was' if 'has' in what else 'were'} left out" for what in lost)
        note = "; ".join([*parts, *([note] if note else [])])

    def deliver(encoded: EncodedFile) -> tuple[Path, list[str]]:
        within = None if scratch is None else scratch.parent
        writing = atomic_write(path, overwrite=overwrite, within=within)
        with writing as temporary, unwritten(path):
            with temporary.open("r+b") as out:
                left_out = write_container(encoded, out, format)
            check_written(temporary, path, format, size)
        return path, left_out

    notes = (note,) if note else ()
    encoding_with = encoder_for(path, format, like, how)
    return Sink(
        size,
        like,
        dtype,
        deliver,
        folder=path.parent,
        notes=notes,
        scratch=scratch,
        encode=encoding_with,
        format=format,
    )


def save(
    path: str | os.PathLike[str],
    image: object,
    *,
    like: Source | None = None,
    encoding: Encoding | None = None,
    quality: int | None = None,
    overwrite: bool = False,
    notes: list[str] | None = None,
) -> Path:
    """Write a picture that is in memory (numpy, PIL, torch) to a file; metadata comes from `like`, if given.

    What the format cannot hold is added to `notes`.
    """
    if like is not None and like.bands is not None and isinstance(image, np.ndarray):
        # in the values of the file, whatever their type and range
        how = Encoding(quality) if encoding is None else encoding
        with create(path, (image.shape[0], image.shape[1]), like, encoding=how, overwrite=overwrite) as sink:
            sink.write(0, 0, geotiff.picture(like, image))
            return _finished(sink, notes)
    own_range = like is not None and like.path is not None and like.dtype == "float32"
    own_range = own_range and isinstance(image, np.ndarray) and image.dtype.kind == "f"
    if own_range:
        assert like is not None and isinstance(image, np.ndarray)
        image = _in_unit_range(image, like)
    source = how = open(image)
    if like is not None:
        # Its size too: metadata is mended from there.
        how = replace(like, kind=source.kind, alpha=source.alpha, dtype=source.dtype, restore=source.restore)
        if not own_range:
            how = replace(how, levels=source.levels, holes=False)
    height, width = source.size
    with create(path, source.size, how, encoding=encoding, quality=quality, overwrite=overwrite) as sink:
        for top in range(0, height, _BAND_ROWS):
            band = (top, 0, min(top + _BAND_ROWS, height), width)
            sink.write(top, 0, source.read(band), source.read_alpha(band))
        return _finished(sink, notes)


def _finished(sink: Sink, notes: list[str] | None) -> Path:
    path = sink.finish()
    if notes is not None:
        notes.extend(sink.notes)
    return path


def _in_unit_range(array: np.ndarray, like: Source) -> np.ndarray:
    """What came out of a float file, as arrays are taken: in [0, 1], without holes."""
    low, high = like.levels
    colour = np.nan_to_num((array - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    if like.alpha:
        colour[..., -1] = np.nan_to_num(array[..., -1], nan=0.0).clip(0, 1)
    return colour.astype(np.float32)


def create_pages(
    path: str | os.PathLike[str],
    source: Source,
    size_of: Callable[[Size], Size],
    *,
    encoding: Encoding | None = None,
    overwrite: bool = False,
    scratch: Path | None = None,
) -> PageWriter:
    """A `PageWriter` for all pages of `source` as far as the format of `path` holds several, else for its one page.

    `size_of` gives the output size (H, W) of a page from its own. TIFF takes pages of any size and kind; GIF and WebP
    take frames that are alike, for as long each as they were shown. `scratch`: as in `create`, for a single page.
    Raises UnwritableOutput for what the format cannot hold.
    """
    path, how = Path(os.fsdecode(path)), encoding or Encoding()
    format = check_format(path, size_of(source.size), source, how)
    if source.bands is not None and source.pages > 1 and format == "tiff":
        return geotiff.GeoTiffPages(path, source, size_of, how, overwrite)
    several = source.pages > 1 and (format == "tiff" or (format in ANIMATIONS and _alike(source)))
    if not several:
        sink = create(path, size_of(source.size), source, encoding=how, overwrite=overwrite, scratch=scratch)
        return PageWriter(path, source, sink)
    if source.path is not None and same_file(path, source.path):
        raise UnwritableOutput(f"{str(path)!r} is the input itself; choose another name")
    check_writable(path, overwrite=overwrite)
    if format == "tiff":
        return TiffPages(path, source, size_of, how, overwrite)
    return Animation(path, format, source, size_of, how, overwrite)


def _alike(source: Source) -> bool:
    """True if all pages are pictures of one size, kind and depth; frames of an animation always are."""
    if source.format in ANIMATIONS:
        return True

    def look(page: Source) -> tuple[object, ...]:
        return page.size, page.kind, page.alpha, page.dtype

    return all(look(source.at(number)) == look(source) for number in range(source.pages))
