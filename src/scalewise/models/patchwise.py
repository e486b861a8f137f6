"""PatchwiseModel: overlapping patches, and for each the one path through a network that is worth its cost.

ClassSR (three networks), ARM (four widths) and ENAF (three exits and bicubic) run so. Their papers cut patches of 32 at
steps of 28 LR pixels, drop what is left over at the right and the bottom, and average the overlaps (`evaluate` does
that under their protocols). Here a last patch ends flush with the border, so that all of the image is covered, and
neighbours fade into each other: the weights of a pixel's patches add up to 1 and change without a step. Sides of a
patch that lie at the border of the image are padded with its reflection, so that the network's zero padding does not
show there; the other sides are padded with zeros as in the papers, and fade out. So a patch sees nothing beyond itself,
and tiles equal the whole image.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import groupby

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
from scalewise.models.patch_layout import UNPADDED, Padding, PatchLayout, padded, patch_at, unpadded

PATCHES_AT_ONCE = {"cpu": 32, "cuda": 1024}  # on a CPU their features stay in the cache


class PatchwiseModel(nn.Module, Model):
    """A router that looks at every patch once, and a network that takes each patch along one of its paths.

    Paths are ordered by cost, cheapest first. The only scale is the network's own. `border`: by how many LR pixels
    patches are padded on sides at the border of the image.
    """

    def __init__(self, router: PathRouter, network: MultiPath, *, patch: int = 32, step: int = 28) -> None:
        super().__init__()
        self.router = router
        self.network = network
        self.patch, self.step, self.border = patch, step, BORDER

    def as_published(self) -> PatchwiseModel:
        """The same modules, but all patches see zeros at the border of the image too: what the papers measured."""
        bare = copy.copy(self)
        bare.border = 0
        return bare

    @property
    def layout(self) -> PatchLayout:
        return PatchLayout(self.patch, self.step, self.network, self.border)

    @property
    def limits(self) -> ModelLimits:
        scales = (float(self.network.scale),)
        margin = self.patch - self.step
        return ModelLimits(scales, self.patch, self.step, score_margin=margin, wraps=False, levels="cells")

    def bytes_per_pixel(self, scale: tuple[float, float]) -> float:
        """Rough working memory per LR pixel of a tile: the canvas; patches are computed a few at a time."""
        return BYTES_PER_OUTPUT_PIXEL * scale[0] * scale[1]

    # --- what is decided ----------------------------------------------------------------------------------------------

    def score(self, lr: Tensor, scale: tuple[float, float]) -> Tensor:
        """The router's evidence for a piece that starts where a patch does: (paths, ny, nx), in the router's own
        unit."""
        height, width = lr.shape[-2:]
        layout = self.layout
        return self.router.evidence(lr, layout.starts(height), layout.starts(width), layout.side((height, width)))

    def plan(self, evidence: Tensor | None, size: Size, out: Size, budget: Budget) -> RoutePlan:
        assert evidence is not None
        return self.choose(evidence, self.layout.price_map(size), self.router.macs(size), budget)

    def choose(self, evidence: Tensor, prices: Tensor, fixed: Macs, budget: Budget) -> RoutePlan:
        """A path for each patch from the evidence (paths, ny, nx): the greatest sum within the budget, or the paper's
        rule at its own dial, which ignores the prices of single patches. `prices` (paths, ny, nx) float64 are the MACs
        of each path on each patch, and `fixed` what the router cost. Raises BudgetInfeasible below the floor.

        The whole budget is spent, even where the evidence sees no gain: its error exceeds the differences between
        paths, and with everything granted all patches take the last path.
        """
        evidence = evidence.detach().double().cpu()
        paths, *shape = evidence.shape
        full = fixed.total + int(prices[-1].sum())
        native = budget.dial_of("path", *self.router.dials)
        allowed = budget.allowed(full)
        if budget.dial == "path":
            choice = torch.full(shape, self.path_of(budget), dtype=torch.int64)
        elif native is not None:
            choice = self.router.native(evidence, native)
        elif allowed >= full:
            choice = torch.full(shape, paths - 1, dtype=torch.int64)
        else:
            floor = fixed.total + int(prices[0].sum())
            if floor > allowed:
                raise below_floor(budget, floor, full)
            gain, cost = self.router.gain(evidence).flatten(1).T, prices.flatten(1).T
            tilt = _tilt(gain, cost)
            choice = solve(gain - gain[:, :1] + tilt * cost, cost, allowed - fixed.total).view(*shape)
        spent = fixed.total + int(prices.gather(0, choice.unsqueeze(0)).sum())
        decision = Decision("patch", self.step, choice.unsqueeze(0), prices, evidence.unsqueeze(0))
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
        paddings, corners = layout.paddings(frame.size, core), layout.corners(frame, core)
        pictures = self.run(lr, corners, layout.side(frame.size), paths, paddings)
        return layout.render(pictures, choice, frame, core, out)

    def run(
        self,
        lr: Tensor,
        places: Sequence[Size],
        side: Size,
        choice: Tensor,
        paddings: Sequence[Padding] | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Patches of `side` at `places` of lr (1, 3, h, w), each by its path in `choice` (n,): the index of a patch and
        its pixels (3, side times scale). `paddings`: what each is padded by while it is computed, nothing by default.
        Patches of one padding run together, since they have one shape, and among them those of one path."""
        pads, paths = paddings or [UNPADDED] * len(places), choice.tolist()
        chunk = PATCHES_AT_ONCE.get(lr.device.type, PATCHES_AT_ONCE["cpu"])
        order = sorted(range(len(places)), key=lambda k: (pads[k], paths[k]))
        for padding, group in groupby(order, key=lambda k: pads[k]):
            alike = list(group)
            for few in (alike[k : k + chunk] for k in range(0, len(alike), chunk)):
                batch = padded(torch.stack([patch_at(lr, places[k], side) for k in few]), padding)
                rendered = self.network.run(batch, choice[few])
                yield from zip(few, unpadded(rendered, padding, self.network.scale), strict=True)

    def fits(self, plan: RoutePlan, size: Size) -> bool:
        """True if a stored plan has a path for each patch of an image of `size`."""
        rows, columns = (len(self.layout.starts(n)) for n in size)
        return kinds(plan.route) == [("patch", self.step, (rows, columns), self.network.paths)]

    # --- what it costs ------------------------------------------------------------------------------------------------

    def full_macs(self, frame: Frame, tile: Size, core: Box, out: Size) -> int:
        """MACs of one tile with every patch on the last path, the router left out."""
        return self.layout.full_macs(frame.size, core)

    def planned_macs(self, frame: Frame, tile: Size, core: Box, out: Size, plan: RoutePlan) -> int:
        """MACs that `render` will run on a tile: patches that two tiles touch run in both."""
        return self.layout.macs(frame.size, core, plan.route[0].choice[0]).total


def _tilt(gain: Tensor, cost: Tensor) -> float:
    """What must be added to the gain per MAC of all units (units, options) so that every dearer path gains something:
    that moves the price, and changes no choice."""
    steps = cost.diff(dim=1)
    slopes = (gain.diff(dim=1) / steps)[steps > 0]
    if not slopes.numel():  # all paths cost the same
        return 0.0
    return max(0.0, -float(slopes.min())) * (1 + 1e-9) + 1e-12 / float(cost.max())
