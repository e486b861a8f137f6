"""SwinIR: official outputs, parameter counts, costs, and tiles that equal the whole image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from encoders import windowed
from torch._subclasses.fake_tensor import FakeTensorMode

from scalewise.encoders.swinir import SwinIR
from scalewise.errors import InvalidRequest
from scalewise.geometry.grid import Box
from scalewise.layers import mask_edges, mask_of_windows, relative_position_index, shift_mask
from scalewise.upsamplers.fixed import DirectShuffle


def toy(**arguments: object) -> SwinIR:
    plain = {"depths": (2, 1), "heads": (2, 3), "window": 4, "features": 8} | arguments
    return SwinIR(12, **plain)  # type: ignore[arg-type]


def test_published_parameter_counts() -> None:
    with torch.device("meta"):
        light = SwinIR(60, (6,) * 4, heads=(6,) * 4, features=None)
        assert windowed.parameters(SwinIR()) == 11_603_044
        assert windowed.parameters(SwinIR(features=None)) == 11_499_300
        assert windowed.parameters(light) == 903_660
        assert windowed.parameters(light, DirectShuffle(60, 2)) == 910_152


@pytest.mark.parametrize("case", ["mult8", "train_size", "odd"])
def test_lte_encoder_gives_the_official_features(shared: Path, case: str) -> None:
    golden = windowed.Golden(shared / "golden/swinir_lte_encoder")
    golden.check(case, "out", golden.features(golden.input(case)))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("case", ["odd", "train_size"])
def test_lightweight_network_gives_the_official_features_and_image(shared: Path, scale: int, case: str) -> None:
    golden = windowed.Golden(shared / f"golden/swinir_light_x{scale}")
    lr = golden.input(case)
    golden.check(case, "feat", golden.features(lr - windowed.MEAN))
    golden.check(case, "out", windowed.upscale(golden.model, lr, scale))


def test_ciaosr_encoder_gives_the_official_features(shared: Path) -> None:
    golden = windowed.Golden(shared / "golden/ciaosr_swinir")
    lr = golden.input("x2p7_odd")
    golden.check("x2p7_odd", "feat", golden.features(lr)[..., : lr.shape[-2], : lr.shape[-1]])


@pytest.mark.parametrize("size", [(8, 8), (12, 16)])
@pytest.mark.parametrize("features", [8, None])
def test_macs_equal_the_counter(size: tuple[int, int], features: int | None) -> None:
    encoder = toy(features=features)
    macs = encoder.macs(size, (2.0, 2.0))
    assert macs.total == windowed.counted_macs(encoder, size)
    assert min(macs.conv, macs.linear, macs.matmul) > 0 and macs.router == macs.sampling == 0


def test_a_batch_is_its_images_one_by_one() -> None:
    windowed.check_batch_is_one_by_one_and_repeats(toy(), (8, 12))


def test_gradients_reach_every_parameter() -> None:
    windowed.check_gradients_reach_every_parameter(toy(), (8, 8))


def test_tables_first_needed_in_inference_serve_training() -> None:
    for table in (relative_position_index, shift_mask):
        table.cache_clear()  # type: ignore[attr-defined]
    with torch.inference_mode():
        toy().eval()(torch.rand(1, 3, 8, 8))
    windowed.check_gradients_reach_every_parameter(toy(), (8, 8))


def test_tables_first_needed_while_a_graph_is_recorded_hold_numbers() -> None:
    shift_mask.cache_clear()  # type: ignore[attr-defined]
    with FakeTensorMode():
        first = shift_mask((4, 4), (2, 2))
    shift_mask.cache_clear()  # type: ignore[attr-defined]
    assert type(first) is torch.Tensor and torch.equal(first, shift_mask((4, 4), (2, 2)))


def test_stochastic_depth_only_acts_in_training() -> None:
    encoder = toy(drop_path=0.9)
    lr = torch.rand(1, 3, 8, 8).expand(4, -1, -1, -1)
    with torch.no_grad():
        trained, evaluated = encoder.train()(lr), encoder.eval()(lr)
    assert (trained - trained[:1]).abs().max() > 1e-4
    assert (evaluated - evaluated[:1]).abs().max() < 1e-5


def test_initialisation_is_swins() -> None:
    trunk: Any = SwinIR(60, (1,), heads=(6,), features=None)
    block = trunk.groups[0].blocks[0]
    for weight in (block.attention.qkv.weight, block.mlp.fc1.weight, block.attention.bias_table):
        assert abs(float(weight.detach().std()) - 0.02) < 2e-3
    assert not block.attention.qkv.bias.any() and not block.mlp.fc2.bias.any()


@pytest.mark.parametrize(
    ("depths", "features"), [((1,), None), ((2,), None), ((2,), 8), ((3,), 8), ((2, 1), 8), ((2, 2), None)]
)
def test_context_is_the_receptive_field(depths: tuple[int, ...], features: int | None) -> None:
    encoder = toy(depths=depths, heads=(2,) * len(depths), features=features)
    assert encoder.context == windowed.measured_reach(encoder, -2) == windowed.measured_reach(encoder, -1)


@pytest.mark.parametrize("window", [3, 5])
def test_context_covers_odd_windows(window: int) -> None:
    encoder = toy(window=window)
    assert encoder.context is not None
    reach = windowed.measured_reach(encoder, -2)
    assert encoder.context - window < reach <= encoder.context


@pytest.mark.parametrize("core", windowed.CORES)
def test_tiles_equal_the_whole_image(core: Box) -> None:
    windowed.check_tile_equals_the_whole_image(toy(), core)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="cannot be split over 5 heads"):
        toy(heads=(5, 5))
    with pytest.raises(InvalidRequest, match="differ in length"):
        toy(heads=(2,))


def test_masks_of_all_windows_are_those_of_the_edges() -> None:
    mask, scores = shift_mask((4, 4), (2, 2)), torch.zeros(1, 3, 2, 1, 16, 16)
    mask_edges(scores, mask)
    assert torch.equal(mask_of_windows(scores, mask).expand(3, 2, 1, 16, 16), scores[0])
