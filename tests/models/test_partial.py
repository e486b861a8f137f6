"""A model with one level of effort under a budget: what it spends, what it leaves alone, and that no border shows."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

import scalewise
from scalewise import images
from scalewise.budget.budget import Budget
from scalewise.encoders.plain_stack import DISP
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run
from scalewise.geometry.grid import Frame
from scalewise.geometry.resize import imresize
from scalewise.models import partial
from scalewise.models.chained import Chained
from scalewise.models.model import RoutePlan
from scalewise.models.partial import CELL, PartialModel, effective_margin, photo_like
from scalewise.models.super_resolver import SuperResolver
from scalewise.models.whole_network import Measured, Needs, WholeNetwork
from scalewise.routing.rectangles import Cells
from scalewise.upsamplers.fixed import DirectShuffle

SIZE = (96, 136)


def small(seed: int = 0) -> SuperResolver:
    torch.manual_seed(seed)
    return SuperResolver(DISP(8, 1, layers=2), DirectShuffle(8, 4), scales=(4.0,)).eval().requires_grad_(False)


class Brighter(nn.Module):
    """Bicubic, `levels` of 8 bits brighter."""

    def __init__(self, levels: float) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, picture: Tensor) -> Tensor:
        return imresize(picture, scale=4.0) + self.levels / 255


def brighter(levels: float = 3.0) -> WholeNetwork:
    return WholeNetwork(Brighter(levels), 4, Needs(), Measured(4, 0.0, 1e4, 0.0, 100.0))


def plan_of(model: PartialModel, lr: Tensor, budget: float):
    size = (lr.shape[-2], lr.shape[-1])
    out = (4 * size[0], 4 * size[1])
    return model.plan(model.score(lr, (4.0, 4.0)), size, out, Budget.fraction(budget)), size, out


@pytest.mark.parametrize("budget", [0.05, 0.3, 0.5, 0.8])
def test_what_runs_is_what_was_planned_and_within_the_budget(budget: float) -> None:
    model, lr = PartialModel(small()), photo_like(SIZE).unsqueeze(0)
    plan, size, out = plan_of(model, lr, budget)
    rendered = model.render(lr, Frame(size), (0, 0, *size), out, plan)
    assert rendered.macs.total == plan.macs <= budget * plan.macs_full
    assert plan.macs > 0.75 * budget * plan.macs_full


def test_a_stored_plan_fits_its_picture_and_no_other() -> None:
    model, lr = PartialModel(small()), photo_like(SIZE).unsqueeze(0)
    plan, size, _ = plan_of(model, lr, 0.5)
    assert model.fits(plan, size) and not model.fits(plan, (size[0] + CELL, size[1]))
    restored = Chained(WholeNetwork(nn.Identity(), 1, Needs(), Measured(0, 0.0, 0.0, 0.0, 100.0)), model)
    assert restored.fits(plan, size) and not restored.fits(plan, (size[0], size[1] + CELL))


def test_everything_is_the_model_itself() -> None:
    own, lr = small(), photo_like(SIZE).unsqueeze(0)
    model = PartialModel(own)
    plan, size, out = plan_of(model, lr, 1.0)
    full = own.render(lr, Frame(size), (0, 0, *size), out, own.plan(None, size, out, Budget.full()))
    assert torch.equal(model.render(lr, Frame(size), (0, 0, *size), out, plan).rgb, full.rgb)
    assert plan.macs == plan.macs_full


def test_flat_parts_are_left_to_bicubic() -> None:
    lr = photo_like(SIZE).unsqueeze(0)
    lr[..., :64] = 0.4
    model = PartialModel(small())
    plan, size, out = plan_of(model, lr, 0.3)
    choice = plan.route[0].choice[0]
    assert not choice[:, : 64 // CELL - 1].any() and choice[:, 64 // CELL :].any()
    rendered = model.render(lr, Frame(size), (0, 0, *size), out, plan).rgb
    assert torch.allclose(rendered[..., : 4 * 52], torch.tensor(0.4), atol=1e-5)


def test_tiles_equal_the_whole_picture() -> None:
    model, lr = PartialModel(small()), photo_like(SIZE).unsqueeze(0)
    plan, size, out = plan_of(model, lr, 0.5)
    whole = model.render(lr, Frame(size), (0, 0, *size), out, plan).rgb
    context = cast(int, model.limits.context)
    for top in range(0, SIZE[0], 32):
        for left in range(0, SIZE[1], 32):
            core = (top, left, min(top + 32, SIZE[0]), min(left + 32, SIZE[1]))
            y0, x0 = max(0, top - context), max(0, left - context)
            tile = lr[..., y0 : core[2] + context, x0 : core[3] + context]
            rgb = model.render(tile, Frame(size, (y0, x0)), core, out, plan).rgb
            here = whole[:, 4 * core[0] : 4 * core[2], 4 * core[1] : 4 * core[3]]
            assert (rgb - here).abs().max() < 1e-4, core


@pytest.mark.parametrize("levels", [3.0, -3.0])
def test_a_model_that_shifts_tone_draws_no_borders(levels: float) -> None:
    lr = (0.5 + 0.3 * (photo_like(SIZE) - 0.5)).unsqueeze(0)
    model = PartialModel(brighter(levels))
    plan, size, out = plan_of(model, lr, 0.5)
    assert 0.2 < float(plan.route[0].choice.float().mean()) < 0.8
    rendered = model.render(lr, Frame(size), (0, 0, *size), out, plan).rgb
    shift = avg_pool2d(rendered - imresize(lr[0], out), 4 * CELL)  # of each cell: what an eye sees as its tone
    assert shift.abs().max() < 0.3 / 255


def test_borders_bend_no_more_than_the_picture_does() -> None:
    lr = photo_like(SIZE).unsqueeze(0)
    model = PartialModel(small())
    plan, size, out = plan_of(model, lr, 0.5)
    rendered = model.render(lr, Frame(size), (0, 0, *size), out, plan).rgb
    bends = rendered.diff(dim=2).diff(dim=2).abs().mean((0, 1)) * 255  # of columns
    borders = torch.arange(4 * CELL, out[1], 4 * CELL)
    beside = torch.ones_like(bends, dtype=torch.bool)
    beside[(borders[:, None] + torch.arange(-3, 2)).flatten().clamp(0, len(bends) - 1)] = False
    at_borders = bends[(borders[:, None] + torch.arange(-2, 1)).flatten().clamp(0, len(bends) - 1)]
    assert at_borders.mean() < 1.1 * bends[beside].mean()


class Chequered(nn.Module):
    """Bicubic, with a pattern wherever the picture that it is given ends: one LR pixel wide, of mean 0."""

    def forward(self, picture: Tensor) -> Tensor:
        sr = imresize(picture, scale=4.0)
        rows, columns = (torch.arange(n) for n in sr.shape[-2:])
        pattern = 0.1 * (1 - 2 * ((rows[:, None] + columns) % 2))
        pattern[4:-4, 4:-4] = 0
        return sr + pattern


def with_cells(lr: Tensor, taken: Tensor) -> RoutePlan:
    plan, _, _ = plan_of(PartialModel(small()), lr, 1.0)
    return replace(plan, route=(replace(plan.route[0], choice=taken.long()[None]),))


@pytest.mark.parametrize("across", [False, True])
def test_rectangles_that_touch_show_no_seam(monkeypatch: pytest.MonkeyPatch, across: bool) -> None:
    """Three columns of cells are no rectangle of those that are tried, so what is seen of the cut would lie inside."""
    own = WholeNetwork(Chequered(), 4, Needs(), Measured(4, 0.0, 1e4, 0.0, 100.0))
    monkeypatch.setitem(partial._MARGINS, own, 0)
    model, lr = PartialModel(own), photo_like((96, 96)).unsqueeze(0)
    taken = torch.zeros(12, 12, dtype=torch.bool)
    taken[:, 3:6] = True
    taken = taken.T if across else taken
    plan = with_cells(lr, taken)
    rendered = model.render(lr, Frame((96, 96)), (0, 0, 96, 96), (384, 384), plan)
    added = (rendered.rgb - imresize(lr[0], (384, 384))).abs().amax(0)
    added = added.T if across else added
    assert added[16:-16, 4 * 27 : 4 * 45].max() < 0.03, "a quarter of the pattern, and what bicubic itself differs"
    assert added[16:-16, 4 * 24 : 4 * 48].max() > 0.04, "next to bicubic the cut is seen before it fades"


def test_seams_are_finite_where_an_output_pixel_lies_just_at_their_end() -> None:
    """At ×1.25, where one side of a rectangle meets another for a part of its length."""
    model, lr = PartialModel(scalewise.load("bicubic", device="cpu").model), photo_like((64, 64)).unsqueeze(0)
    taken = torch.zeros(8, 8, dtype=torch.bool)
    taken[:, 4:], taken[4:, 2:4] = True, True
    rendered = model.render(lr, Frame((64, 64)), (0, 0, 64, 64), (80, 80), with_cells(lr, taken))
    assert bool(rendered.rgb.isfinite().all())


def test_the_margin_of_a_model_is_no_more_than_it_sees() -> None:
    own = small()
    assert 0 <= effective_margin(own) <= cast(int, own.limits.context)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**31), st.floats(0.05, 0.95))
def test_rectangles_cover_the_cells_and_no_others(height: int, width: int, seed: int, share: float) -> None:
    cells = Cells((height, width), 8, margin=3, overhead=20.0)
    taken = torch.rand(cells.shape, generator=torch.Generator().manual_seed(seed)) < share
    seen = torch.zeros(cells.shape)
    for top, left, bottom, right in cells.cover(taken):
        seen[top:bottom, left:right] += 1
    assert torch.equal(seen, taken.float())


def test_a_higher_price_takes_no_more() -> None:
    cells = Cells((80, 120), 8, margin=3)
    choices = cells.choices(torch.rand(cells.shape, generator=torch.Generator().manual_seed(0)))
    areas = [sum((b - t) * (r - x) for t, x, b, r in choices.best(price)) for price in (1e-5, 1e-3, 5e-3, 1e-2, 1.0)]
    assert areas == sorted(areas, reverse=True) and areas[0] > 0 and areas[-1] == 0


def test_a_mask_says_where_effort_goes(tmp_path) -> None:
    from PIL import Image

    picture = (photo_like(SIZE).permute(1, 2, 0).numpy() * 255).astype("uint8")
    mask = torch.zeros(SIZE, dtype=torch.uint8)
    mask[:, 72:] = 255
    path = tmp_path / "mask.png"
    Image.fromarray(mask.numpy()).save(path)
    for model in (small(), "fast"):
        report = scalewise.upscale(picture, 4, model=model, effort_mask=path).report
        half = report.effort_map.shape[1] * 72 // SIZE[1]
        assert report.effort_map[:, : half - 1].max() < report.effort_map[:, half + 1 :].min()
        assert report.share < 0.8


def test_a_second_pass_goes_beyond_the_own_scale() -> None:
    picture = photo_like((24, 32)).permute(1, 2, 0).numpy()
    model = brighter(2.0)
    once = scalewise.upscale(picture, 8, model=model, dtype="fp32")
    again = scalewise.upscale(picture, 8, model=model, beyond="again", dtype="fp32")
    assert once.image.shape == again.image.shape == (192, 256, 3)
    assert again.report.macs == pytest.approx(once.report.macs * 17)
    assert (again.image - once.image).mean() * 255 == pytest.approx(2.0, abs=0.05)
    tiled = scalewise.upscale(picture, 8, model=model, beyond="again", dtype="fp32", tile=12)
    assert abs(tiled.image - again.image).max() < 1e-4


def test_a_restoration_runs_before() -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 2

    before = WholeNetwork(Half(), 1, Needs(), Measured(0, 0.0, 10.0, 0.0, 10.0))
    picture = photo_like((24, 32)).permute(1, 2, 0).numpy()
    plain = scalewise.upscale(picture / 2, 2.5, model="fast", dtype="fp32")
    both = scalewise.upscale(picture, 2.5, model="fast", restore=before, dtype="fp32")
    assert abs(both.image - plain.image).max() < 1e-5
    half = scalewise.upscale(picture, 2.5, model="fast", restore=before, budget=0.6)
    assert half.report.share <= 0.6
    with pytest.raises(scalewise.errors.InvalidRequest, match="×1"):
        scalewise.upscale(picture, 2, restore=brighter())


def test_the_margin_is_measured_before_a_run_begins_to_count_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = (255 * photo_like((40, 48))).round().to(torch.uint8)
    source, model = images.open(pixels), small()
    run_plan = plan_run(source, (160, 192), model, Budget.fraction(0.5), RunOptions())
    monkeypatch.setattr(partial, "_measured_margin", lambda model: pytest.fail("measured while the picture waits"))
    _, report = enlarge(run_plan, images.create(None, run_plan.canvas, source))
    assert report.share <= 0.5
