"""Runs that are cut off go on: byte for byte what they would have been, with at most one row of tiles done again."""

from __future__ import annotations

import json
import os
import random
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
from scalewise.errors import UnwritableOutput
from scalewise.execution import tiles
from scalewise.execution.checkpoint import RunCheckpoint, folder_of, request_of
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run

ROOT = Path(__file__).resolve().parents[2]
BICUBIC = zoo.bicubic()


class Cut(Exception):
    """The run ends here."""


def picture(path: Path, height: int = 96, width: int = 60, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def run(
    photo: Path, out: Path, model: Any = BICUBIC, budget: float = 1.0, tile: int = 16, stop: int | None = None
) -> tuple[int, str, Any]:
    """One run with a journal, cut off before tile `stop`: how many tiles it rendered, what it said, its report."""
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
        RunCheckpoint.of(out, request_of(run_plan, model, request, out)) as checkpoint,
    ):
        patch.setattr(tiles, "render_tile", counted)
        run_plan = checkpoint.run_plan(run_plan)
        sink = images.create(out, size, source, scratch=checkpoint.pixels)
        try:
            _, report = enlarge(
                source, sink, model, request, run_plan.options, run_plan=run_plan, checkpoint=checkpoint
            )
        except Cut:
            report = None
    return rendered, checkpoint.said, report


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
    monkeypatch.setattr("scalewise.execution.decide._survey", lambda *_: pytest.fail("the router looked again"))
    again, _, report = run(photo, out, model, 0.5, 32)
    assert again == 12 - 6 and out.read_bytes() == whole.read_bytes()
    assert report.macs == full.macs and torch.equal(report.effort_map, full.effort_map)


@pytest.mark.parametrize("change", ["input", "budget", "tile", "pixels", "damage"])
def test_another_wish_or_input_starts_anew(tmp_path: Path, change: str) -> None:
    photo, out = picture(tmp_path / "photo.png"), tmp_path / "out.png"
    run(photo, out, stop=10)
    folder, more = folder_of(out), {}
    if change == "input":
        picture(photo, seed=1)
    elif change == "tile":
        more["tile"] = 32
    elif change == "budget":
        options = json.loads((folder / "job.json").read_text())
        options["wish"]["budget"]["value"] = 0.5
        (folder / "job.json").write_text(json.dumps(options))
    elif change == "pixels":
        (folder / "pixels").write_bytes(b"cut")
    else:
        (folder / "job.json").write_text("{")
    again, said, _ = run(photo, out, **more)
    assert again == (6 if change == "tile" else 24) and "going on" not in said
    assert ("starting anew" in said) == (change != "pixels")
    run(photo, tmp_path / "whole.png", **more)
    assert out.read_bytes() == (tmp_path / "whole.png").read_bytes()


def test_a_half_written_line_counts_for_nothing(tmp_path: Path) -> None:
    photo, out = picture(tmp_path / "photo.png"), tmp_path / "out.png"
    run(photo, out, stop=10)
    with (folder_of(out) / "bands.jsonl").open("a") as file:
        file.write('{"band": 2, "ran"')
    assert run(photo, out)[0] == 24 - 8
    run(photo, tmp_path / "whole.png")
    assert out.read_bytes() == (tmp_path / "whole.png").read_bytes()


def test_two_runs_do_not_make_one_output(tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    with RunCheckpoint.of(out, {}), pytest.raises(UnwritableOutput, match="another run"), RunCheckpoint.of(out, {}):
        pass


def test_smaller_tiles_when_memory_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished tiles stay, and the picture is the same."""
    photo, real, seen = picture(tmp_path / "photo.png"), tiles.render_tile, []

    def small_memory(run_plan: Any, plan: Any, tile: Any, lr: Any, ready: Any) -> Any:
        y0, x0, y1, x1 = tile.core
        if len(seen) > 2 and max(y1 - y0, x1 - x0) > 8:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        seen.append(tile.core)
        return real(run_plan, plan, tile, lr, ready)

    monkeypatch.setattr(tiles, "render_tile", small_memory)
    source = images.open(photo)
    results = []
    for tile in (96, 32):
        seen.clear()
        sink = images.create(None, (192, 120), source)
        result, report = enlarge(source, sink, BICUBIC, Budget.full(), RunOptions(tile=tile, dtype="fp32"))
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
