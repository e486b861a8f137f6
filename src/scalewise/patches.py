"""PatchRouted: a router looks at every patch once, and each patch leaves a multi-exit network where it pays."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.contracts import MultiExit
from scalewise.cost import Macs
from scalewise.effort import Budget, Effort, solve
from scalewise.errors import BudgetInfeasible
from scalewise.grid import Box, Frame, Size, first_output, output_box
from scalewise.layers import repeat_edge
from scalewise.model import BYTES_PER_OUTPUT_PIXEL, Plan, Rendered, budget_words
from scalewise.resize import base_macs, bicubic_base
from scalewise.route import Decision

CHUNK = 16  # patches computed together: their features stay in the cache
REFINEMENTS = 8  # times that what a plan leaves of its budget is granted again


@dataclass(frozen=True)
class Cut:
    """One axis of a tile, cut at multiples of the patch side: patch i is pixels start[i]..stop[i]-1 of the whole image
    and renders output pixels first[i]..last[i]-1."""

    index: tuple[int, ...]
    start: tuple[int, ...]
    stop: tuple[int, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]

    @property
    def lengths(self) -> Tensor:
        return torch.tensor(self.stop, dtype=torch.float64) - torch.tensor(self.start, dtype=torch.float64)

    @property
    def outputs(self) -> Tensor:
        return torch.tensor(self.last, dtype=torch.float64) - torch.tensor(self.first, dtype=torch.float64)


def cut_axis(start: int, stop: int, patch: int, n: int, out: int) -> Cut:
    """Cut pixels start..stop-1 of an axis with n LR and `out` output pixels at multiples of `patch`."""
    edges = [start, *range((start // patch + 1) * patch, stop, patch), stop]
    spans = list(pairwise(edges))
    return Cut(
        tuple(a // patch for a, _ in spans),
        tuple(a for a, _ in spans),
        tuple(b for _, b in spans),
        tuple(first_output(a, n, out) for a, _ in spans),
        tuple(first_output(b, n, out) for _, b in spans),
    )


class PatchRouted(nn.Module):
    """A router that looks at every patch once, and a multi-exit network that each patch leaves where it pays.

    Rules: the stem runs on the whole image; after every block a patch keeps the new features if its exit lies behind
    that block, else the ones it had; neighbours see what a patch has. The network is computed on kept patches with the
    rim that valid convolutions need; with all patches of a tile kept, on the tile in one piece.
    """

    scales: tuple[float, ...] | None = None

    def __init__(self, router: nn.Module, network: MultiExit, *, patch: int = 32) -> None:
        super().__init__()
        self.router = router
        self.network = network
        self.patch = patch

    @property
    def grid(self) -> int:
        return self.patch

    @property
    def unit(self) -> int:
        return 1

    @property
    def context(self) -> int | None:
        return self.network.context

    def bytes_per_pixel(self, scale: tuple[float, float]) -> float:
        """Rough working memory per LR pixel of a tile: three layers of 48 channels in fp32, and the canvas."""
        return 640 + BYTES_PER_OUTPUT_PIXEL * scale[0] * scale[1]

    def survey(self, lr: Tensor, scale: tuple[float, float]) -> Tensor:
        """The router's word on an LR tile cut along patches: (exits, gy, gx) drop in mean squared error per exit."""
        return self.router(lr, torch.tensor([scale], device=lr.device))[0].float().square()

    def decide(self, evidence: Tensor | None, size: Size, out: Size, budget: Budget) -> Plan:
        """Solve for the exits: greatest predicted drop in squared error within the budget, on this image."""
        assert evidence is not None
        rows, columns = self._cut(Frame(size), size, out)
        shape = (len(rows.index), len(columns.index))
        exits = self.network.exits
        top = torch.full((1, *shape), exits, dtype=torch.int64)
        fixed = self.router.macs(size)  # type: ignore[operator]
        whole = (0, 0, *size)
        full = self._work(rows, columns, top[0], whole, Frame(size), out)[0].total + fixed.total
        costs = self._option_costs(rows, columns)
        area = (rows.lengths.unsqueeze(1) * columns.lengths.unsqueeze(0)).flatten()
        gain = F.pad(evidence.detach().double().cpu().flatten(1).cumsum(0), (0, 0, 1, 0)).T * area.unsqueeze(1)
        budget.dial_of()
        allowed = budget.allowed(full)
        choice, price, spent = top, 0.0, full
        if allowed < full:
            always = (fixed + self._always(size, out)).total
            if always > allowed:
                floor = always / full
                raise BudgetInfeasible(
                    f"budget {budget_words(budget)} is below the floor of this model on this image, {floor:.2%} "
                    f"({always:.3g} MACs): ask for more",
                    floor,
                )

            def needs(choice: Tensor) -> int:
                return self._work(rows, columns, choice[0], whole, Frame(size), out)[0].total + fixed.total

            def wins(choice: Tensor) -> float:
                return float(gain.gather(1, choice.view(-1, 1)).sum())

            # Patches are priced with their rims; blocks that all patches run have none, and what that saves is
            # granted again. For the same reason raising the last few patches can cost less than leaving them.
            choice = torch.zeros_like(top)
            spent, best = needs(choice), 0.0
            reserve = self._tables(rows, columns, range(1, exits + 1)).total
            low = grant = max(0.0, allowed - always - reserve)
            for _ in range(REFINEMENTS):
                solution = solve(gain, costs.flatten(1).T, grant)
                candidate = solution.choice.view(1, *shape)
                for level in range(exits + 1):
                    raised = candidate.clamp_min(level)
                    cost_of_it = needs(raised)
                    if cost_of_it <= allowed and wins(raised) > best:
                        choice, price, spent, best = raised, solution.price, cost_of_it, wins(raised)
                left = allowed - needs(candidate)
                if left >= 0:
                    low, grant = grant, grant + left
                else:
                    grant = (low + grant) / 2
        decision = Decision("patch", self.patch, choice, costs, evidence.unsqueeze(0))
        return Plan(Effort(share=budget.allowed(full) / full, price=price), (decision,), spent, full, fixed)

    @torch.no_grad()
    def render(self, lr: Tensor, frame: Frame, core: Box, out: Size, plan: Plan) -> Rendered:
        """Render the output pixels of `core` from a tile `lr` (1, 3, h, w) that lies at `frame`."""
        network, (oy, ox) = self.network, frame.origin
        height, width = lr.shape[-2:]
        rows, columns = self._cut(frame, (height, width), out)
        choice = plan.route[0].choice[0][list(rows.index)][:, list(columns.index)]
        target = output_box(core, frame.size, out)
        canvas = bicubic_base(lr, frame, out, target)[0]
        inside = _inside(rows, columns, core)
        margin = network.block_margin
        field = _Padded(network.enter(repeat_edge(lr, network.stem_margin)), margin)
        for index in range(1, network.depth + 1):
            level = network.level(index)
            active = choice >= level
            if not bool(active.any()):
                break
            if bool(active.all()):
                field.store(network.block(index, field.buffer))
            else:
                patches = [(int(i), int(j)) for i, j in active.nonzero()]
                fresh = [
                    (group, network.block(index, field.gather(group, rows, columns, oy, ox)))
                    for group in _groups(patches, lambda p: _shape(p, rows, columns))
                ]
                for group, features in fresh:
                    field.scatter(group, features, rows, columns, oy, ox)
                field.refresh()
            if index == network.exit_after[level - 1]:
                leaving = [(int(i), int(j)) for i, j in ((choice == level) & inside).nonzero()]
                self._render_exit(level, leaving, field, rows, columns, frame, out, target, canvas)
        macs, lean = self._work(rows, columns, choice, core, frame, out)
        return Rendered(canvas, macs, lean)

    def _render_exit(
        self,
        level: int,
        patches: list[tuple[int, int]],
        field: _Padded,
        rows: Cut,
        columns: Cut,
        frame: Frame,
        out: Size,
        target: Box,
        canvas: Tensor,
    ) -> None:
        """Add the residual of exit `level` to the output pixels of `patches`."""
        if not patches:
            return
        network = self.network
        (h, w), (oy, ox) = frame.size, frame.origin
        table = lambda cut, i, n, size: network.table(  # noqa: E731
            level, cut.first[i], cut.last[i], n, size, cut.start[i] - 1, cut.stop[i] - cut.start[i] + 2
        )
        row_tables = {i: table(rows, i, h, out[0]) for i in {i for i, _ in patches}}
        column_tables = {j: table(columns, j, w, out[1]) for j in {j for _, j in patches}}

        def kind(p: tuple[int, int]) -> tuple[int, ...]:
            i, j = p
            return (*_shape(p, rows, columns), rows.last[i] - rows.first[i], columns.last[j] - columns.first[j])

        for group in _groups(patches, kind):
            coefficients = network.coefficients(level, field.gather(group, rows, columns, oy, ox))
            residual = network.render(
                level,
                coefficients,
                torch.stack([row_tables[i] for i, _ in group]),
                torch.stack([column_tables[j] for _, j in group]),
            )
            for (i, j), block in zip(group, residual, strict=True):
                y, x = rows.first[i] - target[0], columns.first[j] - target[1]
                canvas[:, y : y + block.shape[-2], x : x + block.shape[-1]] += block

    # --- what it costs ------------------------------------------------------------------------------------------------

    def full_macs(self, frame: Frame, tile: Size, core: Box, out: Size) -> int:
        """MACs of one tile with every patch at the last exit, the router left out."""
        rows, columns = self._cut(frame, tile, out)
        top = torch.full((len(rows.index), len(columns.index)), self.network.exits)
        return self._work(rows, columns, top, core, frame, out)[0].total

    def _cut(self, frame: Frame, tile: Size, out: Size) -> tuple[Cut, Cut]:
        """Rows and columns of a tile that lies at `frame`, cut along patches."""
        (oy, ox), patch = frame.origin, self.patch
        rows = cut_axis(oy, oy + tile[0], patch, frame.size[0], out[0])
        return rows, cut_axis(ox, ox + tile[1], patch, frame.size[1], out[1])

    def _always(self, size: Size, out: Size) -> Macs:
        return self.network.stem_macs(*size) + _base(Frame(size), out, (0, 0, *out))

    def _tables(self, rows: Cut, columns: Cut, levels: Any) -> Macs:
        positions = sum(rows.last) - sum(rows.first) + sum(columns.last) - sum(columns.first)
        return sum((self.network.table_macs(level, positions) for level in levels), Macs())

    def _option_costs(self, rows: Cut, columns: Cut) -> Tensor:
        """(exits + 1, gy, gx) float64: MACs of each exit of each patch with its rims; exit 0 is free."""
        h, w = rows.lengths.unsqueeze(1), columns.lengths.unsqueeze(0)
        hq, wq = rows.outputs.unsqueeze(1), columns.outputs.unsqueeze(0)
        network = self.network
        block = torch.as_tensor(network.block_macs(h, w).total)
        options = [torch.zeros_like(h * w)]
        for level, after in enumerate(network.exit_after, 1):
            head = network.head_macs(level, h, w) + network.render_macs(level, (h, w), (hq, wq))
            options.append(block * after + head.total)
        return torch.stack(options)

    def _work(self, rows: Cut, columns: Cut, choice: Tensor, core: Box, frame: Frame, out: Size) -> tuple[Macs, int]:
        """MACs that `render` runs on a tile, and those without rims of patches and context of the tile."""
        network = self.network
        h, w = rows.lengths.unsqueeze(1), columns.lengths.unsqueeze(0)
        hq, wq = rows.outputs.unsqueeze(1), columns.outputs.unsqueeze(0)
        height, width = int(rows.lengths.sum()), int(columns.lengths.sum())
        inside = _inside(rows, columns, core)
        core_size = (core[2] - core[0], core[3] - core[1])
        base = _base(frame, out, output_box(core, frame.size, out))
        work, lean = network.stem_macs(height, width) + base, (network.stem_macs(*core_size) + base).total
        for index in range(1, network.depth + 1):
            active = choice >= network.level(index)
            if bool(active.all()):
                work += network.block_macs(height, width)
            else:
                work += _sum(network.block_macs(h, w), active)
            lean += _sum(network.lean_block_macs(h, w), active & inside).total
        for level in range(1, network.exits + 1):
            leaving = (choice == level) & inside
            if not bool(leaving.any()):
                continue
            work += _sum(network.head_macs(level, h, w) + network.render_macs(level, (h, w), (hq, wq)), leaving)
            lean += _sum(
                network.lean_head_macs(level, h, w) + network.render_macs(level, (h, w), (hq, wq)), leaving
            ).total
            used_rows, used_columns = leaving.any(1), leaving.any(0)
            positions = int((rows.outputs * used_rows).sum() + (columns.outputs * used_columns).sum())
            work += network.table_macs(level, positions)
            lean += network.table_macs(level, positions).total
        return work, lean


class _Padded:
    """Features of a tile (1, c, h, w) kept with their edge repeated `margin` times on every side."""

    def __init__(self, features: Tensor, margin: int) -> None:
        self.margin = margin
        b, c, h, w = features.shape
        self.buffer = torch.empty(
            (b, c, h + 2 * margin, w + 2 * margin), dtype=features.dtype, device=features.device
        ).contiguous(memory_format=torch.channels_last)
        self.store(features)

    def store(self, features: Tensor) -> None:
        m = self.margin
        self.buffer[..., m:-m, m:-m] = features
        self.refresh()

    def refresh(self) -> None:
        """Repeat the edge into the margin again."""
        m, buffer = self.margin, self.buffer
        buffer[..., :m, :] = buffer[..., m : m + 1, :]
        buffer[..., -m:, :] = buffer[..., -m - 1 : -m, :]
        buffer[..., :m] = buffer[..., m : m + 1]
        buffer[..., -m:] = buffer[..., -m - 1 : -m]

    def gather(self, patches: list[tuple[int, int]], rows: Cut, columns: Cut, oy: int, ox: int) -> Tensor:
        """Patches of one shape with their margin: (patches, c, h + 2m, w + 2m)."""
        m = 2 * self.margin
        pieces = [
            self.buffer[
                0, :, rows.start[i] - oy : rows.stop[i] - oy + m, columns.start[j] - ox : columns.stop[j] - ox + m
            ]
            for i, j in patches
        ]
        # stacked as (n, h, w, c) so that the copy runs along memory
        return torch.stack([piece.permute(1, 2, 0) for piece in pieces]).permute(0, 3, 1, 2)

    def scatter(
        self, patches: list[tuple[int, int]], features: Tensor, rows: Cut, columns: Cut, oy: int, ox: int
    ) -> None:
        m = self.margin
        for (i, j), piece in zip(patches, features, strict=True):
            y, x = rows.start[i] - oy + m, columns.start[j] - ox + m
            self.buffer[0, :, y : y + piece.shape[-2], x : x + piece.shape[-1]] = piece


def _groups(patches: list[tuple[int, int]], kind: Any) -> list[list[tuple[int, int]]]:
    """Patches of one kind together, at most CHUNK at a time."""
    by_kind: dict[Any, list[tuple[int, int]]] = defaultdict(list)
    for patch in patches:
        by_kind[kind(patch)].append(patch)
    return [group[k : k + CHUNK] for group in by_kind.values() for k in range(0, len(group), CHUNK)]


def _shape(patch: tuple[int, int], rows: Cut, columns: Cut) -> tuple[int, int]:
    i, j = patch
    return rows.stop[i] - rows.start[i], columns.stop[j] - columns.start[j]


def _inside(rows: Cut, columns: Cut, core: Box) -> Tensor:
    """(gy, gx) bool: patches of a tile that belong to its core."""
    y = torch.tensor([core[0] <= a < core[2] for a in rows.start])
    x = torch.tensor([core[1] <= a < core[3] for a in columns.start])
    return y.unsqueeze(1) & x.unsqueeze(0)


def _sum(macs: Macs, mask: Tensor) -> Macs:
    """Macs whose fields are (gy, gx) tensors, summed where `mask` holds."""
    return Macs(**{name: int((torch.as_tensor(value) * mask).sum()) for name, value in macs.as_dict().items()})


def _base(frame: Frame, out: Size, target: Box) -> Macs:
    return Macs(matmul=base_macs(frame, out, target))
