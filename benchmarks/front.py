"""Our networks beside small plain ones: CPU seconds of one thread, in one run, for a table of scales and budgets.

    python benchmarks/front.py --peers shared/weights/disp_x4.pth shared/weights/etds_m7c48_x4.pth
                               [-n fast quality] [--size 320x180] [--dtype bf16] [--scales 4 3 2.7 2] [--repeats 5]

The LR picture is the centre of the example photo, enlarged first where it is too small; it lies in memory, and so does
the result. Medians of runs taken in turns, so that a busy machine slows all of them. Networks of one scale run at that
scale alone. `per pixel` is the time per output pixel over that of the first network at its first scale.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from common import PHOTO, centre, enlarged, size_of
from rich.console import Console
from rich.table import Table
from torch import Tensor

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.errors import ScalewiseError
from scalewise.execution.plan import RunOptions
from scalewise.models.model import Model

BUDGETS = (1.0, 0.75, 0.5, 0.25)


def picture(size: tuple[int, int]) -> Tensor:
    """uint8 (3, *size) of the example photo."""
    source = images.open(PHOTO)
    if all(n >= m for n, m in zip(source.size, size, strict=True)):
        return centre(PHOTO, size)
    whole = source.read((0, 0, *source.size))
    return (F.interpolate(whole[None], size=size, mode="bilinear")[0] * 255).round().to(torch.uint8)


def cpu_seconds(lr: Tensor, model: Model, scale: float, budget: float, options: RunOptions) -> tuple[float, int]:
    """CPU seconds of one run from memory into memory, and its MACs."""
    began = time.process_time()
    report = enlarged(lr, model, scale, Budget.fraction(budget), options)
    return time.process_time() - began, report.macs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-n", "--models", nargs="+", default=["fast", "quality"], help="names or weight files")
    parser.add_argument("--peers", nargs="*", default=[], help="weight files of other networks, at full budget")
    parser.add_argument("--size", type=size_of, default=(180, 320), help="of the LR picture, WIDTHxHEIGHT")
    parser.add_argument("--scales", type=float, nargs="+", default=[4.0, 3.0, 2.7, 2.0])
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lr, options = picture(asked.size), RunOptions(device="cpu", dtype=asked.dtype)
    runs: dict[tuple[str, float, float], Model] = {}
    for name in [*asked.models, *asked.peers]:
        model = zoo.load(name, device="cpu").model
        for scale in asked.scales:
            for budget in BUDGETS if name in asked.models else (1.0,):
                try:
                    cpu_seconds(lr, model, scale, budget, options)
                except ScalewiseError:  # another scale than its own, or a budget below its floor
                    continue
                runs[name, scale, budget] = model
    times: dict[tuple[str, float, float], list[float]] = {run: [] for run in runs}
    macs: dict[tuple[str, float, float], int] = {}
    for _ in range(asked.repeats):
        for run, model in runs.items():
            took, macs[run] = cpu_seconds(lr, model, *run[1:], options)
            times[run].append(took)
    pixels = asked.size[0] * asked.size[1]
    first = next(iter(runs))
    unit = statistics.median(times[first]) / first[1] ** 2
    table = Table("network", "scale", "budget", "ms", "of the first", "per pixel", "k MAC per LR pixel")
    for (name, scale, budget), taken in times.items():
        took = statistics.median(taken)
        ratio = took / statistics.median(times[first])
        row = (f"{1000 * took:.0f}", f"{ratio:.2f}", f"{took / scale**2 / unit:.2f}")
        table.add_row(
            Path(name).stem, f"×{scale:g}", f"{budget:.0%}", *row, f"{macs[name, scale, budget] / pixels / 1e3:.0f}"
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
