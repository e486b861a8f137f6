"""`scalewise video`: its options, what it says before and after, and its report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("av", reason="needs PyAV: pip install '.[video]'")

from typer.testing import CliRunner
from video.clips import read, screen, write

from scalewise.cli import app
from scalewise.cli.video import parse_time
from scalewise.errors import InvalidRequest


def test_a_clip_from_the_command_line(tmp_path: Path) -> None:
    source, output, report = write(tmp_path / "in.mkv", screen(6)), tmp_path / "out.mp4", tmp_path / "report.json"
    command = ["video", str(source), str(output), "-s", "2", "-n", "bicubic", "--report", str(report)]
    done = CliRunner().invoke(app, [*command, "--preset", "ultrafast"])
    assert done.exit_code == 0, done.output
    assert "6 frames of 192x128" in done.output and "of disk" in done.output
    found = json.loads(report.read_text())
    assert found["frames"] == len(read(output)[0]) == 6
    assert found["size"] == [192, 128] and 0 < found["reused"] < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say how large"),
        (["-s", "2", "--size", "192x128"], "say how large"),
        (["-s", "2", "--resume", "--restart"], "contradict"),
        (["-s", "2", "--refresh", "-1"], "out of range"),
        (["-s", "2", "--from", "1:75"], "is not a time"),
        (["-s", "2", "--budget", "200%"], "out of range"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, options: list[str], message: str) -> None:
    source = write(tmp_path / "in.mkv", screen(2))
    done = CliRunner().invoke(app, ["video", str(source), str(tmp_path / "out.mp4"), "-n", "bicubic", *options])
    assert done.exit_code == 2 and message in done.output
    assert not (tmp_path / "out.mp4").exists()


def test_times() -> None:
    assert parse_time("--from", None) is None
    assert [parse_time("--from", text) for text in ("90", "1:30", "00:01:30.5")] == [90, 90, 90.5]
    for text in ("", "a", "1:2:3:4", "-5", "1:61", "1.5:20"):
        with pytest.raises(InvalidRequest):
            parse_time("--from", text)


def test_an_unfinished_run_is_told_with_the_options_that_help(tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.mkv", screen(2)), tmp_path / "out.mp4"
    parts = tmp_path / "out.mp4.parts"
    parts.mkdir()
    (parts / "run.jsonl").write_text('{"request": {"scale": 3}}\n')
    command = ["video", str(source), str(output), "-s", "2", "-n", "bicubic", "--preset", "ultrafast"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2 and "holds an unfinished run: --resume goes on, --restart drops it" in done.output
    done = CliRunner().invoke(app, [*command, "--resume"])
    assert done.exit_code == 2 and "ask for the same again, or --restart to drop it" in done.output
