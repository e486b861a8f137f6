"""Start-up: `scalewise --help`, and the first pixel of a small picture, as whole processes from a warm file cache.

    python benchmarks/startup.py [--repeats 7]

Medians. Promised: help in 0.3 s, a 64×64 picture ×2 written in 3 s. Exit code 1 if one is missed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from scalewise import images

COMMAND = [sys.executable, "-m", "scalewise"]


def seconds(arguments: list[str], repeats: int) -> float:
    """Median of whole processes; the first fills the file cache."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        subprocess.run([*COMMAND, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        lr = images.save(Path(folder) / "lr.png", (torch.rand(3, 64, 64) * 255).to(torch.uint8))
        enlarge = ["upscale", str(lr), "-s", "2", "-o", str(Path(folder) / "sr.png"), "--overwrite", "--quiet"]
        kept = True
        for title, arguments, promised in (("--help", ["--help"], 0.3), ("64x64 ×2", enlarge, 3.0)):
            took = seconds(arguments, repeats)
            kept &= took <= promised
            print(f"{title:<10} {took:.3f} s, promised {promised:g}: {'ok' if took <= promised else 'MISSED'}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
