"""Files that reports of users describe: nothing of a file is lost or changed without a word.

Each of `data/` was made by hand to repeat the situation of a public report; it stands for a kind.
"""

from __future__ import annotations

import io
import shutil
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image, ImageCms

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.budget.cost import CostReport
from scalewise.errors import UnreadableImage, UnwritableOutput
from scalewise.execution.pages import enlarge_pages
from scalewise.execution.plan import RunOptions
from scalewise.images.metadata import colour
from scalewise.pipeline import upscale

DATA = Path(__file__).parent / "data"
BICUBIC = zoo.bicubic()


def enlarged(source: Path, out: Path, **how: object) -> CostReport:
    """The file by 2, as the command line writes it; the report says what was left out."""
    writer = images.create_pages(
        out,
        images.open(source),
        lambda size: (2 * size[0], 2 * size[1]),
        encoding=images.Encoding(**how),  # type: ignore[arg-type]
    )
    return enlarge_pages(writer, BICUBIC, Budget.full(), RunOptions(dtype="fp32"))[1]


def said(report: CostReport, *words: str) -> bool:
    return all(any(word in note for note in report.notes) for word in words)


def pixels(path: Path) -> np.ndarray:
    """In [0, 1]: (h, w, 3)."""
    return images.open(path).read().permute(1, 2, 0).numpy()


# What a TIFF is.


def raw_tiff(path: Path, photometric: int = 32803) -> None:
    """A thumbnail, and in a sub-directory what a sensor saw."""
    with tifffile.TiffWriter(path) as file:
        thumbnail = np.zeros((9, 12, 3), np.uint8)
        model = [(271, "s", 0, "NIKON", True), (272, "s", 0, "D7100", True)]
        file.write(thumbnail, photometric="rgb", subfiletype=1, subifds=1, extratags=model, metadata=None)
        sensor = np.zeros((40, 60) if photometric == 32803 else (40, 60, 3), np.uint16)
        file.write(sensor, photometric=photometric, subfiletype=0, metadata=None)


@pytest.mark.parametrize("photometric", [32803, 34892])
def test_a_raw_file_is_refused_by_name(tmp_path: Path, photometric: int) -> None:
    raw_tiff(tmp_path / "a.nef", photometric)
    with pytest.raises(UnreadableImage, match=r"camera raw file \(NIKON D7100\): develop it first"):
        images.open(tmp_path / "a.nef")


@pytest.mark.parametrize(
    "start", [b"IIRO\x08\0\0\0", b"IIU\0\x18\0\0\0", b"FUJIFILMCCD-RAW 0201", b"\0\0\0\x18ftypcrx "]
)
def test_raw_files_that_are_no_tiffs_are_named_too(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "a.raw").write_bytes(start + bytes(100))
    with pytest.raises(UnreadableImage, match="camera raw file"):
        images.open(tmp_path / "a.raw")


def test_reduced_copies_and_masks_are_no_pages(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(np.full((6, 8, 3), 90, np.uint8), photometric="rgb", subfiletype=1, metadata=None)
        file.write(np.full((12, 16, 3), 90, np.uint8), photometric="rgb", metadata=None)
        file.write(np.ones((12, 16), bool), photometric="mask", subfiletype=4, metadata=None)
        file.write(np.full((10, 14, 3), 200, np.uint8), photometric="rgb", metadata=None)
    source = images.open(tmp_path / "a.tif")
    assert source.pages == 2 and source.size == (12, 16) and source.at(1).size == (10, 14)
    report = enlarged(tmp_path / "a.tif", tmp_path / "b.tif")
    with tifffile.TiffFile(tmp_path / "b.tif") as written:
        assert [page.shape for page in written.pages] == [(24, 32, 3), (20, 28, 3)]
    assert said(report, "1 of its 4 pages are reduced copies", "1 of its 4 pages are masks")


def test_samples_beyond_the_colours_are_data(tmp_path: Path) -> None:
    infrared = np.random.default_rng(0).integers(0, 256, (16, 20, 4)).astype(np.uint8)
    infrared[4:8, 4:8, 3] = 0
    tifffile.imwrite(tmp_path / "a.tif", infrared, photometric="rgb", extrasamples=["unspecified"], metadata=None)
    report = enlarged(tmp_path / "a.tif", tmp_path / "b.tif")
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.pages[0].tags[338].value == (0,)  # type: ignore[union-attr]
        written = file.asarray()
    expected = upscale(infrared[..., :3].copy(), 2, model=BICUBIC).image
    assert np.array_equal(written[..., :3], expected) and said(report, "beyond colours are data")
    assert said(enlarged(tmp_path / "a.tif", tmp_path / "b.png"), "all bands but 1, 2, 3 have no place in a png")


def test_ycbcr_is_what_opencv_shows() -> None:
    shown = cv2.imread(str(DATA / "ycc.tif"))
    assert shown is not None
    assert np.abs(pixels(DATA / "ycc.tif") * 255 - shown[..., ::-1]).max() <= 1.5


def test_ycbcr_of_less_colour_is_refused_for_the_true_reason(tmp_path: Path) -> None:
    content = bytearray((DATA / "ycc.tif").read_bytes())
    at = content.find(struct.pack("<HHI", 530, 3, 2))
    content[at + 8 : at + 12] = struct.pack("<HH", 2, 2)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(UnreadableImage, match="YCbCr pixels with colour at a lower resolution"):
        images.open(tmp_path / "a.tif")


def test_lab_of_8_bit_is_converted(tmp_path: Path) -> None:
    with Image.open(DATA / "pillow_lab8.tif") as picture:
        lab = np.asarray(picture) ^ np.array([0, 128, 128], np.uint8)
    to_rgb = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    shown = np.asarray(ImageCms.applyTransform(Image.open(DATA / "pillow_lab8.tif"), to_rgb)).astype(float)
    got = pixels(DATA / "pillow_lab8.tif") * 255
    inside = (shown > 2).all(-1) & (shown < 253).all(-1)  # what lies beyond sRGB is cut off in two ways
    assert np.abs(got - shown)[inside].mean() < 2
    # ICCLAB holds the same numbers, with a* and b* from 0 on
    tifffile.imwrite(tmp_path / "a.tif", lab, photometric=9, metadata=None)
    assert np.abs(pixels(tmp_path / "a.tif") * 255 - got).max() <= 1
    assert said(enlarged(tmp_path / "a.tif", tmp_path / "b.tif"), "L*a*b* was converted to sRGB")


@pytest.mark.parametrize(("photometric", "name"), [(10, "ITU"), (32845, "LogLuv")])
def test_strange_colours_are_named(tmp_path: Path, photometric: int, name: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 5, 3), np.uint8), photometric="rgb", metadata=None)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    at = content.find(struct.pack("<HHI", 262, 3, 1))
    content[at + 8 : at + 10] = struct.pack("<H", photometric)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(UnreadableImage, match=name):
        images.open(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", ["ZSTD", "LZMA", "LERC"])
def test_a_compression_that_is_not_read_is_named(tmp_path: Path, compression: str) -> None:
    profile = {"driver": "GTiff", "width": 64, "height": 64, "count": 1, "dtype": "uint8", "compress": compression}
    with rasterio.open(tmp_path / "a.tif", "w", **profile) as out:
        out.write(np.zeros((1, 64, 64), np.uint8))
    with pytest.raises(UnreadableImage, match=f"compressed by {compression}"):
        images.open(tmp_path / "a.tif")


def test_float_of_which_white_is_0_looks_the_same(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(48, 64)
    tifffile.imwrite(tmp_path / "a.tif", ramp, photometric="miniswhite", metadata=None)
    assert np.allclose(pixels(tmp_path / "a.tif")[..., 0], 1 - ramp, atol=1e-6)
    assert said(enlarged(tmp_path / "a.tif", tmp_path / "b.tif"), "MinIsWhite")
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.pages[0].photometric == 1  # type: ignore[union-attr]
        assert abs(file.asarray()[0, 0] - 1) < 0.01


def test_gray_of_which_white_is_0_looks_the_same_on_earth(tmp_path: Path) -> None:
    stored = tifffile.imread(DATA / "miniswhite8.tif")
    assert np.allclose(pixels(DATA / "miniswhite8.tif")[..., 0] * 255, 255 - stored, atol=0.01)
    enlarged(DATA / "miniswhite8.tif", tmp_path / "b.tif")
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert file.pages[0].photometric == 0  # type: ignore[union-attr]
        assert np.abs(file.asarray()[::2, ::2].astype(int) - stored).mean() < 8
    enlarged(DATA / "miniswhite8.tif", tmp_path / "b.png")
    assert np.abs(pixels(tmp_path / "b.png")[::2, ::2, 0] * 255 - (255.0 - stored)).mean() < 8


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("photometric", ["MINISBLACK", "MINISWHITE"])
@pytest.mark.parametrize("located", [False, True])
def test_gray_of_few_bits(tmp_path: Path, bits: int, photometric: str, located: bool) -> None:
    values = np.repeat(np.repeat(np.arange(64).reshape(8, 8) % 2**bits, 4, 0), 4, 1).astype(np.uint8)
    profile = {"driver": "GTiff", "width": 32, "height": 32, "count": 1, "dtype": "uint8", "nbits": bits}
    profile |= {"transform": rasterio.transform.from_origin(5e5, 4.5e6, 10, 10), "crs": "EPSG:32633"} if located else {}
    with rasterio.open(tmp_path / "a.tif", "w", photometric=photometric, **profile) as out:
        out.write(values, 1)
    share = values / (2**bits - 1)
    expected = 1 - share if photometric == "MINISWHITE" else share
    assert np.allclose(pixels(tmp_path / "a.tif")[..., 0], expected, atol=1e-6)
    enlarged(tmp_path / "a.tif", tmp_path / "b.tif")
    assert images.open(tmp_path / "b.tif").bands is not None or not located
    assert np.abs(pixels(tmp_path / "b.tif")[1::8, 1::8, 0] - expected[::4, ::4]).max() < 0.3


# The GDAL road carries a picture.


def test_orientation_profile_and_kinds_of_samples_go_through_gdal(tmp_path: Path) -> None:
    enlarged(DATA / "photoshop5.tif", tmp_path / "b.tif")
    stored = tifffile.imread(DATA / "photoshop5.tif")
    with tifffile.TiffFile(DATA / "photoshop5.tif") as old, tifffile.TiffFile(tmp_path / "b.tif") as new:
        before, after = old.pages[0].tags, new.pages[0].tags  # type: ignore[union-attr]
        for tag in (34675, 338, 315, 33432, 305, 282, 296):  # profile, samples, artist, copyright, program, resolution
            assert after[tag].value == before[tag].value
        assert after.get(274) is None or after[274].value == 1
        assert new.pages[0].planarconfig in (1, 2)  # type: ignore[union-attr]
    with rasterio.open(tmp_path / "b.tif") as out:
        written = out.read()
    upright = np.rot90(stored, -1).transpose(2, 0, 1)  # orientation 6: a quarter to the right
    assert written.shape == (5, 128, 96)
    assert np.abs(written[:, ::2, ::2].astype(int) - upright).mean() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_gdal_turns_as_pillow_does(tmp_path: Path, orientation: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, (6, 9, 5)).astype(np.uint8)
    turned = [(274, "H", 1, orientation, True)]
    kinds = ["unspecified", "unspecified"]
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=kinds, extratags=turned, metadata=None)
    Image.fromarray(values[..., :3]).save(tmp_path / "a.png", exif=_orientation(orientation))
    assert np.allclose(pixels(tmp_path / "a.tif"), pixels(tmp_path / "a.png"), atol=1e-6)
    box = (1, 2, 4, 5)
    whole = images.open(tmp_path / "a.tif").read()
    assert np.array_equal(images.open(tmp_path / "a.tif").read(box).numpy(), whole[:, 1:4, 2:5].numpy())


def _orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def test_profile_and_xmp_of_a_map_are_kept(tmp_path: Path) -> None:
    enlarged(DATA / "ortho_icc.tif", tmp_path / "b.tif", note="made by a test", dpi="scale")
    with tifffile.TiffFile(DATA / "ortho_icc.tif") as old, tifffile.TiffFile(tmp_path / "b.tif") as new:
        before, after = old.pages[0].tags, new.pages[0].tags  # type: ignore[union-attr]
        assert after[34675].value == before[34675].value and after[282].value == (600, 1)
        assert b'dc:source="drone"' in after[700].value and b"made by a test" in after[700].value
    with rasterio.open(tmp_path / "b.tif") as out:
        assert out.crs.to_epsg() == 32633 and out.transform.a == 5
    assert said(enlarged(DATA / "ortho_icc.tif", tmp_path / "b.png"), "the georeference has no place in a png")
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.info["icc_profile"] == before[34675].value


def test_tags_of_all_domains_are_kept(tmp_path: Path) -> None:
    enlarged(DATA / "namespaces.tif", tmp_path / "b.tif")
    with rasterio.open(tmp_path / "b.tif") as out:
        assert out.tags(ns="IMAGERY") == {"CLOUDCOVER": "3", "SATELLITEID": "WV02"}
        assert out.tags(ns="MYNS") == {"a": "1"} and out.tags()["plain"] == "kept"


def test_what_lies_in_a_sidecar_is_kept_in_one(tmp_path: Path) -> None:
    for name in ("utm3d.tif", "utm3d.tif.aux.xml"):
        shutil.copy(DATA / name, tmp_path / name)
    (tmp_path / "out").mkdir()
    enlarged(tmp_path / "utm3d.tif", tmp_path / "out" / "b.tif")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.tif", "b.tif.aux.xml"]
    with rasterio.open(tmp_path / "utm3d.tif") as old, rasterio.open(tmp_path / "out" / "b.tif") as new:
        assert "3D" in old.crs.to_wkt() and new.crs == old.crs and new.transform.a == old.transform.a / 2
    with pytest.raises(UnwritableOutput, match="exists"):
        (tmp_path / "out" / "b.tif").unlink()
        enlarged(tmp_path / "utm3d.tif", tmp_path / "out" / "b.tif")


def test_a_world_file_next_to_a_tiff_is_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((8, 9, 3), 80, np.uint8), photometric="rgb", metadata=None)
    (tmp_path / "a.tfw").write_text("10\n0\n0\n-10\n500005\n4499995\n")
    enlarged(tmp_path / "a.tif", tmp_path / "b.tif")
    with rasterio.open(tmp_path / "b.tif") as out:
        assert (out.transform.a, out.transform.c, out.transform.f) == (5, 500000, 4500000)


@pytest.mark.parametrize("kib", [1, 8, 20, 40])
def test_a_full_disk_leaves_no_geotiff(tmp_path: Path, kib: int) -> None:
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3)).astype(np.uint8)
    profile = {"driver": "GTiff", "width": 60, "height": 60, "count": 3, "dtype": "uint8", "crs": "EPSG:32633"}
    transform = rasterio.transform.from_origin(5e5, 4.5e6, 10, 10)
    with rasterio.open(tmp_path / "a.tif", "w", transform=transform, **profile) as out:
        out.write(noise.transpose(2, 0, 1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "out").mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 1024, before[1]))
    try:
        with pytest.raises(UnwritableOutput):
            enlarged(tmp_path / "a.tif", tmp_path / "out" / "b.tif")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".gif", ".avif"])
def test_a_file_that_cannot_be_read_back_gets_no_name(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scalewise.images import write

    real = write.write_container

    def cut(encoded: object, out: io.BufferedRandom, format: str) -> list[str]:
        left_out = real(encoded, out, format)  # type: ignore[arg-type]
        out.truncate(out.seek(0, io.SEEK_END) * 2 // 3)  # what a disk that lies leaves of it
        return left_out

    monkeypatch.setattr(write, "write_container", cut)
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    with pytest.raises(UnwritableOutput, match=r"read back|came out"):
        images.save(tmp_path / f"b{suffix}", noise)
    assert list(tmp_path.iterdir()) == []


# Metadata that speaks of the old picture.


def test_a_gain_map_and_a_film_are_left_out_and_said(tmp_path: Path) -> None:
    for name, words in (("ultrahdr", ("MPF", "gain map", "834 bytes")), ("motion", ("film", "524 bytes"))):
        report = enlarged(DATA / f"{name}.jpg", tmp_path / f"{name}.jpg")
        content = (tmp_path / f"{name}.jpg").read_bytes()
        assert said(report, *words)
        assert not any(word in content for word in (b"hdrgm:", b"Container:Directory", b"MicroVideoOffset", b"MPF\0"))


def test_places_are_turned_and_scaled(tmp_path: Path) -> None:
    report = enlarged(DATA / "face6.jpg", tmp_path / "b.jpg")
    with Image.open(tmp_path / "b.jpg") as picture:
        # 80 rows, so that y 20 is 59 from the right, and twice that
        assert picture.getexif().get_ifd(0x8769)[0x9214] == (118, 48, 18, 26)
        assert b"RegionInfo" not in picture.info["xmp"].split(b"xmlns:MPReg")[1].split(b">", 1)[1]
        assert b"<mwg-rs:Regions" not in picture.info["xmp"]
    assert said(report, "regions (faces, areas)")


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
    chunk = b"pHYs" + struct.pack(">IIB", 4, 3, 0)
    chunk = struct.pack(">I", 9) + chunk + struct.pack(">I", __import__("zlib").crc32(chunk))
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
        profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
        made = np.array(profile.profile.red_primary[1][:2])
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
    profile = ImageCms.ImageCmsProfile(io.BytesIO(blob)).profile
    assert profile.xcolor_space.strip() == "RGB" and profile.red_primary[1][:2] == pytest.approx((0.68, 0.32), abs=0.01)
    assert colour.of_code_points(1, 13) == (None, False) and colour.of_code_points(9, 16) == (None, True)


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
