"""Keys of official CAT state dicts (CAT-R: block type "regular")."""

from __future__ import annotations

from torch import Tensor

from scalewise.compat.translation import (
    State,
    Table,
    Translation,
    check_window,
    count,
    drop_checked,
    drop_window_buffers,
    rename,
    require,
)
from scalewise.errors import CheckpointError
from scalewise.grid import Size
from scalewise.layers import relative_offsets

BLOCK = r"layers\.(\d+)\.blocks\.(\d+)"
BIAS = rf"{BLOCK}\.attns\.([01])\.pos"
TABLE: Table = (
    (r"(conv_first|norm|conv_after_body)\.(weight|bias)", r"\1.\2"),
    (r"before_RG\.1\.(weight|bias)", r"norm_first.\1"),
    (rf"{BLOCK}\.(qkv|proj)\.(weight|bias)", r"groups.\1.blocks.\2.attention.\3.\4"),
    (rf"{BLOCK}\.get_v\.(weight|bias)", r"groups.\1.blocks.\2.attention.conv_v.\3"),
    (rf"{BIAS}\.pos_proj\.(weight|bias)", r"groups.\1.blocks.\2.attention.biases.\3.first.\4"),
    *(
        (rf"{BIAS}\.pos{n}\.([02])\.(weight|bias)", rf"groups.\1.blocks.\2.attention.biases.\3.layers.{n - 1}.\4.\5")
        for n in (1, 2, 3)
    ),
    (rf"{BLOCK}\.(norm1|norm2|mlp\.fc1|mlp\.fc2)\.(weight|bias)", r"groups.\1.blocks.\2.\3.\4"),
    (r"layers\.(\d+)\.conv\.(weight|bias)", r"groups.\1.conv.\2"),
    (r"conv_before_upsample\.0\.(weight|bias)", r"conv_features.\1"),
)


def cat_from_official(state: State) -> Translation:
    """Official keys (no prefix) → CAT(**arguments). Buffers are checked and dropped; raises CheckpointError."""
    name = "CAT"
    if "layers.0.conv.0.weight" in state:
        raise CheckpointError("CAT with 3-convolution residuals is not supported")
    embed = len(require(state, "conv_first.weight", name, 4))
    depths = tuple(count(state, rf"layers\.{g}\.blocks\.(\d+)\.") for g in range(count(state, r"layers\.(\d+)\.")))
    hidden = len(require(state, "layers.0.blocks.0.mlp.fc1.weight", name, 2))
    tail = state.get("conv_before_upsample.0.weight")
    splits, heads = [], []
    left = dict(state)
    for g, depth in enumerate(depths):
        attention = f"layers.{g}.blocks.0.attns.0"
        split = _split(require(state, f"{attention}.rpe_biases", name, 2))
        splits.append(split)
        heads.append(2 * len(require(state, f"{attention}.pos.pos3.2.weight", name, 2)))
        for b in range(depth):
            for branch, window in enumerate((split, (split[1], split[0]))):
                block = f"layers.{g}.blocks.{b}"
                shift = (window[0] // 2, window[1] // 2) if b % 2 else (0, 0)
                index = f"{block}.attns.{branch}.relative_position_index"
                drop_window_buffers(left, index, f"{block}.attn_mask_{branch}", window, shift)
                drop_checked(left, f"{block}.attns.{branch}.rpe_biases", relative_offsets(window))
    ours, rest = rename(left, TABLE)
    arguments = {
        "embed": embed,
        "depths": depths,
        "heads": tuple(heads),
        "splits": tuple(splits),
        "mlp_ratio": hidden / embed,
        "features": None if tail is None else len(tail),
    }
    return Translation(arguments, ours, rest)


def _split(offsets: Tensor) -> Size:
    """The window of a table of offsets: the last row holds its largest offsets, one less than its sides."""
    rows, columns = (int(value) + 1 for value in offsets[-1].nan_to_num().tolist()[:2])
    if (2 * rows - 1) * (2 * columns - 1) != len(offsets):
        raise CheckpointError(f"not a CAT state dict: {len(offsets)} offsets belong to no {rows}x{columns} window")
    check_window((rows, columns))
    return rows, columns
