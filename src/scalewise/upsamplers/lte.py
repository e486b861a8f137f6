"""LTE: local texture estimator. Lee and Jin, CVPR 2022, arXiv:2111.08918. Eq. 5 and 6 are `_waves`.

Two convolutions give every LR pixel amplitudes and frequencies; a third term, from the size of the output pixel, is
the phase. A point reads the resulting waves at its offset from each of the four pixels around it, an MLP turns them
into a colour, the four are blended by area, and the bilinear image is added. LTE+ is the same network; its checkpoints
keep the frequencies as a half for y and a half for x, which is the order used here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Frame, Query, Size
from scalewise.layers import conv3
from scalewise.upsamplers.corners import EXACT, MLP, Geometry, Side, bilinear, gather, in_bands, sides, to_rows


@dataclass(frozen=True)
class Field:
    """`amplitude`, `frequency` (b, h·w, hidden_dim); `lr` (b, h·w, 3)."""

    amplitude: Tensor
    frequency: Tensor
    lr: Tensor
    axes: tuple[Side, Side]
    width: int


class LTE(nn.Module):
    geometry: Geometry = EXACT
    context = 2  # a corner may lie in the next LR pixel; the convolutions are 3×3

    def __init__(self, channels: int, hidden_dim: int = 256, mlp: Sequence[int] = (256, 256, 256)) -> None:
        super().__init__()
        self.channels = channels
        self.hidden_dim = hidden_dim
        self.coef = conv3(channels, hidden_dim)
        self.freq = conv3(channels, hidden_dim)  # first half: along y, second half: along x
        self.phase = nn.Linear(2, hidden_dim // 2, bias=False)
        self.mlp = MLP(hidden_dim, mlp, 3)

    def prepare(self, features: Tensor, lr: Tensor, frame: Frame) -> Field:
        size = (features.shape[2], features.shape[3])
        return Field(
            to_rows(self.coef(features)), to_rows(self.freq(features)), to_rows(lr), sides(frame, size), size[1]
        )

    def sample(self, field: Field, query: Query) -> Tensor:
        weight = self.phase.weight.float().unbind(1)
        sized = 2 * self.condition(query.cell)
        phase = sized[:, :1] * weight[0] + sized[:, 1:] * weight[1]  # (b, hidden_dim / 2)
        return in_bands(query, len(field.lr), lambda piece: self._render(field, piece, phase))

    def condition(self, cell: Tensor) -> Tensor:
        """The cell that the network sees; a protocol may replace it by one from the training range."""
        return cell

    def _render(self, field: Field, query: Query, phase: Tensor) -> Tensor:
        """RGB (b, *point, 3)."""
        rows = self.geometry.corners(query.y, field.axes[0], 0.5)
        columns = self.geometry.corners(query.x, field.axes[1], 0.5)
        phase = phase.view(len(phase), *[1] * (query.y.dim() - 1), -1)
        rgb = bilinear(field.lr, query.y, query.x, field.axes, field.width).float()
        weights = self.geometry.area_weights(rows, columns).unsqueeze(-1)
        for k, (v, u) in enumerate(product((0, 1), (0, 1))):
            pixel = (rows.index[v], columns.index[u], field.width)
            waves = self._waves(gather(field.frequency, *pixel), rows.rel[v], columns.rel[u], phase)
            amplitude = gather(field.amplitude, *pixel)
            rgb = rgb + weights[k] * self.mlp(amplitude * waves.to(amplitude.dtype)).float()
        return rgb

    def _waves(self, frequency: Tensor, rel_y: Tensor, rel_x: Tensor, phase: Tensor) -> Tensor:
        """Cosines, then sines, of π times the point's offset along each frequency: (b, *point, hidden_dim)."""
        down, right = frequency.float().chunk(2, -1)
        angle = math.pi * (down * rel_y.unsqueeze(-1) + right * rel_x.unsqueeze(-1) + phase)
        return torch.cat((angle.cos(), angle.sin()), -1)

    def macs(self, size: Size, out: Size) -> Macs:
        maps = cost.conv2d(self.channels, self.hidden_dim, 3, *size) * 2
        return maps + self.mlp.macs(4 * out[0] * out[1])
