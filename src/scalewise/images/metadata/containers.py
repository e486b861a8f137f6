"""Metadata in PNG, JPEG, WebP and GIF files: put in whole where libvips would rewrite, shorten or drop it.

Each `into_*` copies an encoded file and inserts the blocks on the way; each returns what was left out.
"""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from fractions import Fraction
from typing import IO

from scalewise.images.metadata import exif as exif_block
from scalewise.images.metadata.exif import Pair
from scalewise.images.metadata.ifd import DamagedDirectory
from scalewise.images.metadata.metadata import Metadata, photoshop_block
from scalewise.images.metadata.png import START
from scalewise.images.metadata.xmp import note_of

_XMP_IN_JPEG = b"http://ns.adobe.com/xap/1.0/\0"
_SEGMENT_BYTES = 65533  # what a segment of JPEG holds


def into_jpeg(file: IO[bytes], out: IO[bytes], metadata: Metadata) -> list[str]:
    """JFIF, EXIF, XMP and IPTC, each in a segment; what is too long for one is left out."""
    left_out: list[str] = []
    segments = b""
    exif = metadata.exif
    if exif is not None and len(exif) > _SEGMENT_BYTES:
        exif = _without_maker_note(exif)
    blocks = {
        "EXIF": (0xE1, exif or b""),
        "XMP": (0xE1, _XMP_IN_JPEG + metadata.xmp if metadata.xmp else b""),
        "IPTC": (0xED, photoshop_block(metadata.iptc) if metadata.iptc else b""),
    }
    for name, (marker, block) in blocks.items():
        if len(block) > _SEGMENT_BYTES:
            left_out.append(f"{name} of {len(block)} bytes does not fit into a jpeg and was left out")
        elif block:
            segments += struct.pack(">BBH", 0xFF, marker, len(block) + 2) + block
    for comment in metadata.comments:
        if len(comment) <= _SEGMENT_BYTES:
            segments += struct.pack(">BBH", 0xFF, 0xFE, len(comment) + 2) + comment
    if metadata.dpi is not None:
        dots, unit = tuple(min(65535, max(1, round(n))) for n in metadata.dpi), 1
    else:
        dots, unit = _ratio(metadata.density), 0
    jfif = struct.pack(">HH5sHBHHH", 0xFFE0, 16, b"JFIF", 0x0101, unit, *dots, 0)
    out.write(file.read(2) + jfif + segments)
    shutil.copyfileobj(file, out)
    return left_out


def into_png(file: IO[bytes], out: IO[bytes], metadata: Metadata) -> list[str]:
    """EXIF, XMP, and the texts and colour chunks of the PNG that was read."""
    out.write(file.read(len(START) + 25))  # signature and header
    out.write(metadata.chunks)
    if metadata.exif is not None:
        out.write(_png_chunk(b"eXIf", metadata.exif.removeprefix(b"Exif\0\0")))
    if metadata.xmp is not None:
        out.write(_png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + metadata.xmp))
    out.write(_physical(metadata))
    for comment in metadata.comments:
        out.write(_png_chunk(b"tEXt", b"Comment\0" + comment.replace(b"\0", b"")))
    while True:  # libvips writes one pixel per millimetre where nothing is known, and rounds where something is
        head = file.read(8)
        if head[4:] == b"IDAT":
            out.write(head)
            break
        rest = file.read(int.from_bytes(head[:4]) + 4)
        if head[4:] != b"pHYs":
            out.write(head + rest)
    shutil.copyfileobj(file, out)
    return []


def into_webp(file: IO[bytes], out: IO[bytes], metadata: Metadata) -> list[str]:
    """EXIF and XMP, and the extended header that announces them."""
    behind, flags = b"", 0
    exif = (metadata.exif or b"").removeprefix(b"Exif\0\0")
    for name, flag, block in ((b"EXIF", 8, exif), (b"XMP ", 4, metadata.xmp)):
        if block:
            behind += name + struct.pack("<I", len(block)) + block + b"\0" * (len(block) % 2)
            flags |= flag
    start = file.read(30)
    if not behind:
        out.write(start)
    else:
        size = file.seek(0, os.SEEK_END) - 8 + len(behind)
        file.seek(30)
        if start[12:16] == b"VP8X":
            out.write(b"RIFF" + struct.pack("<I", size) + start[8:20] + bytes([start[20] | flags]) + start[21:])
        else:
            width, height, alpha = _webp_size(start[12:])
            extended = bytes([flags | alpha << 4, 0, 0, 0]) + (width - 1).to_bytes(3, "little")
            extended += (height - 1).to_bytes(3, "little")
            out.write(b"RIFF" + struct.pack("<I", size + 18) + b"WEBPVP8X" + struct.pack("<I", 10) + extended)
            out.write(start[12:])
    shutil.copyfileobj(file, out)
    out.write(behind)
    return []


def into_gif(file: IO[bytes], out: IO[bytes], metadata: Metadata) -> list[str]:
    """Comments, the note among them; a GIF holds nothing else."""
    end = file.seek(-1, os.SEEK_END)
    file.seek(0)
    shutil.copyfileobj(file, out)
    note = (note_of(metadata.xmp) or "").encode("ascii", "replace")
    comments = [comment for comment in (*metadata.comments, note) if comment]
    if comments:
        out.seek(end)
    for comment in comments:
        parts = [comment[i : i + 255] for i in range(0, len(comment), 255)]
        out.write(b"!\xfe" + b"".join(bytes([len(part)]) + part for part in parts) + b"\0")
    if comments:
        out.write(b";")
    return []


def _physical(metadata: Metadata) -> bytes:
    """The chunk of a PNG that names dots per metre, or the shape of a pixel; no bytes if nothing is known."""
    if metadata.dpi is not None:
        numbers, unit = [value / 0.0254 for value in metadata.dpi], 1
    elif metadata.density is not None:
        numbers, unit = list(_ratio(metadata.density, exact=True)), 0
    else:
        return b""
    x, y = (min(2**31 - 1, max(1, round(value))) for value in numbers)
    return _png_chunk(b"pHYs", struct.pack(">IIB", x, y, unit))


def _ratio(density: Pair | None, *, exact: bool = False) -> tuple[int, int]:
    """Whole numbers in proportion to a density without a unit; `exact`: the numbers themselves, if they are whole."""
    if density is None:
        return 1, 1
    x, y = (round(value) for value in density)
    if exact and (float(x), float(y)) == density:
        return x, y
    ratio = Fraction(density[0] / density[1]).limit_denominator(1000)
    return max(1, min(65535, ratio.numerator)), max(1, min(65535, ratio.denominator))


def _png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _webp_size(chunk: bytes) -> tuple[int, int, bool]:
    """Width, height and alpha of a simple file's only chunk (RFC 9649, sections 2.5 and 3.4)."""
    if chunk[:4] == b"VP8L":
        bits = int.from_bytes(chunk[9:13], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
    width, height = struct.unpack_from("<HH", chunk, 14)
    return width & 0x3FFF, height & 0x3FFF, False


def _without_maker_note(exif: bytes) -> bytes:
    try:
        return exif_block.to_bytes(exif_block.without_maker_note(exif_block.parse(exif)))
    except DamagedDirectory:
        return exif
