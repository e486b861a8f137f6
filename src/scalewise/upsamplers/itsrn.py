"""ITSRN: implicit transformer super-resolution network. Yang et al., NeurIPS 2021, arXiv:2112.06174.

One MLP turns a point's offset from an LR pixel, and the scale, into the weights of a 3×3 filter on that pixel's
features; a second turns the offset into a score that is added; a third merges the answers of four pixels per colour.
As in MetaSR the filters' last layer is applied first, as a convolution. What is left depends on offsets alone, and
most scales repeat them: the networks run once per distinct pair of offsets in a band.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Frame, Query, Size, rectangle
from scalewise.upsamplers.corners import (
    EXACT,
    MLP,
    TIE,
    Axis,
    FilterField,
    Geometry,
    Side,
    in_bands,
    pieces,
    shift_radius,
    sides,
)

Activation = Literal["gelu", "sine"]
FREQUENCY = 30.0  # SIREN's ω₀


@dataclass(frozen=True)
class Offsets:
    """The distinct offsets of a band along each axis, and which of them each corner of each row and column has."""

    y: Tensor  # (m,)
    x: Tensor  # (n,)
    row: Tensor  # (corner, 1, hq, 1) numbers into y
    column: Tensor  # (corner, 1, 1, wq) numbers into x

    @property
    def pairs(self) -> int:
        return len(self.y) * len(self.x)


class ITSRN(nn.Module):
    """Without `local_ensemble` only the nearest pixel answers, and there is no score."""

    geometry: Geometry = EXACT

    def __init__(
        self,
        channels: int,
        hidden: Sequence[int] = (256, 256, 256, 256),
        *,
        activation: Activation = "gelu",
        local_ensemble: bool = True,
        feat_unfold: bool = True,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.local_ensemble = local_ensemble
        self.feat_unfold = feat_unfold
        act: Callable[[Tensor], Tensor] = sine if activation == "sine" else F.gelu
        self.mlp = MLP(4, hidden, 3 * channels * (9 if feat_unfold else 1), act)
        if activation == "sine":
            initialise_for_sine(self.mlp)
        if local_ensemble:
            self.score = MLP(2, (256,), 1, F.gelu)
            self.merge = MLP(4, (256,), 1, F.gelu)

    @property
    def context(self) -> int:
        return int(self.local_ensemble) + int(self.feat_unfold)

    def prepare(self, features: Tensor, lr: Tensor, frame: Frame) -> FilterField:
        return FilterField.of(self.mlp.last, features, frame, self.feat_unfold)

    def sample(self, field: FilterField, query: Query) -> Tensor:
        return in_bands(query, len(field.filtered), lambda piece: self._render(field, piece))

    def _render(self, field: FilterField, query: Query) -> Tensor:
        """RGB (b, *point, 3)."""
        rows, columns = self._corners(query, field.axes)
        offsets = repeated_offsets(rows, columns, query)
        shared = None
        if offsets is not None:
            y, x = offsets.y.view(1, -1, 1), offsets.x.view(1, 1, -1)
            shared = [values.flatten(0, 2) for values in self._networks(y, x, query.cell)]
        answers = []
        for v, u in product(range(len(rows.rel)), range(len(columns.rel))):
            if offsets is not None and shared is not None:
                pair = offsets.row[v] * len(offsets.x) + offsets.column[u]
                filter_hidden, bias = (values[pair] for values in shared)
            else:
                filter_hidden, bias = self._networks(rows.rel[v], columns.rel[u], query.cell)
            answers.append(field.rgb(rows.index[v], columns.index[u], filter_hidden) + bias)
        if not self.local_ensemble:
            return answers[0]
        corners = torch.stack(answers, -1)  # (b, *point, 3, 4)
        return self.merge(corners.to(self.merge.first.weight.dtype)).squeeze(-1).float()

    def _corners(self, query: Query, axes: tuple[Side, Side]) -> tuple[Axis, Axis]:
        if not self.local_ensemble:
            return (
                self.geometry.corners(query.y, axes[0], 0.0, (0,)),
                self.geometry.corners(query.x, axes[1], 0.0, (0,)),
            )
        reach = [shift_radius(query.cell[:, axis], axes[axis], 1) for axis in (0, 1)]
        return (
            self.geometry.corners(query.y, axes[0], reach[0], tie=TIE),
            self.geometry.corners(query.x, axes[1], reach[1], tie=TIE),
        )

    def _networks(self, rel_y: Tensor, rel_x: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets that broadcast → the filters' hidden vectors (*point, hidden), scores (*point, 1)."""
        layer = self.mlp.first
        weight = layer.weight.float().unbind(1)
        sized = cell[:, :1] * weight[2] + cell[:, 1:] * weight[3] + layer.bias  # (b, hidden)
        down = rel_y.unsqueeze(-1) * weight[0] + sized.view(len(cell), *[1] * (rel_y.dim() - 1), -1)
        first = (down + rel_x.unsqueeze(-1) * weight[1]).to(layer.weight.dtype)
        hidden = self.mlp.hidden_after_first(first)
        if not self.local_ensemble:
            return hidden, torch.zeros_like(hidden[..., :1])
        layer = self.score.first
        weight = layer.weight.float().unbind(1)
        place = rel_y.unsqueeze(-1) * weight[0] + layer.bias + rel_x.unsqueeze(-1) * weight[1]
        return hidden, self.score.after_first(place.to(layer.weight.dtype)).float()

    def macs(self, size: Size, out: Size) -> Macs:
        kernel = 3 if self.feat_unfold else 1
        units = self.mlp.last.in_features
        corners, points = 4 if self.local_ensemble else 1, out[0] * out[1]
        frame = Frame(size)
        axes, whole = sides(frame, size), rectangle(frame, out)
        runs = 0
        for piece in pieces(whole, 1):
            rows, columns = self._corners(piece, axes)
            offsets = repeated_offsets(rows, columns, piece)
            runs += offsets.pairs if offsets else corners * piece.y.shape[1] * piece.x.shape[-1]
        total = cost.conv2d(self.channels, 3 * (units + 1), kernel, *size) + self.mlp.macs(runs, 1, -1)
        total += cost.matmul(3, units, 1, corners * points)
        if self.local_ensemble:
            total += self.score.macs(runs, 1) + self.merge.macs(3 * points)
        return total


def repeated_offsets(rows: Axis, columns: Axis, query: Query) -> Offsets | None:
    """The distinct offsets of a rectangle, if they have fewer pairs than the rectangle has corners."""
    if not query.rectangle or len(query.y) * len(query.x) * len(query.cell) > 1:
        return None
    y, row = _distinct(rows.rel, query.y)
    x, column = _distinct(columns.rel, query.x)
    offsets = Offsets(y, x, row, column)
    return offsets if offsets.pairs < rows.rel.numel() * columns.rel.numel() else None


def _distinct(rel: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
    """Values of `rel` without repetition, and the number of the value at each place of `rel`.

    Values are one where they are closer than the rounding of the float32 positions that they come from.
    """
    noise = 8 * torch.finfo(torch.float32).eps * position.abs().amax().clamp_min(1)
    ordered, order = rel.flatten().sort()
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[1:] = ordered.diff() > noise
    number = torch.empty_like(order)
    number[order] = new.cumsum(0) - 1
    return ordered[new], number.view(rel.shape)


def sine(x: Tensor) -> Tensor:
    """SIREN's activation: Sitzmann et al., NeurIPS 2020."""
    return torch.sin(FREQUENCY * x)


def initialise_for_sine(network: MLP) -> None:
    """SIREN's weights: uniform within 1 / inputs first, within √(6 / inputs) / ω₀ after."""
    for number, layer in enumerate(network.linears):
        bound = math.sqrt(6 / layer.in_features) / FREQUENCY if number else 1 / layer.in_features
        nn.init.uniform_(layer.weight, -bound, bound)
