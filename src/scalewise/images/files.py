"""Picture files by libvips: which loader, the limits before anything is decoded, colour, pages."""

from __future__ import annotations

import functools
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyvips

from scalewise.errors import UnreadableImage
from scalewise.images.metadata.containers import png_chunks
from scalewise.images.metadata.metadata import Metadata, metadata_of
from scalewise.images.metadata.tiff import TiffExtras, read_extras
from scalewise.images.source import LEVELS, READABLE, Box, Depth, Source, channels

_AS_THEY_ARE = ("b-w", "grey16", "srgb", "rgb", "rgb16", "scrgb", "multiband")  # the rest is converted to sRGB
_DEPTHS: dict[str, Depth] = {"uchar": "uint8", "ushort": "uint16", "float": "float32"}
_ANIMATED = ("gif", "webp")
_PIXELS_AT_ONCE = 2**22  # when the range of a float file is looked for
MAX_PAGES = 10_000
_DEFLATE = 1032  # bytes that one compressed byte can stand for, at most (zlib's own bound)


def open_file(path: Path, max_pixels: int, page: int | None = None) -> Source:
    """A page of a file as a `Source`; `images.open` for paths. Raises UnreadableImage."""
    name = repr(str(path))
    format = _format(path, name)
    if format == "tiff":
        from scalewise.images.geotiff import read as geotiff  # optional

        if geotiff.wanted(path):
            return geotiff.open_file(path, max_pixels, page)
    image = _load(path, name, format, page or 0)
    pages = _integer(image, "n-pages", 1)
    if pages > MAX_PAGES:
        raise UnreadableImage(f"{name} has {pages} pages or frames; at most {MAX_PAGES} are read")
    if page is None and format == "heif" and 0 < _integer(image, "heif-primary", 0) < pages:
        page = _integer(image, "heif-primary", 0)
        image = _load(path, name, format, page)
    page = page or 0
    if page >= pages:
        raise UnreadableImage(f"{name} has {pages} pages; page {page}, counted from 0, is not there")
    _check_size(image, name, max_pixels)
    if format == "png":
        _check_promise(path, name)
    source = _source(path, name, format, image, page, pages)
    if pages == 1:
        return source

    @functools.cache
    def roll() -> pyvips.Image:
        """All frames of an animation, one below the other: a frame alone would decode all before it again."""
        frames = _load(path, name, format, 0, n=-1)
        _check_size(frames, f"{name} with {pages} frames", max_pixels)
        return frames

    def turn(number: int) -> Source:
        if format not in _ANIMATED:
            return open_file(path, max_pixels, number)
        height = _integer(roll(), "page-height", roll().height)
        frame = roll().crop(0, number * height, roll().width, height)
        return replace(_source(path, name, format, frame, number, pages), turn=turn)

    return replace(source, turn=turn)


def _source(path: Path, name: str, format: str, image: pyvips.Image, page: int, pages: int) -> Source:
    notes: list[str] = []
    orientation = _integer(image, "orientation", 1)
    bits = _integer(image, "bits-per-sample", 8) if format == "heif" else None
    try:
        metadata, layout = _with_extras(path, format, page, metadata_of(image, orientation), notes)
        colour = _as_gray_or_rgb(image.autorot(), notes)
        if image.interpretation not in _AS_THEY_ARE:
            icc = colour.get("icc-profile-data") if colour.get_typeof("icc-profile-data") else None
            metadata = replace(metadata, icc=icc)  # the old one is for the old channels
        image = colour
    except pyvips.Error as error:
        raise UnreadableImage(f"{name} cannot be converted to sRGB: {reason(error)}") from error
    band_format = str(image.format)
    if band_format not in _DEPTHS or image.bands > 4:
        raise UnreadableImage(
            f"{name} has {image.bands} channels of type {band_format}; allowed are 1 to 4 of 8 or 16 bit or float"
        )
    dtype = _DEPTHS[band_format]

    def fetch(box: Box) -> np.ndarray:
        y0, x0, y1, x1 = box
        try:
            # A region belongs to one thread, so each call makes its own.
            data = pyvips.Region.new(image).fetch(x0, y0, x1 - x0, y1 - y0)
        except pyvips.Error as error:
            raise UnreadableImage(f"{name} is truncated or damaged: {reason(error)}") from error
        return np.frombuffer(data, dtype).reshape(y1 - y0, x1 - x0, image.bands)

    kind, alpha = channels(image.bands)
    size = (image.height, image.width)
    levels, holes = LEVELS[dtype], False
    if dtype == "float32":
        levels, holes = _range(fetch, size, alpha)
        if not np.isfinite(np.float32(levels[1]) - np.float32(levels[0])):
            raise UnreadableImage(f"{name} has float values from {levels[0]:g} to {levels[1]:g}: too far apart")
        if levels != (0, 1):
            notes.append(f"float values from {levels[0]:.6g} to {levels[1]:.6g}: taken as 0 to 1, and back")
        if holes:
            notes.append("pixels that are not finite stay so")
    elif bits is not None and dtype == "uint16" and 8 < bits < 16:
        levels = (0, float((2**bits - 1) << (16 - bits)))  # libvips shifts samples up
    if format == "heif":
        format = "avif" if image.get("heif-compression") == "av1" else "heic"
    return Source(
        size=size,
        kind=kind,
        alpha=alpha,
        dtype=dtype,
        origin="path",
        metadata=metadata,
        path=path,
        format=format,
        pages=pages,
        page=page,
        levels=levels,
        holes=holes,
        depth=bits,
        tiled=layout.tiled,
        big=layout.big,
        notes=tuple(notes),
        fetch=fetch,
        restore=lambda canvas: canvas[..., 0] if canvas.shape[2] == 1 else canvas,  # as numpy, if no file is asked
    )


def _with_extras(
    path: Path, format: str, page: int, metadata: Metadata, notes: list[str]
) -> tuple[Metadata, TiffExtras]:
    """What libvips does not tell of a file."""
    layout = TiffExtras()
    try:
        if format == "tiff":
            layout = read_extras(path, page)
            if layout.short:
                raise UnreadableImage(
                    f"{str(path)!r} is truncated or damaged: it is too short for the pixels it promises"
                )
            metadata = replace(metadata, exif=layout.exif, iptc=layout.iptc)
        elif format == "png":
            chunks, animated = png_chunks(path)
            metadata = replace(metadata, chunks=chunks)
            if animated:
                notes.append("the first picture of an animated PNG")
    except (OSError, OverflowError) as error:
        raise UnreadableImage(f"cannot read {str(path)!r}: {error}") from error
    return metadata, layout


def _format(path: Path, name: str) -> str:
    """What the first bytes say: libvips itself would also take text for numbers, and drawings."""
    _check_file(path, name)
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise UnreadableImage(f"cannot open {name}: {error.strerror}") from error
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
    if start[4:8] == b"ftyp" and pyvips.type_find("VipsForeignLoad", "heifload_source"):
        return "heif"
    allowed = " ".join(sorted(READABLE))
    raise UnreadableImage(f"{name} is not a picture of a kind that can be read; allowed are {allowed}")


def _load(path: Path, name: str, format: str, page: int, n: int = 1) -> pyvips.Image:
    """The header; pixels are decoded when they are asked for."""
    options = {} if format in ("png", "jpeg") else {"page": page, "n": n}
    try:
        # A source takes the name as it is: new_from_file would read options out of "photo[1].png", and would answer
        # from its cache for a file that has changed. "error" and not "truncated": cut TIFFs pass the latter.
        source = pyvips.Source.new_from_file(os.fsencode(path))  # pyright: ignore[reportArgumentType] (typed str, takes bytes)
        return getattr(pyvips.Image, f"{format}load_source")(source, fail_on="error", **options)
    except pyvips.Error as error:
        raise UnreadableImage(f"{name} is damaged or not a picture that can be read: {reason(error)}") from error


def _check_size(image: pyvips.Image, name: str, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise UnreadableImage(
            f"{name} has {image.width}x{image.height} pixels; at most {max_pixels} are read unless max_pixels is raised"
        )


def _check_promise(path: Path, name: str) -> None:
    """Refuse a PNG whose header promises more than deflate could keep in so few bytes: a bomb, or cut off."""
    with path.open("rb") as file:
        header = file.read(26)[16:]
    width, height, bits, kind = struct.unpack(">IIBB", header)
    channels = {2: 3, 4: 2, 6: 4}.get(kind, 1)
    if height * (width * bits * channels // 8 + 1) > (path.stat().st_size + 64) * _DEFLATE:
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


def _integer(image: pyvips.Image, name: str, otherwise: int) -> int:
    value = image.get(name) if image.get_typeof(name) else otherwise
    return value if isinstance(value, int) else otherwise


def _as_gray_or_rgb(image: pyvips.Image, notes: list[str]) -> pyvips.Image:
    """CMYK, Lab and the like become sRGB of 8 bit, or of 16 if they had more; gray and RGB keep their profile."""
    if image.format == "double":
        notes.append("64-bit float became 32-bit")
        image = image.cast("float")
    if image.interpretation in _AS_THEY_ARE:
        return image
    depth = 8 if image.format == "uchar" else 16
    if image.interpretation != "cmyk":
        notes.append(f"{str(image.interpretation).upper()} was converted to sRGB")
        return image.colourspace("srgb" if depth == 8 else "rgb16")
    if image.get_typeof("icc-profile-data") and _is_for_inks(image.get("icc-profile-data")):
        notes.append("CMYK was converted to sRGB through its profile")
        return image.icc_transform("srgb", embedded=True, depth=depth)
    notes.append("CMYK without a usable profile was converted to sRGB through a common one")
    return image.icc_transform("srgb", input_profile="cmyk", depth=depth)


def _is_for_inks(blob: object) -> bool:
    """True for a profile, by its signature, whose colours are CMYK."""
    return isinstance(blob, bytes) and blob[36:40] == b"acsp" and blob[16:20] == b"CMYK"


def _range(fetch: Callable[[Box], np.ndarray], size: tuple[int, int], alpha: bool) -> tuple[tuple[float, float], bool]:
    """What a float file's values are taken as: (0, 1) if they lie there, else their least and largest; any holes."""
    low, high, holes = np.inf, -np.inf, False
    rows = max(1, _PIXELS_AT_ONCE // size[1])
    for top in range(0, size[0], rows):
        colour = fetch((top, 0, min(top + rows, size[0]), size[1]))[..., : -1 if alpha else None]
        finite = np.isfinite(colour)
        if not finite.all():
            holes = True
            colour = colour[finite]
        if colour.size:
            low, high = min(low, float(colour.min())), max(high, float(colour.max()))
    if (low >= 0 and high <= 1) or low > high:  # within, or no number at all
        return (0.0, 1.0), holes
    return (low, high if high > low else low + 1), holes


def reason(error: pyvips.Error) -> str:
    """The last line that libvips said, which is the one about this failure: its log is shared by all threads."""
    lines = [" ".join(line.split()) for line in str(error.detail).splitlines() if line.strip()]
    return (lines[-1] if lines else " ".join(str(error.message).split()))[:200]


__all__ = ["MAX_PAGES", "open_file", "reason"]
