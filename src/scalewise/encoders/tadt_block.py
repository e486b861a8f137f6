"""TADT's blocks: a branch of attention for each window size and one for 48-pixel windows; the slice-able projection.

Xu et al., ECAI 2024; the network is in `tadt.py`. `Block` is MSTB (Fig. 3b; Eq. 1, 2), `Group` MSTG.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.errors import InvalidRequest
from scalewise.geometry.grid import Size
from scalewise.layers import LocalAttention, Mlp, conv3, merge, partition, size_table, split_heads, window_attention

Active = tuple[bool, ...]  # which branches of a group run
Reduction = Literal["max", "average", "random"]  # of the keys and values of global attention; the paper's Table 8


@size_table
def pooled_position_index(window: int, pooled: int) -> Tensor:
    """(window², pooled²) int64: row of the bias table for pixel i of a window and its pooled cell j."""
    step = window // pooled
    pixels, cells = torch.arange(window), torch.arange(pooled) * step
    offset = pixels.unsqueeze(1) - cells + window - step  # (window, pooled), 0 … 2·window - step - 1
    rows, columns = offset.view(window, 1, pooled, 1), offset.view(1, window, 1, pooled)
    return (rows * (2 * window - step) + columns).flatten(2, 3).flatten(0, 1)


class GlobalAttention(nn.Module):
    """GSA: all pixels of a large window attend to its `pooled`² maxima of keys and values; to their averages, or to
    random sums of all pixels, with another `reduction`."""

    matrix: Tensor

    def __init__(self, channels: int, heads: int, window: int, pooled: int, reduction: Reduction = "max") -> None:
        super().__init__()
        if reduction not in get_args(Reduction):
            raise InvalidRequest(f"reduction is {reduction!r}: allowed are {', '.join(get_args(Reduction))}")
        self.reduction = reduction
        if reduction == "random":  # drawn once, the same for all blocks and never trained
            drawn = torch.randn(pooled**2, window**2, generator=torch.Generator().manual_seed(0), device="cpu")
            self.register_buffer("matrix", (drawn / window).to(torch.get_default_device()))
        self.heads, self.window, self.pooled = heads, (window, window), pooled
        self.bias_table = nn.Parameter(torch.empty((2 * window - window // pooled) ** 2, heads))
        self.qkv = nn.Linear(channels, 3 * channels)
        nn.init.trunc_normal_(self.bias_table, std=0.02)

    def forward(self, u: Tensor) -> Tensor:
        """(…, n, c) → (…, n, c), windows of n pixels."""
        q, k, v = split_heads(self.qkv(u), 3, self.heads)
        bias = self.bias_table[pooled_position_index(self.window[0], self.pooled).to(u.device)].permute(2, 0, 1)
        return window_attention(q, self._pool(k), self._pool(v), bias).transpose(-3, -2).flatten(-2)

    def _pool(self, x: Tensor) -> Tensor:
        """(…, n, d) → (…, pooled², d)."""
        if self.reduction == "random":
            return self.matrix.to(x) @ x
        step = self.window[0] // self.pooled
        cells = x.unflatten(-2, (self.pooled, step, self.pooled, step))
        return (cells.mean((-4, -2)) if self.reduction == "average" else cells.amax((-4, -2))).flatten(-3, -2)

    def macs(self, windows: int) -> Macs:
        channels, n = self.qkv.in_features, self.window[0] * self.window[1]
        reduced = cost.matmul(self.pooled**2, n, 2 * channels, windows) if self.reduction == "random" else Macs()
        return (
            cost.linear(channels, 3 * channels, windows * n)
            + cost.attention(n, self.pooled**2, channels, windows)
            + reduced
        )


class Block(nn.Module):
    """MSTB: x + projection of the branches of LN(x), then x + MLP(LN(x)), on (b, h, w, c).

    Every branch has an equal part of the channels; one that does not run contributes nothing (Eq. 1). Without
    `global_attention` the last part goes past the attention.
    """

    def __init__(
        self,
        channels: int,
        windows: Sequence[int],
        *,
        global_window: int,
        pooled: int,
        heads: int,
        hidden: int,
        global_attention: bool = True,
        reduction: Reduction = "max",
    ) -> None:
        super().__init__()
        self.width = width = channels // (len(windows) + 1)
        self.norm1 = nn.LayerNorm(channels)
        local = (LocalAttention(width, heads, window) for window in windows)
        self.branches = nn.ModuleList(local)
        if global_attention:
            self.branches.append(GlobalAttention(width, heads, global_window, pooled, reduction))
        self.project = nn.Linear(width * len(self.branches), channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, hidden)

    def forward(self, x: Tensor, active: Active | None = None, weight: Tensor | None = None) -> Tensor:
        """`active` branches alone run, all by default; `weight` (b, branches) multiplies the outcome of each."""
        active = active or (True,) * len(self.branches)
        outcomes = []
        if any(active):
            parts = self.norm1(x).unflatten(-1, (-1, self.width)).unbind(-2)
            for j in (j for j, runs in enumerate(active) if runs):
                branch, window = self.branches[j], self.branches[j].window
                out = merge(branch(partition(parts[j], window)), window)  # type: ignore[arg-type]
                outcomes.append(out if weight is None else out * weight[:, j].view(-1, 1, 1, 1))
        x = x + self.projected(outcomes, active)
        return x + self.mlp(self.norm2(x))

    def projected(self, outcomes: list[Tensor], active: Active) -> Tensor:
        """Eq. 2: the outcomes of active branches times their rows of the weights (columns, as torch keeps them)."""
        if all(active):
            return self.project(torch.cat(outcomes, -1))
        if not outcomes:
            return self.project.bias
        chosen = [j for j, runs in enumerate(active) if runs]
        weight = self.project.weight.unflatten(1, (len(active), -1))[:, chosen].flatten(1)
        return F.linear(torch.cat(outcomes, -1), weight, self.project.bias)

    def branch_macs(self, j: int, pixels: int) -> Macs:
        """A branch and its part of the projection; `pixels` is a multiple of its window."""
        branch = self.branches[j]
        width, n = self.project.in_features // len(self.branches), branch.window[0] * branch.window[1]  # type: ignore[index]
        return branch.macs(pixels // n) + cost.linear(width, self.project.out_features, pixels)  # type: ignore[operator]


class Group(nn.Module):
    """MSTG: two blocks that run the same branches, a convolution, and the input added, on (b, h, w, c)."""

    def __init__(self, channels: int, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.conv = conv3(channels, channels)

    def forward(self, x: Tensor, route: Tensor | None, cell: int) -> Tensor:
        """`route` (b, gy, gx, branches): one for the image if gy = gx = 1, else one for each `cell`; None: all on.

        In training mode all branches run and are multiplied by the route, which has a gradient; else those alone run
        that some unit needs, units of one route together. The numbers agree to rounding.
        """
        if route is None:
            y = self._run(x, None)
        elif route.shape[1:3] == (1, 1):
            y = self._routed(x, route.flatten(0, 2))
        else:
            cells = partition(x, (cell, cell))  # (b, gy, gx, pixels, c)
            y = self._routed(cells.flatten(0, 2).unflatten(1, (cell, cell)), route.flatten(0, 2))
            y = merge(y.flatten(1, 2).view_as(cells), (cell, cell))
        return x + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def _routed(self, x: Tensor, route: Tensor) -> Tensor:
        """x (units, h, w, c), route (units, branches)."""
        if self.training:
            return self._run(x, None, route.to(x))
        units: dict[Active, list[int]] = {}
        for unit, active in enumerate(route.bool().tolist()):
            units.setdefault(tuple(active), []).append(unit)
        if len(units) == 1:
            return self._run(x, next(iter(units)))
        y = torch.empty_like(x)
        for active, some in units.items():
            y[some] = self._run(x[some], active).to(y.dtype)
        return y

    def _run(self, x: Tensor, active: Active | None, weight: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            x = block(x, active, weight)
        return x

    def branch_macs(self, j: int, pixels: int) -> Macs:
        return sum((block.branch_macs(j, pixels) for block in self.blocks), Macs())  # type: ignore[operator]

    def always_macs(self, size: Size) -> Macs:
        """What runs without any branch too."""
        channels = self.conv.in_channels
        mlps = (block.mlp.macs(size[0] * size[1]) for block in self.blocks)  # type: ignore[union-attr, operator]
        return sum(mlps, cost.conv2d(channels, channels, 3, *size))


def check_sizes(channels: int, windows: Sequence[int], global_window: int, pooled: int, heads: int) -> None:
    """Raises InvalidRequest for sizes that do not fit each other."""
    branches = len(windows) + 1
    if channels % (branches * heads):
        raise InvalidRequest(
            f"{channels} channels cannot be split over {branches} branches of {heads} heads; choose a multiple of "
            f"{branches * heads}"
        )
    if global_window % pooled or any(global_window % window for window in windows):
        raise InvalidRequest(
            f"windows {tuple(windows)} and {pooled} pooled cells must divide the global window of {global_window}"
        )
