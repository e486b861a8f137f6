"""Quality against cost: models at several budgets or values of their dial, as numbers and as a picture.

`at_psnr` is the protocol of ENAF (WACV 2025, Table 1): the PSNR is given, and the costs at which methods reach it are
compared.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalewise.budget.budget import Budget
from scalewise.errors import BudgetInfeasible
from scalewise.evaluate.conventions import PaperCost, paper_cost
from scalewise.evaluate.figures import new_figure
from scalewise.evaluate.protocols import DEFAULT, EvalProtocol, find_protocol
from scalewise.evaluate.runner import evaluate, plain
from scalewise.evaluate.upscalers import Upscaler, bicubic


@dataclass(frozen=True)
class CurvePoint:
    """One model at one budget: means over pictures. `budget` is a share of its MACs, or the value of its `dial`;
    `cost` is what a patch costs by the convention that was asked for."""

    model: str
    budget: float
    psnr: float
    ssim: float
    macs: float
    macs_share: float
    seconds: float
    dial: str = ""
    cost: PaperCost | None = None

    @property
    def work(self) -> float:
        """The cost by the convention, or the mean MACs without one."""
        return self.macs if self.cost is None else self.cost.mean

    @property
    def spent(self) -> float:
        """What a curve is drawn over: the share of the cost by the convention, or MACs."""
        return self.macs if self.cost is None else self.cost.share

    @property
    def setting(self) -> str:
        """`50%` or `eta=0.5`; empty for bicubic."""
        if self.dial:
            return f"{self.dial}={self.budget:.4g}"
        return f"{self.budget:.0%}" if self.budget else ""


@dataclass(frozen=True)
class Curve:
    """Quality against cost. `notes` name the budgets that a model cannot meet, and pictures that were skipped.

    `matched`: for each model that reaches `target` dB, the cheapest setting found that does."""

    protocol: str
    scale: float
    points: tuple[CurvePoint, ...]
    notes: tuple[str, ...] = ()
    target: float | None = None
    matched: tuple[CurvePoint, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        found = {"protocol": self.protocol, "scale": self.scale, "points": [_numbers(point) for point in self.points]}
        if self.target is not None:
            found |= {"target": self.target, "matched": [_numbers(point) for point in self.matched]}
        return found | {"notes": list(self.notes)}

    def write(self, path: Path | str) -> None:
        Path(path).write_text(json.dumps(self.as_dict(), indent=2) + "\n")

    def plot(self, path: Path | str) -> None:
        """PSNR against the cost and against seconds, one line per model, bicubic as a dashed floor; of dials a third
        panel, the cost against the dial. The cost is MACs, or the share of the convention that was asked for."""
        dials = any(point.dial for point in self.points)
        figure = new_figure(14 if dials else 10, 4.2)
        panels = figure.subplots(1, 3 if dials else 2)
        panels[1].sharey(panels[0])
        for panel, cost in zip(panels, ("spent", "seconds"), strict=False):
            for model in dict.fromkeys(point.model for point in self.points):
                points = sorted((p for p in self.points if p.model == model), key=lambda p: getattr(p, cost))
                if model == "bicubic":
                    label = f"bicubic, {points[0].psnr:.2f} dB"
                    panel.axhline(points[0].psnr, linestyle="--", color="0.5", label=label)
                    continue
                panel.plot([getattr(p, cost) for p in points], [p.psnr for p in points], marker="o", label=model)
            panel.set_xlabel(self._cost_name if cost == "spent" else "seconds per image")
            panel.grid(alpha=0.3)
        for model in dict.fromkeys(point.model for point in self.points if point.dial):
            points = sorted((p for p in self.points if p.model == model), key=lambda p: p.budget)
            panels[2].plot([p.budget for p in points], [p.spent for p in points], marker="o", label=model)
            panels[2].set(xlabel="dial, as " + ", ".join({p.dial: p.dial for p in self.points if p.dial}))
            panels[2].set_ylabel(self._cost_name)
            panels[2].grid(alpha=0.3)
        panels[0].set_ylabel("PSNR (dB)")
        panels[0].legend()
        figure.suptitle(f"×{self.scale:g}, protocol {self.protocol}")
        figure.savefig(path, dpi=150)

    @property
    def _cost_name(self) -> str:
        cost = next((point.cost for point in self.points if point.cost is not None), None)
        return "MACs per image" if cost is None else f"share of the {cost.convention} cost of all patches at full"


def _numbers(point: CurvePoint) -> dict[str, Any]:
    values = dataclasses.asdict(point)
    numbers = {key: value for key, value in values.items() if key not in ("model", "dial", "cost")}
    found = {"model": point.model, **plain(numbers)} | ({"dial": point.dial} if point.dial else {})
    return found if point.cost is None else found | {"cost": point.cost.as_dict()}


Build = Callable[[Budget], Upscaler]


@dataclass(frozen=True)
class _Measure:
    """One folder under one protocol, with the cost of patches by a convention if there is one."""

    data: Path | str
    scale: float
    protocol: EvalProtocol
    convention: str | None

    def __call__(self, name: str, build: Build, budget: Budget) -> tuple[CurvePoint, list[str]]:
        """The point of a model, and what is to be noted. Raises BudgetInfeasible."""
        upscaler = build(budget)
        result = evaluate(upscaler, self.data, self.scale, self.protocol)
        mean = result.mean
        notes = [f"{name}: {picture.name} was skipped: {picture.error}" for picture in result.skipped]
        numbers = (mean.get(key, math.nan) for key in ("psnr", "ssim", "macs", "macs_share", "seconds"))
        cost = None if self.convention is None else paper_cost(upscaler, result, self.convention)
        return CurvePoint(name, budget.value, *numbers, dial=budget.dial, cost=cost), notes


def curve(
    models: Mapping[str, Build],
    data: Path | str,
    scale: float,
    protocol: EvalProtocol | str = DEFAULT,
    *,
    budgets: Sequence[Budget] | Mapping[str, Sequence[Budget]] = tuple(map(Budget.fraction, (0.25, 0.5, 0.75, 1.0))),
    convention: str | None = None,
    target: float | None = None,
    progress: Callable[[str, Budget], object] | None = None,
) -> Curve:
    """Evaluate each model at each budget, or at those that the mapping has for it; bicubic is always added, as the
    floor. With `target` dB the cheapest setting of each model that reaches it is looked for between its points.

    A budget that a model cannot meet leaves a note instead of a point. Raises ProtocolMismatch where the convention
    does not apply.
    """
    protocol = find_protocol(protocol) if isinstance(protocol, str) else protocol
    measure = _Measure(data, scale, protocol, convention)
    point, notes = dataclasses.replace(measure, convention=None)("bicubic", lambda _: bicubic, Budget.full())
    points, matched = [dataclasses.replace(point, budget=0.0)], []
    for name, build in models.items():
        if name == "bicubic":
            continue
        own: list[CurvePoint] = []
        for budget in budgets[name] if isinstance(budgets, Mapping) else budgets:
            if progress is not None:
                progress(name, budget)
            try:
                point, more = measure(name, build, budget)
            except BudgetInfeasible as error:
                notes.append(f"{name} at {_setting(budget)}: {error}")
                continue
            own.append(point)
            notes += more
        points += own
        if target is None:
            continue
        found = at_psnr(own, target, lambda budget, name=name, build=build: measure(name, build, budget)[0])
        if found is None:
            best = max((point.psnr for point in own), default=math.nan)
            notes.append(f"{name} does not reach {target:g} dB at any of these settings: its best is {best:.3f} dB")
        else:
            matched.append(found)
    return Curve(protocol.name, scale, tuple(points), tuple(dict.fromkeys(notes)), target, tuple(matched))


def _setting(budget: Budget) -> str:
    return f"{budget.dial}={budget.value:g}" if budget.kind == "native" else f"{budget.value:.0%}"


def at_psnr(
    points: Sequence[CurvePoint], target: float, measure: Callable[[Budget], CurvePoint], *, steps: int = 6
) -> CurvePoint | None:
    """The cheapest setting that reaches `target` dB: that of the points, brought closer to the next cheaper one by
    `steps` bisections of the budget or dial. None if no point reaches it."""
    ordered = sorted(points, key=lambda point: point.work)
    reached = [place for place, point in enumerate(ordered) if point.psnr >= target]
    if not reached:
        return None
    best = ordered[reached[0]]
    if not reached[0]:
        return best
    short = ordered[reached[0] - 1]
    for _ in range(steps):
        middle = (best.budget + short.budget) / 2
        if min(best.budget, short.budget) > 0:
            middle = math.sqrt(best.budget * short.budget)
        try:
            point = measure(Budget.native(best.dial, middle) if best.dial else Budget.fraction(middle))
        except BudgetInfeasible:
            break
        if point.psnr >= target:
            best = min(best, point, key=lambda point: point.work)
            if best is not point:
                break
        else:
            short = point
    return best
