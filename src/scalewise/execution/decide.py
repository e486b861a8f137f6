"""What a budget buys on one picture: the router looks at all of it, and the model decides once, for its tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from scalewise import images
from scalewise.budget.budget import Budget, format_budget
from scalewise.errors import BudgetInfeasible
from scalewise.execution.plan import RunPlan, full_macs
from scalewise.geometry import tiling
from scalewise.geometry.grid import Frame, Size
from scalewise.models.model import Model, RoutePlan

SCORE_SIDE = 1024  # LR pixels a side that the router sees at once


def decide(run_plan: RunPlan, budget: Budget) -> RoutePlan:
    """What the budget buys on this picture: the router looks at all of it, and the model decides once."""
    return decider(run_plan)(budget)


def decider(run_plan: RunPlan) -> Callable[[Budget], RoutePlan]:
    """The same for several budgets: the router looks once."""
    model, tiles = run_plan.model, run_plan.all_tiles
    evidence = _score(run_plan.source, model, run_plan.out, run_plan.device)
    tiled = sum(full_macs(model, tile, run_plan) for tile in tiles)
    return lambda budget: _decide(model, evidence, tiles, run_plan.frame, run_plan.out, budget, tiled)


REFINEMENTS = 12  # times that less is granted, because tiles made a plan dearer
MARGIN = 0.998  # of what would just do, so that few of them are needed


def _decide(
    model: Model, evidence: Tensor | None, tiles: list[tiling.Tile], frame: Frame, out: Size, budget: Budget, full: int
) -> RoutePlan:
    """A plan that keeps to the budget in these tiles, which cost `full` MACs with everything on, without the router.

    A model decides for the picture without context, and that decision stays if it can. But tiles compute their context
    too, which costs most where the picture is difficult: then less is granted. Raises BudgetInfeasible.
    """
    size = frame.size
    if budget.kind == "native" or (len(tiles) == 1 and not frame.wrap):
        return model.plan(evidence, size, out, budget)
    whole = model.full_macs(Frame(size), size, (0, 0, *size), out)
    first = Budget.macs(budget.value * whole / full) if budget.kind == "macs" else budget
    plan = model.plan(evidence, size, out, first)
    fixed, granted = plan.overhead.total, first.allowed(plan.macs_full)
    allowed = budget.allowed(full + fixed)
    for _ in range(REFINEMENTS):
        costs = [model.planned_macs(_at(frame, tile), _side(tile), tile.core, out, plan) for tile in tiles]
        known = [cost for cost in costs if cost is not None]
        cost = sum(known) + fixed
        if cost <= allowed or len(known) < len(costs):
            return plan
        granted = fixed + (granted - fixed) * (allowed - fixed) / (cost - fixed) * MARGIN
        try:
            plan = model.plan(evidence, size, out, Budget.macs(max(1.0, granted)))
        except BudgetInfeasible:
            break
    raise BudgetInfeasible(
        f"budget {format_budget(budget)} cannot be kept in {len(tiles)} tiles, which compute their context too: ask "
        "for more, or for larger tiles"
    )


def _at(frame: Frame, tile: tiling.Tile) -> Frame:
    return replace(frame, origin=tile.source[:2])


def _side(tile: tiling.Tile) -> Size:
    y0, x0, y1, x1 = tile.source
    return y1 - y0, x1 - x0


def _score(source: images.Source, model: Model, out: Size, device: torch.device) -> Tensor | None:
    """The router's evidence on the whole image, read in pieces cut along its units."""
    height, width = source.size
    scale = (out[0] / height, out[1] / width)
    rows = []
    for top, bottom in _pieces(height, model):
        row = []
        for left, right in _pieces(width, model):
            evidence = model.score(source.read((top, left, bottom, right), bled=True).unsqueeze(0).to(device), scale)
            if evidence is None:
                return None
            row.append(evidence.cpu())
        rows.append(torch.cat(row, -1))
    return torch.cat(rows, -2)


def _pieces(length: int, model: Model) -> list[tuple[int, int]]:
    """The spans of an axis that a survey reads: they overlap by its margin, and each holds a whole unit if the axis
    does."""
    grid, margin = model.grid, model.score_margin
    side = max(1, SCORE_SIDE // grid) * grid
    starts = range(0, max(0, length - grid - margin) + 1, side)
    return [*((start, start + side + margin) for start in starts[:-1]), (starts[-1], length)]
