"""What the directories of a TIFF are: pictures, reduced copies, masks, or the sensor data of a raw file (TIFF 6.0)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scalewise.errors import UnreadableImage
from scalewise.images.metadata.exif import ORIENTATION
from scalewise.images.metadata.ifd import DamagedDirectory, Ifd, Layout, ReadAt, directory, header, integers, text

SUBFILE_TYPE, OLD_SUBFILE_TYPE, SUB_DIRECTORIES = 0x00FE, 0x00FF, 0x014A
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES = 0x0100, 0x0101, 0x0102, 0x0103, 0x0106, 0x0115
EXTRA_SAMPLES, SAMPLE_FORMAT = 0x0152, 0x0153
_MAKE, _MODEL, _DNG_VERSION, _UNIQUE_MODEL = 0x010F, 0x0110, 0xC612, 0xC614
_SUBSAMPLING = 0x0212
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_SENSOR = (32803, 34892)  # colour filter array, linear raw
MIN_IS_WHITE, YCBCR, CIELAB, ICCLAB = 0, 6, 8, 9
_STRANGE = {10: "ITU L*a*b*", 32844: "LogL", 32845: "LogLuv", 4: "transparency mask"}
_SAMPLE_KINDS = {1: "uint", 2: "int", 3: "float"}
_COMPLEX = {5: "complex int", 6: "complex"}
JPEG_COMPRESSIONS = (6, 7)
COMPRESSIONS = {
    6: "JPEG of the old kind",
    3: "CCITT fax",
    4: "CCITT fax",
    32809: "ThunderScan",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34676: "SGI Log",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    50000: "ZSTD",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
UNSPECIFIED = 0  # kind of an extra sample; 1 and 2 are opacity
_MOST_DIRECTORIES = 10_001
_MOST_VALUE_BYTES = 2**12
_LOOKED_AT = {SUBFILE_TYPE, OLD_SUBFILE_TYPE, SUB_DIRECTORIES, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES}
_LOOKED_AT |= {ORIENTATION, EXTRA_SAMPLES, SAMPLE_FORMAT, _MAKE, _MODEL, _DNG_VERSION, _UNIQUE_MODEL, _SUBSAMPLING}


@dataclass(frozen=True)
class TiffPages:
    """The directories of a file in order, and the numbers of those that are pictures."""

    layout: Layout
    directories: tuple[Ifd, ...]
    pictures: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def number(self, page: int, tag: int, otherwise: int) -> int:
        return self.numbers(page, tag, (otherwise,))[0]

    def numbers(self, page: int, tag: int, otherwise: tuple[int, ...]) -> tuple[int, ...]:
        """The integers of a tag of a directory, or `otherwise`."""
        return numbers(self.directories[page], self.layout, tag, otherwise)

    def upright_size(self, page: int) -> tuple[int, int]:
        """(h, w) of a directory's picture as it is to be looked at."""
        height, width = self.number(page, HEIGHT, 0), self.number(page, WIDTH, 0)
        return (width, height) if self.number(page, ORIENTATION, 1) in (5, 6, 7, 8) else (height, width)

    def unspecified(self, page: int) -> bool:
        """True if a sample beyond the colours is declared to be neither kind of opacity: it is data."""
        return UNSPECIFIED in self.numbers(page, EXTRA_SAMPLES, (1,))

    def check_colours(self, page: int, name: str) -> None:
        """Raises UnreadableImage for colours that nothing here converts."""
        photometric = self.number(page, PHOTOMETRIC, 1)
        if photometric in _STRANGE:
            raise UnreadableImage(f"{name} has {_STRANGE[photometric]} pixels, which are not read: convert it to RGB")
        kind, bits = self.number(page, SAMPLE_FORMAT, 1), self.number(page, BITS, 1)
        if kind in _COMPLEX or (bits > 32 and kind in _SAMPLE_KINDS):
            word = _COMPLEX.get(kind) or _SAMPLE_KINDS[kind]
            raise UnreadableImage(
                f"{name} has pixels of type {word}{bits}; allowed are 8 or 16 bit, or float of 16 or 32: convert it"
            )
        plain = photometric == YCBCR and self.number(page, COMPRESSION, 1) not in JPEG_COMPRESSIONS
        if plain and (self.numbers(page, _SUBSAMPLING, (2, 2)) != (1, 1) or self.number(page, BITS, 8) != 8):
            raise UnreadableImage(
                f"{name} has YCbCr pixels with colour at a lower resolution, without JPEG: convert it to RGB"
            )


def numbers(ifd: Ifd, layout: Layout, tag: int, otherwise: tuple[int, ...]) -> tuple[int, ...]:
    return (integers(ifd[tag], layout) if tag in ifd else ()) or otherwise


@contextmanager
def reading(path: Path) -> Iterator[tuple[ReadAt, int]]:
    """What reads `count` bytes at an offset of a file (fewer at its end), and the length of the file."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)

        def read_at(offset: int, count: int) -> bytes:
            if offset > end:  # a seek beyond what the system can count would raise
                return b""
            file.seek(offset)
            return file.read(min(count, end - offset))

        yield read_at, end


def survey(path: Path, name: str) -> TiffPages | None:
    """What lies in a TIFF as far as it is sound; None if nothing is. Raises UnreadableImage for a raw file."""
    with reading(path) as (read_at, _):
        layout = Layout("<")
        found: list[Ifd] = []
        seen: set[int] = set()
        try:
            layout, offset = header(read_at)
            while offset and offset not in seen and len(found) < _MOST_DIRECTORIES:
                seen.add(offset)
                ifd, offset = directory(read_at, layout, offset, _MOST_VALUE_BYTES, _LOOKED_AT)
                found.append(ifd)
        except DamagedDirectory:
            pass
        if not found:
            return None  # libvips says what is wrong
        _refuse_raw(found, layout, lambda at: _sub_directory(read_at, layout, at), name)
    kinds = [_kind(ifd, layout) for ifd in found]
    pictures = tuple(number for number, kind in enumerate(kinds) if kind == "picture")
    if not pictures:
        if SUB_DIRECTORIES in found[0]:
            raise UnreadableImage(f"{name} holds a reduced copy, and its picture in a sub-directory: save it plainly")
        pictures = tuple(range(len(found)))
    notes = []
    for kind, word in (("reduced", "reduced copies"), ("mask", "masks")):
        if kind in kinds and len(pictures) < len(found):
            notes.append(f"{kinds.count(kind)} of its {len(found)} pages are {word} and were left out")
    return TiffPages(layout, tuple(found), pictures, tuple(notes))


def _kind(ifd: Ifd, layout: Layout) -> str:
    bits = numbers(ifd, layout, SUBFILE_TYPE, (0,))[0]
    if bits & _MASK:
        return "mask"
    if bits & _REDUCED or numbers(ifd, layout, OLD_SUBFILE_TYPE, (1,))[0] == 2:
        return "reduced"
    return "picture"


def _sub_directory(read_at: ReadAt, layout: Layout, offset: int) -> Ifd:
    try:
        return directory(read_at, layout, offset, _MOST_VALUE_BYTES, _LOOKED_AT)[0]
    except DamagedDirectory:
        return {}


def _refuse_raw(found: list[Ifd], layout: Layout, below: Callable[[int], Ifd], name: str) -> None:
    """Raises UnreadableImage if any directory holds what a sensor saw: the rest is a preview of it."""
    inner = [below(at) for ifd in found[:8] for at in numbers(ifd, layout, SUB_DIRECTORIES, ())[:8]]
    sensor = any(numbers(ifd, layout, PHOTOMETRIC, (1,))[0] in _SENSOR for ifd in (*found, *inner))
    if not sensor and not any(_DNG_VERSION in ifd for ifd in found):
        return
    main = found[0]
    words = [text(main[tag]) for tag in (_MAKE, _MODEL if _MODEL in main else _UNIQUE_MODEL) if tag in main]
    raise raw_file(name, " ".join(words))


def raw_file(name: str, camera: str = "") -> UnreadableImage:
    """The error for a file of a camera's sensor."""
    of = f" ({camera})" if camera else ""
    return UnreadableImage(
        f"{name} is a camera raw file{of}: develop it first (darktable, RawTherapee, the maker's program) and enlarge "
        "the TIFF or JPEG that comes of it"
    )
