"""XMP (ISO 16684-1): the text block of metadata, changed in place: sizes, orientation, places, our note."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from html import escape, unescape

NAMESPACE = "urn:scalewise:note:1"
_EMPTY = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '</rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'
)
_END = "</rdf:RDF>"
_MOST_BYTES = 2**24
# No pattern may look far for what is not there: a block can be hostile, and long.
_OLD_NOTE = re.compile(
    rf'<rdf:Description rdf:about="[^"<>]*" xmlns:scalewise="{NAMESPACE}" scalewise:note="([^"<>]*)"/>'
)
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_PIXEL_UNIT = re.compile(r"(?:unit|rbUnit)(?:\s?=\s?[\"']|>)pixel", re.ASCII)
_PIXEL_FOCAL_LENGTH = re.compile(r"FocalLengthUnits(?:\s?=\s?[\"']|>)pixel")
# Fields of panoramas that count pixels (Photo Sphere XMP metadata), by axis: 0 rows, 1 columns.
_GPANO_PIXELS = {
    "FullPanoWidthPixels": 1,
    "FullPanoHeightPixels": 0,
    "CroppedAreaImageWidthPixels": 1,
    "CroppedAreaImageHeightPixels": 0,
    "CroppedAreaLeftPixels": 1,
    "CroppedAreaTopPixels": 0,
    "LargestValidInteriorRectLeft": 1,
    "LargestValidInteriorRectTop": 0,
    "LargestValidInteriorRectWidth": 1,
    "LargestValidInteriorRectHeight": 0,
}


@dataclass(frozen=True)
class Change:
    """What happened to the pixels: from `before` (h, w) upright to `size`, turned by the orientation, cut."""

    before: tuple[int, int]
    size: tuple[int, int]
    turned: bool = False
    cropped: bool = False
    dpi: tuple[float, float] | None = None  # if it changed

    @property
    def factors(self) -> tuple[float, float]:
        return self.size[0] / self.before[0], self.size[1] / self.before[1]


def updated(xmp: bytes | None, change: Change, note: str = "") -> tuple[bytes | None, list[str]]:
    """XMP after a change of the pixels, with `note` added, and what was left out, as sentences; None if there is none.

    Only values are replaced, so all the rest stays as it was. A block that is not UTF-8 text with RDF in it, or
    is longer than 16 MB, is given back as it came.
    """
    if xmp is None and not note:
        return None, []
    text = _text(xmp) if xmp is not None else _EMPTY
    if text is None:
        return xmp, []
    (rows, columns), notes = change.factors, []
    height, width = str(change.size[0]), str(change.size[1])
    values = {"tiff:ImageWidth": width, "tiff:ImageLength": height, "tiff:Orientation": "1"}
    values |= {"exif:PixelXDimension": width, "exif:PixelYDimension": height}
    if change.dpi is not None:
        values |= {f"tiff:{axis}Resolution": f"{round(d)}/1" for axis, d in zip("XY", change.dpi, strict=True)}
        values |= {"tiff:ResolutionUnit": "2"}
    for name, value in values.items():
        text = field(name).sub(rf"\g<1>{value}\g<3>", text)
    if change.cropped:
        text, found = without(text, r"GPano:\w+")
        notes += ["its fields of a panorama are not true of a part and were left out"] if found else []
    for name, axis in _GPANO_PIXELS.items():
        text = multiplied(text, f"GPano:{name}", (rows, columns)[axis], whole=True)
    text = field("xmpNote:HasExtendedXMP").sub(r"\g<1>\g<3>", text)  # its second part is not carried
    text, _ = without(text, "xmp:Thumbnails")
    text, left_out = updated_places(text, change)
    if note:
        text = _with_note(text, note)
    return text.encode(), notes + left_out


def updated_places(text: str, change: Change) -> tuple[str, list[str]]:
    """Regions, the sensor's resolution, the lens, and what followed the picture in its old file."""
    (rows, columns), notes = change.factors, []
    moved = change.turned or change.cropped

    def drop(pattern: str, why: str) -> None:
        nonlocal text
        text, found = without(text, pattern)
        if found:
            notes.append(f"{why} left out")

    for name in ("Regions", "RegionInfo", "ImageRegion"):
        for prefix in _prefixes(text, name):
            whole = rf"{prefix}:{name}"
            inside = text[max(0, text.find(f"<{whole}")) : text.rfind(f"</{whole}") + 1]
            if moved or _PIXEL_UNIT.search(inside):
                drop(whole, "regions (faces, areas) would lie elsewhere and were")
    for side, factor in (("w", columns), ("h", rows)):
        text = multiplied(text, rf"(?:acdsee-)?stDim:{side}", factor, whole=True)
    across, down = ("Y", "X") if change.turned else ("X", "Y")
    if change.turned:  # by what angle is not known here
        drop("exif:FocalPlane[XY]Resolution", "the resolution of the sensor was")
    text = multiplied(text, f"exif:FocalPlane{across}Resolution", columns)
    text = multiplied(text, f"exif:FocalPlane{down}Resolution", rows)
    drop("exif:Subject(?:Area|Location)", "the place of the subject in the XMP was")
    drop("drone-dji:DewarpData", "the calibration of the lens (DewarpData) was")
    if moved or abs(rows - columns) > 0.01 * rows:
        drop("drone-dji:Calibrated(?:FocalLength|OpticalCenter[XY])", "the calibration of the lens was")
        drop("Camera:(?:P(?:erspectiveFocalLength|rincipalPoint)|Fisheye)\\w*", "the calibration of the lens was")
    text = multiplied(text, "drone-dji:CalibratedFocalLength", columns)
    text = multiplied(text, "drone-dji:CalibratedOpticalCenterX", columns)
    text = multiplied(text, "drone-dji:CalibratedOpticalCenterY", rows)
    drop("Camera:FisheyeAffine\\w*", "the calibration of the lens was")
    if _PIXEL_FOCAL_LENGTH.search(text):
        text = multiplied(text, "Camera:PerspectiveFocalLength", columns)
    drop("(?:hdrgm|HDRGainMap|hdr_metadata):\\w+", "the gain map of an HDR picture was")
    drop(
        "(?:GCamera|OpCamera):(?:MotionPhoto|MicroVideo|\\w*Video)\\w*",
        "the fields about the video of a motion photo were",
    )
    drop("(?:GDepth|GImage|GAudio|GFocus):\\w+", "depth, further pictures or sound were")
    drop("G?Container:\\w+", "the directory of what followed the picture was")
    return text, list(dict.fromkeys(notes))


def gpano(xmp: bytes | None) -> dict[str, str] | None:
    """The fields of a panorama (`ProjectionType`, `FullPanoWidthPixels`, …) as they are written; None if it is none."""
    text = _text(xmp) if xmp is not None else None
    if text is None:
        return None
    found = {m[1]: m[2] for m in re.finditer(r"\bGPano:(\w+)\s*=\s*[\"']([^\"'<>]*)[\"']", text)}
    found |= {m[1]: m[2].strip() for m in re.finditer(r"<GPano:(\w+)\b[^<>]*>([^<>]*)</GPano:\1\s*>", text)}
    return found or None


def note_of(xmp: bytes | None) -> str | None:
    """What `updated` wrote as a note."""
    match = _OLD_NOTE.search(_text(xmp) or "") if xmp is not None else None
    return unescape(match[1]) if match else None


def _text(xmp: bytes) -> str | None:
    if len(xmp) > _MOST_BYTES:
        return None
    try:
        text = xmp.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        return None
    return text if _END in text else None


def field(name: str) -> re.Pattern[str]:
    """A simple property, written as an attribute or as an element: (before)(value)(after)."""
    return re.compile(rf"((?:\b{name}\s*=\s*[\"'])|(?:<{name}\b[^<>]*(?<!/)>))([^\"'<>]*)([\"']|</{name}\s*>)")


def multiplied(text: str, name: str, factor: float, *, whole: bool = False) -> str:
    """`text` with the numbers of a property, whole or as fractions, multiplied."""

    def product(match: re.Match[str]) -> str:
        return f"{match[1]}{_product(match[2].strip(), factor, whole)}{match[3]}"

    return field(name).sub(product, text)


def _product(value: str, factor: float, whole: bool) -> str:
    if len(value) > 40:
        return value
    if whole and _NUMBER.fullmatch(value):
        return str(round(float(value) * factor))
    if _NUMBER.fullmatch(value):
        return f"{float(value) * factor:.10g}"
    above, slash, below = value.partition("/")
    if slash and above.isascii() and below.isascii() and above.isdigit() and below.isdigit() and int(below):
        number = (Fraction(int(above), int(below)) * Fraction(factor)).limit_denominator(10_000)
        return f"{number.numerator}/{number.denominator}"
    return value


def _prefixes(text: str, name: str) -> list[str]:
    """The prefixes under which elements of a name are written."""
    return list(dict.fromkeys(re.findall(rf"<([\w.-]{{1,40}}):{name}\b", text)))


def without(text: str, pattern: str) -> tuple[str, bool]:
    """`text` without the properties whose names match, as attributes and as elements; and whether there were some.

    An element that does not end stops the search: a block can be hostile, and long.
    """
    smaller = re.sub(rf"\s{pattern}\s{{0,9}}=\s{{0,9}}(?:\"[^\"<>]*\"|'[^'<>]*')", "", text)
    parts, at = [], 0
    for match in re.finditer(rf"<({pattern})\b([^<>]*)>", smaller):
        if match.start() < at:
            continue
        end = match.end()
        if not match[2].endswith("/"):
            closing = f"</{match[1]}>"
            where = smaller.find(closing, end)
            if where < 0:
                break
            end = where + len(closing)
        parts.append(smaller[at : match.start()])
        at = end
    smaller = "".join(parts) + smaller[at:]
    return smaller, len(smaller) < len(text)


def _with_note(text: str, note: str) -> str:
    """One note; what an earlier run wrote stays in front."""
    old = _OLD_NOTE.search(text)
    if old:
        text, note = text.replace(old[0], ""), f"{unescape(old[1])}; then {note}"
    about = re.search(r"rdf:about\s*=\s*[\"']([^\"'<>]*)[\"']", text)
    place = about[1] if about else ""
    line = f'<rdf:Description rdf:about="{place}" xmlns:scalewise="{NAMESPACE}" scalewise:note="{escape(note)}"/>'
    start, end = text.rsplit(_END, 1)
    return f"{start}{line}{_END}{end}"
