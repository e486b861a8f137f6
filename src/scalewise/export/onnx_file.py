"""A network at one scale as an ONNX file: from pixels in [0, 1] to pixels, rows and columns free, at full budget.

Spec arbitrary_scale §8.3: at a whole factor an upsampler of any scale is convolutions and a pixel shuffle
(`phases.py`), as the tail of a fixed network is at its own. Before a file is kept it is run, on three
shapes (on its own, if it has but one), beside the model.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget.budget import Budget
from scalewise.contracts import PlainEncoder
from scalewise.encoders.camixer import CAMixer
from scalewise.encoders.nlsa import NLSA
from scalewise.encoders.tadt import TADT
from scalewise.errors import InvalidRequest, MissingDependency
from scalewise.export.camixer import AllHard
from scalewise.export.phases import BicubicPhases, at_scale, shuffled, whole
from scalewise.geometry.grid import Frame, Size, output_size
from scalewise.layers import repeat_edge
from scalewise.machine.device import for_inference
from scalewise.models.model import Model
from scalewise.models.multi_exit import MultiExitModel
from scalewise.models.super_resolver import SuperResolver
from scalewise.multiexit.anyscale import BLOCK_MARGIN, HEAD_MARGIN, STEM_MARGIN, AnyScaleExits
from scalewise.storage import atomic_write, check_writable

CPU = torch.device("cpu")
TOLERANCE = 1e-3  # of a pixel's range [0, 1]: what a file may differ from torch
MAX_TILE = 2048  # pixels a side: more is tens of gigabytes at once
HALVED_FROM = 1024  # numbers in a weight: smaller ones would save nothing
MOST_HALF = 65504.0  # the largest float16


@dataclass(frozen=True)
class Exported:
    """What is in a file: the kinds of `operators`, the `least` side of a picture that it takes, and by how much at most
    it differs from torch on the pictures of `shapes`, in [0, 1]."""

    operators: tuple[str, ...]
    least: int
    difference: float
    shapes: tuple[Size, ...]


class OneScale(nn.Module):
    """lr (1, 3, h, w) in [0, 1] → (1, 3, h·scale, w·scale), not clamped; h and w are at least `least`."""

    least: int = 2
    opset: int = 18


class Pair(OneScale):
    """An encoder, whose sides are multiples of `grid`, and an upsampler at one scale."""

    def __init__(self, model: SuperResolver, encoder: nn.Module, tail: nn.Module, scale: float) -> None:
        super().__init__()
        self.base, self.scale = model.base, scale
        self.encoder, self.tail = encoder, tail
        self.mean, self.std = nn.Buffer(model.mean), nn.Buffer(model.std)
        self.grid, self.least = model.limits.patch_stride, max(2, model.limits.patch_stride)
        if isinstance(encoder, AllHard):
            self.opset = 20  # before it, onnx's own evaluator does not know what GridSample is asked for

    def forward(self, lr: Tensor) -> Tensor:
        height, width = lr.shape[-2:]
        normal = (lr - self.mean) / self.std
        features = self.encoder(mirrored(normal, self.grid))[..., :height, :width]
        residual = self.tail(features, normal) * self.std
        if self.base is None:
            return residual + self.mean
        return residual + F.interpolate(lr, scale_factor=self.scale, mode=self.base, align_corners=False)


class LastExit(OneScale):
    """A multi-exit network with every patch at its last exit."""

    def __init__(self, network: AnyScaleExits, scale: int) -> None:
        super().__init__()
        self.network, self.scale = network, scale
        self.base = BicubicPhases(scale)
        weight, bias = network.as_convolution(network.exits, (scale, scale))
        self.weight, self.bias = nn.Buffer(weight.detach()), nn.Buffer(bias.detach())

    def forward(self, lr: Tensor) -> Tensor:
        network = self.network
        features = network.enter(repeat_edge(lr, STEM_MARGIN))
        for index in range(1, network.depth + 1):
            features = network.block(index, repeat_edge(features, BLOCK_MARGIN))
        residual = F.conv2d(repeat_edge(features, HEAD_MARGIN), self.weight, self.bias)
        return shuffled(self.base.phases(lr) + residual.unflatten(1, (3, -1)).squeeze(0), self.scale)


def mirrored(lr: Tensor, grid: int) -> Tensor:
    """`layers.pad_to_grid` for sides of `grid` or more, without asking whether there is anything to pad."""
    if grid == 1:
        return lr
    for axis in (2, 3):
        length = lr.shape[axis]
        more = lr.narrow(axis, length - grid, grid - 1).flip(axis)
        lr = torch.cat((lr, more), axis).narrow(axis, 0, (length + grid - 1) // grid * grid)
    return lr


def one_scale(model: Model, scale: float) -> OneScale:
    """What a model that `for_inference` made ready on the CPU is at one scale and full budget. It takes its weights.
    Raises UnsupportedScale, InvalidRequest."""
    if isinstance(model, MultiExitModel) and isinstance(model.network, AnyScaleExits):
        network: OneScale = LastExit(model.network, whole(scale))
    elif isinstance(model, SuperResolver):
        network = Pair(model, _everything_on(model.encoder), at_scale(model.upsampler, scale), scale)
    else:
        raise InvalidRequest(
            f"{type(model).__name__} cuts the picture into patches that it treats apart, which an ONNX file cannot "
            "hold: export a network that takes whole pictures"
        )
    return network.eval().requires_grad_(False)


def _everything_on(encoder: object) -> nn.Module:
    """The encoder as a module of lr alone, at full budget. Raises InvalidRequest."""
    if isinstance(encoder, CAMixer):
        return AllHard(encoder)
    if isinstance(encoder, NLSA):
        raise InvalidRequest(
            "NLSA sorts pixels into groups whose number follows from the size of the picture, which a file for all "
            "sizes cannot hold: export a network without it"
        )
    if isinstance(encoder, TADT | PlainEncoder):
        return encoder
    raise InvalidRequest(
        f"{type(encoder).__name__} decides where it works while it runs, which an ONNX file cannot hold: "
        "export a network that treats all pixels alike"
    )


def export(
    model: Model, scale: float, path: Path, *, tile: int | None = None, half: bool = False, overwrite: bool = False
) -> Exported:
    """Write `path`, and run it beside the model before it is kept.

    With `tile`, pictures of tile×tile pixels are all that it takes; with `half`, large weights are 16-bit floats, which
    the file itself turns into 32 bits before it computes.

    Raises UnsupportedScale, InvalidRequest (also where torch or onnx cannot write this network), MissingDependency,
    UnwritableOutput."""
    check_ending(path, ".onnx")
    own = for_inference(model, CPU)
    network = one_scale(own, scale)
    check_installed("onnx", "onnxscript")
    check_writable(path, overwrite=overwrite)
    with atomic_write(path, overwrite=overwrite) as temporary:
        return write(own, network, scale, temporary, tile=tile, half=half)


def check_ending(path: Path, ending: str) -> None:
    """Raises InvalidRequest."""
    if path.suffix.lower() != ending:
        raise InvalidRequest(f"{str(path)!r} has extension {path.suffix!r}: allowed is {ending}")


def check_installed(*names: str) -> None:
    """Raises MissingDependency for a module of the extra `export` that is not there."""
    for name in names:
        if find_spec(name) is None:
            raise MissingDependency(f"export needs {name}: pip install 'scalewise[export]'")


def write(
    own: Model, network: OneScale, scale: float, file: Path, *, tile: int | None = None, half: bool = False
) -> Exported:
    """Write `network`, which `one_scale` made of `own`, to a new file and compare the two. Raises InvalidRequest."""
    if tile is not None and not network.least <= tile <= MAX_TILE:
        raise InvalidRequest(
            f"a tile of {tile} pixels a side is out of range: this network takes {network.least} to {MAX_TILE}"
        )
    onnx = import_module("onnx")
    proto = _traced(network, tile).model_proto
    _without_origins(proto.graph)
    if half:
        _halve(onnx, proto.graph)
    onnx.save(proto, str(file))
    shapes = check_shapes(network.least) if tile is None else ((tile, tile),)
    difference = _difference(own, scale, file, shapes)
    if not difference <= TOLERANCE:
        cause = "16 bits are too few for its weights" if half else "try another version of torch"
        raise InvalidRequest(
            f"the file that torch {torch.__version__} made of this network is wrong by {difference:.2g} of the "
            f"range of pixels (allowed is {TOLERANCE:g}): it was not kept; {cause}"
        )
    return Exported(operators_of(proto), network.least, difference, shapes)


def operators_of(proto: Any) -> tuple[str, ...]:
    return tuple(sorted({node.op_type for node in proto.graph.node}))


def _without_origins(graph: Any) -> None:
    """Remove where in the source each node came from, with folders of this machine."""
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]


def _halve(onnx: Any, graph: Any) -> None:
    """Large float32 weights → float16, and a Cast before all other nodes; runtimes do it once, when they load."""
    casts = []
    for weight in graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if weight.data_type != onnx.TensorProto.FLOAT or values.size < HALVED_FROM or abs(values).max() > MOST_HALF:
            continue
        name = weight.name
        weight.CopyFrom(onnx.numpy_helper.from_array(values.astype("float16"), f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], f"{name}_full", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _traced(network: OneScale, tile: int | None) -> torch.onnx.ONNXProgram:
    least = network.least
    if tile is None:
        sides = 2 * least + 21, 3 * least + 25  # they differ, and are not multiples of a window
        shapes = ({2: torch.export.Dim("height", min=least), 3: torch.export.Dim("width", min=least)},)
    else:
        sides, shapes = (tile, tile), None
    lr = torch.zeros(1, 3, *sides)
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    # with gradients on, networks run as they are defined, without what makes them quick on our machines
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                network,
                (lr,),
                input_names=["lr"],
                output_names=["sr"],
                dynamic_shapes=shapes,
                opset_version=network.opset,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            cause = (str(error.__cause__ or error).strip().splitlines() or ["it does not say why"])[0]
            raise InvalidRequest(f"torch {torch.__version__} cannot write this network as ONNX: {cause}") from error
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
    assert program is not None
    return program


def check_shapes(least: int) -> tuple[Size, ...]:
    """Sizes of the pictures that a file is checked on: the smallest, and two that fit no grid."""
    return (least, least), (least + 15, 2 * least + 25), (2 * least + 37, least + 19)


def _difference(model: Model, scale: float, path: Path, shapes: tuple[Size, ...]) -> float:
    """The greatest between the pixels that a file gives and those of `model` at full budget, on pictures of noise."""
    run, generator = runner(path), torch.Generator().manual_seed(0)
    pictures = [torch.rand(1, 3, *size, generator=generator) for size in shapes]
    each = [(run(lr)[0] - in_full(model, lr, scale)).abs().max() for lr in pictures]
    return float(torch.stack(each).max())  # of torch, which lets no NaN pass


def in_full(model: Model, lr: Tensor, scale: float) -> Tensor:
    """What the pipeline computes of a whole picture lr (1, 3, h, w) at full budget: (3, H, W), not clamped."""
    size = (lr.shape[-2], lr.shape[-1])
    out = output_size(size, scale)
    with torch.inference_mode():
        plan = model.plan(model.score(lr, (scale, scale)), size, out, Budget.full())
        return model.render(lr, Frame(size), (0, 0, *size), out, plan).rgb


def runner(path: Path) -> Callable[[Tensor], Tensor]:
    """lr → sr by the file: in ONNX Runtime if it is installed, else in onnx's own (slow) evaluator."""
    if find_spec("onnxruntime") is not None:
        onnxruntime = import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    else:
        session = import_module("onnx.reference").ReferenceEvaluator(str(path))
    return lambda lr: torch.from_numpy(session.run(None, {"lr": lr.numpy()})[0])
