"""Fewer channels inside the blocks of a trained multi-exit network: which of them its pictures can do without.

A channel h (all its pixels) is worth E‖J·h‖², the change of the exits' pictures without it, where J is how they depend
on it. For random directions v of the pictures, (v·J·h)² has that mean, and v·J·h is the sum of h times its gradient
when v·picture is differentiated: the first-order criterion of Molchanov et al. (CVPR 2019, arXiv:1906.10771, Eq. 8),
of pictures in place of a loss. The channels between blocks stay, as all blocks and exits read them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.errors import InvalidRequest
from scalewise.layers import repeat_edge
from scalewise.multiexit.anyscale import BLOCK_MARGIN, STEM_MARGIN, AnyScaleExits, ValidResidualBlock
from scalewise.training.losses.exits import query_of
from scalewise.training.stage import Batch

MULTIPLE = 16  # of channels, which processors compute together


def worth_of_channels(network: AnyScaleExits, batches: Iterable[Batch], shares: Sequence[float]) -> list[Tensor]:
    """(hidden,) for each block: what its inner channels are worth to all exits, which count as `shares` says. The
    directions come from torch's random numbers."""
    network = copy.deepcopy(network).requires_grad_(False)
    worth = [torch.zeros(inside) for inside in network.hidden]
    count = 0
    for batch in batches:
        lr, query = batch["lr"].contiguous(memory_format=torch.channels_last), query_of(batch)
        features, held, seen = network.enter(repeat_edge(lr, STEM_MARGIN)).requires_grad_(True), [], lr.new_zeros(())
        for index, block in enumerate(network.blocks, 1):
            assert isinstance(block, ValidResidualBlock)
            inner = F.leaky_relu(block.conv1(repeat_edge(features, BLOCK_MARGIN)), block.slope)
            inner.retain_grad()
            held.append(inner)
            features = features + block.conv2(inner)
            if index in network.exit_after:
                level = network.level(index)
                residual = network.at(level, features, query).float()
                seen = seen + shares[level - 1] ** 0.5 * (residual * torch.randn_like(residual)).sum()
        seen.backward()
        for one, inner in zip(worth, held, strict=True):
            assert inner.grad is not None
            one += (inner.grad.float() * inner.detach().float()).sum((2, 3)).square().sum(0)
        count += len(lr)
    return [one / max(count, 1) for one in worth]


def widths_for(worth: Sequence[Tensor], keep: float) -> tuple[int, ...]:
    """How many channels each block keeps: of all together the share `keep` that is worth most, in each the nearest
    multiple of MULTIPLE, and at least one of these where there are so many. Raises InvalidRequest."""
    if not 0 < keep <= 1:
        raise InvalidRequest(f"keep {keep:g} is no share of the channels: give more than 0, and at most 1")
    together = torch.cat([one.flatten() for one in worth])
    least = together.sort(descending=True)[0][max(1, int(len(together) * keep)) - 1]
    kept = [int((one >= least).sum()) for one in worth]
    return tuple(
        min(len(one), max(MULTIPLE, round(count / MULTIPLE) * MULTIPLE)) for count, one in zip(kept, worth, strict=True)
    )


def narrowed(network: AnyScaleExits, worth: Sequence[Tensor], widths: Sequence[int]) -> AnyScaleExits:
    """The network with so many channels inside each block, those that are worth most; the others are left out."""
    own = copy.deepcopy(network)
    own.hidden = tuple(widths)
    for block, one, width in zip(own.blocks, worth, widths, strict=True):
        assert isinstance(block, ValidResidualBlock)
        chosen = one.argsort(descending=True)[:width].sort()[0]
        weight1, bias1, weight2, _ = block.tensors()
        block.hidden = block.conv1.out_channels = block.conv2.in_channels = width
        block.conv1.weight = nn.Parameter(weight1.detach()[chosen])
        block.conv1.bias = nn.Parameter(bias1.detach()[chosen])
        block.conv2.weight = nn.Parameter(weight2.detach()[:, chosen])
    return own
