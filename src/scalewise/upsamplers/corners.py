"""What the any-scale upsamplers share: LR pixels around a point, gathering from LR maps, output in bands, the MLP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.budget.meter import tick
from scalewise.geometry.grid import Frame, Query, Size
from scalewise.layers import ready_linear

# Points rendered at a time, so that memory stays the same for any output size. On a processor 1024 × 256 channels are
# 1 MB per layer: that stays in the cache and the allocator gives it out again without fresh pages, and the matrix
# product still has rows enough. A GPU needs more to be busy: there a layer takes 128 MB. In training every band costs a
# gradient of the whole LR map: 4096 points took 0.8 of the time of 1024 (benchmarks/training.py), 65536 took 1.15.
BAND_POINTS = 1024
READY_BAND_POINTS = 2048
TRAINING_BAND_POINTS = 4096
GPU_BAND_POINTS = 2**17

# Positions reach us rounded to float32: within this distance (LR pixels) below a pixel border, a point is on it.
TIE = 1e-4


@dataclass(frozen=True)
class Side:
    """One axis of a tile: LR pixels of the `whole` image, the tile's `origin` in it, and the first and last pixel of
    the tile that lie in the image."""

    whole: int
    origin: int
    first: int
    last: int


def sides(frame: Frame, size: Size) -> tuple[Side, Side]:
    """Rows and columns of a tile of `size`. A 360° image has no first and no last column, and none at its poles; a
    mirrored one has features beyond its borders too."""

    def side(axis: int) -> Side:
        whole, origin = frame.size[axis], frame.origin[axis]
        before, behind = (goes_on or frame.mirrored > 0 for goes_on in frame.goes_on[axis])
        first = 0 if before else max(0, -origin)
        return Side(whole, origin, first, (size[axis] if behind else min(size[axis], whole - origin)) - 1)

    return side(0), side(1)


@dataclass(frozen=True)
class Axis:
    """LR pixels near each position of one axis: `index` (k, *position) in the tile, and `rel` (k, *position), the
    position seen from that pixel's centre in LIIF's unit: one LR pixel is 2."""

    index: Tensor
    rel: Tensor


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """(b,) → (b, 1, …), to broadcast with positions."""
    return value.view(-1, *[1] * (like.dim() - 1))


class Geometry:
    """Which LR pixels surround a position, and how much each of them counts: the exact rule.

    The published code rounds its coordinates in ways that show where a point lies on a pixel's centre or border. To
    repeat a published picture bit by bit, `compat` gives an upsampler another object with these methods.
    """

    def corners(
        self, position: Tensor, side: Side, reach: float | Tensor, signs: Sequence[int] = (-1, 1), tie: float = 0.0
    ) -> Axis:
        """For each sign, the pixel that holds position + sign · reach (in LR pixels; (b,) or one), inside the image."""
        step = per_sample(reach, position) if isinstance(reach, Tensor) else reach
        moved = torch.stack([position + (sign * step + tie) for sign in signs])
        index = moved.floor().clamp(side.first, side.last)
        return Axis(index.long(), 2 * (position - index) - 1)

    def top_left(self, position: Tensor, cell: Tensor, side: Side) -> tuple[Tensor, Tensor]:
        """The pixel that contains the upper (left) edge of the output pixel, and how far into it the edge lies."""
        edge = position - per_sample(cell, position) / 2
        index = (edge + TIE).floor().clamp(side.first, side.last)
        return index.long(), edge - index

    def area_weights(self, rows: Axis, columns: Axis) -> Tensor:
        """Weights (4, *point) of the corners (-,-), (-,+), (+,-), (+,+): the area of the opposite corner's rectangle.

        Per axis: where the image's border makes both corners one pixel the shares are still those of the distances.
        """
        down, right = (_shares(axis.rel) for axis in (rows, columns))
        return torch.stack([down[v] * right[u] for v, u in product((0, 1), (0, 1))])


def _shares(rel: Tensor) -> Tensor:
    far = rel.abs().flip(0)
    total = far.sum(0)
    return torch.where(total > 0, far / total.clamp_min(1e-30), 0.5)


EXACT = Geometry()


def shift_radius(cell: Tensor, side: Side, cells: int) -> Tensor:
    """Distance (b,) in LR pixels from a point to its corners in ITSRN and CiaoSR: half of (n - cells · cell) / (n - 1).

    n is the size of the whole image: a tile's own size would move the corners.
    """
    return (side.whole - cells * cell) / (2 * max(side.whole - 1, 1))


def to_rows(maps: Tensor) -> Tensor:
    """(b, c, h, w) → (b, h·w, c), so that one gathered pixel is one contiguous row."""
    return maps.flatten(2).transpose(1, 2).contiguous()


def gather(rows: Tensor, y: Tensor, x: Tensor, width: int) -> Tensor:
    """Rows (b, h·w, c) at pixels (y, x), which broadcast: → (b, *point, c), a fresh tensor."""
    index = y * width + x
    batch, pixels, channels = rows.shape
    if batch > 1:
        start = torch.arange(batch, device=rows.device) * pixels
        index = index + per_sample(start, index)
    return rows.flatten(0, 1).index_select(0, index.flatten()).view(*index.shape, channels)


def bilinear(rows: Tensor, y: Tensor, x: Tensor, axes: tuple[Side, Side], width: int) -> Tensor:
    """Linear interpolation of an LR map (b, h·w, c), the border repeated: → (b, *point, c)."""
    down, right = EXACT.corners(y, axes[0], 0.5), EXACT.corners(x, axes[1], 0.5)
    weights = EXACT.area_weights(down, right).unsqueeze(-1)
    corners = product((0, 1), (0, 1))
    parts = [gather(rows, down.index[v], right.index[u], width) * weights[k] for k, (v, u) in enumerate(corners)]
    return torch.stack(parts).sum(0)


def band_points(query: Query) -> int:
    if query.y.device.type != "cpu":
        return GPU_BAND_POINTS
    return TRAINING_BAND_POINTS if torch.is_grad_enabled() else BAND_POINTS


def in_bands(query: Query, images: int, render: Callable[[Query], Tensor], band: int | None = None) -> Tensor:
    """Render a query piece by piece: `render` gives (b, *point, 3); the result is as `Upsampler.sample` returns it."""
    rgb = torch.cat([render(piece) for piece in pieces(query, images, band)], 1)
    return rgb.permute(0, 3, 1, 2) if query.rectangle else rgb


def pieces(query: Query, images: int, band: int | None = None) -> Iterator[Query]:
    """Rows of a rectangle, or runs of points, of about `band` points in all images together."""
    columns = query.x.shape[-1] if query.rectangle else 1
    step = max(1, (band or band_points(query)) // (images * columns))
    for start in range(0, query.y.shape[1], step):
        tick()
        y = query.y[:, start : start + step]
        yield Query(y, query.x if query.rectangle else query.x[:, start : start + step], query.cell)


def relu_(x: Tensor) -> Tensor:
    """ReLU in place: what comes in is a linear layer's own output, which its gradient does not need."""
    return F.relu(x, inplace=True)


class MLP(nn.Module):
    """Linear layers with an activation between them."""

    def __init__(
        self, inputs: int, hidden: Sequence[int], outputs: int, activation: Callable[[Tensor], Tensor] = relu_
    ) -> None:
        super().__init__()
        widths = (inputs, *hidden, outputs)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.activation = activation

    @property
    def linears(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    @property
    def first(self) -> nn.Linear:
        return self.linears[0]

    @property
    def last(self) -> nn.Linear:
        return self.linears[-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.after_first(self.first(x))

    def after_first(self, x: Tensor) -> Tensor:
        """The rest of the network, from the output of its first linear layer (which it may overwrite)."""
        for layer in self.layers[1:]:
            x = layer(self.activation(x))
        return x

    def hidden_after_first(self, x: Tensor) -> Tensor:
        """The same, without the last linear layer."""
        for layer in self.layers[1:-1]:
            x = layer(self.activation(x))
        return self.activation(x)

    def ready(self, dtype: torch.dtype, stop: int | None = None) -> Callable[[Tensor], Tensor]:
        """`after_first` for many calls without gradients, or (`stop` = -1) `hidden_after_first`; ReLU only."""
        layers = self.linears[1:stop]
        steps = [
            ready_linear(layer.weight, layer.bias, dtype, after="none" if layer is self.last else "relu")
            for layer in layers
        ]

        def run(x: Tensor) -> Tensor:
            x = x.relu_()
            for step in steps:
                x = step(x)
            return x

        return run

    def macs(self, rows: int, start: int = 0, stop: int | None = None) -> Macs:
        """Layers start..stop-1 on `rows` vectors."""
        return sum((cost.linear(x.in_features, x.out_features, rows) for x in self.linears[start:stop]), Macs())


def offset_terms(weight: Tensor, rel_y: Tensor, rel_x: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor]:
    """What position and cell add to a linear layer, per axis: (k, *position, outputs), float32.

    Columns of `weight` (outputs, 2 or 4): offset along y, along x, then the cell, in LIIF's unit of half LR pixels.
    """
    along = weight.float().unbind(1)
    down, right = rel_y.unsqueeze(-1) * along[0], rel_x.unsqueeze(-1) * along[1]
    if cell is not None:
        sized = 2 * (cell[:, :1] * along[2] + cell[:, 1:] * along[3])  # (b, outputs)
        down = down + sized.view(len(sized), *[1] * (rel_y.dim() - 2), -1)
    return down, right


def preactivations(table: Tensor, index: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """What `gather` and `offset_terms` give a first layer, in one pass: (n, outputs).

    `table` (pixels + 2, outputs): the features' part of every pixel with the cell's in it, then the columns for the
    offsets along y and x; `index` (k, k, b, *point): the pixels of the corners, rows first."""
    last = len(table) - 1
    of = index.new_empty(index.numel(), 3)
    of[:, 0], of[:, 1], of[:, 2] = index.flatten(), last - 1, last  # numbers from the host would make it wait
    weight = table.new_ones(*index.shape, 3)
    weight[..., 1], weight[..., 2] = rows.rel.unsqueeze(1), columns.rel.unsqueeze(0)
    return F.embedding_bag(of, table, mode="sum", per_sample_weights=weight.view(-1, 3))


def corner_pixels(rows: Axis, columns: Axis, width: int, maps: Tensor) -> Tensor:
    """Where in maps (b, pixels, ·), one after another, the corners lie: (k, k, b, *point)."""
    index = rows.index.unsqueeze(1) * width + columns.index.unsqueeze(0)
    batch, pixels, _ = maps.shape
    return index if batch == 1 else index + per_sample(torch.arange(batch, device=index.device) * pixels, index[0, 0])


def offset_table(first: Tensor, weight: Tensor, cell: Tensor | None) -> Tensor:
    """The table of `preactivations` from first (b, pixels, outputs) and the layer's columns for offsets and cell."""
    columns = weight.float().T
    if cell is not None:
        first = first + (2 * (cell[:, :1] * columns[2] + cell[:, 1:] * columns[3])).to(first.dtype).unsqueeze(1)
    return torch.cat((first.flatten(0, 1), columns[:2].to(first.dtype)))


def as_convolution(weight: Tensor, features: Tensor, bias: Tensor | None, unfold: bool) -> Tensor:
    """A linear layer on the (3×3 unfolded) features of every LR pixel, as a convolution: (b, outputs, h, w)."""
    kernel = 3 if unfold else 1
    filters = weight.reshape(weight.shape[0], -1, kernel, kernel)
    return F.conv2d(features, filters, bias, padding=kernel // 2)


@dataclass(frozen=True)
class FilterField:
    """`filtered` (b, h·w, 3 · (hidden + 1)): what each hidden unit's filter, and the bias's, gives at each LR pixel."""

    filtered: Tensor
    axes: tuple[Side, Side]
    width: int

    @classmethod
    def of(cls, last: nn.Linear, features: Tensor, frame: Frame, unfold: bool) -> FilterField:
        """The layer hidden → filter, applied to the features (b, c, h, w) before the hidden vectors are known."""
        filtered = as_convolution(filters(last), features, None, unfold)
        size = (features.shape[2], features.shape[3])
        return cls(to_rows(filtered), sides(frame, size), size[1])

    def rgb(self, y: Tensor, x: Tensor, hidden: Tensor) -> Tensor:
        """The filters of the LR pixels (y, x), for hidden vectors (1 or b, *point, hidden) → (b, *point, 3)."""
        return apply_filters(gather(self.filtered, y, x, self.width), hidden)


def filters(last: nn.Linear) -> Tensor:
    """The layer hidden → (features, 3) as filters on the features: (3 · (hidden + 1), features), the bias last."""
    units = last.in_features
    weight = torch.cat((last.weight, last.bias.unsqueeze(1)), 1).view(-1, 3, units + 1)
    return weight.permute(1, 2, 0).reshape(3 * (units + 1), -1)


def apply_filters(filtered: Tensor, hidden: Tensor) -> Tensor:
    """filtered (b, *point, 3 · (hidden + 1)), hidden (1 or b, *point, hidden) → (b, *point, 3)."""
    units = hidden.shape[-1]
    point = filtered.shape[:-1]
    matrices = filtered.view(-1, 3, units + 1)
    vectors = hidden.to(filtered.dtype).expand(*point, units).reshape(-1, units, 1)
    rgb = torch.bmm(matrices[..., :units], vectors).squeeze(-1) + matrices[..., units]
    return rgb.view(*point, 3).float()
