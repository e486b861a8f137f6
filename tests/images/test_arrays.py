"""Pictures in memory: what is taken, and that the same kind comes back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scalewise import images
from scalewise.errors import UnreadableImage


def through(image: object) -> Any:
    """What comes out when exactly what was read is written."""
    source = images.open(image)
    with images.create(None, source.size, source) as sink:
        sink.write(0, 0, source.read(), source.read_alpha())
        return sink.finish()


def pixels(*shape: int, dtype: str = "uint8") -> np.ndarray:
    random = np.random.default_rng(0)
    if dtype.startswith("float"):
        return random.random(shape).astype(dtype)
    return random.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 2), (5, 7, 3), (5, 7, 4)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float16", "float32", ">f4"])
def test_numpy_comes_back_as_it_was(shape: tuple[int, ...], dtype: str) -> None:
    array = pixels(*shape, dtype={">u2": "uint16", ">f4": "float32"}.get(dtype, dtype)).astype(dtype)
    source, result = images.open(array), through(array)
    channels = shape[2] if len(shape) == 3 else 1
    assert source.kind == ("gray" if channels < 3 else "rgb") and source.alpha == (channels in (2, 4))
    assert source.origin == "numpy" and source.size == (5, 7)
    assert isinstance(result, np.ndarray) and result.dtype == array.dtype and np.array_equal(result, array)


def test_numpy_strides_do_not_matter() -> None:
    array = pixels(8, 10, 6)[::-2, ::3, ::2]
    assert np.array_equal(through(array), array)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_comes_back_as_it_was(channels: int, dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(pixels(channels, 5, 7))
    if dtype != torch.uint8:
        tensor = (tensor / 255).to(dtype)
    result = through(tensor)
    assert images.open(tensor).origin == "torch"
    assert isinstance(result, torch.Tensor) and result.dtype == dtype and torch.equal(result, tensor)
    assert result.is_contiguous()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16", "P", "1"])
def test_pil_comes_back_as_it_was(mode: str) -> None:
    image = Image.fromarray(pixels(5, 7, dtype="uint16")) if mode == "I;16" else Image.fromarray(pixels(5, 7, 4))
    image = image.convert("RGB").convert("P") if mode == "P" else image.convert(mode)
    image.info |= {"icc_profile": b"profile", "dpi": (300, 150)}
    result = through(image)
    expected = image.convert({"P": "RGB", "1": "L"}.get(mode, mode))
    assert isinstance(result, Image.Image) and result.mode == expected.mode
    assert result.tobytes() == expected.tobytes()
    assert result.info == {"icc_profile": b"profile", "dpi": (300.0, 150.0)}


def test_pil_transparency_is_kept_as_alpha() -> None:
    image = Image.fromarray(pixels(5, 7, 3)).convert("P")
    image.info["transparency"] = image.getpixel((0, 0))
    result = through(image)
    assert result.mode == "RGBA" and result.getpixel((0, 0))[3] == 0


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((3, 40, 50)), r"\(3, 40, 50\).*C 1 to 4"),
        (np.zeros((0, 5)), r"\(0, 5\)"),
        (np.zeros(5), "shape"),
        (np.zeros((4, 4), np.int64), "int64.*uint8, uint16"),
        (np.zeros((4, 4), bool), "bool"),
        (np.full((4, 4), 255.0), r"from 255 to 255.*\[0, 1\]"),
        (np.array([[0.5, np.nan]]), r"\[0, 1\]"),
        (torch.zeros(1, 3, 4, 4), r"\(1, 3, 4, 4\).*C, H, W"),
        (torch.zeros(8, 9, 3), r"\(8, 9, 3\).*C, H, W"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
        (torch.full((3, 4, 4), -0.1), r"-0\.1"),
        (Image.new("CMYK", (3, 4)), "CMYK.*convert"),
        (Image.new("F", (3, 4)), "mode F"),
        ([[1, 2]], "a list; allowed are a path"),
        (None, "NoneType"),
    ],
)
def test_what_cannot_be_a_picture_is_refused_in_one_line(image: object, words: str) -> None:
    with pytest.raises(UnreadableImage, match=words) as caught:
        images.open(image)
    assert "\n" not in str(caught.value)


def test_a_truncated_pil_image_is_refused(tmp_path: Path) -> None:
    Image.fromarray(pixels(50, 60, 3)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableImage, match="PIL image cannot be read"):
        images.open(Image.open(tmp_path / "a.jpg"))


def test_pillow_is_not_imported_for_other_kinds(tmp_path: Path) -> None:
    images.save(tmp_path / "a.png", pixels(4, 5))
    code = "import sys; from scalewise import images; images.open(sys.argv[1]).read(); sys.exit('PIL' in sys.modules)"
    path = [entry for entry in sys.path if entry]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {code}", str(tmp_path / "a.png")]
    assert subprocess.run(command, check=False).returncode == 0
