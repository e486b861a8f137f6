"""Quality against cost of one model, stored with its weights: what a budget costs in dB."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from scalewise.budget.budget import Budget
from scalewise.budget.gains import GainCurve
from scalewise.errors import BudgetInfeasible, DataError


@dataclass(frozen=True)
class Point:
    """Mean share of the full model's MACs, mean PSNR in dB, and seconds per image, at one budget."""

    budget: float
    share: float
    psnr: float
    seconds: float


@dataclass(frozen=True)
class Calibration:
    """The curve of one model at one scale: points by rising budget, measured on `data` under `protocol`; and what a
    model with one level of effort gains in cells of a picture."""

    scale: float
    protocol: str
    data: str
    points: tuple[Point, ...]
    gains: GainCurve | None = None

    def psnr_at(self, share: float) -> float:
        """The PSNR to expect at a share of the MACs: linear between the points, flat beyond them."""
        points = self.points
        if share <= points[0].share:
            return points[0].psnr
        for low, high in pairwise(points):
            if share <= high.share:
                part = (share - low.share) / max(1e-12, high.share - low.share)
                return low.psnr + part * (high.psnr - low.psnr)
        return points[-1].psnr

    def loss_at(self, share: float) -> float:
        """How many dB are lost at a share of the MACs."""
        return self.points[-1].psnr - self.psnr_at(share)

    def as_dict(self) -> dict[str, Any]:
        points = [vars(point) for point in self.points]
        gains = {} if self.gains is None else {"gains": [list(point) for point in self.gains.points]}
        return {"scale": self.scale, "protocol": self.protocol, "data": self.data, "points": points} | gains

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Calibration:
        points = tuple(Point(**point) for point in value["points"])
        gains = tuple((float(score), float(gain)) for score, gain in value.get("gains", ()))
        return cls(value["scale"], value["protocol"], value["data"], points, GainCurve(gains) if gains else None)


def measure(
    run: Callable[[Budget], tuple[float, float, float]],
    budgets: Iterable[float],
    *,
    scale: float,
    protocol: str,
    data: str,
) -> Calibration:
    """Run at each budget (a share in (0, 1]); `run` gives mean share, PSNR in dB and seconds. Budgets below the model's
    floor are left out. Raises BudgetInfeasible if all of them are.
    """
    points, refused = [], None
    for budget in sorted(set(budgets)):
        try:
            points.append(Point(budget, *run(Budget.fraction(budget))))
        except BudgetInfeasible as error:
            refused = error
    if refused is not None and not points:
        raise refused
    return Calibration(scale, protocol, data, tuple(points))


def sidecar(weights: Path) -> Path:
    """The file next to a weight file that holds its curves if they are not in it."""
    return weights.with_name(weights.name + ".calibration.json")


def read_sidecar(weights: Path) -> list[Calibration]:
    """The curves next to a weight file; none without such a file. Raises DataError if they cannot be read."""
    path = sidecar(weights)
    if not path.exists():
        return []
    try:
        return [Calibration.from_dict(curve) for curve in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        raise DataError(f"{path} holds no calibration: delete it, or measure it again") from None


def joined(curves: Iterable[Calibration], found: Calibration) -> list[dict[str, Any]]:
    """Curves as JSON, one for each scale: `found` replaces an older one."""
    others = (curve for curve in curves if curve.scale != found.scale)
    return [curve.as_dict() for curve in sorted((*others, found), key=lambda curve: curve.scale)]
