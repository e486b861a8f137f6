"""A budget in seconds: the share of the work that it becomes before the first tile, and its correction on the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scalewise import images
from scalewise.budget.budget import Budget
from scalewise.budget.route import Route
from scalewise.budget.speed import Speed
from scalewise.errors import BudgetInfeasible
from scalewise.execution.decide import decider
from scalewise.execution.plan import RunOptions, RunPlan, full_macs
from scalewise.execution.probe import speed_of
from scalewise.execution.tiles import Canvas, Run
from scalewise.geometry.grid import Size
from scalewise.geometry.resize import imresize
from scalewise.geometry.tiling import Tile
from scalewise.models.model import Model, RoutePlan

DIGITS = 4  # of a share: few enough to be written down, and what is written down is what is run
SLACK = 1.2  # a forecast that is over by less is tried
STEADY = 0.05  # a share is corrected when the time left asks for one that differs by more
TRIES = 3  # plans for the rest, of which each is nearer to what can be afforded
TRUST = 0.3, 3.0  # how far the seconds of a few tiles may lie from the forecast

Decide = Callable[[Budget], RoutePlan]


@dataclass
class DeadlineController:
    """Keeps a run to `deadline` (of time.perf_counter; None: it follows `budget.later`). `after` is asked when a tile
    is done, and gives the plan for those behind it, or None; `budget` is what was run, and repeats it.

    `works`: the MACs of the full model on each tile. `tail`: seconds that are needed behind the last tile, to encode;
    `beside`: that encoding takes from the tiles, and that are in their time; `excused`: that were spent on measuring.
    """

    run_plan: RunPlan
    decide: Decide
    budget: Budget
    speed: Speed | None = None
    works: tuple[int, ...] = ()
    deadline: float | None = None
    tail: float = 0.0
    beside: float = 0.0
    excused: float = 0.0
    began: float = 0.0  # when the survey began
    done: int = 0  # tiles
    _started: float = 0.0
    _foreseen: float = 0.0  # seconds for the tiles that are done
    _spent: float = 0.0  # MACs for them
    _shares: tuple[float, ...] = ()  # what the plan gives each tile, of its work
    _deciding: float = 0.0  # seconds that a correction took

    @classmethod
    def to_deadline(
        cls,
        run_plan: RunPlan,
        decide: Decide,
        speed: Speed,
        seconds: float,
        *,
        began: float,
        tail: float,
        beside: float,
        excused: float,
    ) -> tuple[DeadlineController, RoutePlan]:
        """Before the first tile: the greatest share that fits from `began` on. `tail`: seconds behind the last tile;
        `beside`: that encoding takes from the tiles; `excused`: that do not count. Raises BudgetInfeasible, with the
        floor in seconds."""
        deadline = run_plan.started + excused + seconds
        left = deadline - began - tail - beside
        works = tuple(max(1, full_macs(run_plan.model, tile, run_plan)) for tile in run_plan.tiles)
        work = sum(works)
        wanted = rounded(speed.share(left, work))
        plan, asked = None, wanted
        while plan is None:
            try:
                plan = decide(Budget.fraction(wanted))
            except BudgetInfeasible as error:
                if wanted >= 1:
                    raise
                wanted = rounded(max(error.floor or 0.0, wanted) * 1.1 + 10**-DIGITS)
        needs = speed.seconds(wanted, work)
        if needs > SLACK * left and (wanted > asked or asked <= rounded(speed.floor)):
            raise BudgetInfeasible(
                f"budget {seconds:g} s is below what this model needs for this picture on this machine, about "
                f"{seconds - left + needs:.2g} s: ask for more, or for a smaller picture"
            )
        return cls(
            run_plan, decide, Budget.fraction(wanted), speed, works, deadline, tail, beside, excused, began
        ), plan

    def start(self) -> None:
        """The first tile begins."""
        self._started = time.perf_counter()

    def after(self, run: Run, tile: Tile) -> RoutePlan | None:
        """`tile` is done; the plan for the rest if it changes."""
        self.done += 1
        rest = self.run_plan.tiles[self.done :]
        if self.deadline is None:
            steps = dict(self.budget.later)
            return self._changed(run, steps[self.done]) if self.done in steps and rest else None
        assert self.speed is not None
        share, last = self._share(), self.done - 1
        self._shares = self._shares or self._shares_of(run.plan, share)
        self._foreseen += self.speed.seconds(self._shares[last], self.works[last], whole=False)
        self._spent += self._shares[last] * self.works[last]
        if not rest:
            return None
        now = time.perf_counter()
        ratio = (now - self._started) / max(self._foreseen, 1e-9)
        ratio = min(max(ratio, TRUST[0]), TRUST[1])
        left = max(0.0, self.deadline - now - self.tail - self._deciding) / ratio
        affordable = self.speed.share(left, sum(self.works[self.done :]), whole=False)
        plan, wanted = None, share
        for _ in range(TRIES):  # the rest gets more of a larger share than in proportion, or less
            further = rounded(min(1.0, wanted * affordable / max(self._rest(), 1e-9)))
            if abs(further / wanted - 1) <= STEADY or (changed := self._changed(run, further)) is None:
                break
            plan, wanted = changed, further
            self._shares = self._shares_of(plan, wanted)
        if plan is not None:
            self.budget = replace(self.budget, later=(*self.budget.later, (self.done, wanted)))
        self._deciding = time.perf_counter() - now
        return plan

    def _rest(self) -> float:
        """The share that the plan gives the tiles that are not done, of all their work."""
        works = self.works[self.done :]
        return sum(s * w for s, w in zip(self._shares[self.done :], works, strict=True)) / sum(works)

    def took(self) -> tuple[float, float] | None:
        """Now, behind the last tile: the share spent, and the seconds it took over those foreseen; None where nothing
        was foreseen."""
        if self.speed is None or self.done < len(self.works):  # memory ran out, and other tiles were run
            return None
        work = sum(self.works)
        start = self.speed.seconds(self.budget.value, work) - self.speed.seconds(self.budget.value, work, whole=False)
        return self._spent / work, (time.perf_counter() - self.began - self.beside) / (start + self._foreseen)

    def _share(self) -> float:
        return self.budget.later[-1][1] if self.budget.later else self.budget.value

    def _shares_of(self, plan: RoutePlan, share: float) -> tuple[float, ...]:
        """The share of its work that the plan gives each tile; `share` where that falls while it runs."""
        model, found = self.run_plan.model, []
        for tile, work in zip(self.run_plan.tiles, self.works, strict=True):
            frame = replace(self.run_plan.frame, origin=tile.source[:2])
            size = (tile.source[2] - tile.source[0], tile.source[3] - tile.source[1])
            planned = model.planned_macs(frame, size, tile.core, self.run_plan.out, plan) if plan.route else None
            found.append(share if planned is None else planned / work)
        return tuple(found)

    def _changed(self, run: Run, share: float) -> RoutePlan | None:
        """The plan at `share`, with what was decided of the tiles that are done; None where that cannot be."""
        if any(decision.unit != "patch" for decision in run.plan.route):
            return None
        try:
            plan = self.decide(Budget.fraction(share))
        except BudgetInfeasible:
            return None
        return replace(plan, route=kept(run.plan.route, plan.route, self.run_plan.tiles[: self.done]))


def rounded(share: float) -> float:
    return min(1.0, max(10**-DIGITS, round(share, DIGITS)))


def kept(before: Route, now: Route, done: list[Tile]) -> Route:
    """The decisions `now`, but those `before` for the patches of the tiles that are done."""
    route = []
    for old, new in zip(before, now, strict=True):
        choice = new.choice.clone()
        for tile in done:
            y0, x0 = tile.core[0] // new.extent, tile.core[1] // new.extent
            y1, x1 = -(-tile.core[2] // new.extent), -(-tile.core[3] // new.extent)
            choice[:, y0:y1, x0:x1] = old.choice[:, y0:y1, x0:x1]
        route.append(replace(new, choice=choice))
    return tuple(route)


def words(budget: Budget) -> str:
    """What to write for the same run: `0.4317,0.4002@3`."""
    return ",".join([f"{budget.value:.{DIGITS}g}", *(f"{share:.{DIGITS}g}@{tile}" for tile, share in budget.later)])


def repeats(controller: DeadlineController) -> str:
    side = f" --tile {controller.run_plan.side}" if len(controller.run_plan.all_tiles) > 1 else ""
    return f"the time became an effort that --budget {words(controller.budget)}{side} repeats"


def paced(
    run_plan: RunPlan, budget: Budget, model: Model, options: RunOptions, sink: Canvas
) -> tuple[RoutePlan, DeadlineController | None]:
    """What the budget buys, and who changes it on the way: where seconds were asked for, and where such a run is
    repeated. Raises BudgetInfeasible."""
    if budget.kind != "seconds":
        decide = decider(run_plan)
        return decide(replace(budget, later=())), DeadlineController(run_plan, decide, budget) if budget.later else None
    began = time.perf_counter()
    speed = speed_of(model, run_plan)
    spent = time.perf_counter() - began  # measuring, at first use, is not the picture's
    tail, beside = _encoding(run_plan, sink) if isinstance(sink, images.Sink) else (0.0, 0.0)
    began = time.perf_counter()  # the survey is part of what was measured
    times = {"began": began, "tail": tail, "beside": beside, "excused": spent}
    controller, plan = DeadlineController.to_deadline(run_plan, decider(run_plan), speed, budget.value, **times)
    return plan, controller


def _encoding(run_plan: RunPlan, sink: images.Sink) -> tuple[float, float]:
    """Seconds that encoding adds: of the last row of tiles behind the last tile; and of the others on the way, where it
    takes a thread from the model."""
    encoding = sink.encoding_seconds(sample_of(run_plan.source, run_plan.out))
    if not sink.streams:
        return encoding, 0.0
    top, _, bottom, _ = run_plan.window
    behind = encoding * (bottom - max(tile.target[0] for tile in run_plan.tiles)) / (bottom - top)
    return behind, (encoding - behind) / torch.get_num_threads()


def sample_of(source: images.Source, out: Size) -> Tensor:
    """Some pixels like those of the output, by which to see how long encoding takes: (3, H, W)."""
    height, width = source.size
    side, parts = min(24, height, width), 6  # many small ones: pictures are smooth here and rough there
    rows = []
    for i in range(parts):
        y, row = (height - side) * (2 * i + 1) // (2 * parts), []
        for j in range(parts):
            x = (width - side) * (2 * j + 1) // (2 * parts)
            lr = source.read((y, x, y + side, x + side), bled=True)
            row.append(imresize(lr, (max(1, side * out[0] // height), max(1, side * out[1] // width))))
        rows.append(torch.cat(row, -1))
    return torch.cat(rows, -2)
