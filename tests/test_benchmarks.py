"""The benchmarks run, on pictures too small to say anything; the check for a GPU needs torch and numpy alone."""

from __future__ import annotations

import contextlib
import importlib
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scalewise import images
from scalewise.recipes import find

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"

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
    command = [sys.executable, "-c", WITHOUT, str(BENCHMARKS / "gpu_check.py"), *arguments]
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


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a benchmark with its arguments: what it printed. It may miss a promise, as nothing here is quiet."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        threads = torch.get_num_threads()
        try:
            with contextlib.suppress(SystemExit):
                runpy.run_path(str(BENCHMARKS / name), run_name="__main__")
        finally:
            torch.set_num_threads(threads)
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", sorted(path.name for path in BENCHMARKS.glob("*.py") if path.name != "common.py"))
def test_every_benchmark_says_what_it_takes(name: str, benchmark: Callable[..., str]) -> None:
    assert "usage: " in benchmark(name, "--help")


def test_shares_of_macs_and_of_time_are_printed_for_each_budget(benchmark: Callable[..., str]) -> None:
    printed = benchmark(
        "adaptive.py", "--weights", BENCHMARKS, "--only", "fast", "--size", "48x32", "--budgets", "0.5", "--repeats", 1,
        "--dtypes", "fp32",
    )  # fmt: skip
    assert "fast (ours), fp32" in printed and "50%" in printed and "100%" in printed


def test_time_and_macs_stand_side_by_side_for_each_number_type(benchmark: Callable[..., str]) -> None:
    printed = benchmark(
        "front.py", "-n", "fast", "--size", "40x32", "--dtype", "fp32", "bf16", "--scales", 2, "--budgets", 1, 0.5,
        "--repeats", 1,
    )  # fmt: skip
    assert all(printed.count(word) >= 2 for word in ("fp32", "bf16", "100%", "50%")) and "convolution" in printed


def test_no_budget_is_exceeded_on_a_folder_of_photos(benchmark: Callable[..., str], tmp_path: Path) -> None:
    images.save(tmp_path / "a.png", torch.randint(0, 256, (3, 330, 490), dtype=torch.uint8))
    printed = benchmark(
        "adaptive.py", "--weights", BENCHMARKS, "--only", "fast", "--scale", 1, "--photos", tmp_path,
        "--budgets", "0.5,1", "--dtypes", "fp32",
    )  # fmt: skip
    assert "never over" in printed


def test_an_upsampler_equals_the_literal_code_in_the_benchmark_too(benchmark: Callable[..., str]) -> None:
    printed = benchmark("kernels.py", "--only", "metasr", "--size", "24x16", "--repeats", 1)
    row = next(line for line in printed.splitlines() if "MetaSR" in line)
    assert "e-0" in row


def test_models_are_timed_from_file_to_file(benchmark: Callable[..., str]) -> None:
    printed = benchmark("runtimes.py", "files", "--only", "bicubic", "--size", "30x20", "--repeats", 1)
    assert "30x20 → ×4" in printed and "bicubic" in printed


def test_the_shipped_models_are_measured_at_any_scale(benchmark: Callable[..., str], tmp_path: Path) -> None:
    images.save(tmp_path / "a.png", torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8))
    printed = benchmark("shipped.py", "scales", "--data", tmp_path, "-n", "bicubic", "--at", 2)
    assert "gain" in printed and "+0.0" in printed


def test_reuse_in_time_is_measured_beside_frame_by_frame(benchmark: Callable[..., str]) -> None:
    photo = ROOT / "examples" / "photo.jpg"
    printed = benchmark(
        "reuse.py", photo, "--frames", 3, "--size", "96x64", "--clips", "screen", "--model", "bicubic", "--budget", 0
    )
    assert "frame by frame" in printed and "HR" in printed


def test_weights_of_other_settings_are_not_taken_for_those_that_were_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    common = importlib.import_module("common")
    recipe = find("edsr-lte-tiny")
    longer = replace(recipe, stages=(replace(recipe.stages[0], steps=7),))
    steps: list[int] = []

    def train(recipe: Any, photos: Any, out: Path, options: Any) -> Any:
        steps.append(recipe.stages[0].steps)
        return SimpleNamespace(reason="done")

    monkeypatch.setattr(common, "train", train)
    first = common.trained(longer, [], tmp_path)
    assert common.trained(longer, [], tmp_path) == first and steps == [7]
    with pytest.raises(SystemExit, match="other settings"):
        common.trained(recipe, [], tmp_path)
