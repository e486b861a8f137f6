"""The exits of patches for a window of frames: one decision for each patch, by its gain and how long it is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from scalewise.budget.budget import Budget
from scalewise.budget.cost import Macs
from scalewise.budget.solver import Envelope
from scalewise.execution.decide import score
from scalewise.execution.plan import RunPlan, area
from scalewise.geometry.grid import Box, Size
from scalewise.models.model import RoutePlan
from scalewise.models.multi_exit import MultiExitModel

LOOKS = 3  # frames of a window that the router sees at most
TRIALS = 6  # grants that are tried so that a window keeps to its budget
# What another exit must bring over the one that a patch has, as a share of the patch's whole gain.
HYSTERESIS = 0.1


@dataclass(frozen=True)
class WindowPlan:
    """`choice` (gy, gx) int64 holds from the frame `first` (gy, gx) on that a patch is computed in; `macs` is what the
    window will take, the router included; `router` what that took. `over` is True where even the cheapest exits take
    more than was allowed."""

    choice: np.ndarray
    first: np.ndarray
    macs: int
    router: Macs
    over: bool


class ExitPlanner:
    """Decides the exits of a MultiExitModel for one window after another. `held` (gy, gx) are those decided last, -1
    where none was since the scene began."""

    def __init__(self, model: MultiExitModel, size: Size, out: Size) -> None:
        self.model, self.size, self.out = model, size, out
        exits = model.network.exits
        shape = tuple(-(-n // model.patch) for n in size)
        self.base = model.plan(torch.zeros(exits, *shape), size, out, Budget.full())
        self.held = np.full(shape, -1, np.int64)
        heights, widths = (
            np.minimum(model.patch, n - np.arange(g) * model.patch) for n, g in zip(size, shape, strict=True)
        )
        self._area = np.outer(heights, widths).astype(np.float64)

    def start_anew(self) -> None:
        """A new scene: no exit is held."""
        self.held[:] = -1

    def route(self, choice: np.ndarray) -> RoutePlan:
        """The plan of a frame with these exits; what the router took is counted elsewhere."""
        decision = replace(self.base.route[0], choice=torch.from_numpy(choice)[None])
        return replace(self.base, route=(decision,), overhead=Macs())

    def plan(self, run_plans: Sequence[RunPlan], changed: Sequence[np.ndarray], allowed: float) -> WindowPlan:
        """For a window whose frames are run as `run_plans` say, their parts the boxes that hold the patches `changed`.

        The exits of patches that do not change are held. The greatest predicted drop in squared error, summed over the
        frames in which it is seen, within `allowed` MACs for the window.
        """
        stack = np.stack(changed)
        count = len(stack)
        units = stack.any(0)
        first = np.where(units, stack.argmax(0), count)
        choice = np.maximum(self.held, 0)
        if not units.any():
            return WindowPlan(choice, first, 0, Macs(), False)
        evidence, router = self._look(run_plans, stack)
        seen = (count - first)[units]
        gains = np.concatenate([np.zeros((1, seen.size)), evidence[:, units].cumsum(0)]) * self._area[units] * seen
        held = self.held[units]
        kept = held >= 0
        gains[held[kept], kept.nonzero()[0]] += HYSTERESIS * gains[-1, kept]
        tiles = [(run_plan, tile) for run_plan in run_plans for tile in run_plan.tiles]
        # Context and the patches between those that changed are computed too.
        read = sum(area(tile.source) for _, tile in tiles) / max(1.0, float((stack * self._area).sum()))
        costs = self.base.route[0].cost.numpy()[:, units] * stack.sum(0)[units] * read
        known: dict[tuple[Box, bytes], int] = {}

        def needs(exits: np.ndarray) -> int:
            """MACs of the whole window with these exits."""
            now = choice.copy()
            now[units] = exits
            plan, digest, total = self.route(now), now.tobytes(), router.total
            for run_plan, tile in tiles:
                key = (tile.core, digest)
                if key not in known:
                    macs = run_plan.planned_macs(tile, plan)
                    assert macs is not None
                    known[key] = macs
                total += known[key]
            return total

        nothing = np.zeros(seen.size, np.int64)
        best, macs = nothing, needs(nothing)
        over = macs > allowed
        if not over:
            envelope = Envelope(torch.from_numpy(gains.T.copy()), torch.from_numpy(costs.T.copy()))
            low, grant = 0.0, allowed - macs
            top = float("inf")
            for _ in range(TRIALS):
                exits = envelope.solve(grant).numpy()
                total = needs(exits)
                if total <= allowed:
                    if total >= macs:
                        best, macs = exits, total
                    low = grant
                    if (exits == self.model.network.exits).all() or allowed - total < 0.01 * allowed:
                        break
                    grant = min(grant + (allowed - total), (grant + top) / 2)
                else:
                    top = grant
                    grant = (low + grant) / 2
        choice[units] = best
        return WindowPlan(choice, first, macs, router, over)

    def _look(self, run_plans: Sequence[RunPlan], stack: np.ndarray) -> tuple[np.ndarray, Macs]:
        """(exits, gy, gx) mean evidence of some frames in which something changes, and what the router took."""
        frames = np.flatnonzero(stack.any((1, 2)))
        looked = sorted({int(frames[k]) for k in np.linspace(0, len(frames) - 1, LOOKS).round().astype(int)})
        total: Tensor | None = None
        for k in looked:
            evidence = score(replace(run_plans[k], parts=None))
            assert evidence is not None
            total = evidence if total is None else total + evidence
        assert total is not None
        return (total / len(looked)).double().numpy(), self.base.overhead * len(looked)
