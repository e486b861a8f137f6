"""Directories of tags, as TIFF files, BigTIFF files and EXIF blocks have them (TIFF 6.0, section 2): read, packed."""

from __future__ import annotations

import struct
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

ReadAt = Callable[[int, int], bytes]  # (offset, count) → that many bytes, fewer at the end

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
SHORT, LONG, RATIONAL, UNDEFINED, LONG8 = 3, 4, 5, 7, 16
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_MOST_ENTRIES = 4096
_MOST_BYTES = 2**26  # in one value: the offsets of 8 million strips


class DamagedDirectory(ValueError):
    """No directory of tags where one should be."""


@dataclass(frozen=True)
class Layout:
    """How numbers lie in a file: byte order, and whether offsets have 64 bits (BigTIFF)."""

    order: str  # "<" or ">"
    big: bool = False


@dataclass(frozen=True)
class Entry:
    """The value of a tag: its type, how many, and their bytes in the order of the file."""

    kind: int
    count: int
    data: bytes


Ifd = dict[int, Entry]


def header(read_at: ReadAt) -> tuple[Layout, int]:
    """Layout of a file and the offset of its first directory. Raises DamagedDirectory."""
    start = read_at(0, 16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    try:
        if order is None:
            raise DamagedDirectory("it starts with neither II nor MM")
        (magic,) = struct.unpack_from(order + "H", start, 2)
        if magic == 43:
            return Layout(order, big=True), struct.unpack_from(order + "Q", start, 8)[0]
        if magic != 42:
            raise DamagedDirectory(f"its number is {magic} and neither 42 nor 43")
        return Layout(order), struct.unpack_from(order + "I", start, 4)[0]
    except struct.error as error:
        raise DamagedDirectory("its header is cut off") from error


def directory(
    read_at: ReadAt,
    layout: Layout,
    offset: int,
    most_bytes: int = _MOST_BYTES,
    only: Container[int] | None = None,
) -> tuple[Ifd, int]:
    """The tags at `offset` and where the next directory is (0: nowhere). What lies outside the file is left out.

    `most_bytes` bounds one value; `only` names the tags that are wanted. Of a tag that is there twice, the first
    counts, as in libtiff. Raises DamagedDirectory.
    """
    order, big = layout.order, layout.big
    number, entry, room = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
    try:
        (count,) = struct.unpack(order + number, read_at(offset, struct.calcsize(number)))
        if count > _MOST_ENTRIES:
            raise DamagedDirectory(f"it claims {count} tags")
        step = struct.calcsize("=" + entry) + room
        start = offset + struct.calcsize(number)
        table = read_at(start, count * step + room)
        ifd: Ifd = {}
        for i in range(count):
            tag, kind, many = struct.unpack_from(order + entry, table, i * step)
            size = SIZES.get(kind, 0) * many
            value = table[(i + 1) * step - room : (i + 1) * step]
            if not 0 < size <= most_bytes or tag in ifd or (only is not None and tag not in only):
                continue
            if size > room:
                (where,) = struct.unpack(order + ("Q" if big else "I"), value)
                value = read_at(where, size)
            if len(value) >= size:
                ifd[tag] = Entry(kind, many, value[:size])
        (following,) = struct.unpack_from(order + ("Q" if big else "I"), table, count * step)
    except struct.error as error:
        raise DamagedDirectory("a directory of tags is cut off") from error
    return ifd, following


def directory_bytes(ifd: Mapping[int, Entry], layout: Layout, at: int, following: int = 0) -> bytes:
    """The bytes of a directory that will lie at offset `at`, values included; its length does not depend on `at`."""
    order, big = layout.order, layout.big
    number, entry, offset, room = ("Q", "HHQ", "Q", 8) if big else ("H", "HHI", "I", 4)
    table = bytearray(struct.pack(order + number, len(ifd)))
    step = struct.calcsize("=" + entry) + room
    values, behind = bytearray(), at + len(table) + step * len(ifd) + room
    for tag, value in sorted(ifd.items()):
        table += struct.pack(order + entry, tag, value.kind, value.count)
        if len(value.data) <= room:
            table += value.data.ljust(room, b"\0")
        else:
            table += struct.pack(order + offset, behind + len(values))
            values += value.data + b"\0" * (len(value.data) % 2)  # values begin at even offsets
    return bytes(table + struct.pack(order + offset, following) + values)


def integers(entry: Entry, layout: Layout) -> tuple[int, ...]:
    """The numbers of an entry of an integer type; () for other types."""
    code = _INTEGERS.get(entry.kind)
    return struct.unpack(f"{layout.order}{entry.count}{code}", entry.data) if code else ()


def rationals(entry: Entry, layout: Layout) -> tuple[float, ...]:
    """The numbers of an entry of RATIONAL or an integer type; a denominator of 0 gives 0."""
    if entry.kind != RATIONAL:
        return tuple(map(float, integers(entry, layout)))
    parts = struct.unpack(f"{layout.order}{2 * entry.count}I", entry.data)
    return tuple(a / b if b else 0.0 for a, b in zip(parts[::2], parts[1::2], strict=True))


def text(entry: Entry) -> str:
    """The text of an entry, as far as it is printable."""
    words = entry.data.split(b"\0")[0].decode("utf-8", "replace").strip()
    return "".join(character for character in words if character.isprintable())[:60]


def entry_of(kind: int, values: tuple[int, ...], layout: Layout) -> Entry:
    """An entry of integers; of RATIONAL, the values are numerators and denominators in turn."""
    code = "I" if kind == RATIONAL else _INTEGERS[kind]
    count = len(values) // 2 if kind == RATIONAL else len(values)
    return Entry(kind, count, struct.pack(f"{layout.order}{len(values)}{code}", *values))


def converted(ifd: Mapping[int, Entry], layout: Layout, to: Layout) -> Ifd:
    """The same tags in another byte order."""
    if layout.order == to.order:
        return dict(ifd)
    return {tag: Entry(e.kind, e.count, _swapped(e)) for tag, e in ifd.items()}


def _swapped(entry: Entry) -> bytes:
    size = 4 if entry.kind in (RATIONAL, 10) else SIZES[entry.kind]
    return b"".join(entry.data[i : i + size][::-1] for i in range(0, len(entry.data), size))
