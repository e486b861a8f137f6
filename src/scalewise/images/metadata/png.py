"""What a PNG says beyond its pixels: texts, colour chunks, resolution, and metadata as "Raw profile" texts (PNG 3)."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from scalewise.images.metadata import colour
from scalewise.images.metadata.exif import Pair
from scalewise.images.metadata.metadata import Metadata, iptc_records

ANIMATION, PROFILE = b"acTL", b"iCCP"  # libvips reads the profile; one that is damaged it leaves out
START = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_COLOURS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI")
_RESOLUTION = b"pHYs"
_XMP = b"XML:com.adobe.xmp\0"
_RAW_PROFILE = b"Raw profile type "  # ImageMagick's way, from before there was eXIf; darktable and digiKam use it
_MOST_CHUNK_BYTES = 2**22
_MOST_TEXTS = 10_000
_INCHES_PER_METRE = 0.0254


def read_metadata(path: Path) -> tuple[Metadata, set[bytes]]:
    """What the chunks say that libvips does not report, or not as they stand, up to the end or a damage; and which of
    ANIMATION and PROFILE there are. Raises OSError."""
    profiles: dict[str, bytes] = {}  # from "Raw profile" texts: exif, iptc, xmp, icc
    words: dict[bytes, bytes] = {}
    parts: list[bytes] = []  # texts and colours, whole, to be written again
    texts: list[str] = []  # their keywords
    seen, size = set[bytes](), 0
    with path.open("rb") as file:
        file.seek(len(START))
        while len(head := file.read(8)) == 8:
            length, name = int.from_bytes(head[:4]), head[4:]
            if name == b"IEND":
                break
            seen |= {name} & {ANIMATION, PROFILE}
            wanted = name in (*_TEXTS, *_COLOURS, _RESOLUTION) and size + length <= _MOST_CHUNK_BYTES
            chunk = file.read(length + 4) if wanted else b""
            if not wanted:
                file.seek(length + 4, os.SEEK_CUR)
            elif len(chunk) == length + 4 and zlib.crc32(name + chunk[:-4]) == int.from_bytes(chunk[-4:]):
                size += length + 12
                data = chunk[:-4]
                if name in _TEXTS:
                    if len(parts) < _MOST_TEXTS and not _is_ours(profiles, name, data):
                        parts.append(head + chunk)
                        texts.append(data.split(b"\0")[0][:79].decode("latin-1"))
                else:
                    words[name] = data
                    if name != _RESOLUTION:
                        parts.append(head + chunk)
    dpi, density = _resolution(words.get(_RESOLUTION, b""))
    icc = profiles.get("icc", b"")
    colours, hdr = _colours(words)
    found = Metadata(
        icc=icc if icc[36:40] == b"acsp" else None,
        exif=profiles.get("exif"),
        xmp=profiles.get("xmp"),
        iptc=iptc_records(profiles["iptc"]) if "iptc" in profiles else None,
        dpi=dpi,
        density=density,
        chunks=b"".join(parts),
        texts=tuple(texts),
        colours=colours,
        hdr=hdr,
    )
    return found, seen


def _is_ours(profiles: dict[str, bytes], name: bytes, data: bytes) -> bool:
    """True for texts that are carried otherwise; what "Raw profile" texts hold is put into `profiles`."""
    if data.startswith(_XMP):
        return True
    if not data.startswith(_RAW_PROFILE):
        return False
    kind, _, rest = data.removeprefix(_RAW_PROFILE).partition(b"\0")
    if name == b"iTXt":
        packed, rest = rest[:1] == b"\1", rest[2:].split(b"\0", 2)[-1]  # after a language and a translation
    else:
        packed, rest = name == b"zTXt", rest[1:] if name == b"zTXt" else rest
    blob = _raw_profile(rest, packed)
    key = {"exif": "exif", "app1": "exif", "iptc": "iptc", "8bim": "iptc", "xmp": "xmp", "icc": "icc", "icm": "icc"}
    what = key.get(kind.decode("latin-1").strip().lower())
    if blob is not None and blob.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
        what, blob = "xmp", blob.split(b"\0", 1)[1]
    if blob and what is not None:
        profiles.setdefault(what, blob)
    return True


def _raw_profile(data: bytes, packed: bool) -> bytes | None:
    """The bytes in a "Raw profile" text: a line with its kind, one with its length, then hexadecimal digits."""
    if packed:
        try:
            data = zlib.decompressobj().decompress(data, _MOST_CHUNK_BYTES)
        except zlib.error:
            return None
    lines = data.strip(b"\n\0").split(b"\n")
    try:
        blob = bytes.fromhex(b"".join(lines[2:]).decode("ascii"))
        length = int(lines[1]) if len(lines[1]) < 12 else 0
    except (ValueError, IndexError):
        return None
    return blob[:length] or None


def _resolution(data: bytes) -> tuple[Pair | None, Pair | None]:
    if len(data) != 9:
        return None, None
    x, y, unit = struct.unpack(">IIB", data)
    if not x or not y:
        return None, None
    return ((x * _INCHES_PER_METRE, y * _INCHES_PER_METRE), None) if unit == 1 else (None, (float(x), float(y)))


def _colours(words: dict[bytes, bytes]) -> tuple[bytes | None, bool]:
    """A profile of what the colour chunks say, in the order of PNG 3: cICP, sRGB, gAMA with cHRM; and if it is
    HDR."""
    if len(cicp := words.get(b"cICP", b"")) == 4:
        return colour.of_code_points(cicp[0], cicp[1])
    if b"sRGB" in words or len(words.get(b"gAMA", b"")) != 4:
        return None, False
    gamma = int.from_bytes(words[b"gAMA"]) / 100_000
    if len(words.get(b"cHRM", b"")) != 32:
        return colour.of_gamma(gamma, None, None), False
    numbers = [number / 100_000 for number in struct.unpack(">8I", words[b"cHRM"])]
    white, red, green, blue = zip(numbers[::2], numbers[1::2], strict=True)
    return colour.of_gamma(gamma, (red, green, blue), white), False
