"""MultiExitModel: a router looks at every patch once, and each patch leaves a multi-exit network where it pays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget.budget import Budget, Effort
from scalewise.budget.cost import Macs
from scalewise.budget.route import Decision
from scalewise.budget.solver import Envelope
from scalewise.geometry.grid import Box, Frame, Size, output_box
from scalewise.geometry.resize import base_macs, bicubic_base
from scalewise.layers import Convolution, ready_convolution, repeat_edge
from scalewise.models.model import (
    BYTES_PER_OUTPUT_PIXEL,
    Model,
    ModelLimits,
    OnRows,
    Rendered,
    RoutePlan,
    below_floor,
    kinds,
)
from scalewise.models.patch_buffers import BlockMemory, Padded, Slope, grouped, joined, run_groups, runs, shape_of
from scalewise.models.patch_cells import Cells, cut

if TYPE_CHECKING:
    from scalewise.multiexit.anyscale import AnyScaleExits, Block

BAND = 64  # rows computed at a time where all of a tile is computed: few, so that no large memory is asked for anew
REFINEMENTS = 8  # times that what a plan leaves of its budget is granted again
Step = tuple[int, list[Box] | None, Tensor]  # a block, and what it renews of a tile: see `MultiExitModel._steps`


class MultiExitModel(nn.Module, Model):
    """A router that looks at every patch once, and a multi-exit network that each patch leaves where it pays.

    Rules: the stem runs on the whole image; after every block a patch keeps the new features if its exit lies behind
    that block, else the ones it had; neighbours see what a patch has. The network is computed on kept patches with the
    rim that valid convolutions need; with all patches of a tile kept, on the tile in one piece.
    """

    def __init__(self, router: nn.Module, network: AnyScaleExits, *, patch: int = 32) -> None:
        super().__init__()
        self.router = router
        self.network = network
        self.patch = patch

    @property
    def limits(self) -> ModelLimits:
        context = self.network.context
        return ModelLimits(None, context, patch_stride=self.patch, levels="cells", weighs_patches=True)

    def bytes_per_pixel(self, scale: tuple[float, float]) -> float:
        """Rough working memory per LR pixel of a tile: three layers in fp32, and the canvas."""
        return 64 + 12 * self.network.channels + BYTES_PER_OUTPUT_PIXEL * scale[0] * scale[1]

    @property
    def spans_shape(self) -> tuple[int, ...]:
        return self.network.depth, 4

    def spans(self, lr: Tensor) -> Tensor:
        """What 8 bits should span, measured on crops of photos lr (b, 3, h, w). Raises ValueError."""
        return self.network.spans(lr)

    def in_eight_bits(self, spans: Tensor) -> MultiExitModel:
        """The same with its blocks computed in 8 bits, on a CPU; the router is shared."""
        return MultiExitModel(self.router, self.network.in_eight_bits(spans), patch=self.patch).eval()

    def score(self, lr: Tensor, scale: tuple[float, float]) -> Tensor:
        """What the router predicts for an LR tile cut along patches: (exits, gy, gx), the drop in mean squared error
        that each exit adds."""
        return self.router(lr, torch.tensor([scale], device=lr.device))[0].float().square()

    def plan(self, evidence: Tensor | None, size: Size, out: Size, budget: Budget) -> RoutePlan:
        """Solve for the exits: greatest predicted drop in squared error within the budget, on this image."""
        assert evidence is not None
        cells = cut(Frame(size), size, self.patch, out)
        shape = evidence.shape[1:]
        exits = self.network.exits
        top = torch.full((1, *shape), exits, dtype=torch.int64)
        fixed = self.router.macs(size)  # type: ignore[operator]
        whole = (0, 0, *size)
        full = self._work(cells, top.flatten(), whole, Frame(size), out).total + fixed.total
        costs = self._option_costs(cells, self.network.factors(size, out))
        area = cells.lengths.prod(1, keepdim=True)
        gain = F.pad(evidence.detach().double().cpu().flatten(1).cumsum(0), (0, 0, 1, 0)).T * area
        budget.dial_of()
        allowed = budget.allowed(full)
        choice, spent = top, full
        if allowed < full:
            always = (fixed + self._always(size, out)).total
            if always > allowed:
                raise below_floor(budget, always, full)

            known = {top.numpy().tobytes(): full}  # MACs of choices that were looked at: they come again and again

            def needs(choice: Tensor) -> int:
                key = choice.numpy().tobytes()
                if key not in known:
                    known[key] = self._work(cells, choice.flatten(), whole, Frame(size), out).total + fixed.total
                return known[key]

            def wins(choice: Tensor) -> float:
                return float(gain.gather(1, choice.view(-1, 1)).sum())

            # Patches are priced with their rims; blocks that all patches run have none, and what that saves is
            # granted again. For the same reason raising the last few patches can cost less than leaving them.
            choice = torch.zeros_like(top)
            spent, best = needs(choice), 0.0
            factors = self.network.factors(size, out)
            reserve = sum(self.network.table_macs(level, sum(out), factors).total for level in range(1, exits + 1))
            low = grant = max(0.0, allowed - always - reserve)
            envelope = Envelope(gain, costs.T)
            for _ in range(REFINEMENTS):
                candidate = envelope.solve(grant).view(1, *shape)
                for level in range(exits + 1):
                    raised = candidate.clamp_min(level)
                    if (gained := wins(raised)) > best and (cost_of_it := needs(raised)) <= allowed:
                        choice, spent, best = raised, cost_of_it, gained
                left = allowed - needs(candidate)
                if left >= 0:
                    low, grant = grant, grant + left
                else:
                    grant = (low + grant) / 2
        decision = Decision("patch", self.patch, choice, costs.unflatten(1, shape), evidence.unsqueeze(0))
        return RoutePlan(Effort(share=budget.allowed(full) / full), (decision,), spent, full, fixed)

    def render(self, lr: Tensor, frame: Frame, core: Box, out: Size, plan: RoutePlan) -> Rendered:
        """Render the output pixels of `core` from a tile `lr` (1, 3, h, w) that lies at `frame`."""
        return self.render_rows(lr, frame, core, out, plan, lambda rgb, rows: None)

    @torch.no_grad()
    def render_rows(self, lr: Tensor, frame: Frame, core: Box, out: Size, plan: RoutePlan, on_rows: OnRows) -> Rendered:
        """The same; where all patches go to the last exit, `on_rows` is called on the way with the rows that are
        final."""
        network = self.network
        cells = cut(frame, (lr.shape[-2], lr.shape[-1]), self.patch, out)
        choice = plan.route[0].choice[0][cells.patch.unbind(1)]
        target = output_box(core, frame.size, out)
        canvas = bicubic_base(lr, frame, out, target)[0]
        picture = _Picture(cells, frame, out, target, canvas)
        inside = cells.inside(core)
        features = network.enter(repeat_edge(lr, network.stem_margin))
        steps = list(self._steps(cells, choice, core))
        blocks = network.ready_blocks(features.dtype, len(steps))
        if bool((choice == network.exits).all()) and not cells.mostly_context(core):
            self._all_blocks(features, blocks, inside, picture, on_rows)
        else:
            self._blocks(features, blocks, choice, inside, steps, picture)
        macs = self._work(cells, choice, core, frame, out, steps)
        return Rendered(canvas, macs, self._lean(cells, choice, core, frame, out, steps))

    def _steps(self, cells: Cells, choice: Tensor, core: Box) -> Iterator[Step]:
        """The blocks that run on a tile: the number of each, and the boxes (n, 4) of the tile that it renews, those of
        cells that go on, joined where they touch left and right, as one rim goes around them; or all that is needed in
        a few pieces, where every cell goes on.

        What no later block sees of the context is left out, if the tile is small."""
        network, (oy, ox), (height, width) = self.network, cells.origin, cells.tile
        deepest = int(choice[cells.inside(core)].max())
        last = network.exit_after[deepest - 1] if deepest else 0
        boxes, trimmed = torch.tensor(cells.boxes), cells.mostly_context(core)
        bands: list[Box] | None = None
        renewed = boxes
        for index in range(1, last + 1):
            if not trimmed and index - 1 not in (0, *network.exit_after):
                yield index, bands, renewed  # as the block before
                continue
            active = choice >= network.level(index)
            needed = (0, 0, height, width)
            if trimmed:
                seen = network.block_margin * (network.depth - index + 1)  # by the blocks to come and the head
                needed = (
                    max(0, core[0] - oy - seen),
                    max(0, core[1] - ox - seen),
                    min(height, core[2] - oy + seen),
                    min(width, core[3] - ox + seen),
                )
                limit = torch.tensor(needed)
                boxes = torch.cat((boxes[:, :2].maximum(limit[:2]), boxes[:, 2:].minimum(limit[2:])), 1)
                touched = (boxes[:, :2] < boxes[:, 2:]).all(1)
                boxes, choice, active = boxes[touched], choice[touched], active[touched]
            bands, renewed = self._bands(needed) if bool(active.all()) else None, joined(boxes[active])
            yield index, bands, renewed

    def _blocks(
        self,
        features: Tensor,
        blocks: Sequence[Block],
        choice: Tensor,
        inside: Tensor,
        steps: Sequence[Step],
        picture: _Picture,
    ) -> None:
        """Block after block on the patches that go on, whose exits lie behind it."""
        network, field = self.network, Padded(features, self.network.block_margin)
        groups = [
            run_groups([tuple(box) for box in boxes.tolist()]) if bands is None else [[band] for band in bands]
            for _, bands, boxes in steps
        ]
        memory = BlockMemory(
            features, max((sum(math.prod(shape_of(b)) for b in chain(*parts)) for parts in groups), default=0)
        )
        for (index, _, _), block, parts in zip(steps, blocks, groups, strict=True):
            level = network.level(index)
            memory.clear()
            fresh = [block(field.gather(part), partial(memory.take, part)) for part in parts]
            for part, features in zip(parts, fresh, strict=True):
                field.scatter(part, features)
            field.refresh()
            if index == network.exit_after[level - 1]:
                leaving = ((choice == level) & inside).nonzero().flatten().tolist()
                self._render_exit(level, leaving, field, picture)

    def _all_blocks(
        self, features: Tensor, blocks: Sequence[Block], inside: Tensor, picture: _Picture, on_rows: OnRows
    ) -> None:
        """Every patch through every block: band after band, each as far as blocks can see, so that upper rows of the
        picture are finished while lower ones are still to be computed."""
        network, cells, canvas = self.network, picture.cells, picture.canvas
        slope = Slope(features, network.block_margin, network.depth)
        todo = inside.nonzero().flatten()
        stop = cells.stop[:, 0] - cells.origin[0]  # of each cell, in the tile
        first = cells.first[:, 0] - picture.target[0]
        for _, _, end, _ in self._bands((0, 0, *cells.tile)):
            for index, block in enumerate(blocks, 1):
                slope.put(index, block(slope.above(index, end)))
            seen = stop[todo] + network.block_margin <= slope.done if end < cells.tile[0] else stop[todo] > 0
            leaving, todo = todo[seen], todo[~seen]
            self._render_exit(network.exits, leaving.tolist(), slope.field, picture)
            on_rows(canvas, int(first[todo].min()) if len(todo) else canvas.shape[1])

    def _bands(self, box: Box) -> list[Box]:
        """A box cut into bands of BAND rows, or of as many as the first one needs so that a row is left for the last
        block."""
        band = max(BAND, self.network.block_margin * self.network.depth + 1)
        y0, x0, y1, x1 = box
        return [(y, x0, min(y + band, y1), x1) for y in range(y0, y1, band)]

    def _render_exit(self, level: int, leaving: list[int], field: Padded, picture: _Picture) -> None:
        """Add the residual of exit `level` to the output pixels of the cells that leave there."""
        factors = self.network.factors(picture.frame.size, picture.out)
        if factors is None:
            self._blend_exit(level, leaving, field, picture)
        else:
            self._shuffle_exit(level, leaving, field, picture, factors)

    def _blend_exit(self, level: int, leaving: list[int], field: Padded, picture: _Picture) -> None:
        """At any scale: coefficients, and the products that blend them."""
        network, cells, canvas, tables = self.network, picture.cells, picture.canvas, picture.tables
        target = picture.target

        def table(axis: int, start: int, stop: int, first: int, last: int) -> Tensor:
            span = (level, axis, first, last)
            if span not in tables:
                behind, weight = picture.kernels_at(network, level, axis)
                here = slice(first - target[axis], last - target[axis])
                tables[span] = network.table(level, behind[:, here], weight[:, here], start - 1, stop - start + 2)
            return tables[span]

        spans = torch.stack((cells.start, cells.stop, cells.first, cells.last), -1)[leaving].tolist()
        parts = [
            (cells.boxes[k], table(0, *rows), table(1, *columns), rows[2] - target[0], columns[2] - target[1])
            for k, (rows, columns) in zip(leaving, spans, strict=True)
        ]
        for group in grouped(parts, lambda part: (shape_of(part[0]), len(part[1]), len(part[2]))):
            boxes, rows, columns, ys, xs = zip(*group, strict=True)
            coefficients = network.coefficients(level, field.gather(boxes))
            residual = network.render(level, coefficients, torch.stack(rows), torch.stack(columns))
            for y, x, block in zip(ys, xs, residual, strict=True):
                canvas[:, y : y + block.shape[-2], x : x + block.shape[-1]] += block

    def _shuffle_exit(
        self, level: int, leaving: list[int], field: Padded, picture: _Picture, factors: tuple[int, int]
    ) -> None:
        """At whole factors: one convolution, and its channels laid out as pixels; neighbours in a row together."""
        if not leaving:
            return
        kernels, (fy, fx) = picture.convolutions, factors
        if level not in kernels:
            kernels[level] = ready_convolution(*self.network.as_convolution(level, factors), field.buffer.dtype)
        first = (picture.cells.first - torch.tensor(picture.target[:2]))[leaving].tolist()
        for (y0, x0, y1, x1), (y, x) in runs([picture.cells.boxes[k] for k in leaving], first):
            h, w = y1 - y0, x1 - x0
            residual = kernels[level](field.gather([(y0, x0, y1, x1)]))
            pixels = picture.canvas[:, y : y + h * fy, x : x + w * fx].unflatten(1, (h, fy)).unflatten(3, (w, fx))
            pixels.add_(residual[0].unflatten(0, (3, fy, fx)).permute(0, 3, 1, 4, 2))

    def fits(self, plan: RoutePlan, size: Size) -> bool:
        """True if a stored plan has an exit for each patch of an image of `size`."""
        height, width = (-(-n // self.patch) for n in size)
        return kinds(plan.route) == [("patch", self.patch, (height, width), self.network.exits + 1)]

    # --- what it costs ------------------------------------------------------------------------------------------------

    def full_macs(self, frame: Frame, tile: Size, core: Box, out: Size) -> int:
        """MACs of one tile with every patch at the last exit, the router left out."""
        cells = cut(frame, tile, self.patch, out)
        top = torch.full((len(cells.boxes),), self.network.exits)
        return self._work(cells, top, core, frame, out).total

    def planned_macs(self, frame: Frame, tile: Size, core: Box, out: Size, plan: RoutePlan) -> int:
        """MACs that `render` will run on a tile."""
        cells = cut(frame, tile, self.patch, out)
        return self._work(cells, plan.route[0].choice[0][cells.patch.unbind(1)], core, frame, out).total

    def _always(self, size: Size, out: Size) -> Macs:
        return self.network.stem_macs(*size) + _base(Frame(size), out, (0, 0, *out))

    def _option_costs(self, cells: Cells, factors: tuple[int, int] | None) -> Tensor:
        """(exits + 1, n) float64: MACs of each exit of each patch with its rims; exit 0 is free."""
        network, (sides, kind) = self.network, cells.kinds
        h, w, hq, wq = sides.unbind(1)
        block = torch.as_tensor(network.block_macs(h, w).total)
        options = [torch.zeros_like(h * w)]
        for level, after in enumerate(network.exit_after, 1):
            options.append(block * after + network.exit_macs(level, (h, w), (hq, wq), factors).total)
        return torch.stack(options)[:, kind]

    def _work(
        self, cells: Cells, choice: Tensor, core: Box, frame: Frame, out: Size, steps: Iterable[Step] | None = None
    ) -> Macs:
        """MACs that `render` runs on a tile; `steps`: the blocks that it ran, if it did."""
        network, seen, block = self.network, None, Macs()
        work = network.stem_macs(*cells.tile) + _base(frame, out, output_box(core, frame.size, out))
        for _, bands, boxes in self._steps(cells, choice, core) if steps is None else steps:
            if boxes is not seen:  # blocks of one exit renew the same
                pieces = (boxes if bands is None else torch.tensor(bands)).double()
                rows, columns = (pieces[:, 2:] - pieces[:, :2]).unbind(1)
                seen, block = boxes, network.block_macs(rows, columns).summed(torch.ones_like(rows))
            work += block
        leaving = self._leaving(cells, choice, core)
        return work + self._heads(cells, leaving, core, frame, out, network.exit_macs)

    def _lean(self, cells: Cells, choice: Tensor, core: Box, frame: Frame, out: Size, steps: Iterable[Step]) -> int:
        """MACs of the same without rims of patches and context of the tile."""
        network, (h, w) = self.network, cells.kinds[0].unbind(1)[:2]
        lean = network.stem_macs(core[2] - core[0], core[3] - core[1])
        lean += _base(frame, out, output_box(core, frame.size, out))
        leaving = self._leaving(cells, choice, core)
        renewed = (leaving[:, network.level(index) :].sum(1) for index, _, _ in steps)
        lean += network.lean_block_macs(h, w).summed(sum(renewed, torch.zeros_like(leaving[:, 0])))
        return (lean + self._heads(cells, leaving, core, frame, out, network.lean_exit_macs)).total

    def _heads(
        self, cells: Cells, leaving: Tensor, core: Box, frame: Frame, out: Size, exit_macs: Callable[..., Macs]
    ) -> Macs:
        """MACs of the exits at which cells are `leaving`, as `_leaving` counts them, each at a cost of `exit_macs`."""
        network, (h, w, hq, wq) = self.network, cells.kinds[0].unbind(1)
        factors, (y0, x0, y1, x1) = network.factors(frame.size, out), output_box(core, frame.size, out)
        work = Macs()
        for level in range(1, network.exits + 1):
            if bool(leaving[:, level].any()):
                work += exit_macs(level, (h, w), (hq, wq), factors).summed(leaving[:, level])
                work += network.table_macs(level, y1 - y0 + x1 - x0, factors)
        return work

    def _leaving(self, cells: Cells, choice: Tensor, core: Box) -> Tensor:
        """(kinds, exits + 1): how many cells of each kind inside the core leave at each exit."""
        (sides, kind), exits = cells.kinds, self.network.exits + 1
        leaving = (kind * exits + choice)[cells.inside(core)]
        return leaving.bincount(minlength=len(sides) * exits).view(len(sides), exits)


@dataclass(frozen=True)
class _Picture:
    """What a tile becomes: its cells, and the `canvas` (3, H, W) of the output pixels `target`.

    Computed once each: `kernels`, those of an axis, by exit and axis; `tables`, those of a span of it, by first and
    last output pixel too; `convolutions`, those of a whole factor, by exit."""

    cells: Cells
    frame: Frame
    out: Size
    target: Box
    canvas: Tensor
    tables: dict[tuple[int, int, int, int], Tensor] = field(default_factory=dict)
    convolutions: dict[int, Convolution] = field(default_factory=dict)
    kernels: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def kernels_at(self, network: AnyScaleExits, level: int, axis: int) -> tuple[Tensor, Tensor]:
        """The kernels of all rows (axis 0) or columns (axis 1) of the canvas."""
        if (level, axis) not in self.kernels:
            span = self.target[axis], self.target[axis + 2]
            self.kernels[level, axis] = network.kernels_at(level, *span, self.frame.size[axis], self.out[axis])
        return self.kernels[level, axis]


def _base(frame: Frame, out: Size, target: Box) -> Macs:
    return Macs(matmul=base_macs(frame, out, target))
