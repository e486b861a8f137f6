"""Which of the metadata each container holds: what it cannot is written in another way, or named."""

from __future__ import annotations

import struct
from dataclasses import replace

from scalewise.images.metadata import exif as exif_block
from scalewise.images.metadata.colour import HDR_LEFT_OUT
from scalewise.images.metadata.ifd import DamagedDirectory
from scalewise.images.metadata.metadata import Metadata
from scalewise.images.metadata.xmp import note_of

_WITH_IPTC = ("jpeg", "tiff")
_WITH_COMMENTS = ("jpeg", "gif", "png")  # PNG holds one as a text
_RESOLUTION_IN_EXIF = ("webp", "avif")
_NAMED_TEXTS = 5  # so many are named one by one


def hdr_lost(metadata: Metadata) -> list[str]:
    """What is lost of HDR colours where a PNG's chunks are left out and no profile says what they are."""
    return [HDR_LEFT_OUT] if metadata.hdr and metadata.icc is None else []


def fitted(metadata: Metadata, format: str) -> tuple[Metadata, list[str]]:
    """`metadata` as the container holds them, and what has no place in it, as sentences."""
    lost = hdr_lost(metadata) if format != "png" else []
    if metadata.density == (1.0, 1.0) and format != "tiff":  # pixels are square: that says nothing
        metadata = replace(metadata, density=None)
    article = f"an {format}" if format[0] in "aeiou" else f"a {format}"

    def leave(what: str) -> None:
        lost.append(f"{what} no place in {article} and {'were' if what.endswith('have') else 'was'} left out")

    if metadata.iptc and format not in _WITH_IPTC:
        leave("IPTC has")
    if metadata.texts and format != "png":
        more = len(metadata.texts) - _NAMED_TEXTS
        named = ", ".join(_printable(word) for word in metadata.texts[:_NAMED_TEXTS])
        leave(f"texts of the PNG ({named}{f' and {more} more' if more > 0 else ''}) have")
    if metadata.comments and format not in _WITH_COMMENTS:
        leave("a comment has")
    if format == "gif":
        for name, block in (("EXIF", metadata.exif), ("XMP", metadata.xmp)):
            # a note of ours alone is written as a comment
            if block and not (
                name == "XMP" and note_of(block) and b"rdf:about" in block and block.count(b"<rdf:D") < 2
            ):
                leave(f"{name} has")
        if metadata.dpi or metadata.density:
            leave("the resolution has")
    if format in _RESOLUTION_IN_EXIF and (metadata.dpi or metadata.density):
        try:
            exif = exif_block.with_resolution(metadata.exif, metadata.dpi, metadata.density)
            metadata = replace(metadata, exif=exif)
        except (DamagedDirectory, struct.error):
            leave("the resolution has")
    if format == "jpeg" and metadata.dpi is None and metadata.density is not None:
        x, y = metadata.density
        if x == y:
            leave("a resolution without a unit has")
    return metadata, lost


def _printable(word: str) -> str:
    return "".join(character for character in word if character.isprintable())[:30]
