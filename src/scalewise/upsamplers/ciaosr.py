"""CiaoSR: continuous implicit attention-in-attention network for arbitrary-scale image super-resolution.

Cao et al., CVPR 2023, arXiv:2212.04362. Eq. 4 and 5 are `_render`; Eq. 7 and 8 are `CrossScaleAttention`. Where text
and published code differ, the weights decide: keys and values are the features times the networks' outputs (not the
outputs), the networks see 2 / scale, and the bilinear image is added.

What does not change the numbers, and is most of the cost of the published code (u: LR pixels, q: output pixels):

- features, first layers and the attention across scales are computed once per tile, not per chunk of output pixels;
- first layers of the key and value networks are 3×3 convolutions;
- <q, u ⊙ (W h + b)> = <h, Wᵀ(q ⊙ u)> + <b, q ⊙ u>, and the right-hand vectors belong to pairs of neighbouring LR
  pixels: nine per LR pixel, at any scale (`_pairs`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.budget.meter import tick
from scalewise.errors import InvalidRequest
from scalewise.geometry.grid import Frame, Query, Size, rectangle
from scalewise.layers import pad_to_grid
from scalewise.upsamplers.corners import (
    EXACT,
    MLP,
    TIE,
    Axis,
    Geometry,
    Side,
    as_convolution,
    band_points,
    bilinear,
    gather,
    in_bands,
    offset_terms,
    shift_radius,
    sides,
    to_rows,
)

Weights = Literal["attention", "mlp"]
SIGNS = {1: (0,), 2: (-1, 1), 3: (-1, 0, 1)}
NEIGHBOURS = 9  # the shift is at most one LR pixel
MAX_SCORES = 2**22  # attention scores computed at a time: 16 MB


@dataclass(frozen=True)
class Field:
    """Per LR pixel, (b, h·w, ·): `local` unfolded features, `distant` non-local ones (channels · scales, maybe 0),
    and the features' part of the first layers of the key and value networks."""

    local: Tensor
    distant: Tensor
    key: Tensor
    value: Tensor
    lr: Tensor
    axes: tuple[Side, Side]
    width: int


class CiaoSR(nn.Module):
    """`local_size` 1, 2 or 3 pixels per axis answer a point; `multi_scale` lists the non-local factors. `weights`: how
    much each of the pixels counts is decided by "attention" or, in the paper's Table 4, by an "mlp" of key and
    place."""

    geometry: Geometry = EXACT

    def __init__(
        self,
        channels: int,
        hidden: Sequence[int] = (256, 256, 256, 256),
        *,
        non_local: bool = True,
        multi_scale: Sequence[int] = (2,),
        local_size: int = 2,
        feat_unfold: bool = True,
        weights: Weights = "attention",
    ) -> None:
        super().__init__()
        if weights not in get_args(Weights):
            raise InvalidRequest(f"weights is {weights!r}: allowed are attention and mlp")
        if local_size not in SIGNS:
            raise InvalidRequest(f"local_size {local_size} is not supported: take 1, 2 or 3")
        if non_local and (not multi_scale or min(multi_scale) < 2):
            raise InvalidRequest(f"multi_scale {tuple(multi_scale)} is not supported: list factors of 2 or more")
        self.channels = channels
        self.feat_unfold, self.weights = feat_unfold, weights
        self.signs = SIGNS[local_size]
        self.local_channels = channels * (9 if feat_unfold else 1)
        self.distant_channels = channels * len(multi_scale) if non_local else 0
        wide = self.local_channels + self.distant_channels
        self.query = MLP(wide, hidden, 3)
        self.key = MLP(self.local_channels + 4, hidden, self.local_channels if weights == "attention" else 1)
        self.value = MLP(wide + 4, hidden, wide)
        self.attention = CrossScaleAttention(channels, multi_scale) if non_local else None

    @property
    def context(self) -> int | None:
        corners = int(len(self.signs) > 1) + int(self.feat_unfold)
        return None if self.attention else max(1, corners)  # the bilinear image needs one pixel

    def prepare(self, features: Tensor, lr: Tensor, frame: Frame) -> Field:
        local = F.unfold(features, 3, padding=1) if self.feat_unfold else features.flatten(2)
        layer, end = self.value.first, self.local_channels
        value = as_convolution(layer.weight[:, :end], features, layer.bias, self.feat_unfold)
        if self.attention is None:
            distant = features[:, :0]
        else:
            distant = self.attention(features)
            value = value + as_convolution(layer.weight[:, end : end + self.distant_channels], distant, None, False)
        layer = self.key.first
        key = as_convolution(layer.weight[:, :end], features, layer.bias, self.feat_unfold)
        size = (features.shape[2], features.shape[3])
        return Field(
            local.transpose(1, 2).contiguous(),
            *(to_rows(maps) for maps in (distant, key, value, lr)),
            axes=sides(frame, size),
            width=size[1],
        )

    def sample(self, field: Field, query: Query) -> Tensor:
        images = len(field.local)
        nearest = self._nearest(query, field.axes)[0]
        if not self._pairs_pay(query, nearest, field.width):
            return in_bands(query, images, lambda piece: self._render(field, piece, None))
        strips = []
        for part, first, last in self._strips(query, nearest):
            pairs = self._pairs(field, first, last)
            strips.append(in_bands(part, images, lambda piece, pairs=pairs: self._render(field, piece, pairs)))
        return torch.cat(strips, 2)

    def _nearest(self, query: Query, axes: tuple[Side, Side]) -> tuple[Tensor, Tensor]:
        """Row and column of the LR pixel that a point lies in."""
        y, x = (self.geometry.corners(p, side, 0.0, (0,)) for p, side in zip((query.y, query.x), axes, strict=True))
        return y.index[0], x.index[0]

    def _corners(self, query: Query, axes: tuple[Side, Side]) -> tuple[Axis, Axis]:
        reach = [shift_radius(query.cell[:, axis], axes[axis], 2) for axis in (0, 1)]
        return (
            self.geometry.corners(query.y, axes[0], reach[0], self.signs, TIE),
            self.geometry.corners(query.x, axes[1], reach[1], self.signs, TIE),
        )

    def _render(self, field: Field, query: Query, pairs: Pairs | None) -> Tensor:
        """Eq. 4: RGB (b, *point, 3)."""
        rows, columns = self._corners(query, field.axes)
        y, x = self._nearest(query, field.axes)
        corners = list(product(range(len(self.signs)), repeat=2))
        pixels = [(rows.index[v], columns.index[u], field.width) for v, u in corners]
        if len(corners) == 1:
            share = torch.ones(1, device=query.y.device)
        else:
            place = self.key.first.weight[:, self.local_channels :]
            down, right = offset_terms(place, rows.rel, columns.rel, query.cell)
            asked = None if pairs else gather(field.local, y, x, field.width)
            scores = []
            for (v, u), pixel in zip(corners, pixels, strict=True):
                hidden = self.key.hidden_after_first(gather(field.key, *pixel).add_(down[v]).add_(right[u]))
                if self.weights == "mlp":
                    scores.append(self.key.last(hidden).squeeze(-1).float())
                elif pairs is not None:
                    scores.append(pairs.scores(hidden, y, x, pixel[0], pixel[1]))
                else:
                    key = gather(field.local, *pixel) * self.key.last(hidden)
                    scores.append((asked * key).sum(-1, dtype=torch.float32))
            share = torch.stack(scores).softmax(0).unsqueeze(-1)
        place = self.value.first.weight[:, self.local_channels + self.distant_channels :]
        down, right = offset_terms(place, rows.rel, columns.rel, query.cell)
        blended: Tensor | None = None
        for k, ((v, u), pixel) in enumerate(zip(corners, pixels, strict=True)):
            value = self.value.after_first(gather(field.value, *pixel).add_(down[v]).add_(right[u]))
            value = value * torch.cat((gather(field.local, *pixel), gather(field.distant, *pixel)), -1)
            value = value * share[k].to(value.dtype)
            blended = value if blended is None else blended + value
        assert blended is not None
        return self.query(blended).float() + bilinear(field.lr, query.y, query.x, field.axes, field.width).float()

    def _pairs_pay(self, query: Query, nearest: Tensor, width: int) -> bool:
        """Whether pairs of LR pixels under a rectangle are fewer than its points have corners."""
        if not query.rectangle or len(query.y) > 1 or len(self.signs) == 1 or self.weights == "mlp":
            return False
        strip = int(nearest[0, -1, 0] - nearest[0, 0, 0]) + 1
        return NEIGHBOURS * strip * width < len(self.signs) ** 2 * query.y.shape[1] * query.x.shape[-1]

    def _strips(self, query: Query, nearest: Tensor) -> Iterator[tuple[Query, int, int]]:
        """Parts of a rectangle that lie in whole LR rows, of a band or more each, and their first and last LR row."""
        row = nearest[0, :, 0].tolist()
        start = 0
        for stop in range(1, len(row) + 1):
            ends = stop == len(row) or row[stop] != row[stop - 1]
            if stop == len(row) or (ends and (stop - start) * query.x.shape[-1] >= band_points(query)):
                yield Query(query.y[:, start:stop], query.x, query.cell), row[start], row[stop - 1]
                start = stop

    def _pairs(self, field: Field, first: int, last: int) -> Pairs:
        """Wᵀ(q ⊙ u) and <b, q ⊙ u> for the LR pixels q of rows first..last and their nine neighbours u."""
        height, width = field.local.shape[1] // field.width, field.width
        maps = field.local.view(len(field.local), height, width, -1)
        layer = self.key.last
        weight = torch.cat((layer.weight, layer.bias.unsqueeze(1)), 1)  # (features, hidden + 1)
        column = torch.arange(width, device=maps.device)
        row = torch.arange(first, last + 1, device=maps.device)
        found = []
        for dy, dx in product((-1, 0, 1), (-1, 0, 1)):
            near = maps[:, (row + dy).clamp(0, height - 1)][:, :, (column + dx).clamp(0, width - 1)]
            found.append(F.linear(maps[:, first : last + 1] * near, weight.T))
        return Pairs(torch.stack(found, 3).flatten(1, 3), first, width)

    def macs(self, size: Size, out: Size) -> Macs:
        kernel = 3 if self.feat_unfold else 1
        points, corners = out[0] * out[1], len(self.signs) ** 2
        total = Macs()
        for network in (self.key, self.value):
            total += cost.conv2d(self.channels, network.first.out_features, kernel, *size)
        if self.attention:
            total += self.attention.macs(size)
            total += cost.conv2d(self.distant_channels, self.value.first.out_features, 1, *size)
        total += self.value.macs(corners * points, 1) + self.query.macs(points)
        if corners == 1:
            return total
        frame = Frame(size)
        query = rectangle(frame, out)
        nearest = self._nearest(query, sides(frame, size))[0]
        if not self._pairs_pay(query, nearest, size[1]):
            return total + self.key.macs(corners * points, 1)
        units = self.key.last.in_features
        rows = sum(last - first + 1 for _, first, last in self._strips(query, nearest))
        total += self.key.macs(corners * points, 1, -1)
        return total + cost.linear(self.local_channels, units + 1, NEIGHBOURS * rows * size[1])


@dataclass(frozen=True)
class Pairs:
    """`vectors` (b, rows · width · 9, hidden + 1) for the pairs of each LR pixel, from row `first` on."""

    vectors: Tensor
    first: int
    width: int

    def scores(self, hidden: Tensor, y: Tensor, x: Tensor, key_y: Tensor, key_x: Tensor) -> Tensor:
        """Scores (b, *point) of the key pixels; hidden (b, *point, hidden), query pixels (y, x)."""
        # row and column in a table that is width · 9 wide
        neighbour = (key_y - y + 1) * 3 + (key_x - x + 1)
        found = gather(self.vectors, y - self.first, x * NEIGHBOURS + neighbour, self.width * NEIGHBOURS)
        units = hidden.shape[-1]
        return (found[..., :units] * hidden).sum(-1, dtype=torch.float32) + found[..., units].float()


class CrossScaleAttention(nn.Module):
    """Every LR pixel finds patches like its own in the image made t times smaller, and takes what they are made of.

    Eq. 7 and 8; Mei et al., CVPR 2020, arXiv:2006.01424, is where it comes from. The published code pastes patches of
    3t × 3t into an image t times larger, then convolves that with stride t. Both are linear in the patches, so each
    key can carry what its patch becomes after the convolution: 4 × 4 taps of LR pixels. Scores are computed for some
    queries at a time and dropped, so memory grows with the image and not with its square.
    """

    def __init__(self, channels: int, scales: Sequence[int] = (2,)) -> None:
        super().__init__()
        self.channels = channels
        self.scales = tuple(scales)
        self.match = nn.Sequential(nn.Conv2d(channels, channels // 2, 1), nn.PReLU())
        self.match_small = nn.Sequential(nn.Conv2d(channels, channels // 2, 1), nn.PReLU())
        self.assembly = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.PReLU())
        self.down = nn.ModuleDict({str(t): nn.Conv2d(channels, channels, 3, stride=t, padding=1) for t in scales})

    def forward(self, features: Tensor) -> Tensor:
        """(b, c, h, w) → (b, c · scales, h, w)."""
        return torch.cat([self._attend(features, t) for t in self.scales], 1)

    def _attend(self, features: Tensor, t: int) -> Tensor:
        height, width = features.shape[-2:]
        padded = pad_to_grid(features, t)
        rows, columns = padded.shape[-2:]
        small = F.interpolate(padded, (rows // t, columns // t), mode="bilinear", align_corners=False)
        query = F.unfold(self.match(padded), 3, padding=1).transpose(1, 2)  # (b, pixels, 9c/2)
        key = F.unfold(self.match_small(small), 3, padding=1)  # (b, 9c/2, keys)
        # the floor 1e-4 is the published one: it decides where a patch is all but zero
        key = 10 * key / key.norm(dim=1, keepdim=True).clamp_min(1e-4)
        taps, top, left, corner = self._taps(self.assembly(padded), t)

        b, c, pixels, keys = len(features), self.channels, rows * columns, key.shape[-1]
        exact = torch.promote_types(taps.dtype, torch.float32)
        result = taps.new_zeros(b, (rows + 3) * (columns + 3), c, dtype=exact)
        place = torch.arange(pixels, device=features.device)
        place = place // columns * (columns + 3) + place % columns
        reach = torch.arange(4, device=features.device)
        reach = (reach.view(-1, 1) * (columns + 3) + reach).flatten()  # from a pixel's place to those of its taps
        step = max(16, MAX_SCORES // (b * keys))
        for row in range(rows):  # a run of queries stays in one row, so that borders are slices
            for start in range(0, columns, step):
                tick()
                stop = min(start + step, columns)
                here = slice(row * columns + start, row * columns + stop)
                weight = torch.bmm(query[:, here], key).softmax(-1, dtype=torch.float32).to(taps.dtype)
                given = torch.bmm(weight, taps).to(exact).view(b, -1, 4, 4, c)
                # the published convolution pads with zeros where the first pixel's patch would go on
                if row == 0:
                    given[:, :, 1] -= torch.bmm(weight, top).view(b, -1, 4, c)
                if start == 0:
                    given[:, 0, :, 1] -= torch.bmm(weight[:, :1], left).view(b, 4, c)
                if row == 0 and start == 0:
                    given[:, 0, 1, 1] += torch.bmm(weight[:, :1], corner).view(b, c)
                where = (place[here].view(-1, 1) + reach).flatten()
                result.index_add_(1, where, given.view(b, -1, c))
        # taps reach from one pixel before to two after: a frame of one before and two after is cut off
        maps = result.view(b, rows + 3, columns + 3, c)[:, 1 : height + 1, 1 : width + 1].permute(0, 3, 1, 2)
        bias = self._down(t).bias
        assert bias is not None
        return ((maps + bias.view(1, -1, 1, 1)) / 6).to(taps.dtype)

    def _taps(self, values: Tensor, t: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What each key's patch gives to the LR pixels around, (b, keys, taps · c), and what borders must not get.

        A pixel d = -1, 0, 1, 2 away from the query sees the patch through three columns of the filter: at d = -1 only
        the last two of them lie on the patch, at d = 2 only the first. So a tap is the image convolved with a part of
        the filter, at the key's place plus d.
        """
        weight = self._down(t).weight
        parts = torch.tensor([[0, 1, 1], [1, 1, 1], [1, 0, 0]], device=weight.device, dtype=weight.dtype)
        masked = weight * parts.view(3, 1, 1, 1, 3, 1) * parts.view(1, 3, 1, 1, 1, 3)  # (part y, part x, c, c, 3, 3)
        c = self.channels
        image = F.pad(values, (t + 1, t + 2, t + 1, t + 2))
        maps = F.conv2d(image, masked.reshape(9 * c, c, 3, 3), stride=t)
        maps = maps.unflatten(1, (3, 3, c))  # (b, part y, part x, c, keys y + 3, keys x + 3), from key -1 on
        height, width = values.shape[-2] // t, values.shape[-1] // t
        part = (0, 1, 1, 2)  # part of the filter, by tap

        def tap(py: int, px: int, dy: int, dx: int) -> Tensor:
            return maps[:, py, px, :, dy : dy + height, dx : dx + width].flatten(2)

        def table(pieces: list[Tensor]) -> Tensor:
            return torch.cat(pieces, 1).transpose(1, 2).contiguous()

        four = range(4)
        return (
            table([tap(part[y], part[x], y, x) for y, x in product(four, four)]),
            table([tap(2, part[x], 1, x) for x in four]),
            table([tap(part[y], 2, y, 1) for y in four]),
            table([tap(2, 2, 1, 1)]),
        )

    def _down(self, t: int) -> nn.Conv2d:
        return self.down[str(t)]  # type: ignore[return-value]

    def macs(self, size: Size) -> Macs:
        total, c = Macs(), self.channels
        half = c // 2
        for t in self.scales:
            rows, columns = (-(-n // t) * t for n in size)
            pixels, keys, parts = rows * columns, (rows // t) * (columns // t), (rows // t + 3) * (columns // t + 3)
            total += cost.conv2d(c, c + half, 1, rows, columns) + cost.conv2d(c, half, 1, 1, keys)
            total += cost.conv2d(c, 9 * c, 3, 1, parts)
            total += cost.matmul(pixels, 9 * half, keys) + cost.matmul(pixels, keys, 16 * c)
            total += cost.matmul(columns, keys, 4 * c) + cost.matmul(rows, keys, 4 * c) + cost.matmul(1, keys, c)
        return total
