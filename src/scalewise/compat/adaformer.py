"""AdaFormer's repository: a bare state dict of the whole network, mean shifts included. Luo et al., AAAI 2024.

Its mean shifts are trained with the rest (the code forgets to freeze them): `fold` puts their matrices into the first
and the last convolution, so that ours see (rgb - mean) / std like all networks. `OfficialAdaFormer` repeats what the
published code does where ours differs: halting at ε always, and "global" attention in chunks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt, log2
from typing import Any

import torch
from torch import Tensor

from scalewise.budget.budget import Effort
from scalewise.checkpoints.build import Colour
from scalewise.checkpoints.files import Content
from scalewise.compat.tail_tables import DIRECT_ELAN
from scalewise.compat.translate import Choices, Layout, Network, Tensors, Translated, count, translate
from scalewise.encoders.adaformer import AdaFormer
from scalewise.encoders.adaformer_block import Block, PrototypeAttention
from scalewise.layers import merge, partition

TITLE = "AdaFormer"
RANGE = 255.0  # what its networks see
STD = (1 / RANGE, 1 / RANGE, 1 / RANGE)
MARK = "shollow_feature_extraction."  # as it is spelled there
CHUNK_SIDE = 48  # LR pixels of the pictures it was trained on


def _arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    prototypes, embed = t["blocks.0.prototype.prototypes"].shape
    offsets, heads = t["blocks.0.local.bias_table"].shape
    return {
        "channels": t["head.weight"].shape[0],
        "blocks": count(t, r"blocks\.(\d+)\."),
        "embed": embed,
        "heads": heads,
        "window": (isqrt(offsets) + 1) // 2,
        "prototypes": prototypes,
        "hidden": t["blocks.0.mlp.fc1.weight"].shape[0],
        "encoder_blocks": count(t, r"encoder\.(\d+)\."),
        "decoder_blocks": count(t, r"decoder\.(\d+)\."),
        "epsilon": choices.value("epsilon", 0.05),
    }


def _adapt(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """1×1 convolutions and the prototypes' batch axis, flattened."""
    flat = {key: value.flatten(1) for key, value in tensors.items() if re.match(r"(un)?embed\.weight$", key)}
    return tensors | flat | {key: value[0] for key, value in tensors.items() if key.endswith(".prototypes")}


KEYS = Layout(
    "adaformer",
    "AdaFormer",
    (
        (r"shollow_feature_extraction\.(\d+)\.body\.0(?=\.)", r"encoder.\1.conv1"),
        (r"shollow_feature_extraction\.(\d+)\.body\.2(?=\.)", r"encoder.\1.conv2"),
        (r"deep_feature_extraction\.(\d+)\.body\.0(?=\.)", r"decoder.\1.conv1"),
        (r"deep_feature_extraction\.(\d+)\.body\.2(?=\.)", r"decoder.\1.conv2"),
        (r"head\.0(?=\.)", "head"),
        (r"body\.(embed|unembed)(?=\.)", r"\1"),
        (r"body\.var(?=\.)", "confidence"),
        (r"body\.blocks\.(\d+)\.attn\.prototype$", r"blocks.\1.prototype.prototypes"),
        (r"body\.blocks\.(\d+)\.attn\.norm1(?=\.)", r"blocks.\1.prototype.norm"),
        (r"body\.blocks\.(\d+)\.attn\.qkv(?=\.)", r"blocks.\1.prototype.qkv"),
        (r"body\.blocks\.(\d+)\.attn\.kv_global(?=\.)", r"blocks.\1.prototype.kv"),
        (r"body\.blocks\.(\d+)\.attn\.relative_position_bias_table$", r"blocks.\1.local.bias_table"),
        (r"body\.blocks\.(\d+)\.attn\.qkv_local(?=\.)", r"blocks.\1.local.qkv"),
        (r"body\.blocks\.(\d+)\.(norm1|norm2|mlp\.fc1|mlp\.fc2)(?=\.)", r"blocks.\1.\2"),
        # what it never uses, and an index that we compute
        (r"body\.blocks\.\d+\.(attn\.(proj|norm2|norm3)|project_out)\.(weight|bias)$", None),
        (r"body\.blocks\.\d+\.attn\.relative_position_index$", None),
        (r"(sub|add)_mean\.", None),  # `fold`
    ),
    _arguments,
    adapt=_adapt,
    marks=3,
)


def accepts(content: Content) -> bool:
    data = content.data
    return isinstance(data, Mapping) and any(str(key).removeprefix("module.").startswith(MARK) for key in data)


def read(content: Content, overrides: Mapping[str, Any]) -> Translated:
    state = {str(key).removeprefix("module."): value for key, value in content.data.items()}
    folded, mean = fold(state)
    network = Network("AdaFormer", KEYS, DIRECT_ELAN, lambda *_: (mean, STD))
    return translate(content.path, folded, (network,), Choices(overrides))


def fold(state: Tensors) -> tuple[dict[str, Tensor], Colour]:
    """Its mean shifts, A·rgb + a before and B·rgb + b behind, as a mean and in the first and the last convolution.

    A·rgb + a = A·(rgb - m) with m = -A⁻¹·a: zeros around the picture are zeros still. Behind, what SuperResolver adds
    is m, so the last bias gets b - m; with the mean shifts that the training starts from, nothing changes.
    """
    matrix, shift = (state[f"sub_mean.{name}"].double() for name in ("weight", "bias"))
    matrix_out, shift_out = (state[f"add_mean.{name}"].double() for name in ("weight", "bias"))
    matrix, matrix_out = matrix.flatten(1), matrix_out.flatten(1)
    mean = -torch.linalg.solve(matrix, shift)
    first, last, bias = (state[name] for name in ("head.0.weight", "tail.0.weight", "tail.0.bias"))
    rows = last.double().flatten(1).unflatten(0, (3, -1))  # (colour, subpixel, ·): pixel shuffle's order
    mixed = torch.einsum("ij,jsk->isk", matrix_out, rows).reshape(last.shape)
    constants = matrix_out @ bias.double().view(3, -1) + (shift_out - mean).unsqueeze(1)
    folded = {
        "head.0.weight": torch.einsum("oiyx,ij->ojyx", first.double(), matrix).to(first),
        "tail.0.weight": mixed.to(last),
        "tail.0.bias": constants.flatten().to(bias),
    }
    red, green, blue = (mean / RANGE).tolist()
    return dict(state) | folded, (red, green, blue)


class ChunkedPrototypes(PrototypeAttention):
    """Kept tokens are listed region by region and cut into equal chunks, each with prototypes of its own.

    Regions are split × split, split = 2 ^ round(log2(shorter side / 48)), at most 8; chunks do not follow them once
    tokens have left. The last chunk is filled up with the last tokens once more.
    """

    def of_kept(self, u: Tensor, mask: Tensor) -> Tensor:
        if len(u) != 1:
            return torch.cat([self.of_kept(one, m) for one, m in zip(u.split(1), mask.split(1), strict=True)])
        window = isqrt(u.shape[3])
        height, width = mask.shape[1] * window, mask.shape[2] * window
        split = min(round(2.0 ** round(log2(min(height, width) / CHUNK_SIDE))), 8)
        if split <= 1:
            return super().of_kept(u, mask)
        kept = u[mask]  # (k, c)
        numbers = torch.full(mask.shape, -1, device=u.device)
        numbers[mask] = torch.arange(len(kept), device=u.device)
        numbers = merge(numbers.unsqueeze(-1), (window, window))  # (1, h, w, 1)
        regions = partition(numbers, (height // split, width // split)).flatten()
        order = regions[regions >= 0]
        filled = torch.cat((order, order[len(order) - -len(order) % split**2 :]))
        chunks = kept[filled].unflatten(0, (split**2, -1))
        out = torch.empty_like(kept)
        out[order] = self(chunks).flatten(0, 1)[: len(order)].to(out.dtype)
        return out


class OfficialBlock(Block):
    prototype_type = ChunkedPrototypes


class OfficialAdaFormer(AdaFormer):
    """Halts at ε whatever the effort, and asks the confidence behind the last block too."""

    block_type = OfficialBlock

    def judges(self, index: int) -> bool:
        return True

    def threshold(self, effort: Effort) -> float:
        return effort.native.get("epsilon", self.epsilon)
