"""Ours beside ONNX Runtime and OpenVINO, on the same static network exported from our weights. Needs the extra `bench`;
run it on a quiet machine.

    python benchmarks/runtimes.py [--weights DIR] [--only srresnet,edsr] [--repeats 5] [--json FILE]

One 320×180 LR picture, ×4, every runtime with the same threads, in turns: medians of the seconds of the network alone,
array to array. SRResNet and EDSR-baseline have random, seeded weights, which take as long as trained ones. Then
ENAF-CARN (published weights, if DIR has them) beside OpenVINO's full CARN-M of the same file. `peak`: achieved TFLOP/s
over the best of a 64-channel 3×3 convolution and a 2048³ product of the same number type, in the same run. The dB is
that between bf16 and fp32 of ours.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.encoders.edsr import EDSR
from scalewise.encoders.srresnet import SRResNet
from scalewise.export.onnx_file import export
from scalewise.geometry.grid import Frame
from scalewise.machine.device import fast_bf16, for_inference, numbers
from scalewise.models.model import Model
from scalewise.models.patchwise import PatchwiseModel
from scalewise.models.super_resolver import SuperResolver
from scalewise.multiexit.enaf import ExitNetwork
from scalewise.upsamplers.fixed import PixelShuffle, ResNetTail

SIZE, SCALE = (180, 320), 4
OUT = (SIZE[0] * SCALE, SIZE[1] * SCALE)
CPU = torch.device("cpu")
WITHIN, AHEAD, LOSS = 1.15, 3.0, 0.1  # of OpenVINO's best; of ONNX Runtime in fp32; dB that adaptive versions may lose

Runs = dict[str, Callable[[], Any]]


def srresnet() -> SuperResolver:
    return SuperResolver(SRResNet(), ResNetTail(64, SCALE), scales=(SCALE,))


def edsr() -> SuperResolver:
    return SuperResolver(EDSR(), PixelShuffle(64, SCALE), scales=(SCALE,))


NETWORKS: dict[str, Callable[[], SuperResolver]] = {"srresnet": srresnet, "edsr": edsr}


def medians(runs: Runs, repeats: int) -> dict[str, float]:
    """Seconds of each, in turns; the first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


@torch.no_grad()
def peaks() -> dict[str, float]:
    """TFLOP/s by number type: the best of a 64-channel 3×3 convolution and a 2048³ product."""
    found = {}
    for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        if dtype == torch.bfloat16 and not fast_bf16(CPU):
            continue
        conv = nn.Conv2d(64, 64, 3, padding=1).to(dtype).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        x = torch.rand(1, 64, 256, 256, dtype=dtype).contiguous(memory_format=torch.channels_last)
        a, b = torch.rand(2048, 2048, dtype=dtype), torch.rand(2048, 2048, dtype=dtype)
        best = {"conv": math.inf, "product": math.inf}
        for _ in range(30):
            for kind, work in (("conv", lambda: conv(x)), ("product", lambda: a @ b)):  # noqa: B023 (called at once)
                began = time.perf_counter()
                work()
                best[kind] = min(best[kind], time.perf_counter() - began)
        found[name] = max(2 * 9 * 64 * 64 * 256 * 256 / best["conv"], 2 * 2048**3 / best["product"]) / 1e12
    return found


def ours(model: Model, lr: Tensor, dtype: torch.dtype, budget: Budget) -> Tensor:
    """(3, H, W)."""
    plan = model.plan(model.score(lr, (SCALE, SCALE)), SIZE, OUT, budget)
    with torch.inference_mode(), numbers(CPU, dtype):
        return model.render(lr, Frame(SIZE), (0, 0, *SIZE), OUT, plan).rgb.float()


def others(path: Path, lr: np.ndarray, threads: int) -> Runs:
    """The exported network in the other runtimes, in each number type that they have."""
    import onnxruntime  # pyright: ignore[reportMissingImports]  # of the extra `bench`
    import openvino  # pyright: ignore[reportMissingImports]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    runs: Runs = {"onnxruntime fp32": lambda: session.run(None, {"lr": lr})[0]}
    core = openvino.Core()
    network = core.read_model(str(path))
    network.reshape({"lr": list(lr.shape)})
    for name in ("f32", "bf16"):
        how = {"INFERENCE_PRECISION_HINT": name, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        request = core.compile_model(network, "CPU", how).create_infer_request()

        def run(request: Any = request) -> np.ndarray:
            request.infer({"lr": lr})
            return request.get_output_tensor().data

        runs[f"openvino {'fp32' if name == 'f32' else name}"] = run
    return runs


def decibel(one: Tensor, other: Tensor) -> float:
    return float(-10 * torch.log10((one - other).square().mean()))


def photo_lr(photo: Path) -> Tensor:
    """The centre of a photo, (1, 3, 180, 320)."""
    source = images.open(photo)
    top, left = ((n - m) // 2 for n, m in zip(source.size, SIZE, strict=True))
    return source.read((top, left, top + SIZE[0], left + SIZE[1])).unsqueeze(0)


def compare(
    title: str,
    model: Model,
    network: SuperResolver,
    lr: Tensor,
    wishes: dict[str, tuple[torch.dtype, Budget]],
    repeats: int,
    folder: Path,
) -> dict[str, float]:
    """Seconds of ours at `wishes`, and of the exported `network` elsewhere."""
    path = folder / f"{title}.onnx"
    export(network, SCALE, path)
    runs: Runs = {
        name: (lambda dtype=dtype, budget=budget: ours(model, lr, dtype, budget))
        for name, (dtype, budget) in wishes.items()
    }
    return medians(runs | others(path, lr.numpy(), torch.get_num_threads()), repeats)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--weights", type=Path, default=root.parent / "shared" / "weights")
    parser.add_argument("--photo", type=Path, default=root / "examples" / "photo.jpg")
    parser.add_argument("--only", default="srresnet,edsr,enaf-carn", help="names, separated by commas")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write everything to this file")
    arguments = parser.parse_args()
    console, found, kept, top = Console(), {}, True, peaks()
    console.print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; peak TFLOP/s {top}")
    lr, full = photo_lr(arguments.photo), Budget.full()
    best = torch.bfloat16 if "bf16" in top else torch.float32
    with tempfile.TemporaryDirectory() as name:
        for title in arguments.only.split(","):
            wishes = {"ours fp32": (torch.float32, full), "ours bf16": (torch.bfloat16, full)}
            if "bf16" not in top:
                del wishes["ours bf16"]
            if title in NETWORKS:
                torch.manual_seed(0)
                network = for_inference(NETWORKS[title](), CPU)
                model = network
            else:
                file = arguments.weights / "carn_eunaf.t7"
                if not file.exists():
                    console.print(f"{title}: no {file}")
                    continue
                model = zoo.load(file).model
                assert isinstance(model, PatchwiseModel) and isinstance(model.network, ExitNetwork)
                backbone = model.network.backbone
                mean = tuple(backbone.mean.flatten().tolist())
                network = SuperResolver(
                    backbone.encoder, backbone.tail, mean=mean, std=(1.0, 1.0, 1.0), scales=(SCALE,)
                )
                for share in (0.8, 0.6, 0.4):
                    wishes[f"ours {share:.0%}"] = (best, Budget.fraction(share))
            assert isinstance(network, SuperResolver)
            times = compare(title, model, network, lr, wishes, arguments.repeats, Path(name))
            whole = ours(model, lr, torch.float32, full)
            macs = network.macs(SIZE, OUT).total
            table = Table("runtime", "seconds", "TFLOP/s", "of peak", "dB to ours fp32", title=f"{title}, 320x180, ×4")
            for label, seconds in times.items():
                dtype = "fp32" if label.endswith("fp32") else "bf16" if "bf16" in top else "fp32"
                rate = 2 * macs / seconds / 1e12 if "%" not in label else float("nan")
                near = (
                    ""
                    if label not in wishes or label == "ours fp32"
                    else (f"{decibel(ours(model, lr, *wishes[label]), whole):.1f}")
                )
                share = f"{rate / top[dtype]:.0%}" if rate == rate else ""
                table.add_row(label, f"{seconds:.3f}", f"{rate:.2f}" if rate == rate else "", share, near)
            console.print(table)
            rival = min(seconds for label, seconds in times.items() if label.startswith("openvino"))
            mine = min(seconds for label, seconds in times.items() if label in ("ours fp32", "ours bf16"))
            ahead = times["onnxruntime fp32"] / mine
            words = f"over OpenVINO's best {mine / rival:.2f} (asked {WITHIN}), ahead of ONNX Runtime fp32 {ahead:.2f}"
            console.print(f"{title}: {words} (asked {AHEAD:g})")
            adaptive = {label: seconds / rival for label, seconds in times.items() if "%" in label}
            if adaptive:
                console.print("over OpenVINO's full network: " + ", ".join(f"{k} {v:.2f}" for k, v in adaptive.items()))
                kept &= min(adaptive.values()) < 1
            else:
                kept &= mine <= WITHIN * rival and ahead >= AHEAD
            found[title] = {"seconds": times, "macs": macs}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"peak": top, "networks": found}, indent=1), encoding="utf-8")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
