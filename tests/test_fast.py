"""The shipped model `fast`: what the README says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scalewise import images, zoo
from scalewise.effort import Budget
from scalewise.evaluate import evaluate, model_upscaler
from scalewise.grid import Frame, output_size
from scalewise.model import PatchRouted, bicubic_base
from scalewise.pipeline import Job, Upscaled, enlarge, upscale

SCALES = [(2.0, 2.0), (2.7, 2.7), (4.0, 4.0), (3.0, 1.4)]
EXAMPLE = Path(__file__).parent.parent / "examples" / "photo.jpg"


@pytest.fixture(scope="module")
def model() -> PatchRouted:
    return zoo.load("fast").model  # type: ignore[return-value]


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """The most varied part of the example: bird, branch and blurred background, 200×150."""
    return images.open(EXAMPLE).read((60, 150, 210, 350)).unsqueeze(0)


def test_the_weight_file_is_small_and_has_a_card() -> None:
    card = zoo.load("fast").card
    path = Path(zoo.__file__).parent / "weights" / "fast.safetensors"
    assert path.stat().st_size <= 8 << 20
    assert card["licence"] == "Apache-2.0"
    assert card["training_data"] and card["calibration"]


@torch.no_grad()
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("side", [64, 96])
def test_tiles_equal_the_whole_image(photo: torch.Tensor, scale: tuple[float, float], side: int) -> None:
    pixels = photo[0].permute(1, 2, 0).numpy()  # float in, float out: nothing is rounded
    whole, tiled = (upscale(pixels, scale, budget=0.5, tile=t, dtype="fp32") for t in (None, side))
    assert np.abs(whole.image - tiled.image).max() <= 1e-4
    assert tiled.report.rim > whole.report.rim


@torch.no_grad()
@pytest.mark.parametrize("budget", [1.0, 0.75, 0.5, 0.25])
@pytest.mark.parametrize("scale", [(2.0, 2.0), (3.0, 1.4)])
def test_counted_macs_equal_the_flop_counter(
    model: PatchRouted, photo: torch.Tensor, scale: tuple[float, float], budget: float
) -> None:
    size = (photo.shape[-2], photo.shape[-1])
    out = output_size(size, scale)
    with FlopCounterMode(display=False) as counter:
        evidence = model.survey(photo, (out[0] / size[0], out[1] / size[1]))
        plan = model.decide(evidence, size, out, Budget.fraction(budget))
        rendered = model.render(photo, Frame(size), (0, 0, *size), out, plan)
    assert (rendered.macs + plan.overhead).total == counter.get_total_flops() // 2 == plan.macs
    assert plan.macs <= budget * plan.macs_full


def render(picture: torch.Tensor, scale: int) -> torch.Tensor:
    """float (3, h, w) → float (3, h·s, w·s), at full budget."""
    return torch.from_numpy(upscale(picture.permute(1, 2, 0).numpy(), float(scale), dtype="fp32").image).permute(
        2, 0, 1
    )


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_nothing_moves(photo: torch.Tensor, scale: int) -> None:
    """Registration against bicubic by phase correlation: at most 0.02 output pixels."""
    size = (photo.shape[-2], photo.shape[-1])
    out = (size[0] * scale, size[1] * scale)
    ours = render(photo[0], scale).mean(0).double().numpy()
    bicubic = bicubic_base(photo, Frame(size), out, (0, 0, *out))[0].mean(0).double().numpy()
    shift = phase_shift(ours, bicubic)
    assert np.abs(shift).max() <= 0.02, shift


def phase_shift(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(dy, dx) of a against b: the slope of the phase of the cross spectrum, weighted by its magnitude."""
    window = np.outer(np.hanning(a.shape[0]), np.hanning(a.shape[1]))
    cross = np.fft.fft2((a - a.mean()) * window) * np.conj(np.fft.fft2((b - b.mean()) * window))
    fy, fx = np.meshgrid(np.fft.fftfreq(a.shape[0]), np.fft.fftfreq(a.shape[1]), indexing="ij")
    low = (np.abs(fy) < 0.1) & (np.abs(fx) < 0.1) & ((fy != 0) | (fx != 0))  # where both have energy and no wrap
    weight = np.abs(cross[low])
    design = -2 * np.pi * np.stack((fy[low], fx[low]), 1)
    solution, *_ = np.linalg.lstsq(design * weight[:, None], np.angle(cross[low]) * weight, rcond=None)
    return solution


@pytest.mark.parametrize("scale", [2, 4])
def test_the_mean_colour_is_kept(photo: torch.Tensor, scale: int) -> None:
    """Within 0.1 of 255 levels per channel, against bicubic on the same pixels."""
    size = (photo.shape[-2], photo.shape[-1])
    out = (size[0] * scale, size[1] * scale)
    bicubic = bicubic_base(photo, Frame(size), out, (0, 0, *out))[0]
    difference = (render(photo[0], scale) - bicubic).mean((1, 2)) * 255
    assert difference.abs().max() <= 0.1, difference


@pytest.mark.parametrize("kind", ["flat", "ramp", "checkerboard", "noise"])
@pytest.mark.parametrize("budget", [1.0, 0.5])
def test_patch_and_tile_borders_do_not_show(kind: str, budget: float) -> None:
    """Mean absolute second difference across patch and tile borders ≤ 1.05 × that elsewhere, on 8-bit levels."""
    y, x = np.meshgrid(np.arange(128), np.arange(160), indexing="ij")
    pictures = {
        "flat": np.full((128, 160), 128),
        "ramp": 30 + (x + y) * 0.7,
        "checkerboard": ((x // 4 + y // 4) % 2) * 160 + 40,
        "noise": np.random.default_rng(0).integers(0, 256, (128, 160)),
    }
    picture = np.repeat(pictures[kind].astype(np.uint8)[..., None], 3, -1)
    result = upscale(picture, 3.0, budget=budget, tile=64, dtype="fp32").image.astype(np.float64)
    for axis, length in ((0, 128), (1, 160)):
        bend = np.abs(np.diff(result, 2, axis)).mean(tuple(k for k in (0, 1, 2) if k != axis))
        middle = np.arange(len(bend)) + 1  # the middle one of the three pixels
        inside = (middle > 12) & (middle < 3 * length - 12)
        border = inside & (((middle % 96) == 0) | ((middle % 96) == 95))
        assert bend[border].mean() <= 1.05 * bend[inside & ~border].mean() + 1e-9, axis


def test_half_of_the_budget_is_half_of_the_work_and_repeats_exactly(tmp_path: Path) -> None:
    source = images.open(EXAMPLE)
    results = []
    for _ in range(2):
        sink = images.create(None, output_size(source.size, 1.5), source)
        picture, report = enlarge(source, sink, zoo.load("fast").model, Budget.fraction(0.5), Job(dtype="fp32"))
        results.append(Upscaled(picture, report, source))
    assert 0.48 <= results[0].report.share <= 0.5
    assert np.array_equal(results[0].image, results[1].image)
    assert results[0].effort_picture().shape == (437, 656, 3)


def test_set5_at_4_is_above_what_is_claimed(shared: Path, model: PatchRouted) -> None:
    result = evaluate(model_upscaler(model), shared / "data" / "bench" / "Set5", 4)
    assert result.mean["psnr"] >= 28.43 + 1.6
