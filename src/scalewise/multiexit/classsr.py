"""ClassSR: three networks of rising width, and a class per patch that says which. Kong et al., CVPR 2021,
arXiv:2103.04039. The classifier and its rule are in `routing/estimator.py`; in training `mixed` is its Eq. 2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Size
from scalewise.multiexit.paths import Backbone, run_by_path


class ClassSR(nn.Module):
    """A network of `backbone` for each of `channels`, cheapest first."""

    def __init__(self, backbone: Backbone, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(backbone.build(c) for c in channels)
        self.paths, self.scale = len(channels), backbone.scale

    def run(self, patches: Tensor, choice: Tensor) -> Tensor:
        """patches (n, 3, h, w) in [0, 1], choice (n,) on the CPU → (n, 3, 4h, 4w), not clamped."""
        return run_by_path(self.take, patches, choice, self.scale)

    def take(self, path: int, patches: Tensor) -> Tensor:
        """One path for all patches."""
        return self.networks[path](patches)

    def mixed(self, patches: Tensor, probability: Tensor) -> Tensor:
        """The sum of all networks' pictures, weighted by the classes' probabilities (n, paths): for training."""
        return mix([self.take(path, patches) for path in range(self.paths)], probability)

    def path_macs(self, path: int, side: Size) -> Macs:
        return self.networks[path].macs(side)  # type: ignore[operator]


def mix(pictures: Sequence[Tensor], probability: Tensor) -> Tensor:
    """Pictures (n, 3, h, w) of each class, weighted by probabilities (n, classes), and added (Eq. 2)."""
    return (torch.stack(list(pictures), 1) * probability[:, :, None, None, None]).sum(1)


def class_loss(probability: Tensor) -> Tensor:
    """Eq. 4: how far the probabilities (n, classes) are from a clear decision: classes - 1 minus their summed
    distances."""
    pairs = (probability.unsqueeze(1) - probability.unsqueeze(2)).abs().sum((1, 2)) / 2
    return (probability.shape[1] - 1 - pairs).mean()


def average_loss(probability: Tensor) -> Tensor:
    """Eq. 5: how unevenly the classes are used in a batch, as a share of the worst."""
    samples, classes = probability.shape
    even = samples / classes
    return ((probability.sum(0) - even).abs() / (even * 4)).sum()
