"""What a budget buys on one picture: the router looks at all of it once, and the model plans for all its tiles."""

from __future__ import annotations

import torch
from torch import Tensor

from scalewise.budget.budget import Budget, format_budget
from scalewise.errors import BudgetInfeasible
from scalewise.execution.mask import masked, weighted
from scalewise.execution.plan import RunPlan
from scalewise.geometry.grid import Frame
from scalewise.models.model import Model, RoutePlan

SCORE_SIDE = 1024  # LR pixels a side that the router sees at once
REFINEMENTS = 12  # plans that are tried, each for a smaller budget, because tiles made the last one too dear
REFINEMENT_MARGIN = 0.998  # of the budget that would just do: a little less needs fewer of them


def decide(run_plan: RunPlan, budget: Budget) -> RoutePlan:
    """What the budget buys on this picture: the router looks at all of it, and the model plans once. Raises
    BudgetInfeasible."""
    return plan_tiles_within(run_plan, budget, score(run_plan))


def plan_tiles_within(run_plan: RunPlan, budget: Budget, evidence: Tensor | None) -> RoutePlan:
    """A plan that keeps to the budget in the tiles of this run, from what the router saw.

    A model plans for the picture without context, and that plan stays if it can. But tiles compute their context too,
    which costs most where the picture is difficult: then the model is asked to plan for less. What an effort mask
    marks comes first, and no patch gets more than it grants. Raises BudgetInfeasible.
    """
    plan = _within(run_plan, budget, evidence)
    if (mask := run_plan.mask) is None:
        return plan
    return masked(plan, mask, run_plan.model, run_plan.out)


def _within(run_plan: RunPlan, budget: Budget, evidence: Tensor | None) -> RoutePlan:
    """As `plan_tiles_within`, without a mask."""
    model, frame, out, tiles = run_plan.model, run_plan.frame, run_plan.out, run_plan.all_tiles
    size = frame.size
    if budget.kind == "native" or [tile.source for tile in tiles] == [(0, 0, *size)]:
        return model.plan(evidence, size, out, budget)
    full = sum(run_plan.full_macs(tile) for tile in tiles)
    whole = model.full_macs(Frame(size), size, (0, 0, *size), out)
    first = Budget.macs(budget.value * whole / full) if budget.kind == "macs" else budget
    plan = model.plan(evidence, size, out, first)
    fixed, granted = plan.overhead.total, first.allowed(plan.macs_full)
    allowed = budget.allowed(full + fixed)
    for _ in range(REFINEMENTS):
        costs = [run_plan.planned_macs(tile, plan) for tile in tiles]
        known = [cost for cost in costs if cost is not None]
        cost = sum(known) + fixed
        if cost <= allowed or len(known) < len(costs):
            return plan
        granted = fixed + (granted - fixed) * (allowed - fixed) / (cost - fixed) * REFINEMENT_MARGIN
        try:
            plan = model.plan(evidence, size, out, Budget.macs(max(1.0, granted)))
        except BudgetInfeasible:
            break
    raise BudgetInfeasible(
        f"budget {format_budget(budget)} cannot be kept in {len(tiles)} tiles, which compute their context too: ask "
        "for more, or for larger tiles"
    )


def score(run_plan: RunPlan) -> Tensor | None:
    """The router's evidence on the whole image, read in pieces cut along its units; None of a model without one."""
    source, model, (height, width) = run_plan.source, run_plan.model, run_plan.source.size
    scale = (run_plan.out[0] / height, run_plan.out[1] / width)
    rows = []
    for top, bottom in _pieces(height, model):
        row = []
        for left, right in _pieces(width, model):
            piece = source.read((top, left, bottom, right), bled=True).unsqueeze(0)
            evidence = model.score(piece.to(run_plan.device), scale)
            if evidence is None:
                return None
            row.append(evidence.cpu())
        rows.append(torch.cat(row, -1))
    evidence = torch.cat(rows, -2)
    if run_plan.mask is None or not model.limits.weighs_patches:
        return evidence
    return weighted(evidence, run_plan.mask, model.limits.patch_stride)


def _pieces(length: int, model: Model) -> list[tuple[int, int]]:
    """The spans of an axis that the router sees: they overlap by its margin, and each holds a whole unit if the axis
    does."""
    grid, margin = model.limits.patch_stride, model.limits.score_margin
    side = max(1, SCORE_SIDE // grid) * grid
    starts = range(0, max(0, length - grid - margin) + 1, side)
    return [*((start, start + side + margin) for start in starts[:-1]), (starts[-1], length)]
