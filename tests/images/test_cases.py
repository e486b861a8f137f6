"""Nothing of a file is lost or changed without a word: metadata, units, notes, damage.

Each of `data/` was made by hand to repeat the situation of a public report; it stands for a kind.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from images import containers
from images.cases import BICUBIC, DATA, enlarged, pixels, said
from PIL import Image, ImageCms

from scalewise import images
from scalewise.errors import UnreadableImage
from scalewise.images.metadata import colour
from scalewise.images.metadata import xmp as xmp_block
from scalewise.images.metadata.xmp import Change
from scalewise.pipeline import upscale


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


# Metadata that speaks of the old picture.


def test_a_gain_map_and_a_video_are_left_out_and_said(tmp_path: Path) -> None:
    for name, words in (("ultrahdr", ("MPF", "gain map", "834 bytes")), ("motion", ("video", "524 bytes"))):
        report = enlarged(DATA / f"{name}.jpg", tmp_path / f"{name}.jpg")
        content = (tmp_path / f"{name}.jpg").read_bytes()
        assert said(report, *words)
        assert sum("video (motion photo)" in note for note in report.notes) == (name == "motion")
        assert not any(word in content for word in (b"hdrgm:", b"Container:Directory", b"MicroVideoOffset", b"MPF\0"))


def test_places_are_turned_and_scaled(tmp_path: Path) -> None:
    report = enlarged(DATA / "face6.jpg", tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as picture:
        # 80 rows, so that y 20 is 59 from the right, and twice that
        assert picture.getexif().get_ifd(0x8769)[0x9214] == (118, 48, 18, 26)
        assert b"RegionInfo" not in picture.info["xmp"].split(b"xmlns:MPReg")[1].split(b">", 1)[1]
        assert b"<mwg-rs:Regions" not in picture.info["xmp"]
    assert said(report, "regions (faces, areas)")


def test_a_world_file_that_is_not_carried_is_said(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jgw").write_text("10\n0\n0\n-10\n500005\n4499995\n")
    assert said(enlarged(tmp_path / "a.jpg", tmp_path / "b.jpg"), "georeference next to it (.jgw)")


def lens(**fields: str) -> bytes:
    written = " ".join(f'{name.replace("_", ":")}="{value}"' for name, value in fields.items())
    spaces = 'xmlns:drone-dji="http://www.dji.com/drone-dji/1.0/" xmlns:stDim="x" xmlns:mwg-rs="y"'
    return f'<rdf:RDF><rdf:Description rdf:about="" {spaces} {written}/></rdf:RDF>'.encode()


def test_the_calibration_of_a_lens_follows_the_pixels() -> None:
    xmp = lens(**{"drone-dji_CalibratedFocalLength": "3666.5", "drone-dji_CalibratedOpticalCenterX": "2736"})
    same, notes = xmp_block.updated(xmp, Change((40, 60), (80, 120)))
    assert same is not None and b'FocalLength="7333"' in same and b'CenterX="5472"' in same and notes == []
    gone, notes = xmp_block.updated(xmp, Change((40, 60), (80, 120), cropped=True))
    assert gone is not None and b"Calibrated" not in gone and "calibration of the lens" in notes[0]


def test_regions_stay_if_the_picture_is_only_larger() -> None:
    xmp = (
        b"<rdf:RDF><mwg-rs:Regions rdf:parseType='Resource'><mwg-rs:AppliedToDimensions stDim:w='60' stDim:h='40'/>"
        b"<stArea:x>0.25</stArea:x></mwg-rs:Regions></rdf:RDF>"
    )
    larger, notes = xmp_block.updated(xmp, Change((40, 60), (80, 120)))
    assert larger is not None and b"stDim:w='120' stDim:h='80'" in larger and b"0.25" in larger and notes == []
    pixel = xmp.replace(b"<stArea:x>", b"<stArea:unit>pixel</stArea:unit><stArea:x>")
    gone, notes = xmp_block.updated(pixel, Change((40, 60), (80, 120)))
    assert gone == b"<rdf:RDF></rdf:RDF>" and "regions" in notes[0]


def test_the_field_of_view_stays(tmp_path: Path) -> None:
    enlarged(DATA / "focalplane.jpg", tmp_path / "b.jpg")
    with Image.open(DATA / "focalplane.jpg") as old, Image.open(tmp_path / "b.jpg") as new:
        before, after = (picture.getexif().get_ifd(0x8769) for picture in (old, new))
        assert old.size[0] / before[0xA20E] == pytest.approx(new.size[0] / after[0xA20E])
        assert old.size[1] / before[0xA20F] == pytest.approx(new.size[1] / after[0xA20F])


def test_after_a_crop_no_place_is_claimed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9214] = (20, 10)
    Image.new("RGB", (40, 30), (90, 80, 70)).save(tmp_path / "a.jpg", exif=exif)
    result = upscale(tmp_path / "a.jpg", 2, model=BICUBIC, crop=(5, 5, 25, 35))
    result.save(tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as picture:
        assert 0x9214 not in picture.getexif().get_ifd(0x8769)
    assert said(result.report, "place of its subject")


def test_raw_profile_texts_are_read(tmp_path: Path) -> None:
    source = images.open(DATA / "darktable.png")
    assert source.size == (60, 40) and source.metadata.orientation == 6, "upright"
    assert source.metadata.exif is not None and source.metadata.iptc is not None
    enlarged(DATA / "darktable.png", tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as picture:
        assert picture.getexif().get(0x0112, 1) == 1 and len(picture.getexif()) > 0
    report = enlarged(DATA / "darktable.png", tmp_path / "b.png")
    assert said(report, "IPTC has no place in a png")
    assert b"Raw profile" not in (tmp_path / "b.png").read_bytes()


# Units.


@pytest.mark.parametrize(("dpi", "expected"), [("keep", (13, 2)), ("scale", (13, 1))])
def test_a_resolution_without_a_unit_stays_so(tmp_path: Path, dpi: str, expected: tuple[int, int]) -> None:
    enlarged(DATA / "imagej.tif", tmp_path / "b.tif", dpi=dpi)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert len(file.pages) == 3
        for page in file.pages:
            assert page.tags[282].value == page.tags[283].value == expected  # type: ignore[union-attr]
            assert page.tags[296].value == 1  # type: ignore[union-attr]


def test_the_shape_of_a_pixel_stays(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    chunk = png_chunk(b"pHYs", struct.pack(">IIB", 4, 3, 0))
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
    enlarged(tmp_path / "a.png", tmp_path / "b.png")
    assert images.open(tmp_path / "b.png").metadata.density == (4, 3)
    enlarged(tmp_path / "a.png", tmp_path / "b.jpg")
    assert images.open(tmp_path / "b.jpg").metadata.density == (4, 3)


def test_10_pixels_per_centimetre_are_known(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((6, 8), np.uint8), resolution=(10, 10), resolutionunit="centimeter", metadata=None
    )
    for suffix in (".tif", ".png", ".jpg", ".webp"):
        enlarged(tmp_path / "a.tif", tmp_path / f"b{suffix}")
        assert images.open(tmp_path / f"b{suffix}").metadata.dpi == pytest.approx((25.4, 25.4), rel=0.02)


# One summary line that is complete.


@pytest.mark.parametrize("out", [".jpg", ".webp", ".tif"])
def test_gamma_and_primaries_go_into_a_profile(tmp_path: Path, out: str) -> None:
    enlarged(DATA / "adobe_gama_chrm.png", tmp_path / f"b{out}")
    with Image.open(tmp_path / f"b{out}") as picture:
        profile: Any = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"])).profile
        made = np.array(profile.red_primary[1][:2])
    assert np.abs(made - (0.648, 0.331)).max() < 0.01, "Adobe RGB's red, adapted to D50"


def test_strip_converts_colours_that_chunks_name(tmp_path: Path) -> None:
    enlarged(DATA / "adobe_gama_chrm.png", tmp_path / "a.png", strip=True)
    enlarged(DATA / "adobe_gama_chrm.png", tmp_path / "b.png")
    content = (tmp_path / "a.png").read_bytes()
    assert b"gAMA" not in content and b"cHRM" not in content
    assert np.abs(pixels(tmp_path / "a.png") - pixels(tmp_path / "b.png")).max() > 0.05


def test_code_points_of_display_p3_become_a_profile() -> None:
    blob, hdr = colour.of_code_points(12, 13)
    assert blob is not None and not hdr
    profile: Any = ImageCms.ImageCmsProfile(io.BytesIO(blob)).profile
    assert profile.xcolor_space.strip() == "RGB" and profile.red_primary[1][:2] == pytest.approx((0.68, 0.32), abs=0.01)
    assert colour.of_code_points(1, 13) == (None, False) and colour.of_code_points(9, 16) == (None, True)


@pytest.mark.parametrize(("transfer", "hdr"), [(16, True), (18, True), (13, False)])
def test_hdr_of_a_png_is_kept_in_a_png_and_said_to_be_lost_elsewhere(tmp_path: Path, transfer: int, hdr: bool) -> None:
    words = png_chunk(b"cICP", bytes([9, transfer, 0, 1]))
    plain = images.to_bytes("png", np.full((8, 8, 3), 90, np.uint8))
    (tmp_path / "a.png").write_bytes(plain[:33] + words + plain[33:])
    assert not said(enlarged(tmp_path / "a.png", tmp_path / "b.png"), "HDR")
    assert words in (tmp_path / "b.png").read_bytes()
    for name, strip in (("c.jpg", False), ("c.tif", False), ("c.avif", False), ("c.gif", False), ("d.png", True)):
        assert said(enlarged(tmp_path / "a.png", tmp_path / name, strip=strip), "HDR", "will look flat") == hdr, name
        assert words not in (tmp_path / name).read_bytes()
    profile = png_chunk(b"iCCP", b"p\0\0" + zlib.compress(containers.profile()))  # is carried, and says them too
    (tmp_path / "e.png").write_bytes(plain[:33] + words + profile + plain[33:])
    assert not said(enlarged(tmp_path / "e.png", tmp_path / "e.jpg"), "HDR")


def test_prompts_comments_and_resolutions(tmp_path: Path) -> None:
    assert said(enlarged(DATA / "sd.png", tmp_path / "a.jpg"), "texts of the PNG (parameters, workflow) have no place")
    report = enlarged(DATA / "sd.png", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert "Seed: 42" in picture.text["parameters"] and report.notes == ()  # type: ignore[attr-defined]
    assert said(enlarged(DATA / "comment.jpg", tmp_path / "c.webp"), "a comment has no place in a webp")
    enlarged(DATA / "comment.jpg", tmp_path / "c.jpg")
    enlarged(DATA / "comment.jpg", tmp_path / "c.png")
    with Image.open(tmp_path / "c.jpg") as jpeg, Image.open(tmp_path / "c.png") as png:
        assert b"a cat, seed 42" in jpeg.info["comment"] and "a cat, seed 42" in png.info["Comment"]
    enlarged(DATA / "dpi_only.png", tmp_path / "d.webp")
    with Image.open(tmp_path / "d.webp") as picture:
        assert float(picture.getexif()[0x011A]) == pytest.approx(300, abs=0.1)
    assert said(enlarged(DATA / "dpi_only.png", tmp_path / "d.gif"), "the resolution has no place in a gif")


@pytest.mark.parametrize("out", [".webp", ".avif", ".gif"])
def test_a_gray_profile_is_converted_where_it_has_no_place(tmp_path: Path, out: str) -> None:
    how = {} if out == ".gif" else {"quality": 100}
    report = enlarged(DATA / "gray_linear_profile.png", tmp_path / f"b{out}", **how)
    assert said(report, "converted to sRGB")
    linear = pixels(DATA / "gray_linear_profile.png")
    expected = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(pixels(tmp_path / f"b{out}")[::2, ::2] - expected).mean() < 0.06


def test_a_page_of_several_is_named_in_python() -> None:
    assert "page or frame 1 of 3" in upscale(DATA / "imagej.tif", 2, model=BICUBIC).report.notes


def test_what_a_file_cannot_hold_is_in_the_report_of_python(tmp_path: Path) -> None:
    result = upscale(DATA / "sd.png", 2, model=BICUBIC)
    result.save(tmp_path / "a.jpg")
    assert said(result.report, "texts of the PNG")


# Damage in the middle, and promises.


def test_a_jpeg_that_is_damaged_in_its_middle_is_refused() -> None:
    with pytest.raises(UnreadableImage, match=r"damaged.*Corrupt JPEG"):
        images.open(DATA / "zeros_in_middle.jpg").read()


def test_a_jpeg_with_something_before_its_end_passes(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 40 * 50 * 3).reshape(40, 50, 3).astype(np.uint8)
    whole = io.BytesIO()
    Image.fromarray(smooth).save(whole, "jpeg")
    (tmp_path / "a.jpg").write_bytes(whole.getvalue())
    (tmp_path / "b.jpg").write_bytes(whole.getvalue()[:-2] + b"\x55" * 58 + b"\xff\xd9")
    assert np.array_equal(pixels(tmp_path / "a.jpg"), pixels(tmp_path / "b.jpg"))


def test_a_small_jpeg_that_claims_millions_of_pixels_is_refused(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.jpg")
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    at = content.find(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", 23000, 23000)
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UnreadableImage, match="too short for the pixels of its header"):
        images.open(tmp_path / "a.jpg")


def test_what_no_frame_covers_is_transparent(tmp_path: Path) -> None:
    source = images.open(DATA / "partial_first.gif")
    alpha = source.read_alpha()
    assert alpha is not None and alpha.min() == 0 and alpha.max() == 1
    enlarged(DATA / "partial_first.gif", tmp_path / "b.gif")
    with Image.open(tmp_path / "b.gif") as picture:
        first = np.asarray(picture.convert("RGBA"))
    assert (first[..., 3] == 0).any() and (first[..., 3] == 255).any()


@pytest.mark.parametrize("hole", [False, True])
def test_an_animation_has_opacity_only_where_something_shows_through(tmp_path: Path, hole: bool) -> None:
    """A transparent colour that only keeps what a frame does not change is none: such a GIF can become a JPEG."""
    frames = []
    for step in range(4):
        frame = np.full((40, 60, 4), (200, 100, 50, 255), np.uint8)
        frame[5:15, 5 + 8 * step : 15 + 8 * step, :3] = 0, 0, 255
        frame[30:, :9, 3] = 0 if hole else 255
        frames.append(Image.fromarray(frame))
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    enlarged(tmp_path / "a.gif", tmp_path / "b.gif")
    for path in (tmp_path / "a.gif", tmp_path / "b.gif"):
        opened = [images.open(path), images.open(path, page=2), images.open(path).at(3)]
        assert [one.alpha for one in opened] == [hole] * 3, path
        with Image.open(path) as picture:
            picture.seek(3)
            expected = np.asarray(picture.convert("RGB"))[: opened[2].size[0] // 2]
        shown = opened[2].read().numpy().transpose(1, 2, 0)[: len(expected)]
        assert np.abs(shown * 255 - expected).max() < 1e-3
    if not hole:
        enlarged(tmp_path / "b.gif", tmp_path / "c.jpg")


@pytest.mark.parametrize("out", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("kind", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("profile", ["cut", "gray", "L*a*b*"])
def test_a_profile_that_is_none_for_the_picture_is_said(tmp_path: Path, kind: str, out: str, profile: str) -> None:
    content = containers.profile()
    if profile == "cut":
        content = content[:200]
    else:
        content = content[:16] + (b"GRAY" if profile == "gray" else b"Lab ") + content[20:]
    path = tmp_path / f"a{kind}"
    Image.fromarray(np.full((6, 9, 3), 90, np.uint8)).save(path, icc_profile=content)
    result = upscale(path, 2, model=BICUBIC)
    saved = result.save(tmp_path / f"b{out}")
    assert sum("its colour profile is damaged or for other channels" in note for note in result.report.notes) == 1
    assert "icc_profile" not in Image.open(saved).info
