"""What a TIFF is: raw files, reduced copies, colours and bits of many kinds.

Each of `data/` was made by hand to repeat the situation of a public report; it stands for a kind.
"""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
import tifffile
from images.cases import BICUBIC, DATA, enlarged, pixels, said
from PIL import Image, ImageCms
from rasterio.transform import from_origin

from scalewise import images
from scalewise.errors import UnreadableImage
from scalewise.images.metadata import tiff_pages
from scalewise.pipeline import upscale

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
def test_a_compression_that_is_not_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str
) -> None:
    monkeypatch.setattr("scalewise.images.geotiff.read.decodes", lambda path: False)  # as without rasterio
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
    profile |= {"transform": from_origin(5e5, 4.5e6, 10, 10), "crs": "EPSG:32633"} if located else {}
    with rasterio.open(tmp_path / "a.tif", "w", photometric=photometric, **profile) as out:
        out.write(values, 1)
    share = values / (2**bits - 1)
    expected = 1 - share if photometric == "MINISWHITE" else share
    assert np.allclose(pixels(tmp_path / "a.tif")[..., 0], expected, atol=1e-6)
    enlarged(tmp_path / "a.tif", tmp_path / "b.tif")
    assert images.open(tmp_path / "b.tif").bands is not None or not located
    assert np.abs(pixels(tmp_path / "b.tif")[1::8, 1::8, 0] - expected[::4, ::4]).max() < 0.3


@pytest.mark.parametrize(
    ("dtype", "word"), [("float64", "float64"), ("uint64", "uint64"), ("complex64", "complex64"), ("complex128", "128")]
)
def test_pixels_of_a_type_that_is_not_read_are_named(tmp_path: Path, dtype: str, word: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 5), dtype))
    with pytest.raises(UnreadableImage, match=f"pixels of type .*{word}; allowed are"):
        images.open(tmp_path / "a.tif")


def test_sizes_of_pages_are_known_upright(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for orientation in (1, 6, 3):
            turned = [(274, "H", 1, orientation, True)]
            writer.write(np.full((20, 40), 90, np.uint8), extratags=turned, contiguous=False)
    source = images.open(tmp_path / "a.tif")
    assert source.sizes == ((20, 40), (40, 20), (20, 40)) == tuple(source.at(n).size for n in range(3))


@pytest.mark.parametrize("lab", [False, True])
@pytest.mark.parametrize("sides", [(40, 4), (4, 40)])
def test_a_size_that_is_stated_twice_is_no_way_round_the_limit(
    tmp_path: Path, sides: tuple[int, int], lab: bool
) -> None:
    """Of a tag that is there twice, libtiff takes the first, Pillow the last: whichever decodes keeps to the limit."""
    tags = [(256, side) for side in sides] + [(257, side) for side in sides]
    tags += [(258, 8), (259, 1), (262, 8 if lab else 1), (273, 8), (277, 3 if lab else 1), (278, 40), (279, 4800)]
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    content = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + packed + bytes(4 + 4800)
    (tmp_path / "a.tif").write_bytes(content)
    if sides[0] < sides[1] and not lab:
        source = images.open(tmp_path / "a.tif", max_pixels=100)
        assert source.size == source.read().shape[-2:] == (4, 4)
        return
    with pytest.raises(UnreadableImage, match="has 40x40 pixels; at most 100 are read"):
        images.open(tmp_path / "a.tif", max_pixels=100)


def test_pages_are_opened_by_one_survey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A survey of all directories for each page would take the square of their number."""
    Image.new("L", (8, 6)).save(tmp_path / "a.tif", save_all=True, append_images=[Image.new("L", (5, 4))] * 3)
    surveys: list[Path] = []
    made = tiff_pages.survey
    monkeypatch.setattr(tiff_pages, "survey", lambda path, name: surveys.append(path) or made(path, name))
    source = images.open(tmp_path / "a.tif")
    pages = [source.at(number).at(3 - number) for number in range(4)]
    assert [page.size for page in pages] == [(4, 5), (4, 5), (4, 5), (6, 8)]
    assert [page.page for page in pages] == [3, 2, 1, 0] and len(surveys) == 1
