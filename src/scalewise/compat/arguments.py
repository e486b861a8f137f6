"""Arguments of our networks, from the shapes of weights under our keys."""

from __future__ import annotations

from typing import Any

from scalewise.compat.translate import Choices, Tensors, count, root_of


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


def _bottleneck(t: Tensors) -> dict[str, Any]:
    """Three convolutions after each group, where the file has them."""
    return {"bottleneck": True} if "conv_after_body.0.weight" in t else {}


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
    } | _bottleneck(t)


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
    } | _bottleneck(t)


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


def disp_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    layers = count(t, r"blocks\.0\.convs\.(\d+)\.")
    return {"channels": t["head.weight"].shape[0], "blocks": count(t, r"blocks\.(\d+)\."), "layers": layers}


def etds_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    return {"channels": t["head.weight"].shape[0], "layers": count(t, r"layers\.(\d+)\.")}


def span_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    return {"channels": t["head.weight"].shape[0], "blocks": count(t, r"blocks\.(\d+)\.")}


def rlfn_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    middle, channels = t["blocks.0.conv1.weight"].shape[:2]
    return {
        "channels": channels,
        "blocks": count(t, r"blocks\.(\d+)\."),
        "middle": middle,
        "width": t["blocks.0.attention.conv1.weight"].shape[0],
    }


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


def rectified_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    outputs, width = t["clip.weight"].shape[:2]
    return {"scale": root_of(outputs // 3, "conv_clip")} | ({"width": width} if width != outputs else {})


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


def _unfolded(width: int, channels: int, what: str) -> bool:
    """Whether `width` is that of 3×3 features or of one pixel's."""
    if width not in (channels, 9 * channels):
        raise ValueError(what)
    return width == 9 * channels


def liif_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    inputs, channels = t["mlp.layers.0.weight"].shape[1], choices.channels
    cell = inputs - 4 in (channels, 9 * channels)  # two numbers for the offset, and two for the cell
    unfold = _unfolded(inputs - 2 - 2 * cell, channels, "imnet.layers.0.weight")
    return {
        "hidden": _hidden(t, "mlp"),
        "local_ensemble": choices.value("local_ensemble", True),
        "feat_unfold": choices.read("feat_unfold", unfold),
        "cell_decode": choices.read("cell_decode", cell),
    }


def lte_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    return {"hidden_dim": t["coef.weight"].shape[0], "mlp": _hidden(t, "mlp")}


def itsrn_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    hidden = _hidden(t, "mlp")
    outputs = t[f"mlp.layers.{len(hidden)}.weight"].shape[0]
    return {
        "hidden": hidden,
        "activation": choices.value("activation", "gelu"),
        "local_ensemble": "score.layers.0.weight" in t and choices.value("local_ensemble", True),
        "feat_unfold": choices.read("feat_unfold", _unfolded(outputs // 3, choices.channels, "the end of imnet")),
    }


def ciaosr_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    scales = sorted({int(key.split(".")[2]) for key in t if key.startswith("attention.down.")})
    hidden = _hidden(t, "query")
    local = t[f"key.layers.{len(_hidden(t, 'key'))}.weight"].shape[0]
    return {
        "hidden": hidden,
        "non_local": bool(scales),
        "multi_scale": scales or [2],
        "local_size": choices.value("local_size", 2),
        "feat_unfold": choices.read("feat_unfold", _unfolded(local, choices.channels, "the end of imnet_k")),
    }


def metasr_arguments(t: Tensors, choices: Choices) -> dict[str, Any]:
    return {"hidden": t["mlp.layers.0.weight"].shape[0]}
