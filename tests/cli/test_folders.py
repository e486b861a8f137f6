"""Folders and names of `scalewise upscale`: run twice, cut off, changed by others; what is passed over and said."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from scalewise.batch.manifest import MANIFEST
from scalewise.cli import app, many_pictures


def save(path: Path, seed: int = 0, width: int = 9, height: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(out, "png" if path.suffix == ".png" else "jpeg")
    path.write_bytes(out.getvalue())
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a.png", "b.jpg", "c.jfif")):
        save(tmp_path / "in" / name, seed)
    return tmp_path / "in"


def upscale(*arguments: object) -> tuple[int, list[str], list[str]]:
    """Exit code, lines of stdout and of stderr."""
    done = CliRunner().invoke(app, ["upscale", "-n", "bicubic", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout.splitlines(), done.stderr.splitlines()


def state(folder: Path) -> dict[str, tuple[int, int]]:
    status = {path.name: path.stat() for path in folder.iterdir() if path.name != MANIFEST}
    return {name: (one.st_mtime_ns, one.st_ino) for name, one in status.items()}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {MANIFEST}


def test_the_same_folder_command_runs_again_and_enlarges_no_result(photos: Path) -> None:
    assert upscale(photos, "-s", 2)[0] == 0
    first = state(photos)
    code, printed, said = upscale(photos, "-s", 2)
    assert (code, printed) == (0, []) and state(photos) == first
    assert said[0] == "scalewise: 3 files passed over, results of earlier runs: a_x2.png, b_x2.jpg, c_x2.jfif"
    code, printed, _ = upscale(photos, "-s", 3)
    assert (code, len(printed)) == (0, 3)
    assert names(photos) == {f"{stem}{x}{ext}" for stem, ext in (("a", ".png"), ("b", ".jpg"), ("c", ".jfif"))
                             for x in ("", "_x2", "_x3")}  # fmt: skip


def test_results_of_single_commands_are_passed_over_by_their_note(photos: Path) -> None:
    assert upscale(photos / "a.png", "-s", 3)[0] == 0
    assert not (photos / MANIFEST).exists()
    code, printed, said = upscale(photos, "-s", 2)
    assert (code, len(printed)) == (0, 3) and "results of earlier runs: a_x3.png" in said[0]


def test_what_single_commands_have_made_is_not_made_again(photos: Path) -> None:
    assert upscale(photos / "a.png", "-s", 2)[0] == upscale(photos / "b.jpg", "-s", 2, "--crop", "0,0,4,4")[0] == 0
    first = state(photos)
    code, printed, said = upscale(photos, "-s", 2)
    assert (code, len(printed)) == (1, 1) and printed[0].endswith("c_x2.jfif")
    assert any(line.startswith("scalewise: 1 file passed over, which an earlier command") for line in said)
    assert any("b_x2.jpg" in line and "exists" in line for line in said), "a part of the picture is not its result"
    assert first.items() <= state(photos).items()
    save(photos / "a.png", seed=7)
    os.utime(photos / "a.png", ns=(2**62, 2**62))  # after its result
    code, _, said = upscale(photos, "-s", 2)
    assert code == 1 and any("a_x2.png" in line and "exists" in line for line in said)
    assert upscale(photos, "-s", 2, "--overwrite")[0] == 0
    code, _, said = upscale(photos, "-s", 2, "--quality", 50)
    assert code == 1 and sum("exists" in line for line in said) == 3, "a folder's results are its manifest's"


def test_effort_maps_are_results_too(photos: Path) -> None:
    assert upscale(photos, "-s", 2, "--effort-map", f"{photos}/")[0] == 0
    assert "a_effort.png" in names(photos)
    code, printed, _ = upscale(photos, "-s", 2, "--effort-map", f"{photos}/")
    assert (code, printed) == (0, []) and "a_effort_x2.png" not in names(photos)
    (photos / "b_effort.png").unlink()
    code, printed, _ = upscale(photos, "-s", 2, "--effort-map", f"{photos}/")
    assert (code, len(printed)) == (0, 1) and "b_effort.png" in names(photos), "a map that was asked for is made"


@pytest.mark.parametrize("when", ["before the first", "between", "before the line", "at the end"])
def test_a_folder_command_that_was_cut_off_goes_on(photos: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    at = {"before the first": "one_by_one", "before the line": "_write_down"}
    with monkeypatch.context() as patch:
        if when in at:
            patch.setattr(many_pictures, at[when], interrupted)
            patch.setattr("scalewise.cli.upscale.one_by_one", interrupted if when in "before the first" else one_by_one)
        elif when == "between":
            calls: list[int] = []
            real = many_pictures._write_down

            def second(*arguments: Any) -> None:
                real(*arguments)
                calls.append(1)
                if len(calls) == 2:
                    raise KeyboardInterrupt

            patch.setattr(many_pictures, "_write_down", second)
        if when == "at the end":
            patch.setattr("scalewise.cli.upscale.Results.end", interrupted)
        assert upscale(photos, "-s", 2)[0] == 130
    code, printed, _ = upscale(photos, "-s", 2)
    expected = {"before the first": 3, "between": 1, "before the line": 3, "at the end": 0}
    assert (code, len(printed)) == (0, expected[when])
    assert upscale(photos, "-s", 2)[:2] == (0, []) and len(names(photos)) == 6


one_by_one = many_pictures.one_by_one


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_folder_goes_to_a_folder_that_is_made(photos: Path, tmp_path: Path, slash: str) -> None:
    out = tmp_path / "new"
    assert upscale("-i", photos, "-o", f"{out}{slash}", "-s", 2)[0] == 0
    assert names(out) == {"a.png", "b.jpg", "c.jfif"} and (out / MANIFEST).exists()
    one = tmp_path / "one"
    save(one / "only.png")
    assert upscale(one, "-o", tmp_path / "two", "-s", 2)[0] == 0 and names(tmp_path / "two") == {"only.png"}
    for name in ("big.png", "in/a.png"):
        code, _, said = upscale(one, "-o", tmp_path / name, "-s", 2)
        assert code == 2 and len(said) == 1 and "name a folder" in said[0]
    code, _, said = upscale(one, "-o", tmp_path / "no" / "such", "-s", 2)
    assert code == 1 and len(said) == 1 and "does not exist" in said[0]


def test_a_picture_that_is_large_enough_is_passed_over(photos: Path, tmp_path: Path) -> None:
    save(photos / "large.png", 5, 40, 30)
    report = tmp_path / "r.json"
    for option in (["--long-edge", 20], ["--size", "20x20"]):
        out = tmp_path / f"out{option[0]}"
        code, printed, said = upscale(photos, *option, "-o", out, "--report", report, "--overwrite")
        assert (code, len(printed)) == (0, 3) and names(out) == {"a.png", "b.jpg", "c.jfif"}
        assert said == ["scalewise: 1 file passed over, larger than what was asked for: large.png"]
    assert [one["passed_over"] for one in json.loads(report.read_text()) if "passed_over" in one] == [
        "it has 40x30 pixels"
    ]
    code, _, said = upscale(photos / "large.png", "--long-edge", 20)
    assert code == 2 and "40x30" in said[0], "alone it is an error"


def test_what_is_passed_over_is_said_once(photos: Path) -> None:
    for name in ("a.txt", "b.bmp", "c.ppm", "d.jp2", "e.mov", "f.pdf"):
        (photos / name).touch()
    said = upscale(photos, "-s", 2)[2]
    assert said == [
        "scalewise: 6 files passed over, of a kind that is not read: a.txt, b.bmp, c.ppm, d.jp2, e.mov and 1 more"
    ]
    assert upscale(photos, "-s", 3, "-q")[1:] == ([], [])


def test_manifests_lie_with_their_results(tmp_path: Path) -> None:
    first, second = save(tmp_path / "x" / "a.png"), save(tmp_path / "y" / "z" / "b.png")
    assert upscale(first, second, "-s", 2)[0] == 0
    assert {path.parent for path in tmp_path.rglob(MANIFEST)} == {first.parent, second.parent}
    code, printed, said = upscale(first, second, "-s", 2)
    assert (code, printed) == (0, []) and "2 of 2 were done before" in said[-1]


# --- files of others --------------------------------------------------------------------------------------------------


def test_results_of_another_request_are_not_replaced(photos: Path, tmp_path: Path) -> None:
    """A run, another with --overwrite, and the first again."""
    out = tmp_path / "out"
    assert upscale(photos, "-s", 2, "-o", out)[0] == upscale(photos, "-s", 4, "-o", out, "--overwrite")[0] == 0
    before = state(out)
    code, printed, said = upscale(photos, "-s", 2, "-o", out)
    assert (code, printed) == (1, []) and sum("--overwrite" in line for line in said) == 3 and state(out) == before


def test_a_file_in_the_place_of_a_result_is_not_replaced(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    upscale(photos, "-s", 2, "-o", out)
    (out / "a.png").write_text("mine")
    save(photos / "a.png", 9)
    code, printed, said = upscale(photos, "-s", 2, "-o", out)
    assert (code, printed) == (1, []) and "--overwrite" in said[-2] and (out / "a.png").read_text() == "mine"


def test_what_another_run_made_after_a_kill_is_not_replaced(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("scalewise.cli.upscale.one_by_one", interrupted)
        assert upscale(photos, "-s", 2, "-o", out)[0] == 130
    assert upscale(photos, "-s", 4, "-o", out)[0] == 0
    before = state(out)
    assert upscale(photos, "-s", 2, "-o", out)[0] == 1 and state(out) == before


def test_a_result_that_we_made_is_made_again_when_its_input_changed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    upscale(photos, "-s", 2, "-o", out)
    before = (out / "a.png").read_bytes()
    save(photos / "a.png", 9)
    assert upscale(photos, "-s", 2, "-o", out)[0] == 0 and (out / "a.png").read_bytes() != before


@pytest.mark.skipif(os.name != "posix", reason="links and pipes")
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.with_name("mine"))])
def test_a_manifest_that_is_none_is_one_line(photos: Path, tmp_path: Path, make: Any) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("mine")
    make(out / MANIFEST)
    code, printed, said = upscale(photos, "-s", 2, "-o", out)
    assert (code, printed, len(said)) == (1, [], 1) and MANIFEST in said[0]
    assert (out / "mine").read_text() == "mine" and names(out) == {"mine"}


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [255, 247, 242, 239])
@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_names_go_up_to_the_limit_of_the_disk(tmp_path: Path, length: int, more: list[str]) -> None:
    name = "n" * (length - 4) + ".png"
    save(tmp_path / "in" / name)
    out = tmp_path / "out"
    assert upscale(tmp_path / "in" / name, "-s", 2, "-o", f"{out}/", *more)[0] == 0
    assert upscale(tmp_path / "in", "-s", 2, "-o", tmp_path / "second", *more)[0] == 0
    assert names(out) == names(tmp_path / "second") == {name}


@pytest.mark.parametrize("where", ["input", "output", "folder"])
def test_a_name_beyond_the_limit_is_one_line(photos: Path, tmp_path: Path, where: str) -> None:
    long = "n" * 256
    arguments: list[object] = {
        "input": [f"{photos}/{long}.png"],
        "output": [photos / "a.png", "-o", tmp_path / f"{long}.png"],
        "folder": [photos, "-o", tmp_path / long],
    }[where]
    code, _, said = upscale(*arguments, "-s", 2)
    assert code == 1 and len(said) == 1 and "too long" in said[0]


def test_a_result_whose_name_is_too_long_does_not_stop_the_others(photos: Path) -> None:
    save(photos / ("n" * 251 + ".png"))
    code, printed, said = upscale(photos, "-s", 2)
    assert (code, len(printed)) == (1, 3) and "too long" in said[0] and "1 of 4 inputs failed" in said[1]


def test_the_effort_map_of_one_picture_is_a_result_too(photos: Path, tmp_path: Path) -> None:
    assert upscale(photos / "a.png", "-s", 2, "-o", tmp_path / "a.png", "--effort-map", photos / "map.png")[0] == 0
    code, printed, said = upscale(photos, "-s", 2)
    assert (code, len(printed)) == (0, 3) and "map.png" in said[0]
    assert "map_x2.png" not in names(photos)
