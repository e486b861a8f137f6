"""XMP (ISO 16684-1): the text block of metadata, patched in place: sizes, orientation, panorama fields, our note."""

from __future__ import annotations

import re
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
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
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


def mended(
    xmp: bytes | None,
    before: tuple[int, int],
    size: tuple[int, int],
    dpi: tuple[float, float] | None = None,
    note: str = "",
) -> bytes | None:
    """XMP of a picture that was `before` (h, w) upright and is `size` now, with `note` added; None if there is none.

    Only values are replaced, so all the rest stays as it was. A block that is not UTF-8 text with RDF in it, or
    is longer than 16 MB, is given back as it came.
    """
    if xmp is None and not note:
        return None
    text = _text(xmp) if xmp is not None else _EMPTY
    if text is None:
        return xmp
    height, width = str(size[0]), str(size[1])
    values = {"tiff:ImageWidth": width, "tiff:ImageLength": height, "tiff:Orientation": "1"}
    values |= {"exif:PixelXDimension": width, "exif:PixelYDimension": height}
    if dpi is not None:
        values |= {"tiff:XResolution": f"{round(dpi[0])}/1", "tiff:YResolution": f"{round(dpi[1])}/1"}
        values |= {"tiff:ResolutionUnit": "2"}
    for name, value in values.items():
        text = _field(name).sub(rf"\g<1>{value}\g<3>", text)
    for name, axis in _GPANO_PIXELS.items():
        factor = size[axis] / before[axis]
        text = _field(f"GPano:{name}").sub(lambda match, f=factor: f"{match[1]}{_scaled(match[2], f)}{match[3]}", text)
    text = _field("xmpNote:HasExtendedXMP").sub(r"\g<1>\g<3>", text)  # its other part is not carried
    text = _without(text, "<xmp:Thumbnails", "</xmp:Thumbnails>")
    if note:
        text = _with_note(text, note)
    return text.encode()


def gpano(xmp: bytes | None) -> dict[str, str] | None:
    """The fields of a panorama (`ProjectionType`, `FullPanoWidthPixels`, …) as they are written; None if it is none."""
    text = _text(xmp) if xmp is not None else None
    if text is None:
        return None
    found = {m[1]: m[2] for m in re.finditer(r"\bGPano:(\w+)\s*=\s*[\"']([^\"'<>]*)[\"']", text)}
    found |= {m[1]: m[2].strip() for m in re.finditer(r"<GPano:(\w+)\b[^<>]*>([^<>]*)</GPano:\1\s*>", text)}
    return found or None


def note_of(xmp: bytes | None) -> str | None:
    """What `mended` wrote as a note."""
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


def _field(name: str) -> re.Pattern[str]:
    """A simple property, written as an attribute or as an element: (before)(value)(after)."""
    return re.compile(rf"((?:\b{name}\s*=\s*[\"'])|(?:<{name}\b[^<>]*(?<!/)>))([^\"'<>]*)([\"']|</{name}\s*>)")


def _scaled(value: str, factor: float) -> str:
    value = value.strip()
    return str(round(float(value) * factor)) if _NUMBER.fullmatch(value) and len(value) < 20 else value


def _without(text: str, start: str, end: str) -> str:
    first, last = text.find(start), text.rfind(end)
    return text[:first] + text[last + len(end) :] if 0 <= first < last else text


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
