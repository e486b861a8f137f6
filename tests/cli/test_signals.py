"""Signals and streams, as a process: whatever ends a command, nothing half-written stays, and one line says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]

# Sends a signal to its own process when a function is called for the n-th time, and then runs the command.
SIGNALLED = """
import importlib, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
home, name, at, number, left = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]
module = importlib.import_module(home)
real, calls = getattr(module, name), 0

def signalled(*arguments, **more):
    global calls
    calls += 1
    if calls == at:
        os.kill(os.getpid(), number)
    return real(*arguments, **more)

setattr(module, name, signalled)
sys.argv[1:] = left
from scalewise.cli import main
main()
"""
PHASES = {
    "before the work": ("scalewise.execution.planner", "plan_run", 1, False),
    "in the fourth row of tiles": ("scalewise.execution.tiles", "render_tile", 13, True),
    "while the file is written": ("scalewise.images.write", "write_container", 1, True),
    "while the map is drawn": ("scalewise.pipeline", "effort_picture", 1, True),
}

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and descriptors")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 60, 3), np.uint8)).save(path)
    return path


def run(code: str, *arguments: object, temporary: Path, **streams: object) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    if "stdout" not in streams:
        streams["stdout"] = subprocess.PIPE
    return subprocess.run(command, env=environment, stderr=subprocess.PIPE, **streams)  # type: ignore[call-overload]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def ours(folder: Path) -> set[str]:
    return {name for name in names(folder) if name.startswith("scalewise")}  # torch makes one of its own


def command(photo: Path, *more: object) -> list[object]:
    return ["upscale", photo, "-s", "2", "-n", "bicubic", "--tile", "16", "--fp32", *more]


@pytest.mark.parametrize(
    ("phase", "number"),
    [*((phase, signal.SIGTERM) for phase in PHASES), ("while the file is written", signal.SIGHUP)],
)
def test_a_signal_acts_as_ctrl_c(photo: Path, tmp_path: Path, phase: str, number: signal.Signals) -> None:
    module, name, at, kept = PHASES[phase]
    temporary, out, effort = tmp_path / "temporary", tmp_path / "out.png", tmp_path / "map.png"
    temporary.mkdir()
    wanted = command(photo, "-o", out, "--resume", "--effort-map", effort)
    done = run(SIGNALLED, module, name, at, number.value, *wanted, temporary=temporary)
    assert done.returncode == 128 + number, done.stderr
    said = done.stderr.decode().splitlines()
    assert said[-1].startswith("scalewise: interrupted") and not any("Traceback" in line for line in said)
    job = tmp_path / "out.png.scalewise-job"
    assert job.is_dir() == kept and (not kept or "the same command goes on" in said[-1])
    assert not [path for path in tmp_path.rglob(".*") if path.suffix == ".part"] and ours(temporary) == set()
    again = run("from scalewise.cli import main; main()", *wanted, temporary=temporary)
    assert again.returncode == 0, again.stderr
    assert names(tmp_path) == {"photo.png", "out.png", "map.png", "temporary"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_of_a_picture_that_goes_to_stdout(
    photo: Path, tmp_path: Path, number: signal.Signals
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with photo.open("rb") as stdin:
        wanted = command(Path("-"))
        done = run(
            SIGNALLED,
            "scalewise.images.write",
            "write_container",
            1,
            number.value,
            *wanted,
            temporary=temporary,
            stdin=stdin,
        )
    assert done.returncode == 128 + number and done.stdout == b"" and ours(temporary) == set()


def test_a_signal_that_is_ignored_stays_so(photo: Path, tmp_path: Path) -> None:
    code = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + SIGNALLED
    wanted = command(photo, "-o", tmp_path / "out.png")
    done = run(code, "scalewise.images.write", "write_container", 1, signal.SIGHUP.value, *wanted, temporary=tmp_path)
    assert done.returncode == 0 and (tmp_path / "out.png").exists()


# What a shell writes as 0<&-, 1>&-, 2>&- before the command.
CLOSED = "import os, sys\nos.close({0})\nos.execv(sys.executable, [sys.executable, '-m', 'scalewise', *sys.argv[1:]])"


@pytest.mark.parametrize(
    ("closed", "more", "code", "words"),
    [
        (0, ["-", "-o", "out.png"], 2, "stdin is closed"),
        (1, ["photo.png", "-o", "-"], 2, "stdout is closed"),
        (1, ["photo.png", "-o", "out.png"], 0, ""),
        (2, ["photo.png", "-o", "out.png"], 0, ""),
        (2, ["photo.png", "-s", "0"], 2, ""),
    ],
)
def test_a_closed_stream_is_one_line_or_no_matter(
    photo: Path, tmp_path: Path, closed: int, more: list[str], code: int, words: str
) -> None:
    wanted = ["upscale", "-s", "2", "-n", "bicubic", *more]
    done = run(CLOSED.format(closed), *wanted, temporary=tmp_path, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    said = done.stderr.decode()
    assert words in said and said.count("\n") == (1 if words else 0)
    assert (tmp_path / "out.png").exists() == (code == 0)
    assert code or Image.open(tmp_path / "out.png").size == (120, 192)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("more", [["upscale", "photo.png", "-s", "2", "-n", "bicubic", "-o", "-"], ["--version"]])
def test_a_full_stdout_is_one_line(photo: Path, tmp_path: Path, more: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = run("from scalewise.cli import main; main()", *more, temporary=tmp_path, cwd=tmp_path, stdout=full)
    said = done.stderr.decode().splitlines()
    assert done.returncode == 1 and "could not write to stdout" in said[-1] and "Traceback" not in str(said)


def test_a_reader_that_has_seen_enough_is_no_matter(photo: Path, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = run("from scalewise.cli import main; main()", *command(photo, "-o", "-"), temporary=tmp_path, stdout=write)
    os.close(write)
    assert done.returncode == 1 and b"Traceback" not in done.stderr
