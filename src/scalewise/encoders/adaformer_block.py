"""AdaFormer's blocks: attention inside windows, attention through prototypes, and the transformer block of both.

Luo et al., AAAI 2024; what the network makes of them is in `adaformer.py`. Tokens lie in windows: (b, gy, gx, n, c).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Size
from scalewise.layers import LocalAttention, Mlp, split_heads
from scalewise.routing.token import Kept


class PrototypeAttention(nn.Module):
    """Eq. 10-13: a few learned prototypes attend to the tokens of an image, then the tokens to the prototypes."""

    def __init__(self, channels: int, heads: int, prototypes: int) -> None:
        super().__init__()
        self.heads = heads
        self.prototypes = nn.Parameter(torch.empty(prototypes, channels))
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)  # its queries for tokens and for prototypes
        self.kv = nn.Linear(channels, 2 * channels)
        nn.init.trunc_normal_(self.prototypes, std=0.02)

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """u (b, n, c) → (b, n, c); prototypes do not see tokens where `mask` (b, n) is False."""
        channels = u.shape[-1]
        asked = F.linear(self.norm(self.prototypes), self.qkv.weight[:channels], self.qkv.bias[:channels])
        asked = asked.unflatten(-1, (self.heads, -1)).transpose(0, 1)  # (heads, m, d)
        q, k, v = split_heads(self.qkv(u), 3, self.heads)  # (b, heads, n, d) each
        scale = q.shape[-1] ** -0.5
        scores = (asked * scale).to(k.dtype) @ k.transpose(-2, -1)  # (b, heads, m, n)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], torch.finfo(scores.dtype).min)
        seen = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)  # (b, m, c)
        k, v = split_heads(self.kv(seen), 2, self.heads)
        return (((q * scale) @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).flatten(2)

    def of_images(self, u: Tensor, counts: list[int]) -> Tensor:
        """u (tokens, c), the tokens of one image after those of another, `counts` of each → (tokens, c)."""
        if not len(u):
            return u
        if len(set(counts)) == 1:
            return self(u.unflatten(0, (len(counts), -1))).flatten(0, 1)
        return torch.cat([self(part.unsqueeze(0))[0] for part in u.split(counts) if len(part)])

    def of_kept(self, u: Tensor, mask: Tensor) -> Tensor:
        """u (b, gy, gx, n, c) → (tokens, c) for the tokens where `mask` (b, gy, gx, n) is True, in order."""
        return self.of_images(take(u, mask), mask.flatten(1).sum(1).tolist())

    def macs(self, tokens: int) -> Macs:
        """MACs of one image with so many tokens kept."""
        if not tokens:
            return Macs()
        channels, m = self.qkv.in_features, len(self.prototypes)
        once = cost.linear(channels, channels, m) + cost.linear(channels, 2 * channels, m)
        return once + self.token_macs() * tokens

    def token_macs(self) -> Macs:
        channels, m = self.qkv.in_features, len(self.prototypes)
        return cost.linear(channels, 3 * channels, 1) + cost.attention(1, m, channels) * 2


def take(x: Tensor, mask: Tensor) -> Tensor:
    """The entries (k, …) of x (mask's axes, …) where the mask is True, in order."""
    flat = x.flatten(0, mask.dim() - 1)
    return flat if bool(mask.all()) else flat.index_select(0, mask.flatten().nonzero().squeeze(1))


def put(x: Tensor, mask: Tensor, entries: Tensor) -> Tensor:
    """A copy of x with other `entries` (k, …) where the mask is True; undoes `take`."""
    if len(entries) == mask.numel():
        return entries.view_as(x)
    places = mask.flatten().nonzero().squeeze(1)
    return x.flatten(0, mask.dim() - 1).index_copy(0, places, entries.to(x.dtype)).view_as(x)


class Block(nn.Module):
    """TSAB on tokens (b, gy, gx, n, c) in windows: x + local + global of LN(x), then x + MLP(LN(x)); without
    `global_attention` x + local, as in the paper's Table 3."""

    prototype_type = PrototypeAttention

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int,
        prototypes: int,
        hidden: int,
        *,
        deep: bool,
        global_attention: bool = True,
    ) -> None:
        super().__init__()
        self.deep = deep
        self.norm1 = nn.LayerNorm(channels)
        self.local = LocalAttention(channels, heads, window)
        self.prototype = self.prototype_type(channels, heads, prototypes) if global_attention else None
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, hidden)

    def forward(self, x: Tensor, kept: Kept) -> Tensor:
        if self.deep:
            return self._masked_windows(x, kept.windows) if self.training else self._kept_windows(x, kept.windows)
        u = self.norm1(x)
        x = x + (self._masked(u, kept) if self.training else self._gathered(u, kept))
        return x + self.mlp(self.norm2(x))

    def _masked(self, u: Tensor, kept: Kept) -> Tensor:
        """The definition: compute all, then select; what has left keeps its input, from either branch."""
        local = torch.where(kept.windows[..., None, None], self.local(u), u)
        if self.prototype is None:
            return local
        seen = self.prototype(u.flatten(1, 3), kept.tokens.flatten(1)).view_as(u)
        return local + torch.where(kept.tokens.unsqueeze(-1), seen, u)

    def _gathered(self, u: Tensor, kept: Kept) -> Tensor:
        """The same from only what is kept."""
        local = put(u, kept.windows, self.local(take(u, kept.windows)))
        if self.prototype is None:
            return local
        return local + put(u, kept.tokens, self.prototype.of_kept(u, kept.tokens))

    def _masked_windows(self, x: Tensor, windows: Tensor) -> Tensor:
        u = self.norm1(x)
        mask = windows.unsqueeze(-1).expand(x.shape[:-1])
        y = x + self.local(u)
        if self.prototype is not None:
            y = y + self.prototype(u.flatten(1, 3), mask.flatten(1)).view_as(u)
        return torch.where(mask.unsqueeze(-1), y + self.mlp(self.norm2(y)), x)

    def _kept_windows(self, x: Tensor, windows: Tensor) -> Tensor:
        live = take(x, windows)  # (k, n, c)
        u = self.norm1(live)
        y = live + self.local(u)
        if self.prototype is not None:
            counts = [count * u.shape[1] for count in windows.flatten(1).sum(1).tolist()]
            y = y + self.prototype.of_images(u.flatten(0, 1), counts).view_as(u)
        return put(x, windows, y + self.mlp(self.norm2(y)))

    def token_macs(self) -> Macs:
        """What a kept token costs in the global branch."""
        return Macs() if self.prototype is None else self.prototype.token_macs()

    def macs(self, grid: Size, windows: int, tokens: int) -> Macs:
        """MACs of one image with so many windows and tokens kept."""
        attention = self.local.macs(windows)
        if self.prototype is not None:
            attention = attention + self.prototype.macs(tokens)
        n = self.local.window[0] * self.local.window[1]
        return attention + self.mlp.macs((windows if self.deep else grid[0] * grid[1]) * n)
