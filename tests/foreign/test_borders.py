"""Networks that are not ours at the border of a picture: measured, mirrored as far as that asks for, also in parts and
one after another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import scalewise
from scalewise.budget.budget import Budget
from scalewise.evaluate.upscalers import upscaler_of
from scalewise.execution.plan import RunOptions
from scalewise.foreign.measure import MOST_BORDER, measure, measured
from scalewise.geometry.grid import Frame
from scalewise.geometry.projection import read_beyond
from scalewise.geometry.resize import imresize
from scalewise.models.chained import Chained
from scalewise.models.partial import CELL, PartialModel, photo_like
from scalewise.models.whole_network import Measured, Needs, WholeNetwork
from scalewise.storage import cache_folder

COLOUR = (204, 77, 26)
SIZE = (40, 64)


def network(scale: int, *, seed: int = 0, depth: int = 3, channels: int = 3, padding: Any = "zeros") -> WholeNetwork:
    """Random weights: a flat picture becomes another flat one, but near its border."""
    torch.manual_seed(seed)

    def conv(inputs: int, outputs: int) -> nn.Conv2d:
        return nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode=padding)

    inner = [layer for _ in range(depth) for layer in (conv(8, 8), nn.LeakyReLU(0.2))]
    layers = [conv(channels, 8), *inner, nn.Upsample(scale_factor=scale), conv(8, channels), nn.Sigmoid()]
    whole, needs = nn.Sequential(*layers).eval().requires_grad_(False), Needs(channels)
    for weights in whole.parameters():
        weights *= 1.7  # as first weights are, what they pad with would hardly show
    return WholeNetwork(whole, scale, needs, measure(whole, scale, needs)).eval()


class Averaged(nn.Module):
    """Twice as large, and as bright as the whole picture is in the middle."""

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return picture.mean((2, 3), keepdim=True) * torch.ones_like(picture).repeat(1, 1, 2, 2)


def unevenness(image: np.ndarray) -> float:
    """In levels."""
    levels = image.astype(np.float64).reshape(-1, image.shape[-1]) * (1 if image.dtype == np.uint8 else 255)
    return float(np.ptp(levels, axis=0).max())


def flat() -> np.ndarray:
    return np.broadcast_to(np.array(COLOUR, np.uint8), (*SIZE, 3)).copy()


@pytest.mark.parametrize("options", [{"scale": 4}, {"scale": 2.7}, {"scale": 4, "tile": 16}, {"scale": 8}])
def test_a_flat_picture_stays_flat(options: dict[str, Any]) -> None:
    assert unevenness(scalewise.upscale(flat(), model=network(4), dtype="fp32", **options).image) <= 1


@pytest.mark.parametrize("tile", [None, 16])
def test_also_after_two_networks(tile: int | None) -> None:
    again = scalewise.upscale(flat(), 4, model=network(2), beyond="again", dtype="fp32", tile=tile)
    restored = scalewise.upscale(flat(), 4, model=network(4), restore=network(1, seed=1), dtype="fp32", tile=tile)
    ours = scalewise.upscale(flat(), 4, model="fast", restore=network(1, seed=1), dtype="fp32", tile=tile)
    assert [unevenness(run.image) <= 1 for run in (again, restored, ours)] == [True] * 3


def test_two_networks_in_tiles_equal_the_whole() -> None:
    picture = np.random.default_rng(0).random((*SIZE, 3), np.float32)
    for first, second in ((network(2), network(2)), (network(1, seed=1), scalewise.load("fast").model)):
        model = Chained(first, second)
        whole, tiled = (scalewise.upscale(picture, 4, model=model, dtype="fp32", tile=n).image for n in (None, 16))
        assert np.abs(whole - tiled).max() < 1e-3


def test_what_is_measured_runs_as_published() -> None:
    """Without the reflection, and then the padding shows."""
    model = network(4)
    lr = torch.from_numpy(flat()).permute(2, 0, 1) / 255
    sr = upscaler_of(model, None, RunOptions(dtype="fp32", device="cpu"))(lr, (4 * SIZE[0], 4 * SIZE[1]), 4).sr
    with torch.no_grad():
        torch.testing.assert_close(sr, model.network(lr[None])[0])
    assert unevenness(sr.permute(1, 2, 0).numpy()) > 5


def test_the_border_is_measured() -> None:
    assert 0 < network(2).limits.border <= 6
    assert network(2, padding="replicate").limits.border == 0
    assert network(2, depth=0).limits.border <= network(2, depth=6).limits.border


@pytest.mark.parametrize("multiple", [16, 32, 64])
def test_borders_and_cuts_are_measured_of_networks_with_large_units(multiple: int) -> None:
    """Cells as large as the unit: one at least lies away from the border, and one is cut off."""
    own = network(2)
    needs = Needs(multiple=multiple)
    assert measure(own.network, 2, Needs(), whole=True).border > 0
    found = measure(own.network, 2, needs, whole=True)
    assert found.border == min(multiple, MOST_BORDER) and found.context is None
    assert measure(Averaged(), 2, needs).difference > 0


def test_a_part_may_be_narrower_than_the_reflection() -> None:
    """A network that shows its border further in than a rectangle of a budget, or a tile, is wide."""
    picture = np.random.default_rng(0).random((70, 90, 3), np.float32)
    wide = WholeNetwork(network(2).network, 2, Needs(), Measured(24, 0.0, 1e4, 0.0, 100.0, border=24)).eval()
    done = scalewise.upscale(picture, 2, model=wide, restore=network(1), budget=0.3, tile=16, dtype="fp32")
    assert done.image.shape == (140, 180, 3)


@pytest.mark.parametrize("side", [slice(None, 4), slice(-4, None)])
def test_parts_at_the_border_see_the_reflection(side: slice) -> None:
    """A rectangle of cells at one side of a flat picture: at its three borders nothing differs from the inside."""
    own = network(4)
    model, rim = PartialModel(own), own.limits.border
    lr, out = torch.full((1, 3, *SIZE), 0.5), (4 * SIZE[0], 4 * SIZE[1])
    plan = model.plan(model.score(lr, (4.0, 4.0)), SIZE, out, Budget.full())
    taken = torch.zeros_like(plan.route[0].choice)
    taken[..., side] = 1
    plan = replace(plan, route=(replace(plan.route[0], choice=taken),))
    columns = slice(0, 4 * 2 * CELL) if side.start is None else slice(-4 * 2 * CELL, None)  # away from the cut

    def uneven(mirrored: int) -> float:
        frame, tile = Frame(SIZE, (-mirrored, -mirrored), mirrored=mirrored), [n + 2 * mirrored for n in SIZE]
        box = (-mirrored, -mirrored, tile[0] - mirrored, tile[1] - mirrored)
        seen = read_beyond(lambda part: lr[0, :, part[0] : part[2], part[1] : part[3]], frame, box)[None]
        rendered = model.render(seen, frame, (0, 0, *SIZE), out, plan)
        assert rendered.macs.total == model.planned_macs(frame, (tile[0], tile[1]), (0, 0, *SIZE), out, plan)
        return unevenness(rendered.rgb[:, :, columns].permute(1, 2, 0).numpy())

    assert uneven(rim) < 1 < 5 < uneven(0)


@pytest.mark.parametrize("levels", [3.0, -3.0])
def test_a_random_network_that_shifts_tone_keeps_the_tone_of_its_cells(levels: float) -> None:
    """Random weights on bicubic, and some levels: what an eye would see as patches is taken off again."""

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 48, 3, padding=1))

        def forward(self, picture: torch.Tensor) -> torch.Tensor:
            return imresize(picture, scale=4.0) + 0.02 * nn.PixelShuffle(4)(self.layers(picture)) + levels / 255

    inner, needs = Shifted().eval().requires_grad_(False), Needs()
    model = PartialModel(WholeNetwork(inner, 4, needs, measure(inner, 4, needs)))
    lr = (0.5 + 0.3 * (photo_like((96, 136)) - 0.5)).unsqueeze(0)
    size, out = (96, 136), (384, 544)
    plan = model.plan(model.score(lr, (4.0, 4.0)), size, out, Budget.fraction(0.6))
    taken = plan.route[0].choice[0] > 0
    assert 0.1 < float(taken.float().mean()) < 0.9
    rendered = model.render(lr, Frame(size), (0, 0, *size), out, plan).rgb
    base = imresize(lr[0], out)
    tone = nn.functional.avg_pool2d(rendered - base, 4 * CELL) * 255
    assert tone.abs().max() < 0.5
    # The whole network shifts every cell; and what is added bends no more at the borders of cells than inside of them.
    whole = model.model.render(
        lr, Frame(size), (0, 0, *size), out, model.model.plan(None, size, out, Budget.full())
    ).rgb
    assert nn.functional.avg_pool2d(whole - base, 4 * CELL).abs().max() * 255 > 2
    bends = (rendered - base).diff(dim=2).diff(dim=2).abs().mean((0, 1))
    place = (torch.arange(len(bends)) + 1) % (4 * CELL)
    assert bends[(place <= 1) | (place >= 4 * CELL - 1)].mean() < 1.1 * bends.mean()


@pytest.mark.parametrize("kept", ["no JSON", "[" * 20_000, "[]", '{"version": 0}'])
def test_a_damaged_or_a_blocked_cache_only_costs_another_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    blocked, damaged = (cache_folder() / "networks" / f"{name}.json" for name in ("blocked", "damaged"))
    blocked.mkdir(parents=True)
    damaged.write_text(kept)
    found = [measured(nn.Upsample(scale_factor=2), 2, Needs(), path.stem, macs=None) for path in (blocked, damaged)]
    assert found[0].context == found[1].context
    assert blocked.is_dir() and "context" in damaged.read_text()
