"""Writing: what was read comes out identical, rounding is to the nearest level, and a refusal leaves nothing behind."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import torch
from hypothesis import given
from hypothesis import strategies as st
from images.containers import profile
from PIL import Image

from scalewise import images
from scalewise.errors import InvalidRequest, UnwritableOutput
from scalewise.images import encode as encode_module
from scalewise.images import sink as sink_module
from scalewise.images.sink import to_levels
from scalewise.images.source import Depth

CHANNELS = {"gray": 1, "graya": 2, "rgb": 3, "rgba": 4}


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    random = np.random.default_rng(0)
    if dtype == "float32":
        return random.random(shape, np.float32)
    return random.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def copy(source: images.Source, path: Path, **options: Any) -> Path:
    with images.create(path, source.size, source, **options) as sink:
        sink.write(0, 0, source.read(), source.read_alpha())
        return sink.finish()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", list(CHANNELS))
def test_what_was_read_is_written_exactly(tmp_path: Path, channels: str, dtype: str, suffix: str) -> None:
    array = noise(13, 17, CHANNELS[channels], dtype=dtype)
    first = images.open(images.save(tmp_path / f"a{suffix}", array))
    second = images.open(copy(first, tmp_path / f"b{suffix}"))
    for source in (first, second):
        assert (source.kind + "a" * source.alpha, source.dtype, source.size) == (channels, dtype, (13, 17))
        assert np.array_equal(source.fetch((0, 0, 13, 17)), array)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a{suffix}", f"b{suffix}"]


@pytest.mark.parametrize("channels", list(CHANNELS))
def test_tiff_keeps_float(tmp_path: Path, channels: str) -> None:
    array = noise(9, 11, CHANNELS[channels], dtype="float32")
    source = images.open(images.save(tmp_path / "a.tiff", array))
    assert source.dtype == "float32" and np.array_equal(source.fetch((0, 0, 9, 11)), array)


def test_png_of_float_has_16_bit(tmp_path: Path) -> None:
    array = noise(9, 11, 3, dtype="float32")
    source = images.open(images.save(tmp_path / "a.png", array))
    assert source.dtype == "uint16"
    assert np.abs(source.read().permute(1, 2, 0).numpy() - array).max() <= 0.51 / 65535


@pytest.mark.parametrize("suffix", [".webp", ".avif"])
def test_quality_100_is_lossless_where_that_exists(tmp_path: Path, suffix: str) -> None:
    if suffix not in images.WRITABLE:
        pytest.skip(f"libvips cannot write {suffix} here")
    array = noise(20, 30, 4)
    array[..., 3] |= 1  # colour under full transparency may be changed by a format
    source = images.open(images.save(tmp_path / f"a{suffix}", array, quality=100))
    assert source.alpha and np.array_equal(source.fetch((0, 0, 20, 30)), array)


def test_jpeg_is_fine_and_its_colour_is_not_subsampled(tmp_path: Path) -> None:
    stripes = np.zeros((16, 32, 3), np.uint8)
    stripes[:, ::2, 0] = stripes[:, 1::2, 2] = 200  # red and blue columns: subsampling would make them one colour
    source = images.open(images.save(tmp_path / "a.jpg", stripes))
    assert np.abs(source.read().permute(1, 2, 0).numpy() * 255 - stripes).mean() < 5
    poor = images.save(tmp_path / "b.jpg", noise(64, 64, 3), quality=20)
    assert poor.stat().st_size < images.save(tmp_path / "c.jpg", noise(64, 64, 3)).stat().st_size / 3


@given(st.data())
def test_pixels_go_to_the_nearest_level(data: st.DataObject) -> None:
    depths: list[tuple[int, Depth]] = [(255, "uint8"), (65535, "uint16")]
    highest, dtype = data.draw(st.sampled_from(depths))
    values = data.draw(st.lists(st.floats(-0.5, 1.5, width=32), min_size=1, max_size=20))
    tensor = torch.tensor(values)
    levels = to_levels(tensor, dtype).double()
    exact = tensor.double().clamp(0, 1) * highest
    assert ((levels - exact).abs() <= 0.5 + highest * 1e-7).all()
    assert torch.equal(tensor, torch.tensor(values)), "the caller's pixels must stay as they are"


@given(st.sampled_from(["uint8", "uint16"]), st.floats(-0.49, 0.49))
def test_every_level_survives_half_a_level_of_error(dtype: Depth, error: float) -> None:
    highest = np.iinfo(dtype).max
    levels = torch.arange(highest + 1)
    noisy = ((levels + error) / highest).float()
    assert torch.equal(to_levels(noisy, dtype).long(), levels)


@given(st.data())
def test_tiles_in_any_order_equal_the_whole(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    cuts = [sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=3))}) for n in (height, width)]
    boxes = [(y0, x0, y1, x1) for y0, y1 in pairwise(cuts[0]) for x0, x1 in pairwise(cuts[1])]
    array = noise(height, width, 4, dtype="uint16")
    source = images.open(array)
    with images.create(None, source.size, source) as sink:
        for box in data.draw(st.permutations(boxes)):
            sink.write(*box[:2], source.read(box), source.read_alpha(box))
        assert np.array_equal(sink.finish(), array)


@pytest.mark.parametrize("path", [None, "a.tif"])
def test_a_canvas_on_disk_equals_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path) -> None:
    array = noise(33, 21, 3, dtype="uint16")
    monkeypatch.setattr(sink_module, "CANVAS_BYTES", 100)
    source = images.open(array)
    with images.create(path and tmp_path / path, source.size, source) as sink:
        assert list(tmp_path.iterdir()) == [], "the canvas has no name"
        sink.write(0, 0, source.read())
        result = sink.finish()
    assert np.array_equal(images.open(result).fetch((0, 0, 33, 21)), array)
    assert [entry.name for entry in tmp_path.iterdir()] == ([path] if path else [])


def test_a_canvas_that_finds_no_room_says_so(tmp_path: Path) -> None:
    source = images.open(noise(4, 5))
    with pytest.raises(UnwritableOutput, match="GiB of pixels in folder") as caught:
        images.create(tmp_path / "a.tif", (2**31, 2**31), source)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_gray_is_luma_and_equal_channels_stay_exact() -> None:
    gray = torch.rand(1, 6, 7)
    source = images.open(gray)
    sink = images.create(None, (6, 7), source)
    sink.write(0, 0, gray.repeat(3, 1, 1))
    assert torch.equal(sink.finish(), gray)
    sink = images.create(None, (6, 7), source)
    sink.write(0, 0, torch.tensor([1.0, 0.0, 0.5])[:, None, None].expand(3, 6, 7))
    assert (sink.finish() - (0.299 + 0.5 * 0.114)).abs().max() < 1e-6


def test_pixels_may_lie_together_or_in_planes() -> None:
    source, rgb = images.open(torch.rand(3, 4, 5)), torch.rand(3, 4, 5)
    found = []
    for pixels in (rgb, rgb.permute(1, 2, 0).contiguous().permute(2, 0, 1)):
        with images.create(None, (4, 5), source) as sink:
            sink.write(0, 0, pixels)
            found.append(sink.finish())
    assert torch.equal(found[0], rgb) and torch.equal(found[1], rgb)


def test_infinite_numbers_are_clamped_and_nan_is_a_mistake() -> None:
    source = images.open(torch.rand(3, 1, 2))
    with images.create(None, (1, 2), source) as sink:
        with pytest.raises(AssertionError, match="NaN"):
            sink.write(0, 0, torch.full((3, 1, 2), torch.nan))
        sink.write(0, 0, torch.tensor([torch.inf, -torch.inf]).expand(3, 1, 2))
        assert torch.equal(sink.finish(), torch.tensor([1.0, 0.0]).expand(3, 1, 2))


def test_other_float_types_are_written(tmp_path: Path) -> None:
    source = images.open(noise(4, 5, 4))
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        sink = images.create(None, (4, 5), source)
        sink.write(0, 0, torch.full((3, 4, 5), 0.5, dtype=dtype), torch.ones(1, 4, 5))
        assert (sink.finish() == np.array([128, 128, 128, 255])).all()


def test_threads_write_one_and_many_sinks_at_once(tmp_path: Path) -> None:
    array = noise(40, 30, 3)
    source = images.open(array)

    def work(number: int) -> Path:
        with images.create(tmp_path / f"{number}.png", source.size, source) as sink, ThreadPoolExecutor(3) as inner:
            rows = [(y, 0, y + 10, 30) for y in range(0, 40, 10)]
            list(inner.map(lambda box: sink.write(box[0], 0, source.read(box)), rows))
            return sink.finish()

    with ThreadPoolExecutor(4) as pool:
        for path in pool.map(work, range(8)):
            assert np.array_equal(images.open(path).fetch((0, 0, 40, 30)), array)


def exif(orientation: int = 1) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112], tags[0x010E], tags[0x0132] = orientation, "a tree", "2020:01:02 03:04:05"
    tags.get_ifd(0x8769)[0x829A] = 0.01
    return tags


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif"])
@pytest.mark.parametrize("start", ["path", "pil"])
def test_profile_exif_and_resolution_are_kept(tmp_path: Path, suffix: str, start: str) -> None:
    icc = profile()
    original = tmp_path / "in.jpg"
    Image.fromarray(noise(8, 12, 3)).save(original, icc_profile=icc, exif=exif(6), dpi=(300, 300))
    source = images.open(original if start == "path" else Image.open(original))
    assert source.metadata.icc == icc and source.metadata.dpi == pytest.approx((300, 300), abs=0.1)
    result = Image.open(copy(source, tmp_path / f"out{suffix}"))
    assert result.size == (8, 12)
    assert result.info["icc_profile"] == icc
    assert result.getexif().get(0x0112, 1) == 1
    assert result.getexif()[0x010E] == "a tree" and result.getexif().get_ifd(0x8769)[0x829A] == 0.01
    assert images.open(tmp_path / f"out{suffix}").metadata.exif is not None
    if suffix not in (".webp", ".avif"):  # these say it in EXIF only
        assert result.info["dpi"] == pytest.approx((300, 300), abs=0.1)


def test_metadata_of_the_original_goes_with_an_array(tmp_path: Path) -> None:
    Image.fromarray(noise(8, 12, 3)).save(tmp_path / "a.png", icc_profile=profile(), dpi=(300, 300))
    source = images.open(tmp_path / "a.png")
    images.save(tmp_path / "b.png", noise(16, 24, 3), like=source)
    assert images.open(tmp_path / "b.png").metadata.icc == profile()
    with pytest.raises(UnwritableOutput, match="the input itself"):
        images.save(tmp_path / "a.png", noise(16, 24, 3), like=source, overwrite=True)


def test_a_profile_for_other_channels_is_left_out(tmp_path: Path) -> None:
    image = Image.fromarray(noise(8, 12))
    image.info["icc_profile"] = profile()
    path = copy(images.open(image), tmp_path / "a.png")
    assert "icc_profile" not in Image.open(path).info


def test_old_thumbnails_are_left_out(tmp_path: Path) -> None:
    thumbnail = io.BytesIO()
    Image.fromarray(noise(4, 6, 3)).save(thumbnail, "jpeg")
    image = pyvips.Image.new_from_memory(noise(8, 12, 3).tobytes(), 12, 8, 3, "uchar").copy(interpretation="srgb")
    image.set_type(pyvips.GValue.blob_type, "jpeg-thumbnail-data", thumbnail.getvalue())  # pyright: ignore[reportArgumentType]
    for orientation in (1, 6):
        image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
        image.jpegsave(str(tmp_path / f"{orientation}.jpg"))
        out = copy(images.open(tmp_path / f"{orientation}.jpg"), tmp_path / f"out{orientation}.jpg")
        fields = pyvips.Image.new_from_file(str(out)).get_fields()
        assert "jpeg-thumbnail-data" not in fields


def refusal(path: str | Path | None, size: tuple[int, int] = (4, 5), channels: int = 3, dtype: str = "uint8") -> str:
    source = images.open(noise(4, 5, channels, dtype=dtype))
    with pytest.raises(UnwritableOutput) as caught:
        images.create(path, size, source)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    return message


def test_what_a_format_cannot_hold_is_refused_before_the_work(tmp_path: Path) -> None:
    assert ".png" in refusal(tmp_path / "a.jpg", channels=4) and "alpha" in refusal(tmp_path / "a.jpg", channels=2)
    assert ".tif" in refusal(tmp_path / "a.jpg", (65501, 1)) and ".tif" in refusal(tmp_path / "a.jpeg", (1, 65501))
    assert "16383" in refusal(tmp_path / "a.webp", (16384, 1))
    assert "16384" in refusal(tmp_path / "a.avif", (1, 16385))
    for name in ("a.xyz", "a", "a.heic"):
        assert all(suffix in refusal(tmp_path / name) for suffix in images.WRITABLE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("suffix", "side"), [(".jpg", 65500), (".webp", 16383), (".avif", 16384)])
def test_the_longest_side_allowed_is_really_written(tmp_path: Path, suffix: str, side: int) -> None:
    path = images.save(tmp_path / f"a{suffix}", np.zeros((1, side), np.uint8))
    assert images.open(path).size == (1, side)


def test_where_no_file_can_be_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(b"precious")
    (tmp_path / "folder.png").mkdir()
    assert "exists" in refusal(tmp_path / "there.png")
    assert "is a folder" in refusal(tmp_path / "folder.png")
    assert "does not exist" in refusal(tmp_path / "new\nfolder" / "a.png")
    assert "too long" in refusal(tmp_path / ("a" * 300 + ".png"))
    assert "null" in refusal("a\0b.png")
    assert "cannot write" in refusal(tmp_path / "there.png" / "a.png") or "does not exist" in refusal(
        tmp_path / "there.png" / "a.png"
    )
    assert (tmp_path / "there.png").read_bytes() == b"precious" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody can write to")
def test_a_folder_that_cannot_be_written_is_refused() -> None:
    assert "cannot write in folder '/proc'" in refusal("/proc/a.png")


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_input_is_never_overwritten(tmp_path: Path, overwrite: bool) -> None:
    path = images.save(tmp_path / "a.png", noise(4, 5))
    (tmp_path / "link.png").symlink_to(path)
    for name in ("a.png", "link.png", f"../{tmp_path.name}/a.png"):
        with pytest.raises(UnwritableOutput, match="the input itself"):
            images.create(tmp_path / name, (4, 5), images.open(path), overwrite=overwrite)


def test_overwriting_when_asked(tmp_path: Path) -> None:
    images.save(tmp_path / "a.png", noise(4, 5))
    images.save(tmp_path / "a.png", noise(6, 5), overwrite=True)
    assert images.open(tmp_path / "a.png").size == (6, 5)


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    source = images.open(noise(4, 5))
    with images.create(tmp_path / "a.png", (4, 5), source) as sink:
        sink.write(0, 0, source.read())
        (tmp_path / "a.png").write_bytes(b"precious")
        with pytest.raises(UnwritableOutput, match="exists"):
            sink.finish()
    assert (tmp_path / "a.png").read_bytes() == b"precious" and len(list(tmp_path.iterdir())) == 1


def test_an_exception_or_an_abort_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "CANVAS_BYTES", 0)
    source = images.open(noise(4, 5))
    with pytest.raises(KeyboardInterrupt), images.create(tmp_path / "a.png", (4, 5), source) as sink:
        sink.write(0, 0, source.read())
        raise KeyboardInterrupt
    images.create(tmp_path / "a.png", (4, 5), source).abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_failing_encoder_leaves_nothing_and_says_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    def full(descriptor: int) -> None:
        os.write(descriptor, b"half a file")
        raise pyvips.Error("unable to call save", "first line\nsystem error: No space left on device\n")

    monkeypatch.setattr(pyvips.Target, "new_to_descriptor", full)
    with pytest.raises(UnwritableOutput, match="No space left") as caught:
        images.save(tmp_path / f"a{suffix}", noise(4, 5))
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_pixels_that_were_never_written_are_noticed(tmp_path: Path) -> None:
    source = images.open(noise(4, 5))
    with images.create(tmp_path / "a.png", (4, 5), source) as sink:
        sink.write(0, 0, source.read((0, 0, 3, 5)))
        with pytest.raises(InvalidRequest, match="5 of 20 pixels"):
            sink.finish()
    assert list(tmp_path.iterdir()) == []


def test_requests_that_make_no_sense(tmp_path: Path) -> None:
    source = images.open(noise(4, 5, 4))
    with pytest.raises(InvalidRequest, match="1 to 100"):
        images.create(tmp_path / "a.png", (4, 5), source, quality=0)
    with pytest.raises(InvalidRequest, match="at least 1"):
        images.create(None, (0, 5), source)
    sink = images.create(None, (4, 5), source)
    with pytest.raises(InvalidRequest, match="has alpha"):
        sink.write(0, 0, torch.zeros(3, 4, 5))
    with pytest.raises(InvalidRequest, match="do not fit"):
        sink.write(1, 0, torch.zeros(3, 4, 5), torch.zeros(1, 4, 5))
    with pytest.raises(InvalidRequest, match="do not fit"):
        sink.write(-1, 0, torch.zeros(3, 4, 5), torch.zeros(1, 4, 5))


def test_large_tiff_is_bigtiff(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = []
    for limit in (2**32, 10):
        monkeypatch.setattr(encode_module, "_CLASSIC_TIFF_BYTES", limit)
        path = images.save(tmp_path / f"{limit}.tif", noise(20, 30, 3))
        versions.append(path.read_bytes()[2])
        assert np.array_equal(images.open(path).fetch((0, 0, 20, 30)), noise(20, 30, 3))
    assert versions == [42, 43]


def test_real_inputs_are_written_as_they_were(shared: Path, tmp_path: Path) -> None:
    for path in sorted((shared / "data" / "reallq" / "RealESRGAN_inputs").iterdir()):
        source = images.open(path)
        result = images.open(copy(source, tmp_path / f"{path.stem}.png"))
        assert (result.kind, result.alpha, result.dtype) == (source.kind, source.alpha, source.dtype)
        assert torch.equal(result.read(), source.read())
        assert (result.metadata.icc, result.metadata.xmp) == (source.metadata.icc, source.metadata.xmp)
