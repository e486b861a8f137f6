"""A folder of many pictures: every good one is made once, every bad one is named, whoever does the work."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from typer.testing import CliRunner

from scalewise import images
from scalewise.batch.manifest import MANIFEST
from scalewise.cli import app

ROOT = Path(__file__).resolve().parents[2]
FORMATS = ("png", "jpg", "webp", "tif", "gif")


def good(path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 24, 2)
    pixels = random.integers(0, 256, (height, width, 3), np.uint8)
    picture = Image.fromarray(pixels)
    if path.suffix == ".png" and seed % 3 == 0:
        picture = picture.convert("RGBA" if seed % 2 else "L")
    picture.save(path)


def cut(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    lossless: dict[str, Any] = {"lossless": True} if path.suffix == ".webp" else {}
    Image.fromarray(pixels).save(path, **lossless)
    path.write_bytes(path.read_bytes()[:-900])


def damaged(path: Path) -> None:
    """A PNG whose pixels do not unpack."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    path.write_bytes(content)


def enormous(path: Path) -> None:
    """A PNG that claims 10 gigapixels."""
    body = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(body)) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
    data = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + data)


BAD: tuple[tuple[str, Callable[[Path], object]], ...] = (
    ("empty.png", Path.touch),
    ("text.jpg", lambda path: path.write_text("no picture\n")),
    ("zeros.tif", lambda path: path.write_bytes(bytes(500))),
    ("start.png", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n")),
    ("start.gif", lambda path: path.write_bytes(b"GIF89a")),
    ("start.webp", lambda path: path.write_bytes(b"RIFF\x10\0\0\0WEBPVP8 ")),
    ("cut.png", cut),
    ("cut.jpg", cut),
    ("cut.tif", cut),
    ("cut.webp", cut),
    ("damaged.png", damaged),
    ("enormous.png", enormous),
    ("gone.png", lambda path: path.symlink_to(path.with_name(f"no-{path.name}.png"))),
)


def folder(path: Path, all: int, bad: int) -> tuple[set[str], set[str]]:
    """Pictures of many kinds: the names of the good ones, and of the bad ones."""
    path.mkdir()
    names: tuple[set[str], set[str]] = set(), set()
    for index in range(all - bad):
        name = f"good{index:03}.{FORMATS[index % len(FORMATS)]}"
        good(path / name, index)
        names[0].add(name)
    for index in range(bad):
        name, spoil = BAD[index % len(BAD)]
        spoil(path / f"bad{index:03}-{name}")
        names[1].add(f"bad{index:03}-{name}")
    return names


def upscale(photos: Path, out: Path, *more: str) -> tuple[int, list[str], list[str]]:
    """Exit code, lines of stdout and of stderr."""
    done = CliRunner().invoke(app, ["upscale", str(photos), "-s", "1.5", "-n", "bicubic", "-o", f"{out}/", *more])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout.splitlines(), done.stderr.splitlines()


def state(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.name != MANIFEST}


def check(photos: Path, out: Path, names: tuple[set[str], set[str]]) -> None:
    """The results and the manifest; then a second run, which has nothing to do."""
    made = state(out)
    assert set(made) == names[0]
    for name in names[0]:
        with Image.open(photos / name) as before, Image.open(out / name) as after:
            assert after.size == tuple(max(1, round(n * 1.5)) for n in before.size)
            after.load()
    lines = [json.loads(line) for line in (out / MANIFEST).read_text().splitlines()]
    lines = [line for line in lines if "status" in line]
    said = {
        status: [Path(line["input"]).name for line in lines if line["status"] == status]
        for status in ("done", "failed")
    }
    assert (sorted(said["done"]), sorted(said["failed"])) == (sorted(names[0]), sorted(names[1]))
    code, printed, errors = upscale(photos, out)
    assert (code, printed) == (1 if names[1] else 0, []) and state(out) == made
    assert all(any(name in line for line in errors) for name in names[1])


def check_folder(tmp_path: Path, all: int, bad: int) -> None:
    photos, out = tmp_path / "in", tmp_path / "out"
    names = folder(photos, all, bad)
    code, printed, errors = upscale(photos, out)
    assert code == 1 and len(printed) == all - bad
    assert all_once(errors, names[1]) and f"{bad} of {all} inputs failed" in errors[-1]
    check(photos, out, names)


def all_once(errors: list[str], names: set[str]) -> bool:
    return all(sum(name in line for line in errors) == 1 for name in names)


def test_bad_pictures_do_not_stop_the_good_ones(tmp_path: Path) -> None:
    check_folder(tmp_path, 5 + len(BAD), len(BAD))


@pytest.mark.slow
def test_a_folder_of_300_of_which_40_are_bad(tmp_path: Path) -> None:
    check_folder(tmp_path, 300, 40)


def test_only_what_is_new_or_changed_is_done(tmp_path: Path) -> None:
    photos, out = tmp_path / "in", tmp_path / "out"
    folder(photos, 4, 1)
    upscale(photos, out)
    before = state(out)
    bad = next(photos.glob("bad*"))
    good(bad, 1)  # mended, in another format than its name says
    good(photos / "new.png", 2)
    code, printed, _ = upscale(photos, out)
    assert (code, len(printed)) == (0, 2)
    assert before.items() <= state(out).items() and len(state(out)) == 5
    code, printed, errors = upscale(photos, out, "-s", "2")  # another wish: what is there is not ours to replace
    assert code == 1 and not printed and "exists" in errors[0] and before.items() <= state(out).items()
    assert upscale(photos, out, "--overwrite")[0] == 0


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed(tmp_path: Path) -> None:
    """A local Ray cluster, 200 pictures: every result is there, none twice, and the manifest is complete."""
    pytest.importorskip("ray")
    photos, out = tmp_path / "in", tmp_path / "out"
    names = folder(photos, 200, 0)
    command = [sys.executable, "-m", "scalewise", "upscale", str(photos), "-s", "1.5", "-n", "bicubic"]
    command += ["-o", f"{out}/", "--engine", "ray", "--workers", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with (tmp_path / "said").open("wb") as said, (tmp_path / "errors").open("wb") as errors:
        child = subprocess.Popen(command, env=environment, stdout=said, stderr=errors)
        killed = None
        while child.poll() is None:
            if killed is None and (out / MANIFEST).exists() and (out / MANIFEST).read_bytes().count(b"\n") > 60:
                killed = kill_a_worker(child.pid)
            try:
                child.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
    assert child.returncode == 0, (tmp_path / "errors").read_text()
    assert killed is not None
    assert len((tmp_path / "said").read_text().splitlines()) == 200
    check(photos, out, names)


def kill_a_worker(driver: int) -> int:
    workers = [one for one in psutil.Process(driver).children(recursive=True) if "MapWorker" in " ".join(one.cmdline())]
    workers[0].kill()
    return workers[0].pid


def test_our_own_mistake_with_one_picture_does_not_stop_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = tmp_path / "in", tmp_path / "out"
    names = folder(photos, 3, 0)[0]
    real = images.open

    def broken(path: Path) -> images.Source:
        if path.name == min(names):
            raise ZeroDivisionError
        return real(path)

    monkeypatch.setattr(images, "open", broken)
    code, printed, errors = upscale(photos, out)
    assert code == 1 and len(printed) == 2 and set(state(out)) == names - {min(names)}
    assert any("ZeroDivisionError" in line for line in errors) and "1 of 3 inputs failed" in errors[-1]
    monkeypatch.undo()
    assert upscale(photos, out)[0] == 0 and set(state(out)) == names
