"""Quality against cost: models at several budgets, as numbers and as a picture."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalewise.errors import BudgetInfeasible, MissingDependency
from scalewise.evaluate.protocols import DEFAULT, EvalProtocol, find_protocol
from scalewise.evaluate.runner import evaluate, plain
from scalewise.evaluate.upscalers import Upscaler, bicubic


@dataclass(frozen=True)
class CurvePoint:
    """One model at one budget: means over pictures."""

    model: str
    budget: float
    psnr: float
    ssim: float
    macs: float
    macs_share: float
    seconds: float


@dataclass(frozen=True)
class Curve:
    """Quality against cost. `notes` name the budgets that a model cannot meet, and pictures that were skipped."""

    protocol: str
    scale: float
    points: tuple[CurvePoint, ...]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        points = [{"model": point.model, **plain(_numbers(point))} for point in self.points]
        return {"protocol": self.protocol, "scale": self.scale, "points": points, "notes": list(self.notes)}

    def write(self, path: Path | str) -> None:
        Path(path).write_text(json.dumps(self.as_dict(), indent=2) + "\n")

    def plot(self, path: Path | str) -> None:
        """PSNR against MACs and against seconds, one line per model, bicubic as a dashed floor."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise MissingDependency("the picture of a curve needs matplotlib: pip install matplotlib") from None
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for panel, cost in zip(panels, ("macs", "seconds"), strict=True):
            for model in dict.fromkeys(point.model for point in self.points):
                points = sorted((p for p in self.points if p.model == model), key=lambda p: getattr(p, cost))
                if model == "bicubic":
                    label = f"bicubic, {points[0].psnr:.2f} dB"
                    panel.axhline(points[0].psnr, linestyle="--", color="0.5", label=label)
                    continue
                panel.plot([getattr(p, cost) for p in points], [p.psnr for p in points], marker="o", label=model)
            panel.set_xlabel("MACs per image" if cost == "macs" else "seconds per image")
            panel.grid(alpha=0.3)
        panels[0].set_ylabel("PSNR (dB)")
        panels[0].legend()
        figure.suptitle(f"×{self.scale:g}, protocol {self.protocol}")
        figure.savefig(path, dpi=150)


def _numbers(point: CurvePoint) -> dict[str, float]:
    values = dataclasses.asdict(point)
    del values["model"]
    return values


def curve(
    models: Mapping[str, Callable[[float], Upscaler]],
    data: Path | str,
    scale: float,
    protocol: EvalProtocol | str = DEFAULT,
    *,
    budgets: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    progress: Callable[[str, float], object] | None = None,
) -> Curve:
    """Evaluate each model at each budget (a share of its own MACs); bicubic is always added, as the floor.

    A budget that a model cannot meet leaves a note instead of a point.
    """
    protocol = find_protocol(protocol) if isinstance(protocol, str) else protocol
    points, notes = [], []
    jobs = [("bicubic", 0.0, lambda _: bicubic)]
    jobs += [(name, budget, build) for name, build in models.items() if name != "bicubic" for budget in budgets]
    for name, budget, build in jobs:
        if progress is not None:
            progress(name, budget)
        try:
            result = evaluate(build(budget), data, scale, protocol)
        except BudgetInfeasible as error:
            notes.append(f"{name} at {budget:.0%}: {error}")
            continue
        mean = result.mean
        notes += [f"{name}: {picture.name} was skipped: {picture.error}" for picture in result.skipped]
        costs = (mean.get(key, math.nan) for key in ("psnr", "ssim", "macs", "macs_share", "seconds"))
        points.append(CurvePoint(name, budget, *costs))
    return Curve(protocol.name, scale, tuple(points), tuple(dict.fromkeys(notes)))
