"""PatchRouted: a router looks at every patch once, and each patch leaves a multi-exit network where it pays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget.budget import Budget, Effort, budget_words
from scalewise.budget.cost import Macs
from scalewise.budget.route import Decision
from scalewise.budget.solver import Envelope
from scalewise.contracts import MultiExit
from scalewise.errors import BudgetInfeasible
from scalewise.geometry.grid import Box, Frame, Size, first_output, output_box
from scalewise.geometry.resize import base_macs, bicubic_base
from scalewise.layers import fill_edge, repeat_edge
from scalewise.models.model import BYTES_PER_OUTPUT_PIXEL, Plan, Ready, Rendered

CHUNK = 16  # patches computed together: their features stay in the cache
BAND = 64  # rows of a tile computed together where all of it is: so do these, and no large memory is asked for anew
REFINEMENTS = 8  # times that what a plan leaves of its budget is granted again


@dataclass(frozen=True)
class Cells:
    """The patches of a tile, n of them in rows of (row, column) pairs.

    `patch` says which one of the plan a cell is: beyond the borders of a 360° image, of which it is a copy. Cell k is
    pixels start..stop-1 of the whole image and renders output pixels first..last-1; in the tile it is `boxes[k]`.
    """

    tile: Size
    origin: Size
    patch: Tensor
    start: Tensor
    stop: Tensor
    first: Tensor
    last: Tensor

    @cached_property
    def boxes(self) -> list[Box]:
        origin = torch.tensor(self.origin)
        return [tuple(box) for box in torch.cat((self.start - origin, self.stop - origin), 1).tolist()]  # type: ignore[misc]

    @property
    def lengths(self) -> Tensor:
        return (self.stop - self.start).double()

    @property
    def outputs(self) -> Tensor:
        return (self.last - self.first).double()

    @cached_property
    def kinds(self) -> tuple[Tensor, Tensor]:
        """Cells of one kind have the same sides: (kinds, 4) float64, rows and columns in LR pixels, then in output
        pixels; and the kind of each cell. There are few, so costs are computed for those."""
        sides = torch.cat((self.stop - self.start, self.last - self.first), 1)
        base = int(sides.max()) + 1
        codes = ((sides[:, 0] * base + sides[:, 1]) * base + sides[:, 2]) * base + sides[:, 3]
        codes, kind = codes.unique(return_inverse=True)
        columns = [codes // base**power % base for power in (3, 2, 1, 0)]
        return torch.stack(columns, 1).double(), kind

    def inside(self, core: Box) -> Tensor:
        """(n,) bool: cells that belong to the core of the tile."""
        y, x = self.start.unbind(1)
        return (core[0] <= y) & (y < core[2]) & (core[1] <= x) & (x < core[3])

    def positions(self, mask: Tensor) -> int:
        """Rows and columns of output pixels that the cells of `mask` have, each counted once."""
        total = 0
        for lengths, line in self._lines:
            seen = torch.zeros(len(lengths), dtype=torch.bool)
            seen[line[mask]] = True
            total += int(lengths[seen].sum())
        return total

    @cached_property
    def _lines(self) -> list[tuple[Tensor, Tensor]]:
        """For each axis: the lengths of the rows (columns) of cells in output pixels, and in which one each cell is."""
        found = []
        for axis in (0, 1):
            starts, line = self.first[:, axis].unique(return_inverse=True)
            lengths = torch.zeros_like(starts).index_copy_(0, line, self.last[:, axis] - self.first[:, axis])
            found.append((lengths, line))
        return found


def cut(frame: Frame, tile: Size, patch: int, out: Size) -> Cells:
    """Cut a tile that lies at `frame` where the whole image is cut: at multiples of `patch`. Copies of pixels, beyond
    the borders of a 360° image, are cut as the originals are."""
    (height, width), (oy, ox), half = frame.size, frame.origin, frame.size[1] // 2

    def line(axis: int, spans: Iterable[tuple[int, int, int]]) -> Tensor:
        """(patch, start, stop, first, last) of each span of an axis."""
        n, target = frame.size[axis], out[axis]
        rows = [(k, a, b, first_output(a, n, target), first_output(b, n, target)) for k, a, b in spans]
        return torch.tensor(rows, dtype=torch.int64).view(-1, 5)

    here = line(1, _spans(ox, ox + tile[1], patch, width))
    turned = ((j, a - half, b - half) for j, a, b in _spans(ox + half, ox + tile[1] + half, patch, width))
    rows = line(0, _spans(oy, oy + tile[0], patch, height, poles=True))
    over = rows[:, 1].div(height, rounding_mode="floor") % 2 == 1
    if bool(over.any()):
        beyond = line(1, turned)
        cells = torch.cat([_crossed(row[None], beyond if pole else here) for row, pole in zip(rows, over, strict=True)])
    else:
        cells = _crossed(rows, here)
    index, start, stop, first, last = cells.unbind(1)
    return Cells(tile, (oy, ox), index, start, stop, first, last)


def _crossed(rows: Tensor, columns: Tensor) -> Tensor:
    """(r, 5) and (c, 5) → (r·c, 5, 2): every row with every column."""
    grid = torch.stack((rows[:, None].expand(-1, len(columns), -1), columns.expand(len(rows), -1, -1)), -1)
    return grid.reshape(-1, 5, 2)


def _spans(start: int, stop: int, patch: int, n: int, poles: bool = False) -> Iterator[tuple[int, int, int]]:
    """Pixels start..stop-1 of an axis with n LR pixels, cut: (patch, first pixel, last + 1). Beyond its ends the axis
    is repeated, or with `poles` run backwards every other time."""
    for turn in range(start // n, -(-stop // n)):
        patches = range(-(-n // patch))
        for index in reversed(patches) if poles and turn % 2 else patches:
            first, last = index * patch, min((index + 1) * patch, n)
            if poles and turn % 2:
                first, last = n - last, n - first
            first, last = max(start, turn * n + first), min(stop, turn * n + last)
            if first < last:
                yield index, first, last


class PatchRouted(nn.Module):
    """A router that looks at every patch once, and a multi-exit network that each patch leaves where it pays.

    Rules: the stem runs on the whole image; after every block a patch keeps the new features if its exit lies behind
    that block, else the ones it had; neighbours see what a patch has. The network is computed on kept patches with the
    rim that valid convolutions need; with all patches of a tile kept, on the tile in one piece.
    """

    scales: tuple[float, ...] | None = None
    survey_margin: int = 0
    wraps: bool = True

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
        """Rough working memory per LR pixel of a tile: three layers in fp32, and the canvas."""
        return 64 + 12 * self.network.channels + BYTES_PER_OUTPUT_PIXEL * scale[0] * scale[1]

    def survey(self, lr: Tensor, scale: tuple[float, float]) -> Tensor:
        """The router's word on an LR tile cut along patches: (exits, gy, gx) drop in mean squared error per exit."""
        return self.router(lr, torch.tensor([scale], device=lr.device))[0].float().square()

    def decide(self, evidence: Tensor | None, size: Size, out: Size, budget: Budget) -> Plan:
        """Solve for the exits: greatest predicted drop in squared error within the budget, on this image."""
        assert evidence is not None
        cells = cut(Frame(size), size, self.patch, out)
        shape = evidence.shape[1:]
        exits = self.network.exits
        top = torch.full((1, *shape), exits, dtype=torch.int64)
        fixed = self.router.macs(size)  # type: ignore[operator]
        whole = (0, 0, *size)
        full = self._work(cells, top.flatten(), whole, Frame(size), out)[0].total + fixed.total
        costs = self._option_costs(cells)
        area = cells.lengths.prod(1, keepdim=True)
        gain = F.pad(evidence.detach().double().cpu().flatten(1).cumsum(0), (0, 0, 1, 0)).T * area
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

            known: dict[bytes, int] = {}  # MACs of choices that were looked at: they come again and again

            def needs(choice: Tensor) -> int:
                key = choice.numpy().tobytes()
                if key not in known:
                    known[key] = self._work(cells, choice.flatten(), whole, Frame(size), out)[0].total + fixed.total
                return known[key]

            def wins(choice: Tensor) -> float:
                return float(gain.gather(1, choice.view(-1, 1)).sum())

            # Patches are priced with their rims; blocks that all patches run have none, and what that saves is
            # granted again. For the same reason raising the last few patches can cost less than leaving them.
            choice = torch.zeros_like(top)
            spent, best = needs(choice), 0.0
            reserve = sum(self.network.table_macs(level, sum(out)).total for level in range(1, exits + 1))
            low = grant = max(0.0, allowed - always - reserve)
            envelope = Envelope(gain, costs.T)
            for _ in range(REFINEMENTS):
                solution = envelope.solve(grant)
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
        decision = Decision("patch", self.patch, choice, costs.unflatten(1, shape), evidence.unsqueeze(0))
        return Plan(Effort(share=budget.allowed(full) / full, price=price), (decision,), spent, full, fixed)

    def render(self, lr: Tensor, frame: Frame, core: Box, out: Size, plan: Plan) -> Rendered:
        """Render the output pixels of `core` from a tile `lr` (1, 3, h, w) that lies at `frame`."""
        return self.render_rows(lr, frame, core, out, plan, lambda rgb, rows: None)

    @torch.no_grad()
    def render_rows(self, lr: Tensor, frame: Frame, core: Box, out: Size, plan: Plan, ready: Ready) -> Rendered:
        """The same; `ready` is told on the way which rows are there, as far as all patches go to the last exit."""
        network = self.network
        cells = cut(frame, (lr.shape[-2], lr.shape[-1]), self.patch, out)
        choice = plan.route[0].choice[0][cells.patch.unbind(1)]
        target = output_box(core, frame.size, out)
        canvas = bicubic_base(lr, frame, out, target)[0]
        picture = _Picture(cells, frame, out, target, canvas)
        inside = cells.inside(core)
        features = network.enter(repeat_edge(lr, network.stem_margin))
        if bool((choice == network.exits).all()):
            self._all_blocks(features, inside, picture, ready)
        else:
            self._blocks(features, choice, inside, picture)
        macs, lean = self._work(cells, choice, core, frame, out)
        return Rendered(canvas, macs, lean)

    def _blocks(self, features: Tensor, choice: Tensor, inside: Tensor, picture: _Picture) -> None:
        """Block after block on the patches that go on, whose exits lie behind it."""
        network, cells = self.network, picture.cells
        field = _Padded(features, network.block_margin)
        for index in range(1, network.depth + 1):
            level = network.level(index)
            active = choice >= level
            if not bool(active.any()):
                break
            if bool(active.all()):
                groups = [[box] for box in self._bands(cells.tile)]
            else:
                groups = _groups([cells.boxes[k] for k in active.nonzero().flatten().tolist()], _shape)
            fresh = [network.block(index, field.gather(group)) for group in groups]
            for group, features in zip(groups, fresh, strict=True):
                field.scatter(group, features)
            field.refresh()
            if index == network.exit_after[level - 1]:
                leaving = ((choice == level) & inside).nonzero().flatten().tolist()
                self._render_exit(level, leaving, field, picture)

    def _all_blocks(self, features: Tensor, inside: Tensor, picture: _Picture, ready: Ready) -> None:
        """Every patch through every block: band after band, each as far as blocks can see, so that upper rows of the
        picture are finished while lower ones are still to be computed."""
        network, cells, canvas = self.network, picture.cells, picture.canvas
        slope = _Slope(features, network.block_margin, network.depth)
        todo = inside.nonzero().flatten()
        stop = cells.stop[:, 0] - cells.origin[0]  # of each cell, in the tile
        first = cells.first[:, 0] - picture.target[0]
        for _, _, end, _ in self._bands(cells.tile):
            for index in range(1, network.depth + 1):
                slope.put(index, network.block(index, slope.above(index, end)))
            seen = stop[todo] + network.block_margin <= slope.done if end < cells.tile[0] else stop[todo] > 0
            leaving, todo = todo[seen], todo[~seen]
            self._render_exit(network.exits, leaving.tolist(), slope.field, picture)
            ready(canvas, int(first[todo].min()) if len(todo) else canvas.shape[1])

    def _bands(self, tile: Size) -> list[Box]:
        """Of BAND rows each, or as many as a first band needs so that one is left for the last block."""
        band = max(BAND, self.network.block_margin * self.network.depth + 1)
        return [(y, 0, min(y + band, tile[0]), tile[1]) for y in range(0, tile[0], band)]

    def _render_exit(self, level: int, leaving: list[int], field: _Padded, picture: _Picture) -> None:
        """Add the residual of exit `level` to the output pixels of the cells that leave there."""
        network, cells, frame = self.network, picture.cells, picture.frame
        out, target, canvas, tables = picture.out, picture.target, picture.canvas, picture.tables

        def table(axis: int, start: int, stop: int, first: int, last: int) -> Tensor:
            span = (level, axis, first, last)
            if span not in tables:
                n, size, goes_on = frame.size[axis], out[axis], frame.goes_on[axis]
                tables[span] = network.table(level, first, last, n, size, start - 1, stop - start + 2, goes_on)
            return tables[span]

        spans = torch.stack((cells.start, cells.stop, cells.first, cells.last), -1)[leaving].tolist()
        parts = [
            (cells.boxes[k], table(0, *rows), table(1, *columns), rows[2] - target[0], columns[2] - target[1])
            for k, (rows, columns) in zip(leaving, spans, strict=True)
        ]
        for group in _groups(parts, lambda part: (_shape(part[0]), len(part[1]), len(part[2]))):
            boxes, rows, columns, ys, xs = zip(*group, strict=True)
            coefficients = network.coefficients(level, field.gather(boxes))
            residual = network.render(level, coefficients, torch.stack(rows), torch.stack(columns))
            for y, x, block in zip(ys, xs, residual, strict=True):
                canvas[:, y : y + block.shape[-2], x : x + block.shape[-1]] += block

    # --- what it costs ------------------------------------------------------------------------------------------------

    def full_macs(self, frame: Frame, tile: Size, core: Box, out: Size) -> int:
        """MACs of one tile with every patch at the last exit, the router left out."""
        cells = cut(frame, tile, self.patch, out)
        top = torch.full((len(cells.boxes),), self.network.exits)
        return self._work(cells, top, core, frame, out)[0].total

    def planned_macs(self, frame: Frame, tile: Size, core: Box, out: Size, plan: Plan) -> int:
        """MACs that `render` will run on a tile."""
        cells = cut(frame, tile, self.patch, out)
        return self._work(cells, plan.route[0].choice[0][cells.patch.unbind(1)], core, frame, out)[0].total

    def _always(self, size: Size, out: Size) -> Macs:
        return self.network.stem_macs(*size) + _base(Frame(size), out, (0, 0, *out))

    def _option_costs(self, cells: Cells) -> Tensor:
        """(exits + 1, n) float64: MACs of each exit of each patch with its rims; exit 0 is free."""
        network, (sides, kind) = self.network, cells.kinds
        h, w, hq, wq = sides.unbind(1)
        block = torch.as_tensor(network.block_macs(h, w).total)
        options = [torch.zeros_like(h * w)]
        for level, after in enumerate(network.exit_after, 1):
            head = network.head_macs(level, h, w) + network.render_macs(level, (h, w), (hq, wq))
            options.append(block * after + head.total)
        return torch.stack(options)[:, kind]

    def _work(self, cells: Cells, choice: Tensor, core: Box, frame: Frame, out: Size) -> tuple[Macs, int]:
        """MACs that `render` runs on a tile, and those without rims of patches and context of the tile."""
        network, (height, width) = self.network, cells.tile
        (sides, kind), inside = cells.kinds, cells.inside(core)
        h, w, hq, wq = sides.unbind(1)
        exits = network.exits + 1
        cell = (kind * exits + choice) * 2 + inside
        counts = cell.bincount(minlength=len(sides) * exits * 2).view(len(sides), exits, 2)
        core_size = (core[2] - core[0], core[3] - core[1])
        base = _base(frame, out, output_box(core, frame.size, out))
        work, lean = network.stem_macs(height, width) + base, (network.stem_macs(*core_size) + base).total
        for index in range(1, network.depth + 1):
            active = counts[:, network.level(index) :].sum(1)
            if int(active.sum()) == len(kind):
                rows = torch.tensor([y1 - y0 for y0, _, y1, _ in self._bands(cells.tile)])
                work += _sum(network.block_macs(rows, width), torch.ones_like(rows))
            else:
                work += _sum(network.block_macs(h, w), active.sum(1))
            lean += _sum(network.lean_block_macs(h, w), active[:, 1]).total
        for level in range(1, network.exits + 1):
            leaving = counts[:, level, 1]
            if not bool(leaving.any()):
                continue
            work += _sum(network.head_macs(level, h, w) + network.render_macs(level, (h, w), (hq, wq)), leaving)
            lean += _sum(
                network.lean_head_macs(level, h, w) + network.render_macs(level, (h, w), (hq, wq)), leaving
            ).total
            tables = network.table_macs(level, cells.positions((choice == level) & inside))
            work += tables
            lean += tables.total
        return work, lean


@dataclass(frozen=True)
class _Picture:
    """What a tile becomes: its cells, and the `canvas` (3, H, W) of the output pixels `target`.

    `tables`: kernels for a span of an axis, by exit, axis, and first and last output pixel; each is computed once."""

    cells: Cells
    frame: Frame
    out: Size
    target: Box
    canvas: Tensor
    tables: dict[tuple[int, int, int, int], Tensor] = field(default_factory=dict)


class _Padded:
    """Features of a tile (1, c, h, w) kept with their edge repeated `margin` times on every side."""

    def __init__(self, features: Tensor, margin: int) -> None:
        m = self.margin = margin
        b, c, h, w = features.shape
        self.buffer = torch.empty(
            (b, c, h + 2 * m, w + 2 * m),
            dtype=features.dtype,
            device=features.device,
            memory_format=torch.channels_last,
        )
        self.buffer[..., m:-m, m:-m] = features
        self.refresh()

    def refresh(self) -> None:
        """Repeat the edge into the margin again."""
        fill_edge(self.buffer, self.margin)

    def gather(self, boxes: Sequence[Box]) -> Tensor:
        """Boxes of one shape with their margin: (boxes, c, h + 2m, w + 2m); of a single one a view."""
        m, (h, w) = 2 * self.margin, _shape(boxes[0])
        if len(boxes) == 1:
            y0, x0, y1, x1 = boxes[0]
            return self.buffer[..., y0 : y1 + m, x0 : x1 + m]
        width = self.buffer.shape[-1]
        corner = torch.tensor([y0 * width + x0 for y0, x0, _, _ in boxes]).view(-1, 1, 1)
        index = corner + torch.arange(h + m).view(-1, 1) * width + torch.arange(w + m)
        pixels = self.buffer[0].permute(1, 2, 0).flatten(0, 1)  # one row each, all channels
        picked = pixels.index_select(0, index.flatten().to(pixels.device))
        return picked.view(len(boxes), h + m, w + m, -1).permute(0, 3, 1, 2)

    def scatter(self, boxes: Sequence[Box], features: Tensor) -> None:
        m = self.margin
        for (y0, x0, y1, x1), piece in zip(boxes, features, strict=True):
            self.buffer[0, :, y0 + m : y1 + m, x0 + m : x1 + m] = piece


class _Slope:
    """Features of a tile (1, c, h, w) on their way through `depth` blocks, each of which sees `margin` pixels further.

    A block can go as far down as the one before it, less the margin. Each stores its rows `margin` higher than that
    one: over rows of it that no one will ask for any more, so one buffer holds them all, and behind the last block it
    is what `_Padded` holds.
    """

    def __init__(self, features: Tensor, margin: int, depth: int) -> None:
        self.margin, self.depth = margin, depth
        b, c, h, w = features.shape
        self.height = h
        shape = (b, c, h + margin * (depth + 2), w + 2 * margin)
        like = {"dtype": features.dtype, "device": features.device, "memory_format": torch.channels_last}
        self.buffer = torch.empty(shape, **like)
        self._done = [0] * (depth + 1)  # rows behind each block; 0: those of the stem
        self.put(0, features)

    @property
    def done(self) -> int:
        """Rows behind the last block."""
        return self._done[-1]

    @property
    def field(self) -> _Padded:
        """What is behind the last block."""
        field = object.__new__(_Padded)
        field.margin, field.buffer = self.margin, self.buffer[..., : self.height + 2 * self.margin, :]
        return field

    def above(self, block: int, end: int) -> Tensor:
        """What `block` (1-based) sees for its next rows, in the band of the stem's rows that stops at `end`."""
        start, stop = self._done[block], end if end == self.height else end - self.margin * block
        at = self._row(block, start)
        return self.buffer[..., at : at + stop - start + 2 * self.margin, :]

    def put(self, block: int, rows: Tensor) -> None:
        """The next rows behind `block`, and their edges."""
        m, start = self.margin, self._done[block]
        stop = self._done[block] = start + rows.shape[-2]
        first, last = self._row(block, start), self._row(block, stop)
        here = self.buffer[..., first:last, :]
        here[..., m:-m] = rows
        here[..., :m], here[..., -m:] = here[..., m : m + 1], here[..., -m - 1 : -m]
        if start == 0:
            self.buffer[..., first - m : first, :] = here[..., :1, :]
        if stop == self.height:
            self.buffer[..., last : last + m, :] = here[..., -1:, :]

    def _row(self, block: int, row: int) -> int:
        """Where in the buffer `row` behind `block` lies, and above it the margin: where the margin of what that block
        sees for it begins."""
        return row + self.margin * (self.depth - block + 1)


def _groups(patches: list[Any], kind: Any) -> list[list[Any]]:
    """Patches of one kind together, at most CHUNK at a time."""
    by_kind: dict[Any, list[Any]] = defaultdict(list)
    for patch in patches:
        by_kind[kind(patch)].append(patch)
    return [group[k : k + CHUNK] for group in by_kind.values() for k in range(0, len(group), CHUNK)]


def _shape(box: Box) -> Size:
    return box[2] - box[0], box[3] - box[1]


def _sum(macs: Macs, counts: Tensor) -> Macs:
    """Macs whose fields are (n,) tensors, each taken as often as `counts` says, summed."""
    return Macs(**{name: int((torch.as_tensor(value) * counts).sum()) for name, value in macs.as_dict().items()})


def _base(frame: Frame, out: Size, target: Box) -> Macs:
    return Macs(matmul=base_macs(frame, out, target))
