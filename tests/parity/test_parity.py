"""Our networks give the published pixels: every golden case that `make parity` knows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from parity import run

FOLDER = Path(os.environ.get("SCALEWISE_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "golden"
CASES = run.case_folders(FOLDER) if FOLDER.is_dir() else []


def test_there_are_cases(shared: Path) -> None:
    assert run.case_folders(shared / "golden")


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_published_pixels(folder: Path) -> None:
    lines = list(run.run(folder))
    failed = [str(line) for line in lines if isinstance(line, run.Line) and not line.ok]
    assert lines and not failed, "\n".join(failed)


def test_only_the_named_families_are_left_out(shared: Path) -> None:
    assert list(run.run(shared / "golden" / "enaf_fsrcnn")) == [f"{'enaf_fsrcnn':<24} not built yet"]
    built = [folder for folder in CASES if not folder.name.startswith(run.NOT_BUILT)]
    assert len(built) > 40


def test_a_wrong_pixel_fails(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared / "golden" / "edsr_pytorch_x2"
    line = next(line for line in run.run(folder) if isinstance(line, run.Line))
    assert line.ok and not run.Line(line.network, line.case, line.tolerance * 2, line.tolerance).ok
    assert not run.Line(line.network, line.case, float("nan"), line.tolerance).ok
    assert run.main(folder, print) == 0 and "1 cases, 0 failed" in capsys.readouterr().out
