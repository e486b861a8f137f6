"""The blocks of CAMixerSR (`camixer.py`): Mixer (Algorithm 1) and gated convolution. Wang et al., CVPR 2024,
arXiv:2402.19289.

A `Mixer` asks its predictor (`routing/window.py`), attends in the hard windows, weighs the pixels of the simple ones,
and runs one convolution over both. Published weights want what the code does, not what the paper prints: queries from
x, keys from x + warped x, no 1/√d. `forward` is the definition, everything computed and then selected; `quick` computes
what is kept, without gradients, and gives the same numbers to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Size
from scalewise.layers import merge, partition, product, shift_mask, size_table
from scalewise.routing.window import AREA, EPS, WINDOW, Predictor, window_coordinates, window_pixels

WINDOWS_AT_ONCE = 16  # attended in bf16 on a CPU: scores of 2 MB

Select = Callable[[Tensor], Tensor]  # logits (b, n, 2) → mask (b, n) of hard windows


@dataclass(frozen=True)
class Mixed:
    """Tokens (b, h, w, c), and which windows were hard: `mask` (b, n), the predictor's `logits` (b, n, 2)."""

    tokens: Tensor
    mask: Tensor
    logits: Tensor


def sampled(x: Tensor, rows: Tensor, columns: Tensor, size: Size, image: Tensor, own: Tensor | None) -> Tensor:
    """Bilinear samples of x (b·h·w, c) at positions (m,) in pixels, the edge repeated, plus x at `own` (m,) if given.

    `image` (m,): the first pixel of the image that is looked at. One bag of weighted pixels a position."""
    height, width = size
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    top_row, left = rows.detach().floor(), columns.detach().floor()
    y, x_part = rows - top_row, columns - left
    first = image + top_row.long() * width + left.long()
    right = (left < width - 1).long()  # at the edge the neighbour has weight 0: any pixel will do
    below = (top_row < height - 1).long() * width
    index = [first, first + right, first + below, first + below + right]
    weight = [(1 - y) * (1 - x_part), (1 - y) * x_part, y * (1 - x_part), y * x_part]
    if own is not None:
        index, weight = [*index, own], [*weight, torch.ones_like(y)]
    return F.embedding_bag(
        torch.stack(index, -1), x, mode="sum", per_sample_weights=torch.stack(weight, -1).to(x.dtype)
    )


def attend_windows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q·kᵀ)·v of (n, 256, c), `mask` (256, 256) bool or None.

    On a CPU in bf16 a few windows at a time: their scores stay in the cache, and oneDNN's products are twice as fast as
    fused attention, whose products are MKL's."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or torch.is_grad_enabled():
        q, k, v = (t.unsqueeze(1) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, mask, scale=1.0).squeeze(1)
    out = torch.empty_like(v)
    for start in range(0, len(q), WINDOWS_AT_ONCE):
        some = slice(start, start + WINDOWS_AT_ONCE)
        scores = torch.bmm(q[some], k[some].transpose(1, 2))
        if mask is not None:
            scores = scores.masked_fill_(~mask, -torch.inf)
        torch.bmm(scores.softmax(-1), v[some], out=out[some])
    return out


def attend(q: Tensor, k: Tensor, v: Tensor, edge: Tensor, masks: Tensor) -> Tensor:
    """softmax(q·kᵀ)·v per window, (n, 256, c); `edge` (n,) is the mask of `masks` a window needs, 0 for none."""
    if len(masks) == 1:
        return attend_windows(q, k, v, None)
    out = torch.zeros_like(v)
    for kind, mask in enumerate(masks):
        of = (edge == kind).nonzero().squeeze(1)
        if len(of):
            part = attend_windows(q[of], k[of], v[of], None if kind == 0 else mask)
            out = out.index_copy(0, of, part.to(out.dtype))
    return out


class Mixer(nn.Module):
    """CAMixer, Algorithm 1, on tokens (b, h, w, c). `forward` computes all and selects; `quick` computes what is kept.

    `local`: the convolutions of both kinds of windows, depthwise. `warped_queries`: queries from the warped features
    too. `shift`: windows start there, with the image rolled.
    """

    def __init__(
        self, channels: int, predictor: Predictor, local: nn.Module, *, shift: int = 0, warped_queries: bool = False
    ) -> None:
        super().__init__()
        self.shift, self.warped_queries = shift, warped_queries
        self.predictor = predictor
        self.value = nn.Linear(channels, channels)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.local = local
        self.project = nn.Linear(channels, channels)

    def forward(self, x: Tensor, condition: Tensor, select: Select, wrap: bool) -> Mixed:
        """x (b, h, w, c), condition (b, ·, h, w); `wrap`: the image goes on from its right edge to its left."""
        b, h, w, _ = x.shape
        v = self.value(x)
        hints = self.predictor(v, condition, window_coordinates(self.shift), self.shift)
        mask = select(hints.logits)
        warped = self.warp(x, self.predictor.offsets(hints.features).float())
        q, k = (warped, warped) if self.warped_queries else (x, x + warped)
        chosen = mask.flatten().to(v.dtype).view(-1, 1, 1)
        edge = window_edges((h, w), self.shift).to(x.device).repeat(b)
        masks = self._masks(x.device, wrap)
        hard = self.hard(self._windows(q), self._windows(k), self._windows(v), chosen, edge, masks)
        mixed = self._image(hard + self._windows(v * hints.pixels) * (1 - chosen), (h, w))
        return Mixed(self.finish(mixed, hints.channels), mask, hints.logits)

    def quick(self, x: Tensor, condition: Tensor, select: Select, wrap: bool) -> Mixed:
        """The same without gradients: only the chosen windows are gathered, warped and attended, and put back once."""
        b, h, w, c = x.shape
        tokens = x.reshape(-1, c)
        v = product(tokens, self.value.weight, self.value.bias)
        hints = self.predictor.quick(x.view(b, h * w, c), self.value, condition, (h, w), self.shift)
        mask = select(hints.logits)
        chosen = mask.flatten().nonzero().squeeze(1)
        rest = mask.logical_not().flatten().nonzero().squeeze(1)
        windows, mixed = mask.shape[1], torch.empty_like(v)
        pixels = window_pixels((h, w), WINDOW, self.shift).to(x.device)
        if len(rest):
            own = (pixels.index_select(0, rest % windows) + (rest // windows * (h * w)).unsqueeze(1)).flatten()
            weight = hints.pixels.reshape(-1).index_select(0, own).to(v.dtype).unsqueeze(1)
            mixed.index_copy_(0, own, F.embedding_bag(own.unsqueeze(1), v, mode="sum", per_sample_weights=weight))
        if len(chosen):
            table = pixels.index_select(0, chosen % windows)
            image = (chosen // windows * (h * w)).unsqueeze(1)
            own = (table + image).flatten()
            table, image = table.flatten(), image.expand_as(table).flatten()
            f = hints.features.transpose(0, 1).reshape(hints.features.shape[1], -1)
            columns, rows = self.predictor.quick_offsets(f.index_select(1, own))
            rows = rows + torch.div(table, w, rounding_mode="floor")
            columns = columns + table % w
            k = sampled(tokens, rows, columns, (h, w), image, None if self.warped_queries else own)
            q = k if self.warped_queries else tokens.index_select(0, own)
            # q·k = x·(Wqᵀ·Wk)·k plus terms that are equal for all keys, which the softmax cancels: one projection
            with torch.autocast(x.device.type, enabled=False):
                weight, bias = self.key.weight.T @ self.query.weight, self.query.bias @ self.key.weight
            q = product(q, weight, bias)
            edge = window_edges((h, w), self.shift).to(x.device).index_select(0, chosen % windows)
            shape = (len(chosen), AREA, c)
            values = v.index_select(0, own)
            hard = attend(
                q.view(shape), k.view(shape).to(q.dtype), values.view(shape), edge, self._masks(x.device, wrap)
            )
            mixed.index_copy_(0, own, hard.reshape(-1, c).to(mixed.dtype))
        mixed = mixed.view(b, h, w, c)
        if b > 1:
            return Mixed(self.finish(mixed, hints.channels), mask, hints.logits)
        # for one image its weights of the channels go into the projection
        seen, project = F.gelu(self.local(mixed.permute(0, 3, 1, 2))).permute(0, 2, 3, 1), self.project
        out = product(mixed, project.weight, project.bias)
        return Mixed(out.add_(product(seen, project.weight * hints.channels)), mask, hints.logits)

    def hard(self, q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, edge: Tensor, masks: Tensor) -> Tensor:
        """Attention in all windows (b·n, 256, c), 0 where `chosen` (b·n, 1, 1) is."""
        return attend(self.query(q), self.key(k), v, edge, masks) * chosen

    def finish(self, mixed: Tensor, channels: Tensor) -> Tensor:
        """The convolution over both kinds of windows; channels (b, c) weighs it."""
        seen = F.gelu(self.local(mixed.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        return self.project(torch.addcmul(mixed, seen, channels.to(seen.dtype)[:, None, None]))

    def warp(self, x: Tensor, offsets: Tensor) -> Tensor:
        """x (b, h, w, c) at every pixel's own place plus offsets (b, h, w, 2)."""
        b, h, w, c = x.shape
        rows = torch.arange(h, device=x.device).view(1, h, 1) + offsets[..., 1]
        columns = torch.arange(w, device=x.device) + offsets[..., 0]
        image = torch.arange(b, device=x.device).repeat_interleave(h * w) * (h * w)
        return sampled(x.reshape(-1, c), rows.flatten(), columns.flatten(), (h, w), image, None).view(x.shape)

    def _windows(self, x: Tensor) -> Tensor:
        """(b, h, w, c) → (b·n, 256, c)."""
        return partition(x.roll((-self.shift, -self.shift), (1, 2)), (WINDOW, WINDOW)).flatten(0, 2)

    def _image(self, windows: Tensor, size: Size) -> Tensor:
        rows, columns = size[0] // WINDOW, size[1] // WINDOW
        image = merge(windows.unflatten(0, (-1, rows, columns)), (WINDOW, WINDOW))
        return image.roll((self.shift, self.shift), (1, 2))

    def _masks(self, device: torch.device, wrap: bool) -> Tensor:
        """(4, 256, 256) bool, who may attend in windows inside, in the last column, in the last row, in the corner; one
        of them alone if windows are not shifted."""
        if not self.shift:
            return torch.ones(1, 1, 1, dtype=torch.bool, device=device)
        return shift_mask((WINDOW, WINDOW), (self.shift, 0 if wrap else self.shift)).flatten(0, 1).to(device) == 0

    def macs(self, size: Size) -> Macs:
        """MACs with all windows simple."""
        c, (h, w) = self.value.in_features, size
        convs = (layer for layer in self.local.modules() if isinstance(layer, nn.Conv2d))
        local = (cost.conv2d(c, c, layer.kernel_size[0], h, w, layer.groups) for layer in convs)
        return sum(local, cost.linear(c, c, h * w) * 2 + self.predictor.macs(size))

    def hard_macs(self) -> Macs:
        """The extra MACs of one hard window."""
        c = self.value.in_features
        attention = cost.linear(c, c, AREA) * 2 + cost.attention(AREA, AREA, c) + Macs(sampling=4 * c * AREA)
        return attention + self.predictor.offset_macs()


@size_table
def window_edges(size: Size, shift: int) -> Tensor:
    """(windows,) int64: 0 inside, 1 in the last column of windows, 2 in the last row, 3 in both; all 0 unshifted."""
    rows, columns = size[0] // WINDOW, size[1] // WINDOW
    kind = torch.zeros(rows, columns, dtype=torch.int64)
    if shift:
        kind[:, -1] += 1
        kind[-1] += 2
    return kind.flatten()


class GatedConvolution(nn.Module):
    """The FFN: GELU(a)·b of two depthwise convolutions, between linear layers."""

    def __init__(self, channels: int, *, kernel: int = 3, bias: bool = False) -> None:
        super().__init__()
        wide = 2 * channels
        self.expand = nn.Linear(channels, wide, bias=bias)
        self.depthwise = nn.Conv2d(wide, wide, kernel, padding=kernel // 2, groups=wide, bias=bias)
        self.project = nn.Linear(channels, channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, w, c); the halves are computed apart, so that both are contiguous."""
        a, b = (self._half(x, part) for part in (slice(0, x.shape[-1]), slice(x.shape[-1], None)))
        mixed = F.gelu(a).mul_(b)
        return (
            self.project(mixed) if torch.is_grad_enabled() else product(mixed, self.project.weight, self.project.bias)
        )

    def _half(self, x: Tensor, part: slice) -> Tensor:
        bias, conv = self.expand.bias, self.depthwise
        linear = F.linear if torch.is_grad_enabled() else product
        x = linear(x, self.expand.weight[part], None if bias is None else bias[part]).permute(0, 3, 1, 2)
        bias = None if conv.bias is None else conv.bias[part]
        x = F.conv2d(x, conv.weight[part], bias, padding=conv.padding, groups=x.shape[1])  # type: ignore[arg-type]
        return x.permute(0, 2, 3, 1)

    def macs(self, size: Size) -> Macs:
        c, pixels = self.project.in_features, size[0] * size[1]
        convs = cost.conv2d(2 * c, 2 * c, self.depthwise.kernel_size[0], *size, groups=2 * c)
        return cost.linear(c, 2 * c, pixels) + convs + cost.linear(c, c, pixels)


class Block(nn.Module):
    """Eq. 3 of the supplement: LN(x + Mixer(x)), then LN(x + FFN(x)), on (b, h, w, c)."""

    def __init__(self, mixer: Mixer, ffn: GatedConvolution) -> None:
        super().__init__()
        channels = mixer.value.in_features
        self.mixer = mixer
        self.norm1 = nn.LayerNorm(channels, EPS)
        self.ffn = ffn
        self.norm2 = nn.LayerNorm(channels, EPS)

    def forward(self, x: Tensor, condition: Tensor, select: Select, wrap: bool) -> Mixed:
        mix = self.mixer if torch.is_grad_enabled() else self.mixer.quick
        mixed = mix(x, condition, select, wrap)
        x = self.norm1(x + mixed.tokens)
        return Mixed(self.norm2(x + self.ffn(x)), mixed.mask, mixed.logits)

    def macs(self, size: Size) -> Macs:
        return self.mixer.macs(size) + self.ffn.macs(size)
