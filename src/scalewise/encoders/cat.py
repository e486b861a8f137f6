"""CAT: cross aggregation transformer. Chen et al., NeurIPS 2022, arXiv:2211.13654.

Attention in rectangular windows, half of the heads lying and half standing (Rwin-SA), shifted along both axes in every
second block (axial shift); the values, filtered by a depthwise 3×3 convolution, are added (locality complementary
module). `CrossAggregation` is all of these; `PositionBias` the dynamic position bias of
CrossFormer (Wang et al., ICLR 2022). Defaults are CAT-R-2: windows 4 × 16 and 16 × 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.encoders.transformer_trunk import ResidualGroup, TransformerTrunk, drop_path_rates
from scalewise.errors import InvalidRequest
from scalewise.geometry.grid import Size
from scalewise.layers import (
    TransformerBlock,
    merge,
    partition,
    relative_offsets,
    relative_position_index,
    shift_mask,
    window_attention,
    window_context,
)


class PositionBias(nn.Module):
    """Offsets between two pixels of a window (in pixels, not normalised) → bias per head, by a small MLP."""

    def __init__(self, width: int, heads: int, window: Size) -> None:
        super().__init__()
        self.window = window
        self.first = nn.Linear(2, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, out)) for out in (width, width, heads)
        )

    def forward(self) -> Tensor:
        """(heads, n, n)."""
        x = self.first(relative_offsets(self.window).to(self.first.weight))
        for layer in self.layers:
            x = layer(x)
        index = relative_position_index(self.window).to(x.device)
        return x[index].permute(2, 0, 1)

    def macs(self) -> Macs:
        rows = (2 * self.window[0] - 1) * (2 * self.window[1] - 1)
        linears = [module for module in self.modules() if isinstance(module, nn.Linear)]
        return sum((cost.linear(one.in_features, one.out_features, rows) for one in linears), Macs())


class CrossAggregation(nn.Module):
    """Rwin-SA: the first half of the channels attends in lying windows `split`, the second in standing ones."""

    def __init__(self, channels: int, heads: int, split: Size, shifted: bool) -> None:
        super().__init__()
        if heads % 2 or channels % heads:
            raise InvalidRequest(f"{channels} channels, {heads} heads: heads must be even and divide the channels")
        self.heads = heads // 2  # heads of each branch
        self.windows = ((split[0], split[1]), (split[1], split[0]))
        self.shifts = tuple((h // 2, w // 2) if shifted else (0, 0) for h, w in self.windows)
        self.qkv = nn.Linear(channels, 3 * channels)
        # the published width: (channels of a branch / 4) / 4, rounded down twice
        self.biases = nn.ModuleList(PositionBias(channels // 2 // 4 // 4, self.heads, one) for one in self.windows)
        self.conv_v = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, w, c) → (b, h, w, c)."""
        qkv = self.qkv(x).unflatten(-1, (3, 2, -1))  # (b, h, w, q k v, branch, c / 2)
        branches = zip(qkv.unbind(-2), self.windows, self.shifts, self.biases, strict=True)
        out = [self._attend(half.flatten(3), window, shift, bias()) for half, window, shift, bias in branches]
        v = qkv[..., 2, :, :].flatten(3).permute(0, 3, 1, 2)
        return self.proj(torch.cat(out, -1) + self.conv_v(v).permute(0, 2, 3, 1))

    def _attend(self, qkv: Tensor, window: Size, shift: Size, bias: Tensor) -> Tensor:
        """One branch: (b, h, w, 3·c/2) → (b, h, w, c/2)."""
        if any(shift):
            qkv = qkv.roll((-shift[0], -shift[1]), (1, 2))
        windows = partition(qkv, window).unflatten(-1, (3, self.heads, -1))
        q, k, v = windows.permute(4, 0, 1, 2, 5, 3, 6)  # (b, rows, columns, heads, n, d) each
        out = window_attention(q, k, v, bias, shift_mask(window, shift) if any(shift) else None)
        out = merge(out.transpose(3, 4).flatten(4), window)
        return out.roll(shift, (1, 2)) if any(shift) else out

    def macs(self, height: int, width: int) -> Macs:
        pixels, channels, n = height * width, self.proj.in_features, math.prod(self.windows[0])
        total = cost.linear(channels, 4 * channels, pixels) + cost.attention(n, n, channels, batch=pixels // n)
        total += cost.conv2d(channels, channels, 3, height, width, groups=channels)
        return sum((bias.macs() for bias in self.biases), total)  # type: ignore[operator]


class CAT(TransformerTrunk):
    """CAT-R's trunk. `features`: channels of the convolution + LeakyReLU after it, or None for the trunk itself.
    `bottleneck`: three convolutions after each group instead of one ("3conv").

    `splits` is (rows, columns) of the lying windows, per group. Inputs have the mean subtracted; sides are multiples of
    every window side. A tile with `context` pixels around it gives what the whole image gives.
    """

    def __init__(
        self,
        embed: int = 180,
        depths: tuple[int, ...] = (6,) * 6,
        *,
        heads: tuple[int, ...] = (6,) * 6,
        splits: tuple[Size, ...] = ((4, 16),) * 6,
        mlp_ratio: float = 2.0,
        features: int | None = 64,
        bottleneck: bool = False,
        drop_path: float = 0.1,
    ) -> None:
        if not len(depths) == len(heads) == len(splits):
            raise InvalidRequest(
                f"depths {depths}, heads {heads} and splits {splits} differ in length; give one of each per group"
            )
        hidden = round(embed * mlp_ratio)
        groups = (
            ResidualGroup(
                embed,
                (
                    TransformerBlock(embed, CrossAggregation(embed, head, split, bool(i % 2)), hidden, rate)
                    for i, rate in enumerate(rates)
                ),
                bottleneck,
            )
            for head, split, rates in zip(heads, splits, drop_path_rates(depths, drop_path), strict=True)
        )
        super().__init__(embed, groups, features, bottleneck)
        self.grid = math.lcm(*(side for split in splits for side in split))
        self.context = _context(depths, splits, end=2 if bottleneck else 1, features=bool(features))


def _context(depths: tuple[int, ...], splits: tuple[Size, ...], *, end: int, features: bool) -> int:
    """Steps from the output, as SwinIR's; both axes see both window sides, and a block has a 3×3 convolution too."""
    steps: list[tuple[int, tuple[tuple[int, int], ...]]] = [(end + features, ())]
    for depth, split in zip(reversed(depths), reversed(splits), strict=True):
        steps.append((end, ()))
        steps += [(1, tuple((side, side // 2 if i % 2 else 0) for side in split)) for i in reversed(range(depth))]
    return window_context([*steps, (1, ())])
