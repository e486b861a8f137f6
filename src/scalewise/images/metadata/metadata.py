"""What a picture file carries beside its pixels, and what of it is true of the next file."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Literal

import pyvips

from scalewise.images.metadata import exif as exif_block
from scalewise.images.metadata import xmp as xmp_block
from scalewise.images.metadata.ifd import DamagedDirectory

Dpi = Literal["keep", "scale"]

_BLOBS = {"icc": "icc-profile-data", "exif": "exif-data", "xmp": "xmp-data"}
MILLIMETRES_PER_INCH = 25.4
_IPTC_RESOURCE = 0x0404  # of the Photoshop block that JPEG keeps IPTC in


@dataclass(frozen=True)
class Metadata:
    """Beside the pixels; as it was read, or `mended` for an output."""

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None  # the IIM records alone
    dpi: tuple[float, float] | None = None  # horizontal, vertical; None: not known
    orientation: int = 1  # the EXIF orientation that was applied to the pixels; outputs say 1, upright
    chunks: bytes = b""  # of PNG: texts and colour chunks, whole
    delay: tuple[int, ...] = ()  # milliseconds of each frame of an animation
    loop: int = 0  # how often an animation plays; 0: for ever

    @property
    def gpano(self) -> dict[str, str] | None:
        """The XMP fields of a panorama, as written: `{"ProjectionType": "equirectangular", …}`; None if it is none."""
        return xmp_block.gpano(self.xmp)

    def mended(
        self, before: tuple[int, int], size: tuple[int, int], dpi: Dpi = "keep", note: str = ""
    ) -> tuple[Metadata, tuple[str, ...]]:
        """For the picture of `before` (h, w) upright, now of `size`, and what had to be left out, in words.

        Sizes, orientation, panorama fields and places in the picture follow; thumbnails go. The resolution is kept, or
        scaled so that the printed size stays. `note` is written into the XMP.
        """
        dots, notes = self.dpi, []
        if dpi == "scale" and dots is not None:
            dots = (dots[0] * size[1] / before[1], dots[1] * size[0] / before[0])
        exif = self.exif
        if exif is not None:
            try:
                old = exif_block.parse(exif)
                exif = exif_block.to_bytes(exif_block.mended(old, before, size, dots, self.orientation != 1))
            except (DamagedDirectory, struct.error, ValueError):
                exif = None
                notes.append("its EXIF is damaged and was left out")
        scaled = dots if dpi == "scale" else None
        xmp = xmp_block.mended(self.xmp, before, size, scaled, note)
        return replace(self, exif=exif, xmp=xmp, dpi=dots), tuple(notes)

    def attach_profile(self, image: pyvips.Image, gray: bool) -> tuple[pyvips.Image, bool]:
        """`image` with the profile; False if it is for other channels: some readers refuse such a file."""
        if self.icc is None:
            return image, True
        if self.icc[16:20] != (b"GRAY" if gray else b"RGB "):
            return image, False
        image = image.copy()
        set_blob(image, _BLOBS["icc"], self.icc)
        return image, True


def metadata_of(image: pyvips.Image, orientation: int) -> Metadata:
    """The metadata of an image that libvips has opened; `orientation` is what was applied to it."""
    blobs: dict[str, bytes] = {}
    for name, field in _BLOBS.items():
        blob = image.get(field) if image.get_typeof(field) else None
        if isinstance(blob, bytes) and blob:
            blobs[name] = blob
    iptc = image.get("iptc-data") if image.get_typeof("iptc-data") else None
    dpi = None
    if (image.xres, image.yres) != (1.0, 1.0):  # libvips' word for "not known"
        dpi = (image.xres * MILLIMETRES_PER_INCH, image.yres * MILLIMETRES_PER_INCH)
    delay = image.get("delay") if image.get_typeof("delay") else None
    loop = image.get("loop") if image.get_typeof("loop") else 0
    return Metadata(
        **blobs,
        iptc=iptc_records(iptc) if isinstance(iptc, bytes) else None,
        dpi=dpi,
        orientation=orientation,
        delay=tuple(n for n in delay if isinstance(n, int)) if isinstance(delay, list) else (),
        loop=loop if isinstance(loop, int) else 0,
    )


def set_blob(image: pyvips.Image, field: str, blob: bytes) -> None:
    image.set_type(pyvips.GValue.blob_type, field, blob)  # pyright: ignore[reportArgumentType] (bytes are right here)


def iptc_records(block: bytes) -> bytes | None:
    """The IPTC records in a Photoshop block, or the block itself if it is bare records."""
    if not block.startswith((b"Photoshop 3.0\0", b"8BIM")):
        return block if block.startswith(b"\x1c") else None
    at = block.find(b"8BIM")
    while block[at : at + 4] == b"8BIM" and at + 12 <= len(block):
        (resource,) = struct.unpack_from(">H", block, at + 4)
        name = at + 6
        data = name + (block[name] + 2) // 2 * 2  # a Pascal string, padded
        if data + 4 > len(block):
            break
        (length,) = struct.unpack_from(">I", block, data)
        if resource == _IPTC_RESOURCE:
            return block[data + 4 : data + 4 + length] or None
        at = data + 4 + length + length % 2
    return None


def photoshop_block(iptc: bytes) -> bytes:
    """IPTC records as JPEG keeps them."""
    head = b"Photoshop 3.0\0" + b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(iptc))
    return head + iptc + b"\0" * (len(iptc) % 2)
