"""ONNX files that enlarge pictures, run by onnxruntime: one input (n, channels, h, w) of any size, one output."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scalewise.checkpoints.files import sha256
from scalewise.checkpoints.load import Description, Loaded, check_overrides, printable
from scalewise.errors import CheckpointError, MissingDependency
from scalewise.foreign.measure import measured
from scalewise.foreign.spandrel_network import about
from scalewise.models.whole_network import CHANNELS, Needs, WholeNetwork

INSTALL = "pip install 'scalewise[onnx]'"
MAX_BYTES = 2 << 30  # the format holds no more in one file
PROBE_SIDES = (61, 50)  # LR pixels, two so that a size that is built in shows
NUMBERS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
OWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")


class OnnxNetwork(nn.Module):
    """An ONNX file as a network: (1, channels, h, w) in [0, 1] → the same, larger. Copies share the session."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.digest = sha256(path)
        self._session: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxNetwork:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_session": None}

    def extra_repr(self) -> str:
        return self.digest

    @property
    def session(self) -> Any:
        if self._session is None:
            onnxruntime = import_module("onnxruntime")
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            options.log_severity_level = 4  # errors are raised anyway
            self._session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        return self._session

    def forward(self, picture: Tensor) -> Tensor:
        node = self.session.get_inputs()[0]
        array = picture.detach().float().cpu().numpy().astype(NUMBERS[node.type], copy=False)
        return torch.from_numpy(self.session.run(None, {node.name: array})[0].astype(np.float32)).to(picture.device)


def load(path: Path, overrides: Mapping[str, Any]) -> Loaded:
    """The network of an ONNX file. Raises MissingDependency, CheckpointError for what is damaged or does something
    else than enlarge pictures."""
    try:
        onnx = import_module("onnx")
        import_module("onnxruntime")
    except ImportError:
        raise MissingDependency(f"{path}: ONNX files are run by onnxruntime: {INSTALL}", INSTALL) from None
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weight file")
    if path.stat().st_size > MAX_BYTES:
        raise CheckpointError(f"{path}: larger than an ONNX file can be")
    check_overrides(path, overrides, set())
    try:
        graph = onnx.load(str(path), load_external_data=False)
        _check(path, graph)
        network = OnnxNetwork(path).eval()
        inputs, outputs = network.session.get_inputs(), network.session.get_outputs()
    except CheckpointError:
        raise
    except Exception as error:  # protobuf and onnxruntime have many kinds
        raise CheckpointError(f"{path}: damaged or not an ONNX file: {_line(error)}") from None
    if len(inputs) != 1 or len(outputs) < 1 or len(inputs[0].shape) != 4 or inputs[0].type not in NUMBERS:
        raise CheckpointError(f"{path}: takes {len(inputs)} inputs: allowed is one picture (1, channels, h, w)")
    channels, *sides = inputs[0].shape[1:]
    if channels not in (1, 3, 4):
        raise CheckpointError(f"{path}: sees {channels} channels; allowed are 1, 3 and 4")
    if any(isinstance(side, int) for side in sides):
        size = f"{sides[1]}×{sides[0]}"
        raise CheckpointError(f"{path}: takes pictures of {size} only: export it with any height and width")
    scale, multiple = _tried(path, network, channels)
    needs = Needs(channels=channels, multiple=multiple, bf16=False, fp16=False)
    found = measured(network, scale, needs, network.digest, macs=lambda: _macs(onnx, graph))
    model = WholeNetwork(network, scale, needs, found).eval()
    metadata = {item.key: printable(item.value)[:200] for item in graph.metadata_props}
    notes = {key: value for key, value in metadata.items() if key.lower() in ("license", "licence", "author")}
    parameters = sum(math.prod(weights.dims) for weights in graph.graph.initializer)
    return Loaded(
        model,
        Description(
            path=path,
            format=f"ONNX, opset {max((entry.version for entry in graph.opset_import), default=0)}",
            network=printable(graph.graph.name)[:80] or "network",
            builder="onnx",
            arguments={},
            scales=model.limits.scales,
            parameters=parameters,
            assumed={},
            settable=(),
            dropped=0,
            lacks="",
            sha256=network.digest,
            about=about(model, "SR" if scale > 1 else "Restoration") | notes,
        ),
    )


def _check(path: Path, graph: Any) -> None:
    """Raises CheckpointError for a file that would read others, or call operators that are not onnxruntime's own."""
    pending, held = [graph.graph], []
    while pending:
        part = pending.pop()
        held += part.initializer
        for node in part.node:
            if node.domain not in OWN_DOMAINS:
                domain = printable(node.domain)[:40]
                raise CheckpointError(f"{path} was refused: it asks for operators of {domain!r}; nothing in it was run")
            for attribute in node.attribute:
                pending += [attribute.g, *attribute.graphs] if attribute.graphs or attribute.HasField("g") else []
                held += [attribute.t, *attribute.tensors] if attribute.tensors or attribute.HasField("t") else []
    if any(tensor.data_location == 1 or tensor.external_data for tensor in held):
        raise CheckpointError(f"{path} was refused: its weights lie in other files; nothing in it was run")


def _tried(path: Path, network: OnnxNetwork, channels: int) -> tuple[int, int]:
    """The scale and what sides must be a multiple of, by running small pictures."""
    words = ""
    for multiple in (1, 2, 4, 8, 16, 32, 64):
        found = set()
        for side in (-(-n // multiple) * multiple for n in PROBE_SIDES):
            try:
                output = network(torch.full((1, channels, side, side + multiple), 0.5))
            except Exception as error:
                words = _line(error)
                break
            if output.dim() != 4 or output.shape[1] not in CHANNELS[channels]:
                raise CheckpointError(
                    f"{path}: makes {tuple(output.shape)} of a picture of {channels} channels; allowed are gray to "
                    "gray, and RGB or RGBA to RGB or RGBA"
                )
            found.add((output.shape[-2] / side, output.shape[-1] / (side + multiple)))
        else:
            rows, columns = found.pop()
            if not found and rows == columns and rows >= 1 and rows == int(rows):
                return int(rows), multiple
            words = f"enlarges by {columns:g} x {rows:g}"
    raise CheckpointError(f"{path}: is no network that enlarges pictures of any size by a whole factor ({words})")


def _macs(onnx: Any, graph: Any, side: int = 64) -> tuple[float, float]:
    """MACs of convolutions and of matrix products per LR pixel, from the shapes of a picture of `side`."""
    sized = onnx.ModelProto()
    sized.CopyFrom(graph)
    for index, dimension in enumerate(sized.graph.input[0].type.tensor_type.shape.dim):
        if index != 1:
            dimension.dim_value = 1 if index == 0 else side
    inferred = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    } | {weights.name: list(weights.dims) for weights in inferred.initializer}
    conv = matmul = 0
    for node in inferred.node:
        names = [*node.input[:2], "", ""][:2]
        left, right, out = (shapes.get(name, []) for name in (*names, node.output[0]))
        if node.op_type == "Conv" and right:
            conv += math.prod(out) * math.prod(right[1:])
        elif node.op_type == "ConvTranspose" and right:
            conv += math.prod(left) * math.prod(right[1:])
        elif node.op_type in ("MatMul", "Gemm") and left:
            matmul += math.prod(out) * left[-1]
    return conv / side**2, matmul / side**2


def _line(error: BaseException) -> str:
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0][:200])
