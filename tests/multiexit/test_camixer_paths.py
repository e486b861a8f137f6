"""ClassSR with CAMixerSR: patches together equal patches alone, and the cost of a path is what runs."""

from __future__ import annotations

import pytest
import torch

from scalewise.budget.budget import Effort
from scalewise.encoders.camixer import BASE
from scalewise.errors import InvalidRequest
from scalewise.geometry.grid import Frame
from scalewise.multiexit.camixer_paths import CAMixerPaths


def test_published_parameter_counts() -> None:
    with torch.device("meta"):
        three, shared = CAMixerPaths(), CAMixerPaths((BASE,), (0.25, 0.3, 0.5))
    assert sum(p.numel() for p in three.parameters()) + 60_035 == 1_711_153  # with ClassSR's classifier
    assert sum(p.numel() for p in shared.parameters()) == 765_322


@pytest.mark.parametrize("channels", [(8, 12), (12,)])
@pytest.mark.parametrize("side", [(32, 32), (20, 9)])
def test_patches_together_are_patches_alone(channels: tuple[int, ...], side: tuple[int, int]) -> None:
    network = CAMixerPaths(channels, (0.25, 0.75), scale=2, depths=(1, 1)).eval()
    patches, choice = torch.rand(5, 3, *side), torch.tensor([1, 0, 0, 1, 1])
    with torch.no_grad():
        together = network.run(patches, choice)
        alone = torch.cat([network.run(patches[i : i + 1], choice[i : i + 1]) for i in range(5)])
    assert together.shape == (5, 3, 2 * side[0], 2 * side[1])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_a_path_costs_what_its_network_runs() -> None:
    network = CAMixerPaths((12,), (0.25, 0.5, 1.0), scale=2, depths=(2, 1)).eval()
    costs = [network.path_macs(path, (32, 32)).total for path in range(3)]
    assert costs == sorted(set(costs))
    encoder = network.encoders[0]
    with torch.no_grad():
        for path, keep in enumerate(network.keep):
            route = encoder.encode(
                torch.rand(1, 3, 32, 32), Frame((32, 32)), torch.ones(1, 2), Effort(keep=keep), ()
            ).route  # type: ignore[operator]
            ran = encoder.macs((32, 32), (2.0, 2.0), route) + network.tails[0].upscale_macs((32, 32), 2)  # type: ignore[operator]
            assert ran.total == costs[path]


def test_networks_and_paths_must_match() -> None:
    with pytest.raises(InvalidRequest, match="2 networks for 3 paths"):
        CAMixerPaths((8, 12), (0.1, 0.2, 0.3))
