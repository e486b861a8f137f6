"""Which pictures were meant, and where each result goes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from scalewise.batch import files
from scalewise.batch.files import StrPath
from scalewise.batch.manifest import MANIFEST, Manifest
from scalewise.errors import InvalidRequest, UnreadableImage, UnwritableOutput


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.PNG", "a.jpg", "notes.txt", ".hidden.png", "sub/c.webp", "sub/deeper/d.tif", ".cache/e.png"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "in"


def expand(inputs: Sequence[StrPath], recursive: bool = False) -> list[Path]:
    return [one.path for one in files.find_pictures(inputs, recursive).pictures]


def plan(
    inputs: Sequence[StrPath], out: StrPath | None, suffix: str, ext: str | None = None, *, recursive: bool = False
) -> list[tuple[Path, Path]]:
    pictures = files.find_pictures(inputs, recursive).pictures
    return [(one.source, one.output) for one in files.plan_outputs(pictures, out, suffix, ext)]


def names(paths: list[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_a_folder_gives_its_pictures_in_order(folder: Path) -> None:
    assert names(expand([folder]), folder) == ["a.jpg", "b.PNG"]
    assert names(expand([folder], recursive=True), folder) == ["a.jpg", "b.PNG", "sub/c.webp", "sub/deeper/d.tif"]


def test_named_files_are_taken_as_they_are_and_none_twice(folder: Path) -> None:
    inputs = [folder / "notes.txt", folder / "b.PNG", str(folder)]
    assert names(expand(inputs), folder) == ["notes.txt", "b.PNG", "a.jpg"]


def test_links_do_not_lead_in_circles(folder: Path) -> None:
    (folder / "sub" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "z.png").symlink_to(folder / "a.jpg")
    expected = ["a.jpg", "b.PNG", "sub/c.webp", "sub/deeper/d.tif"]
    assert names(expand([folder], recursive=True), folder) == expected


def test_a_picture_is_called_by_its_own_name_not_by_that_of_a_link(folder: Path) -> None:
    (folder / "a link.png").symlink_to(folder / "b.PNG")
    found = files.find_pictures([folder])
    assert names([one.path for one in found.pictures], folder) == ["a.jpg", "b.PNG"]
    assert found.passed_over["twice"] == [folder / "a link.png"]
    (folder / "sub" / "c.webp").unlink()
    (folder / "sub" / "c.webp").symlink_to(folder / "a.jpg")
    for inputs in ([folder, folder / "sub"], [folder / "sub", folder]):
        found = files.find_pictures(inputs)
        assert names([one.path for one in found.pictures], folder) == ["a.jpg", "b.PNG"], "in whatever order they come"


def test_results_do_not_leave_the_output_folder_by_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(UnwritableOutput, match="is a link"):
        plan([folder], tmp_path / "out", "", recursive=True)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert len(plan([folder], tmp_path / "link", "", recursive=True)) == 4, "the folder itself may be a link"


@pytest.mark.parametrize("name", ["missing", "new\nline", "nul\0", "empty"])
def test_inputs_that_are_not_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableImage) as caught:
        expand([tmp_path / name])
    assert "\n" not in str(caught.value) and repr(str(tmp_path / name)) in str(caught.value)


def test_without_a_folder_the_result_is_next_to_the_input() -> None:
    assert files.output_path("x/photo.jpg", None, "_x3.7") == Path("x/photo_x3.7.jpg")
    assert files.output_path("x/photo.v1.JPG", None, "_x2") == Path("x/photo.v1_x2.JPG")
    assert files.output_path("x/photo.jpg", None, "_x2", ".png") == Path("x/photo_x2.png")
    assert files.output_path("x/photo.heic", None, "_x2") == Path("x/photo_x2.png"), "heic cannot be written"
    assert files.output_path("x/photo.jpg", "new", "") == Path("new/photo.jpg")


def test_the_first_bytes_say_what_an_input_is_not_its_name(tmp_path: Path) -> None:
    """A PNG with opacity that is called .jpg stays one, and a JPEG called .gif keeps its colours."""
    starts = {
        "saved.jpg": b"RIFF\0\0\0\0WEBPVP8X",
        "shot.JPG": b"\x89PNG\r\n\x1a\n",
        "photo.gif": b"\xff\xd8\xff\xe0",
        "phone.heic": b"\xff\xd8\xff\xe1",
        "bare": b"\xff\xd8\xff\xe1",
        "page.jpg": b"II*\0",
        "odd.png": b"\0\0\0\x18ftypmif1\0\0\0\0avifmiaf",
        "fine.JPEG": b"\xff\xd8\xff\xe1",
        "fine.tiff": b"MM\0*",
        "text.jpg": b"no picture",
    }
    for name, start in starts.items():
        (tmp_path / name).write_bytes(start)
    made = {name: files.output_path(tmp_path / name, None, "_x2").name for name in starts}
    assert made == {
        "saved.jpg": "saved_x2.webp",
        "shot.JPG": "shot_x2.png",
        "photo.gif": "photo_x2.jpg",
        "phone.heic": "phone_x2.jpg",
        "bare": "bare_x2.jpg",
        "page.jpg": "page_x2.tif",
        "odd.png": "odd_x2.avif",
        "fine.JPEG": "fine_x2.JPEG",
        "fine.tiff": "fine_x2.tiff",
        "text.jpg": "text_x2.jpg",
    }
    assert files.output_path(tmp_path / "saved.jpg", None, "", ".png").name == "saved.png", "what is asked for counts"


def test_out_is_a_folder_if_it_is_one_or_ends_like_one_or_the_input_is_one(tmp_path: Path) -> None:
    assert files.output_folder(tmp_path, False) == tmp_path
    assert files.output_folder("new/", False) == files.output_folder("new", True) == Path("new")
    assert files.output_folder(f"new{os.sep}", False) == Path("new")
    assert files.output_folder("new/big.png", False) is None
    (tmp_path / "file").touch()
    for name in (tmp_path / "file", "big.png"):
        with pytest.raises(InvalidRequest, match="the input is a folder"):
            files.output_folder(name, True)
    assert files.output_folder("v1.2", True) == Path("v1.2"), "a full stop does not make a picture"


def test_a_plan_keeps_sub_folders(folder: Path) -> None:
    pairs = plan([folder], "out/", "_x2", recursive=True)
    assert [output.as_posix() for _, output in pairs] == [
        "out/a_x2.jpg",
        "out/b_x2.PNG",
        "out/sub/c_x2.webp",
        "out/sub/deeper/d_x2.tif",
    ]
    assert plan([folder / "a.jpg"], "big.png", "_x2") == [(folder / "a.jpg", Path("big.png"))]
    assert plan([folder / "a.jpg"], None, "_x2") == [(folder / "a.jpg", folder / "a_x2.jpg")]


def test_results_that_would_meet_are_refused(folder: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"2 inputs cannot all go to 'big\.png'"):
        plan([folder / "a.jpg", folder / "b.PNG"], "big.png", "_x2")
    (folder / "sub" / "a.jpg").touch()
    with pytest.raises(InvalidRequest, match=r"would both go to 'out/a_x2\.jpg'") as caught:
        plan([folder / "a.jpg", folder / "sub" / "a.jpg"], "out/", "_x2")
    assert "\n" not in str(caught.value)


def test_pictures_of_one_name_and_two_extensions_keep_both(folder: Path) -> None:
    (folder / "a.png").touch()
    made = [output.name for _, output in plan([folder], None, "_x2", ".webp")]
    assert made == ["a.jpg_x2.webp", "a.png_x2.webp", "b_x2.webp"]
    assert [output.name for _, output in plan([folder], "out", "")] == ["a.jpg", "a.png", "b.PNG"]


def test_a_whole_name_that_meets_another_picture_leaves_that_its_whole_name_too(folder: Path) -> None:
    for name in ("a.png", "a.png.jpg", "a.png.jpg.gif"):
        (folder / name).touch()
    expected = {
        "a.jpg": "a.jpg.jpg",
        "a.png": "a.png.jpg",
        "a.png.jpg": "a.png.jpg.jpg",
        "a.png.jpg.gif": "a.png.jpg.gif.jpg",
        "b.PNG": "b.jpg",
    }
    inputs = [folder / name for name in expected]
    for given in (inputs, inputs[::-1], [folder]):
        made = {one.name: output.name for one, output in plan(given, "out/", "", ".jpg")}
        assert made == expected, "in whatever order they come"


def test_a_pipe_among_pictures_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "a.jpg.webp")
    assert [output.name for _, output in plan([folder / "a.jpg.webp"], None, "_x2")] == ["a.jpg_x2.webp"]


def test_an_input_is_nobody_s_output(folder: Path) -> None:
    (folder / "a_x2.jpg").touch()  # from an earlier run
    with pytest.raises(InvalidRequest, match="an input too"):
        plan([folder], None, "_x2")
    with pytest.raises(InvalidRequest, match="an input too"):
        plan([folder], None, "")
    assert len(plan([folder], "out/", "_x2")) == 3


def test_what_is_passed_over_is_listed_by_reason(folder: Path) -> None:
    (folder / "scan.bmp").touch()
    (folder / "album").symlink_to(folder / "sub", target_is_directory=True)
    (folder / "same.jpg").symlink_to(folder / "a.jpg")
    found = files.find_pictures([folder], recursive=True)
    named = {why: names(paths, folder) for why, paths in found.passed_over.items()}
    assert named == {"kind": ["notes.txt", "scan.bmp"], "link": ["album"], "twice": ["same.jpg"]}


def test_every_name_of_a_jpeg_is_one(tmp_path: Path) -> None:
    for name in ("a.jfif", "b.jpe", "c.JPG", "d.jpeg"):
        (tmp_path / name).touch()
    assert [output.name for _, output in plan([tmp_path], "out", "")] == ["a.jfif", "b.jpe", "c.JPG", "d.jpeg"]


def listed(source: Path, output: Path) -> None:
    Manifest(output.parent / MANIFEST, {}).done(source, output, {})


def test_results_of_the_same_pictures_are_passed_over(folder: Path) -> None:
    result, other = folder / "a_x2.jpg", folder / "b_x2.PNG"
    result.write_text("made")
    other.write_text("made, and then changed")
    listed(folder / "a.jpg", result)
    listed(folder / "b.PNG", other)
    other.write_text("mine")
    found = files.without_results(files.find_pictures([folder]), None)
    assert names([one.path for one in found.pictures], folder) == ["a.jpg", "b.PNG", "b_x2.PNG"]
    assert found.passed_over["result"] == [result]


def test_results_of_other_pictures_may_be_enlarged(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.jpg").write_text("made")
    listed(folder / "a.jpg", out / "a.jpg")
    found = files.without_results(files.find_pictures([out]), tmp_path / "larger")
    assert [one.path.name for one in found.pictures] == ["a.jpg"]


def test_results_below_the_input_folder_are_passed_over(folder: Path) -> None:
    out = folder / "large"
    out.mkdir()
    (out / "sub").mkdir()
    (out / "sub" / "c.webp").write_text("made")
    Manifest(out / MANIFEST, {}).done(folder / "sub" / "c.webp", out / "sub" / "c.webp", {})
    found = files.without_results(files.find_pictures([folder], True), out)
    assert found.passed_over["result"] == [out / "sub" / "c.webp"]


def test_each_result_has_the_manifest_of_its_own_folder(folder: Path, tmp_path: Path) -> None:
    def homes(inputs: Sequence[StrPath], out: StrPath | None) -> set[Path]:
        pictures = files.find_pictures(inputs, True).pictures
        return {one.home for one in files.plan_outputs(pictures, out, "_x2")}

    other = tmp_path / "other"
    other.mkdir()
    (other / "e.png").touch()
    assert homes([folder, other / "e.png"], None) == {folder, other}, "not their common ancestor"
    assert homes([folder / "a.jpg", other / "e.png"], None) == {folder, other}
    assert homes([folder, other], "out/") == {Path("out")}
