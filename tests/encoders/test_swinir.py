"""SwinIR: official outputs, parameter counts, costs, and tiles that equal the whole image."""

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
    measured_reach,
    parameters,
    tile_error,
    upscale,
)
from torch.utils.flop_counter import FlopCounterMode

from scalewise.compat.keys_swinir import UncroppedSwinIR, swinir_from_official
from scalewise.compat.padding import PaddedThroughout, Padding
from scalewise.encoders.swinir import SwinIR
from scalewise.errors import CheckpointError, InvalidRequest
from scalewise.layers import relative_position_index, shift_mask
from scalewise.model import SuperResolver
from scalewise.upsamplers.fixed import DirectShuffle


def toy(**arguments: object) -> SwinIR:
    plain = {"depths": (2, 1), "heads": (2, 3), "window": 4, "features": 8} | arguments
    return SwinIR(12, **plain)  # type: ignore[arg-type]


def test_published_parameter_counts() -> None:
    with torch.device("meta"):
        light = SwinIR(60, (6,) * 4, heads=(6,) * 4, features=None)
        assert parameters(SwinIR()) == 11_603_044
        assert parameters(SwinIR(features=None)) == 11_499_300
        assert parameters(light) == 903_660
        assert parameters(light, DirectShuffle(60, 2)) == 910_152


@pytest.mark.parametrize("case", ["mult8", "train_size", "odd"])
def test_lte_encoder_gives_the_official_features(shared: Path, case: str) -> None:
    golden = Golden(shared / "golden/swinir_lte_encoder", "model", "sd")
    translation = swinir_from_official(golden.state)
    assert not translation.rest
    encoder = UncroppedSwinIR(**translation.arguments).eval()
    encoder.load_state_dict(translation.state)
    with torch.no_grad():
        golden.check(case, "out", encoder(golden.input(case)))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lightweight_network_gives_the_official_image(shared: Path, scale: int) -> None:
    golden = Golden(shared / f"golden/swinir_light_x{scale}", "params")
    translation = swinir_from_official(golden.state)
    encoder = SwinIR(**translation.arguments)
    encoder.load_state_dict(translation.state)
    tail = DirectShuffle(encoder.channels, scale)
    tail.load_state_dict({f"conv.{key.split('.')[-1]}": value for key, value in translation.rest.items()})
    for case in golden.cases:
        evaluated = case == "eval_pad"
        padding = Padding(encoder.grid, flip=evaluated, always=evaluated)
        model = PaddedThroughout(encoder, tail, padding, mean=MEAN, std=(1, 1, 1)).eval()
        golden.check(case, "out", upscale(model, golden.input(case), scale))
        if not evaluated:
            with torch.no_grad():
                golden.check(case, "feat", encoder(padding(golden.input(case) - torch.tensor(MEAN).view(1, 3, 1, 1))))


def test_padding_throughout_changes_only_the_padded_edge() -> None:
    encoder, tail = toy(), DirectShuffle(8, 2)
    lr = torch.rand(1, 3, 6, 8)
    ours = upscale(SuperResolver(encoder, tail).eval(), lr, 2)
    official = upscale(PaddedThroughout(encoder, tail, Padding(4)).eval(), lr, 2)
    assert official.shape == ours.shape
    assert torch.allclose(ours[..., :10, :], official[..., :10, :], atol=1e-6)
    assert not torch.allclose(ours[..., 10:, :], official[..., 10:, :], atol=1e-6)


@pytest.mark.parametrize(("flip", "always"), [(False, False), (True, False), (True, True)])
def test_cost_of_padding_throughout_equals_the_counter(flip: bool, always: bool) -> None:
    model = PaddedThroughout(toy(), DirectShuffle(8, 2), Padding(4, flip, always)).eval()
    with FlopCounterMode(display=False) as counter:
        upscale(model, torch.rand(1, 3, 8, 5), 2)
    assert model.macs((8, 5), (16, 10)).total == counter.get_total_flops() // 2


def test_flipped_padding_repeats_the_edge() -> None:
    lr = torch.arange(5.0).view(1, 1, 1, 5)
    assert Padding(4, flip=True)(lr)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 4, 3, 2]
    assert Padding(16, flip=True)(lr).shape[-2:] == (16, 16)  # more than the picture holds
    assert Padding(5, flip=True, always=True).size((5, 6)) == (10, 10)


def test_ciaosr_encoder_gives_the_official_features(shared: Path) -> None:
    golden = Golden(shared / "golden/ciaosr_swinir", "state_dict")
    state = {key.removeprefix("generator."): value for key, value in golden.state.items()}
    translation = swinir_from_official(state)
    encoder = UncroppedSwinIR(**translation.arguments).eval()
    encoder.load_state_dict(translation.state)
    lr = golden.input("x2p7_odd")
    with torch.no_grad():
        golden.check("x2p7_odd", "feat", encoder(lr)[..., : lr.shape[-2], : lr.shape[-1]])


def test_keys_of_an_unknown_variant_are_refused(shared: Path) -> None:
    state = dict(Golden(shared / "golden/swinir_lte_encoder", "model", "sd").state)
    mask = "layers.0.residual_group.blocks.1.attn_mask"
    with pytest.raises(CheckpointError, match="attn_mask is not what"):
        swinir_from_official(state | {mask: torch.zeros_like(state[mask])})
    with pytest.raises(CheckpointError, match="attn_mask is missing"):
        swinir_from_official({key: value for key, value in state.items() if key != mask})
    with pytest.raises(CheckpointError, match=r"conv_first\.weight is missing"):
        swinir_from_official({})
    without_buffers = {key: value for key, value in state.items() if "mask" not in key and "index" not in key}
    assert swinir_from_official(without_buffers).arguments == swinir_from_official(state).arguments


@pytest.mark.parametrize("size", [(8, 8), (12, 16)])
@pytest.mark.parametrize("features", [8, None])
def test_macs_equal_the_counter(size: tuple[int, int], features: int | None) -> None:
    encoder = toy(features=features)
    macs = encoder.macs(size, (2.0, 2.0))
    assert macs.total == counted_macs(encoder, size)
    assert min(macs.conv, macs.linear, macs.matmul) > 0 and macs.router == macs.sampling == 0


def test_uncropped_variant_counts_what_it_pads() -> None:
    encoder = UncroppedSwinIR(12, (2,), heads=(2,), window=4, features=None)
    assert encoder.macs((6, 9), (2.0, 2.0)).total == counted_macs(encoder, (6, 9))


def test_a_batch_is_its_images_one_by_one() -> None:
    check_batch_is_one_by_one_and_repeats(toy(), (8, 12))


def test_gradients_reach_every_parameter() -> None:
    check_gradients_reach_every_parameter(toy(), (8, 8))


def test_tables_first_needed_in_inference_serve_training() -> None:
    for table in (relative_position_index, shift_mask):
        table.cache_clear()  # type: ignore[attr-defined]
    with torch.inference_mode():
        toy().eval()(torch.rand(1, 3, 8, 8))
    check_gradients_reach_every_parameter(toy(), (8, 8))


def test_stochastic_depth_only_acts_in_training() -> None:
    encoder = toy(drop_path=0.9)
    lr = torch.rand(1, 3, 8, 8).expand(4, -1, -1, -1)
    with torch.no_grad():
        trained, evaluated = encoder.train()(lr), encoder.eval()(lr)
    assert (trained - trained[:1]).abs().max() > 1e-4
    assert (evaluated - evaluated[:1]).abs().max() < 1e-5


def test_initialisation_is_swins() -> None:
    block = SwinIR(60, (1,), heads=(6,), features=None).groups[0].blocks[0]  # type: ignore[union-attr, index]
    for weight in (block.attention.qkv.weight, block.mlp.fc1.weight, block.attention.bias_table):
        assert abs(float(weight.detach().std()) - 0.02) < 2e-3
    assert not block.attention.qkv.bias.any() and not block.mlp.fc2.bias.any()


@pytest.mark.parametrize(
    ("depths", "features"), [((1,), None), ((2,), None), ((2,), 8), ((3,), 8), ((2, 1), 8), ((2, 2), None)]
)
def test_context_is_the_receptive_field(depths: tuple[int, ...], features: int | None) -> None:
    encoder = toy(depths=depths, heads=(2,) * len(depths), features=features)
    assert encoder.context == measured_reach(encoder, -2) == measured_reach(encoder, -1)


@pytest.mark.parametrize("window", [3, 5])
def test_context_covers_odd_windows(window: int) -> None:
    encoder = toy(window=window)
    assert encoder.context is not None
    reach = measured_reach(encoder, -2)
    assert encoder.context - window < reach <= encoder.context


@pytest.mark.parametrize("core", [(16, 16, 24, 24), (0, 0, 8, 8), (17, 21, 26, 23), (40, 33, 48, 48)])
def test_tiles_equal_the_whole_image(core: tuple[int, int, int, int]) -> None:
    encoder = toy()
    assert encoder.context is not None
    lr = torch.rand(1, 3, 48, 48)
    assert tile_error(encoder, lr, core, encoder.context) <= 1e-5
    assert tile_error(encoder, lr, core, 0) > 1e-4


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="cannot be split over 5 heads"):
        toy(heads=(5, 5))
    with pytest.raises(InvalidRequest, match="differ in length"):
        toy(heads=(2,))
