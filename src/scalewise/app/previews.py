"""Smaller pictures and parts of a picture, as a browser can show them, for the page."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pyvips

from scalewise import images
from scalewise.app.problems import Refused, said_of

THUMBNAIL = 320  # pixels a side at most
PREVIEW = 2400  # pixels a side at most of what the page is shown at first; `view` gives every pixel
VIEW = 4_000_000  # pixels of one view, at most
LOSSLESS = 5_000_000  # pixels up to which a preview has all of them, as a PNG or as the file itself
NOTHING = 0  # of the metadata: libvips' VipsForeignKeep
_LOADERS = {"avif": "heif", "heic": "heif"}


def thumbnail(path: Path, side: int = THUMBNAIL) -> bytes:
    """A PNG of a file that `look` accepted: its first page in sRGB, upright, at most `side` pixels a side."""
    return _smaller(path, side).pngsave_buffer(compression=4, keep=NOTHING)


def preview(path: Path) -> tuple[bytes, str]:
    """The same for the page's canvas, and its media type; the file itself where a browser can show it as it is."""
    with said_of("file"):
        source = images.open(path)
    plain = source.format in ("jpeg", "png", "webp") and source.dtype == "uint8" and source.pages == 1
    if plain and source.size[0] * source.size[1] <= LOSSLESS:
        return path.read_bytes(), f"image/{source.format}"
    image = _smaller(path, PREVIEW)
    if image.hasalpha() or image.width * image.height <= LOSSLESS:
        return image.pngsave_buffer(compression=1, keep=NOTHING), "image/png"
    return image.jpegsave_buffer(Q=95, subsample_mode="off", keep=NOTHING), "image/jpeg"


def view(path: Path, box: tuple[int, int, int, int], width: int) -> bytes:
    """A PNG of the part (x, y, width, height) of a picture, shrunk to `width` pixels if it has more. Raises Refused."""
    with said_of("file"):
        image = _decoded(path)
        x, y, w, h = box
        if not (x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= image.width and y + h <= image.height):
            raise Refused(422, f"the part {x},{y},{w},{h} is not inside {image.width}x{image.height}", "x")
        part = image.crop(x, y, w, h)
        factor = min(1.0, width / w, math.sqrt(VIEW / (w * h)))
        if factor < 1:
            part = part.resize(factor)
        return _in_eight_bits(part, path).pngsave_buffer(compression=1, keep=NOTHING)


def _smaller(path: Path, side: int) -> pyvips.Image:
    with said_of("file"):
        try:
            image = _loaded(path, access="sequential")
            factor = side / max(image.width, image.height)
            if factor < 1:
                image = _in_eight_bits(image, path).thumbnail_image(side, height=side, size="down", no_rotate=True)
            else:
                image = _in_eight_bits(image, path)
            return image.copy_memory()
        except pyvips.Error as error:
            raise Refused(
                422, f"the file is truncated or damaged: {str(error).splitlines()[0][:120]}", "file"
            ) from None


_DECODED_LOCK = threading.Lock()


def _decoded(path: Path) -> pyvips.Image:
    """All pixels in a file beside it that is mapped into memory, so that any part is there at once."""
    raw = path.with_name(path.stem + ".decoded.v")
    with _DECODED_LOCK:
        if not raw.exists():
            part = raw.with_name("part.v")
            _loaded(path, access="sequential").vipssave(str(part))
            part.rename(raw)
    return pyvips.Image.vipsload(str(raw))


def _loaded(path: Path, access: str) -> pyvips.Image:
    """By the loader of the format that `look` saw, and no other; upright."""
    format = images.open(path).format or ""
    source = pyvips.Source.new_from_file(str(path))
    image = getattr(pyvips.Image, f"{_LOADERS.get(format, format)}load_source")(source, access=access)
    turned = image.get_typeof("orientation") and image.get("orientation") > 1
    return image.copy_memory().autorot() if turned else image


def _in_eight_bits(image: pyvips.Image, path: Path) -> pyvips.Image:
    """In sRGB, as a browser shows it. Float is shown from its least to its largest value."""
    if image.format in ("float", "double"):
        low, high = images.open(path).levels
        colour = image[: image.bands - 1] if image.hasalpha() else image
        colour = ((colour - low) * (255 / max(high - low, 1e-30))).cast("uchar")
        colour = colour[:3] if colour.bands > 3 else colour
        kind = "srgb" if colour.bands == 3 else "b-w"
        return colour.copy(interpretation=kind)
    if image.bands > 4:
        image = image[:3].copy(interpretation="rgb16" if image.format == "ushort" else "srgb")
    if image.get_typeof("icc-profile-data"):
        try:
            return image.icc_transform("srgb", embedded=True, depth=8)
        except pyvips.Error:  # a damaged profile means nothing
            pass
    return image.colourspace("srgb")
