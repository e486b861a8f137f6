"""Whatever a state dict reveals is read from it: networks of unusual sizes, spelled as published, load as they are.

Each case builds one of our networks with no argument at its default, renames its weights as the published class has
them, and compares the network that the loader makes of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scalewise import compat
from scalewise.checkpoints.build import ENCODERS, UPSAMPLERS, super_resolver
from scalewise.checkpoints.patch_networks import arm, classsr, enaf
from scalewise.errors import InvalidRequest
from scalewise.layers import luma

Rows = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]

EDSR_TORCH: Rows = (
    (r"encoder\.head", "head.0"),
    (r"encoder\.blocks\.(\d+)\.conv1", r"body.\1.body.0"),
    (r"encoder\.blocks\.(\d+)\.conv2", r"body.\1.body.2"),
    (r"encoder\.body_end", "body.5"),
)
EDSR_BASICSR: Rows = (
    (r"encoder\.head", "conv_first"),
    (r"encoder\.blocks\.", "body."),
    (r"encoder\.body_end", "conv_after_body"),
)
SHUFFLE_TORCH: Rows = (
    (r"upsampler\.convs\.(\d+)", lambda m: f"tail.0.{2 * int(m[1])}"),
    (r"upsampler\.last", "tail.1"),
)
SHUFFLE_BASICSR: Rows = (
    (r"upsampler\.convs\.(\d+)", lambda m: f"upsample.{2 * int(m[1])}"),
    (r"upsampler\.last", "conv_last"),
)
RDN: Rows = (
    (r"encoder\.blocks\.(\d+)\.layers\.(\d+)", r"RDBs.\1.convs.\2.conv.0"),
    (r"encoder\.blocks\.(\d+)\.fuse", r"RDBs.\1.LFF"),
    (r"encoder\.shallow", "SFENet"),
    (r"encoder\.fuse", "GFF.0"),
    (r"encoder\.body_end", "GFF.1"),
)
RCAN_TORCH: Rows = (
    (r"encoder\.groups\.(\d+)\.blocks\.(\d+)\.conv1", r"body.\1.body.\2.body.0"),
    (r"encoder\.groups\.(\d+)\.blocks\.(\d+)\.conv2", r"body.\1.body.\2.body.2"),
    (r"encoder\.groups\.(\d+)\.blocks\.(\d+)\.attention\.squeeze", r"body.\1.body.\2.body.3.conv_du.0"),
    (r"encoder\.groups\.(\d+)\.blocks\.(\d+)\.attention\.excite", r"body.\1.body.\2.body.3.conv_du.2"),
    (r"encoder\.groups\.(\d+)\.end", r"body.\1.body.3"),
    (r"encoder\.body_end", "body.2"),
    (r"encoder\.head", "head.0"),
)
RCAN_BASICSR: Rows = (
    (r"encoder\.groups\.(\d+)\.blocks\.(\d+)\.conv1", r"body.\1.residual_group.\2.rcab.0"),
    (r"encoder\.groups\.(\d+)\.blocks\.(\d+)\.conv2", r"body.\1.residual_group.\2.rcab.2"),
    (r"encoder\.groups\.(\d+)\.blocks\.(\d+)\.attention\.squeeze", r"body.\1.residual_group.\2.rcab.3.attention.1"),
    (r"encoder\.groups\.(\d+)\.blocks\.(\d+)\.attention\.excite", r"body.\1.residual_group.\2.rcab.3.attention.3"),
    (r"encoder\.groups\.(\d+)\.end", r"body.\1.conv"),
    (r"encoder\.body_end", "conv_after_body"),
    (r"encoder\.head", "conv_first"),
)
TRUNK: Rows = (
    (r"encoder\.groups\.(\d+)\.conv", r"layers.\1.conv"),
    (r"encoder\.(norm\.|conv_first|conv_after_body)", r"\1"),
    (r"encoder\.conv_features", "conv_before_upsample.0"),
)
SWINIR: Rows = (
    (r"(encoder\.groups\.\d+\.blocks\.\d+\.)attention\.bias_table", r"\1attn.relative_position_bias_table"),
    (r"(encoder\.groups\.\d+\.blocks\.\d+\.)attention\.", r"\1attn."),
    (r"encoder\.groups\.(\d+)\.blocks\.", r"layers.\1.residual_group.blocks."),
    (r"encoder\.norm_first", "patch_embed.norm"),
    *TRUNK,
)
CAT: Rows = (
    (r"(encoder\.groups\.\d+\.blocks\.\d+\.)attention\.biases\.(\d)\.first", r"\1attns.\2.pos.pos_proj"),
    (
        r"(encoder\.groups\.\d+\.blocks\.\d+\.)attention\.biases\.(\d)\.layers\.(\d)",
        lambda m: f"{m[1]}attns.{m[2]}.pos.pos{int(m[3]) + 1}",
    ),
    (r"(encoder\.groups\.\d+\.blocks\.\d+\.)attention\.conv_v", r"\1get_v"),
    (r"(encoder\.groups\.\d+\.blocks\.\d+\.)attention\.", r"\1"),
    (r"encoder\.groups\.(\d+)\.blocks\.", r"layers.\1.blocks."),
    (r"encoder\.norm_first", "before_RG.1"),
    *TRUNK,
)
FSRCNN: Rows = (
    (r"encoder\.extract", "head_conv"),
    (r"encoder\.shrink", "body_conv.0"),
    (r"encoder\.maps\.(\d+)", lambda m: f"body_conv.{int(m[1]) + 1}"),
    (r"encoder\.activation", "body_conv.7"),
    (r"encoder\.expand", "body_conv.8"),
    (r"upsampler\.deconv", "tail_conv"),
)
CARN: Rows = (
    (r"encoder\.blocks\.(\d)\.unit\.conv1", lambda m: f"b{int(m[1]) + 1}.b1.body.0"),
    (r"encoder\.blocks\.(\d)\.unit\.conv2", lambda m: f"b{int(m[1]) + 1}.b1.body.2"),
    (r"encoder\.blocks\.(\d)\.unit\.mix", lambda m: f"b{int(m[1]) + 1}.b1.body.4"),
    (r"encoder\.blocks\.(\d)\.fusions\.(\d)", lambda m: f"b{int(m[1]) + 1}.c{int(m[2]) + 1}.body.0"),
    (r"encoder\.fusions\.(\d)", lambda m: f"c{int(m[1]) + 1}.body.0"),
    (r"encoder\.entry", "entry"),
    (r"upsampler\.last", "exit"),
    (r"upsampler\.stages\.\d\.0", "upsample.up.body.0"),
    (r"upsampler\.stages\.\d\.1", "upsample.up.body.3"),
)
SRRESNET: Rows = (
    (r"encoder\.head", "conv_first"),
    (r"encoder\.blocks\.", "recon_trunk."),
    (r"upsampler\.convs\.(\d)", lambda m: f"upconv{int(m[1]) + 1}"),
    (r"upsampler\.refine", "HRconv"),
    (r"upsampler\.last", "conv_last"),
)
ELAN: Rows = (
    (r"encoder\.head", "head.0"),
    (
        r"encoder\.body\.(\d+)\.attention\.(\d+)\.project_in",
        r"body.\1.modules_gmsa.gmsa_\2.project_inp",
    ),
    (r"encoder\.body\.(\d+)\.attention\.(\d+)\.project_out", r"body.\1.modules_gmsa.gmsa_\2.project_out"),
    (
        r"encoder\.body\.(\d+)\.local\.(\d+)\.conv([12])\.conv",
        lambda m: f"body.{m[1]}.modules_lfe.lfe_{m[2]}.conv{int(m[3]) - 1}.shift_conv.conv1x1",
    ),
    (r"upsampler\.conv", "tail.0"),
)
DISP: Rows = (
    (r"encoder\.head", "conv_1.eval_conv"),
    (r"encoder\.mix", "conv_2"),
    (r"encoder\.blocks\.(\d+)\.convs\.0", r"blocks.\1.c1_r.eval_conv"),
    (r"encoder\.blocks\.(\d+)\.convs\.1", r"blocks.\1.c2_r.eval_conv"),
    (r"encoder\.blocks\.(\d+)\.convs\.4", r"blocks.\1.c3_r.eval_conv"),
    (
        r"encoder\.blocks\.(\d+)\.convs\.(\d)",
        lambda m: f"blocks.{m[1]}._extern_conv_block.{int(m[2]) - 2}.eval_conv",
    ),
    (r"upsampler\.conv", "upsampler.0"),
)
RLFN: Rows = (
    (r"encoder\.head", "conv_1"),
    (r"encoder\.body_end", "conv_2"),
    (r"encoder\.blocks\.(\d+)\.conv(\d)", lambda m: f"block_{int(m[1]) + 1}.c{m[2]}_r"),
    (r"encoder\.blocks\.(\d+)\.mix", lambda m: f"block_{int(m[1]) + 1}.c5"),
    (r"encoder\.blocks\.(\d+)\.attention", lambda m: f"block_{int(m[1]) + 1}.esa"),
    (r"upsampler\.conv", "upsampler.0"),
)
ECBSR: Rows = (  # five layers and an end; PReLU's slopes beside their convolution
    (r"encoder\.head", "backbone.0.conv3x3"),
    (r"encoder\.layers\.(\d+)", lambda m: f"backbone.{int(m[1]) + 1}.conv3x3"),
    (r"encoder\.activations\.(\d+)", r"backbone.\1.act"),
    (r"upsampler\.conv", "backbone.6.conv3x3"),
)
NLSN: Rows = (
    (r"encoder\.head", "head.0"),
    (r"encoder\.attentions\.(\d+)\.match", lambda m: f"body.{9 * int(m[1])}.conv_match.0"),
    (r"encoder\.attentions\.(\d+)\.assemble", lambda m: f"body.{9 * int(m[1])}.conv_assembly.0"),
    (r"encoder\.blocks\.(\d+)\.conv1", lambda m: f"body.{int(m[1]) + 1 + int(m[1]) // 8}.body.0"),
    (r"encoder\.blocks\.(\d+)\.conv2", lambda m: f"body.{int(m[1]) + 1 + int(m[1]) // 8}.body.2"),
    (r"encoder\.body_end", "body.99"),
)
ETDS: Rows = (
    (r"encoder\.head", "conv_first"),
    (r"encoder\.layers", "backbone_convs"),
    (r"upsampler\.conv", "conv_last"),
    (r"upsampler\.clip", "conv_clip"),
)
SPAN: Rows = (
    (r"encoder\.head", "conv_1.eval_conv"),
    (r"encoder\.body_end", "conv_2.eval_conv"),
    (r"encoder\.mix", "conv_cat"),
    (r"encoder\.blocks\.(\d+)\.conv(\d)", lambda m: f"block_{int(m[1]) + 1}.c{m[2]}_r.eval_conv"),
    (r"upsampler\.conv", "upsampler.0"),
)


def mlp(ours: str, theirs: str) -> Rows:
    return ((rf"upsampler\.{ours}\.layers\.(\d+)", lambda m: f"{theirs}.layers.{2 * int(m[1])}"),)


def nested(rows: Rows) -> Rows:
    """The encoder's keys under `encoder.`, as LIIF's wrapper has them."""

    def inside(new: str | Callable[[re.Match[str]], str]) -> Callable[[re.Match[str]], str]:
        return lambda m: f"encoder.{m.expand(new) if isinstance(new, str) else new(m)}"

    return tuple((pattern, inside(new)) for pattern, new in rows)


LIIF = (*nested(EDSR_TORCH), *mlp("mlp", "imnet"))
ITSRN = (*LIIF, *mlp("score", "Score"), *mlp("merge", "Weight"))
CIAOSR: Rows = (
    *((pattern, f"generator.encoder.{new}") for pattern, new in EDSR_BASICSR),
    (r"upsampler\.attention\.match\.", "generator.cs_attn.conv_match_1."),
    (r"upsampler\.attention\.match_small\.", "generator.cs_attn.conv_match_2."),
    (r"upsampler\.attention\.assembly\.", "generator.cs_attn.conv_assembly."),
    (r"upsampler\.attention\.down\.2\.", "generator.cs_attn.down."),
    (r"upsampler\.attention\.down\.([34])\.", r"generator.cs_attn.downx\1."),
    *(
        row
        for ours, theirs in (("query", "imnet_q"), ("key", "imnet_k"), ("value", "imnet_v"))
        for row in mlp(ours, f"generator.{theirs}")
    ),
)
WIDE = {"embed": 24, "depths": (2, 3), "heads": (2, 4), "mlp_ratio": 1.5, "features": 12, "bottleneck": True}
PAIRS: Mapping[str, tuple[str, dict[str, Any], str, dict[str, Any], Rows, str]] = {
    "edsr": ("edsr", {"channels": 12, "blocks": 5}, "pixel_shuffle", {"scale": 8}, (*EDSR_TORCH, *SHUFFLE_TORCH), ""),
    "edsr-basicsr": (
        "edsr",
        {"channels": 12, "blocks": 3},
        "pixel_shuffle",
        {"scale": 3},
        (*EDSR_BASICSR, *SHUFFLE_BASICSR),
        "",
    ),
    "rdn-liif": (
        "rdn",
        {"channels": 8, "blocks": 3, "layers": 2, "growth": 6},
        "liif",
        {"hidden": (20, 24)},
        (*nested(RDN), *mlp("mlp", "imnet")),
        "",
    ),
    "rcan": (
        "rcan",
        {"channels": 12, "groups": 2, "blocks": 3, "reduction": 4},
        "pixel_shuffle",
        {"scale": 2},
        (*RCAN_TORCH, *SHUFFLE_TORCH),
        "",
    ),
    "rcan-basicsr": (
        "rcan",
        {"channels": 12, "groups": 2, "blocks": 3, "reduction": 3},
        "pixel_shuffle",
        {"scale": 4},
        (*RCAN_BASICSR, *SHUFFLE_BASICSR),
        "params",
    ),
    "swinir": ("swinir", {**WIDE, "window": 4}, "pixel_shuffle", {"scale": 3}, (*SWINIR, *SHUFFLE_BASICSR), "params"),
    "cat": (
        "cat",
        {**WIDE, "embed": 32, "splits": ((2, 8), (4, 4))},
        "pixel_shuffle",
        {"scale": 2},
        (*CAT, *SHUFFLE_BASICSR),
        "params_ema",
    ),
    "elan": (
        "elan",
        {"channels": 12, "depth": 6, "share": 2, "expand": 3},
        "direct_shuffle",
        {"scale": 3},
        ELAN,
        "model_state_dict",
    ),
    "nlsn": (
        "nlsa",
        {"channels": 8, "blocks": 11, "reduction": 2},
        "pixel_shuffle",
        {"scale": 3},
        (*NLSN, *SHUFFLE_TORCH),
        "",
    ),
    "fsrcnn": ("fsrcnn", {"channels": 10, "shrink": 5, "maps": 6}, "deconvolution", {}, FSRCNN, ""),
    "carn": ("carn", {"channels": 12, "groups": 2}, "cascade_tail", {"scales": (3,), "groups": 2}, CARN, ""),
    "srresnet": ("srresnet", {"channels": 8, "blocks": 3}, "resnet_tail", {"scale": 2}, SRRESNET, ""),
    "disp": ("disp", {"channels": 8, "blocks": 3, "layers": 5}, "direct_shuffle", {"scale": 3}, DISP, ""),
    "rlfn": (
        "rlfn",
        {"channels": 10, "blocks": 3, "middle": 12, "width": 5},
        "direct_shuffle",
        {"scale": 3},
        RLFN,
        "",
    ),
    "ecbsr": (
        "ecbsr",
        {"channels": 10, "layers": 5, "colours": 3, "activation": "prelu"},
        "repeated_shuffle",
        {"scale": 3, "colours": 3},
        ECBSR,
        "",
    ),
    "ecbsr-luma": (
        "ecbsr",
        {"channels": 6, "layers": 5, "colours": 1, "activation": "relu"},
        "repeated_shuffle",
        {"scale": 2, "colours": 1},
        ECBSR,
        "params",
    ),
    "etds": ("etds", {"channels": 10, "layers": 4}, "rectified_shuffle", {"scale": 3, "width": 14}, ETDS, ""),
    "span": ("span", {"channels": 8, "blocks": 11}, "direct_shuffle", {"scale": 2}, SPAN, "no_norm"),
    "liif-plain": (
        "edsr",
        {"channels": 8, "blocks": 2},
        "liif",
        {"hidden": (16,), "feat_unfold": False, "cell_decode": False},
        LIIF,
        "",
    ),
    "liif-unfolded": ("edsr", {"channels": 8, "blocks": 2}, "liif", {"hidden": (16,), "cell_decode": False}, LIIF, ""),
    "itsrn": (
        "edsr",
        {"channels": 8, "blocks": 2},
        "itsrn",
        {"hidden": (16, 12), "feat_unfold": False},
        ITSRN,
        "",
    ),
    "itsrn-nearest": (
        "edsr",
        {"channels": 8, "blocks": 2},
        "itsrn",
        {"hidden": (16,), "local_ensemble": False},
        ITSRN,
        "",
    ),
    "metasr": ("edsr", {"channels": 8, "blocks": 2}, "metasr", {"hidden": 20}, LIIF, ""),
    "ciaosr": (
        "edsr",
        {"channels": 8, "blocks": 2},
        "ciaosr",
        {"hidden": (16, 12), "non_local": False, "feat_unfold": False},
        CIAOSR,
        "",
    ),
    "ciaosr-scales": (
        "edsr",
        {"channels": 8, "blocks": 2},
        "ciaosr",
        {"hidden": (16, 12), "multi_scale": (3, 4)},
        CIAOSR,
        "",
    ),
}


def published(network: nn.Module, rows: Rows) -> dict[str, Tensor]:
    """Its state dict under the published keys: one row after another."""
    state = {}
    for key, value in network.state_dict().items():
        for pattern, new in rows:
            key = re.sub(f"^{pattern}", new, key)
        state[key] = value
    return state


def built(encoder: str, sizes: dict[str, Any], tail: str, tail_sizes: dict[str, Any]) -> nn.Module:
    torch.manual_seed(3)
    parts = ({"name": encoder, "arguments": sizes}, {"name": tail, "arguments": tail_sizes})
    return super_resolver(*parts, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).eval()


@pytest.mark.parametrize("case", PAIRS)
def test_sizes_are_read_from_the_weights(case: str, tmp_path: Path) -> None:
    encoder, sizes, tail, tail_sizes, rows, wrapper = PAIRS[case]
    network = built(encoder, sizes, tail, tail_sizes)
    state: dict[str, Any] = published(network, rows)
    if encoder == "cat":  # the table of offsets that its class registers
        for group, split in enumerate(sizes["splits"]):
            state[f"layers.{group}.blocks.0.attns.0.rpe_biases"] = torch.tensor([[0, 0], [n - 1 for n in split]])
    if wrapper == "no_norm":
        state["no_norm"] = torch.zeros(1)
    torch.save({wrapper: state} if wrapper and wrapper != "no_norm" else state, tmp_path / "weights.pth")
    loaded = compat.load(tmp_path / "weights.pth").super_resolver
    expected = network.state_dict()
    assert {name: tuple(value.shape) for name, value in loaded.state_dict().items()} == {
        name: tuple(value.shape) for name, value in expected.items()
    }
    for part, arguments in (("encoder", sizes), ("upsampler", tail_sizes)):
        found = compat.describe(tmp_path / "weights.pth").arguments[part]["arguments"]
        for name, value in arguments.items():
            assert found[name] == (list(value) if isinstance(value, tuple) else value) or found[name] == [
                list(one) if isinstance(one, tuple) else one for one in value
            ], name
    if "span" not in case:
        assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())


def test_what_the_weights_say_may_be_said_and_not_contradicted(tmp_path: Path) -> None:
    encoder, sizes, tail, tail_sizes, rows, _ = PAIRS["liif-unfolded"]
    torch.save(published(built(encoder, sizes, tail, tail_sizes), rows), tmp_path / "weights.pth")
    loaded = compat.load(tmp_path / "weights.pth", feat_unfold=True)
    assert "feat_unfold" not in (*loaded.description.settable, *loaded.description.assumed)
    with pytest.raises(InvalidRequest, match="cell_decode=True contradicts the weights, which say False"):
        compat.load(tmp_path / "weights.pth", cell_decode=True)


def test_every_published_part_is_tried() -> None:
    tried = {(encoder, tail) for encoder, _, tail, *_ in PAIRS.values()}
    own = {"tadt", "tadt_baseline", "adaformer", "camixer", "camixer_odi"}  # golden vectors, or never published
    assert {encoder for encoder, _ in tried} == set(ENCODERS) - own
    assert {tail for _, tail in tried} == set(UPSAMPLERS) - {"residual", "lte"}


def test_attention_without_biases_has_biases_of_zero(tmp_path: Path) -> None:
    encoder, sizes, tail, tail_sizes, rows, _ = PAIRS["swinir"]
    state = published(built(encoder, sizes, tail, tail_sizes), rows)
    bare = {key: value for key, value in state.items() if not key.endswith("qkv.bias")}
    assert len(bare) < len(state)
    torch.save({"params": bare}, tmp_path / "weights.pth")
    loaded = compat.load(tmp_path / "weights.pth").model.state_dict()
    assert not any(value.any() for key, value in loaded.items() if key.endswith("qkv.bias"))


def paths(name: str) -> nn.Module:
    torch.manual_seed(3)
    sizes = {"channels": 12, "shrink": 5, "maps": 6}
    if name == "enaf":
        return enaf("fsrcnn", {**sizes, "widths": (4, 6)}, (0.0, 1.0, 2.0, 3.0), 1.0, 10.0)
    backbone = {"name": "fsrcnn", **sizes}
    if name == "arm":
        return arm(backbone, (4, 12), 5, (0.0, 1.0, 2.0))
    return classsr(backbone, (4, 12), (1.0, 2.0))


def fsrcnn_keys(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    rows = tuple((pattern.replace("upsampler", "tail"), new) for pattern, new in FSRCNN)
    return {next(re.sub(p, new, key) for p, new in rows if re.match(p, key)): v for key, v in inside.items()}


@pytest.mark.parametrize("name", ["enaf", "arm", "classsr"])
def test_paths_through_fsrcnn_with_six_mapping_layers(name: str, tmp_path: Path) -> None:
    network, file = paths(name), tmp_path / "weights.pth"
    own = network.state_dict()
    estimator = {
        key.removeprefix("router.estimator.").replace("cells", "CondNet").replace("last", "lastOut"): value
        for key, value in own.items()
        if key.startswith("router.estimator.")
    }
    if name == "enaf":
        state = fsrcnn_keys(own, "network.backbone.") | {f"estimator.{key}": v for key, v in estimator.items()}
        heads = {key: value for key, value in own.items() if key.startswith("network.heads.")}
        state |= {key.replace("network.heads", "predictors"): value for key, value in heads.items()}
    elif name == "arm":
        state = fsrcnn_keys(own, "network.network.")
        axes = {"hmap_x_list": own["router.centres"].numpy(), "hmap_y_mean_list": own["router.expected"].numpy()}
        torch.save({"hmap": {**axes, "cost_list": [0.0, 1e6, 2e6]}}, tmp_path / "weights.state")
    else:
        state = {f"classifier.{key}": value for key, value in estimator.items()}
        for k in (0, 1):
            inside = fsrcnn_keys(own, f"network.networks.{k}.")
            state |= {f"net{k + 1}.{key}": value for key, value in inside.items()}
    torch.save(state, file)
    settings: dict[str, Any] = {"widths": [4, 12]} if name == "arm" else {}
    loaded = compat.load(file, **settings).super_resolver.state_dict()
    assert loaded.keys() == own.keys()
    assert all(torch.equal(value, own[key]) for key, value in loaded.items())


@torch.no_grad()
def test_span_with_its_branches_is_span_as_it_runs(tmp_path: Path) -> None:
    """Random branches: run as in training, on a picture with zeros around it, against the convolution that is read."""
    state = published(built("span", {"channels": 4, "blocks": 2}, "direct_shuffle", {"scale": 2}), SPAN)
    name, c, wide = "block_1.c2_r", 4, 8
    shapes = {"sk": (c, c, 1), "conv.0": (wide, c, 1), "conv.1": (wide, wide, 3), "conv.2": (c, wide, 1)}
    branches = {part: (torch.randn(o, i, k, k), torch.randn(o)) for part, (o, i, k) in shapes.items()}
    for part, (weight, bias) in branches.items():
        state |= {f"{name}.{part}.weight": weight, f"{name}.{part}.bias": bias}
    torch.save(state, tmp_path / "weights.pth")
    model: Any = compat.load(tmp_path / "weights.pth").model
    x = torch.randn(1, c, 7, 9)
    y = nn.functional.pad(x, (1, 1, 1, 1))
    for part in ("conv.0", "conv.1", "conv.2"):
        y = nn.functional.conv2d(y, *branches[part])
    expected = y + nn.functional.conv2d(x, *branches["sk"])
    torch.testing.assert_close(model.encoder.blocks[0].conv2(x), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_span_gives_colours_as_published(tmp_path: Path) -> None:
    """What its last convolution gives is RGB already; ours takes the mean and the range off, and puts them on again."""
    network: Any = built("span", {"channels": 4, "blocks": 2}, "direct_shuffle", {"scale": 2})
    torch.save({"params_ema": published(network, SPAN)}, tmp_path / "weights.pth")
    model: Any = compat.load(tmp_path / "weights.pth").model
    lr = torch.rand(1, 3, 6, 7)
    normal = (lr - model.mean) / model.std
    published_rgb = network.upsampler.upscale(network.encoder(normal), normal, 2)
    ours = model.upsampler.upscale(model.encoder(normal), normal, 2) * model.std + model.mean
    torch.testing.assert_close(ours, published_rgb, rtol=1e-4, atol=1e-4)
    assert float(model.std[0, 0, 0, 0]) == pytest.approx(1 / 255)


BRANCHES = ("conv1x1_3x3", "conv1x1_sbx", "conv1x1_sby", "conv1x1_lpl")
SOBEL = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
LAPLACE = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])
FILTERS = dict(zip(BRANCHES[1:], (SOBEL, SOBEL.T, LAPLACE), strict=True))


def edge_block(inputs: int, outputs: int, *, slopes: bool) -> dict[str, Tensor]:
    """A block as it is trained, all of its tensors random."""
    wide = 2 * outputs
    block = {"conv3x3.weight": torch.randn(outputs, inputs, 3, 3) / 9, "conv3x3.bias": torch.randn(outputs)}
    for name in BRANCHES:
        middle = wide if name == BRANCHES[0] else outputs
        block |= {f"{name}.k0": torch.randn(middle, inputs, 1, 1) / inputs, f"{name}.b0": torch.randn(middle)}
    block |= {"conv1x1_3x3.k1": torch.randn(outputs, wide, 3, 3) / 9 / wide, "conv1x1_3x3.b1": torch.randn(outputs)}
    for name, mask in FILTERS.items():
        block |= {
            f"{name}.scale": torch.randn(outputs, 1, 1, 1) / 9,
            f"{name}.bias": torch.randn(outputs),
            f"{name}.mask": mask.expand(outputs, 1, 3, 3).clone(),
        }
    return block | ({"act.weight": torch.rand(outputs)} if slopes else {})


def run_edge_block(block: Mapping[str, Tensor], x: Tensor, identity: bool) -> Tensor:
    """All branches, as in training: what the 1×1 convolutions give is padded with their biases."""
    y = nn.functional.conv2d(x, block["conv3x3.weight"], block["conv3x3.bias"], padding=1)
    for name in BRANCHES:
        bias = block[f"{name}.b0"].view(1, -1, 1, 1)
        inner = nn.functional.pad(nn.functional.conv2d(x, block[f"{name}.k0"]), (1, 1, 1, 1)) + bias
        if name == BRANCHES[0]:
            y = y + nn.functional.conv2d(inner, block[f"{name}.k1"], block[f"{name}.b1"])
        else:
            kernel = block[f"{name}.scale"] * block[f"{name}.mask"]
            y = y + nn.functional.conv2d(inner, kernel, block[f"{name}.bias"], groups=len(kernel))
    y = y + x if identity and x.shape == y.shape else y
    return nn.functional.prelu(y, block["act.weight"]) if "act.weight" in block else y


@torch.no_grad()
@pytest.mark.parametrize(
    ("colours", "identity", "names"),
    [
        (1, False, [f"backbone.{n}" for n in range(5)]),
        (3, True, [f"backbone.{n}" for n in range(12)]),
        (1, True, ["head.0", "body.0", "body.1", "tail.0"]),
    ],
)
def test_ecbsr_with_its_branches_is_ecbsr_as_it_runs(
    colours: int, identity: bool, names: list[str], tmp_path: Path
) -> None:
    torch.manual_seed(5)
    channels, scale, last = 8, 2, len(names) - 1
    blocks = [
        edge_block(channels if n else colours, channels if n < last else colours * scale**2, slopes=n < last)
        for n in range(len(names))
    ]
    state = {f"{name}.{key}": value for name, block in zip(names, blocks, strict=True) for key, value in block.items()}
    torch.save(state, tmp_path / "weights.pth")
    model: Any = compat.load(
        tmp_path / "weights.pth", value_range=1.0, **({"identity": True} if identity else {})
    ).model
    assert (model.encoder.channels, len(model.encoder.layers), model.limits.scales) == (channels, last - 1, (2,))
    lr = torch.rand(1, 3, 7, 9)
    normal = (lr - model.mean) / model.std
    y = x = luma(normal) if colours == 1 else normal
    if colours == 1:  # Y of YCbCr
        torch.testing.assert_close(x, 16 / 255 + luma(lr) * 219 / 255)
    for block in blocks:
        y = run_edge_block(block, y, identity)
    expected = nn.functional.pixel_shuffle(y + x.repeat_interleave(scale**2, 1), scale)
    ours = model.upsampler.upscale(model.encoder(normal), normal, scale)
    seen = luma(ours) if colours == 1 else ours
    assert float((seen - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_the_activation_of_ecbsr_is_read_or_assumed(tmp_path: Path) -> None:
    encoder, sizes, tail, tail_sizes, rows, _ = PAIRS["ecbsr-luma"]
    torch.save(published(built(encoder, sizes, tail, tail_sizes), rows), tmp_path / "weights.pth")
    described = compat.describe(tmp_path / "weights.pth")
    assert described.assumed == {"activation": "relu", "value_range": 255.0}
    soft: Any = compat.load(tmp_path / "weights.pth", activation="softplus").model
    assert isinstance(soft.encoder.activations[0], nn.Softplus)
