"""Separable kernels: an any-scale head of our own, two small matrix products per patch.

Every LR pixel carries, per colour, a table G of M × M coefficients (one 3×3 convolution). M one-dimensional kernels,
shared by rows and columns, are functions of the offset t from the LR pixel (-1 < t < 1) and of the cell (1 / scale):
φ_m(t, cell) = (1 - |t|)·MLP_m(t, cell). A point blends the LR pixels before and behind it on each axis:

    rgb(y, x) = Σ_ij Σ_mn  φ_m(y - y_i) · φ_n(x - x_j) · G_mn(i, j)

The window 1 - |t| makes the result continuous at any scale. Pixel shuffle (ESPCN, Shi et al., CVPR 2016) by s is the
special case of M = s box kernels; MetaSR (Hu et al., CVPR 2019, Eq. 3) predicts the weights per point, here they are
per axis, so their network runs on H + W positions and not on H · W.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Size

OFFSET_FEATURES = 6


class KernelTable(nn.Module):
    """The M kernels of one axis: positions → the matrix that takes coefficients to those positions."""

    def __init__(self, kernels: int, hidden: int = 32) -> None:
        super().__init__()
        self.kernels = kernels
        self.hidden = hidden
        self.mlp = nn.Sequential(
            nn.Linear(OFFSET_FEATURES, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, kernels),
        )

    def forward(self, position: Tensor, cell: Tensor, first: int, count: int, clamp: tuple[int, int]) -> Tensor:
        """position (b, q) in LR pixels (float64 keeps tiles exact), cell (b,) → (b, q, count · M).

        Column i·M + m belongs to kernel m of LR pixel first + i. Neighbours are clamped to `clamp` (first, last
        pixel of the image), as the coefficients end there.
        """
        batch, points = position.shape
        behind = torch.floor(position - 0.5)
        offset = (position - 0.5 - behind).float()
        offset = torch.stack((offset, offset - 1), -1)  # (b, q, 2)
        weight = self.values(offset, cell.float().view(-1, 1, 1))
        index = torch.stack((behind, behind + 1), -1).clamp(*clamp).long() - first
        table = weight.new_zeros(batch, points, count, self.kernels)
        table = table.scatter_add(2, index.unsqueeze(-1).expand(-1, -1, -1, self.kernels), weight)
        return table.flatten(2)

    def values(self, offset: Tensor, cell: Tensor) -> Tensor:
        """The kernels at offsets t from an LR pixel, 0 from |t| = 1 on; `cell` broadcasts: (…) → (…, M)."""
        window = (1 - offset.abs()).clamp_min(0).unsqueeze(-1)
        return self.mlp(_offset_features(offset, cell)).float() * window

    def macs(self, positions: int) -> Macs:
        rows = 2 * positions
        return (
            cost.linear(OFFSET_FEATURES, self.hidden, rows)
            + cost.linear(self.hidden, self.hidden, rows)
            + cost.linear(self.hidden, self.kernels, rows)
        )


def _offset_features(offset: Tensor, cell: Tensor) -> Tensor:
    """Offsets (…) and a cell that broadcasts → (…, 6): the offset, two harmonics, the cell."""
    angle = math.pi * offset
    cell = cell.expand_as(offset)
    return torch.stack((offset, angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin(), cell), -1)


def blend(coefficients: Tensor, rows: Tensor, columns: Tensor, kernels: int) -> Tensor:
    """coefficients (b, 3·M·M, h, w), rows (b, hq, h·M), columns (b, wq, w·M) → (b, 3, hq, wq)."""
    batch, _, height, width = coefficients.shape
    table = coefficients.reshape(batch, 3, kernels, kernels, height, width).permute(0, 1, 4, 2, 5, 3)
    table = table.reshape(batch, 3 * height * kernels, width * kernels)
    table = torch.bmm(table, columns.transpose(1, 2).to(table.dtype))  # (b, 3·h·M, wq)
    table = table.reshape(batch, 3, height * kernels, -1)
    return torch.matmul(rows.unsqueeze(1).to(table.dtype), table)


def blend_macs(kernels: int, size: Size, out: Size) -> Macs:
    height, width = size
    return cost.matmul(3 * height * kernels, width * kernels, out[1]) + cost.matmul(
        out[0], height * kernels, out[1], batch=3
    )


class SeparableKernels(nn.Module):
    """A head: the 3×3 convolution to coefficients (valid, unpadded) and the kernel table that goes with it."""

    def __init__(self, channels: int, kernels: int = 5, *, hidden: int = 32) -> None:
        super().__init__()
        self.channels = channels
        self.kernels = kernels
        self.coefficients = nn.Conv2d(channels, 3 * kernels * kernels, 3)
        self.table = KernelTable(kernels, hidden)
        with torch.no_grad():  # start close to the base that the residual is added to
            self.coefficients.weight.mul_(0.1)
            self.coefficients.bias.zero_()  # type: ignore[union-attr]

    def forward(self, features: Tensor) -> Tensor:
        """(b, c, h + 2, w + 2) → (b, 3·M·M, h, w)."""
        return self.coefficients(features)
