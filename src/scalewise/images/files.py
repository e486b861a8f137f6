"""Picture files by libvips: which loader, the limits before anything is decoded, pages."""

from __future__ import annotations

import functools
import os
import stat
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyvips

from scalewise.errors import UnreadableImage
from scalewise.images.decode import check_size, integer, load, source_of
from scalewise.images.extras import read_extras
from scalewise.images.geotiff import read as geotiff
from scalewise.images.metadata import tiff_pages
from scalewise.images.metadata.tiff_pages import TiffPages
from scalewise.images.source import READABLE, Source

_ANIMATED = ("gif", "webp")
MAX_PAGES = 10_000
_DEFLATE_RATIO = 1032  # bytes that one compressed byte can stand for, at most (zlib's own bound)
# Raw files that are no TIFFs, by their first bytes: Olympus, Panasonic, Fujifilm, Canon, Sigma, Minolta.
_RAW_STARTS = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FUJIFILMCCD-RAW", b"II\x1a\0\0\0HEAPCCDR", b"FOVb", b"\0MRM")


def open_file(path: Path, max_pixels: int, page: int | None = None) -> Source:
    """A page of a file as a `Source`; `images.open` for paths. Raises UnreadableImage."""
    name = repr(str(path))
    format = _format(path, name)
    survey = None
    if format == "tiff":
        survey = tiff_pages.survey(path, name)
        if geotiff.wanted(path, survey):
            return geotiff.open_file(path, max_pixels, page)
    if survey is not None:
        return _tiff(path, name, survey, page, max_pixels)
    extras = read_extras(path, name, format)
    image = load(path, name, format, page or 0)
    pages = integer(image, "n-pages", 1)
    _check_pages(name, pages, 0)
    if page is None and format == "heif" and 0 < integer(image, "heif-primary", 0) < pages:
        page = integer(image, "heif-primary", 0)
        image = load(path, name, format, page)
    page = page or 0
    _check_pages(name, pages, page)
    check_size(name, (image.height, image.width), max_pixels)
    if extras.gif is not None and extras.gif.clear:
        extras.gif.clear = _is_clear(image if page == 0 else load(path, name, format, 0))
    if format == "png":
        _check_promise(path, name)
    if format == "jpeg" and extras.short:
        raise UnreadableImage(f"{name} is truncated or damaged: it is too short for the pixels of its header")
    source = source_of(path, name, format, image, extras, page, pages)
    if pages == 1:
        return source

    @functools.cache
    def roll() -> pyvips.Image:
        """All frames of an animation, one below the other: a frame alone would decode all before it again."""
        frames = load(path, name, format, 0, n=-1)
        check_size(f"{name} with {pages} frames", (frames.height, frames.width), max_pixels)
        return frames

    def turn(number: int) -> Source:
        if format not in _ANIMATED:
            return open_file(path, max_pixels, number)
        height = integer(roll(), "page-height", roll().height)
        frame = roll().crop(0, number * height, roll().width, height)
        return replace(source_of(path, name, format, frame, extras, number, pages), turn=turn)

    return replace(source, turn=turn)


def _is_clear(first: pyvips.Image) -> bool:
    """False if the first frame of a GIF is opaque: a writer may name a transparent colour for later ones alone."""
    try:
        least = first[first.bands - 1].min()
        return first.hasalpha() and least < 255  # pyright: ignore[reportOperatorIssue] (typed as if min gave more)
    except pyvips.Error:  # damaged: said when it is read
        return True


def _tiff(path: Path, name: str, survey: TiffPages, page: int | None, max_pixels: int) -> Source:
    """A page of a TIFF: pages are its directories that are pictures."""
    pages = len(survey.pictures)
    _check_pages(name, pages, page or 0)
    directory = survey.pictures[page or 0]
    check_size(name, (survey.number(directory, tiff_pages.HEIGHT, 0), survey.number(directory, 0x0100, 0)), max_pixels)
    survey.check_colours(directory, name)
    extras = read_extras(path, name, "tiff", directory)
    extras.notes.extend(survey.notes)
    lab = survey.number(directory, tiff_pages.PHOTOMETRIC, 1) == tiff_pages.CIELAB
    if (
        lab
        and survey.number(directory, tiff_pages.BITS, 1) == 8
        and survey.number(directory, tiff_pages.SAMPLES, 1) == 3
    ):
        image = _lab(path, name, directory, max_pixels)
    else:
        image = load(path, name, "tiff", directory)
        check_size(name, (image.height, image.width), max_pixels)  # as libtiff reads a directory that is damaged
    extras.survey = survey
    compression = survey.number(directory, tiff_pages.COMPRESSION, 1)
    try:
        source = source_of(path, name, "tiff", image, extras, page or 0, pages, directory)
        if compression in tiff_pages.COMPRESSIONS:
            source.fetch((0, 0, 1, 1))
    except UnreadableImage:
        if compression not in tiff_pages.COMPRESSIONS:
            raise
        if geotiff.decodes(path) and not page:
            return geotiff.open_file(path, max_pixels, page)
        raise UnreadableImage(
            f"{name} is compressed by {tiff_pages.COMPRESSIONS[compression]}, which is not read here, or damaged: "
            "rewrite it with deflate (tiffcp -c zip)"
        ) from None
    if pages == 1:
        return source
    sizes = () if page else tuple(map(survey.upright_size, survey.pictures))

    def turn(number: int) -> Source:  # by the same survey: one for each page would take the square of their number
        return _tiff(path, name, survey, number, max_pixels)

    sound = all(min(size) > 0 for size in sizes)  # else a later page is damaged, and said to be when it is read
    return replace(source, sizes=sizes if sound else (), turn=turn)


def _lab(path: Path, name: str, directory: int, max_pixels: int) -> pyvips.Image:
    """CIE L*a*b* of 8 bit, which libvips does not read, by Pillow: L over 255, a* and b* plus 128."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture.seek(directory)
            if picture.mode != "LAB":
                raise UnreadableImage(f"{name} has L*a*b* pixels of a kind that is not read: convert it to RGB")
            check_size(name, (picture.height, picture.width), max_pixels)
            values = np.asarray(picture) ^ np.array([0, 128, 128], np.uint8)  # a* and b* have a sign
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"{name} is truncated or damaged: {' '.join(str(error).split())}") from error
    return pyvips.Image.new_from_array(values).copy(interpretation="multiband")


def _check_pages(name: str, pages: int, page: int) -> None:
    if pages > MAX_PAGES:
        raise UnreadableImage(f"{name} has {pages} pages or frames; at most {MAX_PAGES} are read")
    if page >= pages:
        raise UnreadableImage(f"{name} has {pages} pages; page {page}, counted from 0, is not there")


def container(path: Path) -> str | None:
    """The format of a picture file by its first bytes: png, jpeg, gif, webp, tiff, avif or heic; None for any other."""
    try:
        _check_file(path, "")  # a pipe would wait for ever
        found = _container(start := _start(path))
    except (OSError, UnreadableImage):
        return None
    if found != "heif":
        return found
    brands = start[8 : int.from_bytes(start[:4], "big")]
    return "avif" if b"avif" in brands or b"avis" in brands else "heic"


def _format(path: Path, name: str) -> str:
    """The format, by a file's first bytes: libvips would also read text as numbers, and drawings."""
    _check_file(path, name)
    try:
        start = _start(path)
    except OSError as error:
        raise UnreadableImage(f"cannot open {name}: {error.strerror}") from error
    found = _container(start)
    if start.startswith(_RAW_STARTS) or start[4:11] == b"ftypcrx" or (found == "tiff" and start[8:10] == b"CR"):
        raise tiff_pages.raw_file(name)
    if found is None or (found == "heif" and not pyvips.type_find("VipsForeignLoad", "heifload_source")):
        allowed = " ".join(sorted(READABLE))
        raise UnreadableImage(f"{name} is not a picture of a kind that can be read; allowed are {allowed}")
    return found


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _container(start: bytes) -> str | None:
    """png, jpeg, gif, webp, tiff or heif."""
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if start.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if start.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "webp"
    if start.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "tiff"
    return "heif" if start[4:8] == b"ftyp" else None


def _check_promise(path: Path, name: str) -> None:
    """Refuse a PNG whose header promises more than deflate could keep in so few bytes: a bomb, or cut off."""
    with path.open("rb") as file:
        header = file.read(26)[16:]
    width, height, bits, kind = struct.unpack(">IIBB", header)
    channels = {2: 3, 4: 2, 6: 4}.get(kind, 1)
    if height * (width * bits * channels // 8 + 1) > (path.stat().st_size + 64) * _DEFLATE_RATIO:
        raise UnreadableImage(f"{name} is truncated or damaged: it is too short for the {width}x{height} of its header")


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
