"""The shipped models beyond PSNR at whole scales: other scales, degraded pictures, where the work goes.

    python benchmarks/shipped.py scales --data DIR -n fast      dB over bicubic at ×1.5 … ×4 and ×6, ×8, worst picture
                                 [--plot FILE] [--at 6 8]
    python benchmarks/shipped.py photo --data DIR               seeded blur, noise and JPEG: photo, quality, bicubic
    python benchmarks/shipped.py routes --data DIR -n fast      effort of flat and of detailed blocks at half the budget

DIR is a folder of HR pictures; LR is MATLAB's bicubic in 8 bits. Y, shave = ⌈scale⌉, 8 bits (`default`), of the
centre of each picture (`--side`). bf16 where the machine is good at it.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.data.degradations import Photo
from scalewise.evaluate import metrics
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run
from scalewise.geometry.resize import imresize

SCALES = (1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 3.75, 4.0, 6.0, 8.0)
PHOTO = Photo(blur=(0.1, 1.0), noise=(1.0, 15.0), quality=(30, 90), without=(0.0, 0.0, 0.0))
BLOCK = 32  # LR pixels


def pictures(folder: Path, side: int) -> list[tuple[str, torch.Tensor]]:
    """(3, h, w) float64 in [0, 1]: the centre of every picture, no longer than `side`."""
    found = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in images.READABLE):
        source = images.open(path)
        h, w = (min(n, side) for n in source.size)
        top, left = (source.size[0] - h) // 2, (source.size[1] - w) // 2
        found.append((path.stem, source.read((top, left, top + h, left + w)).double()))
    return found


def cropped(hr: torch.Tensor, scale: float) -> tuple[torch.Tensor, tuple[int, int]]:
    """The part of it that has an LR at this scale, and the LR size."""
    size = tuple(int(n / scale) for n in hr.shape[-2:])
    h, w = (round(n * scale) for n in size)
    return hr[:, :h, :w], (size[0], size[1])


def upscaled(lr: torch.Tensor, out: tuple[int, int], name: str, budget: float = 1.0):
    """SR (3, H, W) uint8 and the report."""
    source = images.open((lr * 255).round().to(torch.uint8))
    sink = images.create(None, out, source)
    model, how = zoo.load(name).model, RunOptions(dtype="auto")
    return enlarge(plan_run(source, sink.size, model, Budget.fraction(budget), how), sink)


def psnr(sr: torch.Tensor, hr: torch.Tensor, scale: float) -> float:
    return metrics.psnr(sr.double() / 255, hr, channel="y", shave=int(-(-scale // 1)))


def reduced(hr: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    hr, size = cropped(hr, scale)
    return hr, metrics.eight_bit(imresize(hr, size)).float()


def scales(asked: argparse.Namespace) -> Table:
    table = Table("scale", "bicubic", asked.model, "gain", "worst picture", title=f"{asked.data.name}, Y")
    curves: list[list[float]] = []
    for scale in asked.at:
        rows = []
        for name, whole in pictures(asked.data, asked.side):
            hr, lr = reduced(whole, scale)
            out = (hr.shape[-2], hr.shape[-1])
            rows.append((name, *(psnr(upscaled(lr, out, n)[0], hr, scale) for n in ("bicubic", asked.model))))
        worst = min(rows, key=lambda row: row[2] - row[1])
        means = [statistics.mean(row[k] for row in rows) for k in (1, 2)]
        curves.append(means)
        table.add_row(
            f"{scale:g}",
            *(f"{mean:.3f}" for mean in means),
            f"{means[1] - means[0]:+.3f}",
            f"{worst[0]} {worst[2] - worst[1]:+.3f}",
        )
    if asked.plot:
        plot(asked, curves)
    return table


def plot(asked: argparse.Namespace, curves: list[list[float]]) -> None:
    """dB of both, and the gain, over the scale."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    for k, name in enumerate(("bicubic", asked.model)):
        left.plot(asked.at, [means[k] for means in curves], marker="o", markersize=3, label=name)
    right.plot(asked.at, [means[1] - means[0] for means in curves], marker="o", markersize=3, color="C2")
    left.set(xlabel="scale", ylabel="PSNR (Y), dB", title=asked.data.name)
    right.set(xlabel="scale", ylabel="dB over bicubic", ylim=(0, None))
    left.legend()
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(asked.plot, dpi=110)


def photo(asked: argparse.Namespace) -> Table:
    names = ("bicubic", "quality", "photo")
    table = Table("picture", "LR", *names, "consistency of photo", title=f"×{asked.scale:g}, Y")
    sums: dict[str, list[tuple[float, ...]]] = {"clean": [], "degraded": []}
    for number, (name, whole) in enumerate(pictures(asked.data, asked.side)):
        hr, clean = reduced(whole, asked.scale)
        size, out = (clean.shape[-2], clean.shape[-1]), (hr.shape[-2], hr.shape[-1])
        degraded = PHOTO(hr.float(), size, np.random.default_rng(number))
        for kind, lr in (("clean", clean), ("degraded", degraded)):
            found = [upscaled(lr, out, n)[0] for n in names]
            values = tuple(psnr(sr, hr, asked.scale) for sr in found)
            faithful = metrics.consistency(lr.double(), found[-1].double() / 255)
            sums[kind].append((*values, faithful))
            table.add_row(name, kind, *(f"{v:.2f}" for v in values), f"{faithful:.1f}")
    for kind, rows in sums.items():
        table.add_row("mean", kind, *(f"{statistics.mean(column):.3f}" for column in zip(*rows, strict=True)))
    return table


def routes(asked: argparse.Namespace) -> Table:
    table = Table("picture", "lowest quartile", "highest", "ratio", title=f"effort at 50%, ×{asked.scale:g}")
    ratios = []
    lows, highs = [], []
    for name, whole in pictures(asked.data, asked.side):
        hr, lr = reduced(whole, asked.scale)
        report = upscaled(lr, (hr.shape[-2], hr.shape[-1]), asked.model, 0.5)[1]
        green = hr[1]
        slope = (green.diff(dim=0).abs()[:, :-1] + green.diff(dim=1).abs()[:-1])[None]
        cells = report.effort_map.double()
        block = round(BLOCK * asked.scale)
        detail = torch.nn.functional.avg_pool2d(slope, block, ceil_mode=True)[0][: cells.shape[0], : cells.shape[1]]
        cells = cells[: detail.shape[0], : detail.shape[1]].flatten()
        order = cells[detail.flatten().argsort()]
        quarter = max(1, len(order) // 4)
        low, high = float(order[:quarter].mean()), float(order[-quarter:].mean())
        lows.append(low)
        highs.append(high)
        ratios.append(low / max(high, 1e-9))
        table.add_row(name, f"{low:.3f}", f"{high:.3f}", f"{ratios[-1]:.2f}")
    mean_low, mean_high = statistics.mean(lows), statistics.mean(highs)
    table.add_row("mean", f"{mean_low:.3f}", f"{mean_high:.3f}", f"{mean_low / mean_high:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="What shipped models do beyond whole scales.")
    parser.add_argument("what", choices=["scales", "photo", "routes"])
    parser.add_argument("--data", type=Path, required=True, help="a folder of HR pictures")
    parser.add_argument("-n", "--model", default="fast")
    parser.add_argument("-s", "--scale", type=float, default=4.0)
    parser.add_argument("--side", type=int, default=960, help="of the centre of each picture, in HR pixels")
    parser.add_argument("--at", type=float, nargs="+", default=SCALES, help="the scales of `scales`")
    parser.add_argument("--plot", type=Path, help="draw the curve of `scales` into this file")
    asked = parser.parse_args()
    tables = {"scales": scales, "photo": photo, "routes": routes}
    Console(width=140).print(tables[asked.what](asked))


if __name__ == "__main__":
    main()
