"""The command line and odd names: `-` for stdin and stdout, names with line breaks, options of the file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from images.containers import by_pypng, frames, picture, with_metadata, with_pypng
from PIL import Image
from typer.testing import CliRunner

from scalewise.cli import app


def run(*arguments: object, stdin: bytes | None = None) -> Any:
    words = ["upscale", "-s", "2", "-n", "bicubic", *(str(one) for one in arguments)]
    return CliRunner().invoke(app, words, input=stdin, catch_exceptions=False)


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "png")
    return out.getvalue()


def test_stdin_goes_to_stdout_and_words_to_stderr() -> None:
    done = run("-", stdin=png(picture(3)))
    assert done.exit_code == 0 and done.stdout_bytes.startswith(b"\x89PNG")
    assert Image.open(io.BytesIO(done.stdout_bytes)).size == (20, 24)
    assert done.stderr.startswith("20x24") and "/tmp" not in done.stderr and "  -" in done.stderr


@pytest.mark.parametrize(("ext", "format"), [("jpg", "JPEG"), ("webp", "WEBP"), ("tif", "TIFF")])
def test_stdout_takes_the_format_that_is_asked_for(tmp_path: Path, ext: str, format: str) -> None:
    by_pypng(tmp_path / "in.png", picture(3))
    done = run(tmp_path / "in.png", "-o", "-", "--ext", ext)
    assert done.exit_code == 0 and Image.open(io.BytesIO(done.stdout_bytes)).format == format
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.png"]


def test_stdin_goes_to_a_file(tmp_path: Path) -> None:
    done = run("-", "-o", tmp_path / "out.png", "--report", tmp_path / "r.json", stdin=png(picture(3)))
    assert done.exit_code == 0 and done.stdout.startswith("20x24")
    assert with_pypng(tmp_path / "out.png")[0].shape == (24, 20, 3)
    assert '"input": "-"' in (tmp_path / "r.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        (["-"], b"", "stdin is empty"),
        (["-"], b"no picture", "not a picture"),
        (["-", "other.png"], b"x", "name it alone"),
        (["-"], png(picture(3))[:60], "damaged"),
    ],
)
def test_what_stdin_cannot_be_is_one_line(arguments: list[str], stdin: bytes, words: str) -> None:
    done = run(*arguments, stdin=stdin)
    assert done.exit_code in (1, 2) and not done.stdout_bytes
    assert done.stderr.count("\n") == 1 and words in done.stderr


@pytest.mark.parametrize("name", ["new\nline.png", "escape\x1b[31m.png", "ü 'q'.png"])
def test_names_are_shown_on_one_line_without_signs_that_a_terminal_obeys(tmp_path: Path, name: str) -> None:
    by_pypng(tmp_path / "in.png", picture(3))
    (tmp_path / "in.png").rename(tmp_path / name)
    (tmp_path / f"bad {name}").write_bytes(b"x")
    done = run(tmp_path, "-o", f"{tmp_path}/out/")
    assert done.exit_code == 1 and (tmp_path / "out" / name).exists()
    assert done.stdout.count("\n") == 1 and done.stderr.count("\n") == 2 and "\x1b" not in done.stdout + done.stderr


def test_options_of_the_file(tmp_path: Path) -> None:
    with_metadata(tmp_path / "in.jpg")
    for name, options in {"a.webp": ["--lossless"], "b.jpg": ["--strip"], "c.png": ["--dpi", "scale"]}.items():
        assert run(tmp_path / "in.jpg", "-o", tmp_path / name, *options).exit_code == 0
    assert b"VP8L" in (tmp_path / "a.webp").read_bytes()
    assert b"Maker" not in (tmp_path / "b.jpg").read_bytes()
    content = (tmp_path / "c.png").read_bytes()
    assert b"scalewise 0." in content and b"model bicubic, scale 2 x 2, budget 1 of the MACs" in content
    assert Image.open(tmp_path / "c.png").info["dpi"] == pytest.approx((600, 600), abs=0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--dpi", "double"], "keep and scale"),
        (["--lossless", "--quality", "80"], "contradict"),
        (["--lossless", "--ext", "jpg"], "no such mode"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: list[str], words: str) -> None:
    by_pypng(tmp_path / "in.png", picture(3))
    done = run(tmp_path / "in.png", *options)
    assert done.exit_code == 2 and words in done.stderr and done.stderr.count("\n") == 1


def test_every_frame_is_enlarged_and_the_line_says_so(tmp_path: Path) -> None:
    frames("gif")(tmp_path / "in.gif", [picture(3), picture(3, seed=1)])
    done = run(tmp_path / "in.gif")
    assert done.exit_code == 0 and "2 pages or frames" in done.stdout
    with Image.open(tmp_path / "in_x2.gif") as image:
        assert image.n_frames == 2  # pyright: ignore[reportAttributeAccessIssue]  # animations have it
        assert image.size == (20, 24)
    done = run(tmp_path / "in.gif", "-o", tmp_path / "first.png")
    assert "page or frame 1 of 2" in done.stdout
