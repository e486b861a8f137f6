"""ELAN: official outputs, parameter counts, costs, and why a tile is not the whole image."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from encoders.windowed import (
    Golden,
    check_batch_is_one_by_one_and_repeats,
    check_gradients_reach_every_parameter,
    counted_macs,
    parameters,
    tile_error,
    upscale,
)

from scalewise.encoders.elan import ELAN
from scalewise.errors import InvalidRequest
from scalewise.layers import pad_to_grid
from scalewise.upsamplers.fixed import DirectShuffle


def toy(**arguments: object) -> ELAN:
    plain = {"depth": 4, "windows": (2, 4), "share": 1} | arguments
    return ELAN(12, **plain)  # type: ignore[arg-type]


def test_published_parameter_counts() -> None:
    with torch.device("meta"):
        light = ELAN()
        assert parameters(light, DirectShuffle(60, 2)) == 582_012  # 582K in the paper
        assert parameters(light, DirectShuffle(60, 4)) == 601_488  # 601K
        assert parameters(ELAN(180, 36, share=0), DirectShuffle(180, 4)) == 8_312_448  # 8312K


@pytest.mark.parametrize(("folder", "scale"), [("elan_light_x4", 4), ("elan_noshare_x3", 3)])
def test_network_gives_the_official_image(shared: Path, folder: str, scale: int) -> None:
    golden = Golden(shared / "golden" / folder)
    golden.check("odd", "out", 255 * upscale(golden.model, golden.input("odd") / 255, scale))


def test_training_normalises_by_the_batch_as_published(shared: Path) -> None:
    golden = Golden(shared / "golden/elan_light_x4")
    golden.check("train", "out", 255 * upscale(golden.model.train(), golden.input("train") / 255, 4))


@pytest.mark.parametrize("share", [0, 1, 2])
def test_macs_equal_the_counter(share: int) -> None:
    encoder = toy(depth=6, share=share)
    assert encoder.macs((8, 12), (2.0, 2.0)).total == counted_macs(encoder, (8, 12))


def test_sharing_maps_costs_less() -> None:
    assert toy(share=1).macs((8, 8), (2.0, 2.0)).matmul * 4 == toy(share=0).macs((8, 8), (2.0, 2.0)).matmul * 3


def test_a_batch_is_its_images_one_by_one() -> None:
    check_batch_is_one_by_one_and_repeats(toy(), (8, 12))


def test_gradients_reach_every_parameter() -> None:
    check_gradients_reach_every_parameter(toy(), (8, 8))


def test_shifted_windows_reach_across_the_picture_so_context_is_the_whole_image() -> None:
    encoder = toy().eval()
    assert encoder.context is None
    lr = torch.rand(1, 3, 64, 8)
    changed = lr.clone()
    changed[..., -1, :] += 1
    with torch.no_grad():
        difference = (encoder(changed) - encoder(lr)).abs().amax((0, 1, 3))
    assert difference[0] > 1e-4  # the first row sees the last one
    assert difference[24:40].max() == 0  # the middle does not


def test_away_from_the_edge_a_tile_equals_the_whole_image() -> None:
    lr = torch.rand(1, 3, 64, 64)
    assert tile_error(toy(), lr, (28, 28, 36, 36), 16) <= 1e-5
    assert tile_error(toy(), lr, (0, 0, 8, 8), 16) > 1e-4


def test_small_pictures_are_padded_to_the_largest_window() -> None:
    assert pad_to_grid(torch.rand(1, 3, 5, 17), ELAN(12, 2).grid).shape[-2:] == (16, 32)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="cannot be split over windows"):
        toy(windows=(2, 4, 2, 4, 2))
