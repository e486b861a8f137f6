"""SwinIR: shifted-window transformer for image restoration. Liang et al., ICCVW 2021, arXiv:2108.10257.

Its trunk, without upsampler. The layout (Eq. 1-3: shallow and deep features, RSTBs) and the transformer layer are
CAT's too and live in `layers.py`; attention in windows, with a bias per relative position, is `WindowAttention`.

Published variants: classical, SwinIR(); as LTE's encoder (Lee & Jin, CVPR 2022), which is the classical network up to
its 64-channel convolution, SwinIR() too; as CiaoSR's encoder, SwinIR(features=None); lightweight,
SwinIR(60, depths=(6,) * 4, heads=(6,) * 4, features=None).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.encoders.transformer_trunk import ResidualGroup, TransformerTrunk, drop_path_rates
from scalewise.errors import InvalidRequest
from scalewise.layers import (
    TransformerBlock,
    mask_edges,
    merge,
    partition,
    ready_linear,
    relative_position_index,
    shift_mask,
    window_attention,
    window_context,
    working_dtype,
)

WINDOWS_AT_ONCE = 64  # attended on a CPU


class WindowAttention(nn.Module):
    """Multi-head attention inside windows; a learned bias per head and relative position."""

    def __init__(self, channels: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        if channels % heads:
            raise InvalidRequest(f"{channels} channels cannot be split over {heads} heads; choose a divisor")
        self.heads = heads
        self.window = (window, window)
        self.shift = (shift, shift)
        self.bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        if any(self.shift):
            x = x.roll((-self.shift[0], -self.shift[1]), (1, 2))
        if torch.is_grad_enabled():
            windows = partition(x, self.window)  # (b, rows, columns, n, c)
            qkv = self.qkv(windows).unflatten(-1, (3, self.heads, -1))
            q, k, v = qkv.permute(4, 0, 1, 2, 5, 3, 6)  # (b, rows, columns, heads, n, d) each
            mask = shift_mask(self.window, self.shift) if any(self.shift) else None
            out = window_attention(q, k, v, self._bias(), mask)
            x = merge(self.proj(out.transpose(3, 4).flatten(4)), self.window)
        else:
            x = self._quick(x)
        return x.roll(self.shift, (1, 2)) if any(self.shift) else x

    def _quick(self, x: Tensor) -> Tensor:
        """The same on the rolled image without gradients, some rows of windows at a time: on a CPU their scores stay in
        the cache."""
        dtype, channels = working_dtype(x), self.proj.in_features
        scale = torch.ones(3 * channels, 1, device=x.device)
        scale[:channels] = (channels // self.heads) ** -0.5  # 1/√d, in the weights of the queries
        qkv = ready_linear(self.qkv.weight * scale, self.qkv.bias * scale.squeeze(1), dtype)
        project = ready_linear(self.proj.weight, self.proj.bias, dtype)
        bias = self._bias().to(dtype).contiguous()
        side, rows, columns = self.window[0], x.shape[1] // self.window[0], x.shape[2] // self.window[1]
        step = max(1, WINDOWS_AT_ONCE // columns) if x.device.type == "cpu" else rows
        out = torch.empty(x.shape, dtype=dtype, device=x.device)
        for start in range(0, rows, step):
            strip = slice(start * side, (start + step) * side)
            # windows of all images together: contiguous (windows, heads, n, d), as batched products want them
            found = qkv(partition(x[:, strip], self.window)).unflatten(-1, (3, self.heads, -1))
            q, k, v = found.permute(4, 0, 1, 2, 5, 3, 6).contiguous()
            scores = (q @ k.transpose(-2, -1)).add_(bias)
            if any(self.shift):
                mask_edges(scores, shift_mask(self.window, self.shift), last_row=start + step >= rows)
            seen = (scores.softmax(-1) @ v).transpose(3, 4).flatten(4)
            out[:, strip] = merge(project(seen), self.window)
        return out

    def _bias(self) -> Tensor:
        index = relative_position_index(self.window).to(self.bias_table.device)
        return self.bias_table[index].permute(2, 0, 1)

    def macs(self, height: int, width: int) -> Macs:
        pixels, channels, n = height * width, self.proj.in_features, self.window[0] * self.window[1]
        linear = cost.linear(channels, 4 * channels, pixels)
        return linear + cost.attention(n, n, channels, batch=pixels // n)


class SwinIR(TransformerTrunk):
    """SwinIR's trunk. `features`: channels of the convolution + LeakyReLU after it, or None for the trunk itself.
    `bottleneck`: three convolutions after each group instead of one ("3conv").

    Inputs have the mean subtracted. Sides are multiples of the window; windows at the edge of the picture are masked
    there, so a tile with `context` pixels around it gives what the whole image gives.
    """

    def __init__(
        self,
        embed: int = 180,
        depths: tuple[int, ...] = (6,) * 6,
        *,
        heads: tuple[int, ...] = (6,) * 6,
        window: int = 8,
        mlp_ratio: float = 2.0,
        features: int | None = 64,
        bottleneck: bool = False,
        drop_path: float = 0.1,
    ) -> None:
        if len(depths) != len(heads):
            raise InvalidRequest(f"depths {depths} and heads {heads} differ in length; give one of each per group")
        hidden = round(embed * mlp_ratio)
        groups = (
            ResidualGroup(
                embed,
                (
                    TransformerBlock(embed, WindowAttention(embed, head, window, _shift(i, window)), hidden, rate)
                    for i, rate in enumerate(rates)
                ),
                bottleneck,
            )
            for head, rates in zip(heads, drop_path_rates(depths, drop_path), strict=True)
        )
        super().__init__(embed, groups, features, bottleneck)
        self.grid = window
        self.context = _context(depths, window, end=2 if bottleneck else 1, features=bool(features))


def _shift(block: int, window: int) -> int:
    return window // 2 if block % 2 else 0


def _context(depths: tuple[int, ...], window: int, *, end: int, features: bool) -> int:
    """Steps from the output: convolutions after the groups; per group its convolutions and blocks; `conv_first`.

    `end`: 3×3 convolutions after each group, and after all."""
    steps: list[tuple[int, tuple[tuple[int, int], ...]]] = [(end + features, ())]
    for depth in reversed(depths):
        steps.append((end, ()))
        steps += [(0, ((window, _shift(i, window)),)) for i in reversed(range(depth))]
    return window_context([*steps, (1, ())])
