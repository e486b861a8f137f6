"""ARM: one super-network, of which every patch uses as many channels as its edges need. Chen et al., ECCV 2022,
arXiv:2203.10812.

A sub-network of width w (section 3.1) is the first w channels of every convolution but those to and from RGB and
FSRCNN's shrunk ones; with groups, the first w / groups inputs of the first w filters, so group boundaries move. Which
width a patch takes is read from a table (`routing/estimator.py`). Path 0 is bicubic, the last the whole network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from scalewise.budget.cost import Macs
from scalewise.errors import InvalidRequest
from scalewise.geometry.grid import Size
from scalewise.multiexit.paths import Backbone, bicubic, bicubic_macs, run_by_path


class ARM(nn.Module):
    """`backbone` is the widest network; `widths` rise, the last is its own."""

    def __init__(self, backbone: Backbone, widths: tuple[int, ...]) -> None:
        super().__init__()
        if list(widths) != sorted(set(widths)) or not widths or widths[-1] != backbone.channels or widths[0] < 1:
            raise InvalidRequest(f"widths {widths} of a network of {backbone.channels}: they rise and end with its own")
        self.network = backbone.build(backbone.channels)
        self.widths, self.paths, self.scale = tuple(widths), len(widths) + 1, self.network.scale
        with torch.device("meta"):  # shapes only: the weights are slices of the one network's
            self._narrow = [backbone.build(width) for width in widths[:-1]]

    def run(self, patches: Tensor, choice: Tensor) -> Tensor:
        """patches (n, 3, h, w) in [0, 1], choice (n,) on the CPU → (n, 3, 4h, 4w), not clamped."""
        return run_by_path(self.take, patches, choice, self.scale)

    def take(self, path: int, patches: Tensor) -> Tensor:
        """One path for all patches."""
        if path == 0:
            return bicubic(patches, self.scale)
        if path == self.paths - 1:
            return self.network(patches)
        narrow = self._narrow[path - 1]
        wide = dict(self.network.named_parameters()) | {"mean": self.network.mean}
        shapes = dict(narrow.named_parameters()) | dict(narrow.named_buffers())
        weights = {name: wide[name][tuple(slice(n) for n in like.shape)] for name, like in shapes.items()}
        return functional_call(narrow, weights, (patches,))

    def path_macs(self, path: int, side: Size) -> Macs:
        if path == 0:
            return bicubic_macs(side, self.scale)
        return (self._narrow[path - 1] if path < self.paths - 1 else self.network).macs(side)
