"""The solver for decisions made before a run: which option of each unit, so that the gain is greatest in a budget."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from scalewise.errors import BudgetInfeasible


def solve(gain: Tensor, cost: Tensor, allowed: float) -> Tensor:
    """Choose one option per unit, (units,) int64, so that the summed gain is greatest within `allowed` cost.

    `gain`, `cost` (units, options): cost rises along the options; gain of option 0 is the reference. Options below the
    upper concave envelope of a unit are never taken. Steps along the envelopes are taken in order of gain per cost
    (ties: by unit), which is the Lagrangian rule argmax gain - price·cost at every price; then the remainder is filled
    with the steps that still fit. Raises BudgetInfeasible if the cheapest options exceed `allowed`.
    """
    return Envelope(gain, cost).solve(allowed)


class Envelope:
    """The steps of all units in the order in which `solve` takes them, for several budgets."""

    def __init__(self, gain: Tensor, cost: Tensor) -> None:
        gain, cost = gain.double().cpu(), cost.double().cpu()
        self.units, self.floor = len(cost), float(cost[:, 0].sum())
        unit, target, slope, price = _envelope_steps(gain, cost)
        last = torch.full((self.units,), float("inf"), dtype=slope.dtype)
        for start, stop in _runs(unit):  # rounding must not put a unit's later step before its earlier one
            slope[start:stop] = torch.minimum(slope[start:stop], last[unit[start:stop]])
            last[unit[start:stop]] = slope[start:stop]
        order = torch.argsort(slope, descending=True, stable=True)
        self.unit, self.target, self.price = unit[order], target[order], price[order]
        self.running = torch.cumsum(self.price, 0)
        # the cheapest of each step and those after it
        self.cheapest = self.price.flip(0).cummin(0).values.flip(0) if len(self.price) else self.price

    def solve(self, allowed: float) -> Tensor:
        """The choice of the function `solve`."""
        if self.floor > allowed:
            raise BudgetInfeasible(f"{allowed:g} MACs are below the floor of {self.floor:g}")
        left = allowed - self.floor
        fits = int(torch.searchsorted(self.running, torch.tensor([left], dtype=torch.float64), right=True)[0])
        choice = torch.zeros(self.units, dtype=torch.int64)
        choice.scatter_reduce_(0, self.unit[:fits], self.target[:fits], "amax")
        left -= float(self.running[fits - 1]) if fits else 0.0
        blocked: set[int] = set()  # a unit whose next step did not fit may not take a later one
        for k in range(fits, len(self.price)):
            if float(self.cheapest[k]) > left:
                break
            u, p = int(self.unit[k]), float(self.price[k])
            if u in blocked:
                continue
            if p <= left:
                choice[u] = self.target[k]
                left -= p
            else:
                blocked.add(u)
        return choice


def _runs(unit: Tensor) -> list[tuple[int, int]]:
    """The spans in which units rise: each is one round of steps, in which a unit has at most one."""
    breaks = ((unit.diff() <= 0).nonzero().flatten() + 1).tolist()
    return list(pairwise([0, *breaks, len(unit)])) if len(unit) else []


def _envelope_steps(gain: Tensor, cost: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Steps of every unit's upper concave envelope: (unit, option reached, gain per cost, cost of the step)."""
    units, options = cost.shape
    rows = torch.arange(units)
    here = torch.zeros(units, dtype=torch.int64)
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for _ in range(options - 1):
        rise = gain - gain[rows, here].unsqueeze(1)
        run = cost - cost[rows, here].unsqueeze(1)
        possible = (torch.arange(options).unsqueeze(0) > here.unsqueeze(1)) & (run > 0) & (rise > 0)
        slope = torch.where(possible, rise / run.clamp_min(1e-30), torch.full_like(rise, -1.0))
        # the steepest next point is the envelope's; among equal ones the farthest
        best = options - 1 - slope.flip(1).argmax(1)
        alive = slope[rows, best] > 0
        if not bool(alive.any()):
            break
        found.append((rows[alive], best[alive], slope[rows, best][alive], run[rows, best][alive]))
        here = torch.where(alive, best, here)
    if not found:
        empty = torch.empty(0)
        return empty.long(), empty.long(), empty.double(), empty.double()
    unit, target, slope, price = (torch.cat(column) for column in zip(*found, strict=True))
    return unit, target, slope, price


def spread(total: int, layers: int) -> list[int]:
    """`total` units over `layers`, as even as possible, earlier layers first: finer than one share for all layers."""
    each, extra = divmod(total, layers)
    return [each + (layer < extra) for layer in range(layers)]
