"""The benchmarks start: the check for a GPU needs torch and numpy alone, and says so where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent

WITHOUT = """
import runpy, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pyvips", "typer", "rich", "safetensors", "psutil", "PIL"):
            raise ImportError(name)

sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def check_gpu(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, str(ROOT / "benchmarks" / "gpu_check.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUTF8": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_the_gpu_check_needs_no_library_but_torch_and_numpy() -> None:
    done = check_gpu("--device", "cpu", "--only", "fsrcnn,enaf-fsrcnn", "--size", "16", "--repeats", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 networks" in done.stdout and "wrong: none" in done.stdout


def test_without_a_gpu_the_check_says_so_and_is_content() -> None:
    if torch.cuda.is_available():
        return
    done = check_gpu()
    assert done.returncode == 0 and "no GPU at hand" in done.stdout
