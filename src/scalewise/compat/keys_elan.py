"""Keys of official ELAN state dicts."""

from __future__ import annotations

import torch
from torch import Tensor

from scalewise.compat.translation import State, Table, Translation, count, drop_checked, rename, require
from scalewise.encoders.elan import LOOKS

LOCAL = r"body\.(\d+)\.modules_lfe\.lfe_(\d+)"
ATTENTION = r"body\.(\d+)\.modules_gmsa\.gmsa_(\d+)"
NORM = "weight|bias|running_mean|running_var|num_batches_tracked"
TABLE: Table = (
    (r"head\.0\.(weight|bias)", r"head.\1"),
    (rf"{LOCAL}\.conv0\.shift_conv\.conv1x1\.(weight|bias)", r"body.\1.local.\2.conv1.conv.\3"),
    (rf"{LOCAL}\.conv1\.shift_conv\.conv1x1\.(weight|bias)", r"body.\1.local.\2.conv2.conv.\3"),
    (rf"{ATTENTION}\.project_inp\.([01])\.({NORM})", r"body.\1.attention.\2.project_in.\3.\4"),
    (rf"{ATTENTION}\.project_out\.(weight|bias)", r"body.\1.attention.\2.project_out.\3"),
)


def elan_from_official(state: State, *, windows: tuple[int, ...] = (4, 8, 16)) -> Translation:
    """Official keys (no prefix) → ELAN(**arguments). Shapes do not tell the windows: the published ones are assumed.

    The fixed shift kernels are checked and dropped; `rest` keeps sub_mean, add_mean and tail. Raises CheckpointError.
    """
    name = "ELAN"
    channels = len(require(state, "head.0.weight", name, 4))
    blocks = count(state, r"body\.(\d+)\.")
    units = count(state, r"body\.0\.modules_lfe\.lfe_(\d+)\.")
    wide = len(require(state, "body.0.modules_lfe.lfe_0.conv0.shift_conv.conv1x1.weight", name, 4))
    left = dict(state)
    for b in range(blocks):
        for u in range(units):
            unit = f"body.{b}.modules_lfe.lfe_{u}"
            drop_checked(left, f"{unit}.conv0.shift_conv.weight", shift_kernel(channels))
            drop_checked(left, f"{unit}.conv1.shift_conv.weight", shift_kernel(wide))
    ours, rest = rename(left, TABLE)
    arguments = {
        "channels": channels,
        "depth": blocks * units,
        "windows": windows,
        "share": units - 1,
        "expand": wide // channels,
    }
    return Translation(arguments, ours, rest, assumed={"windows": windows})


def shift_kernel(channels: int) -> Tensor:
    """(channels, 1, 3, 3): the fixed depthwise kernel that official files store for a shift-convolution."""
    kernel = torch.zeros(channels, 1, 3, 3)
    fifth = channels // 5
    for i, (y, x) in enumerate(LOOKS):
        kernel[i * fifth : (i + 1) * fifth, 0, 1 + y, 1 + x] = 1
    kernel[4 * fifth :, 0, 1, 1] = 1
    return kernel
