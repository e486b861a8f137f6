"""TIFF files beyond what libvips offers: EXIF and IPTC, pages of different sizes in one file (TIFF 6.0, section 2)."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from scalewise.images.metadata import exif as exif_block
from scalewise.images.metadata.exif import EXIF, GPS, INTEROP, ORIENTATION, Pair
from scalewise.images.metadata.ifd import (
    LONG,
    LONG8,
    UNDEFINED,
    DamagedDirectory,
    Entry,
    Ifd,
    Layout,
    directory,
    directory_bytes,
    entry_of,
    header,
    integers,
    rationals,
)
from scalewise.images.metadata.metadata import Metadata
from scalewise.images.metadata.tiff_pages import numbers, reading

_OFFSETS = (0x0111, 0x0144)  # offsets of strips, offsets of tiles
_XMP, _IPTC, _ICC, _LAYERS, _TILE_WIDTH = 0x02BC, 0x83BB, 0x8773, 0x935C, 0x0142
_PHOTOSHOP, _LUMA, _BLACK_WHITE = 0x8649, 0x0211, 0x0214
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES = 0x0100, 0x0101, 0x0102, 0x0103, 0x0115
_MOST_COMPRESSED = {1: 1, 5: 2731, 8: 1032, 32773: 64, 32946: 1032}  # bytes in one: none, LZW, deflate, PackBits
_PAGE_FLAG, _PAGE_NUMBER = 0x00FE, 0x0129
_ABOUT_PIXELS = {0x0100, 0x0101, 0x0112, 0x011A, 0x011B, 0x0128}  # libvips writes these


@dataclass(frozen=True)
class TiffExtras:
    """What a TIFF page says that libvips does not report, or not as it stands."""

    exif: bytes | None = None  # as a block, with the tags of the page that describe the picture
    iptc: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    dpi: Pair | None = None
    density: Pair | None = None  # pixels per unit, where no unit is named
    orientation: int = 1
    tiled: bool = False
    big: bool = False
    short: bool = False  # the file cannot hold the pixels that it promises
    layers: bool = False  # it has Photoshop's layers
    photoshop: bytes | None = None  # Photoshop's block of resources
    luma: tuple[float, float, float] | None = None  # weights of red, green, blue in the Y of YCbCr
    black_white: tuple[float, ...] | None = None  # levels of black and white for Y, Cb, Cr


def read_extras(path: Path, page: int) -> TiffExtras:
    """The extras of one directory; none where the file is damaged."""
    with reading(path) as (read_at, end):
        try:
            layout, offset = header(read_at)
            for _ in range(page):
                offset = _next(read_at, layout, offset)
            ifd, _ = directory(read_at, layout, offset)
        except DamagedDirectory:
            return TiffExtras()
        found = exif_block.read(read_at, layout, ifd)
        small = Layout(layout.order)
        main = {tag: e for tag, e in ifd.items() if not exif_block.is_structure(tag) and tag not in (EXIF, GPS)}
        worth = found.exif or found.gps or any(tag not in _ABOUT_PIXELS for tag in main)
        clean = exif_block.Exif(small, main, found.exif, found.gps, found.interop)

        def blob(tag: int) -> bytes | None:
            return (ifd[tag].data or None) if tag in ifd else None

        dpi, density = exif_block.resolution(ifd, layout)
        luma, levels = (rationals(ifd[tag], layout) if tag in ifd else () for tag in (_LUMA, _BLACK_WHITE))
        return TiffExtras(
            exif=exif_block.to_bytes(clean) if worth else None,
            iptc=(blob(_IPTC) or b"").rstrip(b"\0") or None,
            icc=blob(_ICC),
            xmp=blob(_XMP),
            dpi=dpi,
            density=density,
            orientation=numbers(ifd, layout, ORIENTATION, (1,))[0],
            tiled=_TILE_WIDTH in ifd,
            big=layout.big,
            short=_promised(ifd, layout) > end,
            layers=_LAYERS in ifd,
            photoshop=blob(_PHOTOSHOP),
            luma=(luma[0], luma[1], luma[2]) if len(luma) == 3 and luma[1] else None,
            black_white=levels if len(levels) == 6 else None,
        )


def _promised(ifd: Ifd, layout: Layout) -> int:
    """Bytes that the pixels of a page need in the file at the least; 0 if its compression has no bound."""

    def number(tag: int, otherwise: int) -> int:
        return numbers(ifd, layout, tag, (otherwise,))[0]

    bits = number(_WIDTH, 0) * number(_HEIGHT, 0) * number(_SAMPLES, 1) * number(_BITS, 1)
    most = _MOST_COMPRESSED.get(number(_COMPRESSION, 1))
    return bits // 8 // most // 2 if most else 0  # half, as colour may have half the resolution


def _next(read_at: exif_block.ReadAt, layout: Layout, offset: int) -> int:
    """Where the directory after the one at `offset` is."""
    number, step, link = ("Q", 20, "Q") if layout.big else ("H", 12, "I")
    try:
        (count,) = struct.unpack(layout.order + number, read_at(offset, struct.calcsize(number)))
        place = offset + struct.calcsize(number) + count * step
        (following,) = struct.unpack(layout.order + link, read_at(place, struct.calcsize(link)))
    except struct.error as error:
        raise DamagedDirectory("a directory of tags is cut off") from error
    if following == 0:
        raise DamagedDirectory("the file has fewer pages")
    return following


class TiffWriter:
    """A TIFF file that grows page by page from files of one page each, all classic or all BigTIFF."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.pages = 0
        self._link = 0  # where the offset of the next directory is to be written

    def append(self, page: IO[bytes], metadata: Metadata, pages: int = 1) -> None:
        """Add a file of one page, as libvips writes it, with the EXIF, XMP and IPTC of `metadata`."""

        def read_at(offset: int, count: int) -> bytes:
            page.seek(offset)
            return page.read(count)

        layout, offset = header(read_at)
        ifd, _ = directory(read_at, layout, offset)
        base = self._end()
        page.seek(0)
        shutil.copyfileobj(page, self.file)
        wide = LONG8 if layout.big else LONG
        for tag in _OFFSETS:
            if tag in ifd:
                ifd[tag] = entry_of(wide, tuple(n + base for n in integers(ifd[tag], layout)), layout)
        if metadata.xmp:
            ifd[_XMP] = Entry(1, len(metadata.xmp), metadata.xmp)
        if metadata.iptc:
            ifd[_IPTC] = Entry(UNDEFINED, len(metadata.iptc), metadata.iptc)
        if pages > 1:
            ifd[_PAGE_FLAG] = entry_of(LONG, (2,), layout)
            ifd[_PAGE_NUMBER] = entry_of(3, (min(self.pages, 65535), min(pages, 65535)), layout)
        ifd |= exif_block.resolution_tags(metadata.dpi, metadata.density or (1.0, 1.0), layout)
        if metadata.exif:
            self._add_exif(ifd, exif_block.parse(metadata.exif), layout)
        where = self._write(ifd, layout)
        self._patch(self._link or (8 if layout.big else 4), where, layout)
        number, step = (8, 20) if layout.big else (2, 12)
        self._link = where + number + step * len(ifd)
        self.pages += 1

    def _add_exif(self, ifd: Ifd, exif: exif_block.Exif, layout: Layout) -> None:
        exif = exif_block.in_order(exif, layout)
        camera = dict(exif.exif)
        for parent, tag, child in ((camera, INTEROP, exif.interop), (ifd, EXIF, camera), (ifd, GPS, exif.gps)):
            parent.pop(tag, None)
            if child:
                parent[tag] = entry_of(LONG8 if layout.big else LONG, (self._write(child, layout),), layout)
        for tag, entry in exif.main.items():
            if tag not in _ABOUT_PIXELS and tag not in (EXIF, GPS):
                ifd.setdefault(tag, entry)

    @classmethod
    def amend(cls, file: IO[bytes], tags: Ifd, metadata: Metadata) -> None:
        """Add tags, and the EXIF, XMP, IPTC and profile of `metadata`, to the first page of the TIFF in `file`."""
        writer = cls(file)

        def read_at(offset: int, count: int) -> bytes:
            file.seek(offset)
            return file.read(count)

        layout, offset = header(read_at)
        ifd, following = directory(read_at, layout, offset)
        blobs = ((_XMP, 1, metadata.xmp), (_IPTC, UNDEFINED, metadata.iptc), (_ICC, UNDEFINED, metadata.icc))
        ifd |= {tag: Entry(kind, len(blob), blob) for tag, kind, blob in blobs if blob} | tags
        if metadata.dpi is not None or metadata.density is not None:
            ifd |= exif_block.resolution_tags(metadata.dpi, metadata.density or (1.0, 1.0), layout)
        if metadata.exif:
            writer._add_exif(ifd, exif_block.parse(metadata.exif), layout)
        where = writer._write(ifd, layout, following)
        writer._patch(8 if layout.big else 4, where, layout)

    def _write(self, ifd: Mapping[int, Entry], layout: Layout, following: int = 0) -> int:
        where = self._end()
        self.file.write(directory_bytes(ifd, layout, where, following))
        return where

    def _end(self) -> int:
        end = self.file.seek(0, os.SEEK_END)
        self.file.write(b"\0" * (-end % 16))
        return end + -end % 16

    def _patch(self, at: int, value: int, layout: Layout) -> None:
        self.file.seek(at)
        self.file.write(struct.pack(layout.order + ("Q" if layout.big else "I"), value))
