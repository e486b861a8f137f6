"""Quality against cost of one model, kept with its weights: what a budget costs in dB; and its speed, kept with the
machine: what a budget takes in seconds."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from scalewise.effort import Budget
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
    """The curve of one model at one scale: points by rising budget, measured on `data` under `protocol`."""

    scale: float
    protocol: str
    data: str
    points: tuple[Point, ...]

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
        """How many dB a share of the MACs gives away."""
        return self.points[-1].psnr - self.psnr_at(share)

    def as_dict(self) -> dict[str, Any]:
        points = [vars(point) for point in self.points]
        return {"scale": self.scale, "protocol": self.protocol, "data": self.data, "points": points}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Calibration:
        points = tuple(Point(**point) for point in value["points"])
        return cls(value["scale"], value["protocol"], value["data"], points)


def measure(
    run: Callable[[Budget], tuple[float, float, float]],
    budgets: Iterable[float],
    *,
    scale: float,
    protocol: str,
    data: str,
) -> Calibration:
    """Run at each budget (a share in (0, 1]); `run` gives mean share, PSNR and seconds. Budgets below the model's floor
    are left out; raises BudgetInfeasible if all are."""
    points, refused = [], None
    for budget in sorted(set(budgets)):
        try:
            points.append(Point(budget, *run(Budget.fraction(budget))))
        except BudgetInfeasible as error:
            refused = error
    if refused is not None and not points:
        raise refused
    return Calibration(scale, protocol, data, tuple(points))


def beside(weights: Path) -> Path:
    """Where the curves of a weight file are kept if they are not in it."""
    return weights.with_name(weights.name + ".calibration.json")


def kept(weights: Path) -> list[Calibration]:
    """The curves beside a weight file. Raises DataError if they cannot be read."""
    path = beside(weights)
    if not path.exists():
        return []
    try:
        return [Calibration.from_dict(curve) for curve in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        raise DataError(
            f"{path} holds no calibration: delete it, or measure again (scalewise calibrate --keep)"
        ) from None


def joined(curves: Iterable[Calibration], found: Calibration) -> list[dict[str, Any]]:
    """Curves as JSON, one for each scale: `found` in place of an older one."""
    others = (curve for curve in curves if curve.scale != found.scale)
    return [curve.as_dict() for curve in sorted((*others, found), key=lambda curve: curve.scale)]


# --- speed ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Level:
    """At a share of the MACs: `start` milliseconds of a picture however small, and `pixel`, milliseconds for a million
    LR pixels more."""

    share: float
    start: float
    pixel: float


@dataclass(frozen=True)
class Speed:
    """One model at one scale on this machine: levels by rising share, linear between them, times `factor`, which runs
    in seconds bring nearer to what they took."""

    levels: tuple[Level, ...]
    factor: float = 1.0

    def learned(self, ratio: float) -> Speed:
        """After a run that took `ratio` times what was foreseen: half of the way, as a run may have been disturbed."""
        return replace(self, factor=min(2.0, max(0.5, self.factor * min(1.5, max(0.7, ratio)) ** 0.5)))

    @property
    def floor(self) -> float:
        """The least share that was measured."""
        return self.levels[0].share

    def seconds(self, share: float, pixels: int, *, whole: bool = True) -> float:
        """For so many LR pixels: a whole picture, or a part of one, which has no start of its own."""
        low = max((k for k, level in enumerate(self.levels) if level.share <= share), default=0)
        a, b = self.levels[low], self.levels[min(low + 1, len(self.levels) - 1)]
        part = min(1.0, max(0.0, (share - a.share) / (b.share - a.share))) if b.share > a.share else 0.0
        start, pixel = a.start + part * (b.start - a.start), a.pixel + part * (b.pixel - a.pixel)
        return self.factor * (start * whole + pixel * pixels / 1e6) / 1000

    def share(self, seconds: float, pixels: int, *, whole: bool = True) -> float:
        """The greatest share that fits in `seconds`; the least one if none does. Less work is not always quicker:
        patches that leave early are gathered and put back."""
        steps = 2000
        for step in range(steps, 0, -1):
            share = step / steps
            if share < self.floor:
                break
            if self.seconds(share, pixels, whole=whole) <= seconds:
                return share
        return self.floor

    def as_dict(self) -> dict[str, Any]:
        return {"levels": [vars(level) for level in self.levels], "factor": self.factor}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Speed:
        levels = tuple(Level(float(x["share"]), float(x["start"]), float(x["pixel"])) for x in value["levels"])
        if not levels:
            raise ValueError("no levels")
        return cls(levels, float(value.get("factor", 1.0)))


LEVELS = (1.0, 0.75, 0.5, 0.25, 0.1, 0.02)  # shares of the MACs that are tried
SMALL, LARGEST = 96, 640  # sides in LR pixels of the pictures that are tried
MEASURING = 1.7  # seconds that measuring may take, once for each model, scale and machine

Try = Callable[[Budget, int], tuple[float, float]]  # (budget, side of a picture) → share spent, seconds


def measure_speed(run: Try, *, seconds: float = MEASURING) -> Speed:
    """Try each level at a small picture and at one as large as the time allows. `run` raises BudgetInfeasible below the
    model's floor, and is then tried just above it."""
    began = time.perf_counter()
    run(Budget.full(), SMALL)  # a first run gets ready
    full = min(run(Budget.full(), SMALL)[1] for _ in range(2))
    wishes, floor = list(LEVELS), 0.0
    for share in reversed(LEVELS):  # the floor, where there is one
        try:
            run(Budget.fraction(share), SMALL)
        except BudgetInfeasible as error:
            floor = error.floor if error.floor is not None else 1.0
            continue
        break
    if floor:
        wishes = [share for share in wishes if share >= floor] + ([min(1.0, floor + 0.02)] if floor < 0.98 else [])
    left = max(0.0, seconds - (time.perf_counter() - began))
    per_pixel = full / SMALL**2  # an upper bound: the start is in it
    fits = (left / (1.4 * len(wishes)) / max(per_pixel, 1e-12)) ** 0.5
    large = max(2 * SMALL if fits > 1.5 * SMALL else SMALL, min(LARGEST, int(fits) // 32 * 32))
    found: dict[float, Level] = {}
    for share in wishes:
        with suppress(BudgetInfeasible):
            budget = Budget.fraction(share)
            # the first run of a kind of batch prepares it, which may take longer than running it
            twice = [min(run(budget, side), run(budget, side), key=_seconds) for side in (SMALL, large)]
            (spent, small), (_, big) = twice
            slope = (big - small) / (large**2 - SMALL**2) if large > SMALL else small / SMALL**2
            slope = max(slope, big / large**2 / 2)
            found[round(spent, 6)] = Level(spent, 1e3 * max(0.0, big - slope * large**2), 1e9 * slope)
    return Speed(tuple(found[share] for share in sorted(found)))


def _seconds(tried: tuple[float, float]) -> float:
    return tried[1]


def speed_file(key: Sequence[object]) -> Path:
    """Where the speed for a key (model, number type, threads, machine, version, …) is kept: in the user's cache."""
    name = hashlib.blake2b(json.dumps([str(part) for part in key]).encode(), digest_size=16).hexdigest()
    return cache_folder() / "speed" / f"{name}.json"


def cache_folder() -> Path:
    """The user's cache folder for scalewise."""
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "scalewise"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "scalewise" / "Cache"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "scalewise"


def kept_speed(path: Path) -> Speed | None:
    """The speed that an earlier run kept; None if there is none, or it cannot be read: it is measured again."""
    try:
        return Speed.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def keep_speed(path: Path, speed: Speed, key: Sequence[object]) -> None:
    """Write it down, whole or not at all; where that cannot be, it is measured again next time."""
    content = {"key": [str(part) for part in key], **speed.as_dict()}
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            json.dump(content, file, indent=1)
        os.replace(file.name, path)
