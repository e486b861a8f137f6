"""Large pictures: every adaptive network and plain ones, ×4 to 2K, 4K and 8K: seconds, peak memory, share of the MACs.

    python benchmarks/large.py --weights DIR [--only fast,camixer] [--to 2k 4k 8k] [--dtype bf16] [--threads 1]

The outputs are 2048×1080, 3840×2160 and 7680×4320, the LR a quarter of that, made from the example photo; it lies in
memory, and so does the result. Each network runs in a process of its own, at 100%, at its paper's dial and at 50%: a
network with one level of effort spends that on a part of the picture, with bicubic elsewhere. Seconds are CPU time,
after a small picture has warmed up; peak memory is that of the whole process, of which torch alone takes some 300 MiB.
Networks without published weights have random ones, which take as long, but whose routers choose as chance has it.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from adaptive import METHODS, Method, open_method, seeded
from common import enlarged
from front import picture
from rich.console import Console
from rich.table import Table

from scalewise import zoo
from scalewise.budget.budget import Budget
from scalewise.encoders.elan import ELAN
from scalewise.encoders.swinir import SwinIR
from scalewise.errors import BudgetInfeasible
from scalewise.execution.plan import RunOptions
from scalewise.machine.device import NumberType
from scalewise.models.model import Model
from scalewise.models.super_resolver import SuperResolver
from scalewise.upsamplers.fixed import DirectShuffle

SCALE = 4
OUTPUTS = {"2k": (1080, 2048), "4k": (2160, 3840), "8k": (4320, 7680)}
WARMING = (64, 64)  # LR pixels
MIB = 2**20


def swinir() -> Model:
    def build() -> SuperResolver:
        encoder = SwinIR(60, depths=(6,) * 4, heads=(6,) * 4, features=None)
        return SuperResolver(encoder, DirectShuffle(60, SCALE), mean=(0, 0, 0), std=(1, 1, 1), scales=(SCALE,))

    return seeded(build)


def elan() -> Model:
    return seeded(lambda: SuperResolver(ELAN(), DirectShuffle(60, SCALE), scales=(SCALE,)))


NETWORKS: dict[str, Method] = {
    **{name: METHODS[name] for name in ("adaformer", "camixer", "enaf-carn", "arm-carn", "tadt", "fast")},
    "quality": Method("quality (ours)", lambda: zoo.load("quality").model),
    "swinir-light": Method("SwinIR-light, random weights", swinir),
    "elan-light": Method("ELAN-light, random weights", elan),
    "carn-m": Method("CARN-M", "carn_m_multiscale.pth"),
    "disp": Method("DISP", "disp_x4.pth"),
}

Row = tuple[str, float, float, float]  # request, share of the MACs, CPU seconds, peak bytes


def measure(name: str, weights: Path, output: str, dtype: NumberType, threads: int) -> list[Row]:
    """One network at all that is asked of it. Requests below its floor are left out."""
    torch.set_num_threads(threads)
    method, options, rows = NETWORKS[name], RunOptions(device="cpu", dtype=dtype), []
    model = open_method(method, weights)
    height, width = OUTPUTS[output]
    lr = picture((height // SCALE, width // SCALE))
    for request in (1.0, *method.native, 0.5):
        budget = Budget.parse(request)
        try:
            enlarged(lr[:, : WARMING[0], : WARMING[1]].contiguous(), model, SCALE, budget, options)
            began = time.process_time()
            report = enlarged(lr, model, SCALE, budget, options)
        except BudgetInfeasible:
            continue
        label = request if isinstance(request, str) else f"{request:.0%}"
        rows.append((label, report.share, time.process_time() - began, float(report.peak_bytes)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, required=True, help="folder of published weights")
    parser.add_argument("--only", default=",".join(NETWORKS), help="names, separated by commas")
    parser.add_argument("--to", nargs="+", choices=OUTPUTS, default=["2k"], help="size of the output")
    parser.add_argument("--dtype", default="auto", choices=["auto", "fp32", "bf16"])
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    if unknown := set(asked.only.split(",")) - set(NETWORKS):
        parser.error(f"no network {', '.join(sorted(unknown))}; there are {', '.join(NETWORKS)}")
    console = Console(width=110)
    for output in asked.to:
        for name in asked.only.split(","):
            method = NETWORKS[name]
            if isinstance(method.source, str) and not (asked.weights / method.source).is_file():
                console.print(f"{name}: no {asked.weights / method.source}")
                continue
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                rows = alone.submit(measure, name, asked.weights, output, asked.dtype, asked.threads).result()
            table = Table("budget", "MACs", "CPU seconds", "of 100%", "peak MiB", title=f"{method.title} to {output}")
            for label, share, took, peak in rows:
                table.add_row(label, f"{share:.2f}", f"{took:.2f}", f"{took / rows[0][2]:.2f}", f"{peak / MIB:.0f}")
            console.print(table)


if __name__ == "__main__":
    main()
