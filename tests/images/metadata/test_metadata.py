"""EXIF, XMP and IPTC as blocks: what is updated, what stays, and that hostile ones end quietly."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scalewise.images.metadata import exif as exif_block
from scalewise.images.metadata import xmp as xmp_block
from scalewise.images.metadata.containers import into_jpeg
from scalewise.images.metadata.ifd import DamagedDirectory, Entry, Layout, directory, directory_bytes, integers
from scalewise.images.metadata.metadata import Metadata, iptc_records, photoshop_block
from scalewise.images.metadata.xmp import Change


def camera(order: str = "<") -> bytes:
    tags = Image.Exif()
    tags.endian = order
    tags[0x010F], tags[0x0112] = "Maker", 6
    inside = tags.get_ifd(0x8769)
    inside[0xA002], inside[0xA003], inside[0x9214], inside[0x829A] = 40, 30, (20, 10), 0.25
    return tags.tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_survives_reading_and_writing(order: str) -> None:
    again = Image.Exif()
    again.load(exif_block.to_bytes(exif_block.parse(camera(order))))
    assert again[0x010F] == "Maker" and again.get_ifd(0x8769)[0x829A] == 0.25


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("turned", "area"), [(False, (60, 20)), (True, (87, 40))])
def test_sizes_and_places_follow_the_picture(order: str, turned: bool, area: tuple[int, int] | None) -> None:
    metadata = Metadata(exif=camera(order), dpi=(72.0, 72.0), orientation=6 if turned else 1)
    updated, notes = metadata.updated((30, 40), (60, 120))
    tags = Image.Exif()
    tags.load(updated.exif or b"")
    inside = tags.get_ifd(0x8769)
    assert (inside[0xA002], inside[0xA003], inside.get(0x9214)) == (120, 60, area) and tags[0x0112] == 1
    assert notes == ()


def test_the_byte_order_can_change() -> None:
    exif = exif_block.parse(camera(">"))
    swapped = exif_block.in_order(exif, Layout("<"))
    assert integers(swapped.exif[0xA002], swapped.layout) == (40,)
    again = Image.Exif()
    again.load(exif_block.to_bytes(swapped))
    assert again.get_ifd(0x8769)[0x829A] == 0.25


@given(st.binary(max_size=300))
def test_any_bytes_are_exif_or_not(content: bytes) -> None:
    for block in (content, b"Exif\0\0II*\0\x08\0\0\0" + content, b"MM\0*\0\0\0\x08" + content):
        updated, notes = Metadata(exif=block).updated((3, 4), (6, 8))
        assert (updated.exif is None) == bool(notes)
        assert iptc_records(content) is None or isinstance(iptc_records(content), bytes)


@given(st.dictionaries(st.integers(1, 65535), st.binary(min_size=1, max_size=20), max_size=8), st.booleans())
def test_directories_survive_packing(tags: dict[int, bytes], big: bool) -> None:
    layout = Layout(">", big)
    ifd = {tag: Entry(7, len(data), data) for tag, data in tags.items()}
    content = b"\0" * 16 + directory_bytes(ifd, layout, 16, following=99)
    assert directory(lambda offset, count: content[offset : offset + count], layout, 16) == (ifd, 99)


def test_a_directory_that_claims_too_much_is_refused() -> None:
    content = struct.pack("<H", 60000) + b"\0" * 100
    with pytest.raises(DamagedDirectory):
        directory(lambda offset, count: content[offset : offset + count], Layout("<"), 0)


@pytest.mark.parametrize(
    "xmp",
    [
        b"<x:xmpmeta>" + b"<xmp:Thumbnails>" * 50_000 + b"</rdf:RDF>",
        b"GPano:Full=" * 50_000 + b"</rdf:RDF>",
        b'<rdf:Description rdf:about="" xmlns:scalewise="urn:scalewise:note:1" ' * 20_000 + b"</rdf:RDF>",
        b"<tiff:ImageWidth " * 50_000 + b"</rdf:RDF>",
        b"tiff:ImageWidth" + b" " * 500_000 + b"</rdf:RDF>",
    ],
    ids=["thumbnails", "panorama", "notes", "elements", "spaces"],
)
def test_hostile_xmp_is_read_in_linear_time(xmp: bytes) -> None:
    assert xmp_block.updated(xmp, Change((3, 4), (6, 8), dpi=(72, 72)), "note")[0] is not None
    xmp_block.gpano(xmp)


def test_xmp_that_is_not_text_stays() -> None:
    for xmp in (b"\xff\xfe<\0x\0", b"no rdf here"):
        assert xmp_block.updated(xmp, Change((3, 4), (6, 8)), "n") == (xmp, []) and xmp_block.gpano(xmp) is None
    assert xmp_block.updated(None, Change((3, 4), (6, 8))) == (None, [])


def test_xmp_properties_in_both_ways_of_writing_and_no_thumbnail() -> None:
    xmp = (
        "<rdf:RDF><rdf:Description rdf:about='uuid:1' tiff:ImageWidth='40'>"
        "<exif:PixelYDimension>30</exif:PixelYDimension><xmp:Thumbnails><rdf:Alt>AAAA</rdf:Alt></xmp:Thumbnails>"
        "<dc:title>a &amp; b</dc:title></rdf:Description></rdf:RDF>"
    )
    updated = (xmp_block.updated(xmp.encode(), Change((30, 40), (60, 80)), '"x" & y')[0] or b"").decode()
    assert "tiff:ImageWidth='80'" in updated and ">60</exif:PixelYDimension>" in updated and "a &amp; b" in updated
    assert "AAAA" not in updated and 'rdf:about="uuid:1" xmlns:scalewise' in updated
    assert xmp_block.note_of(updated.encode()) == '"x" & y'


def test_iptc_is_found_in_its_block() -> None:
    records = b"\x1c\x02\x05\x00\x05hello"
    block = (
        b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\0\x02ab" + photoshop_block(records).removeprefix(b"Photoshop 3.0\0")
    )
    assert iptc_records(block) == records == iptc_records(records) and iptc_records(b"Photoshop 3.0\x008BIM") is None


def test_what_is_too_long_for_a_jpeg_is_said() -> None:

    metadata = Metadata(xmp=b"x" * 70_000, iptc=b"\x1c" * 70_000)
    out = io.BytesIO()
    left_out = into_jpeg(io.BytesIO(b"\xff\xd8\xff\xd9"), out, metadata)
    assert len(left_out) == 2 and "XMP" in left_out[0] and out.getvalue().endswith(b"\xff\xd9")
    notes = exif_block.parse(camera())
    long = exif_block.Exif(notes.layout, notes.main, notes.exif | {0x927C: Entry(7, 70_000, b"m" * 70_000)})
    out = io.BytesIO()
    assert into_jpeg(io.BytesIO(b"\xff\xd8\xff\xd9"), out, Metadata(exif=exif_block.to_bytes(long))) == []
    assert b"Maker" in out.getvalue(), "a long maker note alone is left out"
