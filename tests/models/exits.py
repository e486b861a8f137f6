"""A toy of our multi-exit model for tests, far from the identity, so that every rim and every rounding is felt."""

from __future__ import annotations

import torch

from scalewise.models.multi_exit import MultiExitModel
from scalewise.multiexit.anyscale import AnyScaleExits
from scalewise.routing.patch import PatchRouter


def toy_exits(channels: int, exit_after: tuple[int, ...], kernels: tuple[int, ...], patch: int = 16) -> MultiExitModel:
    torch.manual_seed(0)
    network = AnyScaleExits(channels, exit_after=exit_after, kernels=kernels)
    for name, weight in network.named_parameters():
        if name.endswith(("conv2.weight", "coefficients.weight")):
            weight.data *= 10
    model = MultiExitModel(PatchRouter(len(exit_after), patch=patch, channels=4), network, patch=patch)
    return model.to(memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]
