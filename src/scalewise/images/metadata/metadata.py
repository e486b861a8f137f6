"""What a picture file carries besides its pixels, and what of it is true of the next file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import pyvips

from scalewise.images.metadata import exif as exif_block
from scalewise.images.metadata import xmp as xmp_block
from scalewise.images.metadata.exif import Pair
from scalewise.images.metadata.ifd import DamagedDirectory

Dpi = Literal["keep", "scale"]

_BLOBS = {"icc": "icc-profile-data", "exif": "exif-data", "xmp": "xmp-data"}
MILLIMETRES_PER_INCH = 25.4
_IPTC_RESOURCE = 0x0404  # the resource of a Photoshop block in which JPEG keeps IPTC


@dataclass(frozen=True)
class Metadata:
    """What goes with the pixels; as it was read, or `updated` for an output."""

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None  # the IIM records alone
    dpi: Pair | None = None  # dots per inch, horizontal and vertical; None: not known
    density: Pair | None = None  # dots per a unit that is not named (ImageJ), or the shape of a pixel, if `dpi` is None
    orientation: int = 1  # the EXIF orientation that was applied to the pixels; outputs say 1, upright
    extent: tuple[int, int] | None = None  # (h, w) upright of the picture that this was read from
    chunks: bytes = b""  # PNG's texts and colour chunks, whole
    texts: tuple[str, ...] = ()  # keywords of the texts in `chunks`
    colours: bytes | None = None  # a profile that says in ICC's words what the file says in others (gAMA, cICP)
    hdr: bool = False  # `chunks` say that colours are PQ or HLG, which no such profile says
    comments: tuple[bytes, ...] = ()  # JPEG's and GIF's
    delay: tuple[int, ...] = ()  # milliseconds of each frame of an animation
    loop: int = 0  # how often an animation plays; 0: for ever

    @property
    def gpano(self) -> dict[str, str] | None:
        """The XMP fields of a panorama, as written: `{"ProjectionType": "equirectangular", …}`; None if it is none."""
        return xmp_block.gpano(self.xmp)

    def updated(
        self, before: tuple[int, int], size: tuple[int, int], dpi: Dpi = "keep", note: str = ""
    ) -> tuple[Metadata, tuple[str, ...]]:
        """Metadata for the picture, `before` (h, w) upright and `size` now, and what had to be left out, as sentences.

        Sizes, orientation, panorama fields, places in the picture and the calibration of the lens follow; what cannot
        is left out, and thumbnails go. The resolution is kept, or scaled so that the printed size stays. `note` is
        written into the XMP.
        """
        factors = size[1] / before[1], size[0] / before[0]
        dots, density = (
            (pair[0] * factors[0], pair[1] * factors[1]) if dpi == "scale" and pair is not None else pair
            for pair in (self.dpi, self.density)
        )
        cropped = self.extent is not None and before != self.extent
        exif, notes = self.exif, []
        if exif is not None:
            try:
                old = exif_block.parse(exif)
                new, notes = exif_block.updated(old, before, size, dots, density, self.orientation, cropped)
                exif = exif_block.to_bytes(new)
            except (DamagedDirectory, struct.error, ValueError):
                exif = None
                notes = ["its EXIF is damaged and was left out"]
        scaled = dots if dpi == "scale" else None
        change = xmp_block.Change(before, size, self.orientation != 1, cropped, scaled)
        xmp, left_out = xmp_block.updated(self.xmp, change, note)
        return replace(self, exif=exif, xmp=xmp, dpi=dots, density=density), (*notes, *left_out)

    @property
    def profile(self) -> bytes | None:
        """The ICC profile, or what the file says of its colours in other words, as one."""
        return self.icc or self.colours

    def attach_profile(self, image: pyvips.Image, gray: bool) -> tuple[pyvips.Image, bool]:
        """`image` with the profile; False if it is cut off or for other channels: some readers refuse such a file."""
        profile = self.profile
        if profile is None:
            return image, True
        whole = profile[36:40] == b"acsp" and int.from_bytes(profile[:4]) <= len(profile)
        if not whole or profile[16:20] != (b"GRAY" if gray else b"RGB "):
            return image, False
        image = image.copy()
        set_blob(image, _BLOBS["icc"], profile)
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
    if (image.xres, image.yres) != (1.0, 1.0):  # what libvips says where nothing is known, and for 10 dots per cm
        dpi = (image.xres * MILLIMETRES_PER_INCH, image.yres * MILLIMETRES_PER_INCH)
    elif "exif" in blobs:
        dpi = exif_dpi(blobs["exif"])
    delay = image.get("delay") if image.get_typeof("delay") else None
    loop = image.get("loop") if image.get_typeof("loop") else 0
    return Metadata(
        icc=blobs.get("icc"),
        exif=blobs.get("exif"),
        xmp=blobs.get("xmp"),
        iptc=iptc_records(iptc) if isinstance(iptc, bytes) else None,
        dpi=dpi,
        orientation=orientation,
        delay=tuple(n for n in delay if isinstance(n, int)) if isinstance(delay, list) else (),
        loop=loop if isinstance(loop, int) else 0,
    )


def exif_dpi(blob: bytes) -> Pair | None:
    """The resolution that EXIF names; None if it names none, or is damaged."""
    try:
        exif = exif_block.parse(blob)
    except DamagedDirectory:
        return None
    return exif_block.resolution(exif.main, exif.layout)[0]


def set_blob(image: pyvips.Image, field: str, blob: bytes) -> None:
    image.set_type(pyvips.GValue.blob_type, field, blob)  # pyright: ignore[reportArgumentType] (bytes are right here)


def iptc_records(block: bytes) -> bytes | None:
    """The IPTC records in a Photoshop block, or the block itself if it is bare records."""
    if not block.startswith((b"Photoshop 3.0\0", b"8BIM")):
        return block if block.startswith(b"\x1c") else None
    return next((data for resource, data in _resources(block) if resource == _IPTC_RESOURCE), None) or None


def has_paths(block: bytes) -> bool:
    """True if a Photoshop block holds clipping paths (resources 2000 to 2998)."""
    return any(2000 <= resource <= 2998 for resource, _ in _resources(block))


def _resources(block: bytes) -> Iterator[tuple[int, bytes]]:
    """The resources of a Photoshop block: number and data; it ends where the block is damaged."""
    at = block.find(b"8BIM")
    while at >= 0 and block[at : at + 4] == b"8BIM" and at + 12 <= len(block):
        (resource,) = struct.unpack_from(">H", block, at + 4)
        name = at + 6
        data = name + (block[name] + 2) // 2 * 2  # a Pascal string, padded
        if data + 4 > len(block):
            return
        (length,) = struct.unpack_from(">I", block, data)
        yield resource, block[data + 4 : data + 4 + length]
        at = data + 4 + length + length % 2


def photoshop_block(iptc: bytes) -> bytes:
    """IPTC records as JPEG keeps them."""
    head = b"Photoshop 3.0\0" + b"8BIM" + struct.pack(">HHI", _IPTC_RESOURCE, 0, len(iptc))
    return head + iptc + b"\0" * (len(iptc) % 2)
