"""What the manifest remembers, and when a picture is done again."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalewise.batch.manifest import MANIFEST, Manifest
from scalewise.errors import UnwritableOutput


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    photo, result = tmp_path / "photo.png", tmp_path / "out" / "photo.png"
    result.parent.mkdir()
    photo.write_bytes(b"a photo")
    result.write_bytes(b"a larger photo")
    return photo, result


def manifest(pair: tuple[Path, Path], **request: object) -> Manifest:
    return Manifest(pair[1].parent / MANIFEST, request)


def test_what_is_done_stays_done(pair: tuple[Path, Path]) -> None:
    first = manifest(pair, scale=2)
    assert first.known(*pair) is None
    first.done(*pair, {"seconds": 1.5})
    for one in (first, manifest(pair, scale=2)):
        line = one.known(*pair)
        assert line is not None and line["status"] == "done" and line["report"] == {"seconds": 1.5}
    assert first.path.read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("change", ["request", "input", "gone", "failed"])
def test_what_changed_is_done_again(pair: tuple[Path, Path], change: str) -> None:
    first = manifest(pair, scale=2)
    first.done(*pair, {})
    if change == "input":
        pair[0].write_bytes(b"another photo")
    elif change == "gone":
        pair[1].unlink()
    elif change == "failed":
        first.failed(*pair, "disk full", final=False)
    assert manifest(pair, scale=3 if change == "request" else 2).known(*pair) is None


def test_a_file_that_cannot_be_read_is_named_again_and_not_tried(pair: tuple[Path, Path]) -> None:
    manifest(pair).failed(*pair, "no picture", final=True)
    line = manifest(pair).known(*pair)
    assert line is not None and (line["status"], line["error"]) == ("failed", "no picture")
    pair[0].write_bytes(b"mended")
    assert manifest(pair).known(*pair) is None


def test_an_unfinished_line_counts_for_nothing(pair: tuple[Path, Path]) -> None:
    first = manifest(pair)
    first.done(*pair, {})
    whole = first.path.read_bytes()
    first.path.write_bytes(whole[: len(whole) // 2])
    again = manifest(pair)
    assert again.known(*pair) is None
    again.done(*pair, {})
    assert manifest(pair).known(*pair)
    first.path.write_bytes(first.path.read_bytes() + b"[1]\nnull\n\xff\xfe\n")
    assert manifest(pair).known(*pair)


def test_one_run_at_a_time_writes_to_a_folder(pair: tuple[Path, Path]) -> None:
    folder = pair[1].parent
    with Manifest.of(folder, {}):
        second = Manifest.of(folder, {})
        with pytest.raises(UnwritableOutput, match="another run"):
            second.__enter__()
    with Manifest.of(folder, {}):
        pass
