"""How published networks are written down: their keys → ours, and their arguments from the shapes of their weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from scalewise.checkpoints.build import Colour, Design, Part
from scalewise.errors import CheckpointError, InvalidRequest

Tensors = Mapping[str, Tensor]

DIV2K_MEAN: Colour = (0.4488, 0.4371, 0.4040)


class Choices:
    """What shapes leave open: the caller's value, else the file's, else the published one, which is *assumed*."""

    def __init__(self, overrides: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> None:
        self.overrides, self.given = dict(overrides), dict(given or {})
        self.assumed: dict[str, Any] = {}
        self.asked: set[str] = set()

    def value(self, name: str, published: Any) -> Any:
        self.asked.add(name)
        if name in self.overrides:
            return _like(name, self.overrides[name], published)
        if name in self.given:
            return self.given[name]
        self.assumed[name] = published
        return published


def _like(name: str, value: Any, published: Any) -> Any:
    """The caller's value if it is of the published one's kind (a whole number is a float too)."""
    kinds: tuple[type, ...] = (list, tuple) if isinstance(published, list) else (type(published),)
    fits = isinstance(value, kinds) and not (isinstance(value, bool) and not isinstance(published, bool))
    if not fits and not (isinstance(published, float) and type(value) is int):
        raise InvalidRequest(f"{name}={value!r} is not a value for it; the published one is {published!r}")
    return value


Arguments = Callable[[Tensors, Choices], dict[str, Any]]
Normal = Callable[[Tensors, Choices], tuple[Colour, Colour]]


@dataclass(frozen=True)
class Layout:
    """One part of a network in one spelling.

    `table`: (start of their key, start of ours), a regular expression and its replacement; None drops what we compute
    ourselves. The first `marks` rows must all be there, and `suits` must like the shapes, for the layout to be known.
    `arguments` reads shapes under *our* keys, `tells` what values under *their* keys say; `adapt` finishes keys and
    reorders values that are kept in another order.
    """

    name: str
    title: str
    table: tuple[tuple[str, str | None], ...]
    arguments: Arguments
    tells: Callable[[Tensors], dict[str, Any]] = lambda state: {}
    adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda tensors: tensors
    marks: int = 1
    suits: Callable[[Tensors], bool] = lambda tensors: True


@dataclass(frozen=True)
class Network:
    """An encoder with an upsampler (or None) as some project publishes them, and the value range they see."""

    title: str
    encoder: Layout
    upsampler: Layout | None
    normal: Normal


@dataclass(frozen=True)
class Translated:
    """A recognised file: `tensors` under our keys, what they are, and what was left out.

    A network that is not an encoder with an upsampler names its `builder` and that function's `arguments`."""

    title: str
    design: Design
    tensors: dict[str, Tensor]
    choices: Choices
    dropped: tuple[str, ...] = ()
    builder: str = "super_resolver"
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Match:
    """How well a state dict fits a network."""

    network: Network
    encoder: dict[str, Tensor] = field(default_factory=dict)
    upsampler: dict[str, Tensor] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return bool(self.encoder) and not self.extra and not self.missing


def translate(path: object, state: Tensors, networks: Iterable[Network], choices: Choices) -> Translated:
    """A flat state dict → our network. Raises CheckpointError naming the nearest network and what does not fit."""
    state = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    matches = [fit(state, network) for network in networks]
    match = next((one for one in matches if one.complete), None)
    if match is None:
        nearest = min(matches, key=lambda one: (len(one.extra) + len(one.missing), one.network.title))
        raise CheckpointError(f"{path}: not a network that scalewise knows; {describe_misfit(nearest, len(state))}")
    network = match.network
    try:
        choices.given = network.encoder.tells(state) | choices.given
        encoder = Part(network.encoder.name, network.encoder.arguments(match.encoder, choices))
        upsampler = None
        if network.upsampler and match.upsampler:
            upsampler = Part(network.upsampler.name, network.upsampler.arguments(match.upsampler, choices))
        mean, std = network.normal(state, choices)
    except InvalidRequest:
        raise
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: looks like {network.title}, but {error} is missing or misshapen") from None
    tensors = {f"encoder.{name}" if upsampler else name: value for name, value in match.encoder.items()}
    tensors |= {f"upsampler.{name}": value for name, value in match.upsampler.items()}
    title = network.title if upsampler else f"{network.encoder.title} encoder"
    return Translated(title, Design(encoder, upsampler, mean, std), tensors, choices, match.dropped)


def fit(state: Tensors, network: Network) -> Match:
    """Rename what the network's tables know; the rest is extra. An encoder alone fits too."""
    nested = any(key.startswith("encoder.") for key in state)
    encoder: dict[str, Tensor] = {}
    upsampler: dict[str, Tensor] = {}
    dropped, extra = [], []
    hits: set[str] = set()
    rows = [(encoder, row) for row in network.encoder.table]
    rows += [(upsampler, row) for row in network.upsampler.table] if network.upsampler else []
    compiled = [(part, re.compile(pattern), new) for part, (pattern, new) in rows]
    for key, value in state.items():
        short = key.removeprefix("encoder.") if nested else key
        for part, pattern, new in compiled:
            found = pattern.match(short)
            if not found:
                continue
            hits.add(pattern.pattern)
            if new is None:
                dropped.append(key)
            else:
                part[found.expand(new) + short[found.end() :]] = value
            break
        else:
            extra.append(key)
    present = [network.encoder, *([network.upsampler] if network.upsampler and upsampler else [])]
    marks = [row[0] for layout in present for row in layout.table[: layout.marks]]
    missing = [readable(mark) for mark in marks if mark not in hits]
    if network.upsampler and upsampler and not missing and not network.upsampler.suits(upsampler):
        missing.append(f"other shapes of {few(upsampler)}")
    if not missing and not extra:
        encoder = network.encoder.adapt(encoder)
        upsampler = network.upsampler.adapt(upsampler) if network.upsampler and upsampler else upsampler
    return Match(network, encoder, upsampler, tuple(dropped), tuple(extra), tuple(missing))


def readable(pattern: str) -> str:
    """A row's pattern as a reader would write the key."""
    return re.sub(r"\(\\d\+\)", "N", pattern).replace("\\", "").replace("(?=.)", "")


def describe_misfit(match: Match, keys: int) -> str:
    words = f"nearest is {match.network.title}, which has no {few(match.extra)}" if match.extra else ""
    if len(match.extra) == keys:
        words = f"none of its {keys} keys is known ({few(match.extra)})"
    if match.missing:
        words += f"{' and' if words else f'nearest is {match.network.title}, which'} needs {few(match.missing)}"
    return words


def few(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def count(tensors: Tensors, pattern: str) -> int:
    """How many different numbers the group of a pattern takes."""
    return len({found[1] for key in tensors if (found := re.match(pattern, key))})


def root_of(value: int, what: str) -> int:
    root = isqrt(value)
    if root * root != value or not root:
        raise ValueError(what)
    return root


# --- arguments, from shapes -------------------------------------------------------------------------------------------


def edsr_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    channels, blocks = t["head.weight"].shape[0], count(t, r"blocks\.(\d+)\.")
    published = 0.1 if channels >= 256 else 1.0  # the large network of the paper; the baseline has no scaling
    return {"channels": channels, "blocks": blocks, "res_scale": choices.value("res_scale", published)}


def rdn_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    growth, channels = t["blocks.0.layers.0.weight"].shape[:2]
    layers = count(t, r"blocks\.0\.layers\.(\d+)\.")
    return {"channels": channels, "blocks": count(t, r"blocks\.(\d+)\."), "layers": layers, "growth": growth}


def _rcan_shapes(t: Tensors) -> dict[str, Any]:
    squeeze = t["groups.0.blocks.0.attention.squeeze.weight"]
    return {
        "channels": squeeze.shape[1],
        "groups": count(t, r"groups\.(\d+)\."),
        "blocks": count(t, r"groups\.0\.blocks\.(\d+)\."),
        "reduction": squeeze.shape[1] // squeeze.shape[0],
    }


def rcan_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    return _rcan_shapes(t)


def rcan_scaled_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    return _rcan_shapes(t) | {"res_scale": choices.value("res_scale", 1.0)}


def nlsa_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    f, channels = t["attentions.0.match.weight"].shape[:2]
    return {
        "channels": channels,
        "blocks": count(t, r"blocks\.(\d+)\."),
        "res_scale": choices.value("res_scale", 0.1),
        "chunk": choices.value("chunk", 144),
        "hashes": choices.value("hashes", 4),
        "reduction": channels // f,
    }


def _groups(t: Tensors, table: str) -> tuple[list[int], list[int]]:
    """Blocks per group, and heads per group from the width of `table`."""
    groups = count(t, r"groups\.(\d+)\.")
    depths = [count(t, rf"groups\.{g}\.blocks\.(\d+)\.") for g in range(groups)]
    return depths, [t[f"groups.{g}.blocks.0.attention.{table}"].shape[-1] for g in range(groups)]


def swinir_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    embed = t["conv_first.weight"].shape[0]
    depths, heads = _groups(t, "bias_table")
    side = root_of(t["groups.0.blocks.0.attention.bias_table"].shape[0], "relative_position_bias_table")
    features = t.get("conv_features.weight")
    return {
        "embed": embed,
        "depths": depths,
        "heads": heads,
        "window": (side + 1) // 2,
        "mlp_ratio": t["groups.0.blocks.0.mlp.fc1.weight"].shape[0] / embed,
        "features": None if features is None else features.shape[0],
    }


def cat_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    embed = t["conv_first.weight"].shape[0]
    groups = count(t, r"groups\.(\d+)\.")
    features = t.get("conv_features.weight")
    heads = [2 * t[f"groups.{g}.blocks.0.attention.biases.0.layers.2.2.weight"].shape[0] for g in range(groups)]
    return {
        "embed": embed,
        "depths": [count(t, rf"groups\.{g}\.blocks\.(\d+)\.") for g in range(groups)],
        "heads": heads,
        "splits": choices.value("splits", [[4, 16]] * groups),
        "mlp_ratio": t["groups.0.blocks.0.mlp.fc1.weight"].shape[0] / embed,
        "features": None if features is None else features.shape[0],
    }


def elan_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    channels, blocks = t["head.weight"].shape[0], count(t, r"body\.(\d+)\.")
    share = count(t, r"body\.0\.attention\.(\d+)\.") - 1
    return {
        "channels": channels,
        "depth": blocks * (share + 1),
        "windows": choices.value("windows", [4, 8, 16]),
        "share": share,
        "expand": t["body.0.local.0.conv1.conv.weight"].shape[0] // channels,
    }


def fsrcnn_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    shrink, channels = t["shrink.0.weight"].shape[:2]
    return {"channels": channels, "shrink": shrink, "maps": count(t, r"maps\.(\d+)\.")}


def carn_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    channels, per_group = t["blocks.0.unit.conv1.weight"].shape[:2]
    return {"channels": channels, "groups": channels // per_group}


def srresnet_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    return {"channels": t["head.weight"].shape[0], "blocks": count(t, r"blocks\.(\d+)\.")}


def shuffle_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    width, outputs = t["last.weight"].shape[1], t["convs.0.weight"].shape[0]
    scale = root_of(outputs // width, "the first convolution of the tail") ** count(t, r"convs\.(\d+)\.")
    inputs = t["convs.0.weight"].shape[1]
    return {"scale": scale} | ({"width": width} if width != inputs else {})


def direct_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    return {"scale": root_of(t["conv.weight"].shape[0] // 3, "the convolution of the tail")}


def residual_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    return {}


def resnet_tail_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    outputs, inputs = t["convs.0.weight"].shape[:2]
    return {"scale": root_of(outputs // inputs, "upconv1") ** count(t, r"convs\.(\d+)\.")}


def deconvolution_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    return {"scale": choices.value("scale", 4)}


def cascade_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    scales = sorted({int(key.split(".")[1]) for key in t if key.startswith("stages.")})
    per_group = t[f"stages.{scales[0]}.0.weight"].shape[1]
    return {"scales": scales, "groups": t["last.weight"].shape[1] // per_group}


def _hidden(t: Tensors, mlp: str) -> list[int]:
    layers = count(t, rf"{mlp}\.layers\.(\d+)\.")
    return [t[f"{mlp}.layers.{i}.weight"].shape[0] for i in range(layers - 1)]


def liif_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    flags = {name: choices.value(name, True) for name in ("local_ensemble", "feat_unfold", "cell_decode")}
    return {"hidden": _hidden(t, "mlp")} | flags


def lte_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    return {"hidden_dim": t["coef.weight"].shape[0], "mlp": _hidden(t, "mlp")}


def itsrn_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    flags = {name: choices.value(name, True) for name in ("local_ensemble", "feat_unfold")}
    return {"hidden": _hidden(t, "mlp"), "activation": choices.value("activation", "gelu")} | flags


def ciaosr_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    scales = sorted({int(key.split(".")[2]) for key in t if key.startswith("attention.down.")})
    return {
        "hidden": _hidden(t, "query"),
        "non_local": bool(scales),
        "multi_scale": scales or [2],
        "local_size": choices.value("local_size", 2),
        "feat_unfold": choices.value("feat_unfold", True),
    }


def metasr_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    return {"hidden": t["mlp.layers.0.weight"].shape[0]}


# --- adapting values --------------------------------------------------------------------------------------------------


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


def _single_cascade(t: dict[str, Tensor]) -> dict[str, Tensor]:
    if "stages.4.0.weight" not in t or "stages.4.1.weight" in t:
        return t
    outputs = t["stages.4.0.weight"].shape[0]
    step = isqrt(outputs // t["last.weight"].shape[1])
    return {key.replace("stages.4.", f"stages.{step}."): value for key, value in t.items()}


# --- encoders ---------------------------------------------------------------------------------------------------------

MEAN_SHIFT = (r"(sub|add)_mean\.", None)  # read by `from_mean_shift`

EDSR_TORCH = Layout(
    "edsr",
    "EDSR",
    (
        (r"body\.(\d+)\.body\.0(?=\.)", r"blocks.\1.conv1"),
        (r"body\.(\d+)\.body\.2(?=\.)", r"blocks.\1.conv2"),
        (r"head\.0(?=\.)", "head"),
        (r"body\.(\d+)(?=\.(?:weight|bias)$)", "body_end"),
        MEAN_SHIFT,
    ),
    edsr_arguments,
)
EDSR_BASICSR = Layout(
    "edsr",
    "EDSR",
    (
        (r"conv_after_body(?=\.)", "body_end"),
        (r"conv_first(?=\.)", "head"),
        (r"body\.(\d+)\.(conv1|conv2)(?=\.)", r"blocks.\1.\2"),
    ),
    edsr_arguments,
)
RDN_LIIF = Layout(
    "rdn",
    "RDN",
    (
        (r"RDBs\.(\d+)\.convs\.(\d+)\.conv\.0(?=\.)", r"blocks.\1.layers.\2"),
        (r"RDBs\.(\d+)\.LFF(?=\.)", r"blocks.\1.fuse"),
        (r"SFENet1(?=\.)", "shallow1"),
        (r"SFENet2(?=\.)", "shallow2"),
        (r"GFF\.0(?=\.)", "fuse"),
        (r"GFF\.1(?=\.)", "body_end"),
        MEAN_SHIFT,
    ),
    rdn_arguments,
)
RDN_MMEDITING = Layout(
    "rdn",
    "RDN",
    (
        (r"rdbs\.(\d+)\.layers\.(\d+)\.conv(?=\.)", r"blocks.\1.layers.\2"),
        (r"rdbs\.(\d+)\.lff(?=\.)", r"blocks.\1.fuse"),
        (r"sfe1(?=\.)", "shallow1"),
        (r"sfe2(?=\.)", "shallow2"),
        (r"gff\.0(?=\.)", "fuse"),
        (r"gff\.1(?=\.)", "body_end"),
    ),
    rdn_arguments,
)
RCAN_TORCH = Layout(
    "rcan",
    "RCAN",
    (
        (r"body\.(\d+)\.body\.(\d+)\.body\.3\.conv_du\.0(?=\.)", r"groups.\1.blocks.\2.attention.squeeze"),
        (r"body\.(\d+)\.body\.(\d+)\.body\.3\.conv_du\.2(?=\.)", r"groups.\1.blocks.\2.attention.excite"),
        (r"body\.(\d+)\.body\.(\d+)\.body\.0(?=\.)", r"groups.\1.blocks.\2.conv1"),
        (r"body\.(\d+)\.body\.(\d+)\.body\.2(?=\.)", r"groups.\1.blocks.\2.conv2"),
        (r"body\.(\d+)\.body\.(\d+)(?=\.(?:weight|bias)$)", r"groups.\1.end"),
        (r"body\.(\d+)(?=\.(?:weight|bias)$)", "body_end"),
        (r"head\.0(?=\.)", "head"),
        (r"a$", None),  # a number that the network of the NLSN repository keeps and never uses
        MEAN_SHIFT,
    ),
    rcan_arguments,
)
RCAN_BASICSR = Layout(
    "rcan",
    "RCAN",
    (
        (r"body\.(\d+)\.residual_group\.(\d+)\.rcab\.3\.attention\.1(?=\.)", r"groups.\1.blocks.\2.attention.squeeze"),
        (r"body\.(\d+)\.residual_group\.(\d+)\.rcab\.3\.attention\.3(?=\.)", r"groups.\1.blocks.\2.attention.excite"),
        (r"body\.(\d+)\.residual_group\.(\d+)\.rcab\.0(?=\.)", r"groups.\1.blocks.\2.conv1"),
        (r"body\.(\d+)\.residual_group\.(\d+)\.rcab\.2(?=\.)", r"groups.\1.blocks.\2.conv2"),
        (r"body\.(\d+)\.conv(?=\.)", r"groups.\1.end"),
        (r"conv_first(?=\.)", "head"),
        (r"conv_after_body(?=\.)", "body_end"),
    ),
    rcan_scaled_arguments,
)
ELAN_KEYS = Layout(
    "elan",
    "ELAN",
    (
        (r"body\.(\d+)\.modules_gmsa\.gmsa_(\d+)\.project_inp\.", r"body.\1.attention.\2.project_in."),
        (r"body\.(\d+)\.modules_gmsa\.gmsa_(\d+)\.project_out\.", r"body.\1.attention.\2.project_out."),
        (r"body\.(\d+)\.modules_lfe\.lfe_(\d+)\.conv0\.shift_conv\.conv1x1\.", r"body.\1.local.\2.conv1.conv."),
        (r"body\.(\d+)\.modules_lfe\.lfe_(\d+)\.conv1\.shift_conv\.conv1x1\.", r"body.\1.local.\2.conv2.conv."),
        (r"body\.(\d+)\.modules_lfe\.lfe_(\d+)\.conv[01]\.shift_conv\.weight", None),  # fixed shifts
        (r"head\.0(?=\.)", "head"),
        MEAN_SHIFT,
    ),
    elan_arguments,
)
NLSN_KEYS = Layout(
    "nlsa",
    "NLSN",
    (
        (r"body\.(\d+)\.conv_match\.0(?=\.)", r"attentions.<\1>.match"),
        (r"body\.(\d+)\.conv_assembly\.0(?=\.)", r"attentions.<\1>.assemble"),
        (r"body\.(\d+)\.body\.0(?=\.)", r"blocks.<\1>.conv1"),
        (r"body\.(\d+)\.body\.2(?=\.)", r"blocks.<\1>.conv2"),
        (r"body\.(\d+)(?=\.(?:weight|bias)$)", "body_end"),
        (r"head\.0(?=\.)", "head"),
        MEAN_SHIFT,
    ),
    nlsa_arguments,
    adapt=in_order,
)
SWINIR_KEYS = Layout(
    "swinir",
    "SwinIR",
    (
        (
            r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.attn\.relative_position_bias_table",
            r"groups.\1.blocks.\2.attention.bias_table",
        ),
        (r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.(attn_mask|attn\.relative_position_index)$", None),
        (r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.attn\.", r"groups.\1.blocks.\2.attention."),
        (r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.mlp\.fc1", r"groups.\1.blocks.\2.mlp.fc1"),
        (r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.mlp\.fc2", r"groups.\1.blocks.\2.mlp.fc2"),
        (r"layers\.(\d+)\.residual_group\.blocks\.(\d+)\.(norm[12])", r"groups.\1.blocks.\2.\3"),
        (r"layers\.(\d+)\.conv(?=\.)", r"groups.\1.conv"),
        (r"conv_first(?=\.)", "conv_first"),
        (r"patch_embed\.norm(?=\.)", "norm_first"),
        (r"norm(?=\.)", "norm"),
        (r"conv_after_body(?=\.)", "conv_after_body"),
        (r"conv_before_upsample\.0(?=\.)", "conv_features"),
    ),
    swinir_arguments,
)
CAT_KEYS = Layout(
    "cat",
    "CAT",
    (
        (
            r"layers\.(\d+)\.blocks\.(\d+)\.attns\.([01])\.pos\.pos_proj",
            r"groups.\1.blocks.\2.attention.biases.\3.first",
        ),
        *(
            (
                rf"layers\.(\d+)\.blocks\.(\d+)\.attns\.([01])\.pos\.pos{i + 1}\.",
                rf"groups.\1.blocks.\2.attention.biases.\3.layers.{i}.",
            )
            for i in range(3)
        ),
        (r"layers\.(\d+)\.blocks\.(\d+)\.(attn_mask_[01]|attns\.[01]\.(rpe_biases|relative_position_index))$", None),
        (r"layers\.(\d+)\.blocks\.(\d+)\.(qkv|proj)(?=\.)", r"groups.\1.blocks.\2.attention.\3"),
        (r"layers\.(\d+)\.blocks\.(\d+)\.get_v(?=\.)", r"groups.\1.blocks.\2.attention.conv_v"),
        (r"layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc1", r"groups.\1.blocks.\2.mlp.fc1"),
        (r"layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc2", r"groups.\1.blocks.\2.mlp.fc2"),
        (r"layers\.(\d+)\.blocks\.(\d+)\.(norm[12])", r"groups.\1.blocks.\2.\3"),
        (r"layers\.(\d+)\.conv(?=\.)", r"groups.\1.conv"),
        (r"conv_first(?=\.)", "conv_first"),
        (r"before_RG\.1(?=\.)", "norm_first"),
        (r"norm(?=\.)", "norm"),
        (r"conv_after_body(?=\.)", "conv_after_body"),
        (r"conv_before_upsample\.0(?=\.)", "conv_features"),
    ),
    cat_arguments,
    cat_splits,
)
FSRCNN_KEYS = Layout(
    "fsrcnn",
    "FSRCNN",
    (
        (r"head_conv\.", "extract."),
        (r"body_conv\.0\.", "shrink."),
        *((rf"body_conv\.{i}(?=\.(?:weight|bias)$)", f"maps.{i - 1}") for i in range(1, 5)),
        (r"body_conv\.5(?=\.)", "activation"),
        (r"body_conv\.6\.", "expand."),
    ),
    fsrcnn_arguments,
)
CARN_KEYS = Layout(
    "carn",
    "CARN-M",
    (
        (r"b([123])\.b1\.body\.0", r"blocks.<\1>.unit.conv1"),
        (r"b([123])\.b1\.body\.2", r"blocks.<\1>.unit.conv2"),
        (r"b([123])\.b1\.body\.4", r"blocks.<\1>.unit.mix"),
        (r"b([123])\.c([123])(?:\.body)?\.0", r"blocks.<\1>.fusions.<\2>"),
        (r"c([123])(?:\.body)?\.0", r"fusions.<\1>"),
        (r"entry(?=\.)", "entry"),
        MEAN_SHIFT,
    ),
    carn_arguments,
    adapt=from_zero,
)
SRRESNET_KEYS = Layout(
    "srresnet",
    "SRResNet",
    (
        (r"(?:recon_trunk|body)\.(\d+)\.(conv[12])(?=\.)", r"blocks.\1.\2"),
        (r"conv_first(?=\.)", "head"),
    ),
    srresnet_arguments,
)

# --- upsamplers -------------------------------------------------------------------------------------------------------

SHUFFLE_TORCH = Layout(
    "pixel_shuffle",
    "pixel shuffle tail",
    ((r"tail\.1(?=\.)", "last"), *((rf"tail\.0\.{2 * i}(?=\.)", f"convs.{i}") for i in range(5))),
    shuffle_arguments,
    marks=2,
)
SHUFFLE_RDN = Layout(
    "pixel_shuffle",
    "pixel shuffle tail",
    (
        (r"UPNet\.0(?=\.)", "convs.0"),
        (r"UPNet\.2(?=\.)", "convs.1"),
        (r"UPNet\.4(?=\.)", "last"),
    ),
    shuffle_arguments,
    marks=2,
    # with one stage the convolution to RGB is UPNet.2
    adapt=lambda t: t if "last.weight" in t else {key.replace("convs.1", "last"): value for key, value in t.items()},
)
SHUFFLE_BASICSR = Layout(
    "pixel_shuffle",
    "pixel shuffle tail",
    ((r"conv_last(?=\.)", "last"), *((rf"upsample\.{2 * i}(?=\.)", f"convs.{i}") for i in range(5))),
    shuffle_arguments,
    marks=2,
)
DIRECT_BASICSR = Layout("direct_shuffle", "direct tail", ((r"upsample\.0(?=\.)", "conv"),), direct_arguments)
DIRECT_ELAN = Layout("direct_shuffle", "direct tail", ((r"tail\.0(?=\.)", "conv"),), direct_arguments)
RESIDUAL = Layout("residual", "residual tail", ((r"conv_last(?=\.)", "conv"),), residual_arguments)
RESNET_TAIL = Layout(
    "resnet_tail",
    "SRResNet's tail",
    (
        (r"(?:HRconv|conv_hr)(?=\.)", "refine"),
        (r"conv_last(?=\.)", "last"),
        *((rf"upconv{i + 1}(?=\.)", f"convs.{i}") for i in range(3)),
    ),
    resnet_tail_arguments,
)
DECONVOLUTION = Layout("deconvolution", "deconvolution", ((r"tail_conv(?=\.)", "deconv"),), deconvolution_arguments)
CASCADE = Layout(
    "cascade_tail",
    "CARN's tail",
    (
        (r"exit(?=\.)", "last"),
        (r"upsample\.up\.body\.0(?=\.)", "stages.4.0"),
        (r"upsample\.up\.body\.3(?=\.)", "stages.4.1"),
        (r"upsample\.up([234])\.body\.0(?=\.)", r"stages.\1.0"),
        (r"upsample\.up([234])\.body\.3(?=\.)", r"stages.\1.1"),
    ),
    cascade_arguments,
    # one `up` may be ×2 or ×3 too: its first convolution tells
    adapt=_single_cascade,
)


def mlp_rows(theirs: str, ours: str, most: int = 12) -> tuple[tuple[str, str], ...]:
    """Linear layers at every second index (activations lie between)."""
    return tuple((rf"{theirs}\.{2 * i}(?=\.)", f"{ours}.layers.{i}") for i in range(most))


def _sides_of(mlp: Tensors) -> tuple[int, int]:
    """Inputs and outputs of an MLP."""
    layers = count(mlp, r"mlp\.layers\.(\d+)\.")
    return mlp["mlp.layers.0.weight"].shape[1], mlp[f"mlp.layers.{layers - 1}.weight"].shape[0]


LIIF_KEYS = Layout(
    "liif", "LIIF", mlp_rows(r"imnet\.layers", "mlp"), liif_arguments, suits=lambda t: _sides_of(t)[1] == 3
)
METASR_KEYS = Layout(
    "metasr", "MetaSR", mlp_rows(r"imnet\.layers", "mlp", 2), metasr_arguments, suits=lambda t: _sides_of(t)[0] == 3
)
LTE_ROWS = ((r"coef(?=\.)", "coef"), (r"freq(?=\.)", "freq"), (r"phase(?=\.)", "phase"))
LTE_KEYS = Layout("lte", "LTE", (*LTE_ROWS, *mlp_rows(r"imnet\.layers", "mlp")), lte_arguments, adapt=lte_rows)
LTE_PLUS = Layout("lte", "LTE+", (*LTE_ROWS, *mlp_rows(r"layers", "mlp")), lte_arguments, adapt=as_linear)
ITSRN_KEYS = Layout(
    "itsrn",
    "ITSRN",
    (
        *mlp_rows(r"imnet\.layers", "mlp"),
        *mlp_rows(r"Score\.layers", "score", 2),
        *mlp_rows(r"Weight\.layers", "merge", 2),
    ),
    itsrn_arguments,
    suits=lambda t: _sides_of(t)[0] == 4 and _sides_of(t)[1] != 3,
)
CIAOSR_KEYS = Layout(
    "ciaosr",
    "CiaoSR",
    (
        *mlp_rows(r"imnet_q\.layers", "query"),
        *mlp_rows(r"imnet_k\.layers", "key"),
        *mlp_rows(r"imnet_v\.layers", "value"),
        (r"cs_attn\.escape_NaN$", None),  # the constant 1e-4
        (r"cs_attn\.conv_match_1\.", "attention.match."),
        (r"cs_attn\.conv_match_2\.", "attention.match_small."),
        (r"cs_attn\.conv_assembly\.", "attention.assembly."),
        (r"cs_attn\.down\.", "attention.down.2."),
        (r"cs_attn\.downx([34])\.", r"attention.down.\1."),
    ),
    ciaosr_arguments,
    adapt=ciaosr_scales,
)
METASR_OFFICIAL = Layout(
    "metasr", "Meta-SR", mlp_rows(r"P2W\.meta_block", "mlp", 2), metasr_arguments, adapt=metasr_columns
)


# --- value ranges -----------------------------------------------------------------------------------------------------


def half(state: Tensors, choices: Choices) -> tuple[Colour, Colour]:
    """(x - 0.5) / 0.5: LIIF and its followers; the mean shift in their files is not applied."""
    return (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def plain(state: Tensors, choices: Choices) -> tuple[Colour, Colour]:
    """RGB in [0, 1] as it is."""
    return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def div2k(published_range: float) -> Normal:
    """The DIV2K mean, times a value range; neither is in the file."""

    def normal(state: Tensors, choices: Choices) -> tuple[Colour, Colour]:
        mean = choices.value("mean", list(DIV2K_MEAN))
        value_range = float(choices.value("value_range", published_range))
        return tuple(mean), (1 / value_range,) * 3  # type: ignore[return-value]

    return normal


def from_mean_shift(state: Tensors, choices: Choices) -> tuple[Colour, Colour]:
    """The file's own mean shift, x - range · mean; the range is 255 if the shift is above 1, else 1."""
    keys = [key for key in state if re.match(r"(encoder\.)?sub_mean(\.shifter)?\.(weight|bias)$", key)]
    found = {key.rpartition(".")[2]: state[key] for key in keys}
    if "bias" not in found:
        return plain(state, choices)
    if "weight" in found and not torch.allclose(found["weight"].float().flatten(1), torch.eye(3), atol=1e-4):
        raise ValueError("sub_mean.weight (it should be the identity)")
    shift = (-found["bias"].double()).tolist()
    value_range = 255.0 if max(map(abs, shift)) > 1.5 else 1.0
    return tuple(round(v / value_range, 7) for v in shift), (1 / value_range,) * 3  # type: ignore[return-value]


# --- networks by family of files --------------------------------------------------------------------------------------

_TORCH_PAIRS = (
    ("EDSR", EDSR_TORCH, SHUFFLE_TORCH),
    ("RCAN", RCAN_TORCH, SHUFFLE_TORCH),
    ("RDN", RDN_LIIF, SHUFFLE_RDN),
)

LIIF_NETWORKS = (
    *(Network(f"{e.title} ({u.title})", e, u, half) for _, e, u in _TORCH_PAIRS),
    *(
        Network(f"{u.title} on {e.title}", e, u, half)
        for e, u in product(
            (EDSR_TORCH, RDN_LIIF, RCAN_TORCH, SWINIR_KEYS), (METASR_KEYS, LIIF_KEYS, LTE_KEYS, LTE_PLUS, ITSRN_KEYS)
        )
    ),
)

BARE_NETWORKS = (
    *(Network(f"{e.title} ({u.title})", e, u, from_mean_shift) for _, e, u in _TORCH_PAIRS),
    *(Network(f"Meta-SR on {e.title}", e, METASR_OFFICIAL, from_mean_shift) for _, e, _ in _TORCH_PAIRS),
    Network("CARN-M", CARN_KEYS, CASCADE, from_mean_shift),
    Network("NLSN", NLSN_KEYS, SHUFFLE_TORCH, from_mean_shift),
    Network("FSRCNN", FSRCNN_KEYS, DECONVOLUTION, plain),
    Network("SRResNet", SRRESNET_KEYS, RESNET_TAIL, plain),
)

BASICSR_NETWORKS = (
    Network("EDSR (BasicSR)", EDSR_BASICSR, SHUFFLE_BASICSR, div2k(255.0)),
    Network("RCAN (BasicSR)", RCAN_BASICSR, SHUFFLE_BASICSR, div2k(255.0)),
    Network("SwinIR (classical)", SWINIR_KEYS, SHUFFLE_BASICSR, div2k(1.0)),
    Network("SwinIR (lightweight)", SWINIR_KEYS, DIRECT_BASICSR, div2k(1.0)),
    Network("SwinIR (restoration)", SWINIR_KEYS, RESIDUAL, div2k(1.0)),
    Network("CAT", CAT_KEYS, SHUFFLE_BASICSR, div2k(1.0)),
    Network("CAT (restoration)", CAT_KEYS, RESIDUAL, div2k(1.0)),
    Network("SRResNet (BasicSR)", SRRESNET_KEYS, RESNET_TAIL, plain),
)
