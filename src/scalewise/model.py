"""What runs: SuperResolver(encoder, upsampler); PatchRouted(router, network). Both render tiles of an image.

The way of an image (`pipeline.py`): `survey` tiles for the router → `decide` once with the budget → `render` tiles.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.contracts import Encoder, MultiExit, Sampled, Upsampler
from scalewise.cost import Macs
from scalewise.effort import Budget, Effort, solve
from scalewise.errors import BudgetInfeasible
from scalewise.grid import Box, Frame, Query, Size, first_output, output_box, rectangle
from scalewise.layers import repeat_edge
from scalewise.resize import Taps, axis_taps, resample, resample_macs
from scalewise.route import Decision, Route

BYTES_PER_OUTPUT_PIXEL = 36  # base, canvas and rounded copy of three colours


@dataclass(frozen=True)
class Plan:
    """What was decided for one image: its `effort`, the `route` known so far, the MACs it will take and the full ones.

    `macs` and `macs_full` are those of the untiled image; `overhead` is what deciding cost (the router)."""

    effort: Effort
    route: Route
    macs: int
    macs_full: int
    overhead: Macs = field(default_factory=Macs)


@dataclass(frozen=True)
class Rendered:
    """One tile: `rgb` (3, H, W) of its target box, not clamped; the MACs that ran; those without rims and context."""

    rgb: Tensor
    macs: Macs
    lean: int


class Model(Protocol):
    """What the pipeline runs. `scales`: the only factors the model has, or None for any."""

    @property
    def scales(self) -> tuple[float, ...] | None: ...

    @property
    def context(self) -> int | None: ...

    @property
    def grid(self) -> int: ...

    @property
    def unit(self) -> int: ...

    def bytes_per_pixel(self, scale: tuple[float, float]) -> float: ...

    def survey(self, lr: Tensor, scale: tuple[float, float]) -> Tensor | None: ...

    def decide(self, evidence: Tensor | None, size: Size, out: Size, budget: Budget) -> Plan: ...

    def full_macs(self, frame: Frame, tile: Size, core: Box, out: Size) -> int: ...

    def render(self, lr: Tensor, frame: Frame, core: Box, out: Size, plan: Plan) -> Rendered: ...


class SuperResolver(nn.Module):
    """Any encoder with any upsampler. Images are RGB in [0, 1]; the networks see (x - mean) / std.

    `scales` are the factors the pair was made for (fixed-scale networks), or None for any.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: Encoder,
        upsampler: Upsampler,
        *,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        std: tuple[float, float, float] = (0.5, 0.5, 0.5),
        scales: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.upsampler = upsampler
        self.scales = scales
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def grid(self) -> int:
        """Tiles start at multiples of it."""
        return self.encoder.grid

    @property
    def unit(self) -> int:
        return self.encoder.grid

    @property
    def context(self) -> int | None:
        """LR pixels beyond a tile that can change its output; None: the whole image."""
        if self.encoder.context is None or self.upsampler.context is None:
            return None
        return self.encoder.context + self.upsampler.context

    def bytes_per_pixel(self, scale: tuple[float, float]) -> float:
        """Rough working memory per LR pixel of a tile, by which tiles are sized: some layers of features at once, and
        for tails of fixed scale such layers at output size."""
        layer, area = 4 * self.encoder.channels, scale[0] * scale[1]
        return 16 * layer + (BYTES_PER_OUTPUT_PIXEL if self.scales is None else 4 * layer) * area

    def forward(
        self, lr: Tensor, query: Query, scale: Tensor, effort: Effort | None = None, frame: Frame | None = None
    ) -> Sampled:
        """lr (b, 3, h, w) in [0, 1], scale (b, 2) → RGB at the query's points, not clamped."""
        effort = effort or Effort()
        height, width = lr.shape[-2:]
        frame = frame or Frame((height, width))
        normal = (lr - self.mean) / self.std
        padded = pad_to_grid(normal, self.grid)
        plan = self.encoder.plan(padded, scale, effort)
        encoded = self.encoder.encode(padded, frame, scale, effort, plan)
        features = encoded.features[..., :height, :width]
        sampled = self.upsampler.sample(self.upsampler.prepare(features, normal, frame), query, effort)
        return Sampled(self._denormal(sampled.rgb, query), encoded.route + sampled.route)

    def _denormal(self, rgb: Tensor, query: Query) -> Tensor:
        if query.rectangle:
            return rgb * self.std + self.mean
        return rgb * self.std.view(1, 1, 3) + self.mean.view(1, 1, 3)

    def survey(self, lr: Tensor, scale: tuple[float, float]) -> Tensor | None:
        """Nothing is decided before the run."""
        return None

    def decide(self, evidence: Tensor | None, size: Size, out: Size, budget: Budget) -> Plan:
        """One level only: raises BudgetInfeasible below the full cost."""
        full = self.macs(size, out).total
        if (budget.kind == "fraction" and budget.value < 1) or budget.allowed(full) < full:
            raise BudgetInfeasible(
                f"budget {budget_words(budget)}: this model has one level of effort, 100% ({full:.3g} MACs); leave the "
                "budget out, or take a model with exits (fast)",
                1.0,
            )
        return Plan(Effort(), (), full, full)

    def render(self, lr: Tensor, frame: Frame, core: Box, out: Size, plan: Plan) -> Rendered:
        """Render the output pixels of `core` from a tile `lr` (1, 3, h, w) that lies at `frame`."""
        target = output_box(core, frame.size, out)
        scale = (out[0] / frame.size[0], out[1] / frame.size[1])
        query = rectangle(frame, out, target, device=lr.device)
        sampled = self(lr, query, torch.tensor([scale], device=lr.device), plan.effort, frame)
        tile, kept = (lr.shape[-2], lr.shape[-1]), (core[2] - core[0], core[3] - core[1])
        pixels = (target[2] - target[0], target[3] - target[1])
        if self.scales is None:
            return Rendered(sampled.rgb[0], self.macs(tile, pixels, sampled.route), self.macs(kept, pixels).total)
        enlarged = tuple(
            (round(n * scale[0]), round(m * scale[1])) for n, m in (tile, kept)
        )  # tails enlarge all of a tile
        return Rendered(sampled.rgb[0], self.macs(tile, enlarged[0]), self.macs(kept, enlarged[1]).total)

    def full_macs(self, frame: Frame, tile: Size, core: Box, out: Size) -> int:
        """MACs of one tile with everything on, which is always so here."""
        target, scale = output_box(core, frame.size, out), (out[0] / frame.size[0], out[1] / frame.size[1])
        pixels = (target[2] - target[0], target[3] - target[1])
        if self.scales is not None:
            pixels = (round(tile[0] * scale[0]), round(tile[1] * scale[1]))
        return self.macs(tile, pixels).total

    def macs(self, size: Size, out: Size, route: Route = ()) -> Macs:
        """The cost of one whole image, or of one tile and the pixels rendered from it."""
        height, width = (-(-n // self.grid) * self.grid for n in size)
        scale = (out[0] / size[0], out[1] / size[1])
        return self.encoder.macs((height, width), scale, route) + self.upsampler.macs(size, out)


def pad_to_grid(lr: Tensor, grid: int) -> Tensor:
    """Pad right and bottom to multiples of `grid`: mirrored, or the edge repeated where the image is too small."""
    height, width = lr.shape[-2:]
    bottom, right = -height % grid, -width % grid
    if not (bottom or right):
        return lr
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(lr, (0, right, 0, bottom), mode=mode)


def budget_words(budget: Budget) -> str:
    return f"{budget.value:.4g} MACs" if budget.kind == "macs" else f"{budget.value:.1%}"


class Rescaled:
    """A model of fixed scales at any other scale: it runs at its next own scale, and the rest is antialiased bicubic.

    `note` says so in the report. The next own scale is the smallest that is not below both factors, or the largest.
    """

    scales: tuple[float, ...] | None = None

    def __init__(self, model: Model, size: Size, out: Size) -> None:
        assert model.scales is not None
        wanted = max(out[0] / size[0], out[1] / size[1])
        own = sorted(model.scales)
        self.own = next((s for s in own if s >= wanted - 1e-9), own[-1])
        self.model = model
        self.middle = (round(size[0] * self.own), round(size[1] * self.own))
        taps = max(axis_taps(m, n)[0].shape[1] for m, n in zip(self.middle, out, strict=True))
        self.reach = -(-taps // max(1, int(self.own))) + 1  # LR pixels under the taps of one output pixel
        self.note = f"ran at its own ×{self.own:g}, then bicubic to the size asked for"

    @property
    def grid(self) -> int:
        return self.model.grid

    @property
    def unit(self) -> int:
        return self.model.unit

    @property
    def context(self) -> int | None:
        return None if self.model.context is None else self.model.context + self.reach

    def bytes_per_pixel(self, scale: tuple[float, float]) -> float:
        return self.model.bytes_per_pixel((self.own, self.own)) + BYTES_PER_OUTPUT_PIXEL * scale[0] * scale[1]

    def survey(self, lr: Tensor, scale: tuple[float, float]) -> Tensor | None:
        return self.model.survey(lr, (self.own, self.own))

    def decide(self, evidence: Tensor | None, size: Size, out: Size, budget: Budget) -> Plan:
        return self.model.decide(evidence, size, self.middle, budget)

    def full_macs(self, frame: Frame, tile: Size, core: Box, out: Size) -> int:
        return self.model.full_macs(frame, tile, self._widened(frame, tile, core), self.middle)

    def _widened(self, frame: Frame, tile: Size, core: Box) -> Box:
        """The core and the LR pixels under the taps of its border, as far as the tile goes."""
        (oy, ox), reach = frame.origin, self.reach
        return (
            max(oy, core[0] - reach),
            max(ox, core[1] - reach),
            min(oy + tile[0], core[2] + reach),
            min(ox + tile[1], core[3] + reach),
        )

    def render(self, lr: Tensor, frame: Frame, core: Box, out: Size, plan: Plan) -> Rendered:
        target = output_box(core, frame.size, out)
        rows, columns = (
            tuple(t[a:b] for t in axis_taps(m, n))
            for m, n, a, b in zip(self.middle, out, target[:2], target[2:], strict=True)
        )
        wide = self._widened(frame, (lr.shape[-2], lr.shape[-1]), core)
        inner = self.model.render(lr, frame, wide, self.middle, plan)
        y0, x0, _, _ = output_box(wide, frame.size, self.middle)
        rgb = resample(inner.rgb, (rows[0] - y0, rows[1]), (columns[0] - x0, columns[1]))
        return Rendered(rgb, inner.macs, inner.lean)


# --- patches that leave early -----------------------------------------------------------------------------------------

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
        return self.network.stem_macs(*size) + base_macs(Frame(size), out, (0, 0, *out))

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
        base = base_macs(frame, out, output_box(core, frame.size, out))
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


def bicubic_base(lr: Tensor, frame: Frame, out: Size, target: Box) -> Tensor:
    """Bicubic enlargement (MATLAB's kernel and border) of the output box `target`, from a tile at `frame`."""
    return resample(lr, *_base_taps(frame, out, target))


def base_macs(frame: Frame, out: Size, target: Box) -> Macs:
    """The matrix products of `bicubic_base`."""
    return Macs(matmul=resample_macs(*_base_taps(frame, out, target)))


def _base_taps(frame: Frame, out: Size, target: Box) -> tuple[Taps, Taps]:
    (h, w), (oy, ox) = frame.size, frame.origin
    row_index, row_weight = axis_taps(h, out[0])
    column_index, column_weight = axis_taps(w, out[1])
    return (
        (row_index[target[0] : target[2]] - oy, row_weight[target[0] : target[2]]),
        (column_index[target[1] : target[3]] - ox, column_weight[target[1] : target[3]]),
    )
