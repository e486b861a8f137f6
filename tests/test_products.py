"""What a program around the library needs: bytes in and out, batches, copies, types, errors of one kind."""

from __future__ import annotations

import ast
import copy
import inspect
import io
import pickle
import re
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import scalewise
from scalewise import images, zoo
from scalewise.errors import (
    Cancelled,
    InvalidRequest,
    OutputExists,
    RequestDiffers,
    ScalewiseError,
    UnreadableImage,
    UnwritableOutput,
)
from scalewise.geometry.sizes import checked_crop, checked_scale, wanted_size
from scalewise.pipeline import Upscaled, UpscaleOptions, upscale

BICUBIC = zoo.load("bicubic", device="cpu")
ROOT = Path(__file__).resolve().parent.parent
random = np.random.default_rng(0)


def array(height: int = 12, width: int = 17, channels: int = 3) -> np.ndarray:
    return random.integers(0, 256, (height, width, channels), np.uint8)


def encoded(pixels: np.ndarray, format: str = "PNG", **more: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format, **more)
    return out.getvalue()


# --- bytes in, bytes out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [bytes, bytearray, memoryview, io.BytesIO, lambda data: io.BufferedReader(io.BytesIO(data))]
)
def test_bytes_are_read_as_their_file(tmp_path: Path, kind: Callable[[bytes], Any]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned upright
    data = encoded(array(), "JPEG", exif=exif, dpi=(300, 300))
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    one, other = upscale(kind(data), 2, model=BICUBIC), upscale(path, 2, model=BICUBIC)
    assert np.array_equal(one.image, other.image) and one.image.shape == (34, 24, 3)
    assert one.source.format == "jpeg" and one.to_bytes("jpg") == other.to_bytes("jpg")
    assert one.save(tmp_path / "out.jpg").read_bytes() == one.to_bytes("jpg")


def test_a_file_object_is_read_from_where_it_stands(tmp_path: Path) -> None:
    pixels = array()
    path = tmp_path / "two"
    path.write_bytes(b"header" + encoded(pixels))
    with path.open("rb") as file:
        file.seek(6)
        result = upscale(file, 1, model=BICUBIC)
    assert np.array_equal(result.image, pixels)  # read before the file was closed


def test_pages_of_bytes_are_there_as_long_as_they_are_needed() -> None:
    frames = [Image.fromarray(array()) for _ in range(3)]
    out = io.BytesIO()
    frames[0].save(out, "TIFF", save_all=True, append_images=frames[1:])
    last = images.open(out.getvalue()).at(2)  # nothing else holds the file any more
    assert np.array_equal(last.fetch((0, 0, 12, 17)), np.asarray(frames[2]))


def test_nothing_stays_of_bytes_that_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = upscale(encoded(array()), 2, model=BICUBIC)
    result.to_bytes("png")
    assert len(list(tmp_path.iterdir())) == 1  # what the result still needs
    del result
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"text", "not a picture"),
        (encoded(array(40, 40))[:-800], "truncated|damaged"),
        (io.StringIO("text"), "rb"),
        (io.BytesIO(), "empty"),
    ],
)
def test_bad_bytes_are_refused_without_a_name_of_ours(data: Any, says: str) -> None:
    with pytest.raises(UnreadableImage, match=says) as caught:
        upscale(data, 2, model=BICUBIC)
    assert "/" not in str(caught.value).partition("allowed are")[0] and "\n" not in str(caught.value)
    closed = io.BytesIO(b"x")
    closed.close()
    with pytest.raises(UnreadableImage, match="closed"):
        upscale(closed, 2, model=BICUBIC)


@pytest.mark.parametrize("format", ["png", ".PNG", "jpg", "webp", "tif"])
def test_a_result_becomes_a_file_in_memory(format: str) -> None:
    result = upscale(array(), 2, model=BICUBIC)
    with Image.open(io.BytesIO(result.to_bytes(format))) as read:
        assert read.size == (34, 24)
        if format not in ("jpg", "webp"):
            assert np.array_equal(np.asarray(read), result.image)


def test_what_a_format_cannot_hold_is_refused_or_noted() -> None:
    result = upscale(array(channels=4), 2, model=BICUBIC)
    for format, says in (("jpg", "alpha"), ("bmp", "allowed are"), ("a/b", "allowed are"), ("", "allowed are")):
        with pytest.raises(UnwritableOutput, match=says) as caught:
            result.to_bytes(format)
        assert "/tmp" not in str(caught.value) and "picture.jpg" not in str(caught.value)
    deep = upscale(random.random((6, 6, 3)), 2, model=BICUBIC)
    deep.to_bytes("png")
    assert any("rounded" in note for note in deep.report.notes)
    with pytest.raises(UnwritableOutput, match="to_bytes"):
        result.save(io.BytesIO())  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_result_is_a_picture_to_look_at(dtype: Any, channels: int) -> None:
    levels = 1 if dtype == np.float32 else np.iinfo(dtype).max
    pixels = (random.random((9, 8, channels)) * levels).astype(dtype)
    for image in (pixels, torch.from_numpy(pixels).permute(2, 0, 1)) if dtype != np.uint16 else (pixels,):
        result = upscale(image, 2, model=BICUBIC)
        deep = dtype == np.uint16 and channels == 1
        mode = "I;16" if deep else {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
        assert result.pil.mode == mode and result.pil.size == (16, 18)
        shown = result._repr_png_()
        assert shown is not None
        with Image.open(io.BytesIO(shown)) as read:
            assert np.array_equal(np.asarray(read), np.asarray(result.pil) if not deep else np.asarray(read))


def test_what_a_notebook_shows_is_not_larger_than_a_page() -> None:
    shown = upscale(array(30, 700), 2, model=BICUBIC)._repr_png_()
    assert shown is not None and Image.open(io.BytesIO(shown)).size == (1024, 44)


def test_a_float_file_is_shown_in_its_own_range(tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    ramp = np.linspace(-5, 20, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(ramp).save(path)
    result = upscale(path, 1, model=BICUBIC)
    assert np.asarray(result.pil).ravel()[[0, -1]].tolist() == [0, 255]
    assert np.allclose(result.image, ramp, atol=1e-3)


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["bicubic", "fast"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_batch_is_its_pictures_one_by_one(model: str, kind: str) -> None:
    pictures = random.random((3, 3, 36, 40), np.float32)
    budget = 0.5 if model == "fast" else None
    if kind == "torch":
        batch: Any = torch.from_numpy(pictures)
        alone: Any = torch.stack([upscale(one, 2.5, model=model, budget=budget).image for one in batch])
    else:
        batch = pictures
        each = [upscale(one.transpose(1, 2, 0), 2.5, model=model, budget=budget).image for one in batch]
        alone = np.stack(each).transpose(0, 3, 1, 2)
    seen: list[float] = []
    result = upscale(batch, 2.5, model=model, budget=budget, progress=seen.append)
    assert type(result.image) is type(alone) and result.image.shape == (3, 3, 90, 100)
    assert (result.image == alone).all() and result.image.dtype == alone.dtype
    assert result.report.macs == sum(one.report.macs for one in result.each)
    assert result.report.effort_map.shape[0] == 3 and result.report.as_dict()["width"] == 100
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] == 1


def test_a_batch_has_no_one_file() -> None:
    result = upscale(torch.rand(2, 1, 5, 6), 2, model=BICUBIC)
    for call in (lambda: result.save("x.png"), result.to_bytes, lambda: result.pil, result.effort_picture):
        with pytest.raises(InvalidRequest, match=r"each\[0\]"):
            call()
    assert result._repr_png_() is None and result.each[1].pil.size == (12, 10)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 9, 4, 4), (2, 4, 0, 4), (1, 2, 3, 4, 5)])
def test_what_is_no_batch_is_refused(shape: tuple[int, ...]) -> None:
    for image in (np.zeros(shape, np.float32), torch.zeros(shape)):
        with pytest.raises(UnreadableImage, match="shape"):
            upscale(image, 2, model=BICUBIC)
    with pytest.raises(UnreadableImage, match=r"\(0, 3, 1, 2\)"):
        upscale(np.zeros((2, 8, 8, 3), np.float32), 2, model=BICUBIC)


# --- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["numpy", "torch", "pil", "path", "bytes", "animation", "float file"])
def test_results_pickle_and_copy(tmp_path: Path, kind: str) -> None:
    pixels, path = array(), tmp_path / "photo.png"
    path.write_bytes(encoded(pixels, dpi=(300, 300)))
    frames = [Image.fromarray(array()) for _ in range(3)]
    animation = tmp_path / "moving.gif"
    frames[0].save(animation, save_all=True, append_images=frames[1:])
    deep = tmp_path / "deep.tif"
    Image.fromarray(np.linspace(-5, 20, 64, dtype=np.float32).reshape(8, 8)).save(deep)
    image: Any = {
        "numpy": pixels,
        "torch": torch.from_numpy(pixels).permute(2, 0, 1),
        "pil": Image.fromarray(pixels),
        "path": path,
        "bytes": path.read_bytes(),
        "animation": animation,
        "float file": deep,
    }[kind]
    result = upscale(image, 2, model=BICUBIC, crop=(1, 2, 7, 8))
    expected = result.to_bytes("tif")
    for other in (pickle.loads(pickle.dumps(result)), copy.copy(result), copy.deepcopy(result)):
        assert isinstance(other, Upscaled) and type(other.image) is type(result.image)
        assert np.array_equal(np.asarray(other.image), np.asarray(result.image))
        assert other.report.as_dict() == result.report.as_dict() and other.crop == result.crop
        assert torch.equal(other.effort_picture(), result.effort_picture())
        assert torch.equal(other.source.read(), result.source.read())
        assert other.to_bytes("tif") == expected
    assert hash(result) != hash(copy.copy(result)) and result != copy.copy(result)


def test_a_result_leaves_its_process() -> None:
    """Of bytes, whose file ends with the process that read them."""
    code = (
        "import pickle, sys, scalewise; data = sys.stdin.buffer.read(); "
        "sys.stdout.buffer.write(pickle.dumps(scalewise.upscale(data, 2, model='bicubic')))"
    )
    data = encoded(array(), dpi=(300, 300))
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    result = pickle.loads(done.stdout)
    assert result.to_bytes("png") == upscale(data, 2, model=BICUBIC).to_bytes("png")


def test_batches_and_errors_pickle() -> None:
    result = upscale(torch.rand(2, 3, 5, 6), 2, model=BICUBIC)
    assert torch.equal(pickle.loads(pickle.dumps(result)).image, result.image)
    for error in (OutputExists("a.png"), RequestDiffers("job", 2, ["model"]), Cancelled("cancelled")):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


# --- sizes: rows first in numbers, width first in text ----------------------------------------------------------------


def test_sizes_are_taken_as_they_come() -> None:
    picture = array(20, 30)
    for scale in (2, 2.0, "2", np.float32(2), np.int64(2), torch.tensor(2.0), "2x2", [2, 2], (2, 2), np.array([2, 2])):
        assert upscale(picture, scale, model=BICUBIC).report.size == (40, 60)  # type: ignore[arg-type]
    assert upscale(picture, [2, 1.5], model=BICUBIC).report.size == (40, 45)
    assert upscale(picture, "2x1.5", model=BICUBIC).report.size == (30, 60)
    for size in ("60x40", "60×40", "60x", "x40", (40, 60), [40, 60], np.array([40, 60]), (40.0, 60)):
        assert upscale(picture, size=size, model=BICUBIC).report.size == (40, 60)  # type: ignore[arg-type]
    large = wanted_size((100, 200), out="3840x2160")
    assert large == (2160, 3840)
    assert upscale(picture, long_edge=np.int64(60), model=BICUBIC).report.size == (40, 60)  # type: ignore[arg-type]
    assert upscale(picture, 2, model=BICUBIC, crop=[0, 0, 5, 6]).image.shape == (10, 12, 3)


def test_one_order_in_every_report() -> None:
    report = upscale(array(20, 30), 2, model=BICUBIC).report
    values = report.as_dict()
    assert report.size == (40, 60) and values["size"] == [40, 60]
    assert (values["width"], values["height"]) == (60, 40)


JUNK: tuple[Any, ...] = (
    "", "abc", "--", b"x", object(), [], (), [1], [1, 2, 3], {}, {"a": 1}, float("nan"), float("inf"), -1, 0, -0.5,
    True, 1e300, 10**30, "9" * 500, "1x", "x", "nan", (None, None), ("a", "b"), [[1, 2], [3, 4]], print, 1j,
    np.zeros(3), torch.zeros(2, 2), Path("/no/such/file"), "no\nsuch",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", ["scale", *(set(inspect.signature(upscale).parameters) - {"image", "scale", "progress"})]
)
def test_whatever_is_wrong_is_one_kind_of_error_in_one_line(name: str) -> None:
    """Everything derives from ScalewiseError, speaks of Python and not of options of the command line."""
    picture = np.full((5, 6, 3), 7, np.uint8)
    wrong = 0
    for junk in JUNK:
        given: dict[str, Any] = {"scale": 2, "model": BICUBIC} | {name: junk}
        if name in ("size", "long_edge"):
            given.pop("scale")
        try:
            upscale(picture, **given)
        except ScalewiseError as error:
            wrong += 1
            said = str(error)
            assert said and "\n" not in said and len(said) < 700, (name, junk, said)
            assert not re.search(r"(^|\s)--?[a-z]", said), (name, junk, said)
    assert wrong > 5 or name == "exact_scale"


@pytest.mark.parametrize("junk", [*JUNK, torch.zeros(3, 4, 4, device="meta"), torch.eye(4).to_sparse(), np.array("x")])
def test_whatever_is_no_picture_is_one_kind_of_error(junk: Any) -> None:
    with pytest.raises(ScalewiseError) as caught:
        upscale(junk, 2, model=BICUBIC)
    assert "\n" not in str(caught.value) and not re.search(r"(^|\s)--[a-z]", str(caught.value))


def raised_texts(path: Path) -> list[str]:
    """The pieces of text in `raise` statements of a file, and in functions that make the errors."""
    texts = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        call = node.exc if isinstance(node, ast.Raise) else node.value if isinstance(node, ast.Return) else None
        if isinstance(call, ast.Call):
            texts += [
                part.value for part in ast.walk(call) if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
    return texts


def test_errors_of_the_library_name_no_option_of_the_command_line() -> None:
    """The command line adds its own hints. The server is a command, and its owner reads what it says."""
    package = ROOT / "src" / "scalewise"
    found = [
        (path.relative_to(package).as_posix(), text)
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0] not in ("cli", "app")
        for text in raised_texts(path)
        if re.search(r"(^|\W)--[a-z]|(^|\s)-[a-z] [A-Z]", text)
    ]
    assert not found


def test_every_error_derives_from_the_root() -> None:
    from scalewise import errors

    kinds = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, BaseException)]
    assert len(kinds) > 10 and all(issubclass(kind, ScalewiseError) for kind in kinds)
    tree = errors.__doc__ or ""
    assert all(kind.__name__ in tree for kind in kinds)
    assert scalewise.errors is errors and scalewise.ScalewiseError is ScalewiseError
    with pytest.raises(InvalidRequest):
        checked_scale("abc")
    with pytest.raises(InvalidRequest):
        checked_crop("1,2,3,4")


# --- progress and cancelling ------------------------------------------------------------------------------------------


def test_progress_moves_and_cancels_within_the_only_tile() -> None:
    picture, seen = array(64, 64), list[float]()
    upscale(picture, 2, progress=seen.append)
    assert len([share for share in seen if 0 < share < 1]) >= 10 and seen == sorted(seen)

    def until_a_third(share: float) -> bool:
        return share < 0.3

    with pytest.raises(Cancelled):
        upscale(picture, 2, progress=until_a_third)

    class Left(Exception):
        pass

    def leave(share: float) -> None:
        if share > 0.3:
            raise Left

    with pytest.raises(Left):
        upscale(picture, 2, progress=leave)


# --- types ------------------------------------------------------------------------------------------------------------


def test_the_options_for_type_checkers_are_those_of_the_function() -> None:
    parameters = inspect.signature(upscale).parameters
    assert list(UpscaleOptions.__annotations__) == [name for name in parameters if name not in ("image", "scale")]
    for name, annotation in UpscaleOptions.__annotations__.items():
        said = annotation.__forward_arg__ if isinstance(annotation, typing.ForwardRef) else annotation
        assert said == parameters[name].annotation, name


def kinds_that_a_type_checker_sees(
    numbers: np.ndarray[tuple[int, int, int], np.dtype[np.uint8]], tensor: torch.Tensor, picture: Image.Image
) -> None:
    """Not run: pyright checks it with all tests."""
    typing.assert_type(upscale(numbers, 2).image, np.ndarray[tuple[int, int, int], np.dtype[np.uint8]])
    typing.assert_type(upscale(tensor, size="60x40").image, torch.Tensor)
    typing.assert_type(upscale(picture, 2, budget=0.5).image, Image.Image)
    typing.assert_type(upscale(Image.open("x"), 2).image, Image.Image)
    for file in ("photo.jpg", Path("photo.jpg"), b"bytes", io.BytesIO()):
        typing.assert_type(upscale(file, 2).image, np.ndarray)
    with open("photo.jpg", "rb") as file:
        typing.assert_type(scalewise.upscale(file, 2).pil, Image.Image)
    upscale(tensor, 2, bugdet=0.5)  # pyright: ignore[reportCallIssue]
    upscale(tensor, 2, dtype="fp16")  # pyright: ignore[reportArgumentType, reportCallIssue]


@pytest.mark.slow
def test_a_type_checker_sees_what_comes_back(tmp_path: Path) -> None:
    snippet = tmp_path / "user.py"
    snippet.write_text(
        "import numpy as np, torch\nfrom PIL import Image\nimport scalewise\n"
        "reveal_type(scalewise.upscale(np.zeros((4, 4, 3), np.uint8), 2).image)\n"
        "reveal_type(scalewise.upscale(torch.zeros(3, 4, 4), 2).image)\n"
        "reveal_type(scalewise.upscale(Image.new('RGB', (4, 4)), 2).image)\n"
        "reveal_type(scalewise.upscale('photo.jpg', [2, 1.5]).image)\n"
        "reveal_type(scalewise.upscale(b'', size='3840x2160').to_bytes())\n"
    )
    (tmp_path / "pyrightconfig.json").write_text(f'{{"extraPaths": ["{ROOT / "src"}"]}}')
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "-p", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    seen = re.findall(r'information: Type of ".*?" is "(.*)"', done.stdout)
    assert [kind.partition("[")[0] for kind in seen] == ["ndarray", "Tensor", "Image", "ndarray", "bytes"], done.stdout
    assert "uint8" in seen[0] or "unsignedinteger" in seen[0]
