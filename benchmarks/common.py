"""What several benchmarks share: a picture, one run in memory, seconds in turns, the machine's peak, the literal code.

`literal` and `published` are the published order of computing as the tests spell it out (`tests/upsamplers/literal.py`,
`tests/encoders/published.py`); the tests hold both to golden outputs.
"""

from __future__ import annotations

import math
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from scalewise import images
from scalewise.budget.budget import Budget
from scalewise.budget.cost import CostReport
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run
from scalewise.geometry.grid import output_size
from scalewise.machine.device import fast_bf16
from scalewise.models.model import Model
from scalewise.training.engine import TrainOptions, train
from scalewise.training.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
PHOTO = ROOT / "examples" / "photo.jpg"
CPU = torch.device("cpu")

sys.path.insert(0, str(ROOT / "tests"))

from encoders import published as published  # noqa: E402
from upsamplers import literal as literal  # noqa: E402


def size_of(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT → (rows, columns)."""
    width, height = (int(n) for n in text.split("x"))
    return height, width


def centre(photo: Path, size: tuple[int, int]) -> Tensor:
    """The middle of a photo, uint8 (3, *size)."""
    source = images.open(photo)
    if any(n < m for n, m in zip(source.size, size, strict=True)):
        raise SystemExit(f"{photo}: {source.size[1]}x{source.size[0]} is smaller than {size[1]}x{size[0]}")
    top, left = ((n - m) // 2 for n, m in zip(source.size, size, strict=True))
    return (source.read((top, left, top + size[0], left + size[1])) * 255).round().to(torch.uint8)


def enlarged(picture: Tensor, model: Model, scale: float, budget: Budget, options: RunOptions) -> CostReport:
    """One run from memory into memory; its report has the seconds."""
    source = images.open(picture)
    sink = images.create(None, output_size(source.size, scale), source)
    return enlarge(plan_run(source, sink.size, model, budget, options), sink)[1]


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    run()
    return clock() - start


def medians(
    runs: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Seconds of each, taken in turns so that a busy machine slows all; the first turn warms up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            took = seconds(run, clock)
            if turn:
                times[name].append(took)
    return {name: statistics.median(taken) for name, taken in times.items()}


@torch.no_grad()
def peaks(turns: int = 30, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """TFLOP/s by number type: the better of a 64-channel 3×3 convolution and a 2048³ product.

    bf16 is in it where the processor multiplies it.
    """
    found = {}
    for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        if dtype == torch.bfloat16 and not fast_bf16(CPU):
            continue
        conv = nn.Conv2d(64, 64, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        x = torch.rand(1, 64, 256, 256, dtype=dtype).contiguous(memory_format=torch.channels_last)
        a, b = torch.rand(2048, 2048, dtype=dtype), torch.rand(2048, 2048, dtype=dtype)
        best = {"conv": math.inf, "product": math.inf}
        for _ in range(turns):
            best["conv"] = min(best["conv"], seconds(lambda: conv(x), clock))  # noqa: B023 (called at once)
            best["product"] = min(best["product"], seconds(lambda: a @ b, clock))  # noqa: B023
        found[name] = max(2 * 9 * 64 * 64 * 256 * 256 / best["conv"], 2 * 2048**3 / best["product"]) / 1e12
    return found


def decibel(one: Tensor, other: Tensor) -> float:
    """PSNR between two pictures in [0, 1]."""
    return float(-10 * torch.log10((one - other).square().mean()))


def trained(recipe: Recipe, photos: Sequence[Tensor], out: Path) -> Path:
    """The weights that a training leaves in a folder of `out`; those of an earlier call of the same recipe if it has
    ended. Ends the script where the folder holds another recipe's."""
    folder = out / recipe.name
    asked, done = folder / "recipe.txt", folder / "done"
    settings = re.sub(r" at 0x[0-9a-f]+", "", repr(recipe))  # without where functions lie
    if asked.exists() and asked.read_text() != settings:
        raise SystemExit(f"{folder} holds a training of other settings: give the same ones, or another --out")
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        asked.write_text(settings)
        if train(recipe, photos, folder, TrainOptions(resume=True, workers=0, quiet=True)).reason != "done":
            raise SystemExit(f"stopped in {recipe.name}; the same command goes on")
        done.touch()
    return folder / f"{recipe.name}.safetensors"
