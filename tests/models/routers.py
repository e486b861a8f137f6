"""A router of patches for tests: its evidence is the gain of each of three paths, and `eta` is their price."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Size


class PricedRouter(nn.Module):
    """A subclass gives `evidence`."""

    dials: tuple[str, ...] = ("eta",)

    def gain(self, evidence: Tensor) -> Tensor:
        return evidence

    def native(self, evidence: Tensor, value: float) -> Tensor:
        return (evidence - value * torch.tensor([0.0, 0.5, 1.0]).view(-1, 1, 1)).argmax(0)

    def macs(self, size: Size) -> Macs:
        return Macs(router=size[0] * size[1])
