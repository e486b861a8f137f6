"""Values that published files keep in another order, and keys that only all of a part can finish."""

from __future__ import annotations

import re
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from scalewise.compat.translate import Tensors, count


def metasr_columns(t: dict[str, Tensor]) -> dict[str, Tensor]:
    """The original Meta-SR feeds its network (1/s, row offset, column offset); ours takes the offsets first."""
    return t | {"mlp.layers.0.weight": t["mlp.layers.0.weight"][:, [1, 2, 0]]}


def lte_rows(t: dict[str, Tensor]) -> dict[str, Tensor]:
    """LTE keeps a pair (y, x) in neighbouring channels; ours, as LTE+, all of y before all of x."""
    swapped = {key: torch.cat((t[key][0::2], t[key][1::2])) for key in ("freq.weight", "freq.bias")}
    return t | swapped


def as_linear(t: dict[str, Tensor]) -> dict[str, Tensor]:
    """LTE+ writes its MLP as 1×1 convolutions."""
    return {key: value.flatten(1) if key.startswith("mlp.") and value.dim() == 4 else value for key, value in t.items()}


def from_zero(t: dict[str, Tensor]) -> dict[str, Tensor]:
    """`<n>` counted from 1."""
    return {re.sub(r"<(\d)>", lambda found: str(int(found[1]) - 1), key): value for key, value in t.items()}


def in_order(t: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renumber `<n>`: blocks and attentions of a mixed list each from 0."""
    numbers: dict[str, set[int]] = {}
    for key in t:
        if found := re.match(r"(\w+)\.<(\d+)>", key):
            numbers.setdefault(found[1], set()).add(int(found[2]))
    places = {name: {n: i for i, n in enumerate(sorted(found))} for name, found in numbers.items()}

    def place(found: re.Match[str]) -> str:
        return f"{found[1]}.{places[found[1]][int(found[2])]}"

    return {re.sub(r"^(\w+)\.<(\d+)>", place, key): value for key, value in t.items()}


def ciaosr_scales(t: dict[str, Tensor]) -> dict[str, Tensor]:
    """The layer of scale 2 is always in the file; it is used if the values are that wide."""
    if "attention.assembly.0.weight" not in t:
        return t
    channels = t["attention.assembly.0.weight"].shape[0]
    layers = count(t, r"value\.layers\.(\d+)\.")
    spare = t[f"key.layers.{layers - 1}.weight"].shape[0] + channels * count(t, r"attention\.down\.(\d)\.")
    if spare > t[f"value.layers.{layers - 1}.weight"].shape[0]:
        return {key: value for key, value in t.items() if not key.startswith("attention.down.2.")}
    return t


def cat_splits(state: Tensors) -> dict[str, Any]:
    """The window of each group, from the table of offsets that the file keeps."""
    splits = []
    while (offsets := state.get(f"layers.{len(splits)}.blocks.0.attns.0.rpe_biases")) is not None:
        splits.append([int(n) + 1 for n in offsets.amax(0)])
    return {"splits": splits} if splits else {}


def single_cascade(t: dict[str, Tensor]) -> dict[str, Tensor]:
    if "stages.4.0.weight" not in t or "stages.4.1.weight" in t:
        return t
    outputs = t["stages.4.0.weight"].shape[0]
    step = isqrt(outputs // t["last.weight"].shape[1])
    return {key.replace("stages.4.", f"stages.{step}."): value for key, value in t.items()}
