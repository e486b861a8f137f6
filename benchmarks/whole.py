"""The default model from file to file, beside bicubic, CARN-M and EDSR-baseline. Run it on a quiet machine.

    python benchmarks/whole.py [--model fast] [--weights DIR] [--hr PHOTO] [--output png|jpg] [--json FILE]

A photo of 4080×2712 pixels (cut from HR, or repeated if it is smaller) is shrunk by four (bicubic, antialiased) and
enlarged again, 1020×678 → ×4, in turns: medians. `network`: seconds inside the model in a run whose result stays in
memory, so that no encoder takes a core from it; `peak`: TFLOP/s of its MACs over the best of a 64-channel 3×3
convolution and a 2048³ product in the same run, fp32 and bf16 apart; `codec`: decoding the input and encoding the
output alone; `wall`: file to file, and over the longer of network and codec (asked of the default model: at most 1.1,
and 40% of the peak); `beside`: over what the network took in that same run, beside the encoder. dB: PSNR in RGB over
the whole picture, not shaved. EDSR-baseline has random weights, so it has no dB.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from runtimes import edsr, peaks

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run
from scalewise.geometry.resize import imresize
from scalewise.machine.device import fast_bf16, for_inference
from scalewise.models.model import Model, RowByRow

SIZE, SCALE = (678, 1020), 4
OUT = (SIZE[0] * SCALE, SIZE[1] * SCALE)
OVERLAP, OF_PEAK = 1.1, 0.4


class Watched:
    """A model whose rendering is timed."""

    def __init__(self, model: Model) -> None:
        self.model, self.seconds = model, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def render(self, *given: Any) -> Any:
        began = time.perf_counter()
        rendered = self.model.render(*given)
        self.seconds += time.perf_counter() - began
        return rendered


class WatchedRows(Watched):
    """The same of a model that hands over rows as they are done."""

    def render_rows(self, *given: Any) -> Any:
        began = time.perf_counter()
        rendered = self.model.render_rows(*given)  # type: ignore[attr-defined]
        self.seconds += time.perf_counter() - began
        return rendered


def enlarged(lr: Path, sr: Path | None, model: Model, dtype: str, budget: Budget) -> dict[str, float]:
    """File to file; `sr` None: into memory."""
    watched = (WatchedRows if isinstance(model, RowByRow) else Watched)(model)
    began = time.perf_counter()
    source = images.open(lr)
    sink = images.create(sr, OUT, source, overwrite=True)
    options = RunOptions(dtype=dtype)  # type: ignore[arg-type]
    report = enlarge(plan_run(source, sink.size, watched, budget, options), sink)[1]  # type: ignore[arg-type]
    return {"wall": time.perf_counter() - began, "network": watched.seconds, "macs": float(report.macs)}


def codec(lr: Path, sr: Path, folder: Path) -> float:
    """Decoding the input and encoding that output, with nothing between."""
    pixels = images.open(sr).read()
    source = images.open(lr)
    sink = images.create(folder / f"again{sr.suffix}", OUT, source, overwrite=True)
    with sink:
        sink.write(0, 0, pixels)
        began = time.perf_counter()
        source.read()
        sink.finish()
        return time.perf_counter() - began


def psnr(sr: Path, hr: torch.Tensor) -> float:
    error = (images.open(sr).read() - hr).square().mean().item()
    return -10 * math.log10(max(error, 1e-12))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--model", default="fast", help="the default model: a name or a weight file")
    parser.add_argument("--budget", default="100%")
    parser.add_argument("--weights", type=Path, default=root.parent / "shared" / "weights")
    parser.add_argument("--hr", type=Path, default=root / "examples" / "photo.jpg")
    parser.add_argument("--output", default="png", help="png or jpg")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="default,bicubic,carn-m,edsr", help="names, separated by commas")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    console, top = Console(), peaks()
    dtype = "bf16" if fast_bf16(torch.device("cpu")) else "fp32"
    photo = images.open(arguments.hr).read()
    photo = photo.repeat(1, -(-OUT[0] // photo.shape[1]), -(-OUT[1] // photo.shape[2]))[:, : OUT[0], : OUT[1]]
    models: dict[str, tuple[Model, Budget]] = {}
    for name in arguments.only.split(","):
        carn = arguments.weights / "carn_m_multiscale.pth"
        if name == "carn-m" and not carn.exists():
            console.print(f"carn-m: no {carn}")
        elif name == "edsr":
            torch.manual_seed(0)
            models[name] = for_inference(edsr(), torch.device("cpu")), Budget.full()
        else:
            file = {"default": arguments.model, "carn-m": str(carn)}.get(name, name)
            models[name] = zoo.load(file).model, Budget.parse(arguments.budget if name == "default" else None)
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        lr = images.save(folder / "lr.png", (imresize(photo, SIZE).clamp(0, 1) * 255).round().to(torch.uint8))
        hr = torch.from_numpy(np.asarray((photo * 255).round())).float() / 255
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in models}
        codecs: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(arguments.repeats + 1):  # the first warms up
            for name, (model, budget) in models.items():
                sr = folder / f"{name}.{arguments.output}"
                done = enlarged(lr, sr, model, dtype, budget)
                done["beside"] = done["network"]
                done["network"] = enlarged(lr, None, model, dtype, budget)["network"]
                alone = codec(lr, sr, folder)
                if turn:
                    turns[name].append(done)
                    codecs[name].append(alone)
        for name in models:
            kinds = ("wall", "network", "macs", "beside")
            row = {key: statistics.median(turn[key] for turn in turns[name]) for key in kinds}
            row["codec"] = statistics.median(codecs[name])
            row["over"] = row["wall"] / max(row["network"], row["codec"])
            row["beside"] = row["wall"] / max(row["beside"], row["codec"])
            row["tflops"] = 2 * row["macs"] / row["network"] / 1e12
            row["of_peak"] = row["tflops"] / top[dtype]
            row["per_megapixel"] = row["wall"] / (math.prod(OUT) / 1e6)
            row["psnr"] = psnr(folder / f"{name}.{arguments.output}", hr) if name != "edsr" else float("nan")
            rows[name] = row
    title = f"{SIZE[1]}x{SIZE[0]} → ×{SCALE}, {arguments.output}, {dtype}; peak {top[dtype]:.2f} TFLOP/s"
    names = ("model", "wall", "network", "codec", "wall over", "beside", "TFLOP/s", "of peak", "s/MP", "dB")
    table = Table(*names, title=title)
    for name, row in rows.items():
        cells = [f"{row[key]:.3f}" for key in ("wall", "network", "codec", "over", "beside")]
        near = "" if math.isnan(row["psnr"]) else f"{row['psnr']:.2f}"
        table.add_row(
            name, *cells, f"{row['tflops']:.2f}", f"{row['of_peak']:.0%}", f"{row['per_megapixel']:.3f}", near
        )
    console.print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"peak": top, "rows": rows}, indent=1), encoding="utf-8")
    mine = rows.get("default")
    return 0 if mine is None or (mine["over"] <= OVERLAP and mine["of_peak"] >= OF_PEAK) else 1


if __name__ == "__main__":
    sys.exit(main())
