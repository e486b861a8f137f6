"""EarlyExitModel: overlapping patches that leave a network one by one, where it says so while it runs.

APE (Wang et al., ECCV 2022) runs so: nothing is known before, so a budget cannot be spread over patches by what each
would gain. It becomes one number, the share of patches that goes on at every exit; those go on whose predicted
capacity is lowest among the patches of the same tile. What leaves is not computed any further. With a threshold, the
paper's dial, a patch decides alone. Patches lie and fade into each other as in `patchwise.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from scalewise.budget.budget import Budget, Effort, format_budget
from scalewise.budget.route import Decision
from scalewise.errors import BudgetInfeasible
from scalewise.geometry.grid import Box, Frame, Size
from scalewise.models.model import BYTES_PER_OUTPUT_PIXEL, Rendered, RoutePlan
from scalewise.models.patch_contracts import EarlyExits
from scalewise.models.patch_layout import PatchLayout, prices_of
from scalewise.models.patchwise import PatchwiseModel

BISECTIONS = 40


class EarlyExitModel(nn.Module):
    """Defaults: patches of 48 at steps of 46 LR pixels, as APE's.

    By threshold tiles equal the whole image; by budget patches compete within a tile, so tiles change who leaves.
    """

    score_margin = 0
    wraps = False  # patches end at the border

    def __init__(self, network: EarlyExits, *, patch: int = 48, step: int = 46) -> None:
        super().__init__()
        self.network = network
        self.patch, self.step = patch, step

    @property
    def layout(self) -> PatchLayout:
        return PatchLayout(self.patch, self.step, self.network.scale)

    @property
    def scales(self) -> tuple[float, ...] | None:
        return (float(self.network.scale),)

    @property
    def grid(self) -> int:
        """Patches start at multiples of it."""
        return self.step

    @property
    def unit(self) -> int:
        return 1

    @property
    def context(self) -> int | None:
        return self.patch

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
        prices = prices_of(self.network, layout.side(size))
        full = patches * prices[-1].total
        native, allowed = budget.dial_of("threshold"), budget.allowed(full)
        if native is not None:
            return RoutePlan(Effort(native={"threshold": native}), (), full, full)

        def spent(keep: float) -> int:
            return sum(prices[path].total for path in self.planned(patches, keep))

        if spent(0.0) > allowed:
            floor = spent(0.0) / full
            raise BudgetInfeasible(
                f"budget {format_budget(budget)} is below the floor of this model on this image, {floor:.2%} "
                f"({spent(0.0):.3g} MACs): ask for more",
                floor,
            )
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
        layout = self.layout
        (height, width), (rows, columns) = layout.side(frame.size), (layout.starts(n) for n in frame.size)
        touching = layout.touching(frame.size, core)
        corners = [(rows[i] - frame.origin[0], columns[j] - frame.origin[1]) for i, j in touching]
        batch = torch.stack([lr[0, :, y : y + height, x : x + width] for y, x in corners])
        pixels, exits = self.network.run_while(batch, self._rule(plan.effort, len(batch)))
        choice = torch.zeros(len(rows), len(columns), dtype=torch.int64)
        choice[tuple(torch.tensor(touching).T)] = exits
        prices = torch.tensor([price.total for price in prices_of(self.network, (height, width))], dtype=torch.float64)
        left = Decision("patch", self.step, choice.unsqueeze(0), prices)
        rendered = self._patches(pixels).render(lr, frame, core, out, dataclasses.replace(plan, route=(left,)))
        return dataclasses.replace(rendered, route=(self._of_tile(left, frame, (lr.shape[-2], lr.shape[-1])),))

    def full_macs(self, frame: Frame, tile: Size, core: Box, out: Size) -> int:
        """MACs of one tile with every patch at the last exit."""
        return self._patches(()).full_macs(frame, tile, core, out)

    def planned_macs(self, frame: Frame, tile: Size, core: Box, out: Size, plan: RoutePlan) -> int | None:
        """MACs that `render` will run on a tile by budget; None by threshold."""
        if plan.effort.native:
            return None
        layout = self.layout
        prices = prices_of(self.network, layout.side(frame.size))
        count = len(layout.touching(frame.size, core))
        return sum(prices[path].total for path in self.planned(count, plan.effort.keep))

    def _rule(self, effort: Effort, patches: int):
        if "threshold" in effort.native:
            return lambda path, capacity: capacity < effort.native["threshold"]

        def lowest(path: int, capacity: Tensor) -> Tensor:
            on = torch.zeros(len(capacity), dtype=torch.bool)
            on[capacity.cpu().argsort(stable=True)[: going_on(patches, effort.keep, path)]] = True
            return on

        return lowest

    def _of_tile(self, left: Decision, frame: Frame, tile: Size) -> Decision:
        """On cells of the step, from the one that holds the tile's first pixel."""
        rows, columns = (
            (torch.arange(origin // self.step, -(-(origin + n) // self.step))).clamp(max=count - 1)
            for origin, n, count in zip(frame.origin, tile, left.choice.shape[1:], strict=True)
        )
        return dataclasses.replace(left, choice=left.choice[:, rows][:, :, columns])

    def _patches(self, pixels: Tensor | tuple[()]) -> Computed:
        return Computed(self.network, pixels, self.patch, self.step)


class Computed(PatchwiseModel):
    """Patches whose pixels are known: where they lie, what they cost, and the picture they make."""

    def __init__(self, network: EarlyExits, pixels: Tensor | tuple[()], patch: int, step: int) -> None:
        nn.Module.__init__(self)
        self.network, self.pixels, self.patch, self.step = network, pixels, patch, step

    def run(self, lr: Tensor, places: Sequence[Size], side: Size, choice: Tensor) -> Iterator[tuple[int, Tensor]]:
        yield from enumerate(self.pixels)


def going_on(patches: int, keep: float, path: int) -> int:
    """How many of all `patches` go on behind exit `path` (from 0)."""
    return math.floor(patches * keep ** (path + 1) + 1e-6)
