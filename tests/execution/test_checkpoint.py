"""Runs that are cut off go on: byte for byte what they would have been, with at most one row of tiles done again."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.cli import app
from scalewise.errors import RequestDiffers, UnwritableOutput
from scalewise.execution import checkpoint_records as records
from scalewise.execution import tiles
from scalewise.execution.checkpoint import RunCheckpoint, folder_of, request_of
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run

ROOT = Path(__file__).resolve().parents[2]
BICUBIC = zoo.bicubic()
REMOVE = "scalewise.execution.checkpoint.remove"


class Cut(Exception):
    """The run ends here."""


def picture(path: Path, height: int = 96, width: int = 60, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def run(
    photo: Path,
    out: Path,
    model: Any = BICUBIC,
    budget: float = 1.0,
    tile: int = 16,
    stop: int | None = None,
    restart: bool = False,
) -> tuple[int, str, Any]:
    """One run with a checkpoint, cut off before tile `stop`: how many tiles it rendered, its notes, its report."""
    source, rendered = images.open(photo), 0
    size = (source.size[0] * 2, source.size[1] * 2)
    request = Budget.fraction(budget)
    run_plan = plan_run(source, size, model, request, RunOptions(tile=tile, dtype="fp32"))

    real = tiles.render_tile

    def counted(*arguments: Any) -> Any:
        nonlocal rendered
        if rendered == stop:
            raise Cut
        rendered += 1
        return real(*arguments)

    with (
        pytest.MonkeyPatch.context() as patch,
        RunCheckpoint.of(out, request_of(run_plan, model, request, out), run_plan, restart=restart) as checkpoint,
    ):
        patch.setattr(tiles, "render_tile", counted)
        run_plan = checkpoint.run_plan
        sink = images.create(out, size, source, scratch=checkpoint.pixels)
        try:
            _, report = enlarge(run_plan, sink, checkpoint=checkpoint)
        except Cut:
            report = None
    return rendered, checkpoint.notes, report


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("stop", [1, 4, 6, 13, 23])
def test_a_run_that_is_cut_off_goes_on_to_the_same_bytes(tmp_path: Path, stop: int) -> None:
    photo = picture(tmp_path / "photo.png")
    whole, out = tmp_path / "whole.png", tmp_path / "out.png"
    all_tiles, said, full = run(photo, whole)
    assert all_tiles == 24 and said == ""  # six rows of four
    assert run(photo, out, stop=stop)[0] == stop and not out.exists()
    assert folder_of(out).exists() == (stop >= 4), "no row was finished: nothing to keep"
    again, said, report = run(photo, out)
    assert again == 24 - stop // 4 * 4 and ("going on" in said) == (stop >= 4)
    assert out.read_bytes() == whole.read_bytes()
    assert (report.macs, report.macs_full, report.rim) == (full.macs, full.macs_full, full.rim)
    assert leftovers(tmp_path) == {"photo.png", "whole.png", "out.png"}


def test_a_run_cut_off_while_the_file_is_written_renders_nothing_again(tmp_path: Path) -> None:
    photo, whole, out = picture(tmp_path / "photo.png"), tmp_path / "whole.png", tmp_path / "out.png"
    run(photo, whole)

    def cut(*_: Any, **__: Any) -> Any:
        raise Cut

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scalewise.images.write.write_container", cut)
        assert run(photo, out)[0] == 24
    (folder_of(out) / ".0123.part").write_bytes(b"what a killed process left")
    assert not out.exists() and run(photo, out)[0] == 0
    assert out.read_bytes() == whole.read_bytes()
    assert leftovers(tmp_path) == {"photo.png", "whole.png", "out.png"}


def test_what_was_decided_is_not_decided_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo, model = picture(tmp_path / "photo.png", 128, 96), zoo.load("fast", device="cpu").model
    whole, out = tmp_path / "whole.png", tmp_path / "out.png"
    full = run(photo, whole, model, 0.5, 32)[2]
    run(photo, out, model, 0.5, 32, stop=7)
    monkeypatch.setattr("scalewise.execution.decide.score", lambda *_: pytest.fail("the router looked again"))
    again, _, report = run(photo, out, model, 0.5, 32)
    assert again == 12 - 6 and out.read_bytes() == whole.read_bytes()
    assert report.macs == full.macs and torch.equal(report.effort_map, full.effort_map)


def test_another_input_starts_anew_and_another_request_only_when_it_is_allowed(tmp_path: Path) -> None:
    photo, out, whole = picture(tmp_path / "photo.png"), tmp_path / "out.png", tmp_path / "whole.png"
    run(photo, out, stop=10)
    before = {path.name: path.read_bytes() for path in folder_of(out).iterdir()}
    with pytest.raises(RequestDiffers, match="2 finished rows of tiles of a run with another tile"):
        run(photo, out, tile=32)
    assert before == {path.name: path.read_bytes() for path in folder_of(out).iterdir()}, "nothing is dropped"
    picture(photo, seed=1)
    again, notes, _ = run(photo, out, stop=10)
    assert again == 10 and "starting anew" in notes and "input changed" in notes
    again, notes, _ = run(photo, out, tile=32, restart=True)
    assert again == 6 and "starting anew" in notes and "tile changed" in notes
    run(photo, whole, tile=32)
    assert out.read_bytes() == whole.read_bytes()


def test_a_half_written_line_counts_for_nothing(tmp_path: Path) -> None:
    photo, out = picture(tmp_path / "photo.png"), tmp_path / "out.png"
    run(photo, out, stop=10)
    with (folder_of(out) / "bands.jsonl").open("a") as file:
        file.write('{"band": 2, "ran"')
    assert run(photo, out)[0] == 24 - 8
    run(photo, tmp_path / "whole.png")
    assert out.read_bytes() == (tmp_path / "whole.png").read_bytes()


def spoil(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def spoiled(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return spoiled


def flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :]


def resealed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Changes job.json as somebody would who knows how records are sealed."""

    def spoiled(folder: Path) -> None:
        record = json.loads((folder / "job.json").read_text())
        del record["seal"]
        change(record)
        (folder / "job.json").write_text(json.dumps(records.sealed(record)))

    return spoiled


def bands_of(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    def spoiled(folder: Path) -> None:
        lines = [json.loads(line) for line in (folder / "bands.jsonl").read_text().splitlines()]
        lines = change(lines) or lines
        (folder / "bands.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    return spoiled


def resealed_bands(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Changes the first line of bands.jsonl, and seals it and those after it anew."""

    def spoiled(folder: Path) -> None:
        seal = json.loads((folder / "job.json").read_text())["seal"]
        lines = [json.loads(line) for line in (folder / "bands.jsonl").read_text().splitlines()]
        change(lines[0])
        for index, line in enumerate(lines):
            lines[index] = records.sealed({name: line[name] for name in line if name != "seal"}, seal)
            seal = lines[index]["seal"]
        (folder / "bands.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    return spoiled


def with_plan(value: Any) -> Callable[[Path], None]:
    """Puts something else into plan.pt, with the digest that it needs."""

    def spoiled(folder: Path) -> None:
        content = records.tensor_bytes(value)
        (folder / "plan.pt").write_bytes(content)
        resealed(lambda record: record.update(plan=records.digest_of(content)))(folder)

    return spoiled


NO_PLAN: dict[str, Any] = {"effort": {}, "route": [], "macs": 0, "full": 0, "overhead": {}}
ROW = 2 * 16 * 2 * 60 * 3  # bytes of a row of tiles of the output
DAMAGED: dict[str, tuple[Callable[[Path], Any], int]] = {  # what is damaged, and how many of two rows of tiles are kept
    "job: not JSON": (spoil("job.json", lambda _: b"{"), 0),
    "job: empty": (spoil("job.json", lambda _: b""), 0),
    "job: a list": (spoil("job.json", lambda _: b"[]"), 0),
    "job: null": (spoil("job.json", lambda _: b"null"), 0),
    "job: very deep": (spoil("job.json", lambda _: b"[" * 200_000), 0),
    "job: a number of 9000 digits": (spoil("job.json", lambda _: b'{"side": ' + b"9" * 9000 + b"}"), 0),
    "job: a flipped bit": (spoil("job.json", flipped(40)), 0),
    "job: request is a list": (resealed(lambda record: record.update(request=[])), 0),
    "job: request is null": (resealed(lambda record: record.update(request=None)), 0),
    "job: side 0": (resealed(lambda record: record.update(side=0)), 0),
    "job: side -5": (resealed(lambda record: record.update(side=-5)), 0),
    "job: side is text": (resealed(lambda record: record.update(side="x")), 0),
    "job: no side": (resealed(lambda record: record.pop("side")), 0),
    "job: other rows": (resealed(lambda record: record.update(rows=7)), 0),
    "plan: flipped bits": (spoil("plan.pt", flipped(200)), 0),
    "plan: cut": (spoil("plan.pt", lambda content: content[:100]), 0),
    "plan: gone": (lambda folder: (folder / "plan.pt").unlink(), 0),
    "plan: a tensor": (with_plan(torch.zeros(2)), 0),
    "plan: no route": (with_plan({"effort": {}}), 0),
    "plan: odd effort": (with_plan(NO_PLAN | {"effort": {"x": 1}}), 0),
    "plan: odd decisions": (with_plan(NO_PLAN | {"route": [{"unit": "x"}]}), 0),
    "plan: negative counts": (with_plan(NO_PLAN | {"macs": -1}), 0),
    "bands: gone": (lambda folder: (folder / "bands.jsonl").unlink(), 0),
    "bands: {}": (spoil("bands.jsonl", lambda _: b"{}\n"), 0),
    "bands: text": (spoil("bands.jsonl", lambda _: b'"x"\nnull\n7\n'), 0),
    "bands: the first is changed": (bands_of(lambda lines: lines[0].update(lean=7)), 0),
    "bands: the second is changed": (bands_of(lambda lines: lines[1].update(full=7)), 1),
    "bands: only the second": (bands_of(lambda lines: lines[1:]), 0),
    "bands: the same twice": (bands_of(lambda lines: [*lines, lines[1]]), 2),
    "bands: number 99": (resealed_bands(lambda line: line.update(band=99)), 0),
    "bands: unknown kind of MACs": (resealed_bands(lambda line: line.update(ran={"magic": 1})), 0),
    "bands: negative counts": (resealed_bands(lambda line: line.update(full=-1)), 0),
    "bands: notes are numbers": (resealed_bands(lambda line: line.update(notes=[1])), 0),
    "pixels: gone": (lambda folder: (folder / "pixels").unlink(), 0),
    "pixels: cut": (spoil("pixels", lambda content: content[:-1]), 0),
    "pixels: a bit in the first row": (spoil("pixels", flipped(10)), 0),
    "pixels: a bit in the second row": (spoil("pixels", flipped(ROW + 10)), 1),
    "pixels: a bit in an unfinished row": (spoil("pixels", flipped(2 * ROW + 10)), 2),
    "effort: flipped bits": (spoil("effort-1.pt", flipped(200)), 0),
    "effort: gone": (lambda folder: (folder / "effort-1.pt").unlink(), 0),
    "arrived: text": (lambda folder: (folder / "arrived.json").write_text("x"), 2),
}  # fmt: skip


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, Any]:
    """A folder with a photo, a run that was cut off after two rows of tiles; the right result and report."""
    folder = tmp_path_factory.mktemp("cut")
    photo, whole = picture(folder / "photo.png"), folder / "whole.png"
    report = run(photo, whole)[2]
    run(photo, folder / "out.png", stop=10)
    content = whole.read_bytes()
    whole.unlink()
    return folder, content, report


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_lies_in_the_folder_is_checked_before_it_is_used(
    tmp_path: Path, cut_off: tuple[Path, bytes, Any], damage: str
) -> None:
    """Whatever was damaged, the picture is the right one, what was said is one line, and the folder goes."""
    shutil.copytree(cut_off[0], tmp_path, dirs_exist_ok=True)
    photo, out = tmp_path / "photo.png", tmp_path / "out.png"
    spoiled, rows = DAMAGED[damage]
    spoiled(folder_of(out))
    again, notes, report = run(photo, out)
    assert again == 24 - 4 * rows
    assert notes.count("\n") == 0 and notes.startswith(f"going on after {rows}" if rows else "starting anew")
    full = cut_off[2]
    assert out.read_bytes() == cut_off[1]
    assert (report.macs, report.macs_full, report.rim) == (full.macs, full.macs_full, full.rim)
    assert leftovers(tmp_path) == {"photo.png", "out.png"}


def test_random_damage_never_changes_a_picture(tmp_path: Path, cut_off: tuple[Path, bytes, Any]) -> None:
    """One flipped bit, somewhere in one of the files."""
    photo, out, chance = tmp_path / "photo.png", tmp_path / "out.png", random.Random(0)
    for _ in range(15):
        shutil.copytree(cut_off[0], tmp_path, dirs_exist_ok=True)
        path = chance.choice(sorted(path for path in folder_of(out).iterdir() if path.stat().st_size))
        content = bytearray(path.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        run(photo, out)
        assert out.read_bytes() == cut_off[1], path
        out.unlink()


def other_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    (folder / "pixels").write_text("mine too")


def linked_folder(folder: Path) -> None:
    other_folder(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"), target_is_directory=True)


def linked_pixels(folder: Path) -> None:
    folder.mkdir()
    folder.with_name("thesis.txt").write_text("mine")
    (folder / "pixels").symlink_to(folder.with_name("thesis.txt"))


def pipe_as_lock(folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "lock")


def folder_as_lock(folder: Path) -> None:
    (folder / "lock").mkdir(parents=True)


def contents(folder: Path) -> dict[str, str | None]:
    """Everything in a folder and below, links not followed."""
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() and path.suffix != ".png" else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("make", [other_folder, linked_folder, linked_pixels, pipe_as_lock, folder_as_lock, Path.touch])
@pytest.mark.parametrize("more", [[], ["--resume"], ["--no-resume"], ["--resume", "--restart", "--overwrite"]])
def test_a_folder_of_somebody_else_is_refused_and_stays(
    tmp_path: Path, make: Callable[[Path], Any], more: list[str]
) -> None:
    photo, out = picture(tmp_path / "photo.png"), tmp_path / "out.png"
    make(folder_of(out))
    before = contents(tmp_path)
    done = CliRunner().invoke(app, ["upscale", str(photo), "-s", "2", "-n", "bicubic", "-o", str(out), *more])
    assert done.exit_code == 1 and done.stderr.count("\n") == 1 and "choose another output" in done.stderr
    assert contents(tmp_path) == before


def test_the_longest_name_has_a_folder_of_its_own(tmp_path: Path) -> None:
    for name in ("a" * 251, "ü" * 120 + "abc", "a" * 240):
        photo, out = picture(tmp_path / "photo.png"), tmp_path / f"{name}.png"
        assert len(os.fsencode(folder_of(out).name)) <= 255
        assert folder_of(out) != folder_of(out.with_suffix(".tif"))
        run(photo, out, stop=10)
        assert folder_of(out).is_dir() and "going on" in run(photo, out)[1]
        assert leftovers(tmp_path) == {"photo.png", out.name}
        out.unlink()


@pytest.mark.parametrize(
    ("killed", "kept"), [("map", True), ("report", True), ("folder", True), ("map", False), ("report", False)]
)
def test_a_run_killed_after_the_picture_completes_map_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str, kept: bool
) -> None:
    """As a kill leaves it: the folder is there, and what came after that moment is not."""
    photo, out = picture(tmp_path / "photo.png"), tmp_path / "out.png"
    effort, report = tmp_path / "effort.png", tmp_path / "report.json"
    command = ["upscale", str(photo), "-s", "2", "-n", "bicubic", "--tile", "16", "--fp32", "-o", str(out)]
    command += ["--effort-map", str(effort), "--report", str(report), *(["--resume"] if kept else [])]
    assert CliRunner().invoke(app, command).exit_code == 0
    expected = {path.name: path.read_bytes() for path in (out, effort)}
    numbers = json.loads(report.read_text())
    for path in (out, effort, report):
        path.unlink()

    def cut(*_: Any, **__: Any) -> Any:
        raise Cut

    target = {"map": "scalewise.images.save", "report": "scalewise.cli.one_picture.write_json", "folder": REMOVE}
    with monkeypatch.context() as patch:
        patch.setattr(target[killed], cut)
        assert isinstance(CliRunner().invoke(app, command).exception, Cut)
    assert out.exists() and folder_of(out).is_dir()
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.stderr
    assert {path.name: path.read_bytes() for path in (out, effort)} == expected
    changing = {"seconds", "peak_bytes"}
    assert {k: v for k, v in json.loads(report.read_text()).items() if k not in changing} == {
        k: v for k, v in numbers.items() if k not in changing
    }
    assert not folder_of(out).exists()


def test_a_short_run_claims_no_file_that_was_changed_or_asked_for_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, out, effort = picture(tmp_path / "photo.png"), tmp_path / "out.png", tmp_path / "effort.png"
    command = ["upscale", str(photo), "-s", "2", "-n", "bicubic", "-o", str(out), "--effort-map", str(effort)]

    def cut(*_: Any, **__: Any) -> Any:
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr("scalewise.images.save", cut)
        assert isinstance(CliRunner().invoke(app, command).exception, Cut)
    content = out.read_bytes()
    other = CliRunner().invoke(app, [*command, "-s", "3"])
    assert other.exit_code == 1 and "--overwrite" in other.stderr and out.read_bytes() == content
    assert folder_of(out).is_dir(), "another command does not forget whose file it is"
    out.write_text("mine")
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 1 and "--overwrite" in again.stderr and out.read_text() == "mine"


@pytest.mark.parametrize("spoil", ["rows", "options", "unit", "two"])
def test_a_plan_of_another_grid_is_not_used(tmp_path: Path, spoil: str) -> None:
    photo, model = picture(tmp_path / "photo.png", 128, 96), zoo.load("fast", device="cpu").model
    whole, out = tmp_path / "whole.png", tmp_path / "out.png"
    run(photo, whole, model, 0.5, 32)
    run(photo, out, model, 0.5, 32, stop=7)
    stored = torch.load(folder_of(out) / "plan.pt", weights_only=True)
    (one,) = stored["route"]
    match spoil:
        case "rows":
            one["choice"] = one["choice"][:, :2]
        case "options":
            one["cost"] = torch.cat([one["cost"], one["cost"]])
        case "unit":
            one["extent"] = 16
        case "two":
            stored["route"] = [one, one]
    with_plan(stored)(folder_of(out))
    again, said, _ = run(photo, out, model, 0.5, 32)
    assert again == 12 and "starting anew" in said and "another model or picture" in said
    assert out.read_bytes() == whole.read_bytes()


def test_a_picture_that_was_changed_after_the_kill_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo, out = picture(tmp_path / "photo.png"), tmp_path / "out.png"
    command = ["upscale", str(photo), "-s", "2", "-n", "bicubic", "--resume", "-o", str(out)]

    def cut(*_: Any) -> Any:
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(REMOVE, cut)
        assert isinstance(CliRunner().invoke(app, command).exception, Cut)
    assert folder_of(out).is_dir()
    out.write_text("mine")
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 1 and "--overwrite" in again.stderr and out.read_text() == "mine"


def test_an_error_names_the_folder_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo, out, real, seen = picture(tmp_path / "photo.png"), tmp_path / "out.png", tiles.render_tile, []

    def interrupted(*arguments: Any) -> Any:
        seen.append(arguments)
        if len(seen) > 10:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(tiles, "render_tile", interrupted)
    command = ["upscale", str(photo), "-s", "2", "-n", "bicubic", "--resume", "-o", str(out), "--tile", "16", "--fp32"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 130
    assert "interrupted" in done.stderr and "out.png.scalewise-job' keeps 2 finished rows" in done.stderr
    other = CliRunner().invoke(app, [*command, "-s", "3"])
    assert other.exit_code == 2 and "--restart" in other.stderr and "another size" in other.stderr
    monkeypatch.undo()
    assert "going on after 2" in CliRunner().invoke(app, command).stderr


def test_a_disk_that_is_full_at_the_first_record_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo, out, real = picture(tmp_path / "photo.png"), tmp_path / "out.png", Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.parent == folder_of(out):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    done = CliRunner().invoke(app, ["upscale", str(photo), "-s", "2", "-n", "bicubic", "--resume", "-o", str(out)])
    assert done.exit_code == 1 and done.stderr.count("\n") == 1 and "free some space" in done.stderr
    assert leftovers(tmp_path) == {"photo.png"}


def test_a_run_without_a_checkpoint_removes_what_waited_when_it_is_done(tmp_path: Path) -> None:
    photo, out = picture(tmp_path / "photo.png"), tmp_path / "out.png"
    run(photo, out, stop=10)
    command = ["upscale", str(photo), "-n", "bicubic", "-o", str(out)]
    assert CliRunner().invoke(app, [*command, "-s", "200", "--no-resume"]).exit_code == 2
    assert folder_of(out).is_dir(), "a command that failed drops nothing"
    assert CliRunner().invoke(app, [*command, "-s", "2", "--no-resume"]).exit_code == 0
    assert leftovers(tmp_path) == {"photo.png", "out.png"}


def test_two_runs_do_not_make_one_output(tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    run_plan: Any = None
    with (
        RunCheckpoint.of(out, {}, run_plan),
        pytest.raises(UnwritableOutput, match="another run"),
        RunCheckpoint.of(out, {}, run_plan),
    ):
        pass


def test_smaller_tiles_when_memory_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished tiles stay, and the picture is the same."""
    photo, real, seen = picture(tmp_path / "photo.png"), tiles.render_tile, []

    def small_memory(run_plan: Any, plan: Any, tile: Any, lr: Any, on_rows: Any) -> Any:
        y0, x0, y1, x1 = tile.core
        if len(seen) > 2 and max(y1 - y0, x1 - x0) > 8:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        seen.append(tile.core)
        return real(run_plan, plan, tile, lr, on_rows)

    monkeypatch.setattr(tiles, "render_tile", small_memory)
    source = images.open(photo)
    results = []
    for tile in (96, 32):
        seen.clear()
        sink = images.create(None, (192, 120), source)
        run_plan = plan_run(source, (192, 120), BICUBIC, Budget.full(), RunOptions(tile=tile, dtype="fp32"))
        result, report = enlarge(run_plan, sink)
        results.append(result)
        assert tile == 96 or any("memory ran out with tiles of" in note for note in report.notes)
        assert len(set(seen)) == len(seen), "no tile was done twice"
    first, second = (result.astype(int) for result in results)
    assert np.abs(first - second).max() <= 1  # a level, where rounding falls on a tie


def test_memory_that_runs_out_in_the_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(tiles, "render_tile", none)
    photo = picture(tmp_path / "photo.png")
    done = CliRunner().invoke(app, ["upscale", str(photo), "-s", "2", "-n", "bicubic"])
    assert done.exit_code == 1 and "memory ran out, even with tiles of 1" in done.stderr
    assert leftovers(tmp_path) == {"photo.png"}


def test_a_result_that_a_killed_run_did_not_write_down_is_made_again(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for index in range(3):
        picture(source / f"{index}.png", 6, 7, index)
    command = ["upscale", str(source), "-s", "2", "-n", "bicubic", "-o", f"{out}/"]
    assert CliRunner().invoke(app, command).exit_code == 0
    manifest = out / "scalewise.jsonl"
    manifest.write_bytes(b"".join(manifest.read_bytes().splitlines(True)[:-1]))  # killed before the last line
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0 and again.stdout.count("\n") == 1
    manifest.unlink()  # without it, the results are somebody's
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1 and refused.stderr.count("exists") == 3


# --- killed, as a process ---------------------------------------------------------------------------------------------


def start(photo: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "scalewise", "upscale", str(photo), "-o", str(out), "--resume", *more]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def bands(out: Path) -> int:
    try:
        return (folder_of(out) / "bands.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def killed_when(process: subprocess.Popen[bytes], due: Callable[[], bool], signal_number: int) -> bool:
    """Signal a process as soon as it is due; False if it ended before."""
    while process.poll() is None:
        if due():
            process.send_signal(signal_number)
            return process.wait() != 0
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
    return False


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_killed_process_goes_on(tmp_path: Path, signal_number: int) -> None:
    photo = picture(tmp_path / "photo.png", 400, 300)
    whole, out = tmp_path / "whole.png", tmp_path / "out.png"
    request = ["-s", "3", "-n", "bicubic", "--tile", "20", "--fp32"]
    process = start(photo, out, *request)
    assert killed_when(process, lambda: bands(out) >= 3, signal_number)
    if signal_number == signal.SIGINT:
        assert process.returncode == 130
    finished = bands(out)
    assert 3 <= finished <= 20 and not out.exists()
    again = CliRunner().invoke(app, ["upscale", str(photo), "-o", str(out), *request])
    assert again.exit_code == 0 and f"going on after {finished} finished" in again.stderr
    assert CliRunner().invoke(app, ["upscale", str(photo), "-o", str(whole), *request]).exit_code == 0
    assert out.read_bytes() == whole.read_bytes()
    assert leftovers(tmp_path) == {"photo.png", "whole.png", "out.png"}


@pytest.mark.slow
def test_ten_kills_at_random_moments_lose_at_most_one_band_each(tmp_path: Path) -> None:
    """Each process ends at a random moment of its work: what it finished, the next one does not do again."""
    photo = picture(tmp_path / "photo.png", 3840, 160)
    whole, out = tmp_path / "whole.tif", tmp_path / "out.tif"
    request = ["-s", "3", "--budget", "50%", "--tile", "64", "--fp32"]  # 60 rows of three tiles
    process = start(photo, whole, *request)
    assert process.communicate() and process.returncode == 0
    chance, lives = random.Random(0), []
    for _ in range(10):
        before = bands(out)
        goal, late = before + chance.choice([1, 2, 2]), chance.uniform(0, 0.03)
        reached: list[float] = []  # when the goal was; so many seconds later the process ends, in the midst of a row

        def moment(goal: int = goal, late: float = late, reached: list[float] = reached) -> bool:
            if bands(out) >= goal and not reached:
                reached.append(time.monotonic())
            return bool(reached) and time.monotonic() - reached[0] >= late

        process = start(photo, out, *request)
        killed = killed_when(process, moment, signal.SIGKILL)
        assert process.stderr is not None
        said = process.stderr.read().decode()
        assert killed, "the picture was too small for ten kills"
        assert ("going on" in said) == (before > 0) and (not before or f"after {before} finished" in said)
        lives.append(bands(out))
    assert lives == sorted(set(lives)) and lives[-1] < 60
    process = start(photo, out, *request)
    said = process.communicate()[1].decode()
    assert process.returncode == 0 and f"going on after {lives[-1]} finished" in said
    assert out.read_bytes() == whole.read_bytes()
    assert leftovers(tmp_path) == {"photo.png", "whole.tif", "out.tif"}
