"""What networks with several paths per patch share: the plain network of fixed scale, bicubic as the cheapest path, and
running patches of one path together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn

from scalewise.budget.cost import Macs, matmul
from scalewise.contracts import PlainEncoder
from scalewise.encoders.carn import CARN
from scalewise.encoders.fsrcnn import FSRCNN
from scalewise.encoders.srresnet import SRResNet
from scalewise.geometry.grid import Size
from scalewise.upsamplers.fixed import CascadeTail, Deconvolution, FixedTail, ResNetTail

BICUBIC = -0.75  # torch's coefficient, which these papers use; MATLAB's is -0.5
TAPS = 5  # LR pixels under the kernel of all phases of an output pixel


class FixedNetwork(nn.Module):
    """An encoder with its tail, on RGB in [0, 1]; the networks see x - mean."""

    mean: Tensor

    def __init__(
        self, encoder: PlainEncoder, tail: FixedTail, *, scale: int = 4, mean: tuple[float, float, float] = (0, 0, 0)
    ) -> None:
        super().__init__()
        self.encoder, self.tail, self.scale = encoder, tail, scale
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)

    def forward(self, lr: Tensor) -> Tensor:
        """(b, 3, h, w) → (b, 3, h·scale, w·scale), not clamped."""
        normal = lr - self.mean
        return self.tail.upscale(self.encoder(normal), normal, self.scale) + self.mean

    def macs(self, size: Size) -> Macs:
        return self.encoder.macs(size, (self.scale, self.scale)) + self.tail.upscale_macs(size, self.scale)


@dataclass(frozen=True)
class Backbone:
    """One of the three networks that ClassSR, ARM and ENAF are built on, at any width."""

    name: Literal["fsrcnn", "carn", "srresnet"]
    channels: int
    shrink: int = 12  # FSRCNN
    maps: int = 4  # FSRCNN
    groups: int = 4  # CARN-M
    blocks: int = 16  # SRResNet
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: int = 4

    def build(self, channels: int) -> FixedNetwork:
        encoder, tail = self._parts(channels)
        return FixedNetwork(encoder, tail, scale=self.scale, mean=self.mean)

    def _parts(self, channels: int) -> tuple[PlainEncoder, FixedTail]:
        if self.name == "fsrcnn":
            return FSRCNN(channels, self.shrink, maps=self.maps), Deconvolution(channels, self.scale)
        if self.name == "carn":
            return CARN(channels, self.groups), CascadeTail(channels, (self.scale,), groups=self.groups)
        return SRResNet(channels, self.blocks), ResNetTail(channels, self.scale)


def run_by_path(take: Callable[[int, Tensor], Tensor], patches: Tensor, choice: Tensor, scale: int) -> Tensor:
    """patches (n, 3, h, w), choice (n,) on the CPU → (n, 3, h·scale, w·scale): `take(path, patches)` once per path."""
    taken = choice.unique().tolist()
    if len(taken) == 1:
        return take(int(taken[0]), patches)
    height, width = patches.shape[-2:]
    out = patches.new_empty(len(patches), 3, height * scale, width * scale)
    for path in taken:
        of = (choice == path).nonzero().squeeze(1).to(patches.device)
        out.index_copy_(0, of, take(int(path), patches[of]).to(out.dtype))
    return out


def bicubic(patches: Tensor, scale: int) -> Tensor:
    """(n, 3, h, w) → (n, 3, h·scale, w·scale) as torch's bicubic, edges repeated: a matrix product per axis, several
    times faster on a CPU."""
    height, width = patches.shape[-2:]
    with torch.autocast(patches.device.type, enabled=False):
        rows, columns = (_axis(n, scale).to(patches.device) for n in (height, width))
        return rows @ (patches.float() @ columns.T)


def bicubic_macs(size: Size, scale: int) -> Macs:
    height, width = size
    return matmul(3 * height, width, width * scale) + matmul(height * scale, height, width * scale, batch=3)


@lru_cache(maxsize=16)
def _axis(length: int, scale: int) -> Tensor:
    """(length·scale, length): what takes an axis of a patch to its output pixels."""
    matrix = torch.zeros(length * scale, length)
    taps = (torch.arange(length * scale) // scale).unsqueeze(1) + torch.arange(TAPS) - TAPS // 2
    return matrix.scatter_add_(1, taps.clamp(0, length - 1), _phases(scale).repeat(length, 1))


def _phases(scale: int) -> Tensor:
    """(scale, taps) float32: the weights of the LR pixels i - 2 … i + 2 for output pixel i·scale + phase."""
    place = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    away = (torch.arange(TAPS) - TAPS // 2 - place.unsqueeze(1)).abs()
    a = BICUBIC
    near = ((a + 2) * away - (a + 3)) * away**2 + 1
    far = a * (away**3 - 5 * away**2 + 8 * away - 4)
    return torch.where(away <= 1, near, torch.where(away < 2, far, torch.zeros_like(far))).float()
