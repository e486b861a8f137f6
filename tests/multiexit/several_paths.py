"""What the tests of networks with several paths share: published inputs, and properties of `run` and `path_macs`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scalewise.geometry.grid import Size

FIVE = "mean, deviation, y[0, 0, 0, 0], y[0, 1, 17, 23], y[0, 2, -1, -1]"


def waves(height: int = 32, width: int = 32) -> Tensor:
    """The picture of which published networks' numbers are known: ((7i + 13j + 29c) mod 64) / 63."""
    i, j, c = torch.meshgrid(torch.arange(height), torch.arange(width), torch.arange(3), indexing="ij")
    return (((7 * i + 13 * j + 29 * c) % 64).float() / 63).permute(2, 0, 1).unsqueeze(0)


def check_five(picture: Tensor, numbers: str) -> None:
    """Five numbers of a picture, as the published network gives it."""
    points = (picture[0, 0, 0, 0], picture[0, 1, 17, 23], picture[0, 2, -1, -1])
    found = [picture.mean(), picture.std(unbiased=False), *points]
    expected = torch.tensor([float(n) for n in numbers.split()])
    torch.testing.assert_close(torch.stack(found), expected, rtol=0, atol=1e-4, msg=lambda m: f"{FIVE}: {m}")


@torch.no_grad()
def check_together_is_alone(network: Any, side: Size) -> None:
    """Patches of all paths in one call, in any order, give what each gives alone, and the same bits every time."""
    generator = torch.Generator().manual_seed(3)
    choice = torch.arange(2 * network.paths)[torch.randperm(2 * network.paths, generator=generator)] % network.paths
    patches = torch.rand(len(choice), 3, *side, generator=generator)
    together = network.run(patches, choice)
    assert together.shape == (len(choice), 3, side[0] * network.scale, side[1] * network.scale)
    assert torch.equal(together, network.run(patches, choice))
    alone = torch.cat([network.run(patches[i : i + 1], choice[i : i + 1]) for i in range(len(choice))])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def check_macs_are_counted(network: Any, side: Size) -> None:
    """The cost of a path rises with it, and is what torch counts. With gradients a transposed convolution runs as
    one: without, it multiplies by zeros too, which we do not count."""
    costs = [network.path_macs(path, side).total for path in range(network.paths)]
    assert costs == sorted(set(costs))
    for path, expected in enumerate(costs):
        with torch.enable_grad(), FlopCounterMode(display=False) as counter:
            network.run(torch.rand(2, 3, *side), torch.full((2,), path))
        assert counter.get_total_flops() // 2 == 2 * expected


class PathTests:
    """What every network with several paths promises: a subclass runs these on the fixture `network` of its file."""

    def test_patches_together_are_patches_alone(self, network: Any) -> None:
        check_together_is_alone(network, (5, 11))

    def test_a_path_costs_what_runs(self, network: Any) -> None:
        check_macs_are_counted(network, (8, 12))
