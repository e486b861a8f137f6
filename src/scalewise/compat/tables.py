"""The tables of published networks: their keys → ours, part by part."""

from __future__ import annotations

from scalewise.compat.adapt import (
    as_linear,
    cat_splits,
    ciaosr_scales,
    from_zero,
    in_order,
    lte_rows,
    metasr_columns,
    single_cascade,
)
from scalewise.compat.arguments import (
    carn_arguments,
    cascade_arguments,
    cat_arguments,
    ciaosr_arguments,
    deconvolution_arguments,
    direct_arguments,
    edsr_arguments,
    elan_arguments,
    fsrcnn_arguments,
    itsrn_arguments,
    liif_arguments,
    lte_arguments,
    metasr_arguments,
    nlsa_arguments,
    rcan_arguments,
    rcan_scaled_arguments,
    rdn_arguments,
    residual_arguments,
    resnet_tail_arguments,
    shuffle_arguments,
    srresnet_arguments,
    swinir_arguments,
)
from scalewise.compat.translate import Layout, Tensors, count

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
