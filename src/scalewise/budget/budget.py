"""From what a user asks for to what a model does: Budget, Effort, and the solver for decisions known before."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from scalewise.errors import BudgetInfeasible

DIALS = ("eta", "k", "gamma", "epsilon", "beta", "lambda", "threshold", "path")


@dataclass(frozen=True)
class Budget:
    """What a user asks for: a share of the full model's MACs in (0, 1], MACs, seconds, or the paper's own `dial`.

    Seconds are those of one picture, from opening it to the finished file (docs/budgets.md); `execution/deadline.py`
    makes a share of them. `later`: (tile, share) from which on another share holds, as a run in seconds was corrected
    on its way.

    The dials are those that published tables are printed in: `eta` of ENAF, `k` of ARM, `gamma` of CAMixerSR, `epsilon`
    of AdaFormer, `beta` of TADT, `lambda` of ClassSR (0: its argmax), `threshold` of APE; and `path`, which all patches
    take.
    """

    kind: Literal["fraction", "macs", "seconds", "native"]
    value: float
    dial: str = ""
    later: tuple[tuple[int, float], ...] = ()

    @classmethod
    def full(cls) -> Budget:
        return cls("fraction", 1.0)

    @classmethod
    def fraction(cls, value: float) -> Budget:
        if not (math.isfinite(value) and 0 < value <= 1):
            raise BudgetInfeasible(f"budget {value:g} is out of range: a share is above 0 and at most 1 (100%)")
        return cls("fraction", value)

    @classmethod
    def macs(cls, value: float) -> Budget:
        if not (math.isfinite(value) and value > 0):
            raise BudgetInfeasible(f"budget of {value:g} MACs is out of range: it must be above 0")
        return cls("macs", value)

    @classmethod
    def seconds(cls, value: float) -> Budget:
        if not (math.isfinite(value) and value > 0):
            raise BudgetInfeasible(f"budget of {value:g} seconds is out of range: it must be above 0")
        return cls("seconds", value)

    @classmethod
    def native(cls, dial: str, value: float) -> Budget:
        if dial not in DIALS or not math.isfinite(value):
            raise BudgetInfeasible(f"native dial {dial}={value:g}: dials are {', '.join(DIALS)}, with a number")
        return cls("native", value, dial)

    @classmethod
    def parse(cls, text: str | float | Budget | None) -> Budget:
        """`50%`, `0.5`, `2e12macs`, `2s`, `1500ms`, `eta=0.5`; `0.5,0.4@3` from tile 3 on less; None is the full model.
        Raises BudgetInfeasible."""
        if text is None:
            return cls.full()
        if isinstance(text, Budget):
            return text
        named = re.fullmatch(r"\s*([a-z]+)\s*=\s*([-+0-9.eE]+)\s*", str(text))
        if named and named[1] in DIALS:
            try:
                return cls.native(named[1], float(named[2]))
            except ValueError:
                raise BudgetInfeasible(f"native dial {text!r} is not a number") from None
        first, *rest = str(text).split(",")
        match = re.fullmatch(r"\s*([-+0-9.eE]+|nan|[-+]?inf)\s*(%|macs|s|ms)?\s*", first)
        steps = [re.fullmatch(r"\s*([0-9.]+)@([0-9]+)\s*", part) for part in rest]
        try:
            value, unit = float(match[1]), match[2]  # type: ignore[index]
            later = tuple((int(step[2]), cls.fraction(float(step[1])).value) for step in steps)  # type: ignore[index]
        except (TypeError, ValueError) as error:
            if isinstance(error, BudgetInfeasible):
                raise
            raise BudgetInfeasible(f"budget {text!r} is not a budget: write 50%, 0.5, 2e12macs or 2s") from None
        if unit in ("macs", "s", "ms"):
            if later:
                raise BudgetInfeasible(f"budget {text!r} is not a budget: only a share can change at a tile")
            return cls.macs(value) if unit == "macs" else cls.seconds(value / 1000 if unit == "ms" else value)
        return dataclasses.replace(cls.fraction(value / 100 if unit == "%" else value), later=later)

    def allowed(self, full: int) -> float:
        """The MACs that this budget grants a model that costs `full` with everything on."""
        if self.kind == "seconds":  # `execution.deadline` makes a share of them before a model hears of it
            raise BudgetInfeasible(f"budget {self.value:g} s: seconds are for upscale; give a share or MACs here")
        if self.kind == "native":
            return float(full)
        return self.value * full if self.kind == "fraction" else min(self.value, float(full))

    def dial_of(self, *own: str) -> float | None:
        """The value of the native dial, None without one. Raises BudgetInfeasible if it is not one of `own`."""
        if self.kind != "native":
            return None
        if self.dial not in own:
            has = f"has {', '.join(own)}" if own else "has no native dial"
            raise BudgetInfeasible(f"this model does not turn by {self.dial!r}: it {has}; use a budget like 50%")
        return self.value


@dataclass(frozen=True)
class Effort:
    """What a budget became, and what repeats the picture exactly when it is asked for again.

    `share` of the full model's MACs, for decisions known before the run; `price` the gain that a MAC had to bring;
    `keep` the share of units kept per layer, for decisions made layer by layer; `native` the paper's own dial. `budget`
    is what to write for the same picture again, where seconds were asked for; else it is empty.
    """

    share: float = 1.0
    price: float | None = None
    keep: float = 1.0
    native: Mapping[str, float] = field(default_factory=dict)
    budget: str = ""

    def as_dict(self) -> dict[str, object]:
        plain: dict[str, object] = {
            "share": self.share,
            "price": self.price,
            "keep": self.keep,
            "native": dict(self.native),
        }
        if self.budget:
            plain["budget"] = self.budget
        return plain


@dataclass(frozen=True)
class Solution:
    """`choice` (units,) int64, what it `cost`s, and the `price`: gain per MAC of the dearest step refused."""

    choice: Tensor
    cost: float
    price: float


def solve(gain: Tensor, cost: Tensor, allowed: float) -> Solution:
    """Choose one option per unit so that the summed gain is greatest within `allowed` cost.

    `gain`, `cost` (units, options): cost rises along the options; gain of option 0 is the reference. Options below the
    upper concave envelope of a unit are never taken. Steps along the envelopes are taken in order of gain per cost
    (ties: by unit), which is the Lagrangian rule argmax gain - price·cost at every price; then the remainder is filled
    with the steps that still fit (spec adaptive §7). Raises BudgetInfeasible if the cheapest options exceed `allowed`.
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
        self.unit, self.target, self.slope, self.price = unit[order], target[order], slope[order], price[order]
        self.running = torch.cumsum(self.price, 0)
        # of this step and those behind it
        self.cheapest = self.price.flip(0).cummin(0).values.flip(0) if len(self.price) else self.price

    def solve(self, allowed: float) -> Solution:
        """As the function `solve`."""
        if self.floor > allowed:
            raise BudgetInfeasible(f"{allowed:g} MACs are below the floor of {self.floor:g}")
        left = allowed - self.floor
        fits = int(torch.searchsorted(self.running, torch.tensor([left], dtype=torch.float64), right=True)[0])
        choice = torch.zeros(self.units, dtype=torch.int64)
        choice.scatter_reduce_(0, self.unit[:fits], self.target[:fits], "amax")
        left -= float(self.running[fits - 1]) if fits else 0.0
        last_price = float(self.slope[fits]) if fits < len(self.slope) else 0.0
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
        return Solution(choice, allowed - left, last_price)


def _runs(unit: Tensor) -> list[tuple[int, int]]:
    """The spans of rising units: each is one round of steps, in which a unit has at most one."""
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
        ahead = (torch.arange(options).unsqueeze(0) > here.unsqueeze(1)) & (run > 0) & (rise > 0)
        slope = torch.where(ahead, rise / run.clamp_min(1e-30), torch.full_like(rise, -1.0))
        # the steepest next point is the envelope's; of equals the farthest
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
    """`total` units over `layers`, as even as can be, earlier layers first: finer than one share for all layers."""
    each, extra = divmod(total, layers)
    return [each + (layer < extra) for layer in range(layers)]
