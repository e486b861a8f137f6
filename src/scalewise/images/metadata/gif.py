"""Where the frames of a GIF lie on its screen (GIF89a): what none of them covers is transparent, as in browsers."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_EXTENSION, _IMAGE, _END = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL, _COMMENT = 0xF9, 0xFE
_CLEARED, _RESTORED = 2, 3  # ways of disposal: to transparent, to what was there before
_MOST_FRAMES = 10_001
_MOST_COMMENT_BYTES = 2**16


@dataclass
class GifFrames:
    """Boxes (y0, x0, y1, x1) of the frames within the screen of `size` (h, w), and how each is disposed of.
    `clear`: the first one may have transparent pixels."""

    size: tuple[int, int]
    clear: bool = False
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)
    disposals: list[int] = field(default_factory=list)
    comments: list[bytes] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """True if the first frame covers the screen, and no frame clears a part of it."""
        whole = not self.boxes or self.boxes[0] == (0, 0, *self.size)
        return whole and _CLEARED not in self.disposals[:-1]

    @property
    def opaque(self) -> bool:
        """True if no frame shows what lies below: a transparent colour of later ones keeps what the first has drawn."""
        return self.complete and bool(self.boxes) and not self.clear and _RESTORED not in self.disposals[:-1][:1]

    def covered(self, frame: int) -> np.ndarray:
        """Which pixels (h, w) of the screen are covered when a frame is shown."""
        screen = np.zeros(self.size, bool)
        for number, ((y0, x0, y1, x1), disposal) in enumerate(zip(self.boxes, self.disposals, strict=True)):
            if number == frame or disposal not in (_CLEARED, _RESTORED):
                screen[y0:y1, x0:x1] = True
            elif disposal == _CLEARED:
                screen[y0:y1, x0:x1] = False
            if number == frame:
                break
        return screen


def read_frames(path: Path) -> GifFrames:
    """The frames, as far as the file is sound. Raises OSError."""
    data = path.read_bytes()
    width, height, flags = struct.unpack_from("<HHB", data.ljust(13, b"\0"), 6)
    found, disposal = GifFrames((height, width)), 0
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while at < len(data) and len(found.boxes) < _MOST_FRAMES:
        if data[at] == _EXTENSION and at + 2 < len(data):
            label = data[at + 1]
            if label == _GRAPHIC_CONTROL and at + 4 <= len(data):
                disposal = data[at + 3] >> 2 & 7
                found.clear |= not found.boxes and bool(data[at + 3] & 1)
            body, at = _blocks(data, at + 2)
            if label == _COMMENT and sum(map(len, found.comments)) + len(body) <= _MOST_COMMENT_BYTES:
                found.comments.append(body)
        elif data[at] == _IMAGE and at + 10 <= len(data):
            x, y, w, h, flags = struct.unpack_from("<HHHHB", data, at + 1)
            found.boxes.append((min(y, height), min(x, width), min(y + h, height), min(x + w, width)))
            found.disposals.append(disposal)
            disposal = 0
            at += 10 + (3 << (flags & 7) + 1 if flags & 0x80 else 0) + 1
            _, at = _blocks(data, at, keep=False)
        else:
            break
    return found


def _blocks(data: bytes, at: int, *, keep: bool = True) -> tuple[bytes, int]:
    """The sub-blocks at an offset, joined, and what comes after them."""
    parts = []
    while at < len(data) and data[at]:
        if keep:
            parts.append(data[at + 1 : at + 1 + data[at]])
        at += 1 + data[at]
    return b"".join(parts), at + 1
