"""PatchwiseModel: overlapping patches, and for each the one path through a network that is worth its cost.

ClassSR (three networks), ARM (four widths) and ENAF (three exits and bicubic) run so. Their papers cut patches of 32 at
steps of 28 LR pixels, drop what is left over at the right and the bottom, and average the overlaps (`evaluate` does
that under their protocols). Here a last patch ends flush with the border, so that all of the image is covered, and
neighbours fade into each other: the weights of a pixel's patches add up to 1 and change without a step. A patch is
computed with a rim of what lies around it (`Frame.mirrored`), so that the network's zero padding does not show, and
sees nothing beyond that: tiles equal the whole image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from scalewise.budget.budget import Budget, Effort
from scalewise.budget.cost import Macs
from scalewise.budget.route import Decision
from scalewise.budget.solver import solve
from scalewise.errors import InvalidRequest
from scalewise.geometry.grid import Box, Frame, Size
from scalewise.models.model import (
    BORDER,
    BYTES_PER_OUTPUT_PIXEL,
    Model,
    ModelLimits,
    Rendered,
    RoutePlan,
    below_floor,
    kinds,
)
from scalewise.models.patch_contracts import MultiPath, PathRouter
from scalewise.models.patch_layout import PatchLayout, with_rim, without_rim

CHUNK = {"cpu": 32, "cuda": 1024}  # patches computed together: on a CPU their features stay in the cache


class PatchwiseModel(nn.Module, Model):
    """A router that looks at every patch once, and a network that takes each patch along one of its paths.

    Paths are ordered by cost, cheapest first. The only scale is the network's own.
    """

    def __init__(self, router: PathRouter, network: MultiPath, *, patch: int = 32, step: int = 28) -> None:
        super().__init__()
        self.router = router
        self.network = network
        self.patch, self.step = patch, step

    @property
    def layout(self) -> PatchLayout:
        return PatchLayout(self.patch, self.step, self.network)

    @property
    def limits(self) -> ModelLimits:
        scales = (float(self.network.scale),)
        margin = self.patch - self.step
        limits = ModelLimits(scales, self.patch + BORDER, self.step, score_margin=margin, wraps=False, levels="cells")
        return replace(limits, border=BORDER)

    def bytes_per_pixel(self, scale: tuple[float, float]) -> float:
        """Rough working memory per LR pixel of a tile: the canvas; patches are computed a few at a time."""
        return BYTES_PER_OUTPUT_PIXEL * scale[0] * scale[1]

    # --- what is decided ----------------------------------------------------------------------------------------------

    def score(self, lr: Tensor, scale: tuple[float, float]) -> Tensor:
        """The router's word on a piece that starts where a patch does: (paths, ny, nx), in the router's own unit."""
        height, width = lr.shape[-2:]
        layout = self.layout
        return self.router.evidence(lr, layout.starts(height), layout.starts(width), layout.side((height, width)))

    def plan(self, evidence: Tensor | None, size: Size, out: Size, budget: Budget) -> RoutePlan:
        assert evidence is not None
        return self.choose(evidence, self.layout.side(size), self.router.macs(size), budget)

    def choose(self, evidence: Tensor, side: Size, fixed: Macs, budget: Budget) -> RoutePlan:
        """A path for each patch of `side` from the evidence (paths, ny, nx): the greatest sum within the budget, or the
        paper's rule at its own dial. `fixed` is what the router cost. Raises BudgetInfeasible below the floor.

        All that a budget grants is spent, where the evidence sees no gain too: it errs by more than paths differ, and
        with everything granted all patches take the last path.
        """
        evidence = evidence.detach().double().cpu()
        paths, *shape = evidence.shape
        price_list = torch.tensor([price.total for price in self.layout.prices(side)], dtype=torch.float64)
        units = evidence[0].numel()
        full = fixed.total + units * int(price_list[-1])
        native = budget.dial_of("path", *self.router.dials)
        allowed = budget.allowed(full)
        if budget.dial == "path":
            choice = torch.full(shape, self.path_of(budget), dtype=torch.int64)
        elif native is not None:
            choice = self.router.native(evidence, native)
        elif allowed >= full:
            choice = torch.full(shape, paths - 1, dtype=torch.int64)
        else:
            floor = fixed.total + units * int(price_list[0])
            if floor > allowed:
                raise below_floor(budget, floor, full)
            gain, cost = self.router.gain(evidence).flatten(1).T, price_list.expand(units, -1)
            tilt = _tilt(gain, price_list)
            choice = solve(gain - gain[:, :1] + tilt * cost, cost, allowed - fixed.total).view(*shape)
        spent = fixed.total + int(price_list[choice].sum())
        costs = price_list.view(-1, 1, 1).expand(-1, *shape)
        decision = Decision("patch", self.step, choice.unsqueeze(0), costs, evidence.unsqueeze(0))
        dial = {} if native is None else {budget.dial: native}
        share = 1.0 if native is not None else allowed / full
        return RoutePlan(Effort(share=share, native=dial), (decision,), spent, full, fixed)

    def path_of(self, budget: Budget) -> int:
        path = int(budget.value)
        if path != budget.value or not 0 <= path < self.network.paths:
            raise InvalidRequest(f"path={budget.value:g} is no path of this network: 0 to {self.network.paths - 1}")
        return path

    # --- what is run --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def render(self, lr: Tensor, frame: Frame, core: Box, out: Size, plan: RoutePlan) -> Rendered:
        """Render the output pixels of `core` from a tile `lr` (1, 3, h, w) that lies at `frame`."""
        layout, choice = self.layout, plan.route[0].choice[0]
        paths = torch.tensor([int(choice[patch]) for patch in layout.touching(frame.size, core)])
        pictures = self.run(lr, layout.corners(frame, core), layout.side(frame.size), paths, rim=frame.mirrored)
        return layout.render(pictures, choice, frame, core, out)

    def run(
        self, lr: Tensor, places: Sequence[Size], side: Size, choice: Tensor, *, rim: int = 0
    ) -> Iterator[tuple[int, Tensor]]:
        """Patches of `side` at `places` of lr (1, 3, h, w), each by its path in `choice` (n,): the index of a patch and
        its pixels (3, side times scale), patches of one path together. They are computed with a rim of so many LR
        pixels of `lr`."""
        order = torch.argsort(choice, stable=True)
        for some in order.split(CHUNK.get(lr.device.type, CHUNK["cpu"])):
            few = some.tolist()
            batch = torch.stack([with_rim(lr, places[k], side, rim) for k in few])
            rendered = self.network.run(batch, choice[some])
            yield from zip(few, without_rim(rendered, rim * self.network.scale), strict=True)

    def fits(self, plan: RoutePlan, size: Size) -> bool:
        """True if a stored plan has a path for each patch of an image of `size`."""
        rows, columns = (len(self.layout.starts(n)) for n in size)
        return kinds(plan.route) == [("patch", self.step, (rows, columns), self.network.paths)]

    # --- what it costs ------------------------------------------------------------------------------------------------

    def full_macs(self, frame: Frame, tile: Size, core: Box, out: Size) -> int:
        """MACs of one tile with every patch on the last path, the router left out."""
        return self.layout.full_macs(frame, core)

    def planned_macs(self, frame: Frame, tile: Size, core: Box, out: Size, plan: RoutePlan) -> int:
        """MACs that `render` will run on a tile: patches that two tiles touch run in both."""
        prices = self.layout.prices(self.layout.side(frame.size), frame.mirrored)
        choice = plan.route[0].choice[0]
        return sum(prices[int(choice[p])].total for p in self.layout.touching(frame.size, core))


def _tilt(gain: Tensor, cost: Tensor) -> float:
    """What must be added to the gain per MAC so that every dearer path gains: it moves the price, and no choice."""
    steps = cost.diff()
    slopes = (gain.diff(dim=1) / steps)[:, steps > 0]
    if not slopes.numel():  # all paths cost the same
        return 0.0
    return max(0.0, -float(slopes.min())) * (1 + 1e-9) + 1e-12 / float(cost[-1])
