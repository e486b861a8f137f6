"""Our networks beside small plain ones: CPU seconds of one thread, in one run, for a table of scales and budgets.

    python benchmarks/front.py --peers shared/weights/disp_x4.pth shared/weights/etds_m7c48_x4.pth
                               [-n fast quality] [--size 320x180] [--dtype bf16 int8] [--scales 4 3 2.7 2]
                               [--budgets 1 0.5 0.25] [--repeats 5]

The LR picture is the centre of the example photo, enlarged first where it is too small; it lies in memory, and so does
the result. Medians of runs taken in turns, so that a busy machine slows all of them. Networks of one scale run at that
scale alone. `convolution` is the share of the time within convolutions, with what oneDNN does after them; `of 100%` is
the time over that of the same network at 100%, beside the share of the MACs; `per pixel` is the time per output pixel
over that of the first network at its first scale.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

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


def picture(size: tuple[int, int]) -> Tensor:
    """uint8 (3, *size) of the example photo."""
    source = images.open(PHOTO)
    if all(n >= m for n, m in zip(source.size, size, strict=True)):
        return centre(PHOTO, size)
    whole = source.read((0, 0, *source.size))
    return (F.interpolate(whole[None], size=size, mode="bilinear")[0] * 255).round().to(torch.uint8)


@dataclass
class Times:
    """CPU seconds of the runs of a network, of them within convolutions, and the MACs of one."""

    whole: list[float] = field(default_factory=list)
    convolutions: list[float] = field(default_factory=list)
    macs: int = 0

    @property
    def median(self) -> float:
        return statistics.median(self.whole)

    def run(self, lr: Tensor, model: Model, scale: float, budget: float, options: RunOptions) -> None:
        """Once more, from memory into memory."""
        within = 0.0

        def timed(convolution: Callable[..., Any]) -> Callable[..., Any]:
            def run(*given: Any, **named: Any) -> Any:
                nonlocal within
                began = time.thread_time()
                result = convolution(*given, **named)
                within += time.thread_time() - began
                return result

            run.default = getattr(convolution, "default", None)  # type: ignore[attr-defined]  # torch asks for it
            return run

        own, fused = torch.ops.onednn, torch.ops.mkldnn
        with (
            patch.object(F, "conv2d", timed(F.conv2d)),
            patch.object(fused, "_convolution_pointwise", timed(fused._convolution_pointwise)),  # and what follows it
            patch.object(fused._convolution_pointwise_, "binary", timed(fused._convolution_pointwise_.binary)),
            patch.object(own, "qconv2d_pointwise", timed(own.qconv2d_pointwise)),  # in 8 bits
        ):
            began = time.process_time()
            self.macs = enlarged(lr, model, scale, Budget.fraction(budget), options).macs
            self.whole.append(time.process_time() - began)
        self.convolutions.append(within / self.whole[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-n", "--models", nargs="+", default=["fast", "quality"], help="names or weight files")
    parser.add_argument("--peers", nargs="*", default=[], help="weight files of other networks, at full budget")
    parser.add_argument("--size", type=size_of, default=(180, 320), help="of the LR picture, WIDTHxHEIGHT")
    parser.add_argument("--scales", type=float, nargs="+", default=[4.0, 3.0, 2.7, 2.0])
    parser.add_argument("--budgets", type=float, nargs="+", default=[1.0, 0.75, 0.5, 0.25], help="shares of the MACs")
    parser.add_argument("--dtype", nargs="+", default=["auto"], choices=["auto", "fp32", "bf16", "int8"])
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lr = picture(asked.size)
    runs: dict[tuple[str, str, float, float], Model] = {}
    for name in [*asked.models, *asked.peers]:
        model = zoo.load(name, device="cpu").model
        for scale in asked.scales:
            for dtype in asked.dtype:
                for budget in asked.budgets if name in asked.models else (1.0,):
                    try:
                        Times().run(lr, model, scale, budget, RunOptions(device="cpu", dtype=dtype))  # type: ignore[arg-type]
                    except ScalewiseError:  # another scale than its own, a budget below its floor, no 8 bits
                        continue
                    runs[name, dtype, scale, budget] = model
    times = {run: Times() for run in runs}
    for _ in range(asked.repeats):
        for run, model in runs.items():
            _, dtype, scale, budget = run
            times[run].run(lr, model, scale, budget, RunOptions(device="cpu", dtype=dtype))  # type: ignore[arg-type]
    pixels = asked.size[0] * asked.size[1]
    first = next(iter(runs))
    unit = times[first].median / first[2] ** 2
    table = Table(
        *("network", "type", "scale", "budget", "ms", "convolution", "of 100%", "MACs", "of the first", "per pixel"),
        "k MAC per LR pixel",
    )
    for (name, dtype, scale, budget), taken in times.items():
        took, full = taken.median, times.get((name, dtype, scale, 1.0), taken)
        shares = f"{statistics.median(taken.convolutions):.0%}", f"{took / full.median:.2f}"
        ratios = f"{took / times[first].median:.2f}", f"{took / scale**2 / unit:.2f}"
        table.add_row(
            *(Path(name).stem, dtype, f"×{scale:g}", f"{budget:.0%}", f"{1000 * took:.0f}", *shares),
            *(f"{taken.macs / full.macs:.2f}", *ratios, f"{taken.macs / pixels / 1e3:.0f}"),
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
