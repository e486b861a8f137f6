"""Writing pictures: `create` a Sink, `save` a whole picture, `create_pages` for all pages of a file; `to_bytes`,
`to_pil` and `thumbnail` need no file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import pyvips

from scalewise.errors import InvalidRequest, ScalewiseError, UnwritableOutput
from scalewise.images.arrays import as_pil
from scalewise.images.encode import (
    WRITABLE,
    EncodedFile,
    Encoding,
    check_format,
    check_written,
    depth_for,
    unwritten,
    write_container,
)
from scalewise.images.geotiff import write as geotiff
from scalewise.images.metadata.metadata import set_blob
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
    if path is None:
        return Sink(size, like, like.dtype, lambda canvas: (like.restore(canvas), []), scratch=scratch)
    path, how = _as_path(path), encoding or Encoding(quality)
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


def _as_path(path: object) -> Path:
    """`path` as a Path. Raises UnwritableOutput for what is not a file name."""
    if not isinstance(path, str | os.PathLike | bytes):
        raise UnwritableOutput(f"cannot save to a {type(path).__name__}: name a file, or take the bytes by to_bytes")
    return Path(os.fsdecode(path))


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
    own_range = _has_own_range(image, like)
    if _has_own_range(image, like):
        image = _in_unit_range(image, like)
    source = how = open(image)
    if like is not None:
        # Its size too: metadata is updated from there.
        how = replace(like, kind=source.kind, alpha=source.alpha, dtype=source.dtype, restore=source.restore)
        if not own_range:
            how = replace(how, levels=source.levels, holes=False)
    height, width = source.size
    with create(path, source.size, how, encoding=encoding, quality=quality, overwrite=overwrite) as sink:
        for top in range(0, height, _BAND_ROWS):
            band = (top, 0, min(top + _BAND_ROWS, height), width)
            sink.write(top, 0, source.read(band), source.read_alpha(band))
        return _finished(sink, notes)


def to_bytes(format: str, image: object, **how: Any) -> bytes:
    """The file that `save` would write, as bytes; `format` is its extension, with or without a dot. Raises
    UnwritableOutput."""
    with tempfile.TemporaryDirectory(prefix="scalewise-") as folder:
        path = Path(folder) / f"picture.{str(format).lower().lstrip('.')}"
        if path.parent != Path(folder):
            raise UnwritableOutput(f"format {format!r} is not an extension; allowed are {' '.join(sorted(WRITABLE))}")
        try:
            return save(path, image, **how).read_bytes()
        except ScalewiseError as error:
            raise type(error)(str(error).replace(repr(str(path)), f"the {path.suffix[1:]} file")) from error


def to_pil(image: object, like: Source | None = None) -> Any:
    """A picture in memory as a PIL image, with profile and EXIF of `like`: 16 bit of gray alone, otherwise 8."""
    source, raw = _plain(image, like)
    if raw.dtype != np.uint16 or raw.shape[2] > 1:
        raw = _in_eight_bits(raw)
    metadata = source.metadata if like is None else like.metadata
    info = {"icc_profile": metadata.icc, "exif": metadata.exif, "dpi": metadata.dpi}
    return as_pil({key: value for key, value in info.items() if value is not None}, raw)


def thumbnail(image: object, like: Source | None = None, side: int = 1024) -> bytes:
    """A picture that is in memory as a PNG of 8 bit, at most `side` pixels a side: for a notebook."""
    _, raw = _plain(image, like)
    small = pyvips.Image.new_from_array(_in_eight_bits(raw), interpretation="srgb" if raw.shape[2] > 2 else "b-w")
    if like is not None and like.metadata.icc:
        set_blob(small, "icc-profile-data", like.metadata.icc)
    if max(raw.shape[:2]) > side:
        small = small.thumbnail_image(side, height=side, size="down")
    return small.pngsave_buffer(compression=4)


def _plain(image: object, like: Source | None) -> tuple[Source, np.ndarray]:
    """A picture in memory, whatever its kind, and its pixels (h, w, c): uint8, uint16 or float in [0, 1]."""
    source = open(_in_unit_range(image, like) if _has_own_range(image, like) else image)
    return source, source.fetch((0, 0, *source.size))


def _in_eight_bits(raw: np.ndarray) -> np.ndarray:
    if raw.dtype == np.uint8:
        return np.ascontiguousarray(raw)
    high = 65535 if raw.dtype == np.uint16 else 1
    return (raw.astype(np.float32) * (255 / high)).round().astype(np.uint8)


def _has_own_range(image: object, like: Source | None) -> TypeGuard[np.ndarray]:
    """True for what came out of a float file, whose values need not lie in [0, 1]."""
    floats = like is not None and like.path is not None and like.dtype == "float32"
    return floats and isinstance(image, np.ndarray) and image.dtype.kind == "f"


def _finished(sink: Sink, notes: list[str] | None) -> Path:
    path = sink.finish()
    if notes is not None:
        notes.extend(sink.notes)
    return path


def _in_unit_range(array: np.ndarray, like: Source | None) -> np.ndarray:
    """What came out of a float file, as arrays are taken: in [0, 1], without holes."""
    assert like is not None, "it came out of a file"
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
