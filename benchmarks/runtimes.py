"""Ours beside what a user would pick instead: other runtimes on the same network, other models from file to file.

    python benchmarks/runtimes.py networks [--weights DIR] [--only fast,srresnet] [--repeats 5] [--cpu] [--json FILE]
    python benchmarks/runtimes.py files [--model fast] [--weights DIR] [--hr PHOTO] [--output png|jpg] [--json FILE]

`networks`: ONNX Runtime and OpenVINO on static networks exported from our weights; needs the extra `bench`. One
320×180 LR picture, ×4, every runtime with the same threads, in turns: medians of the seconds of the network alone,
array to array; with `--cpu` CPU seconds, for a busy machine and OMP_NUM_THREADS=1. `fast` and `quality` are exported at
full budget; in 8 bits the others run the file that `export --int8` makes, calibrated on examples/. SRResNet and
EDSR-baseline have random, seeded weights, which take as long as trained ones; DISP and ENAF-CARN have published ones,
if DIR has them, and ENAF-CARN runs beside OpenVINO's full CARN-M of the same file. `peak`: achieved TFLOP/s over the
best of a 64-channel 3×3 convolution and a 2048³ product of the same number type, in the same run. The dB is that to
fp32 of ours.

`files`: the default model beside bicubic, CARN-M and EDSR-baseline (random weights, so no dB). A photo (repeated where
it is smaller) is shrunk by four (bicubic, antialiased) and enlarged again, 1020×678 → ×4, in turns: medians.
`network`: seconds inside the model in a run whose result stays in memory, so that no encoder takes a core from it;
`codec`: decoding the input and encoding the output alone; `wall`: file to file; `wall over`: that over the longer of
network and codec; `with encoder`: over what the network took in that same run, while the encoder worked. dB: PSNR in
RGB over the whole picture, not shaved.

Run it on a quiet machine. Exit code 1 if a promise is not kept.
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
from common import CPU, PHOTO, ROOT, centre, decibel, medians, peaks, size_of
from rich.console import Console
from rich.table import Table
from torch import Tensor

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.cli.export import CROP_SIDE, calibration_crops
from scalewise.encoders.edsr import EDSR
from scalewise.encoders.srresnet import SRResNet
from scalewise.execution.eight_bits import number_type
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run
from scalewise.export.int8 import export_int8
from scalewise.export.onnx_file import export
from scalewise.geometry.grid import Frame, Size
from scalewise.geometry.resize import imresize
from scalewise.machine.device import fast_bf16, fast_int8, for_inference, numbers
from scalewise.models.model import InEightBits, Model, RowByRow
from scalewise.models.patchwise import PatchwiseModel
from scalewise.models.super_resolver import SuperResolver
from scalewise.multiexit.enaf import ExitNetwork
from scalewise.upsamplers.fixed import PixelShuffle, ResNetTail

SIZE, SCALE = (180, 320), 4
OUT = (SIZE[0] * SCALE, SIZE[1] * SCALE)
WITHIN, FASTER = 1.15, 3.0  # promised: seconds over OpenVINO's best; ONNX Runtime's seconds in fp32 over ours
OVERLAP, OF_PEAK = 1.1, 0.4  # promised of `files`: wall over the longer of network and codec; share of the peak

Runs = dict[str, Callable[[], Any]]


def srresnet() -> SuperResolver:
    return SuperResolver(SRResNet(), ResNetTail(64, SCALE), scales=(SCALE,))


def edsr() -> SuperResolver:
    return SuperResolver(EDSR(), PixelShuffle(64, SCALE), scales=(SCALE,))


NETWORKS: dict[str, Callable[[], SuperResolver]] = {"srresnet": srresnet, "edsr": edsr}
FILES = {"disp": "disp_x4.pth", "enaf-carn": "carn_eunaf.t7"}


def ours(model: Model, lr: Tensor, dtype: torch.dtype, budget: Budget) -> Tensor:
    """(3, H, W)."""
    plan = model.plan(model.score(lr, (SCALE, SCALE)), SIZE, OUT, budget)
    with torch.inference_mode(), numbers(CPU, dtype):
        return model.render(lr, Frame(SIZE), (0, 0, *SIZE), OUT, plan).rgb.float()


def others(path: Path, small: Path, lr: np.ndarray, threads: int) -> Runs:
    """The exported network in the other runtimes, in each number type that they have; `small` is that in 8 bits."""
    import onnxruntime  # pyright: ignore[reportMissingImports]  # of the extra `bench`
    import openvino  # pyright: ignore[reportMissingImports]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    runs: Runs = {}
    for name, file in (("fp32", path), ("int8", small)):
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        runs[f"onnxruntime {name}"] = lambda session=session: session.run(None, {"lr": lr})[0]
    core = openvino.Core()
    for title, name, file in (("fp32", "f32", path), ("bf16", "bf16", path), ("int8", "bf16", small)):
        network = core.read_model(str(file))
        network.reshape({"lr": list(lr.shape)})
        how = {"INFERENCE_PRECISION_HINT": name, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        request = core.compile_model(network, "CPU", how).create_infer_request()

        def run(request: Any = request) -> np.ndarray:
            request.infer({"lr": lr})
            return request.get_output_tensor().data

        runs[f"openvino {title}"] = run
    return runs


def compare(
    title: str,
    network: Model,
    lr: Tensor,
    requests: dict[str, tuple[Model, torch.dtype, Budget]],
    repeats: int,
    clock: Callable[[], float],
    folder: Path,
) -> dict[str, float]:
    """Seconds of ours at `requests`, and of the exported `network` elsewhere."""
    path, small = folder / f"{title}.onnx", folder / f"{title}_int8.onnx"
    export(network, SCALE, path)
    export_int8(network, SCALE, small, calibration_crops(PHOTO.parent, SCALE, CROP_SIDE), accept_loss=True)
    runs: Runs = {
        name: (lambda request=request: ours(request[0], lr, *request[1:])) for name, request in requests.items()
    }
    return medians(runs | others(path, small, lr.numpy(), torch.get_num_threads()), repeats, clock)


def networks(arguments: argparse.Namespace) -> int:
    """Other runtimes on the same networks."""
    clock = time.process_time if arguments.cpu else time.perf_counter
    console, found, kept, top = Console(), {}, True, peaks(clock=clock)
    console.print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; peak TFLOP/s {top}")
    lr, full = centre(arguments.photo, SIZE).unsqueeze(0).float() / 255, Budget.full()
    best = torch.bfloat16 if "bf16" in top else torch.float32
    with tempfile.TemporaryDirectory() as name:
        for title in arguments.only.split(","):
            shares: dict[str, tuple[Model, torch.dtype, Budget]] = {}
            model: Model
            network: Model
            if title in NETWORKS:
                torch.manual_seed(0)
                network = model = for_inference(NETWORKS[title](), CPU)
            elif title in zoo.MODELS:
                network = model = zoo.load(title, device="cpu").model
            else:
                file = arguments.weights / FILES[title]
                if not file.exists():
                    console.print(f"{title}: no {file}")
                    continue
                network = model = zoo.load(file).model
            if isinstance(model, PatchwiseModel):
                assert isinstance(model.network, ExitNetwork)
                backbone = model.network.backbone
                mean = tuple(backbone.mean.flatten().tolist())
                network = SuperResolver(
                    backbone.encoder, backbone.tail, mean=mean, std=(1.0, 1.0, 1.0), scales=(SCALE,)
                )
                for share in (0.8, 0.6, 0.4):
                    shares[f"ours {share:.0%}"] = (model, best, Budget.fraction(share))
            requests = {"ours fp32": (model, torch.float32, full)}
            if "bf16" in top:
                requests["ours bf16"] = (model, torch.bfloat16, full)
            if isinstance(model, InEightBits) and fast_int8(CPU):
                requests["ours int8"] = (number_type(model, RunOptions(dtype="int8"), CPU)[0], best, full)
            requests |= shares
            times = compare(title, network, lr, requests, arguments.repeats, clock, Path(name))
            whole = ours(model, lr, torch.float32, full)
            macs = network.plan(network.score(lr, (SCALE, SCALE)), SIZE, OUT, full).macs
            table = Table("runtime", "seconds", "TFLOP/s", "of peak", "dB to ours fp32", title=f"{title}, 320x180, ×4")
            for label, seconds in times.items():
                kind = label.split()[1]
                rate = 2 * macs / seconds / 1e12 if "%" not in label else float("nan")
                near = (
                    ""
                    if label not in requests
                    else f"{decibel(ours(requests[label][0], lr, *requests[label][1:]), whole):.1f}"
                )
                share = f"{rate / top[kind]:.0%}" if kind in top else ""
                table.add_row(label, f"{seconds:.3f}", f"{rate:.2f}" if rate == rate else "", share, near)
            console.print(table)
            kinds = [label.split()[1] for label in requests if "%" not in label]  # number types that we have
            rival = min(times[f"openvino {kind}"] for kind in kinds)
            mine = min(times[f"ours {kind}"] for kind in kinds)
            faster = times["onnxruntime fp32"] / mine
            promises = f"{mine / rival:.2f} of OpenVINO's best seconds in {', '.join(kinds)} (promised {WITHIN})"
            console.print(f"{title}: {promises}, {faster:.2f} times ONNX Runtime's fp32 (promised {FASTER:g})")
            adaptive = {label: seconds / rival for label, seconds in times.items() if "%" in label}
            if adaptive:
                console.print("over OpenVINO's full network: " + ", ".join(f"{k} {v:.2f}" for k, v in adaptive.items()))
                kept &= min(adaptive.values()) < 1
            else:
                kept &= mine <= WITHIN * rival and faster >= FASTER
            found[title] = {"seconds": times, "macs": macs}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"peak": top, "networks": found}, indent=1), encoding="utf-8")
    return 0 if kept else 1


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


def enlarged(lr: Path, sr: Path | None, out: Size, model: Model, dtype: str, budget: Budget) -> dict[str, float]:
    """File to file; `sr` None: into memory."""
    watched = (WatchedRows if isinstance(model, RowByRow) else Watched)(model)
    began = time.perf_counter()
    source = images.open(lr)
    sink = images.create(sr, out, source, overwrite=True)
    options = RunOptions(dtype=dtype)  # type: ignore[arg-type]
    report = enlarge(plan_run(source, out, watched, budget, options), sink)[1]  # type: ignore[arg-type]
    return {"wall": time.perf_counter() - began, "network": watched.seconds, "macs": float(report.macs)}


def codec(lr: Path, sr: Path, out: Size, folder: Path) -> float:
    """Decoding the input and encoding that output, with nothing in between."""
    pixels = images.open(sr).read()
    source = images.open(lr)
    sink = images.create(folder / f"again{sr.suffix}", out, source, overwrite=True)
    with sink:
        sink.write(0, 0, pixels)
        began = time.perf_counter()
        source.read()
        sink.finish()
        return time.perf_counter() - began


def psnr(sr: Path, hr: torch.Tensor) -> float:
    error = (images.open(sr).read() - hr).square().mean().item()
    return -10 * math.log10(max(error, 1e-12))


def files(arguments: argparse.Namespace) -> int:
    """Models from file to file."""
    size = size_of(arguments.size)
    out = (size[0] * SCALE, size[1] * SCALE)
    console, top = Console(width=130), peaks()
    dtype = "bf16" if fast_bf16(torch.device("cpu")) else "fp32"
    photo = images.open(arguments.hr).read()
    photo = photo.repeat(1, -(-out[0] // photo.shape[1]), -(-out[1] // photo.shape[2]))[:, : out[0], : out[1]]
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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lr = images.save(folder / "lr.png", (imresize(photo, size).clamp(0, 1) * 255).round().to(torch.uint8))
        hr = torch.from_numpy(np.asarray((photo * 255).round())).float() / 255
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in models}
        codecs: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(arguments.repeats + 1):  # the first warms up
            for name, (model, budget) in models.items():
                sr = folder / f"{name}.{arguments.output}"
                done = enlarged(lr, sr, out, model, dtype, budget)
                done["with_encoder"] = done["network"]
                done["network"] = enlarged(lr, None, out, model, dtype, budget)["network"]
                alone = codec(lr, sr, out, folder)
                if turn:
                    turns[name].append(done)
                    codecs[name].append(alone)
        for name in models:
            kinds = ("wall", "network", "macs", "with_encoder")
            row = {key: statistics.median(turn[key] for turn in turns[name]) for key in kinds}
            row["codec"] = statistics.median(codecs[name])
            row["over"] = row["wall"] / max(row["network"], row["codec"])
            row["with_encoder"] = row["wall"] / max(row["with_encoder"], row["codec"])
            row["tflops"] = 2 * row["macs"] / row["network"] / 1e12
            row["of_peak"] = row["tflops"] / top[dtype]
            row["per_megapixel"] = row["wall"] / (math.prod(out) / 1e6)
            row["psnr"] = psnr(folder / f"{name}.{arguments.output}", hr) if name != "edsr" else float("nan")
            rows[name] = row
    title = f"{size[1]}x{size[0]} → ×{SCALE}, {arguments.output}, {dtype}; peak {top[dtype]:.2f} TFLOP/s"
    names = ("model", "wall", "network", "codec", "wall over", "with encoder", "TFLOP/s", "of peak", "s/MP", "dB")
    table = Table(*names, title=title)
    for name, row in rows.items():
        cells = [f"{row[key]:.3f}" for key in ("wall", "network", "codec", "over", "with_encoder")]
        near = "" if math.isnan(row["psnr"]) else f"{row['psnr']:.2f}"
        table.add_row(
            name, *cells, f"{row['tflops']:.2f}", f"{row['of_peak']:.0%}", f"{row['per_megapixel']:.3f}", near
        )
    console.print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"peak": top, "rows": rows}, indent=1), encoding="utf-8")
    mine = rows.get("default")
    return 0 if mine is None or (mine["over"] <= OVERLAP and mine["of_peak"] >= OF_PEAK) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--weights", type=Path, default=ROOT.parent / "shared" / "weights")
    shared.add_argument("--repeats", type=int, default=3)
    shared.add_argument("--json", type=Path, help="write everything to this file")
    kinds = parser.add_subparsers(required=True)
    one = kinds.add_parser("networks", parents=[shared], help="the network alone, beside ONNX Runtime and OpenVINO")
    one.add_argument("--photo", type=Path, default=PHOTO)
    one.add_argument("--only", default="fast,quality,disp,srresnet,edsr,enaf-carn", help="names, separated by commas")
    one.add_argument("--cpu", action="store_true", help="CPU seconds, not those of the clock")
    one.set_defaults(go=networks)
    two = kinds.add_parser("files", parents=[shared], help="models from file to file")
    two.add_argument("--model", default="fast", help="the default model: a name or a weight file")
    two.add_argument("--budget", default="100%")
    two.add_argument("--hr", type=Path, default=PHOTO)
    two.add_argument("--size", default="1020x678", help="LR pixels")
    two.add_argument("--output", default="png", help="png or jpg")
    two.add_argument("--only", default="default,bicubic,carn-m,edsr", help="names, separated by commas")
    two.set_defaults(go=files)
    arguments = parser.parse_args()
    return arguments.go(arguments)


if __name__ == "__main__":
    sys.exit(main())
