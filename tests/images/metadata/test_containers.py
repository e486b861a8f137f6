"""Every container kept whole: pixels, channels, depth, pages and metadata, read back by other programs than ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from images.containers import (
    HEIGHT,
    WIDTH,
    Case,
    by_opencv,
    by_pillow,
    by_pypng,
    by_tifffile,
    frames,
    gray_profile,
    picture,
    profile,
    tiff_pages,
    with_metadata,
    with_opencv,
    with_pillow,
    with_pypng,
    with_tifffile,
)
from PIL import Image, IptcImagePlugin

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.budget.cost import CostReport
from scalewise.errors import InvalidRequest
from scalewise.execution.pages import enlarge_pages
from scalewise.execution.plan import RunOptions
from scalewise.pipeline import upscale

BICUBIC = zoo.bicubic()
KINDS = {1: "gray", 2: "graya", 3: "rgb", 4: "rgba"}
SMOOTH, COARSE = 0.02, 0.06  # lossy at quality 95; a palette of 256


def enlarged(path: Path, out: Path, **options: Any) -> CostReport:
    source = images.open(path)
    writer = images.create_pages(
        out, source, lambda size: (size[0] * 2, size[1] * 2), encoding=images.Encoding(**options)
    )
    return enlarge_pages(writer, BICUBIC, Budget.full(), RunOptions(tile=8), None)[1]


def cases() -> list[Case]:
    found = []

    def add(name: str, *rest: Any, **options: Any) -> None:
        found.append(Case(name, *rest, **options))

    for channels, kind in KINDS.items():
        for dtype in ("uint8", "uint16"):
            array = picture(channels, dtype)
            add(f"png {kind} {dtype}", ".png", by_pypng, [array], ".png", with_pypng)
            add(f"tiff {kind} {dtype}", ".tif", by_tifffile(), [array], ".tif", with_tifffile)
            add(f"png to tiff {kind} {dtype}", ".png", by_pypng, [array], ".tif", with_tifffile)
        floats = picture(channels, "float32")
        add(f"tiff {kind} float32", ".tif", by_tifffile(), [floats], ".tif", with_tifffile)
    for channels in (3, 4):
        array = picture(channels, "uint16")
        add(f"png of opencv {KINDS[channels]}", ".png", by_opencv, [array], ".png", with_opencv)
        add(f"tiff of opencv {KINDS[channels]}", ".tif", by_opencv, [array], ".tif", with_opencv)
    rgb, gray, rgba = picture(3), picture(1), picture(4)

    # kinds of TIFF
    for name, options in {
        "tiled": {"tile": (16, 16)},
        "bigtiff": {"bigtiff": True},
        "big endian": {"byteorder": ">"},
        "planar": {"planarconfig": "separate"},
        "strips": {"rowsperstrip": 3},
        "tiled bigtiff big endian": {"tile": (16, 16), "bigtiff": True, "byteorder": ">"},
    }.items():
        for dtype in ("uint8", "uint16"):
            add(f"tiff {name} {dtype}", ".tif", by_tifffile(**options), [picture(3, dtype)], ".tif", with_tifffile)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        add(f"{compression}", ".tif", by_pillow(compression=compression), [rgb], ".tif", with_tifffile)
    add("tiff of big endian float", ".tif", by_tifffile(byteorder=">"), [picture(1, "float32")], ".tif", with_tifffile)
    pages = [picture(3, seed=i) for i in range(3)]
    add("tiff pages", ".tif", tiff_pages, pages, ".tif", with_tifffile)
    mixed = [rgb, picture(1, "uint16")[:7], picture(1, "float32")[:, :5]]
    add("tiff pages of all kinds", ".tif", tiff_pages, mixed, ".tif", with_tifffile)
    add("tiff pages to png", ".tif", tiff_pages, pages, ".png", with_pypng, says="page or frame 1 of 3")

    # palettes, bits, one transparent colour
    flat = np.repeat(np.repeat(picture(3)[::4, ::5], 4, 0), 5, 1)
    add("png palette", ".png", by_pillow("P"), [flat], ".png", with_pypng, error=COARSE)
    add("png 1 bit", ".png", by_pillow("1", bits=1), [gray // 128 * 255], ".png", with_pypng, error=0.5)
    add("gif", ".gif", by_pillow(), [flat], ".gif", with_pillow, error=COARSE)
    add("gif to png", ".gif", by_pillow(), [flat], ".png", with_pypng, error=COARSE)

    # lossy
    add("jpeg gray", ".jpg", by_pillow(quality=100), [gray], ".jpg", with_opencv, error=SMOOTH)
    add("jpeg rgb", ".jpg", by_pillow(quality=100, subsampling=0), [rgb], ".jpg", with_opencv, error=SMOOTH)
    add(
        "jpeg rgb poor",
        ".jpg",
        by_pillow(quality=90),
        [rgb],
        ".jpg",
        with_opencv,
        error=COARSE,
        options={"quality": 60},
    )
    add("jpeg to png", ".jpg", by_pillow(quality=100, subsampling=0), [rgb], ".png", with_pypng, error=SMOOTH)
    add("png16 to jpeg", ".png", by_pypng, [picture(3, "uint16")], ".jpg", with_opencv,
        error=SMOOTH, dtype="uint8", says="uint16 was rounded to uint8")  # fmt: skip
    for channels in (3, 4):
        array, name = picture(channels), KINDS[channels]
        add(f"webp {name}", ".webp", by_pillow(lossless=True), [array], ".webp", with_pillow, error=SMOOTH)
        exact = {"lossless": True}
        add(f"webp lossless {name}", ".webp", by_pillow(lossless=True), [array], ".webp", with_pillow, options=exact)
        add(f"webp to png {name}", ".webp", by_pillow(lossless=True), [array], ".png", with_pypng)
        if ".avif" in images.WRITABLE:
            add(f"avif {name}", ".png", by_pypng, [array], ".avif", with_pillow, error=SMOOTH)
            add(f"avif lossless {name}", ".png", by_pypng, [array], ".avif", with_pillow, options=exact)
            add(f"avif in {name}", ".avif", by_pillow(quality=100), [array], ".png", with_pypng, error=COARSE)
    add("webp gray", ".png", by_pypng, [gray], ".webp", with_pillow, error=SMOOTH, channels=3)

    # animations
    for suffix, options in {".gif": {}, ".webp": {"lossless": True}}.items():
        for out in (".gif", ".webp", ".tif"):
            add(f"frames {suffix} to {out}", suffix, frames(suffix[1:], **options), [flat, flat[::-1], flat[:, ::-1]],
                out, with_tifffile if out == ".tif" else with_pillow, error=COARSE)  # fmt: skip
    add("tiff pages to gif", ".tif", tiff_pages, [flat, flat[::-1]], ".gif", with_pillow, error=COARSE)
    add("float to png", ".tif", by_tifffile(), [picture(3, "float32")], ".png", with_pypng,
        error=1e-4, dtype="uint16", says="float32 was rounded to uint16")  # fmt: skip
    add("rgba to gif", ".png", by_pypng, [rgba // 64 * 64 + 63], ".gif", with_pillow, error=0.6)
    return found


CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "-") for case in CASES])
def test_pixels_are_the_enlarged_ones(tmp_path: Path, case: Case) -> None:
    several = case.write is tiff_pages or "frames" in case.name
    path, out = tmp_path / f"in{case.suffix}", tmp_path / f"out{case.out}"
    case.write(path, case.pages if several else case.pages[0])  # type: ignore[arg-type]
    report = enlarged(path, out, **case.options)
    found = case.read(out)
    assert len(found) == (1 if "page or frame" in case.says else len(case.pages))
    assert case.says in " ".join(report.notes)
    for page, expected in zip(found, case.pages, strict=False):
        assert page.shape[:2] == (2 * expected.shape[0], 2 * expected.shape[1])
        assert page.dtype == (case.dtype or expected.dtype)
        if case.out not in (".gif", ".webp", ".avif") and "palette" not in case.name and "frames" not in case.name:
            assert page.shape[2] == (case.channels or expected.shape[2])
        page, expected = unit(page), unit(upscale(expected, 2, model=BICUBIC).image)
        channels = min(page.shape[2], expected.shape[2])
        error = np.abs(page[..., :channels] - expected[..., :channels])
        if case.error == 0 and case.suffix != ".gif":
            assert error.max() <= 1.01 / (255 if page.shape[2] and found[0].dtype == np.uint8 else 65535)
        assert error.mean() <= max(case.error, 1e-3)
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == [path.name, out.name]


def unit(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) / (np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1)


def test_the_matrix_is_large_enough() -> None:
    assert len(CASES) + len(FROM) * len(TO) >= 60


# Metadata: from each container that holds it to each.

FROM = (".png", ".jpg", ".webp", ".tif")
TO = tuple(suffix for suffix in (".png", ".jpg", ".webp", ".tif", ".avif") if suffix in images.WRITABLE)


def xmp_in(path: Path) -> str:
    with Image.open(path) as image:
        image.load()
        if path.suffix == ".tif":
            return bytes(image.tag_v2[700]).decode()  # type: ignore[attr-defined]
        found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    return found.decode() if isinstance(found, bytes) else str(found)


@pytest.mark.parametrize("out", TO)
@pytest.mark.parametrize("suffix", FROM)
def test_metadata_is_kept_and_mended(tmp_path: Path, suffix: str, out: str) -> None:
    path, result = with_metadata(tmp_path / f"in{suffix}"), tmp_path / f"out{out}"
    report = enlarged(path, result, note="made by a test")
    with Image.open(result) as image:
        image.load()
        assert image.info["icc_profile"] == profile()
        tags = image.getexif()
        assert tags[0x010F] == "Maker" and tags[0x0132] == "2020:01:02 03:04:05" and tags.get(0x0112, 1) == 1
        camera = tags.get_ifd(0x8769)
        assert camera[0x829A] == 0.01 and camera[0x927C] == b"private\0notes\1\2\3"
        assert (camera[0xA002], camera[0xA003]) == (2 * WIDTH, 2 * HEIGHT)
        assert tags.get_ifd(0x8825)[1] == "N"
        if suffix != ".webp" and out not in (".webp", ".avif"):  # these have no field for it
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        if suffix in (".jpg", ".tif") and out in (".jpg", ".tif"):
            assert IptcImagePlugin.getiptcinfo(image) == {(2, 5): b"hello"}
        if suffix == out == ".png":
            assert image.text["Title"] == "A tree" and image.text["Titel"] == "Bäume"  # type: ignore[attr-defined]
    xmp = xmp_in(result)
    for words in ("<dc:creator>Ümit<", 'tiff:ImageWidth="20"', 'tiff:Orientation="1"', "made by a test",
                  'FullPanoWidthPixels="20"', "LeftPixels>6<", 'ProjectionType="equirectangular"'):  # fmt: skip
        assert words in xmp
    assert ("IPTC" in " ".join(report.notes)) == (suffix in (".jpg", ".tif") and out not in (".jpg", ".tif"))
    gpano = images.open(result).gpano
    assert gpano is not None and gpano["FullPanoWidthPixels"] == "20" and gpano["CroppedAreaLeftPixels"] == "6"


@pytest.mark.parametrize("out", TO)
def test_strip_leaves_all_out(tmp_path: Path, out: str) -> None:
    path, result = with_metadata(tmp_path / "in.jpg"), tmp_path / f"out{out}"
    enlarged(path, result, note="made by a test", strip=True)
    content = result.read_bytes()
    for words in (b"Maker", b"hello", b"made by a test", b"xpacket", b"acsp", b"private"):
        assert words not in content
    metadata = images.open(result).metadata
    assert (metadata.exif, metadata.xmp, metadata.icc, metadata.iptc) == (None, None, None, None)


@pytest.mark.parametrize("out", [".png", ".tif", ".jpg"])
def test_gray_profiles_and_turned_pictures(tmp_path: Path, out: str) -> None:
    path, result = with_metadata(tmp_path / "in.jpg", orientation=6, channels=1), tmp_path / f"out{out}"
    enlarged(path, result)
    with Image.open(result) as image:
        assert image.mode == "L" and image.size == (2 * HEIGHT, 2 * WIDTH)
        assert image.info["icc_profile"] == gray_profile() and image.getexif().get(0x0112, 1) == 1
        camera = image.getexif().get_ifd(0x8769)
        assert (camera[0xA002], camera[0xA003]) == (2 * HEIGHT, 2 * WIDTH)


@pytest.mark.parametrize("out", [".png", ".tif", ".jpg"])
@pytest.mark.parametrize(("dpi", "expected"), [("keep", 300), ("scale", 600)])
def test_the_resolution_is_kept_or_scaled(tmp_path: Path, out: str, dpi: Any, expected: int) -> None:
    enlarged(with_metadata(tmp_path / "in.jpg"), tmp_path / f"out{out}", dpi=dpi)
    with Image.open(tmp_path / f"out{out}") as image:
        assert image.info["dpi"] == pytest.approx((expected, expected), abs=0.1)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
@pytest.mark.parametrize("out", [".gif", ".webp"])
def test_frames_keep_their_delays(tmp_path: Path, suffix: str, out: str) -> None:
    flat = np.repeat(np.repeat(picture(3)[::4, ::5], 4, 0), 5, 1)
    frames(suffix[1:])(tmp_path / f"in{suffix}", [flat, flat[::-1], 255 - flat])
    report = enlarged(tmp_path / f"in{suffix}", tmp_path / f"out{out}")
    delays = []
    with Image.open(tmp_path / f"out{out}") as image:
        for number in range(image.n_frames):  # pyright: ignore[reportAttributeAccessIssue]  # animations have it
            image.seek(number)
            image.load()
            delays.append(image.info["duration"])
        assert delays == [50, 120, 70]
        plays = 3 + (suffix == ".gif")  # GIF counts repetitions
        assert image.info["loop"] + (out == ".gif") == plays
    assert report.notes[0] == "3 pages or frames"


def test_a_tiled_tiff_stays_tiled_and_a_bigtiff_big(tmp_path: Path) -> None:
    by_tifffile(tile=(16, 16), bigtiff=True)(tmp_path / "in.tif", picture(3))
    enlarged(tmp_path / "in.tif", tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.is_bigtiff and file.pages[0].is_tiled  # type: ignore[union-attr]


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_is_converted_and_said(tmp_path: Path, suffix: str) -> None:
    inks = np.zeros((8, 24, 4), np.uint8)
    inks[:, 8:16, 1:3] = 255  # magenta and yellow: red
    inks[:, 16:, 3] = 255  # black
    Image.fromarray(inks, "CMYK").save(tmp_path / f"in{suffix}")
    report = enlarged(tmp_path / f"in{suffix}", tmp_path / "out.png")
    assert any("CMYK without a usable profile was converted to sRGB" in note for note in report.notes)
    page = with_pypng(tmp_path / "out.png")[0].astype(int)
    white, red, black = page[8, [8, 24, 40]]
    assert white.min() > 240 and red[0] > 180 and red[1:].max() < 80 and black.max() < 70
    with Image.open(tmp_path / "out.png") as image:
        assert image.info["icc_profile"][16:20] == b"RGB "


@pytest.mark.parametrize("bits", [10, 12])
def test_avif_of_10_and_12_bit(tmp_path: Path, bits: int) -> None:
    if ".avif" not in images.WRITABLE:
        pytest.skip("libvips cannot write .avif here")
    by_pypng(tmp_path / "in.png", picture(3, "uint16"))
    report = enlarged(tmp_path / "in.png", tmp_path / "12.avif", lossless=True)
    assert "uint16 was rounded to 12 bit, the most that avif holds" in report.notes
    first = images.open(tmp_path / "12.avif")
    assert first.depth == 12 and first.dtype == "uint16"
    expected = unit(upscale(picture(3, "uint16"), 2, model=BICUBIC).image)
    assert np.abs(first.read().permute(1, 2, 0).numpy() - expected).max() <= 0.51 / 4095
    white = images.save(tmp_path / "white.avif", np.full((4, 4, 3), 65535, np.uint16), quality=100)
    assert images.open(white).read().min() == 1, "white stays white"


def test_float_keeps_its_own_range_and_its_holes(tmp_path: Path) -> None:
    values = picture(3, "float32") * 12 - 3
    by_tifffile()(tmp_path / "in.tif", values)
    report = enlarged(tmp_path / "in.tif", tmp_path / "out.tif")
    (page,) = with_tifffile(tmp_path / "out.tif")
    assert page.dtype == np.float32 and page.min() >= values.min() and page.max() <= values.max()
    assert page.min() < -2.5 and page.max() > 8.5 and any("taken as 0 to 1" in note for note in report.notes)
    expected = upscale((values - values.min()) / (values.max() - values.min()), 2, model=BICUBIC).image
    assert np.abs(page - (expected * (values.max() - values.min()) + values.min())).max() < 1e-4
    values[4:6, 3:5] = np.nan
    values[0, 0] = np.inf
    by_tifffile()(tmp_path / "holes.tif", values)
    enlarged(tmp_path / "holes.tif", tmp_path / "out2.tif")
    (page,) = with_tifffile(tmp_path / "out2.tif")
    holes = np.zeros((24, 20), bool)
    holes[8:12, 6:10] = holes[:2, :2] = True
    assert np.array_equal(np.isnan(page).all(-1), holes) and np.isfinite(page[~holes]).all()


def test_float_saved_from_python_has_its_own_range_too(tmp_path: Path) -> None:
    values = picture(1, "float32") * 12 - 3
    values[0, 0] = np.nan
    by_tifffile()(tmp_path / "in.tif", values)
    enlarged(tmp_path / "in.tif", tmp_path / "a.tif")
    upscale(tmp_path / "in.tif", 2, model=BICUBIC).save(tmp_path / "b.tif")
    a, b = (with_tifffile(tmp_path / name)[0] for name in ("a.tif", "b.tif"))
    assert np.allclose(a, b, atol=1e-5, equal_nan=True) and np.isnan(b).sum() == 4


def test_many_pages_do_not_hold_their_files(tmp_path: Path) -> None:
    tiff_pages(tmp_path / "in.tif", [picture(1, seed=i)[:2, :3] for i in range(30)])
    writer = images.create_pages(tmp_path / "out.tif", images.open(tmp_path / "in.tif"), lambda size: size)
    alive = weakref.WeakSet()
    with writer:
        for page, sink in writer:
            alive.add(page)
            sink.write(0, 0, page.read())
            sink.finish()
            assert len(alive) <= 2
        writer.finish()
    assert len(with_tifffile(tmp_path / "out.tif")) == 30


def test_lossless_is_refused_where_there_is_none(tmp_path: Path) -> None:
    by_pypng(tmp_path / "in.png", picture(3))
    for suffix in (".jpg", ".gif"):
        with pytest.raises(InvalidRequest, match="no such mode"):
            enlarged(tmp_path / "in.png", tmp_path / f"out{suffix}", lossless=True)


def test_a_second_run_adds_to_the_note(tmp_path: Path) -> None:
    by_pypng(tmp_path / "in.png", picture(3))
    enlarged(tmp_path / "in.png", tmp_path / "a.png", note="first <&>")
    enlarged(tmp_path / "a.png", tmp_path / "b.jpg", note="second")
    assert "first &lt;&amp;&gt;; then second" in xmp_in(tmp_path / "b.jpg")
    assert xmp_in(tmp_path / "b.jpg").count('scalewise:note="') == 1


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="no exiftool here")
@pytest.mark.parametrize("out", TO)
def test_exiftool_finds_nothing_wrong(tmp_path: Path, out: str) -> None:
    enlarged(with_metadata(tmp_path / "in.jpg"), tmp_path / f"out{out}", note="made by a test")
    command = ["exiftool", "-json", "-warning", "-error", "-validate", str(tmp_path / f"out{out}")]
    (found,) = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    assert "Error" not in found
