"""Keys of official SwinIR state dicts: SwinIR's own, LTE's encoder, and CiaoSR's (without conv_before_upsample)."""

from __future__ import annotations

import math

from torch import Tensor

from scalewise.compat.translation import (
    State,
    Table,
    Translation,
    check_window,
    count,
    drop_window_buffers,
    rename,
    require,
)
from scalewise.contracts import Scale
from scalewise.cost import Macs
from scalewise.encoders.swinir import SwinIR
from scalewise.errors import CheckpointError
from scalewise.grid import Size
from scalewise.model import pad_to_grid
from scalewise.route import Route

BLOCK = r"layers\.(\d+)\.residual_group\.blocks\.(\d+)"
TABLE: Table = (
    (r"(conv_first|norm|conv_after_body)\.(weight|bias)", r"\1.\2"),
    (r"patch_embed\.norm\.(weight|bias)", r"norm_first.\1"),
    (rf"{BLOCK}\.attn\.relative_position_bias_table", r"groups.\1.blocks.\2.attention.bias_table"),
    (rf"{BLOCK}\.attn\.(qkv|proj)\.(weight|bias)", r"groups.\1.blocks.\2.attention.\3.\4"),
    (rf"{BLOCK}\.(norm1|norm2|mlp\.fc1|mlp\.fc2)\.(weight|bias)", r"groups.\1.blocks.\2.\3.\4"),
    (r"layers\.(\d+)\.conv\.(weight|bias)", r"groups.\1.conv.\2"),
    (r"conv_before_upsample\.0\.(weight|bias)", r"conv_features.\1"),
)


def swinir_from_official(state: State) -> Translation:
    """Official keys (no prefix) → SwinIR(**arguments). Buffers are checked and dropped; raises CheckpointError."""
    name = "SwinIR"
    if "layers.0.conv.0.weight" in state or "absolute_pos_embed" in state:
        raise CheckpointError("SwinIR with 3-convolution residuals or absolute position embedding is not supported")
    embed = len(require(state, "conv_first.weight", name, 4))
    groups = count(state, r"layers\.(\d+)\.")
    depths = tuple(count(state, rf"layers\.{g}\.residual_group\.blocks\.(\d+)\.") for g in range(groups))
    first = "layers.{}.residual_group.blocks.0"
    tables = [
        require(state, f"{first.format(g)}.attn.relative_position_bias_table", name, 2) for g in range(max(groups, 1))
    ]
    offsets = len(tables[0])
    window = (math.isqrt(offsets) + 1) // 2
    if (2 * window - 1) ** 2 != offsets:
        raise CheckpointError(f"not a SwinIR state dict: {offsets} relative positions belong to no square window")
    check_window((window, window))
    hidden = len(require(state, f"{first.format(0)}.mlp.fc1.weight", name, 2))
    tail = state.get("conv_before_upsample.0.weight")
    left = dict(state)
    for g, depth in enumerate(depths):
        for b in range(depth):
            block = f"layers.{g}.residual_group.blocks.{b}"
            shift = window // 2 if b % 2 else 0
            index, mask = f"{block}.attn.relative_position_index", f"{block}.attn_mask"
            drop_window_buffers(left, index, mask, (window, window), (shift, shift))
    ours, rest = rename(left, TABLE)
    arguments = {
        "embed": embed,
        "depths": depths,
        "heads": tuple(table.shape[1] for table in tables),
        "window": window,
        "mlp_ratio": hidden / embed,
        "features": None if tail is None else len(tail),
    }
    return Translation(arguments, ours, rest)


class UncroppedSwinIR(SwinIR):
    """Quirk of LTE's encoder: it pads inside, mirrored, and leaves features larger than the picture."""

    def __init__(self, *args: object, **arguments: object) -> None:
        super().__init__(*args, **arguments)  # type: ignore[arg-type]
        self.window = self.grid
        self.grid = 1

    def forward(self, lr: Tensor) -> Tensor:
        return super().forward(pad_to_grid(lr, self.window))

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        height, width = (-(-side // self.window) * self.window for side in size)
        return super().macs((height, width), scale, route)
