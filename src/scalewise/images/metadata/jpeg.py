"""What a JPEG says beyond its pixels: comments, further pictures and videos after it, and how large it can be.

Segments: ITU-T T.81, annex B. Multi-picture directories: CIPA DC-007. Gain maps: ISO 21496-1.
"""

from __future__ import annotations

import mmap
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

from scalewise.images.metadata.exif import Pair

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)  # in coded data: no stuffing, restart or filling
_START_OF_SCAN, _END = 0xDA, 0xD9
_ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_HUFFMAN = (0xC0, 0xC1, 0xC2)  # the frames of which each 8x8 block takes a bit or more
_MOST_SEGMENTS = 100_000
_MOST_COMMENT_BYTES = 2**16
_PADDING_BYTES = 64  # after the end: some writers fill up
_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"


@dataclass
class JpegExtras:
    """Segments that libvips does not report, or not as they stand."""

    comments: list[bytes] = field(default_factory=list)
    density: Pair | None = None  # the shape of a pixel, without a unit
    dpi: Pair | None = None  # from the JFIF header
    blocks: int = 0  # blocks of 8x8 pixels, if each must take a bit or more
    data_bytes: int = 0  # the length of the file
    notes: list[str] = field(default_factory=list)

    @property
    def short(self) -> bool:
        """True if the file is too short for the pixels that its header promises."""
        return self.blocks > 8 * self.data_bytes


def read_extras(path: Path) -> JpegExtras:
    """What the segments say, up to where the file is damaged. Raises OSError."""
    found = JpegExtras()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found.data_bytes = len(data)
        end = _segments(data, found)
        if end is not None:
            _look_behind(data, end, found)
    return found


def _segments(data: mmap.mmap, found: JpegExtras) -> int | None:
    """Read the segments; the offset after the end of the picture, or None if there is no end."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if at + 4 > len(data) or data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == _END:
            return at + 2
        if marker in _ALONE or marker == 0xFF:
            at += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4])
        if length < 2:
            return None
        _segment(marker, data[at + 4 : at + 2 + length], found)
        at += 2 + length
        if marker == _START_OF_SCAN:
            following = _MARKER.search(data, at)
            if following is None:
                return None
            at = following.start()
    return None


def _segment(marker: int, body: bytes, found: JpegExtras) -> None:
    if marker == 0xFE and sum(map(len, found.comments)) + len(body) <= _MOST_COMMENT_BYTES:
        found.comments.append(body)
    elif marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 12:
        unit, x, y = struct.unpack_from(">BHH", body, 7)
        if x and y and unit in (1, 2):
            inches = 2.54 if unit == 2 else 1.0
            found.dpi = (x * inches, y * inches)
        elif x and y and x != y:
            found.density = (float(x), float(y))
    elif marker == 0xE2 and body.startswith(b"MPF\0"):
        _note(found, "a directory of several pictures (MPF) was left out")
    elif marker == 0xE2 and body.startswith(b"urn:iso:std:iso:ts:21496"):
        _note(found, "the gain map of an HDR picture was left out")
    elif marker == 0xE1 and body.startswith(_EXTENDED_XMP):
        _note(found, "the second part of a long XMP was left out")
    elif marker in _FRAMES and len(body) >= 6:
        height, width = struct.unpack_from(">HH", body, 1)
        found.blocks = -(-height // 8) * -(-width // 8) if marker in _HUFFMAN else 0


def _look_behind(data: mmap.mmap, end: int, found: JpegExtras) -> None:
    """Note what follows the end of the picture."""
    behind = len(data) - end
    if behind <= _PADDING_BYTES and not data[end:].strip(b"\0\xff"):
        return
    if data.find(b"ftyp", end, end + 2**16) >= 0 or data.find(b"MotionPhoto_Data", end) >= 0:
        what = "a video (motion photo)"
    elif data.find(b"\xff\xd8\xff", end) >= 0:
        what = "a further picture (a gain map, depth or another view)"
    elif behind > _PADDING_BYTES:
        what = "unknown data"
    else:
        return
    _note(found, f"{what} of {behind} bytes after the picture was left out")


def _note(found: JpegExtras, note: str) -> None:
    if note not in found.notes:
        found.notes.append(note)
