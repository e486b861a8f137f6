"""From a canvas of pixels to the bytes of a file: which container holds what, and with which settings."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyvips

from scalewise.errors import InvalidRequest, UnwritableOutput
from scalewise.images.decode import reason
from scalewise.images.metadata import containers
from scalewise.images.metadata.carried import fitted, hdr_lost
from scalewise.images.metadata.metadata import MILLIMETRES_PER_INCH, Dpi, Metadata, set_blob
from scalewise.images.metadata.tiff import TiffWriter
from scalewise.images.source import Depth, Source
from scalewise.images.stream import StreamedCanvas
from scalewise.storage import FULL

FORMATS = {".png": "png", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff"}
FORMATS |= dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "jpeg")
for _suffix, _saver in ((".avif", "heifsave_target"), (".gif", "gifsave_target")):
    if pyvips.type_find("VipsForeignSave", _saver):  # libvips can be built without it
        FORMATS[_suffix] = _suffix[1:]
WRITABLE = frozenset(FORMATS)
_USUAL = {"jpeg": ".jpg", "tiff": ".tif"}
STREAMED = ("png", "jpeg", "tiff")  # encoded row by row; the others take the picture in one piece

QUALITY = 95  # the default for JPEG, WebP and AVIF
PNG_LEVEL = 4  # out of 9: files are 2 to 7% larger than at 6, the usual level, and written in six tenths of the time
FULL_CHROMA_QUALITY = 90  # from here on JPEG and AVIF keep colour at full resolution (4:4:4), below at half (4:2:0)
_LONGEST_SIDE = {"jpeg": 65500, "webp": 16383, "avif": 16384, "gif": 65535}  # libjpeg's own limit
_HOLDS: dict[str, tuple[Depth, ...]] = {
    "png": ("uint8", "uint16"),
    "tiff": ("uint8", "uint16", "float32"),
    "avif": ("uint8", "uint16"),  # as 10 or 12 bit
}
_CLASSIC_TIFF_BYTES = 2**32 - 2**26  # offsets have 32 bits; some room for the rest of the file
_BAND_FORMATS = {"uint8": "uchar", "uint16": "ushort", "float32": "float"}
_ALWAYS_RGB = ("webp", "avif", "gif")  # gray is written as RGB
_EXIF, _XMP, _ICC = 1, 2, 8  # libvips' VipsForeignKeep


@dataclass(frozen=True)
class Encoding:
    """How a file is to be written.

    `quality` is 1 to 100 for JPEG, WebP and AVIF; 100 is lossless in the last two. `strip` writes pixels only, in sRGB.
    `dpi`: the resolution stays, or is scaled with the picture. `note`: where the picture came from, put into the XMP.
    """

    quality: int | None = None
    lossless: bool = False
    strip: bool = False
    dpi: Dpi = "keep"
    note: str = ""

    def __post_init__(self) -> None:
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise InvalidRequest(f"quality is {self.quality}; allowed is 1 to 100")
        if self.dpi not in ("keep", "scale"):
            raise InvalidRequest(f"dpi is {self.dpi!r}; allowed are keep and scale")
        if self.lossless and self.quality not in (None, 100):
            raise InvalidRequest(f"lossless and quality {self.quality} contradict each other: leave one out")


def extension_of(format: str | None) -> str:
    """The usual extension of files of this format; `.png` for one that cannot be written."""
    own = _USUAL.get(format or "", f".{format}")
    return own if own in WRITABLE else ".png"


def check_format(path: Path, size: tuple[int, int], like: Source, how: Encoding) -> str:
    """The container that the extension of `path` names. Raises UnwritableOutput if it cannot hold such a picture."""
    name, format = repr(str(path)), FORMATS.get(path.suffix.lower())
    if format is None:
        raise UnwritableOutput(f"{name} has extension {path.suffix!r}; allowed are {' '.join(sorted(WRITABLE))}")
    longest = _LONGEST_SIDE.get(format)
    if longest is not None and max(size) > longest:
        raise UnwritableOutput(
            f"{name} would be {size[1]}x{size[0]}; {format} holds at most {longest} per side: write .tif instead"
        )
    if format == "jpeg" and like.alpha:
        raise UnwritableOutput(f"{name} would lose the alpha channel, which jpeg cannot hold: write .png instead")
    if how.lossless and format in ("jpeg", "gif"):
        raise InvalidRequest(f"{name} cannot be lossless: {format} has no such mode; write .png instead")
    return format


def depth_for(format: str, like: Source) -> tuple[Depth, str | None]:
    """The number type of a canvas for this container, and a note for the user."""
    held = _HOLDS.get(format, ("uint8",))
    dtype = like.dtype if like.dtype in held else held[-1]
    if format == "avif" and dtype == "uint16":
        bits = avif_bits(like)
        return (
            dtype,
            None if like.depth == bits else f"{like.dtype} was rounded to {bits} bit, the most that avif holds",
        )
    return dtype, None if dtype == like.dtype else f"{like.dtype} was rounded to {dtype}, the most that {format} holds"


def avif_bits(like: Source) -> int:
    return like.depth if like.depth in (10, 12) else 12


@dataclass(frozen=True)
class EncodedFile:
    """Pixels and profile as a format holds them, in a file without a name; `write_container` adds the metadata."""

    file: IO[bytes]
    metadata: Metadata
    left_out: tuple[str, ...]


@contextmanager
def encode(
    pixels: np.ndarray | StreamedCanvas,
    format: str,
    like: Source,
    how: Encoding,
    folder: Path,
    *,
    frames: tuple[int, ...] = (),
    big: bool = False,
) -> Iterator[EncodedFile]:
    """Compress a canvas (h, w, c); rows of a `StreamedCanvas` as soon as they are done, if the format can (STREAMED).

    `frames`: the canvas holds so many pictures one below the other, shown for these milliseconds each. `big`: a BigTIFF
    in any case. `folder` has room for the file, which is gone after the block.
    """
    canvas = pixels.canvas if isinstance(pixels, StreamedCanvas) else pixels
    size = (canvas.shape[0] // max(1, len(frames)), canvas.shape[1])
    image = _image(pixels, format, like)
    if how.strip:
        metadata, left_out = Metadata(), hdr_lost(like.metadata)
        image, _ = _in_srgb(image, like)
    else:
        metadata, notes = like.metadata.updated(like.size, size, how.dpi, how.note)
        metadata, more = fitted(metadata, format)
        left_out = [*notes, *more]
        image, note = _with_profile(image, metadata, format, like)
        left_out += [note] if note else []
    if frames:
        image = _animated(image, frames, like.metadata.loop)
    if metadata.dpi is not None:
        image = _with_resolution(image, metadata.dpi)
    with tempfile.TemporaryFile(dir=folder) as file:
        with _target(file) as target:
            if format == "avif":
                _save_avif(image, target, metadata, how, like)
            else:
                _save(image, target, format, how, like, big or like.big or canvas.nbytes > _CLASSIC_TIFF_BYTES)
        yield EncodedFile(file, metadata, tuple(left_out))


def write_container(
    encoded: EncodedFile, out: IO[bytes], format: str, *, writer: TiffWriter | None = None, pages: int = 1
) -> list[str]:
    """Copy into the open file `out`, with all metadata; what was left out, as sentences.

    `writer`: the TIFF to which this is added as one of `pages`."""
    left_out, file, metadata = list(encoded.left_out), encoded.file, encoded.metadata
    file.seek(0)
    match format:
        case "tiff":
            (writer or TiffWriter(out)).append(file, metadata, pages)
        case "png":
            left_out += containers.into_png(file, out, metadata)
        case "jpeg":
            left_out += containers.into_jpeg(file, out, metadata)
        case "webp":
            left_out += containers.into_webp(file, out, metadata)
        case "gif":
            left_out += containers.into_gif(file, out, metadata)
        case "avif":  # its metadata are in it
            shutil.copyfileobj(file, out)
    return left_out


def check_written(file: Path, path: Path, format: str, size: tuple[int, int], pages: int = 1) -> None:
    """Raises UnwritableOutput if `file`, which will be named `path`, cannot be read back to its last row.

    `size` (h, w) is that of the first page. Some systems report what went wrong only when a file is closed, or never.
    """
    sequential = {"access": "sequential", "fail_on": "warning" if format == "jpeg" else "error"}
    loader = getattr(pyvips.Image, f"{'heif' if format == 'avif' else format}load_source")
    try:
        for page in range(pages):
            number = {"page": page} if pages > 1 else {}
            source = pyvips.Source.new_from_file(os.fsencode(file))  # pyright: ignore[reportArgumentType] (typed str)
            image = loader(source, **sequential, **number)
            if page == 0 and (image.height, image.width) != size:
                raise UnwritableOutput(f"could not write {str(path)!r}: it came out as {image.width}x{image.height}")
            image.crop(0, image.height - 1, image.width, 1).write_to_memory()
    except pyvips.Error as error:
        raise UnwritableOutput(
            f"could not write {str(path)!r}: it cannot be read back: {reason(error)}{_free(path)}"
        ) from error


def _free(path: Path) -> str:
    try:
        return f" ({shutil.disk_usage(path.parent).free / 2**20:.0f} MiB are free there)"
    except OSError:
        return ""


@contextmanager
def unwritten(path: Path) -> Iterator[None]:
    """Errors of libvips and the system while a file is written become `UnwritableOutput`."""
    try:
        yield
    except OSError as error:
        hint = "; free some space" if error.errno in FULL else ""
        raise UnwritableOutput(f"could not write {str(path)!r}: {error.strerror}{hint}") from error
    except pyvips.Error as error:
        # libvips does not always name a full disk.
        raise UnwritableOutput(f"could not write {str(path)!r}: {reason(error)}{_free(path)}") from error


def _image(pixels: np.ndarray | StreamedCanvas, format: str, like: Source) -> pyvips.Image:
    canvas = pixels.canvas if isinstance(pixels, StreamedCanvas) else pixels
    height, width, channels = canvas.shape
    gray, deep = like.kind == "gray", canvas.dtype == np.uint16
    if isinstance(pixels, StreamedCanvas):
        image = pixels.image()
    else:
        image = pyvips.Image.new_from_memory(canvas.data, width, height, channels, _BAND_FORMATS[canvas.dtype.name])
    if format == "avif" and deep:  # libvips would cut bits off, not round
        step = 2 ** (16 - avif_bits(like))
        image = (image * ((65536 / step - 1) / 65535)).rint().cast("ushort") * step
        image = image.cast("ushort")
    return image.copy(interpretation=("grey16" if deep else "b-w") if gray else ("rgb16" if deep else "srgb"))


def _with_profile(image: pyvips.Image, metadata: Metadata, format: str, like: Source) -> tuple[pyvips.Image, str]:
    """The image with its profile where the format holds one, else in sRGB; and a note for the user."""
    gray = like.kind == "gray"
    if metadata.profile is None or (metadata.icc is None and format == "png"):  # its chunks say the same
        return image, ""
    held = format != "gif" and not (gray and format in _ALWAYS_RGB)
    attached, fits = metadata.attach_profile(image, gray)
    if held and fits:
        return attached, ""
    image, converted = _in_srgb(image, like)
    if converted:
        return image, f"its colours were converted to sRGB, as {_article(format)} holds no such profile"
    return image, "its colour profile is damaged or for other channels, and was left out"


def _in_srgb(image: pyvips.Image, like: Source) -> tuple[pyvips.Image, bool]:
    """The colours of a picture with a profile, so that they look the same without it. Float stays as it is."""
    gray, profile = like.kind == "gray", like.metadata.profile
    if profile is None or image.format == "float":
        return image, False
    alpha = image[image.bands - 1] if like.alpha else None
    colour = image.extract_band(0, n=1 if gray else 3)
    deep = image.format == "ushort"
    if gray and profile[16:20] == b"RGB ":
        colour = colour.bandjoin([colour, colour]).copy(interpretation="rgb16" if deep else "srgb")
    attached, fits = like.metadata.attach_profile(colour, gray and colour.bands == 1)
    if not fits:
        return image, False
    try:
        colour = attached.icc_transform("srgb", embedded=True, depth=16 if deep else 8)
    except pyvips.Error:  # a damaged profile means nothing
        return image, False
    colour = colour[1] if gray else colour.extract_band(0, n=3)
    colour = colour if alpha is None else colour.bandjoin(alpha.cast(colour.format))
    colour = colour.copy(interpretation=("grey16" if deep else "b-w") if gray else ("rgb16" if deep else "srgb"))
    colour.remove("icc-profile-data")
    return colour, True


def _article(format: str) -> str:
    return f"an {format}" if format[0] in "aeiou" else f"a {format}"


def _with_resolution(image: pyvips.Image, dpi: tuple[float, float]) -> pyvips.Image:
    x, y = (value / MILLIMETRES_PER_INCH for value in dpi)
    return image.copy(xres=x, yres=y)


def _animated(image: pyvips.Image, delays: tuple[int, ...], loop: int) -> pyvips.Image:
    image = image.copy()
    image.set_type(pyvips.GValue.gint_type, "page-height", image.height // len(delays))
    image.set_type(pyvips.GValue.array_int_type, "delay", list(delays))
    image.set_type(pyvips.GValue.gint_type, "loop", loop)
    return image


@contextmanager
def _target(file: IO[bytes]) -> Iterator[pyvips.Target]:
    """A target by descriptor: a name may hold what libvips takes for options, or bytes that are not UTF-8."""
    file.flush()
    yield pyvips.Target.new_to_descriptor(file.fileno())
    file.seek(0, os.SEEK_END)


def _save(image: pyvips.Image, target: pyvips.Target, format: str, how: Encoding, like: Source, big: bool) -> None:
    """Pixels and profile; the rest is inserted later."""
    quality = how.quality or QUALITY
    match format:
        case "png":
            # What libpng chooses for nearly every row if it may try all: the same size in three quarters of the time
            paeth = pyvips.enums.ForeignPngFilter.PAETH
            image.pngsave_target(target, filter=paeth, compression=PNG_LEVEL, keep=_ICC)
        case "jpeg":
            chroma = "off" if quality >= FULL_CHROMA_QUALITY else "on"
            image.jpegsave_target(target, Q=quality, subsample_mode=chroma, keep=_ICC)
        case "webp":
            lossless = how.lossless or quality == 100
            q = 75 if lossless else quality  # in a lossless file Q is the effort: 100 takes far longer
            image.webpsave_target(target, Q=q, lossless=lossless, exact=lossless, smart_subsample=True, keep=_ICC)
        case "gif":
            image.gifsave_target(target, keep=_ICC)
        case "tiff":
            tiles = {"tile": True, "tile_width": 256, "tile_height": 256} if like.tiled else {}
            image.tiffsave_target(
                target, compression="deflate", predictor="horizontal", bigtiff=big, resunit="inch", keep=_ICC, **tiles
            )


def _save_avif(image: pyvips.Image, target: pyvips.Target, metadata: Metadata, how: Encoding, like: Source) -> None:
    """Pixels and metadata: the boxes of the file point into each other, so nothing can be inserted later."""
    quality, keep = how.quality or QUALITY, _ICC
    image = image.copy()
    for flag, field, blob in ((_EXIF, "exif-data", metadata.exif), (_XMP, "xmp-data", metadata.xmp)):
        if blob:
            set_blob(image, field, blob)
            keep |= flag
    image.heifsave_target(
        target,
        compression="av1",
        Q=quality,
        lossless=how.lossless or quality == 100,
        subsample_mode="off" if quality >= FULL_CHROMA_QUALITY or how.lossless else "on",
        bitdepth=avif_bits(like) if image.format == "ushort" else 8,
        keep=keep,
    )
