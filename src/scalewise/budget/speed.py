"""Speed of one model on this machine, kept with the machine: what a budget takes in seconds."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scalewise.budget.budget import Budget
from scalewise.errors import BudgetInfeasible
from scalewise.storage import cache_folder


@dataclass(frozen=True)
class Level:
    """At a share of the MACs: `start` milliseconds of a picture however small, and `rate`, milliseconds for 10⁹ MACs of
    the full model; what it was learned to take over that is `factor`."""

    share: float
    start: float
    rate: float
    factor: float = 1.0


@dataclass(frozen=True)
class Speed:
    """One model at one scale on this machine: levels by rising share, linear between them.

    Pictures are counted by their `work`: the MACs of the full model, in which patches that overlap and the context of
    tiles count as often as they are computed. Per LR pixel a small picture may have twice as many.
    """

    levels: tuple[Level, ...]

    def learned(self, share: float, ratio: float) -> Speed:
        """After a run at `share` that took `ratio` times what was foreseen: the levels beside it go half of the way, as
        a run may have been disturbed, and the others a little, as they are of the same machine."""
        ratio = min(LEARNED[1], max(LEARNED[0], ratio))
        low, high, part = self._between(share)
        weight = NEAR / (part**2 + (1 - part) ** 2)  # so that what lies between them goes NEAR of the way
        near = {high: weight * part, low: weight * (1 - part)}
        pulls = (max(FAR, near.get(k, 0.0)) for k in range(len(self.levels)))
        levels = zip(self.levels, pulls, strict=True)
        least, most = FACTORS
        return Speed(
            tuple(replace(one, factor=min(most, max(least, one.factor * ratio**pull))) for one, pull in levels)
        )

    @property
    def floor(self) -> float:
        """The least share that was measured."""
        return self.levels[0].share

    def seconds(self, share: float, work: float, *, whole: bool = True) -> float:
        """For a picture of `work` MACs, or for a part of one, which has no start of its own."""
        low, high, part = self._between(share)
        a, b = (
            one.factor * (one.start * whole + one.rate * work / 1e9) for one in (self.levels[low], self.levels[high])
        )
        return (a + part * (b - a)) / 1000

    def share(self, seconds: float, work: float, *, whole: bool = True) -> float:
        """The greatest share that fits in `seconds`; the least one if none does. Less work is not always quicker:
        patches that leave early are gathered and put back."""
        steps = 2000
        for step in range(steps, 0, -1):
            share = step / steps
            if share < self.floor:
                break
            if self.seconds(share, work, whole=whole) <= seconds:
                return share
        return self.floor

    def _between(self, share: float) -> tuple[int, int, float]:
        """The levels on both sides of a share, and how far it is from the lower to the upper one."""
        low = max((k for k, level in enumerate(self.levels) if level.share <= share), default=0)
        high = min(low + 1, len(self.levels) - 1)
        a, b = self.levels[low].share, self.levels[high].share
        return low, high, min(1.0, max(0.0, (share - a) / (b - a))) if b > a else 0.0

    def as_dict(self) -> dict[str, Any]:
        return {"levels": [vars(level) for level in self.levels]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Speed:
        levels = tuple(
            Level(*(float(x[name]) for name in ("share", "start", "rate", "factor"))) for x in value["levels"]
        )
        if not levels or not all(level.rate > 0 and FACTORS[0] <= level.factor <= FACTORS[1] for level in levels):
            raise ValueError("no levels")
        return cls(levels)


NEAR, FAR = 0.5, 0.15  # of the way that one run moves the levels beside it, and the others
LEARNED = 0.6, 1.7  # what one run can teach, at most: beyond, something else was in its way
FACTORS = 0.3, 4.0  # what all runs can
LEVELS = (1.0, 0.9, 0.5, 0.2, 0.02)  # shares of the MACs that are tried; all of it may be quicker than a little less
SMALL, LARGEST = 96, 640  # sides in LR pixels of the pictures that are tried
MEASURING = 1.7  # seconds that measuring may take, once for each model, scale and machine
PASSES = 1.5  # over all levels, that have to fit in there
FIXED = 0.4  # of the time at full effort, that less effort takes at least: so much is counted on for that
ABOVE = 0.02  # of the MACs above the floor, that are tried
FORMAT = "speed 2"  # of the file: what an older one says is not read
FRESH = 30 * 86400  # seconds for which what was measured is believed: drivers, libraries and cooling change


@dataclass(frozen=True)
class Tried:
    """One run: the share spent, the MACs of the full model on that picture, seconds."""

    share: float
    work: float
    seconds: float


Try = Callable[[Budget, int], Tried]  # (budget, side of a picture in LR pixels)


def measure_speed(run: Try, *, seconds: float = MEASURING) -> Speed:
    """Try each level at a picture as large as the time allows, the least and the full one at a small picture too: what
    those take beyond their work is the start of a picture. `run` raises BudgetInfeasible below the model's floor, and
    is then tried just above it."""
    began = time.perf_counter()
    run(Budget.full(), SMALL)  # a first run gets ready
    small_full = run(Budget.full(), SMALL)
    wishes, small_least = list(LEVELS), small_full
    for share in reversed(LEVELS):
        try:
            small_least = run(Budget.fraction(share), SMALL)
            break
        except BudgetInfeasible as error:  # the floor is between this one and the next
            floor = error.floor if error.floor is not None else 1.0
            wishes = [wish for wish in LEVELS if wish == 1 or wish >= floor + ABOVE]
            wishes += [floor + ABOVE] if floor + ABOVE < 1 else []
    while wishes[-1] not in LEVELS:
        try:
            small_least = run(Budget.fraction(wishes[-1]), SMALL)
            break
        except BudgetInfeasible:  # just above the floor, and yet nothing fits: the next level is the least
            wishes.pop()
            small_least = run(Budget.fraction(wishes[-1]), SMALL)
    slope = small_full.seconds / SMALL**2
    if 4 * small_full.seconds < seconds / 10:  # much of it may be its start: look again
        slope = max(slope / 4, (run(Budget.full(), 2 * SMALL).seconds - small_full.seconds) / (3 * SMALL**2))
    left = max(0.0, seconds - (time.perf_counter() - began))
    rounds = PASSES * sum(FIXED + (1 - FIXED) * share for share in wishes)
    large = max(SMALL + 32, min(LARGEST, int((left / max(rounds * slope, 1e-12)) ** 0.5) // 32 * 32))
    found: dict[float, Tried] = {}
    for share in (*wishes, *wishes):  # again while there is time: the first of a kind of batch also prepares it
        if share in found and time.perf_counter() - began > seconds:
            break
        with suppress(BudgetInfeasible):
            tried = run(Budget.fraction(share), large)
            found[share] = min(found.get(share, tried), tried, key=lambda one: one.seconds)
    order = sorted(found.values(), key=lambda one: one.share)
    least, full = _start(small_least, order[0]), _start(small_full, order[-1])
    span = max(1e-9, order[-1].share - order[0].share)
    levels = []
    for tried in order:
        start = least + (full - least) * (tried.share - order[0].share) / span
        start = min(start, 0.5 * tried.seconds)
        levels.append(Level(tried.share, 1e3 * start, 1e12 * (tried.seconds - start) / max(tried.work, 1.0)))
    return Speed(tuple(levels))


def _start(small: Tried, large: Tried) -> float:
    """Seconds that both took beyond their work; some of them were for that, whatever noise says."""
    if large.work <= small.work:
        return 0.0
    slope = (large.seconds - small.seconds) / (large.work - small.work)
    return min(max(0.0, small.seconds - slope * small.work), 0.9 * small.seconds, 0.5 * large.seconds)


def speed_file(key: Sequence[object]) -> Path:
    """Where the speed for a key (model, number type, threads, machine, version, …) is kept: in the user's cache."""
    parts = [FORMAT, *(str(part) for part in key)]
    name = hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
    return cache_folder() / "speed" / f"{name}.json"


def read_speed(path: Path) -> Speed | None:
    """The speed that an earlier run kept; None if there is none, it is not fresh, or it cannot be read: then it is
    measured again."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        fresh = abs(time.time() - float(content["measured"])) < FRESH
        return Speed.from_dict(content) if fresh else None
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None


def write_speed(path: Path, speed: Speed, key: Sequence[object], *, measured: float | None = None) -> None:
    """Write it down, whole or not at all; where that cannot be, it is measured again next time. `measured`: when, in
    seconds since 1970; None: what was learned since leaves that as it is, and now if nothing is there."""
    if measured is None:
        measured = time.time()
        with suppress(OSError, ValueError, TypeError, KeyError):
            measured = float(json.loads(path.read_text(encoding="utf-8"))["measured"])
    content = {"key": [str(part) for part in key], "measured": measured, **speed.as_dict()}
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
            json.dump(content, file, indent=1)
        os.replace(file.name, path)
