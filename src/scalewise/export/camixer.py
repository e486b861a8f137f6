"""CAMixerSR (`encoders/camixer.py`) with attention in all of its windows: one sequence of layers that decides nothing.

What full budget computes, for files that other programs run (`onnx_file.py`). Moved pixels are read by `grid_sample`,
which those files have a name for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.encoders.camixer import CAMixer
from scalewise.encoders.camixer_block import Block, Mixer, attend_windows
from scalewise.geometry.grid import Frame
from scalewise.layers import merge, partition
from scalewise.routing.window import WINDOW, window_coordinates


class AllHard(nn.Module):
    """lr (1, 3, h, w), sides multiples of 16 → features (1, channels, h, w), as `trunk` at a share of 1."""

    def __init__(self, trunk: CAMixer) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, lr: Tensor) -> Tensor:
        trunk = self.trunk
        shallow = trunk.head(lr)
        condition = trunk.condition(shallow, Frame((lr.shape[-2], lr.shape[-1])))
        x = trunk.enter(shallow.permute(0, 2, 3, 1))  # (1, h, w, c) inside
        for group in trunk.groups:
            start = x
            for block in group.blocks:  # type: ignore[union-attr]
                x = run(block, x, condition)
            x = start + group.tail(x)  # type: ignore[operator]
        return shallow + trunk.leave(x.permute(0, 3, 1, 2), condition)


def run(block: Block, x: Tensor, condition: Tensor) -> Tensor:
    """`Block.forward` with every window hard."""
    x = block.norm1(x + mix(block.mixer, x, condition))
    return block.norm2(x + block.ffn(x))


def mix(mixer: Mixer, x: Tensor, condition: Tensor) -> Tensor:
    """`Mixer.forward` with every window hard, for one that is not shifted."""
    v = mixer.value(x)
    hints = mixer.predictor(v, condition, window_coordinates(0), 0)
    k = x + moved(x, mixer.predictor.offsets(hints.features))
    q, k, v = (windows(t) for t in (mixer.query(x), mixer.key(k), v))
    hard = attend_windows(q, k, v, None)
    rows, columns = x.shape[1] // WINDOW, x.shape[2] // WINDOW
    return mixer.finish(merge(hard.unflatten(0, (1, rows, columns)), (WINDOW, WINDOW)), hints.channels)


def windows(x: Tensor) -> Tensor:
    """(1, h, w, c) → (windows, 256, c)."""
    return partition(x, (WINDOW, WINDOW)).flatten(0, 2)


def moved(x: Tensor, offsets: Tensor) -> Tensor:
    """`Mixer.warp`: x (1, h, w, c) at every pixel's own place plus offsets (1, h, w, 2), columns and rows."""
    height, width = x.shape[1:3]
    rows, columns = (torch.arange(n, device=x.device, dtype=x.dtype) for n in (height, width))
    y = 2 * (offsets[..., 1] + rows.view(-1, 1)) / (height - 1) - 1  # -1 and 1: centres of the first and last pixel
    right = 2 * (offsets[..., 0] + columns) / (width - 1) - 1
    place = torch.stack((right, y), -1)
    seen = F.grid_sample(x.permute(0, 3, 1, 2), place, mode="bilinear", padding_mode="border", align_corners=True)
    return seen.permute(0, 2, 3, 1)
