"""One picture, from its source into a sink: plan, render tile after tile, report."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scalewise import images
from scalewise.budget.budget import Budget
from scalewise.budget.cost import CostReport
from scalewise.budget.meter import listening
from scalewise.budget.route import Route, levelled
from scalewise.errors import BudgetInfeasible
from scalewise.execution.checkpoint import RunCheckpoint
from scalewise.execution.deadline import MIN_CORRECTION, DeadlineController
from scalewise.execution.decide import decide, plan_tiles_within, score
from scalewise.execution.plan import RunPlan
from scalewise.execution.progress import Progress, ProgressMeter
from scalewise.execution.tiles import Canvas, TileRunner
from scalewise.geometry.tiling import Tile
from scalewise.machine.device import torch_defaults
from scalewise.machine.memory import PeakMemory
from scalewise.models.model import RoutePlan

CORRECTIONS = 3  # plans for the rest that are tried, each nearer to what is affordable
ABOVE_FLOOR = 1.05  # the least share that is asked for, over the floor that the model names
MIN_SHARE = 1e-4


def enlarge(
    run_plan: RunPlan, sink: Canvas, progress: Progress | None = None, *, checkpoint: RunCheckpoint | None = None
) -> tuple[Any, CostReport]:
    """Render what `run_plan` says into `sink`; the sink's result and the report.

    The sink is discarded on any error. A `checkpoint` records each row of tiles that is finished, and knows those that
    an earlier run finished. `progress` gets the share done, between layers too; returning False cancels. Raises
    Cancelled, BudgetInfeasible.
    """
    started, device = time.perf_counter(), run_plan.device
    meter = None if progress is None else ProgressMeter(progress)
    with (
        sink,
        torch_defaults(device),
        PeakMemory(device) as peak,
        torch.no_grad(),
        nullcontext() if meter is None else listening(meter.hear),
    ):
        controller, on_row = None, None
        if checkpoint is not None and checkpoint.plan is not None:
            plan = checkpoint.plan
        elif run_plan.budget.kind == "seconds":
            controller = DeadlineController.of(run_plan, sink)
            plan, evidence = _first_plan(run_plan, controller)
            on_row = partial(_corrected, run_plan, controller, evidence)
        else:
            plan = decide(run_plan, run_plan.budget)
        runner = TileRunner.of(run_plan, plan, meter, on_row)
        if checkpoint is not None:
            assert isinstance(sink, images.Sink)
            checkpoint.begin(runner, sink)
        runner.render(sink)
        result = sink.finish()
        seconds = time.perf_counter() - started
        if checkpoint is not None:
            checkpoint.end()
        if progress is not None:
            progress(1.0)
    tally = runner.tally
    report = CostReport(
        macs=tally.ran.total,
        macs_full=tally.full,
        by_kind=tally.ran.as_dict(),
        seconds=seconds,
        peak_bytes=max(peak.bytes, run_plan.probe_bytes),
        size=sink.size,
        effort=runner.plan.effort,
        effort_map=levelled(tally.cells, tally.ran.total / tally.full if tally.full else 1.0),
        effort_unit=tally.unit,
        rim=1 - tally.lean / tally.ran.total if tally.ran.total else 0.0,
        notes=(*run_plan.notes, *tally.notes, *([] if controller is None else [controller.format_shares()])),
    )
    return result, report


def _first_plan(run_plan: RunPlan, controller: DeadlineController) -> tuple[RoutePlan, Tensor | None]:
    """What fits in the time, or the model's floor; and what the router saw. Raises BudgetInfeasible."""
    asked = share = controller.share()
    evidence = score(run_plan)
    for _ in range(CORRECTIONS):
        try:
            plan = plan_tiles_within(run_plan, Budget.fraction(max(share, MIN_SHARE)), evidence)
            break
        except BudgetInfeasible as error:
            if share >= 1:
                raise
            share = min(1.0, max(error.floor or 0.0, share) * ABOVE_FLOOR + MIN_SHARE)
    else:
        share, plan = 1.0, plan_tiles_within(run_plan, Budget.full(), evidence)
    controller.accept(share, refuse=share > asked)
    return plan, evidence


def _corrected(
    run_plan: RunPlan, controller: DeadlineController, evidence: Tensor | None, runner: TileRunner, done: int
) -> RoutePlan | None:
    """The plan for the rows of tiles that are left, after `done` tiles; None if it stays. What was rendered keeps its
    decisions. Plans that are not made of patches stay: their decisions fall while tiles run."""
    rest = run_plan.tiles[done:]
    if not rest or any(decision.unit != "patch" for decision in runner.plan.route):
        return None
    affordable = controller.affordable(done, runner.tally.ran.total - runner.plan.overhead.total)
    plan, share = runner.plan, controller.shares[-1]
    for _ in range(CORRECTIONS):
        costs = [run_plan.planned_macs(tile, plan) for tile in rest]
        planned = sum(cost for cost in costs if cost is not None)
        wanted = min(1.0, share * affordable / max(planned, 1))
        if abs(wanted / share - 1) <= MIN_CORRECTION:
            break
        try:
            plan, share = plan_tiles_within(run_plan, Budget.fraction(max(wanted, MIN_SHARE)), evidence), wanted
        except BudgetInfeasible:
            break
    if plan is runner.plan:
        return None
    controller.shares.append(share)
    return replace(plan, route=joined_routes(runner.plan.route, plan.route, run_plan.tiles[:done]))


def joined_routes(before: Route, after: Route, done: list[Tile]) -> Route:
    """The decisions `after`, but those `before` for the patches of tiles that are done."""
    route = []
    for old, new in zip(before, after, strict=True):
        choice = new.choice.clone()
        for tile in done:
            y0, x0 = tile.core[0] // new.extent, tile.core[1] // new.extent
            y1, x1 = -(-tile.core[2] // new.extent), -(-tile.core[3] // new.extent)
            choice[:, y0:y1, x0:x1] = old.choice[:, y0:y1, x0:x1]
        route.append(replace(new, choice=choice))
    return tuple(route)
