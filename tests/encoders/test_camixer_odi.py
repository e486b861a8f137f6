"""The omnidirectional CAMixerSR: deformable convolution, latitudes, windows that wrap around in longitude only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from encoders.windowed import parameters
from safetensors.torch import load_file
from torch import Tensor, nn

from scalewise.budget.budget import Effort
from scalewise.encoders.camixer_block import Mixer
from scalewise.encoders.camixer_odi import CAMixerODI, deformable
from scalewise.geometry.grid import Frame
from scalewise.geometry.projection import latitude_weights
from scalewise.routing.window import Predictor
from scalewise.upsamplers.fixed import DirectShuffle


def test_published_parameter_counts() -> None:
    with torch.device("meta"):
        for scale, count in ((2, 1_305_147), (4, 1_324_623), (8, 1_402_527), (16, 1_714_143)):
            assert parameters(CAMixerODI(), DirectShuffle(60, scale)) == count


def test_deformable_convolution_is_the_official_one(shared: Path) -> None:
    folder = shared / "golden/ref_ops"
    case = next(case for case in json.loads((folder / "meta.json").read_text())["cases"] if case["id"] == "deform")
    tensors = load_file(folder / "cases.safetensors")
    x, offset, mask, weight, bias = (tensors[f"deform.in.{name}"] for name in ("x", "offset", "mask", "weight", "bias"))
    for name, factor in (("out", mask), ("out_no_mask", torch.ones_like(mask))):
        ours = deformable(x, offset, factor, weight, bias)
        tolerance = case["output_info"][name]["suggested_atol"]
        torch.testing.assert_close(ours, tensors[f"deform.out.{name}"], rtol=0, atol=tolerance)


def test_without_offsets_it_is_a_convolution() -> None:
    conv = nn.Conv2d(4, 5, 3, padding=1)
    x = torch.rand(2, 4, 7, 9)
    ours = deformable(x, torch.zeros(2, 18, 7, 9), torch.ones(2, 9, 7, 9), conv.weight, conv.bias)  # type: ignore[arg-type]
    torch.testing.assert_close(ours, conv(x), rtol=0, atol=1e-5)


def test_the_condition_of_a_tile_is_that_of_its_rows_and_goes_on_behind_the_poles() -> None:
    network, whole = CAMixerODI(8, (1,)), latitude_weights(64).float()
    tile = network.condition(torch.zeros(2, 8, 32, 16), Frame((64, 128), (16, 0)))
    assert tile.shape == (2, 1, 32, 16) and torch.equal(tile[1, 0, :, 5], whole[16:48])
    beyond = network.condition(torch.zeros(1, 8, 80, 16), Frame((64, 128), (-8, 0)))[0, 0, :, 0]
    assert torch.equal(beyond[8:72], whole) and torch.equal(beyond[:8], whole[:8].flip(0))
    assert torch.equal(beyond[72:], whole[56:].flip(0))


def attention_alone() -> Mixer:
    """A shifted mixer without offsets and without anything that looks beyond a window."""
    mixer = Mixer(8, Predictor(8, 1, normalise=False, bounded=False), nn.Identity(), shift=8, warped_queries=True)
    for part in (mixer.predictor.channel, mixer.predictor.offset[2], mixer.predictor.pixel):
        nn.init.zeros_(part.weight)  # type: ignore[arg-type]
        nn.init.zeros_(part.bias)  # type: ignore[arg-type]
    return mixer


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("way", ["forward", "quick"])
def test_shifted_windows_meet_across_the_seam_of_a_panorama_and_never_across_the_poles(wrap: bool, way: str) -> None:
    mixer = attention_alone()
    condition = torch.zeros(1, 1, 32, 48)

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            return getattr(mixer, way)(x, condition, lambda logits: torch.ones(1, 6, dtype=torch.bool), wrap).tokens

    x = torch.randn(1, 32, 48, 8)
    bottom, right = x.clone(), x.clone()
    bottom[:, -1] += 1
    right[:, :, -1] += 1
    changed = (run(bottom) - run(x)).abs().amax((0, 2, 3))
    assert changed[:24].max() == 0 and changed[24:].min() > 0
    changed = (run(right) - run(x)).abs().amax((0, 1, 3))
    assert (changed[:8].min() > 0) == wrap and (wrap or changed[:8].max() == 0)
    assert changed[8:40].max() == 0 and changed[40:].min() > 0


def test_wrapping_needs_the_whole_circle() -> None:
    network, lr = CAMixerODI(8, (2,)).eval(), torch.rand(1, 3, 32, 32)

    def run(frame: Frame) -> Tensor:
        with torch.no_grad():
            return network.run(lr, frame, Effort()).features

    assert not torch.equal(run(Frame((32, 32), wrap=True)), run(Frame((32, 32))))
    assert torch.equal(run(Frame((32, 64), wrap=True)), run(Frame((32, 64))))
