"""Our networks give the published pixels: every golden case that `make parity` knows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from parity import run

FOLDER = Path(os.environ.get("SCALEWISE_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "golden"
CASES = run.case_folders(FOLDER) if FOLDER.is_dir() else []


def test_there_are_cases(shared: Path) -> None:
    assert len(run.case_folders(shared / "golden")) > 60


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: folder.name)
def test_published_pixels(folder: Path) -> None:
    lines = list(run.run(folder))
    failed = [str(line) for line in lines if not line.ok]
    assert lines and not failed, "\n".join(failed)


def test_a_wrong_pixel_fails(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared / "golden" / "edsr_pytorch_x2"
    line = next(run.run(folder))
    assert line.ok and not run.Line(line.network, line.case, line.tolerance * 2, line.tolerance).ok
    assert not run.Line(line.network, line.case, float("nan"), line.tolerance).ok
    assert run.main(folder, print) == 0 and "1 cases, 0 failed" in capsys.readouterr().out
