"""The published float32 coordinates of LIIF, LTE, MetaSR, ITSRN and CiaoSR, for pictures equal to theirs bit by bit.

An output coordinate is c in [-1, 1]; a corner is c plus a shift plus 1e-6, clamped, and rounded to the nearest pixel.
Which corner a point on a pixel's centre or border gets, and the weights there, depend on the last bit of c. Positions
in float64 give that bit back exactly: y = (c + 1) · n / 2 for c as published. Float32 positions are right elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from scalewise.upsamplers.corners import Axis, Geometry, Side, per_sample

EPSILON = 1e-6


class PublishedGeometry(Geometry):
    """Give it to an upsampler as `geometry`. Whole images only, as the published code knows no other."""

    def corners(
        self, position: Tensor, side: Side, reach: float | Tensor, signs: Sequence[int] = (-1, 1), tie: float = 0.0
    ) -> Axis:
        n = side.whole
        coordinate = _coordinate(position, n)
        if isinstance(reach, Tensor):
            radius = per_sample(2 * reach.double() / n, coordinate).float()
            shifted = [coordinate + (sign * radius + EPSILON) if sign else coordinate for sign in signs]
        else:
            shifted = [coordinate + (sign * 2 * reach / n + EPSILON) if sign else coordinate for sign in signs]
        index = _nearest(torch.stack(shifted).clamp(-1 + EPSILON, 1 - EPSILON), n)
        return Axis(index, (coordinate - _centre(index, n)) * n)

    def top_left(self, position: Tensor, cell: Tensor, side: Side) -> tuple[Tensor, Tensor]:
        n = side.whole
        edge = _coordinate(position, n) - per_sample((2 * cell.double() / n).float(), position) / 2
        index = _nearest((edge + EPSILON).clamp(-1 + EPSILON, 1 - EPSILON), n)
        return index, (edge - (_centre(index, n) - 1 / n)) * (n / 2)

    def area_weights(self, rows: Axis, columns: Axis) -> Tensor:
        areas = [(rows.rel[v] * columns.rel[u]).abs() + 1e-9 for v, u in product((0, 1), (0, 1))]
        areas = torch.stack(areas)
        return areas.flip(0) / areas.sum(0)


def _coordinate(position: Tensor, n: int) -> Tensor:
    return (2 * position.double() / n - 1).float()


def _nearest(coordinate: Tensor, n: int) -> Tensor:
    """The pixel that nearest-neighbour `grid_sample` takes."""
    return (((coordinate + 1) * n - 1) / 2).round().clamp(0, n - 1).long()


def _centre(index: Tensor, n: int) -> Tensor:
    """Published coordinate of a pixel's centre, in float32: (-1 + 1/n) + (2/n) · i."""
    return (-1 + 1 / n) + (2 / n) * index.float()
