"""ECBSR's repository, and BasicSR's copy of it: blocks with the branches of their training, or as they run.

A block of the training is a 3×3 convolution beside four pairs: a 1×1 and a 3×3 convolution, and a 1×1 with Sobel's two
filters and Laplace's. What a pair pads with after its 1×1 is that one's bias, not zero: so a 3×3 kernel on a picture
padded with zeros equals it at the border too. Zhang et al., ACM MM 2021.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scalewise.checkpoints.build import Colour, Design, Part
from scalewise.checkpoints.files import Content
from scalewise.compat.basicsr import KEYS
from scalewise.compat.networks import plain_range
from scalewise.compat.translate import Choices, Tensors, Translated, count, root_of

TITLE = "ECBSR"
LAYER = r"(?:backbone\.\d+|(?:head|body|tail)\.\d+)\."  # all in a row, or its first version's three parts
FILTERS = ("conv1x1_sbx", "conv1x1_sby", "conv1x1_lpl")
BLACK, SPAN = 16.0, 219.0  # of luma in 8 bits


def accepts(content: Content) -> bool:
    state, _ = _state(content)
    return any(re.match(rf"{LAYER}conv3x3\.weight$", key) for key in state)


def read(content: Content, overrides: Mapping[str, Any]) -> Translated:
    state, published_range = _state(content)
    choices = Choices(overrides)
    names = sorted({found[0] for key in state if (found := re.match(LAYER, key))}, key=_place)
    trained = any(key.endswith(".conv1x1_3x3.k0") for key in state)
    # No tensor tells whether blocks were trained with their input added.
    identity = trained and choices.value("identity", False)
    tensors = {key: value for key, value in state.items() if not re.match(LAYER, key)}  # no network has these
    for number, name in enumerate(names):
        block = {key.removeprefix(name): value for key, value in state.items() if key.startswith(name)}
        ours = "encoder.head" if number == 0 else f"encoder.layers.{number - 1}"
        ours = "upsampler.conv" if number == len(names) - 1 else ours
        tensors |= {f"{ours}.{key}": value for key, value in (_fused(block, identity) if trained else block).items()}
        if (slopes := tensors.pop(f"{ours}.act.weight", None)) is not None:
            tensors[f"encoder.activations.{number}.weight"] = slopes
    tensors = {key.replace(".conv3x3.", "."): value for key, value in tensors.items()}
    channels, colours = tensors["encoder.head.weight"].shape[:2]
    slopes = "encoder.activations.0.weight" in tensors
    arguments = {
        "channels": channels,
        "layers": count(tensors, r"encoder\.layers\.(\d+)\."),
        "colours": colours,
        "activation": choices.read("activation", "prelu") if slopes else choices.value("activation", "relu"),
    }
    scale = root_of(tensors["upsampler.conv.weight"].shape[0] // colours, "the last convolution")
    tail = Part("repeated_shuffle", {"scale": scale, "colours": colours})
    mean, std = plain_range(published_range)(state, choices)
    if colours == 1:
        mean, std = _studio(std)
    return Translated(TITLE, Design(Part("ecbsr", arguments), tail, mean, std), tensors, choices)


def _state(content: Content) -> tuple[dict[str, Tensor], float]:
    """The tensors, and the range of values that they were trained on: BasicSR's is 1, that of the authors 255."""
    data = content.data if isinstance(content.data, Mapping) else {}
    inside = next((data[key] for key in KEYS if isinstance(data.get(key), Mapping)), None)
    state = data if inside is None else inside
    tensors = {str(key).removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    return tensors, 255.0 if inside is None else 1.0


def _place(name: str) -> tuple[int, int]:
    part, number = name.rstrip(".").split(".")
    return ("backbone", "head", "body", "tail").index(part), int(number)


def _fused(block: Tensors, identity: bool) -> dict[str, Tensor]:
    """A block's one convolution, and what else it holds."""
    weight, bias = block["conv3x3.weight"].double(), block["conv3x3.bias"].double()
    first, first_bias, kernel, kernel_bias = (
        block[f"conv1x1_3x3.{part}"].double() for part in ("k0", "b0", "k1", "b1")
    )
    weight = weight + torch.einsum("omyx,mi->oiyx", kernel, first.flatten(1))
    bias = bias + torch.einsum("omyx,m->o", kernel, first_bias) + kernel_bias
    for name in FILTERS:
        first, first_bias, size, mask = (block[f"{name}.{part}"].double() for part in ("k0", "b0", "scale", "mask"))
        kernel = (size * mask).squeeze(1)  # (outputs, 3, 3): each channel by itself
        weight = weight + torch.einsum("oyx,oi->oiyx", kernel, first.flatten(1))
        bias = bias + kernel.sum((1, 2)) * first_bias + block[f"{name}.bias"].double()
    outputs, inputs = weight.shape[:2]
    if identity and inputs == outputs:
        weight[..., 1, 1] += torch.eye(outputs, dtype=weight.dtype)
    like = block["conv3x3.weight"]
    kept = {key: value for key, value in block.items() if not key.startswith("conv")}
    return kept | {"conv3x3.weight": weight.to(like), "conv3x3.bias": bias.to(like)}


def _studio(std: Colour) -> tuple[Colour, Colour]:
    """Mean and deviation with which the luma of what the network sees is Y of YCbCr, which runs from 16 to 235."""
    return (-BLACK / SPAN,) * 3, tuple(one * 255 / SPAN for one in std)  # type: ignore[return-value]
