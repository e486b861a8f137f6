"""What the manifest remembers, and when a picture is done again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from scalewise.batch.manifest import MANIFEST, Manifest, digest_of_request, record_arrival, results_in
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


def test_a_result_belongs_to_its_run_only_as_long_as_nobody_touched_it(pair: tuple[Path, Path]) -> None:
    first = manifest(pair, scale=2)
    first.done(*pair, {})
    assert first.owns(pair[1]) and manifest(pair, scale=2).owns(pair[1])
    assert not manifest(pair, scale=3).owns(pair[1])
    pair[1].write_bytes(b"somebody's own")
    assert not first.owns(pair[1]) and first.known(*pair), "it stays, and is not made again"


def test_who_made_a_result_last_owns_it(pair: tuple[Path, Path]) -> None:
    first = manifest(pair, scale=2)
    first.done(*pair, {})
    second = manifest(pair, scale=4)
    pair[1].write_bytes(b"a much larger photo")
    second.done(*pair, {})
    assert not manifest(pair, scale=2).owns(pair[1]) and manifest(pair, scale=4).owns(pair[1])


def test_a_result_that_arrived_before_a_kill_is_owned(pair: tuple[Path, Path]) -> None:
    status = pair[1].stat()
    record_arrival(
        pair[1].parent / MANIFEST, digest_of_request({}), *pair, arriving=[status.st_size, status.st_mtime_ns]
    )
    assert manifest(pair).owns(pair[1]) and manifest(pair).known(*pair) is None
    assert results_in([pair[1].parent]) == {pair[1]: pair[0]}
    link = pair[1].with_name("link.png")
    pair[1].rename(link)
    pair[1].symlink_to(link)
    assert not manifest(pair).owns(pair[1]), "a link is nobody's result"


ODD: list[dict[str, Any]] = [
    {"request": None}, {"request": 7}, {"output": None}, {"output": ["a"]}, {"input": ["a"]}, {"input": None},
    {"report": None}, {"report": []}, {"made": None}, {"made": [1]}, {"made": [1, "x"]}, {"made": "now"},
    {"stamp": "x"}, {"stamp": [True, 1]}, {"status": "well"}, {"status": ["done"]}, {"status": "failed"},
    {"status": None, "arriving": 3},
]  # fmt: skip


@pytest.mark.parametrize("change", ODD)
def test_lines_of_another_form_are_passed_over(pair: tuple[Path, Path], change: dict[str, Any]) -> None:
    first = manifest(pair)
    first.done(*pair, {})
    line = json.loads(first.path.read_text()) | change
    first.path.write_text(json.dumps({name: value for name, value in line.items() if value is not None}) + "\n")
    again = manifest(pair)
    assert again.unusable == 1 and again.known(*pair) is None and not again.owns(pair[1])
    again.done(*pair, {})
    assert manifest(pair).known(*pair) is not None


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.with_name("photo.png"))])
def test_only_a_plain_file_is_a_manifest(pair: tuple[Path, Path], make: Any) -> None:
    folder, before = pair[1].parent, pair[1].read_bytes()
    make(folder / MANIFEST)
    with pytest.raises(UnwritableOutput, match="plain file"):
        Manifest.of(folder, {}).__enter__()
    assert pair[1].read_bytes() == before
