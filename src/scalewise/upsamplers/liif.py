"""LIIF: local implicit image function. Chen, Liu, Wang, CVPR 2021, arXiv:2012.09161. Eq. 4 is `sample`.

A point asks the four LR pixels around it; each answers with one MLP of its 3×3 features, the point's position seen
from it, and the size of the output pixel. The answers are blended by area. The MLP's first layer is linear in the
features, so that part of it is a 3×3 convolution on the LR image (`prepare`); the rest of it is two rank-one terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Frame, Query, Size
from scalewise.upsamplers.corners import (
    EXACT,
    MLP,
    READY_BAND_POINTS,
    Geometry,
    Side,
    as_convolution,
    corner_pixels,
    gather,
    in_bands,
    offset_table,
    offset_terms,
    preactivations,
    sides,
    to_rows,
)


@dataclass(frozen=True)
class Field:
    """`first` (b, h·w, hidden): the features' part of the first layer."""

    first: Tensor
    axes: tuple[Side, Side]
    width: int


class LIIF(nn.Module):
    """Without `local_ensemble` only the nearest pixel answers; without `cell_decode` the MLP does not see the scale."""

    geometry: Geometry = EXACT

    def __init__(
        self,
        channels: int,
        hidden: Sequence[int] = (256, 256, 256, 256),
        *,
        local_ensemble: bool = True,
        feat_unfold: bool = True,
        cell_decode: bool = True,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.local_ensemble = local_ensemble
        self.feat_unfold = feat_unfold
        self.cell_decode = cell_decode
        self.features = channels * (9 if feat_unfold else 1)
        self.mlp = MLP(self.features + 2 + 2 * cell_decode, hidden, 3)

    @property
    def context(self) -> int:
        return int(self.local_ensemble) + int(self.feat_unfold)

    def prepare(self, features: Tensor, lr: Tensor, frame: Frame) -> Field:
        layer = self.mlp.first
        first = as_convolution(layer.weight[:, : self.features], features, layer.bias, self.feat_unfold)
        size = (features.shape[2], features.shape[3])
        return Field(to_rows(first), sides(frame, size), size[1])

    def sample(self, field: Field, query: Query) -> Tensor:
        if torch.is_grad_enabled():
            return in_bands(query, len(field.first), lambda piece: self._render(field, piece))
        table = offset_table(
            field.first, self.mlp.first.weight[:, self.features :], query.cell if self.cell_decode else None
        )
        rest = self.mlp.ready(table.dtype)
        band = READY_BAND_POINTS if table.device.type == "cpu" else None
        return in_bands(query, len(field.first), lambda piece: self._quick(field, table, rest, piece), band)

    def _render(self, field: Field, query: Query) -> Tensor:
        """RGB (b, *point, 3)."""
        signs = (-1, 1) if self.local_ensemble else (0,)
        rows = self.geometry.corners(query.y, field.axes[0], 0.5, signs)
        columns = self.geometry.corners(query.x, field.axes[1], 0.5, signs)
        place = self.mlp.first.weight[:, self.features :]
        down, right = offset_terms(place, rows.rel, columns.rel, query.cell if self.cell_decode else None)
        answers = []
        for v, u in product(range(len(signs)), range(len(signs))):
            first = gather(field.first, rows.index[v], columns.index[u], field.width)
            first = first.add_(down[v]).add_(right[u])  # (b, *point, hidden)
            answers.append(self.mlp.after_first(first).float())
        if not self.local_ensemble:
            return answers[0]
        weights = self.geometry.area_weights(rows, columns).unsqueeze(-1)
        return torch.stack([weight * rgb for weight, rgb in zip(weights, answers, strict=True)]).sum(0)

    def _quick(self, field: Field, table: Tensor, rest: Callable[[Tensor], Tensor], query: Query) -> Tensor:
        """The same without gradients: all corners in one product."""
        signs = (-1, 1) if self.local_ensemble else (0,)
        rows = self.geometry.corners(query.y, field.axes[0], 0.5, signs)
        columns = self.geometry.corners(query.x, field.axes[1], 0.5, signs)
        index = corner_pixels(rows, columns, field.width, field.first)
        answers = rest(preactivations(table, index, rows, columns)).float().view(-1, *index.shape[2:], 3)
        if not self.local_ensemble:
            return answers[0]
        return (answers * self.geometry.area_weights(rows, columns).unsqueeze(-1)).sum(0)

    def macs(self, size: Size, out: Size) -> Macs:
        kernel = 3 if self.feat_unfold else 1
        first = cost.conv2d(self.channels, self.mlp.first.out_features, kernel, *size)
        corners = 4 if self.local_ensemble else 1
        return first + self.mlp.macs(corners * out[0] * out[1], start=1)
