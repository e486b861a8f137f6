"""Narrower networks: what a channel is worth is what the pictures lose without it, and the rest stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import default_collate

from scalewise.data import AnyScaleCrops
from scalewise.errors import InvalidRequest
from scalewise.multiexit.anyscale import AnyScaleExits, ValidResidualBlock
from scalewise.training.losses.exits import query_of
from scalewise.training.narrow import narrowed, widths_for, worth_of_channels
from scalewise.training.stage import Batch

CROPS = AnyScaleCrops(lr_side=16, points=32, layout="rows", base=True, scales=(2.0, 2.0), unequal=0.0)


def network(exit_after: tuple[int, ...] = (1, 2)) -> AnyScaleExits:
    torch.manual_seed(1)
    own = AnyScaleExits(8, exit_after=exit_after, kernels=(3,) * len(exit_after), slope=0.1)
    for name, weight in own.named_parameters():
        if name.endswith(("conv2.weight", "coefficients.weight")):
            weight.data *= 10
    return own.eval()


def block(own: AnyScaleExits, index: int) -> ValidResidualBlock:
    found = own.blocks[index - 1]
    assert isinstance(found, ValidResidualBlock)
    return found


def batch() -> Batch:
    random = np.random.default_rng(2)
    pictures = [torch.from_numpy(random.integers(0, 256, (3, 40, 40), dtype=np.uint8))]
    return default_collate([CROPS.sample(pictures, random) for _ in range(3)])


@torch.no_grad()
def pictures_of(own: AnyScaleExits, here: Batch) -> list[Tensor]:
    everywhere = torch.full_like(here["lr"][:, :1], own.exits, dtype=torch.int64)
    return own.dense(here["lr"], query_of(here), everywhere)


def test_worth_is_what_the_picture_loses() -> None:
    """One block, whose inner channels the picture depends on linearly: each is taken out, and the change measured."""
    own, here = network((1,)), batch()
    torch.manual_seed(3)
    (worth,) = worth_of_channels(own, [here] * 400, (1.0,))
    (whole,) = pictures_of(own, here)
    lost = []
    for channel in range(8):
        without = network((1,))
        with torch.no_grad():
            block(without, 1).conv2.weight[:, channel] = 0
        lost.append((pictures_of(without, here)[0] - whole).square().sum((1, 2, 3)).mean())
    torch.testing.assert_close(worth, torch.stack(lost), rtol=0.25, atol=1e-6)  # 1200 random directions


def test_what_is_worth_nothing_goes_without_a_trace() -> None:
    own, here = network(), batch()
    with torch.no_grad():
        block(own, 1).conv2.weight[:, [0, 3, 5]] = 0
        block(own, 2).conv1.weight[6] = 0
        block(own, 2).tensors()[1][6] = 0  # zero before the ReLU, everywhere
    worth = worth_of_channels(own, [here], (0.3, 1.0))
    assert [(one == 0).nonzero().flatten().tolist() for one in worth] == [[0, 3, 5], [6]]
    narrow = narrowed(own, worth, (5, 7))
    assert narrow.hidden == (5, 7) and own.hidden == (8, 8)
    for one, other in zip(pictures_of(narrow, here), pictures_of(own, here), strict=True):
        torch.testing.assert_close(one, other)
    again = AnyScaleExits(8, exit_after=(1, 2), kernels=(3, 3), slope=0.1, hidden=(5, 7))
    again.load_state_dict(narrow.state_dict())
    assert sum(narrow.block_macs(index, 9, 9).total for index in (1, 2)) < sum(
        own.block_macs(index, 9, 9).total for index in (1, 2)
    )


def test_widths_are_multiples_that_keep_the_best_of_all_blocks() -> None:
    worth = [torch.linspace(0, 0.1, 64), torch.linspace(1, 2, 64), torch.cat((torch.zeros(40), torch.ones(24)))]
    assert widths_for(worth, 1) == (64, 64, 64)
    assert widths_for(worth, 88 / 192) == (16, 64, 32)  # 24 of the third: the nearest multiple; never none
    with pytest.raises(InvalidRequest, match="keep 0 is no share"):
        widths_for(worth, 0)


def test_blocks_have_a_width_each() -> None:
    for hidden in ((8,), (8, 8, 8), (8, 0)):
        with pytest.raises(InvalidRequest, match="2 blocks have one positive number each"):
            AnyScaleExits(8, exit_after=(1, 2), kernels=(3, 3), hidden=hidden)
