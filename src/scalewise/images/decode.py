"""From a file that libvips has opened to a `Source`: upright, gray or RGB with opacity, its range and depth."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyvips

from scalewise.errors import UnreadableImage
from scalewise.images.extras import Extras
from scalewise.images.metadata import tiff_pages
from scalewise.images.metadata.gif import GifFrames
from scalewise.images.metadata.metadata import Metadata, metadata_of
from scalewise.images.source import LEVELS, Box, Depth, Source, channels

_AS_THEY_ARE = ("b-w", "grey16", "srgb", "rgb", "rgb16", "scrgb", "multiband")  # the rest is converted to sRGB
_DEPTHS: dict[str, Depth] = {"uchar": "uint8", "ushort": "uint16", "float": "float32"}
_PIXELS_AT_ONCE = 2**22  # read at once to find the range of a float file
# What libjpeg says of files that are whole, but that some cameras and programs do not write by the book.
_HARMLESS = ("Invalid SOS parameters", "Unknown Adobe color transform", "extraneous bytes before marker 0xd9")
_LUMA = (0.299, 0.587, 0.114)  # weights of R, G and B for a TIFF in YCbCr that names no others


def load(path: Path, name: str, format: str, page: int, n: int = 1, *, strict: bool = True) -> pyvips.Image:
    """The header; pixels are decoded when they are asked for. `strict`: libjpeg's warnings are errors."""
    options = {} if format in ("png", "jpeg") else {"page": page, "n": n}
    # Not "truncated": cut TIFFs pass that. A JPEG that is damaged in its middle gives no more than a warning.
    fail_on = "warning" if format == "jpeg" and strict else "error"
    try:
        # A source takes the name as it is: new_from_file would read options out of "photo[1].png", and would answer
        # from its cache for a file that has changed.
        source = pyvips.Source.new_from_file(os.fsencode(path))  # pyright: ignore[reportArgumentType] (typed str, takes bytes)
        return getattr(pyvips.Image, f"{format}load_source")(source, fail_on=fail_on, **options)
    except pyvips.Error as error:
        if strict and _harmless(error):
            return load(path, name, format, page, n, strict=False)
        raise UnreadableImage(f"{name} is damaged or not a picture that can be read: {reason(error)}") from error


def source_of(
    path: Path,
    name: str,
    format: str,
    image: pyvips.Image,
    extras: Extras,
    page: int,
    pages: int,
    directory: int = 0,
) -> Source:
    """A page as a `Source`; `directory` is the number of its directory in a TIFF. Raises UnreadableImage."""
    notes = list(extras.notes)
    found = integer(image, "orientation", 1) if format != "tiff" else extras.tiff.orientation
    orientation = extras.orientation(found if 1 <= found <= 8 else 1)
    bits = integer(image, "bits-per-sample", 8) if format == "heif" else None
    said: list[str] = []

    def pixels_of(opened: pyvips.Image, said: list[str]) -> pyvips.Image:
        turned = opened.copy()
        turned.set_type(pyvips.GValue.gint_type, "orientation", orientation)
        colour = _as_gray_or_rgb(_tiff_colours(turned, extras, directory, said).autorot(), said)
        return _with_opacity(colour, extras.gif, page)

    try:
        metadata = extras.add_to(metadata_of(image, orientation))
        if extras.profiled and metadata.icc is None:
            said.append("its colour profile is damaged or for other channels, and was left out")
        converted = pixels_of(image, said)
        if converted.interpretation != image.interpretation and image.interpretation not in _AS_THEY_ARE:
            icc = converted.get("icc-profile-data") if converted.get_typeof("icc-profile-data") else None
            metadata = replace(metadata, icc=icc)  # the old one is for the old channels
        elif any("L*a*b*" in note for note in said):
            metadata = replace(metadata, icc=None)
    except pyvips.Error as error:
        raise UnreadableImage(f"{name} cannot be converted to sRGB: {reason(error)}") from error
    notes += said
    band_format = str(converted.format)
    if band_format not in _DEPTHS or converted.bands > 4:
        raise UnreadableImage(
            f"{name} has {converted.bands} channels of type {band_format}; allowed are 1 to 4 of 8 or 16 bit or float"
        )
    dtype, bands = _DEPTHS[band_format], converted.bands
    size = (converted.height, converted.width)
    metadata = upright(metadata, size)
    decoder = _Decoder(name, converted, lambda: pixels_of(load(path, name, format, directory, strict=False), []))

    def decoded(box: Box) -> np.ndarray:
        y0, x0, y1, x1 = box
        return np.frombuffer(decoder.fetch(box), dtype).reshape(y1 - y0, x1 - x0, bands)

    fetch: Callable[[Box], np.ndarray] = decoded
    kind, alpha = channels(bands)
    levels, holes = LEVELS[dtype], False
    if dtype == "float32":
        levels, holes = _range(fetch, size, alpha)
        if not np.isfinite(np.float32(levels[1]) - np.float32(levels[0])):
            raise UnreadableImage(f"{name} has float values from {levels[0]:g} to {levels[1]:g}: too far apart")
        if levels != (0, 1):
            notes.append(f"float values from {levels[0]:.6g} to {levels[1]:.6g}: taken as 0 to 1, and back")
        if holes:
            notes.append("pixels that are not finite stay so")
        if extras.survey is not None and extras.survey.number(directory, tiff_pages.PHOTOMETRIC, 1) == 0:
            notes.append("its white is the least value (MinIsWhite): turned, so that more is brighter")
            fetch = _inverted(fetch, levels, alpha)
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
        tiled=extras.tiff.tiled,
        big=extras.tiff.big,
        notes=tuple(notes),
        fetch=fetch,
        restore=as_array,  # if no file is asked for
    )


def as_array(canvas: np.ndarray) -> np.ndarray:
    """A canvas (h, w, c) as numpy arrays of pictures usually are: gray has no axis of channels."""
    return canvas[..., 0] if canvas.shape[2] == 1 else canvas


def upright(metadata: Metadata, size: tuple[int, int]) -> Metadata:
    """`metadata` of an upright picture of `size`: resolutions are of stored axes, and turn with them."""
    if metadata.orientation in (5, 6, 7, 8):
        dpi, density = (pair and pair[::-1] for pair in (metadata.dpi, metadata.density))
        metadata = replace(metadata, dpi=dpi, density=density)
    return replace(metadata, extent=size)


class _Decoder:
    """Pixels of an image by boxes. Warnings of libjpeg that mean no damage lead to a second, lenient decoding."""

    def __init__(self, name: str, image: pyvips.Image, again: Callable[[], pyvips.Image]) -> None:
        self._name, self._image, self._again = name, image, again
        self._lenient = False
        self._lock = threading.Lock()

    def fetch(self, box: Box) -> memoryview[int]:
        """Raises UnreadableImage."""
        try:
            return self._fetch(box)
        except pyvips.Error as error:
            if not _harmless(error):
                raise UnreadableImage(f"{self._name} is truncated or damaged: {reason(error)}") from error
        with self._lock:
            if not self._lenient:
                self._image, self._lenient = self._again(), True
        try:
            return self._fetch(box)
        except pyvips.Error as error:
            raise UnreadableImage(f"{self._name} is truncated or damaged: {reason(error)}") from error

    def _fetch(self, box: Box) -> memoryview[int]:
        y0, x0, y1, x1 = box
        # A region belongs to one thread, so each call makes its own.
        return pyvips.Region.new(self._image).fetch(x0, y0, x1 - x0, y1 - y0)


def _harmless(error: pyvips.Error) -> bool:
    """True if all that libjpeg complained of leaves the pixels whole."""
    said = [line for line in str(error.detail).splitlines() if "VipsJpeg:" in line]
    return bool(said) and all(any(words in line for words in _HARMLESS) for line in said)


def check_size(name: str, size: tuple[int, int], max_pixels: int) -> None:
    """Raises UnreadableImage for a picture (h, w) of more than `max_pixels`."""
    if size[0] * size[1] > max_pixels:
        raise UnreadableImage(
            f"{name} has {size[1]}x{size[0]} pixels; at most {max_pixels} are read unless max_pixels is raised"
        )


def integer(image: pyvips.Image, name: str, otherwise: int) -> int:
    value = image.get(name) if image.get_typeof(name) else otherwise
    return value if isinstance(value, int) else otherwise


def _as_gray_or_rgb(image: pyvips.Image, notes: list[str]) -> pyvips.Image:
    """CMYK, Lab and the like become sRGB of 8 bit, or of 16 if they had more; gray and RGB keep their profile."""
    if image.format == "double":
        notes.append("64-bit float was rounded to 32-bit")
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
    """True if the profile's signature says that its colours are CMYK."""
    return isinstance(blob, bytes) and blob[36:40] == b"acsp" and blob[16:20] == b"CMYK"


def _tiff_colours(image: pyvips.Image, extras: Extras, directory: int, notes: list[str]) -> pyvips.Image:
    """What libvips takes for RGB although the directory of a TIFF says YCbCr or L*a*b*."""
    survey = extras.survey
    if survey is None:
        return image
    photometric = survey.number(directory, tiff_pages.PHOTOMETRIC, 1)
    lab = photometric == tiff_pages.ICCLAB or (photometric == tiff_pages.CIELAB and image.interpretation == "multiband")
    if lab and image.bands == 3:
        notes.append("L*a*b* was converted to sRGB")
        deep = image.format == "ushort"
        step = 256 if deep else 1  # a 16-bit value counts by its upper byte
        scale = [100 / (255 * step), 1 / step, 1 / step]
        colour = image.linear(scale, [0, -128, -128]).copy(interpretation="lab")
        converted = colour.colourspace("rgb16" if deep else "srgb")
        converted = converted.copy()
        converted.set_type(pyvips.GValue.gint_type, "orientation", integer(image, "orientation", 1))
        return converted
    jpeg = survey.number(directory, tiff_pages.COMPRESSION, 1) in tiff_pages.JPEG_COMPRESSIONS
    if photometric == tiff_pages.YCBCR and not jpeg and image.bands >= 3:
        notes.append("YCbCr was converted to RGB")
        return _rgb_of_ycbcr(image, extras)
    return image


def _rgb_of_ycbcr(image: pyvips.Image, extras: Extras) -> pyvips.Image:
    """TIFF 6.0, section 21, with the levels that the file names for black and white."""
    y0, y1, b0, b1, r0, r1 = extras.tiff.black_white or (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)
    red, green, blue = extras.tiff.luma or _LUMA
    scale = [255 / ((y1 - y0) or 255), 127 / ((b1 - b0) or 127), 127 / ((r1 - r0) or 127)]
    planes = image.extract_band(0, n=3).linear(scale, [-y0 * scale[0], -b0 * scale[1], -r0 * scale[2]])
    to_red, to_blue = 2 - 2 * red, 2 - 2 * blue
    matrix = [
        [1, 0, to_red],
        [1, -to_blue * blue / (green or 1), -to_red * red / (green or 1)],
        [1, to_blue, 0],
    ]
    colour = planes.recomb(pyvips.Image.new_from_array(matrix)).rint().cast("uchar")
    if image.bands > 3:
        colour = colour.bandjoin(image[3])
    return colour.copy(interpretation="srgb")


def _with_opacity(image: pyvips.Image, frames: GifFrames | None, frame: int) -> pyvips.Image:
    """A frame of a GIF, with opacity 0 where nothing was drawn: browsers show the page there. Without opacity if all is
    drawn: libvips has it too where a transparent colour only keeps what a frame does not change."""
    if frames is None or frames.size != (image.height, image.width):
        return image
    if frames.opaque and image.hasalpha():
        return image.extract_band(0, n=image.bands - 1)
    if frames.complete or image.bands != 3:
        return image
    covered = frames.covered(frame).astype(np.uint8) * 255
    return image.bandjoin(pyvips.Image.new_from_array(covered))


def _inverted(
    fetch: Callable[[Box], np.ndarray], levels: tuple[float, float], alpha: bool
) -> Callable[[Box], np.ndarray]:
    """Values of a float file from the other end of its range."""
    total = np.float32(levels[0] + levels[1])

    def inverted(box: Box) -> np.ndarray:
        values = fetch(box).copy()
        colour = values[..., : -1 if alpha else None]
        np.subtract(total, colour, out=colour)
        return values

    return inverted


def _range(fetch: Callable[[Box], np.ndarray], size: tuple[int, int], alpha: bool) -> tuple[tuple[float, float], bool]:
    """The values of a float file that count as 0 and 1: 0 and 1 if all lie between, else the least and the largest; and
    if it has holes."""
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
    """The last line of libvips' log, which is about this failure: all threads share the log."""
    lines = [" ".join(line.split()) for line in str(error.detail).splitlines() if line.strip()]
    return (lines[-1] if lines else " ".join(str(error.message).split()))[:200]
