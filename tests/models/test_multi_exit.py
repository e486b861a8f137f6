"""MultiExitModel: routed = dense, tiled = whole, the budget holds, what is counted is what ran."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from models.exits import toy_exits
from torch.utils.flop_counter import FlopCounterMode

from scalewise import images
from scalewise.budget.budget import Budget
from scalewise.errors import BudgetInfeasible
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run
from scalewise.geometry.grid import Frame, Query, axis_positions
from scalewise.geometry.resize import bicubic_base
from scalewise.geometry.tiling import plan_tiles
from scalewise.models.model import RoutePlan
from scalewise.models.multi_exit import MultiExitModel
from scalewise.models.patch_buffers import CHUNK_PIXELS, joined, run_groups
from scalewise.models.patch_cells import cut
from scalewise.training.losses.exits import at_query

SIZE = (75, 101)
OUTPUTS = [(150, 202), (203, 273), (225, 141), (75, 101)]  # ×2, ×2.7, 3 × 1.4, ×1


@pytest.fixture(scope="module")
def model() -> MultiExitModel:
    return toy_exits(8, (1, 2, 4), (3, 3, 4))


@pytest.fixture(scope="module")
def lr() -> torch.Tensor:
    return torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def planned(model: MultiExitModel, lr: torch.Tensor, out: tuple[int, int], budget: float) -> RoutePlan:
    """A plan with random gains, so that routes are scattered."""
    gains = model.score(lr, (out[0] / SIZE[0], out[1] / SIZE[1]))
    return model.plan(
        torch.rand(gains.shape, generator=torch.Generator().manual_seed(2)), SIZE, out, Budget.fraction(budget)
    )


@torch.no_grad()
@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("budget", [1.0, 0.6, 0.3])
def test_routed_equals_dense_then_select(
    model: MultiExitModel, lr: torch.Tensor, out: tuple[int, int], budget: float
) -> None:
    plan = planned(model, lr, out, budget)
    choice = plan.route[0].choice.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None, : SIZE[0], : SIZE[1]]
    query = Query(
        axis_positions(0, out[0], SIZE[0], out[0]).view(1, -1, 1),
        axis_positions(0, out[1], SIZE[1], out[1]).view(1, 1, -1),
        torch.tensor([[SIZE[0] / out[0], SIZE[1] / out[1]]]),
    )
    residuals = model.network.dense(lr, query, choice)  # type: ignore[attr-defined]
    reached = at_query(choice, query)
    expected = bicubic_base(lr, Frame(SIZE), out, (0, 0, *out))
    for level, residual in enumerate(residuals, 1):
        expected = expected + torch.where(reached == level, residual, 0.0)
    rendered = model.render(lr, Frame(SIZE), (0, 0, *SIZE), out, plan)
    assert (rendered.rgb - expected[0]).abs().max() <= 1e-5
    with torch.autocast("cpu", torch.bfloat16):  # emulated where the processor has none
        rounded = model.render(lr, Frame(SIZE), (0, 0, *SIZE), out, plan)
    assert 0 < (rounded.rgb - expected[0]).abs().max() <= 0.02
    assert (expected[0] - bicubic_base(lr, Frame(SIZE), out, (0, 0, *out))[0]).abs().max() > 1e-2  # exits do something


@torch.no_grad()
@pytest.mark.parametrize("band", [1, 13, 64])
def test_rows_that_are_ready_stay_as_they_are(
    model: MultiExitModel, lr: torch.Tensor, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bands of any height; patches of 16 rows, four blocks that see two rows further."""
    out = OUTPUTS[1]
    plan = planned(model, lr, out, 1.0)
    whole = model.render(lr, Frame(SIZE), (0, 0, *SIZE), out, plan)
    monkeypatch.setattr("scalewise.models.multi_exit.BAND", band)
    seen: list[torch.Tensor] = []
    there = lambda rgb, rows: seen.append(rgb[:, :rows].clone())  # noqa: E731
    rendered = model.render_rows(lr, Frame(SIZE), (0, 0, *SIZE), out, plan, there)
    assert len(seen) > 1 and seen[-1].shape[1] == out[0] and 0 < seen[-2].shape[1] < out[0]
    for rows in seen:
        assert torch.equal(rows, rendered.rgb[:, : rows.shape[1]])
    assert (rendered.rgb - whole.rgb).abs().max() <= 1e-5


def test_rows_that_are_not_finite_are_redone_and_those_above_stay(
    model: MultiExitModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row is handed over once, from above."""
    picture, request = torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(1)), Budget.full()
    source, sent = images.open((picture * 255).round().to(torch.uint8)), []
    out, real = (150, 202), model.render_rows

    def spoilt(lr: torch.Tensor, frame: Frame, core: Any, out: Any, plan: RoutePlan, ready: Any) -> Any:
        def second(rgb: torch.Tensor, rows: int) -> None:
            if rows == out[0] and torch.is_autocast_enabled("cpu"):
                rgb[:, -1] = float("nan")
            ready(rgb, rows)

        return real(lr, frame, core, out, plan, second)

    monkeypatch.setattr(model, "render_rows", spoilt)
    write = images.Sink.write

    def noted(sink: images.Sink, y: int, x: int, rgb: torch.Tensor, alpha: Any) -> None:
        sent.append((y, rgb.shape[1]))
        write(sink, y, x, rgb, alpha)

    monkeypatch.setattr(images.Sink, "write", noted)
    run_plan = plan_run(source, out, model, request, RunOptions(dtype="bf16"))
    result, report = enlarge(run_plan, images.create(None, out, source))
    assert result.shape[-2:] == out and any("redone in fp32 below row" in note for note in report.notes)
    assert [y for y, _ in sent] == [0, *np.cumsum([rows for _, rows in sent])[:-1].tolist()]


@torch.no_grad()
@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("side", [16, 32, 48])
def test_tiles_equal_the_whole_image(model: MultiExitModel, lr: torch.Tensor, out: tuple[int, int], side: int) -> None:
    plan = planned(model, lr, out, 0.5)
    whole = model.render(lr, Frame(SIZE), (0, 0, *SIZE), out, plan).rgb
    joined = torch.full_like(whole, float("nan"))
    assert model.limits.context is not None
    for tile in plan_tiles(SIZE, out, side=side, grid=model.limits.patch_stride, context=model.limits.context):
        y0, x0, y1, x1 = tile.source
        rendered = model.render(lr[..., y0:y1, x0:x1], Frame(SIZE, (y0, x0)), tile.core, out, plan)
        joined[:, tile.target[0] : tile.target[2], tile.target[1] : tile.target[3]] = rendered.rgb
    assert (joined - whole).abs().max() <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("budget", [1.0, 0.75, 0.5, 0.25])
def test_counted_macs_are_those_that_ran(
    model: MultiExitModel, lr: torch.Tensor, out: tuple[int, int], budget: float
) -> None:
    plan = planned(model, lr, out, budget)
    with FlopCounterMode(display=False) as counter:
        model.score(lr, (out[0] / SIZE[0], out[1] / SIZE[1]))
        rendered = model.render(lr, Frame(SIZE), (0, 0, *SIZE), out, plan)
    assert (rendered.macs + plan.overhead).total == counter.get_total_flops() // 2
    assert plan.macs == counter.get_total_flops() // 2
    assert rendered.lean <= rendered.macs.total


@torch.no_grad()
@pytest.mark.parametrize("budget", [0.4, 1.0])
def test_of_the_context_of_a_small_tile_each_block_computes_what_later_ones_see(
    model: MultiExitModel, lr: torch.Tensor, budget: float
) -> None:
    out, plan = (150, 202), planned(model, lr, (150, 202), budget)
    whole = model.render(lr, Frame(SIZE), (0, 0, *SIZE), out, plan).rgb
    y0, x0, y1, x1 = core = (32, 48, 48, 64)
    context = model.network.context
    seen = (y0 - context, x0 - context, y1 + context, x1 + context)
    with FlopCounterMode(display=False) as counter:
        part = lr[..., seen[0] : seen[2], seen[1] : seen[3]]
        rendered = model.render(part, Frame(SIZE, origin=seen[:2]), core, out, plan)
    assert (rendered.rgb - whole[:, 2 * y0 : 2 * y1, 2 * x0 : 2 * x1]).abs().max() <= 1e-5
    assert rendered.macs.total == counter.get_total_flops() // 2
    if budget == 1.0:
        blocks = model.network.block_macs(*part.shape[-2:]).total * model.network.depth
        assert rendered.macs.total < 0.75 * blocks


@pytest.mark.parametrize("out", OUTPUTS)
def test_the_budget_holds_and_more_budget_never_costs_less(
    model: MultiExitModel, lr: torch.Tensor, out: tuple[int, int]
) -> None:
    spent = []
    for budget in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        plan = planned(model, lr, out, budget)
        assert plan.macs <= budget * plan.macs_full
        spent.append(plan.macs)
    assert spent == sorted(spent)
    assert spent[-1] == plan.macs_full


def test_the_full_budget_takes_every_patch_to_the_last_exit(model: MultiExitModel, lr: torch.Tensor) -> None:
    plan = planned(model, lr, (150, 202), 1.0)
    assert bool((plan.route[0].choice == 3).all())


def test_a_budget_below_the_floor_names_the_floor(model: MultiExitModel, lr: torch.Tensor) -> None:
    with pytest.raises(BudgetInfeasible, match="floor") as caught:
        planned(model, lr, (150, 202), 1e-4)
    assert caught.value.floor is not None and 0 < caught.value.floor < 0.3


@pytest.mark.parametrize("out", OUTPUTS)
def test_a_budget_of_exactly_the_floor_works(model: MultiExitModel, lr: torch.Tensor, out: tuple[int, int]) -> None:
    with pytest.raises(BudgetInfeasible) as caught:
        planned(model, lr, out, 1e-6)
    assert caught.value.floor is not None
    plan = planned(model, lr, out, caught.value.floor * 1.000001)
    assert plan.macs <= caught.value.floor * 1.000002 * plan.macs_full


@torch.no_grad()
def test_the_router_sees_a_patch_alone(model: MultiExitModel, lr: torch.Tensor) -> None:
    whole = model.score(lr, (2.0, 2.0))
    part = model.score(lr[..., 16:48, 32:64], (2.0, 2.0))
    assert torch.allclose(whole[:, 1:3, 2:4], part, atol=1e-6)


@torch.no_grad()
def test_a_decision_does_not_depend_on_batch_mates(model: MultiExitModel, lr: torch.Tensor) -> None:
    pair = torch.cat((lr, torch.rand_like(lr)))
    scale = torch.tensor([[2.0, 2.0], [3.0, 1.5]])
    together = model.router(pair, scale)
    assert torch.allclose(together[:1], model.router(lr, scale[:1]), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["flat", "ramp", "checkerboard", "noise"])
def test_patch_and_tile_borders_do_not_show(model: MultiExitModel, kind: str) -> None:
    size, out = (96, 96), (288, 288)
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    pictures = {
        "flat": torch.full((96, 96), 0.5),
        "ramp": (x + y) / 190,
        "checkerboard": ((x // 2 + y // 2) % 2).float(),
        "noise": torch.rand(96, 96, generator=torch.Generator().manual_seed(3)),
    }
    picture = pictures[kind].float().expand(1, 3, -1, -1).contiguous()
    plan = model.plan(model.score(picture, (3.0, 3.0)), size, out, Budget.full())
    rgb = model.render(picture, Frame(size), (0, 0, *size), out, plan).rgb
    bend = rgb.diff(n=2, dim=-1).abs()[..., 30:-30]  # inside: the image's own border is another matter
    position = torch.arange(out[1] - 2)[30:-30]
    for step in (
        1,
        2,
    ):  # untrained kernels have a texture of their own with the period of the scale: compare like phases
        phase = (position + step) % 3 == 0
        at_border = (position + step) % 48 == 0
        assert bend[..., at_border].mean() <= 1.05 * bend[..., phase & ~at_border].mean() + 1e-6


def test_boxes_that_touch_left_and_right_are_joined() -> None:
    cells = cut(Frame((48, 80)), (48, 80), 16, (96, 160))
    chosen = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 0, 1, 0], [1, 1, 1, 1, 1]]).bool().flatten()
    boxes = joined(torch.tensor(cells.boxes)[chosen])
    expected = [(0, 0, 16, 32), (0, 48, 16, 80), (16, 16, 32, 32), (16, 48, 32, 64), (32, 0, 48, 80)]
    assert boxes.tolist() == [list(box) for box in expected]
    assert joined(boxes[:0]).shape == (0, 4)
    assert run_groups(expected) == [expected[:2], expected[2:4], expected[4:]]


def test_long_runs_are_computed_alone() -> None:
    rows = [(y, 0, y + 16, CHUNK_PIXELS // 16) for y in range(0, 64, 16)]
    assert run_groups(rows) == [[row] for row in rows]
    assert max(map(len, run_groups([(y, 0, y + 16, 16) for y in range(0, 4096, 16)]))) == CHUNK_PIXELS // 256
