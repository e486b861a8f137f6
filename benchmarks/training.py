"""What the training engine brings: EDSR-LIIF by the engine's own step over a literal loop, on the same batch.

    python benchmarks/training.py [--steps 7] [--threads 2] [--dtype auto] [--quality]

One batch as in the paper: 16 crops of 48×48, 2304 points of each, scales U(1, 4), L1, Adam. The literal loop is what a
reader of the paper writes: float32, NCHW, features unfolded, one MLP run per corner over 580 inputs
(`tests/upsamplers/literal.py`, which the tests compare with golden outputs). Ours is `training.task.StageTask` as the
engine runs it: channels last, bf16 where the machine multiplies it in hardware, the rewritten first layer, fused AdamW;
its checks and its averaged weights are included. Both start from the same weights. Steps alternate between the two, so
that a busy machine slows both; medians are compared, and by CPU time too.

`--quality` trains both for --steps steps from the same weights on the same samples instead, with a smaller network
(EDSR 32 channels, 4 blocks; LIIF 64-64) and batch (8 crops of 24×24, 576 points), the learning rate falling along a
cosine, and compares the PSNR of the last weights on held-out crops. `--rate` is 3e-4: at 1e-3 two runs that differ by
rounding alone ended 0.16 dB apart, and at 1e-4 runs of 500 steps end at 23.6 dB, far from where they settle.

Ends with exit code 1 if a promise is broken.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from common import literal
from lightning.fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from scalewise.data import AnyScaleCrops, Numbered, decode_folder
from scalewise.encoders.edsr import EDSR
from scalewise.machine.device import fast_bf16, pick_dtype
from scalewise.models.super_resolver import SuperResolver
from scalewise.training.losses.pixel import l1, rendered
from scalewise.training.stage import Batch, Stage, cosine
from scalewise.training.task import StageTask
from scalewise.upsamplers.liif import LIIF

PROMISE = 4.0  # times faster, where bf16 is fast
CLOSE = 0.05  # dB
STEPS = 1_000_000  # of the schedule while speed is measured

Step = Callable[[Batch], float]


def literal_step(model: SuperResolver, rate: float, steps: int) -> Step:
    """The loop of the paper, with a cosine learning rate: a constant one ends anywhere within a decibel."""
    optimizer = torch.optim.Adam(model.parameters(), rate, foreach=False)
    taken = itertools.count()
    assert isinstance(model.upsampler, LIIF)
    render = literal.liif(model.upsampler)

    def step(batch: Batch) -> float:
        lr = batch["lr"] * 2 - 1
        size = torch.tensor(lr.shape[-2:])
        coordinates = torch.stack([batch["y"], batch["x"]], -1) * 2 / size - 1
        cells = (batch["cell"] * 2 / size).unsqueeze(1).expand(-1, coordinates.shape[1], -1)
        rgb = render(model.encoder(lr), lr, coordinates.float(), cells)  # type: ignore[operator]
        loss = F.l1_loss(rgb / 2 + 0.5, batch["hr"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = rate * cosine(next(taken) / steps)
        optimizer.step()
        return loss.item()

    return step


def engine_step(model: SuperResolver, rate: float, steps: int, dtype: torch.dtype) -> Step:
    """The engine's step."""
    stage = Stage("l1", steps, AnyScaleCrops(), l1, learning_rate=rate, schedule=cosine)
    task = StageTask(model.to(memory_format=torch.channels_last), stage, seed=(0,), out=Path(tempfile.gettempdir()))  # pyright: ignore[reportCallIssue]
    prepared = task.prepare(Fabric(accelerator="cpu", devices=1), "bf16" if dtype == torch.bfloat16 else "fp32")

    def step(batch: Batch) -> float:
        task.set_rate()
        task.train_step(batch, prepared)
        task.advance()
        return float(task.last["loss"])

    return step


def timed(step: Step, batch: Batch) -> tuple[float, float]:
    start, cpu = time.perf_counter(), time.process_time()
    step(batch)
    return time.perf_counter() - start, time.process_time() - cpu


def compare_speed(pictures: list[Tensor], steps: int, dtype: torch.dtype) -> bool:
    batch = next(iter(DataLoader(Numbered(AnyScaleCrops(), pictures, seed=(0,), batch=16, stop=1), 16)))
    first = SuperResolver(EDSR(), LIIF(64))
    runs = [
        ("literal fp32", literal_step(copy.deepcopy(first), 1e-4, STEPS)),
        ("engine fp32", engine_step(copy.deepcopy(first), 1e-4, STEPS, torch.float32)),
    ]
    if dtype != torch.float32:
        runs.append(("engine bf16", engine_step(copy.deepcopy(first), 1e-4, STEPS, dtype)))
    times: list[list[tuple[float, float]]] = [[] for _ in runs]
    for number in range(steps + 1):
        for one, (_, step) in zip(times, runs, strict=True):
            took = timed(step, batch)
            print(f"  round {number}: {took[0]:.2f} s, {took[1]:.2f} s of CPU", flush=True)
            if number:  # the first warms up
                one.append(took)
    wall, cpu = (
        [statistics.median(pair[k] for pair in one) for one in times] for k in (0, 1)
    )  # fmt: skip
    for (name, _), seconds, busy in zip(runs, wall, cpu, strict=True):
        ratios = wall[0] / seconds, cpu[0] / busy
        print(f"{name:<14}{seconds:>8.3f} s a step  ×{ratios[0]:.2f} {busy:>9.3f} s of CPU  ×{ratios[1]:.2f}")
    if dtype == torch.float32:
        print("bf16 is not fast here: no promise")
        return True
    fulfilled = wall[0] / wall[-1] >= PROMISE
    print(f"promised ×{PROMISE:g}: {'yes' if fulfilled else 'NO'}")
    return fulfilled


def compare_quality(pictures: list[Tensor], steps: int, dtype: torch.dtype, rate: float, seed: int) -> bool:
    samples = AnyScaleCrops(lr_side=24, points=24)
    first = SuperResolver(EDSR(32, 4), LIIF(32, (64, 64)))
    models = [copy.deepcopy(first) for _ in range(3)]
    runs = [
        literal_step(models[0], rate, steps),
        engine_step(models[1], rate, steps, torch.float32),
        engine_step(models[2], rate, steps, dtype),
    ]
    held = next(iter(DataLoader(Numbered(samples, pictures[-2:], seed=(1000,), batch=128, stop=1), 128)))
    numbered = Numbered(samples, pictures[:-2], seed=(seed,), batch=8, stop=steps)
    for number, batch in enumerate(DataLoader(numbered, 8, num_workers=1), 1):
        losses = [step(batch) for step in runs]
        if number % 100 == 0:
            print(f"step {number}: loss " + " ".join(f"{loss:.5f}" for loss in losses), flush=True)
    decibels = []
    for model in models:
        with torch.no_grad():
            error = rendered(model.eval(), held).rgb.clamp(0, 1) - held["hr"]
        decibels.append(float(-10 * error.square().mean((1, 2)).log10().mean()))
    for name, found in zip(("literal fp32", "engine fp32", f"engine {dtype}"), decibels, strict=True):
        print(f"after {steps} steps: {name:<22}{found:.3f} dB  {found - decibels[0]:+.3f}")
    return abs(decibels[-1] - decibels[0]) <= CLOSE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parent.parent / "examples")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights and the samples of --quality")
    parser.add_argument("--rate", type=float, default=3e-4, help="learning rate of --quality")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    device = torch.device("cpu")
    dtype = pick_dtype(given.dtype, device)
    print(f"{given.threads} threads, torch {torch.__version__}, bf16 {'fast' if fast_bf16(device) else 'slow'} here")
    pictures = decode_folder(given.data)
    if given.quality:
        fulfilled = compare_quality(pictures, given.steps, dtype, given.rate, given.seed)
    else:
        fulfilled = compare_speed(pictures, given.steps, dtype)
    return 0 if fulfilled else 1


if __name__ == "__main__":
    sys.exit(main())
