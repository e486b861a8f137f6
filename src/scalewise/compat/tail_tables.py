"""The tables of published upsamplers and tails: their keys → ours."""

from __future__ import annotations

from scalewise.compat.adapt import (
    as_linear,
    ciaosr_scales,
    lte_rows,
    metasr_columns,
    single_cascade,
    span_colours,
)
from scalewise.compat.arguments import (
    cascade_arguments,
    ciaosr_arguments,
    deconvolution_arguments,
    direct_arguments,
    itsrn_arguments,
    liif_arguments,
    lte_arguments,
    metasr_arguments,
    rectified_arguments,
    residual_arguments,
    resnet_tail_arguments,
    shuffle_arguments,
)
from scalewise.compat.translate import Layout, Tensors, count

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
SPAN_TAIL = Layout(
    "direct_shuffle",
    "direct tail",
    ((r"upsampler\.0(?=\.)", "conv"), (r"no_norm$", "no_norm")),
    direct_arguments,
    adapt=span_colours,
)
DIRECT_UPSAMPLER = Layout("direct_shuffle", "direct tail", ((r"upsampler\.0(?=\.)", "conv"),), direct_arguments)
RECTIFIED = Layout(
    "rectified_shuffle",
    "rectified tail",
    ((r"conv_last(?=\.)", "conv"), (r"conv_clip(?=\.)", "clip")),
    rectified_arguments,
    marks=2,
)
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
    adapt=single_cascade,
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
