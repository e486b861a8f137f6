"""The shipped model `fast`: what the README says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from textures import TEXTURES, texture
from torch.utils.flop_counter import FlopCounterMode

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.evaluate import evaluate, upscaler_of
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run
from scalewise.geometry import tiling
from scalewise.geometry.grid import Frame, output_size
from scalewise.geometry.resize import bicubic_base
from scalewise.models.multi_exit import MultiExitModel
from scalewise.pipeline import Upscaled, upscale

SCALES = [(2.0, 2.0), (2.7, 2.7), (4.0, 4.0), (3.0, 1.4)]
A_HUNDREDTH_OF_A_LEVEL = 0.01  # of 255; a flat picture has nothing to compare with
EXAMPLE = Path(__file__).parents[2] / "examples" / "photo.jpg"


@pytest.fixture(scope="module")
def model() -> MultiExitModel:
    return zoo.load("fast", device="cpu").model  # type: ignore[return-value]


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
def test_tiles_equal_the_whole_image(
    model: MultiExitModel, photo: torch.Tensor, scale: tuple[float, float], side: int
) -> None:
    """With one plan for both: what a tile sees of its context is enough."""
    size = (photo.shape[-2], photo.shape[-1])
    out = output_size(size, scale)
    plan = model.plan(model.score(photo, scale), size, out, Budget.fraction(0.5))
    whole = model.render(photo, Frame(size), (0, 0, *size), out, plan).rgb
    assert model.limits.context is not None
    for tile in tiling.plan_tiles(size, out, side=side, grid=model.limits.patch_stride, context=model.limits.context):
        (top, left, bottom, right), (y0, x0, y1, x1) = tile.source, tile.target
        lr, frame = photo[..., top:bottom, left:right], Frame(size, (top, left))
        part = model.render(lr, frame, tile.core, out, plan)
        torch.testing.assert_close(part.rgb, whole[:, y0:y1, x0:x1], atol=1e-4, rtol=0)
        assert model.planned_macs(frame, (bottom - top, right - left), tile.core, out, plan) == part.macs.total


@torch.no_grad()
@pytest.mark.parametrize("side", [64, 96])
def test_a_budget_holds_in_tiles(photo: torch.Tensor, side: int) -> None:
    """Tiles compute their context too, and most of it where the picture is difficult."""
    pixels = photo[0].permute(1, 2, 0).numpy()  # float in, float out: nothing is rounded
    whole, tiled = (upscale(pixels, 2.0, tile=t, dtype="fp32") for t in (None, side))
    assert np.abs(whole.image - tiled.image).max() <= 1e-4 and tiled.report.rim > whole.report.rim
    for share in (0.25, 0.5, 0.75):
        report = upscale(pixels, 2.0, budget=share, tile=side, dtype="fp32").report
        assert share - 0.02 <= report.share <= share and report.macs_full == tiled.report.macs_full


@torch.no_grad()
@pytest.mark.parametrize("budget", [1.0, 0.75, 0.5, 0.25])
@pytest.mark.parametrize("scale", [(2.0, 2.0), (3.0, 1.4)])
def test_counted_macs_equal_the_flop_counter(
    model: MultiExitModel, photo: torch.Tensor, scale: tuple[float, float], budget: float
) -> None:
    size = (photo.shape[-2], photo.shape[-1])
    out = output_size(size, scale)
    with FlopCounterMode(display=False) as counter:
        evidence = model.score(photo, (out[0] / size[0], out[1] / size[1]))
        plan = model.plan(evidence, size, out, Budget.fraction(budget))
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
    """Registration against bicubic by phase correlation: at most 0.02 LR pixels on a picture, and at most 0.02 output
    pixels for what a picture and its half turn have in common, which is what a misplaced grid would show."""
    size = (photo.shape[-2], photo.shape[-1])
    out = (size[0] * scale, size[1] * scale)
    shifts = []
    for lr in (photo, photo.rot90(2, (2, 3)).contiguous()):
        bicubic = bicubic_base(lr, Frame(size), out, (0, 0, *out))[0].mean(0).double().numpy()
        shifts.append(phase_shift(render(lr[0], scale).mean(0).double().numpy(), bicubic, 0.5 / scale))
    assert np.abs(shifts).max() <= 0.02 * scale, shifts
    assert np.abs(shifts[0] + shifts[1]).max() / 2 <= 0.02, shifts


def phase_shift(a: np.ndarray, b: np.ndarray, band: float, parts: int = 200) -> np.ndarray:
    """(dy, dx) of a against b in pixels: the peak of the phase correlation of frequencies below `band`."""
    window = np.outer(np.hanning(a.shape[0]), np.hanning(a.shape[1]))
    cross = np.fft.fft2((a - a.mean()) * window) * np.conj(np.fft.fft2((b - b.mean()) * window))
    fy, fx = np.fft.fftfreq(a.shape[0]), np.fft.fftfreq(a.shape[1])
    cross *= (np.abs(fy)[:, None] < band) & (np.abs(fx)[None] < band)
    cross /= np.abs(cross) + 1e-12
    steps = np.arange(-parts // 2, parts // 2 + 1) / parts
    peak = np.exp(2j * np.pi * np.outer(steps, fy)) @ cross @ np.exp(2j * np.pi * np.outer(fx, steps))
    return steps[list(np.unravel_index(peak.real.argmax(), peak.shape))]


@pytest.mark.parametrize("scale", [2, 4])
def test_the_mean_colour_is_kept(scale: int) -> None:
    """Within 0.1 of 255 levels per channel, over the whole example."""
    lr = images.open(EXAMPLE).read()
    difference = (render(lr, scale).mean((1, 2)) - lr.mean((1, 2))) * 255
    assert difference.abs().max() <= 0.1, difference


@pytest.mark.parametrize("kind", TEXTURES)
@pytest.mark.parametrize("budget", [1.0, 0.5])
def test_patch_and_tile_borders_do_not_show(request: pytest.FixtureRequest, kind: str, budget: float) -> None:
    """Mean absolute second difference across patch and tile borders ≤ 1.05 × that elsewhere, before rounding."""
    if (kind, budget) == ("ramp", 0.5):
        request.applymarker(pytest.mark.xfail(reason="0.13 of a level beside 0.09, see docs/limits.md"))
    height, width = 256, 320
    picture = texture(kind, height, width, slope=0.0013)
    result = upscale(picture, 3.0, budget=budget, tile=64, dtype="fp32").image.astype(np.float64) * 255
    border, elsewhere = [], []
    for axis, length in ((0, height), (1, width)):
        bend = np.abs(np.diff(result, 2, axis)).mean(tuple(k for k in (0, 1, 2) if k != axis))
        middle = np.arange(len(bend)) + 1  # the middle one of the three pixels
        inside = (middle > 48) & (middle < 3 * length - 48)  # away from the picture's own border
        at = inside & ((middle % 96 == 0) | (middle % 96 == 95))
        alike = inside & ~at & ((middle % 3 == 0) | (middle % 3 == 2))  # the same place within an LR pixel
        border.append(bend[at].mean())
        elsewhere.append(bend[alike].mean())
    assert np.mean(border) <= 1.05 * np.mean(elsewhere) + A_HUNDREDTH_OF_A_LEVEL, (border, elsewhere)


def test_half_of_the_budget_is_half_of_the_work_and_repeats_exactly(tmp_path: Path) -> None:
    source = images.open(EXAMPLE)
    results = []
    for _ in range(2):
        sink = images.create(None, output_size(source.size, 1.5), source)
        model, options = zoo.load("fast").model, RunOptions(dtype="fp32")
        picture, report = enlarge(plan_run(source, sink.size, model, Budget.fraction(0.5), options), sink)
        results.append(Upscaled(picture, report, source))
    assert 0.48 <= results[0].report.share <= 0.5
    assert np.array_equal(results[0].image, results[1].image)
    assert results[0].effort_picture().shape == (437, 656, 3)


def test_set5_at_4_is_above_what_is_claimed(shared: Path, model: MultiExitModel) -> None:
    result = evaluate(upscaler_of(model), shared / "data" / "bench" / "Set5", 4)
    assert result.mean["psnr"] >= 28.43 + 1.6
