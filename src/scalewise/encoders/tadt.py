"""TADT: task-aware dynamic transformer for arbitrary-scale super-resolution. Xu et al., ECAI 2024, arXiv:2408.08736.

The paper says: a convolution, eight groups (MSTG) of two blocks (MSTB) and a convolution, a convolution and the shallow
features added; 224 channels in, 64 out; a block has local attention in windows of 4, 8 and 16 and global attention in
windows of 48 with max-pooled keys and values, each on a quarter of the channels, and a slice-able projection (Eq. 1, 2:
`tadt_block.py`); a controller looks at image and scale and decides which of the 32 branches run, the same in both
blocks of a group (TARC, Eq. 3-7: `routing/branch.py`). `MultiScaleTransformer` is the paper's Baseline: without TARC.

There is no published code. We chose, so that parameters (9.17 M, TADT 9.18 M) and MACs come out as printed: LayerNorm
before attention and MLP and none at the end; an MLP of twice the channels; two heads for each branch; biases from
tables of relative positions, for the global branch relative to the first pixel of a pooled cell; keys and values pooled
to 12 × 12; 3×3 convolutions; the group's input added to its outcome; no shifted windows; sides filled up to multiples
of 48. At inference routes are not drawn but expected, and do not depend on chance.

Routing can leave out the attention alone, 23% of the MACs: the floor is 0.766. `cells=True` routes cells of 48 pixels
instead of images (ours, for networks trained from scratch).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.budget import Effort
from scalewise.budget.cost import Macs
from scalewise.budget.route import Decision, Route
from scalewise.budget.solver import solve
from scalewise.contracts import Allocation, Encoded, PlainEncoder, Scale
from scalewise.encoders.tadt_block import Block, Group, Reduction, check_sizes
from scalewise.errors import BudgetInfeasible
from scalewise.geometry.grid import Frame, Size
from scalewise.geometry.projection import units
from scalewise.layers import conv3, init_transformer, window_context
from scalewise.routing.branch import ScaleInput, TaskController, expected, likely, straight_through, unclipped


class MultiScaleTransformer(PlainEncoder):
    """The trunk, with all branches on: the paper's Baseline. `features` are the channels that upsamplers get.

    Inputs are (rgb - 0.5) / 0.5. Sides are multiples of the global window, in which all windows nest: a tile with
    `context` pixels around it gives what the whole image gives. For the paper's Tables 7 and 8: without
    `global_attention` a block has the local branches alone, and `reduction` says what keys and values of the global one
    become: "max", "average" or "random", a fixed random matrix.
    """

    def __init__(
        self,
        channels: int = 224,
        groups: int = 8,
        *,
        windows: tuple[int, ...] = (4, 8, 16),
        global_window: int = 48,
        pooled: int = 12,
        heads: int = 2,
        mlp_ratio: float = 2.0,
        features: int = 64,
        global_attention: bool = True,
        reduction: Reduction = "max",
    ) -> None:
        super().__init__()
        check_sizes(channels, windows, global_window, pooled, heads)
        self.channels, self.grid = features, global_window
        self.branches = len(windows) + global_attention
        hidden = round(channels * mlp_ratio)
        self.head = conv3(3, channels)
        self.groups = nn.ModuleList(
            Group(
                channels,
                [
                    Block(
                        channels,
                        windows,
                        global_window=global_window,
                        pooled=pooled,
                        heads=heads,
                        hidden=hidden,
                        global_attention=global_attention,
                        reduction=reduction,
                    )
                    for _ in range(2)
                ],
            )
            for _ in range(groups)
        )
        self.body_end = conv3(channels, channels)
        self.conv_features = conv3(channels, features)
        init_transformer(self)
        group = [(1, ()), (0, ((global_window, 0),))]  # its convolution, its blocks
        self.context = window_context([(2, ()), *(group * groups), (1, ())])

    def forward(self, lr: Tensor, route: Tensor | None = None) -> Tensor:
        """(b, 3, h, w) → (b, channels, h, w). `route` (b, gy, gx, groups, branches): see `Group`; None: all on."""
        shallow = self.head(lr)
        x = shallow.permute(0, 2, 3, 1)
        for i, group in enumerate(self.groups):
            x = group(x, None if route is None else route[..., i, :], self.grid)
        return self.conv_features(self.body_end(x.permute(0, 3, 1, 2)) + shallow)

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        units = len(self.groups) * size[0] * size[1] // self.grid**2
        return sum((self.branch_macs(j) * units for j in range(self.branches)), self._always_macs(size))

    def branch_macs(self, j: int) -> Macs:
        """Branch `j` of one group on one cell, a square of the global window."""
        return self.groups[0].branch_macs(j, self.grid**2)  # type: ignore[operator]

    def _always_macs(self, size: Size) -> Macs:
        c = self.head.out_channels
        ends = cost.conv2d(3, c, 3, *size) + cost.conv2d(c, c, 3, *size) + cost.conv2d(c, self.channels, 3, *size)
        return sum((group.always_macs(size) for group in self.groups), ends)  # type: ignore[operator]


class TADT(MultiScaleTransformer):
    """The trunk with its controller; a trained Baseline's weights load with `strict=False`.

    Dial `beta`: Eq. 3 with that intensity; 0 takes the controller's own for the scale. Which branches run then says
    `rule`: "expected", as many as a draw would on average, or "half", those with p > 0.5. With a budget branches run by
    p per MAC. In training mode routes are drawn, with numbers from `generator` (None: torch's global one).
    `scale_input` and `fixed_beta`: see `TaskController`.
    """

    dials = ("beta",)

    # The trunk's arguments are written out again: weight files and type checkers go by this signature.
    def __init__(
        self,
        channels: int = 224,
        groups: int = 8,
        *,
        windows: tuple[int, ...] = (4, 8, 16),
        global_window: int = 48,
        pooled: int = 12,
        heads: int = 2,
        mlp_ratio: float = 2.0,
        features: int = 64,
        global_attention: bool = True,
        reduction: Reduction = "max",
        cells: bool = False,
        rule: Literal["expected", "half"] = "expected",
        scale_input: ScaleInput = "raw",
        fixed_beta: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(
            channels,
            groups,
            windows=windows,
            global_window=global_window,
            pooled=pooled,
            heads=heads,
            mlp_ratio=mlp_ratio,
            features=features,
            global_attention=global_attention,
            reduction=reduction,
        )
        self.cells, self.rule = cells, rule
        self.generator: torch.Generator | None = None
        self.controller = TaskController(
            groups * self.branches, cell=global_window, scale_input=scale_input, fixed_beta=fixed_beta
        )

    # --- the sockets of contracts.RoutedEncoder -----------------------------------------------------------------------

    def route(self, lr: Tensor, scale: Tensor, effort: Effort) -> Route:
        """At a native β, what the controller decides on this image; else nothing: all branches run."""
        if self.training or "beta" not in effort.native:
            return ()
        p = self.probabilities(lr, scale, effort.native["beta"])
        return self._decisions(self.chosen(p), p, (lr.shape[-2], lr.shape[-1]))

    def score(self, lr: Tensor, scale: Scale) -> Tensor:
        """What the controller sees of a piece: (its channels, gy, gx), one look for each cell."""
        return self.controller.look(lr)[0]

    @torch.no_grad()
    def allocate(
        self, evidence: Tensor | None, size: Size, scale: Scale, limit: float, native: float | None
    ) -> Allocation:
        """The branches of greatest summed probability within `limit` MACs, or the paper's rule at β = `native`."""
        assert evidence is not None
        seen = self._pooled(evidence.unsqueeze(0).to(self.head.weight))
        factors = torch.tensor([scale], device=seen.device)
        beta = self._intensity(factors, native or 0.0)
        units = size[0] * size[1] // self.grid**2 if self.cells else 1
        if native is not None:
            p = self.controller(seen, beta)
            mask, effort = self.chosen(p), Effort(native={"beta": native})
        else:
            p = unclipped(self.controller.judge(seen), beta.view(-1, 1, 1, 1))
            always = self.macs(size, scale, self._decisions(torch.zeros_like(p), p, size))
            gain = p.double().cpu().clamp_min(1e-30)  # with everything granted all branches run
            gain = torch.stack((torch.zeros_like(gain), gain), -1).view(-1, 2)
            costs = self._costs(size) / units
            price = torch.stack((torch.zeros_like(costs), costs), -1).repeat(units, 1)
            mask = solve(gain, price, max(limit - always.total, 0.0)).view(p.shape)
            effort = Effort()
        route = self._decisions(mask, p, size)
        return Allocation(effort, route, self.macs(size, scale, route).total)

    def encode(self, lr: Tensor, frame: Frame, scale: Tensor, effort: Effort, plan: Route) -> Encoded:
        """lr (b, 3, h, w) → features, and a Decision for each branch, group by group.

        Without a plan all branches run; in training mode they are drawn (Eq. 4) and the evidence is p, with gradient.
        """
        size = (lr.shape[-2], lr.shape[-1])
        if self.training and not plan:
            p = self.probabilities(lr, scale, effort.native.get("beta", 0.0))
            drawn = straight_through(p, self._uniform(p))
            return Encoded(self(lr, self._grouped(drawn)), self._decisions(drawn.detach() > 0.5, p, size))
        plan = self._of_tile(plan, frame, size)
        mask = torch.stack([decision.choice for decision in plan], -1).to(lr.device) if plan else None
        return Encoded(self(lr, None if mask is None else self._grouped(mask)), plan)

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        """Exact from the route of the first image; without one, all branches on."""
        cells = size[0] * size[1] // self.grid**2
        units = cells if self.cells else 1
        total = self._always_macs(size) + self.controller.macs(size, units)
        for k in range(len(self.groups) * self.branches):
            running = int(route[k].choice[0].sum()) if route else units
            total += self.branch_macs(k % self.branches) * (running * cells // units)
        return total

    def blank_route(self, size: Size) -> Route:
        """A route of the kind that `allocate` gives, all branches off."""
        rows, columns = (size[0] // self.grid, size[1] // self.grid) if self.cells else (1, 1)
        off = torch.zeros(1, rows, columns, len(self.groups) * self.branches)
        return self._decisions(off, off, size)

    # --- who decides --------------------------------------------------------------------------------------------------

    def probabilities(self, lr: Tensor, scale: Tensor, beta: float = 0.0) -> Tensor:
        """p (b, gy, gx, groups · branches) for every cell, or with gy = gx = 1 for every image (Eq. 3)."""
        return self.controller(self._pooled(self.controller.look(lr)), self._intensity(scale, beta))

    def chosen(self, p: Tensor) -> Tensor:
        """The mask (b, gy, gx, groups · branches) of the rule."""
        costs = self._costs((self.grid, self.grid)).to(p.device)
        return expected(p, costs) if self.rule == "expected" else likely(p)

    def _decisions(self, mask: Tensor, p: Tensor, size: Size) -> Route:
        """A Decision for each branch from a mask (b, gy, gx, groups · branches)."""
        extent = self.grid if self.cells else max(size)
        units = size[0] * size[1] // self.grid**2 if self.cells else 1
        costs = self._costs(size) / units
        return tuple(
            Decision("branch", extent, choice, torch.stack((torch.zeros_like(price), price)), evidence)
            for choice, price, evidence in zip(mask.long().unbind(-1), costs, p.unbind(-1), strict=True)
        )

    def _intensity(self, scale: Tensor, beta: float) -> Tensor:
        if not 0 <= beta <= 1:
            raise BudgetInfeasible(f"beta={beta:g} is out of range: 0 (the controller's own) to 1")
        return torch.full_like(scale[:, 0], beta) if beta else self.controller.intensity(scale)

    def _pooled(self, seen: Tensor) -> Tensor:
        """(b, channels, gy, gx) → (b, gy, gx, channels), one for the image unless cells are routed."""
        seen = seen.permute(0, 2, 3, 1)
        return seen if self.cells else seen.mean((1, 2), keepdim=True)

    def _uniform(self, p: Tensor) -> Tensor:
        where = self.generator.device if self.generator is not None else p.device
        return torch.rand(p.shape, generator=self.generator, device=where).to(p.device)

    def _grouped(self, route: Tensor) -> Tensor:
        return route.unflatten(-1, (len(self.groups), self.branches))

    def _costs(self, size: Size) -> Tensor:
        """(groups · branches,) float64: MACs of each branch on an image of `size`."""
        cells = size[0] * size[1] // self.grid**2
        each = [self.branch_macs(j).total * cells for j in range(self.branches)]
        return torch.tensor(each * len(self.groups), dtype=torch.float64)

    def _of_tile(self, plan: Route, frame: Frame, size: Size) -> Route:
        """The cells of a tile out of those of the whole image."""
        if not (plan and self.cells):
            return plan
        rows, columns = units(frame, size, self.grid)
        return tuple(Decision(one.unit, one.extent, one.choice[:, rows, columns], one.cost) for one in plan)
