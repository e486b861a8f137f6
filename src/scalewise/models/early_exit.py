"""EarlyExitModel: overlapping patches that leave a network one by one, where it decides so while it runs.

APE (Wang et al., ECCV 2022) runs so: nothing is known before, so a budget cannot be spread over patches by what each
would gain. It becomes one number, the share of patches that goes on at every exit; those go on whose predicted
capacity is lowest among the patches of the same tile. What leaves is not computed any further. With a threshold, the
paper's dial, a patch decides alone. Patches lie and fade into each other as in `patchwise.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from scalewise.budget.budget import Budget, Effort
from scalewise.budget.route import Decision
from scalewise.geometry.grid import Box, Frame, Size
from scalewise.models.model import BORDER, BYTES_PER_OUTPUT_PIXEL, Model, ModelLimits, Rendered, RoutePlan, below_floor
from scalewise.models.patch_layout import PatchLayout, patch_at, unpadded

if TYPE_CHECKING:
    from scalewise.multiexit.ape import APE

BISECTIONS = 40


class EarlyExitModel(nn.Module, Model):
    """Defaults: patches of 48 at steps of 46 LR pixels, as APE's.

    By threshold tiles equal the whole image; by budget patches compete within a tile, so tiles change who leaves.
    """

    def __init__(self, network: APE, *, patch: int = 48, step: int = 46) -> None:
        super().__init__()
        self.network = network
        self.patch, self.step = patch, step

    @property
    def layout(self) -> PatchLayout:
        return PatchLayout(self.patch, self.step, self.network)

    @property
    def limits(self) -> ModelLimits:
        scales = (float(self.network.scale),)
        return ModelLimits(scales, self.patch + BORDER, self.step, wraps=False, border=BORDER)

    def bytes_per_pixel(self, scale: tuple[float, float]) -> float:
        """Rough working memory per LR pixel of a tile: three layers of all its patches, and the canvas."""
        return 3 * 4 * self.network.channels * (self.patch / self.step) ** 2 + BYTES_PER_OUTPUT_PIXEL * math.prod(scale)

    def score(self, lr: Tensor, scale: tuple[float, float]) -> None:
        return None

    def plan(self, evidence: Tensor | None, size: Size, out: Size, budget: Budget) -> RoutePlan:
        """The share that goes on at every exit, or the threshold, at which the MACs are an upper bound: no one leaves.

        Raises BudgetInfeasible below the floor, where all patches take the first exit."""
        layout = self.layout
        patches = len(layout.starts(size[0])) * len(layout.starts(size[1]))
        prices = layout.prices(layout.side(size))
        full = patches * prices[-1].total
        native, allowed = budget.dial_of("threshold"), budget.allowed(full)
        if native is not None:
            return RoutePlan(Effort(native={"threshold": native}), (), full, full)

        def spent(keep: float) -> int:
            return sum(prices[path].total for path in self.planned(patches, keep))

        if spent(0.0) > allowed:
            raise below_floor(budget, spent(0.0), full)
        low, high = 0.0, 1.0
        for _ in range(BISECTIONS if spent(1.0) > allowed else 0):
            middle = (low + high) / 2
            low, high = (middle, high) if spent(middle) <= allowed else (low, middle)
        keep = 1.0 if spent(1.0) <= allowed else low
        return RoutePlan(Effort(share=allowed / full, keep=keep), (), spent(keep), full)

    def planned(self, patches: int, keep: float) -> list[int]:
        """The exits at which as many patches leave, when a share `keep` goes on at every exit."""
        exits, there = [], patches
        for path in range(self.network.paths - 1):
            on = going_on(patches, keep, path)
            exits += [path] * (there - on)
            there = on
        return exits + [self.network.paths - 1] * there

    @torch.no_grad()
    def render(self, lr: Tensor, frame: Frame, core: Box, out: Size, plan: RoutePlan) -> Rendered:
        """Render the output pixels of `core` from a tile `lr` (1, 3, h, w) that lies at `frame`."""
        layout, side, rim = self.layout, self.layout.side(frame.size), frame.mirrored
        batch = torch.stack([patch_at(lr, corner, side, rim) for corner in layout.corners(frame, core)])
        pictures, exits = self.network.run_while(batch, self._rule(plan.effort, len(batch)))
        pictures = unpadded(pictures, (rim, rim, rim, rim), self.network.scale)
        choice = torch.zeros(*(len(layout.starts(n)) for n in frame.size), dtype=torch.int64)
        choice[tuple(torch.tensor(layout.touching(frame.size, core)).T)] = exits
        rendered = layout.render(enumerate(pictures), choice, frame, core, out, rim)
        prices = torch.tensor([price.total for price in layout.prices(side, rim)], dtype=torch.float64)
        left = Decision("patch", self.step, choice.unsqueeze(0), prices)
        return dataclasses.replace(rendered, route=(self._of_tile(left, frame, (lr.shape[-2], lr.shape[-1])),))

    def full_macs(self, frame: Frame, tile: Size, core: Box, out: Size) -> int:
        """MACs of one tile with every patch at the last exit."""
        return self.layout.full_macs(frame.size, core, frame.mirrored)

    def planned_macs(self, frame: Frame, tile: Size, core: Box, out: Size, plan: RoutePlan) -> int | None:
        """MACs that `render` will run on a tile by budget; None by threshold."""
        if plan.effort.native:
            return None
        layout = self.layout
        prices = layout.prices(layout.side(frame.size), frame.mirrored)
        count = len(layout.touching(frame.size, core))
        return sum(prices[path].total for path in self.planned(count, plan.effort.keep))

    def _rule(self, effort: Effort, patches: int) -> Callable[[int, Tensor], Tensor]:
        """Who of the patches still in the network goes on, as `APE.run_while` asks."""
        if "threshold" in effort.native:
            return lambda path, capacity: capacity < effort.native["threshold"]

        def lowest(path: int, capacity: Tensor) -> Tensor:
            on = torch.zeros(len(capacity), dtype=torch.bool)
            on[capacity.cpu().argsort(stable=True)[: going_on(patches, effort.keep, path)]] = True
            return on

        return lowest

    def _of_tile(self, left: Decision, frame: Frame, tile: Size) -> Decision:
        """The decision on cells of the step, from the one that holds the tile's first pixel."""
        rows, columns = (
            (torch.arange(origin // self.step, -(-(origin + n) // self.step))).clamp(max=count - 1)
            for origin, n, count in zip(frame.origin, tile, left.choice.shape[1:], strict=True)
        )
        return dataclasses.replace(left, choice=left.choice[:, rows][:, :, columns])


def going_on(patches: int, keep: float, path: int) -> int:
    """How many of all `patches` go on after exit `path` (from 0)."""
    return math.floor(patches * keep ** (path + 1) + 1e-6)
