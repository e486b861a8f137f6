"""Which pictures were meant, where each result goes, and what the manifest remembers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scalewise.batch import files
from scalewise.errors import InvalidRequest, UnreadableImage, UnwritableOutput


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden.png", "sub/c.webp", "sub/deeper/d.tif", ".cache/e.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "in"


def names(paths: list[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_a_folder_gives_its_pictures_in_order(folder: Path) -> None:
    assert names(files.expand([folder]), folder) == ["a.jpg", "b.PNG"]
    assert names(files.expand([folder], recursive=True), folder) == ["a.jpg", "b.PNG", "sub/c.webp", "sub/deeper/d.tif"]


def test_named_files_are_taken_as_they_are_and_none_twice(folder: Path) -> None:
    inputs = [folder / "notes.txt", folder / "b.PNG", str(folder)]
    assert names(files.expand(inputs), folder) == ["notes.txt", "b.PNG", "a.jpg"]


def test_links_do_not_lead_in_circles(folder: Path) -> None:
    (folder / "sub" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "z.png").symlink_to(folder / "a.jpg")
    expected = ["a.jpg", "b.PNG", "sub/c.webp", "sub/deeper/d.tif"]
    assert names(files.expand([folder], recursive=True), folder) == expected


def test_results_do_not_leave_the_output_folder_by_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(UnwritableOutput, match="is a link"):
        files.plan([folder], tmp_path / "out", "", recursive=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert len(files.plan([folder], tmp_path / "link", "", recursive=True)) == 4, "the folder itself may be a link"


@pytest.mark.parametrize("name", ["missing", "new\nline", "nul\0", "empty"])
def test_inputs_that_are_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableImage) as caught:
        files.expand([tmp_path / name])
    assert "\n" not in str(caught.value) and repr(str(tmp_path / name)) in str(caught.value)


def test_without_out_the_result_is_beside_the_input() -> None:
    assert files.output_path("x/photo.jpg", None, "_x3.7") == Path("x/photo_x3.7.jpg")
    assert files.output_path("x/photo.v1.JPG", None, "_x2") == Path("x/photo.v1_x2.JPG")
    assert files.output_path("x/photo.jpg", None, "_x2", ".png") == Path("x/photo_x2.png")
    assert files.output_path("x/photo.heic", None, "_x2") == Path("x/photo_x2.png"), "heic cannot be written"


def test_out_is_a_folder_if_it_is_one_or_ends_like_one(tmp_path: Path) -> None:
    assert files.output_path("x/photo.jpg", tmp_path, "_x2") == tmp_path / "photo_x2.jpg"
    assert files.output_path("x/photo.jpg", "new/", "") == Path("new/photo.jpg")
    assert files.output_path("x/photo.jpg", f"new{os.sep}", "") == Path("new/photo.jpg")
    assert files.output_path("x/photo.jpg", "new/big.png", "_x2") == Path("new/big.png")


def test_a_plan_keeps_sub_folders(folder: Path) -> None:
    pairs = files.plan([folder], "out/", "_x2", recursive=True)
    assert [output.as_posix() for _, output in pairs] == [
        "out/a_x2.jpg",
        "out/b_x2.PNG",
        "out/sub/c_x2.webp",
        "out/sub/deeper/d_x2.tif",
    ]
    assert files.plan([folder / "a.jpg"], "big.png", "_x2") == [(folder / "a.jpg", Path("big.png"))]
    assert files.plan([folder / "a.jpg"], None, "_x2") == [(folder / "a.jpg", folder / "a_x2.jpg")]


def test_results_that_would_meet_are_refused(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"2 inputs cannot all go to 'big\.png'"):
        files.plan([folder], "big.png", "_x2")
    (folder / "a.png").touch()
    with pytest.raises(InvalidRequest, match="would both go to") as caught:
        files.plan([folder], None, "_x2", ".png")
    assert "\n" not in str(caught.value)
    (folder / "sub" / "a.jpg").touch()
    with pytest.raises(InvalidRequest, match="would both go to"):
        files.plan([folder / "a.jpg", folder / "sub" / "a.jpg"], "out/", "_x2")


def test_an_input_is_nobody_s_output(folder: Path) -> None:
    (folder / "a_x2.jpg").touch()  # from an earlier run
    with pytest.raises(InvalidRequest, match="an input too"):
        files.plan([folder], None, "_x2")
    with pytest.raises(InvalidRequest, match="an input too"):
        files.plan([folder], None, "")
    assert len(files.plan([folder], "out/", "_x2")) == 3


# --- the manifest -----------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    photo, result = tmp_path / "photo.png", tmp_path / "out" / "photo.png"
    result.parent.mkdir()
    photo.write_bytes(b"a photo")
    result.write_bytes(b"a larger photo")
    return photo, result


def manifest(pair: tuple[Path, Path], **request: object) -> files.Manifest:
    return files.Manifest(pair[1].parent / files.MANIFEST, request)


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
    with files.Manifest.of(folder, {}):
        second = files.Manifest.of(folder, {})
        with pytest.raises(UnwritableOutput, match="another run"):
            second.__enter__()
    with files.Manifest.of(folder, {}):
        pass
