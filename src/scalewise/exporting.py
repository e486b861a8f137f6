"""A network at one scale as an ONNX file: from pixels in [0, 1] to pixels, rows and columns free, no gather in it.

Spec arbitrary_scale §8.3: at its own scale the tail of a fixed network is convolutions and pixel shuffles. What routes,
what looks at windows of a padded picture, and upsamplers of any scale are refused.
"""

from __future__ import annotations

import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from scalewise.contracts import PlainEncoder
from scalewise.errors import InvalidRequest, MissingDependency, UnsupportedScale
from scalewise.images import atomic_write
from scalewise.model import Model, SuperResolver
from scalewise.upsamplers.fixed import FixedTail

EXAMPLE = (24, 32)  # rows and columns that the network is traced with
OPSET = 18


class OneScale(nn.Module):
    """lr (b, 3, h, w) in [0, 1] → (b, 3, h·scale, w·scale), not clamped."""

    def __init__(self, network: SuperResolver, scale: int) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, lr: Tensor) -> Tensor:
        network = self.network
        normal = (lr - network.mean) / network.std
        sr = network.upsampler.upscale(network.encoder(normal), normal, self.scale)  # type: ignore[operator]
        return sr * network.std + network.mean


def one_scale(model: Model, scale: float) -> OneScale:
    """The part of a model that one scale needs. Raises UnsupportedScale, InvalidRequest."""
    if not isinstance(model, SuperResolver) or not isinstance(model.encoder, PlainEncoder):
        raise InvalidRequest(
            "this model decides where it works while it runs, which an ONNX file cannot hold: export a plain network"
        )
    tail = model.upsampler
    if not isinstance(tail, FixedTail):
        raise InvalidRequest(
            "this model's upsampler takes any scale by looking up pixels: only networks of fixed scales are exported"
        )
    if scale not in tail.scales:
        own = " or ".join(f"×{s}" for s in tail.scales)
        raise UnsupportedScale(f"this network upsamples by {own}, not by {scale:g}: export it at its own scale")
    if model.grid != 1:
        raise InvalidRequest(
            f"this network works on windows of {model.grid} pixels of a padded picture: only convolutions are exported"
        )
    return OneScale(model, round(scale)).eval()


def export(model: Model, scale: float, path: Path, *, overwrite: bool = False) -> list[str]:
    """Write `path`; the kinds of operators in it. Raises InvalidRequest, MissingDependency, UnwritableOutput."""
    network = one_scale(model, scale)
    if path.suffix.lower() != ".onnx":
        raise InvalidRequest(f"{str(path)!r} has extension {path.suffix!r}: allowed is .onnx")
    for name in ("onnx", "onnxscript"):
        if find_spec(name) is None:
            raise MissingDependency(f"export needs {name}: pip install 'scalewise[export]'")
    lr = torch.zeros(1, 3, *EXAMPLE)
    free = {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network.to("cpu"),
            (lr,),
            input_names=["lr"],
            output_names=["sr"],
            dynamic_shapes=(free,),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    with atomic_write(path, overwrite=overwrite) as temporary:
        program.save(str(temporary), external_data=False)
    return sorted({node.op_type for node in program.model.graph})
