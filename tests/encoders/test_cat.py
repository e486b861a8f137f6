"""CAT: official outputs, parameter counts, costs, and tiles that equal the whole image."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from encoders import windowed

from scalewise.encoders.cat import CAT
from scalewise.errors import InvalidRequest
from scalewise.geometry.grid import Box
from scalewise.upsamplers.fixed import PixelShuffle


def toy(**arguments: object) -> CAT:
    plain = {"depths": (2,), "heads": (4,), "splits": ((2, 4),), "features": 8} | arguments
    return CAT(64, **plain)  # type: ignore[arg-type]


def test_published_parameter_counts() -> None:
    with torch.device("meta"):
        encoder = CAT()
        assert windowed.parameters(encoder) == 11_628_100
        assert windowed.parameters(encoder, PixelShuffle(64, 4)) == 11_925_255
    assert encoder.grid == 16


@pytest.mark.parametrize("case", ["train_size_batch2", "other_size"])
def test_network_gives_the_official_features_and_image(shared: Path, case: str) -> None:
    golden = windowed.Golden(shared / "golden/cat_r2_encoder")
    lr = golden.input(case)
    golden.check(case, "feat", golden.features(lr - windowed.MEAN))
    golden.check(case, "out", windowed.upscale(golden.model, lr, 1))


@pytest.mark.parametrize("size", [(8, 8), (4, 16)])
@pytest.mark.parametrize("features", [8, None])
def test_macs_equal_the_counter(size: tuple[int, int], features: int | None) -> None:
    encoder = toy(features=features, depths=(2, 1), heads=(4, 2), splits=((2, 4), (1, 4)))
    assert encoder.macs(size, (2.0, 2.0)).total == windowed.counted_macs(encoder, size)


def test_a_batch_is_its_images_one_by_one() -> None:
    windowed.check_batch_is_one_by_one_and_repeats(toy(), (8, 12))


def test_gradients_reach_every_parameter() -> None:
    windowed.check_gradients_reach_every_parameter(toy(), (8, 8))


@pytest.mark.parametrize(
    ("depths", "splits"), [((1,), ((2, 4),)), ((2,), ((2, 4),)), ((3,), ((2, 8),)), ((2, 1), ((2, 4), (2, 8)))]
)
def test_context_is_the_receptive_field(depths: tuple[int, ...], splits: tuple[tuple[int, int], ...]) -> None:
    encoder = toy(depths=depths, splits=splits, heads=(4,) * len(depths))
    assert encoder.context == windowed.measured_reach(encoder, -2) == windowed.measured_reach(encoder, -1)


@pytest.mark.parametrize("core", windowed.CORES)
def test_tiles_equal_the_whole_image(core: Box) -> None:
    windowed.check_tile_equals_the_whole_image(toy(), core)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="heads must be even"):
        toy(heads=(3,))
    with pytest.raises(InvalidRequest, match="differ in length"):
        toy(heads=(2, 2))
