"""ELAN: official outputs, parameter counts, costs, and why a tile is not the whole image."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from encoders.windowed import (
    MEAN,
    Golden,
    check_batch_is_one_by_one_and_repeats,
    check_gradients_reach_every_parameter,
    counted_macs,
    parameters,
    tile_error,
    upscale,
)

from scalewise.compat.keys_elan import elan_from_official
from scalewise.compat.padding import PaddedThroughout, Padding
from scalewise.encoders.elan import ELAN
from scalewise.errors import CheckpointError, InvalidRequest
from scalewise.model import pad_to_grid
from scalewise.upsamplers.fixed import DirectShuffle


def toy(**arguments: object) -> ELAN:
    plain = {"depth": 4, "windows": (2, 4), "share": 1} | arguments
    return ELAN(12, **plain)  # type: ignore[arg-type]


def published(folder: Path) -> tuple[Golden, PaddedThroughout, int]:
    """The whole network: images in [0, 1] outside, 0..255 with the mean subtracted inside."""
    golden = Golden(folder, "model_state_dict")
    translation = elan_from_official(golden.state)
    encoder = ELAN(**translation.arguments)
    encoder.load_state_dict(translation.state)
    scale = int(folder.name[-1])
    tail = DirectShuffle(encoder.channels, scale)
    rest = {key.replace("tail.0", "conv"): value for key, value in translation.rest.items() if "tail" in key}
    tail.load_state_dict(rest)
    return golden, PaddedThroughout(encoder, tail, Padding(16), mean=MEAN, std=(1 / 255,) * 3), scale


def test_published_parameter_counts() -> None:
    with torch.device("meta"):
        light = ELAN()
        assert parameters(light, DirectShuffle(60, 2)) == 582_012  # 582K in the paper
        assert parameters(light, DirectShuffle(60, 4)) == 601_488  # 601K
        assert parameters(ELAN(180, 36, share=0), DirectShuffle(180, 4)) == 8_312_448  # 8312K


@pytest.mark.parametrize("folder", ["elan_light_x4", "elan_noshare_x3"])
def test_network_gives_the_official_image(shared: Path, folder: str) -> None:
    golden, model, scale = published(shared / "golden" / folder)
    golden.check("odd", "out", 255 * upscale(model.eval(), golden.input("odd") / 255, scale))


def test_training_normalises_by_the_batch_as_published(shared: Path) -> None:
    golden, model, scale = published(shared / "golden/elan_light_x4")
    golden.check("train", "out", 255 * upscale(model.train(), golden.input("train") / 255, scale))


def test_keys_of_an_unknown_variant_are_refused(shared: Path) -> None:
    state = dict(Golden(shared / "golden/elan_light_x4", "model_state_dict").state)
    kernel = "body.1.modules_lfe.lfe_0.conv1.shift_conv.weight"
    with pytest.raises(CheckpointError, match=r"shift_conv\.weight is not what"):
        elan_from_official(state | {kernel: state[kernel].roll(1, 0)})
    with pytest.raises(CheckpointError, match=r"head\.0\.weight is missing"):
        elan_from_official({})
    assert elan_from_official(state).assumed == {"windows": (4, 8, 16)}


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
