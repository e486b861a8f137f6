"""The command line as whole processes: peak memory on large pictures, and how long it takes to start.

    python benchmarks/memory.py [--rows 1080p-50%,…] [--threads N]
    python benchmarks/memory.py --start [--repeats 7]       `--help`, and the first pixel of a 64×64 picture ×2: medians

Each row is a process of its own: `scalewise upscale` from a JPEG to a JPEG or PNG, decoding and encoding included.
Memory is anonymous memory (what no file backs), sampled from /proc every 50 ms; pages of the canvas, which is a file,
are not in it, as the system writes them out when it needs the room. The pictures are made from `examples/photo.jpg`,
repeated.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyvips
import torch
from common import PHOTO, seconds
from rich.console import Console
from rich.table import Table

from scalewise import images

COMMAND = [sys.executable, "-m", "scalewise"]
INTERVAL_SECONDS = 0.05
GIB = 2**30
GROWTH = 1.15  # from 100 to 432 megapixels of output
HELP_SECONDS, FIRST_PICTURE_SECONDS = 0.3, 3.0  # promised of the start


@dataclass(frozen=True)
class Row:
    """One run: width and height of the input, what is requested, and the most it may hold in GiB."""

    name: str
    size: tuple[int, int]
    request: tuple[str, ...]
    ext: str = "jpg"
    most: float | None = None
    grows_from: str | None = None


ROWS = (
    Row("1080p-50%", (1920, 1080), ("-s", "4", "--budget", "50%"), "png", most=1.5),
    Row("100-bicubic", (5776, 4332), ("-s", "2", "-n", "bicubic")),
    Row("432-bicubic", (12000, 9000), ("-s", "2", "-n", "bicubic"), most=2.5, grows_from="100-bicubic"),
    Row("100-fast-5%", (5776, 4332), ("-s", "2", "--budget", "5%")),
    Row("432-fast-5%", (12000, 9000), ("-s", "2", "--budget", "5%"), most=2.5, grows_from="100-fast-5%"),
    Row("432-800MB", (12000, 9000), ("-s", "2", "-n", "bicubic", "--max-memory", "800MB"), most=0.745),
)


@dataclass(frozen=True)
class Measured:
    peak: int
    seconds: float
    output: str


def make(path: Path, size: tuple[int, int]) -> None:
    width, height = size
    photo = pyvips.Image.new_from_file(str(PHOTO))
    times = (-(-width // photo.width), -(-height // photo.height))
    photo.replicate(*times).crop(0, 0, width, height).jpegsave(str(path), Q=90)


def anonymous(process: psutil.Process) -> int:
    """Bytes that no file backs; where the system does not tell, what is resident and not shared."""
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    info = process.memory_info()
    return info.rss - getattr(info, "shared", 0)


def run(row: Row, folder: Path, threads: int | None) -> Measured:
    photo, out = folder / f"{row.name}-in.jpg", folder / f"out.{row.ext}"
    make(photo, row.size)
    command = [*COMMAND, "upscale", str(photo), *row.request, "-o", str(out), "--overwrite"]
    command += [] if threads is None else ["--threads", str(threads)]
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as child:
        process = psutil.Process(child.pid)
        while child.poll() is None:
            try:
                peak = max(peak, anonymous(process))
            except psutil.NoSuchProcess:
                break
            time.sleep(INTERVAL_SECONDS)
        output, error = child.communicate()
    took = time.perf_counter() - started
    if child.returncode:
        raise SystemExit(f"{row.name}: {error.strip()}")
    photo.unlink()
    out.unlink()
    return Measured(peak, took, output.split()[0])


def start(repeats: int) -> None:
    """Exits with a message if a start takes longer than promised. Each kind's first process fills the file cache."""
    broken = []
    with tempfile.TemporaryDirectory() as folder:
        lr = images.save(Path(folder) / "lr.png", (torch.rand(3, 64, 64) * 255).to(torch.uint8))
        picture = ["upscale", str(lr), "-s", "2", "-o", str(Path(folder) / "sr.png"), "--overwrite", "--quiet"]
        for title, given, promised in (
            ("--help", ["--help"], HELP_SECONDS),
            ("64x64 ×2", picture, FIRST_PICTURE_SECONDS),
        ):
            command = [*COMMAND, *given]
            times = [
                seconds(lambda command=command: subprocess.run(command, check=True, capture_output=True))
                for _ in range(repeats + 1)
            ]
            took = statistics.median(times[1:])
            print(f"{title:<10} {took:.3f} s, promised {promised:g}")
            if took > promised:
                broken.append(f"{title}: {took:.3f} s are above {promised:g}")
    if broken:
        raise SystemExit("\n".join(broken))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", action="store_true", help="time the start instead")
    parser.add_argument("--repeats", type=int, default=7, help="processes of each kind, with --start")
    parser.add_argument("--rows", default=",".join(row.name for row in ROWS))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--folder", type=Path, help="where the pictures are made; some 2 GiB")
    given = parser.parse_args()
    if given.start:
        return start(given.repeats)
    wanted = given.rows.split(",")
    unknown = set(wanted) - {row.name for row in ROWS}
    if unknown:
        raise SystemExit(f"no row {', '.join(sorted(unknown))}: the rows are {', '.join(row.name for row in ROWS)}")
    table = Table("run", "input", "output", "request", "peak", "allowed", "growth", "seconds", title="anonymous memory")
    found: dict[str, Measured] = {}
    broken = []
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for row in (row for row in ROWS if row.name in wanted):
            measured = found[row.name] = run(row, Path(folder), given.threads)
            growth = ""
            if row.most is not None and measured.peak > row.most * GIB:
                broken.append(f"{row.name}: {measured.peak / GIB:.2f} GiB are above {row.most}")
            if row.grows_from in found:
                ratio = measured.peak / found[row.grows_from].peak
                growth = f"{ratio - 1:+.1%}"
                if ratio > GROWTH:
                    broken.append(f"{row.name}: grew by {growth}")
            size = f"{row.size[0]}×{row.size[1]}"
            allowed = "" if row.most is None else f"{row.most:g} GiB"
            peak, took = f"{measured.peak / GIB:.2f} GiB", f"{measured.seconds:.0f}"
            table.add_row(row.name, size, measured.output, " ".join(row.request), peak, allowed, growth, took)
            print(f"{row.name}: {peak}, {took} s", flush=True)
    Console(width=140).print(table)
    if broken:
        raise SystemExit("\n".join(broken))


if __name__ == "__main__":
    main()
