"""EXIF (CIPA DC-008): what a camera wrote, with the fields updated that an enlarged and upright picture changes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

from scalewise.images.metadata.ifd import (
    LONG,
    RATIONAL,
    SHORT,
    DamagedDirectory,
    Entry,
    Ifd,
    Layout,
    ReadAt,
    converted,
    directory,
    directory_bytes,
    entry_of,
    header,
    integers,
    rationals,
)

EXIF, GPS, INTEROP = 0x8769, 0x8825, 0xA005  # tags that point to further directories
MAKER_NOTE = 0x927C
ORIENTATION = 0x0112
_WIDTH, _HEIGHT, _DESCRIPTION = 0x0100, 0x0101, 0x010E
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 0x011A, 0x011B, 0x0128
_PIXEL_X, _PIXEL_Y = 0xA002, 0xA003
_SUBJECT_AREA, _SUBJECT_LOCATION = 0x9214, 0xA214  # in pixels: x, y[, diameter | width, height]
_FOCAL_PLANE_X, _FOCAL_PLANE_Y = 0xA20E, 0xA20F  # pixels per unit on the sensor, so the field of view follows
_MULTI_PICTURE = set(range(0xB000, 0xB003))
# What a DNG says of pixels: areas, crops, masks, corrections of its lens.
_DNG_PIXELS = {0xC61F, 0xC620, *range(0xC68D, 0xC68F), 0xC740, 0xC741, 0xC74E, 0xC7B5}
_RATIONAL_POLYNOMIALS = 0xC69C  # of a GeoTIFF
# How the pixels of the old file lay, and what is carried elsewhere: XMP, IPTC, Photoshop, profile, georeference.
_STRUCTURE = {0x00FE, 0x00FF, *range(0x0102, 0x010B), 0x0111, *range(0x0115, 0x011A), 0x011C, *range(0x011E, 0x0128)}
_STRUCTURE |= {0x0129, 0x012D, 0x013D, 0x02BC, 0x83BB, 0x8649, 0x8773, 0x935C, 0xA480, 0xA481}
_STRUCTURES = (
    (0x0140, 0x015B),
    (0x0200, 0x0214),
    (0x80A3, 0x80E7),
    (0x830E, 0x8482),
    (0x85D8, 0x85D8),
    (0x87AF, 0x87B1),
)
_STRUCTURE |= _DNG_PIXELS | _MULTI_PICTURE | {_RATIONAL_POLYNOMIALS}
INCH, CENTIMETRE, NO_UNIT = 2, 3, 1
Pair = tuple[float, float]
_MOST_BYTES = 2**22  # in one value
_PREFIX = b"Exif\0\0"


@dataclass(frozen=True)
class Exif:
    """Four directories: of the picture, of the camera, of the place, of interoperability. Thumbnails are not read."""

    layout: Layout
    main: Ifd
    exif: Ifd = field(default_factory=dict)
    gps: Ifd = field(default_factory=dict)
    interop: Ifd = field(default_factory=dict)


def read(read_at: ReadAt, layout: Layout, main: Ifd) -> Exif:
    """The directories that `main` points to; one that is damaged is left out."""

    def below(tag: int, parent: Ifd) -> Ifd:
        try:
            return directory(read_at, layout, integers(parent[tag], layout)[0], _MOST_BYTES)[0]
        except (KeyError, IndexError, DamagedDirectory):
            return {}

    exif = below(EXIF, main)
    return Exif(layout, main, exif, below(GPS, main), below(INTEROP, exif))


def parse(blob: bytes) -> Exif:
    """The EXIF of the block that JPEG and others carry. Raises DamagedDirectory."""
    body = blob.removeprefix(_PREFIX)

    def read_at(offset: int, count: int) -> bytes:
        return body[offset : offset + count]

    layout, first = header(read_at)
    if layout.big:
        raise DamagedDirectory("EXIF is never BigTIFF")
    return read(read_at, layout, directory(read_at, layout, first, _MOST_BYTES)[0])


def to_bytes(exif: Exif) -> bytes:
    """The block, with its prefix `Exif`."""
    layout = exif.layout
    main, camera = dict(exif.main), dict(exif.exif)
    pointer = entry_of(LONG, (0,), layout)
    for parent, tag, child in ((main, GPS, exif.gps), (camera, INTEROP, exif.interop), (main, EXIF, camera)):
        parent.pop(tag, None)
        if child:
            parent[tag] = pointer
    parts = [b"II*\0\x08\0\0\0" if layout.order == "<" else b"MM\0*\0\0\0\x08", b""]
    at = 8 + len(directory_bytes(main, layout, 8))

    def put(parent: Ifd, tag: int, child: Ifd) -> None:
        nonlocal at
        if child:
            parent[tag] = entry_of(LONG, (at,), layout)
            parts.append(directory_bytes(child, layout, at))
            at += len(parts[-1])

    put(camera, INTEROP, exif.interop)
    put(main, EXIF, camera)
    put(main, GPS, exif.gps)
    parts[1] = directory_bytes(main, layout, 8)
    return _PREFIX + b"".join(parts)


def resolution(main: Ifd, layout: Layout) -> tuple[Pair | None, Pair | None]:
    """Dots per inch, horizontal and vertical, or dots per an unnamed unit; both None if none is named."""
    pair = _number(main, _X_RESOLUTION, layout), _number(main, _Y_RESOLUTION, layout)
    if min(pair) <= 0:
        return None, None
    unit = (*(integers(main[_RESOLUTION_UNIT], layout) if _RESOLUTION_UNIT in main else ()), INCH)[0]
    if unit == NO_UNIT:
        return None, pair
    return (pair[0] * 2.54, pair[1] * 2.54) if unit == CENTIMETRE else pair, None


def resolution_tags(dpi: Pair | None, density: Pair, layout: Layout) -> Ifd:
    """The tags of a resolution in dots per inch, or without a unit where `dpi` is None."""
    x, y = density if dpi is None else dpi
    unit = entry_of(SHORT, (NO_UNIT if dpi is None else INCH,), layout)
    return {_X_RESOLUTION: _rational(x, layout), _Y_RESOLUTION: _rational(y, layout), _RESOLUTION_UNIT: unit}


def updated(
    exif: Exif,
    before: tuple[int, int],
    size: tuple[int, int],
    dpi: Pair | None,
    density: Pair | None,
    orientation: int,
    cropped: bool,
) -> tuple[Exif, list[str]]:
    """EXIF of a picture that was `before` (h, w) upright and is `size` now, and what was left out, as sentences.

    Sizes are those of the output, the orientation is upright, the resolution is `dpi` or `density` if known. Places in
    the picture are turned as the `orientation` turned it and scaled; those of a `cropped` one are left out, as nothing
    says where it was cut. Tags about strips and thumbnails are left out.
    """
    layout, notes = exif.layout, []
    main = {tag: entry for tag, entry in exif.main.items() if not is_structure(tag)}
    if _declares_sizes(main):
        del main[_DESCRIPTION]
    for ifd, x, y in ((main, _WIDTH, _HEIGHT), (camera := dict(exif.exif), _PIXEL_X, _PIXEL_Y)):
        if x in ifd or y in ifd:
            ifd[x], ifd[y] = entry_of(LONG, (size[1],), layout), entry_of(LONG, (size[0],), layout)
    if ORIENTATION in main:
        main[ORIENTATION] = entry_of(SHORT, (1,), layout)
    if (dpi is not None or density is not None) and (_X_RESOLUTION in main or _Y_RESOLUTION in main):
        main |= resolution_tags(dpi, density or (1.0, 1.0), layout)
    rows, columns = size[0] / before[0], size[1] / before[1]
    for tag in (_SUBJECT_AREA, _SUBJECT_LOCATION):
        if tag in camera:
            place = integers(camera[tag], layout)
            if cropped or len(place) < 2:
                del camera[tag]
                notes.append("the place of its subject is not known after a crop and was left out")
                continue
            place = turned_place(place, before, orientation)
            scaled = [round(v * f) for v, f in zip(place, (columns, rows, columns, rows), strict=False)]
            camera[tag] = entry_of(LONG if max(scaled) > 65535 else SHORT, tuple(scaled), layout)
    x, y = _number(camera, _FOCAL_PLANE_X, layout), _number(camera, _FOCAL_PLANE_Y, layout)
    if min(x, y) > 0:
        x, y = (y, x) if orientation in TRANSPOSED else (x, y)
        camera[_FOCAL_PLANE_X], camera[_FOCAL_PLANE_Y] = _rational(x * columns, layout), _rational(y * rows, layout)
    return replace(exif, main=main, exif=camera), notes


TRANSPOSED = (5, 6, 7, 8)  # orientations that exchange rows and columns


def turned_place(place: tuple[int, ...], size: tuple[int, int], orientation: int) -> tuple[int, ...]:
    """A point x, y, with a diameter or a width and height, of the stored picture in the upright one of `size`."""
    x, y, *extent = place
    if orientation in TRANSPOSED:
        x, y, extent = y, x, extent[::-1]
    if orientation in (2, 3, 6, 7):
        x = max(0, size[1] - 1 - x)
    if orientation in (3, 4, 7, 8):
        y = max(0, size[0] - 1 - y)
    return (x, y, *extent)


def in_order(exif: Exif, layout: Layout) -> Exif:
    """The same in the byte order of `layout`."""
    parts = (converted(part, exif.layout, layout) for part in (exif.main, exif.exif, exif.gps, exif.interop))
    return Exif(Layout(layout.order), *parts)


def with_resolution(blob: bytes | None, dpi: Pair | None, density: Pair | None) -> bytes | None:
    """A block that names the resolution, for containers that keep it in EXIF alone. Raises DamagedDirectory."""
    if dpi is None and density is None:
        return blob
    exif = parse(blob) if blob else Exif(Layout("<"), {})
    tags = resolution_tags(dpi, density or (1.0, 1.0), exif.layout)
    return to_bytes(replace(exif, main=dict(exif.main) | tags))


def without_maker_note(exif: Exif) -> Exif:
    return replace(exif, exif={tag: entry for tag, entry in exif.exif.items() if tag != MAKER_NOTE})


def is_structure(tag: int) -> bool:
    """True for tags that say how the pixels of the old file lay, and for what is carried elsewhere."""
    return tag in _STRUCTURE or any(first <= tag <= last for first, last in _STRUCTURES)


def _declares_sizes(main: Ifd) -> bool:
    """True for the descriptions of tifffile and OME, which repeat sizes that are no longer true."""
    text = main[_DESCRIPTION].data if _DESCRIPTION in main else b""
    return text.startswith(b'{"shape"') or b"<OME " in text[:2000]


def _number(ifd: Ifd, tag: int, layout: Layout) -> float:
    """The first number of a tag; 0 if there is none."""
    return (*(rationals(ifd[tag], layout) if tag in ifd else ()), 0.0)[0]


def _rational(value: float, layout: Layout) -> Entry:
    fraction = Fraction(value).limit_denominator(10_000)
    return entry_of(RATIONAL, (fraction.numerator, fraction.denominator), layout)
