"""The tables of published encoders: their keys → ours. Those of upsamplers and tails are in `tail_tables.py`."""

from __future__ import annotations

from scalewise.compat.adapt import (
    cat_splits,
    disp_blocks,
    from_zero,
    fsrcnn_body,
    in_order,
    span_blocks,
    with_biases,
)
from scalewise.compat.arguments import (
    carn_arguments,
    cat_arguments,
    disp_arguments,
    edsr_arguments,
    elan_arguments,
    etds_arguments,
    fsrcnn_arguments,
    nlsa_arguments,
    rcan_arguments,
    rcan_scaled_arguments,
    rdn_arguments,
    rlfn_arguments,
    span_arguments,
    srresnet_arguments,
    swinir_arguments,
)
from scalewise.compat.translate import Layout

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
    adapt=with_biases,
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
    with_biases,
)
FSRCNN_KEYS = Layout(
    "fsrcnn",
    "FSRCNN",
    (
        (r"head_conv\.", "extract."),
        (r"body_conv\.(\d+)\.(?=\d)", r"body.<\1>."),
        (r"body_conv\.(\d+)(?=\.(?:weight|bias)$)", r"body.<\1>"),
    ),
    fsrcnn_arguments,
    adapt=fsrcnn_body,
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

FUSED = r"(?=\.(?:eval_conv|sk|conv\.\d)\.)"  # convolutions that have branches in training: `fused`
DISP_KEYS = Layout(
    "disp",
    "DISP",
    (
        (rf"blocks\.(\d+)\.c1_r{FUSED}", r"blocks.\1.first"),
        (rf"blocks\.(\d+)\.c2_r{FUSED}", r"blocks.\1.second"),
        (rf"blocks\.(\d+)\._extern_conv_block\.(\d+){FUSED}", r"blocks.\1.extra.\2"),
        (rf"blocks\.(\d+)\.c3_r{FUSED}", r"blocks.\1.last"),
        (rf"conv_1{FUSED}", "head"),
        (r"conv_2(?=\.(?:weight|bias)$)", "mix"),
    ),
    disp_arguments,
    adapt=disp_blocks,
)
ETDS_KEYS = Layout(
    "etds",
    "ETDS",
    ((r"backbone_convs\.(\d+)(?=\.)", r"layers.\1"), (r"conv_first(?=\.)", "head")),
    etds_arguments,
    marks=2,
)
SPAN_KEYS = Layout(
    "span",
    "SPAN",
    (
        *((rf"block_(\d+)\.c{i}_r{FUSED}", rf"blocks.<\1>.conv{i}") for i in (1, 2, 3)),
        (rf"conv_1{FUSED}", "head"),
        (rf"conv_2{FUSED}", "body_end"),
        (r"conv_cat(?=\.)", "mix"),
    ),
    span_arguments,
    adapt=span_blocks,
    marks=6,
)
RLFN_KEYS = Layout(
    "rlfn",
    "RLFN",
    (
        (r"block_(\d+)\.esa(?=\.)", r"blocks.<\1>.attention"),
        *((rf"block_(\d+)\.c{i}_r(?=\.)", rf"blocks.<\1>.conv{i}") for i in (1, 2, 3)),
        (r"block_(\d+)\.c5(?=\.)", r"blocks.<\1>.mix"),
        (r"conv_1(?=\.)", "head"),
        (r"conv_2(?=\.)", "body_end"),
    ),
    rlfn_arguments,
    adapt=from_zero,
    marks=7,
)
