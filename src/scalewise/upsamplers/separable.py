"""Separable kernels: an any-scale head of our own, two small matrix products per patch.

Every LR pixel carries, per colour, a table G of M × M coefficients (one 3×3 convolution). M one-dimensional kernels,
shared by rows and columns, are functions of the offset t from the LR pixel (-1 < t < 1) and of the cell (1 / scale):
φ_m(t, cell) = (1 - |t|)·MLP_m(t, cell). A point blends the LR pixels before and after it on each axis:

    rgb(y, x) = Σ_ij Σ_mn  φ_m(y - y_i) · φ_n(x - x_j) · G_mn(i, j)

The window 1 - |t| makes the result continuous at any scale. Pixel shuffle (ESPCN, Shi et al., CVPR 2016) by s is the
special case of M = s box kernels; MetaSR (Hu et al., CVPR 2019, Eq. 3) predicts the weights per point, here they are
per axis, so their network runs on H + W positions and not on H · W.

Beyond the border of the image the features repeat, and coefficients are computed from them as anywhere else. So at
whole factors the kernels take the same few offsets from every LR pixel, and the head with its blend is one 5×5
convolution to the pixels of a shuffle (`SeparableKernels.as_convolution`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Size, phase_distances

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

    def forward(self, position: Tensor, cell: Tensor, first: int, count: int) -> Tensor:
        """position (b, q) in LR pixels (float64 keeps tiles exact), cell (b,) → (b, q, count · M).

        Column i·M + m belongs to kernel m of LR pixel first + i; every position lies between the centres of two of
        these LR pixels.
        """
        return self.scattered(*self.at(position, cell), first, count)

    def at(self, position: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """The LR pixel before each position (b, q), int64, and the kernels of it and the next one (b, q, 2, M)."""
        behind = torch.floor(position - 0.5)
        offset = (position - 0.5 - behind).float()
        offset = torch.stack((offset, offset - 1), -1)  # (b, q, 2)
        return behind.long(), self.values(offset, cell.float().view(-1, 1, 1))

    def scattered(self, behind: Tensor, weight: Tensor, first: int, count: int) -> Tensor:
        """What `at` gave, as rows over the LR pixels first..first + count - 1: (b, q, count · M)."""
        index = torch.stack((behind - first, behind - first + 1), -1)
        table = weight.new_zeros(*behind.shape, count, self.kernels)
        table = table.scatter(2, index.unsqueeze(-1).expand(-1, -1, -1, self.kernels), weight)
        return table.flatten(2)

    def values(self, offset: Tensor, cell: Tensor) -> Tensor:
        """The kernels at offsets t from an LR pixel, 0 from |t| = 1 on; `cell` broadcasts: (…) → (…, M)."""
        window = (1 - offset.abs()).clamp_min(0).unsqueeze(-1)
        return self.mlp(_offset_features(offset, cell)).float() * window

    def macs(self, rows: int) -> Macs:
        """The kernels at so many offsets; each position has two."""
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

    def as_convolution(self, factors: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The head and its blend at whole factors (rows fy, columns fx): weight (3·fy·fx, c, 5, 5) and bias
        (3·fy·fx,), in fp32. Output channel (colour·fy + p)·fx + q is output pixel (fy·i + p, fx·j + q)."""
        layer = self.coefficients
        assert layer.bias is not None
        with torch.autocast(layer.weight.device.type, enabled=False):
            rows, columns = (self._phases(factor) for factor in factors)
            blended = torch.einsum("pdm,qen->pqmnde", rows, columns).flatten(2, 3).flatten(0, 1)  # (fy·fx, M², 3, 3)
            weight = layer.weight.unflatten(0, (3, -1)).transpose(1, 2).flatten(0, 1)  # (3·c, M², 3, 3)
            weight = F.conv2d(F.pad(weight, (2, 2, 2, 2)), blended.flip(2, 3))  # (3·c, fy·fx, 5, 5)
            weight = weight.unflatten(0, (3, -1)).transpose(1, 2).flatten(0, 1)
            bias = layer.bias.view(3, -1) @ blended.sum((2, 3)).T
        return weight, bias.flatten()

    def composing_macs(self, factors: tuple[int, int]) -> Macs:
        """What `as_convolution` computes, for an image of any size."""
        products, table, pixels = self.kernels**2, self.table.macs(3 * sum(factors)), factors[0] * factors[1]
        weight = cost.conv2d(products, pixels, 3, 5, 5) * (3 * self.channels)
        return weight + cost.matmul(3, products, pixels) + table

    def _phases(self, factor: int) -> Tensor:
        """(factor, 3, M): the kernels that take the LR pixels before, at and after each one to its output pixels."""
        distance = phase_distances(factor, 3).float().to(self.coefficients.weight.device)
        return self.table.values(distance, distance.new_tensor(1 / factor))


def convolution_macs(channels: int, factors: tuple[int, int], height: Any, width: Any) -> Macs:
    """A head of so many channels as one convolution, for height × width LR pixels."""
    return cost.conv2d(channels, 3 * factors[0] * factors[1], 5, height, width)
