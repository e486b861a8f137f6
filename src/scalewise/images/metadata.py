"""What a picture file carries beside its pixels, and how it gets into the next file."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pyvips

_BLOBS = {"icc": "icc-profile-data", "exif": "exif-data", "xmp": "xmp-data", "iptc": "iptc-data"}
_MILLIMETRES_PER_INCH = 25.4
_USUAL_DPI = 72.0  # written where nothing is known, as other programs do


@dataclass(frozen=True)
class Metadata:
    """Carried unchanged from input to output, as far as the output's format has room for it."""

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None  # horizontal, vertical; None: not known
    orientation: int = 1  # the EXIF orientation that was applied to the pixels; outputs say 1, upright

    def attach(self, image: pyvips.Image, gray: bool) -> pyvips.Image:
        """`image` with this metadata, for a saver to write."""
        x, y = self.dpi or (_USUAL_DPI, _USUAL_DPI)
        image = image.copy(xres=x / _MILLIMETRES_PER_INCH, yres=y / _MILLIMETRES_PER_INCH)
        for name, field in _BLOBS.items():
            blob = getattr(self, name)
            # A profile for other channels than ours would make the file wrong, and some readers refuse it.
            if blob is not None and (name != "icc" or blob[16:20] == (b"GRAY" if gray else b"RGB ")):
                image.set_type(pyvips.GValue.blob_type, field, blob)
        image.set_type(pyvips.GValue.gint_type, "orientation", 1)
        return image


def metadata_of(image: pyvips.Image, orientation: int) -> Metadata:
    """The metadata of an image that libvips has opened; `orientation` is what was applied to it."""
    blobs: dict[str, bytes] = {}
    for name, field in _BLOBS.items():
        blob = image.get(field) if image.get_typeof(field) else None
        if isinstance(blob, bytes):
            blobs[name] = blob
    if "exif" in blobs and orientation != 1:
        blobs["exif"] = without_thumbnail(blobs["exif"])  # it would stay as it lay
    dpi = None
    if (image.xres, image.yres) != (1.0, 1.0):  # libvips' word for "not known"
        dpi = (image.xres * _MILLIMETRES_PER_INCH, image.yres * _MILLIMETRES_PER_INCH)
    return Metadata(**blobs, dpi=dpi, orientation=orientation)


def without_thumbnail(exif: bytes) -> bytes:
    """EXIF whose first directory no longer points to a second, where the thumbnail is."""
    start = 6 if exif.startswith(b"Exif\0\0") else 0
    order = ">" if exif[start : start + 2] == b"MM" else "<"
    try:
        (first,) = struct.unpack_from(order + "I", exif, start + 4)
        (entries,) = struct.unpack_from(order + "H", exif, start + first)
        link = start + first + 2 + 12 * entries
        struct.unpack_from("4x", exif, link)
    except struct.error:  # damaged EXIF: no thumbnail can be found in it either
        return exif
    return exif[:link] + bytes(4) + exif[link + 4 :]
