"""Values that published files keep in another order, and keys that only all of a part can finish."""

from __future__ import annotations

import re
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from scalewise.compat.translate import Tensors, count
from scalewise.layers import DIV2K_MEAN


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
    return {re.sub(r"<(\d+)>", lambda found: str(int(found[1]) - 1), key): value for key, value in t.items()}


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


def fsrcnn_body(t: dict[str, Tensor]) -> dict[str, Tensor]:
    """FSRCNN lists what lies between its ends as `body.<n>`: the first and the last are pairs of layers, and of the
    others those with a bias are the mapping layers, however many."""
    numbered = {key: found for key in t if (found := re.match(r"body\.<(\d+)>", key))}
    pairs = sorted({int(found[1]) for key, found in numbered.items() if re.match(r"\.\d", key[found.end() :])})
    maps = sorted({int(found[1]) for key, found in numbered.items() if key[found.end() :] == ".bias"})
    names = dict(zip(pairs, ("shrink", "expand"), strict=True)) | {n: f"maps.{i}" for i, n in enumerate(maps)}

    def renamed(key: str) -> str:
        found = numbered.get(key)
        return key if found is None else names.get(int(found[1]), "activation") + key[found.end() :]

    return {renamed(key): value for key, value in t.items()}


def with_biases(t: dict[str, Tensor]) -> dict[str, Tensor]:
    """Attention trained without biases of its queries, keys and values has biases of zero."""
    missing = {key.replace(".weight", ".bias"): w for key, w in t.items() if key.endswith(".qkv.weight")}
    return {name: w.new_zeros(len(w)) for name, w in missing.items() if name not in t} | t


def fused(t: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convolutions as they run: `eval_conv`, or, where the branches of the training are in the file, what these add up
    to: a 1×1, a 3×3 and a 1×1 convolution in a row (`conv`), plus a 1×1 (`sk`)."""
    done = {key.replace(".eval_conv.", "."): value for key, value in t.items() if not re.search(r"\.(sk|conv)\.", key)}
    for name in {key.removesuffix(".sk.weight") for key in t if key.endswith(".sk.weight")}:
        first, middle, last, skip = (t[f"{name}.{part}.weight"].double() for part in (*BRANCH, "sk"))
        first_bias, middle_bias, last_bias, skip_bias = (t[f"{name}.{part}.bias"].double() for part in (*BRANCH, "sk"))
        weight = torch.einsum("on,nmyx,mi->oiyx", last.flatten(1), middle, first.flatten(1))
        weight[..., 1, 1] += skip.flatten(1)
        inner = torch.einsum("nmyx,m->n", middle, first_bias) + middle_bias
        done[f"{name}.weight"] = weight.to(t[f"{name}.sk.weight"])
        done[f"{name}.bias"] = (last.flatten(1) @ inner + last_bias + skip_bias).to(t[f"{name}.sk.bias"])
    return done


BRANCH = ("conv.0", "conv.1", "conv.2")


def disp_blocks(t: dict[str, Tensor]) -> dict[str, Tensor]:
    """DISP's blocks run `first`, `second`, `extra.0`, …, `last`."""
    extra = count(t, r"blocks\.0\.extra\.(\d+)\.")
    places = {"first": 0, "second": 1, "last": 2 + extra}

    def renamed(key: str) -> str:
        key = re.sub(r"\.extra\.(\d+)", lambda found: f".convs.{2 + int(found[1])}", key)
        return re.sub(r"\.(first|second|last)(?=\.)", lambda found: f".convs.{places[found[1]]}", key)

    return {renamed(key): value for key, value in fused(t).items()}


def span_blocks(t: dict[str, Tensor]) -> dict[str, Tensor]:
    return from_zero(fused(t))


def span_colours(t: dict[str, Tensor]) -> dict[str, Tensor]:
    """SPAN sees (rgb - mean) · 255 and gives rgb, where ours gives what it sees: its last convolution scaled. A file
    with `no_norm` sees rgb."""
    if "no_norm" in t:
        return {key: value for key, value in t.items() if key != "no_norm"}
    weight, bias = t["conv.weight"], t["conv.bias"]
    mean = torch.tensor(DIV2K_MEAN).repeat_interleave(len(bias) // 3).to(bias)
    return {"conv.weight": weight * SPAN_RANGE, "conv.bias": (bias - mean) * SPAN_RANGE}


SPAN_RANGE = 255.0


def single_cascade(t: dict[str, Tensor]) -> dict[str, Tensor]:
    if "stages.4.0.weight" not in t or "stages.4.1.weight" in t:
        return t
    outputs = t["stages.4.0.weight"].shape[0]
    step = isqrt(outputs // t["last.weight"].shape[1])
    return {key.replace("stages.4.", f"stages.{step}."): value for key, value in t.items()}
