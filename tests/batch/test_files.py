"""Which pictures were meant, and where each result goes."""

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
        files.plan_outputs([folder], tmp_path / "out", "", recursive=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert len(files.plan_outputs([folder], tmp_path / "link", "", recursive=True)) == 4, (
        "the folder itself may be a link"
    )


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
    pairs = files.plan_outputs([folder], "out/", "_x2", recursive=True)
    assert [output.as_posix() for _, output in pairs] == [
        "out/a_x2.jpg",
        "out/b_x2.PNG",
        "out/sub/c_x2.webp",
        "out/sub/deeper/d_x2.tif",
    ]
    assert files.plan_outputs([folder / "a.jpg"], "big.png", "_x2") == [(folder / "a.jpg", Path("big.png"))]
    assert files.plan_outputs([folder / "a.jpg"], None, "_x2") == [(folder / "a.jpg", folder / "a_x2.jpg")]


def test_results_that_would_meet_are_refused(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"2 inputs cannot all go to 'big\.png'"):
        files.plan_outputs([folder], "big.png", "_x2")
    (folder / "a.png").touch()
    with pytest.raises(InvalidRequest, match="would both go to") as caught:
        files.plan_outputs([folder], None, "_x2", ".png")
    assert "\n" not in str(caught.value)
    (folder / "sub" / "a.jpg").touch()
    with pytest.raises(InvalidRequest, match="would both go to"):
        files.plan_outputs([folder / "a.jpg", folder / "sub" / "a.jpg"], "out/", "_x2")


def test_an_input_is_nobody_s_output(folder: Path) -> None:
    (folder / "a_x2.jpg").touch()  # from an earlier run
    with pytest.raises(InvalidRequest, match="an input too"):
        files.plan_outputs([folder], None, "_x2")
    with pytest.raises(InvalidRequest, match="an input too"):
        files.plan_outputs([folder], None, "")
    assert len(files.plan_outputs([folder], "out/", "_x2")) == 3
