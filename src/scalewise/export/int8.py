"""A network at one scale as an ONNX file whose convolutions compute in 8 bits, by ONNX Runtime's static quantization.

The ranges of what goes into and out of each convolution are measured on crops of photos (calibration) and fixed. Those
convolutions that no other follows, the network's last and the bicubic base, stay in 32 bits: their rounding would be
seen. So are additions and activations.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from scalewise.errors import InvalidRequest
from scalewise.export.onnx_file import (
    CPU,
    Exported,
    check_ending,
    check_installed,
    one_scale,
    operators_of,
    runner,
    write,
)
from scalewise.machine.device import for_inference
from scalewise.models.model import Model
from scalewise.storage import atomic_write, check_writable

MOST_LOSS = 0.15  # dB
PERCENTILE = 99.999  # of the numbers in a feature map that its 8 bits span; those beyond are clipped
CONVOLUTIONS = ("Conv", "ConvTranspose")
PICTURES = ("lr", "sr")  # names of the input and of the output

Crop = tuple[Tensor, Tensor]  # lr (3, h, w), hr (3, h·s, w·s), both in [0, 1]


@dataclass(frozen=True)
class Quantized:
    """`exported`: the same network in 32 bits, as it was compared with torch, with the operators of the file in 8 bits;
    PSNR in dB against HR (RGB, shave = scale, 8 bits, mean of the crops) in 32 and in 8 bits; how many convolutions
    were quantized, of how many."""

    exported: Exported
    fp32: float
    int8: float
    quantized: int
    convolutions: int

    @property
    def loss(self) -> float:
        return self.fp32 - self.int8


def export_int8(
    model: Model,
    scale: float,
    path: Path,
    crops: Sequence[Crop],
    *,
    tile: int | None = None,
    accept_loss: bool = False,
    overwrite: bool = False,
) -> Quantized:
    """Calibrate and measure on `crops`, whose LR are tile×tile pixels if there is a `tile`, and write `path`. Unless
    `accept_loss`, a file that loses more than `MOST_LOSS` is not kept.

    Raises UnsupportedScale, InvalidRequest, MissingDependency, UnwritableOutput."""
    check_ending(path, ".onnx")
    own = for_inference(model, CPU)
    network = one_scale(own, scale)
    check_installed("onnx", "onnxscript", "onnxruntime")
    check_writable(path, overwrite=overwrite)
    onnx = import_module("onnx")
    with TemporaryDirectory() as folder:
        plain, small = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        exported = write(own, network, scale, plain, tile=tile)
        graph = onnx.load(str(plain)).graph
        last, every = last_convolutions(graph), [node for node in graph.node if node.op_type == "Conv"]
        if all(node.name in last for node in every):
            raise InvalidRequest(
                "this network has no convolution but its last, which stays in 32 bits: export it in 32 bits"
            )
        _quantize(plain, small, crops, last)
        exported = Exported(operators_of(onnx.load(str(small))), exported.least, exported.difference, exported.shapes)
        wide, narrow = (_mean_psnr(file, crops, round(scale)) for file in (plain, small))
        done = Quantized(exported, wide, narrow, sum(node.name not in last for node in every), len(every))
        if not accept_loss and not done.loss <= MOST_LOSS:
            raise InvalidRequest(
                f"in 8 bits this network loses {done.loss:.2f} dB ({done.fp32:.2f} to {done.int8:.2f}) and at most "
                f"{MOST_LOSS:g} is allowed: calibrate on pictures like yours, or accept the loss"
            )
        with atomic_write(path, overwrite=overwrite) as temporary:
            shutil.copyfile(small, temporary)
    return done


def last_convolutions(graph: Any) -> set[str]:
    """Names of the convolutions from which the output is reached through no other convolution."""
    makers = {name: node for node in graph.node for name in node.output}
    pending, seen, found = [output.name for output in graph.output], set(), set()
    while pending:
        node = makers.get(pending.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type in CONVOLUTIONS:
            found.add(node.name)
        else:
            pending.extend(node.input)
    return found


def _quantize(plain: Path, small: Path, crops: Sequence[Crop], last: set[str]) -> None:
    quantization = import_module("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[Crop] = iter(())

        def __len__(self) -> int:
            return len(crops)

        def set_range(self, start_index: int, end_index: int) -> None:
            self.left = iter(crops[start_index:end_index])

        def get_next(self) -> dict[str, Any] | None:
            crop = next(self.left, None)
            return None if crop is None else {PICTURES[0]: crop[0].unsqueeze(0).numpy()}

    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # it advises to optimize the file first, which torch has done
    try:
        with redirect_stdout(StringIO()):  # it prints its progress
            quantization.quantize_static(
                str(plain),
                str(small),
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                # The full range would spend most of the 256 steps on a few numbers, and smooth areas lose by it.
                calibrate_method=quantization.CalibrationMethod.Percentile,
                # One crop at a time, whatever the method: all features of all crops would take gigabytes.
                extra_options={"CalibPercentile": PERCENTILE, "CalibStridedMinMax": 1},
                op_types_to_quantize=["Conv"],
                nodes_to_exclude=sorted(last),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
    finally:
        root.setLevel(level)


def _mean_psnr(file: Path, crops: Sequence[Crop], shave: int) -> float:
    run, each = runner(file), []
    for lr, hr in crops:
        difference = (run(lr.unsqueeze(0))[0].clamp(0, 1) * 255).round() / 255 - hr
        inner = difference[:, shave : hr.shape[-2] - shave, shave : hr.shape[-1] - shave]
        each.append(-10 * inner.square().mean().clamp_min(1e-10).log10())  # flat crops may be without an error
    return float(torch.stack(each).mean())
