"""Reading files: exact values, orientation, colour, and one line for whatever is wrong."""

from __future__ import annotations

import os
import re
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
import torch
from PIL import Image

from scalewise import images
from scalewise.errors import InvalidRequest, UnreadableImage


def alpha_of(source: images.Source) -> torch.Tensor:
    alpha = source.read_alpha()
    assert alpha is not None
    return alpha


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    high = 65536 if dtype == "uint16" else 256
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def complaint(path: str | Path, **options: int) -> str:
    """What is said about a file that cannot be read, at the latest when its pixels are asked for."""
    with pytest.raises(UnreadableImage) as caught:
        images.open(path, **options).read()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    return message


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".gif", ".avif"])
def test_every_format_is_read_and_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(9, 12, 3)).save(path)
    source = images.open(path)
    assert (source.size, source.kind, source.alpha, source.dtype) == ((9, 12), "rgb", False, "uint8")
    assert source.format == {".jpg": "jpeg", ".tif": "tiff"}.get(suffix, suffix[1:])
    assert source.origin == "path" and source.path == path


def test_a_box_of_a_jpeg_is_what_pillow_decodes(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 40 * 50 * 3).reshape(40, 50, 3).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95, subsampling=0)
    expected = np.asarray(Image.open(tmp_path / "a.jpg"))[3:20, 10:50]
    box = images.open(tmp_path / "a.jpg").read((3, 10, 20, 50))
    assert box.dtype == torch.float32 and box.shape == (3, 17, 40)
    assert np.abs(box.permute(1, 2, 0).numpy() * 255 - expected).max() <= 1.01


@pytest.mark.parametrize(("dtype", "highest"), [("uint8", 255), ("uint16", 65535)])
def test_a_level_is_divided_by_the_highest_one(dtype: str, highest: int) -> None:
    levels = np.arange(highest + 1, dtype=dtype).reshape(1, -1)
    expected = torch.arange(highest + 1, dtype=torch.float32) / highest
    assert torch.equal(images.open(levels).read()[1, 0], expected)


def test_the_file_s_own_name_decides_nothing(tmp_path: Path) -> None:
    Image.fromarray(noise(4, 5)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert images.open(tmp_path / "a.jpg").format == "png"


@pytest.mark.parametrize("name", ["a[1].png", "new\nline.png", "ü 'q'.png", os.fsdecode(b"\xff\xfe.png")])
def test_odd_names_are_only_names(tmp_path: Path, name: str) -> None:
    Image.fromarray(noise(4, 5)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / name)
    source = images.open(tmp_path / name)
    assert source.size == (4, 5)
    result = images.create(tmp_path / f"out{name}", source.size, source)
    result.write(0, 0, source.read())
    assert torch.equal(images.open(result.finish()).read(), source.read())
    (tmp_path / name).write_bytes(b"text")
    assert "\\n" in complaint(tmp_path / name) or "\n" not in name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_then_gone(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(6, 9, 3)).save(tmp_path / "a.png", exif=exif)
    source = images.open(tmp_path / "a.png")
    pil = images.open(Image.open(tmp_path / "a.png"))
    upright = noise(6, 9, 3)
    upright = upright.transpose(1, 0, 2) if orientation in (5, 7) else upright
    turns = {3: 2, 4: 2, 6: 3, 7: 2, 8: 1}.get(orientation, 0)  # anticlockwise, after the mirror
    upright = np.rot90(upright, turns)
    upright = upright[:, ::-1] if orientation in (2, 4) else upright
    assert np.array_equal((source.read() * 255).round().permute(1, 2, 0).numpy(), upright)
    assert torch.equal(pil.read(), source.read())
    assert source.metadata.orientation == pil.metadata.orientation == orientation
    written = images.create(tmp_path / "b.jpg", source.size, source)
    written.write(0, 0, source.read())
    assert images.open(written.finish()).metadata.orientation == 1
    assert images.open(tmp_path / "b.jpg").size == source.size


@pytest.mark.parametrize("mode", ["1", "P", "L", "LA", "RGB", "RGBA", "I;16"])
def test_modes_of_png(tmp_path: Path, mode: str) -> None:
    rgba = Image.fromarray(noise(6, 7, 4))
    image = Image.fromarray(noise(6, 7, dtype="uint16")) if mode == "I;16" else rgba.convert("RGB").convert(mode)
    if mode in ("LA", "RGBA"):
        image = rgba.convert(mode)
    image.save(tmp_path / "a.png")
    source, memory = images.open(tmp_path / "a.png"), images.open(image)
    assert source.kind == ("rgb" if mode in ("P", "RGB", "RGBA") else "gray")
    assert source.alpha == mode.endswith("A") and source.dtype == ("uint16" if mode == "I;16" else "uint8")
    assert (memory.kind, memory.alpha, memory.dtype) == (source.kind, source.alpha, source.dtype)
    assert torch.equal(source.read(), memory.read())
    if source.alpha:
        assert torch.equal(alpha_of(source), alpha_of(memory))


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_is_alpha(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(noise(6, 7, 3)).convert(mode)
    transparent = image.getpixel((2, 1))
    image.save(tmp_path / "a.png", transparency=transparent)
    source, memory = images.open(tmp_path / "a.png"), images.open(Image.open(tmp_path / "a.png"))
    assert source.alpha and memory.alpha and source.kind == ("gray" if mode == "L" else "rgb")
    assert alpha_of(source)[0, 1, 2] == 0 and alpha_of(source).max() == 1
    assert torch.equal(alpha_of(source), alpha_of(memory))


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_becomes_srgb(tmp_path: Path, suffix: str) -> None:
    ink = np.zeros((8, 24, 4), np.uint8)
    ink[:, 8:16, 2] = ink[:, 8:16, 1] = 255  # magenta and yellow: red
    ink[:, 16:, 3] = 255  # black
    Image.fromarray(ink, "CMYK").save(tmp_path / f"a{suffix}", icc_profile=b"\0" * 128)
    source = images.open(tmp_path / f"a{suffix}")
    white, red, black = source.read()[:, 4, [4, 12, 20]].unbind(1)
    assert source.kind == "rgb" and not source.alpha and source.dtype == "uint8"
    assert white.min() > 0.95 and red[0] > 0.7 and red[1:].max() < 0.3 and black.max() < 0.25


def test_lab_of_16_bit_becomes_rgb_of_16_bit(tmp_path: Path) -> None:
    gray = pyvips.Image.black(5, 4).bandjoin([0, 0]).linear([1.0], [50, 0, 0])
    gray.copy(interpretation="lab").colourspace("labs").tiffsave(str(tmp_path / "a.tif"))
    source = images.open(tmp_path / "a.tif")
    assert source.kind == "rgb" and source.dtype == "uint16"
    assert (source.read() - 0.466).abs().max() < 0.01  # L* 50 is 18.4% of the light


def test_float_tiff_is_read_by_its_own_range(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((4, 5)).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    source = images.open(tmp_path / "a.tif")
    assert source.dtype == "float32" and np.array_equal(source.read()[0].numpy(), values) and source.notes == ()
    Image.fromarray(values * 255 - 7).save(tmp_path / "b.tif")
    source = images.open(tmp_path / "b.tif")
    assert source.levels == (float((values * 255 - 7).min()), float((values * 255 - 7).max()))
    assert source.read().min() == 0 and source.read().max() == 1 and "taken as 0 to 1" in source.notes[0]


def test_pages_are_counted_and_the_first_is_read(tmp_path: Path) -> None:
    first, second = Image.fromarray(noise(4, 5)), Image.new("L", (5, 4))
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    source = images.open(tmp_path / "a.tif")
    assert source.pages == 2 and source.size == (4, 5) and source.read().mean() > 0.1


@pytest.mark.parametrize("box", [(0, 0, 5, 5), (0, -1, 4, 5), (2, 0, 2, 5), (-1, 0, 3, 5)])
def test_a_box_beyond_the_image_is_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(InvalidRequest, match="5x4"):
        images.open(noise(4, 5)).read(box)


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    for value in (10, 20):
        Image.new("L", (5, 4), value).save(tmp_path / "a.png")
        assert images.open(tmp_path / "a.png").read()[0, 0, 0] * 255 == value


def test_threads_read_one_and_many_sources_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        Image.fromarray(np.roll(noise(64, 64, 3), i, 0)).save(path)
    sources = [images.open(path) for path in paths] * 4
    with ThreadPoolExecutor(4) as pool:
        for i, pixels in enumerate(pool.map(lambda source: source.read(), sources)):
            assert torch.equal(pixels, images.open(np.roll(noise(64, 64, 3), i % 4, 0)).read())


def test_missing_folder_and_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    assert "No such file" in complaint(tmp_path / "no\nsuch.png")
    assert "is a folder" in complaint(tmp_path)
    assert "empty" in complaint(tmp_path / "empty.png")
    assert "null" in complaint("a\0b.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a regular file" in complaint(tmp_path / "pipe.png")


@pytest.mark.parametrize("content", [b"hello\nworld\n", b"1,2\n3,4\n", b"<svg xmlns='x' width='9' height='9'></svg>"])
@pytest.mark.parametrize("suffix", [".png", ".csv", ".svg"])
def test_text_is_not_a_picture(tmp_path: Path, content: bytes, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(content)
    assert "not a picture" in complaint(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".gif", ".avif"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(100, 120, 3)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    message = complaint(path)
    assert "damaged" in message and repr(str(path)) in message


def test_a_truncated_file_stays_refused(tmp_path: Path) -> None:
    Image.fromarray(noise(100, 120, 3)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    source = images.open(tmp_path / "a.jpg")
    for _ in range(2):
        with pytest.raises(UnreadableImage, match="truncated"):
            source.read((0, 0, 1, 1))


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    Image.fromarray(noise(10, 20)).save(tmp_path / "a.png")
    assert "20x10" in complaint(tmp_path / "a.png", max_pixels=199)
    assert images.open(tmp_path / "a.png", max_pixels=200).size == (10, 20)
    pyvips.Image.black(30000, 20000).pngsave(str(tmp_path / "bomb.png"), compression=9)
    assert "max_pixels" in complaint(tmp_path / "bomb.png")


def test_a_header_that_promises_more_than_the_file_can_hold_is_refused_at_once(tmp_path: Path) -> None:
    Image.fromarray(noise(24, 20)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:20] = (14_000_000).to_bytes(4)
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    (tmp_path / "a.png").write_bytes(content)
    assert "too short for the 14000000x24" in complaint(tmp_path / "a.png")
    pyvips.Image.black(20000, 20000).pngsave(str(tmp_path / "black.png"), compression=9)
    assert images.open(tmp_path / "black.png").size == (20000, 20000), "the most that can be compressed"


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_tiff_that_promises_more_than_it_can_hold_is_refused_at_once(
    tmp_path: Path, compression: str | None, dtype: str
) -> None:
    Image.fromarray(noise(24, 20).astype(dtype)).save(tmp_path / "a.tif", compression=compression)
    content = (tmp_path / "a.tif").read_bytes()
    width = re.compile(rb"\x00\x01[\x03\x04]\x00\x01\x00\x00\x00\x14\x00\x00\x00")  # a SHORT or LONG of 20
    content = width.sub(b"\x00\x01\x04\x00\x01\x00\x00\x00" + (20_000_000).to_bytes(4, "little"), content)
    (tmp_path / "a.tif").write_bytes(content)
    assert "too short for the pixels" in complaint(tmp_path / "a.tif")
    black = np.zeros((2000, 2000), dtype)
    Image.fromarray(black).save(tmp_path / "black.tif", compression=compression)
    assert images.open(tmp_path / "black.tif").size == (2000, 2000), "the most that can be compressed"


def test_integers_of_32_bit_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((3, 4), np.uint32))
    assert "8 or 16 bit or float" in complaint(tmp_path / "a.tif")


def test_real_inputs_are_read_whole(shared: Path) -> None:
    folder = shared / "data" / "reallq" / "RealESRGAN_inputs"
    seen = {}
    for path in sorted(folder.iterdir()):
        source = images.open(path)
        rgb, alpha = source.read(), source.read_alpha()
        assert rgb.shape == (3, *source.size) and 0 <= rgb.min() < rgb.max() <= 1
        assert (alpha is not None) == source.alpha
        seen[path.name] = (source.kind, source.alpha, source.dtype)
    assert len(seen) == 9
    assert seen["00017_gray.png"] == seen["wolf_gray.jpg"] == ("gray", False, "uint8")
    assert seen["children-alpha.png"] == ("rgb", True, "uint8")
    assert seen["tree_alpha_16bit.png"] == ("rgb", True, "uint16")
