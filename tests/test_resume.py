"""A long run that is killed goes on where it was, and its picture is the one of a run that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scalewise import images, running, zoo
from scalewise.cost import CostReport
from scalewise.effort import Budget
from scalewise.errors import Cancelled, UnwritableOutput
from scalewise.journal import Journal, folder_of, wish_of
from scalewise.outlook import Job, look_ahead
from scalewise.pipeline import enlarge

ROOT = Path(__file__).resolve().parent.parent
SIDE = 32  # of a tile; the picture has 6 rows of 5
ROWS, COLUMNS = 6, 5


def picture(path: Path) -> Path:
    height, width = ROWS * SIDE - 7, COLUMNS * SIDE - 3
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 4), np.uint8), "RGBA").save(path)
    return path


def run(photo: Path, out: Path, name: str = "bicubic", share: float = 1.0, stop: float | None = None) -> CostReport:
    """What the command line does with a long picture; `stop`: kill the process when that much is done."""
    source, model, budget = images.open(photo), zoo.load(name, device="cpu").model, Budget.fraction(share)
    size, job = (source.size[0] * 2, source.size[1] * 2), Job(tile=SIDE, dtype="fp32")
    ahead = look_ahead(source, size, model, budget, job)

    def progress(done: float) -> None:
        if stop is not None and done >= stop:
            os.kill(os.getpid(), signal.SIGKILL)

    with Journal.of(out, wish_of(ahead, model, budget, out)) as journal:
        sink = images.create(out, size, source, overwrite=True, scratch=journal.pixels)
        return enlarge(source, sink, model, budget, job, progress, ahead=journal.ahead(ahead), journal=journal)[1]


def killed(photo: Path, out: Path, name: str, share: float, stop: float) -> None:
    """The same in a process that is killed, as by kill -9."""
    code = f"from test_resume import *\ntorch.set_num_threads(2)\nrun(Path({str(photo)!r}), Path({str(out)!r}), "
    code += f"{name!r}, {share}, {stop})"
    places = os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests")))
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": places}, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of the tiles that are rendered from now on."""
    rows: list[int] = []
    render = running.render_tile

    def count(ahead, plan, tile, lr):  # type: ignore[no-untyped-def]
        rows.append(tile.core[0] // SIDE)
        return render(ahead, plan, tile, lr)

    monkeypatch.setattr(running, "render_tile", count)
    return rows


def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, share: float, stop: float) -> None:
    photo, whole, out = picture(tmp_path / "photo.png"), tmp_path / "whole.png", tmp_path / "out.png"
    expected = run(photo, whole, name, share)
    killed(photo, out, name, share, stop)
    assert not out.exists()
    finished = 0
    if (folder_of(out) / "bands.jsonl").exists():
        finished = (folder_of(out) / "bands.jsonl").read_bytes().count(b"\n")
    started = int(stop * ROWS * COLUMNS) // COLUMNS  # rows that were behind it
    assert finished >= started - 1, "the row that is being written may be lost, no other"
    rows = counted(monkeypatch)
    report = run(photo, out, name, share)
    assert rows == [row for row in range(finished, ROWS) for _ in range(COLUMNS)]
    assert out.read_bytes() == whole.read_bytes()
    assert (report.macs, report.macs_full, report.by_kind) == (expected.macs, expected.macs_full, expected.by_kind)
    assert torch.equal(report.effort_map, expected.effort_map)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.png", "photo.png", "whole.png"]


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(tmp_path, monkeypatch, "bicubic", 1.0, 0.55)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [0.0, 0.03, *(random.Random(0).uniform(0.05, 0.97) for _ in range(7)), 1.0])
def test_a_run_killed_at_any_moment_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: float) -> None:
    check(tmp_path, monkeypatch, "fast", 0.5, stop)


def interrupted(photo: Path, out: Path) -> None:
    """A run that is cancelled after three rows."""
    source, model, budget = images.open(photo), zoo.load("bicubic", device="cpu").model, Budget.full()
    size, job = (source.size[0] * 2, source.size[1] * 2), Job(tile=SIDE, dtype="fp32")
    ahead = look_ahead(source, size, model, budget, job)
    with suppress(Cancelled), Journal.of(out, wish_of(ahead, model, budget, out)) as journal:
        sink = images.create(out, size, source, overwrite=True, scratch=journal.pixels)
        enlarge(source, sink, model, budget, job, lambda done: done < 0.6, ahead=ahead, journal=journal)


@pytest.mark.parametrize("change", ["input", "job.json", "plan.pt", "pixels"])
def test_what_does_not_fit_is_done_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    photo, whole, out = picture(tmp_path / "photo.png"), tmp_path / "whole.png", tmp_path / "out.png"
    interrupted(photo, out)
    assert (folder_of(out) / "bands.jsonl").read_bytes().count(b"\n") >= 2
    if change == "input":
        Image.open(photo).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(photo)
    else:
        (folder_of(out) / change).write_bytes(b"cut off")
    rows = counted(monkeypatch)
    run(photo, out)
    assert len(rows) == ROWS * COLUMNS
    run(photo, whole)
    assert out.read_bytes() == whole.read_bytes()


def test_two_runs_do_not_write_to_one_picture(tmp_path: Path) -> None:
    with Journal.of(tmp_path / "out.png", {}):
        second = Journal.of(tmp_path / "out.png", {})
        with pytest.raises(UnwritableOutput, match="another run"):
            second.__enter__()
    assert not list(tmp_path.iterdir())
