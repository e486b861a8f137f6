"""PartialModel: a model with one level of effort, run where it pays; the rest of the picture is bicubic.

No training is needed. How much a cell of the picture gains is read off the picture itself: where it loses detail when
it is reduced and enlarged again, a network has detail to restore; its square stands for the squared error, unless what
the model gains was measured. The cells of greatest gain are joined into rectangles
(`routing/rectangles.py`), and the model runs on those, with a margin around each.

Two things keep the borders from being seen. What the model adds to bicubic fades out towards cells that are left to
bicubic. And its low frequencies are locked: the mean of what it adds, cell by cell, is taken off again, so that a model
that shifts tone does not draw the border of its cells.
"""

from __future__ import annotations

from collections import deque
from collections.abc import MutableMapping
from dataclasses import replace
from functools import lru_cache
from math import lcm
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from scalewise.budget.budget import Budget, Effort
from scalewise.budget.cost import Macs
from scalewise.budget.route import Decision
from scalewise.geometry.grid import Box, Frame, Size, first_output, output_box
from scalewise.geometry.resize import base_macs, bicubic_base, imresize, resample
from scalewise.models.model import Model, ModelLimits, Rendered, RoutePlan, kinds
from scalewise.routing.rectangles import Cells

CELL = 8  # LR pixels a side of what is decided about
RIM = 2 * CELL  # LR pixels beyond a tile whose cells say how its own fade and what their tone is
FADE = 2  # LR pixels over which a cell fades into bicubic
CALL_MACS = 1e8  # that could be computed in the time that a network takes to start on a rectangle, and to join it ...
CALL_PIXELS = 800.0  # ... and the most LR pixels that this stands for: small pictures have choices too
SEARCHES = 16  # prices that are tried, each halving the span of the logarithm
CORRECTIONS = 4  # plans that are tried where rectangles cost more than their pixels
FILLINGS = 64  # rectangles that are tried for what the best price leaves of the budget
LOWEST_PRICE = 1e-9  # over the highest
BASE_REACH = 3  # LR pixels under the taps of bicubic

MARGINS = 16  # LR pixels; the largest margin that is considered
MARGIN_SHARE = 0.5  # error at the cut over what the model adds to bicubic, at the end of the margin
PROBE_SIDE = 64  # LR pixels of the part that is compared


class PartialModel(Model):
    """`model`, which has one level of effort, on some cells of the picture, and bicubic on the others.

    At full budget it is `model` itself. A 360° picture is enlarged as a flat one.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    @property
    def limits(self) -> ModelLimits:
        own = self.model.limits
        context = None if own.context is None else max(own.context, BASE_REACH) + RIM
        grid = lcm(own.patch_stride, CELL)
        return replace(own, context=context, patch_stride=grid, score_margin=0, wraps=False, levels="cells")

    def bytes_per_pixel(self, scale: tuple[float, float]) -> float:
        return self.model.bytes_per_pixel(scale)

    def score(self, lr: Tensor, scale: tuple[float, float]) -> Tensor:
        """(1, gy, gx): mean absolute difference of each cell and itself reduced by 2 and enlarged again."""
        height, width = lr.shape[-2:]
        small = imresize(lr[0].float(), (-(-height // 2), -(-width // 2)))
        lost = (lr[0] - imresize(small, (height, width))).abs().mean(0)
        cells = Cells((height, width), CELL, 0)
        return (cells.sums(lost).cpu() / cells.areas()).unsqueeze(0)

    def cells(self, size: Size) -> Cells:
        area = PROBE_SIDE**2
        scale = 4 if (own := self.model.limits.scales) is None else round(max(own))
        probe, out = (PROBE_SIDE, PROBE_SIDE), (PROBE_SIDE * scale, PROBE_SIDE * scale)
        macs = self.model.full_macs(Frame(probe), probe, (0, 0, *probe), out)
        overhead = min(CALL_PIXELS, CALL_MACS * area / max(macs, 1))
        return Cells(size, CELL, effective_margin(self.model), overhead)

    def plan(self, evidence: Tensor | None, size: Size, out: Size, budget: Budget) -> RoutePlan:
        """The cells of greatest gain within the budget, the margins of their rectangles included."""
        assert evidence is not None
        inner = self.model.plan(None, size, out, Budget.full())
        full = inner.macs_full
        budget.dial_of()
        allowed = budget.allowed(full)
        cells, frame, whole = self.cells(size), Frame(size), (0, 0, *size)
        choice = torch.ones(cells.shape, dtype=torch.bool)
        spent = full
        if allowed < full:
            curve = self.model.gains
            gain = (evidence[0].double().square() if curve is None else curve.at(evidence[0])) * cells.areas()
            granted = allowed / full * size[0] * size[1]
            for _ in range(CORRECTIONS):
                choice = _best_within(cells, gain, granted, self.model.limits.window_multiple)
                spent = self._cost(frame, size, whole, out, choice)
                if spent <= allowed:
                    break
                granted *= 0.99 * allowed / spent
            else:
                choice, spent = torch.zeros_like(choice), 0
        each = torch.stack((torch.zeros(cells.shape, dtype=torch.float64), cells.areas() * full / (size[0] * size[1])))
        decision = Decision("patch", CELL, choice.long().unsqueeze(0), each, evidence)
        return RoutePlan(Effort(share=allowed / full), (decision,), spent, full)

    def fits(self, plan: RoutePlan, size: Size) -> bool:
        """True if a stored plan says of each cell of an image of `size` whether the model runs there."""
        return kinds(plan.route) == [("patch", CELL, (-(-size[0] // CELL), -(-size[1] // CELL)), 2)]

    def full_macs(self, frame: Frame, tile: Size, core: Box, out: Size) -> int:
        return self.model.full_macs(frame, tile, core, out)

    def planned_macs(self, frame: Frame, tile: Size, core: Box, out: Size, plan: RoutePlan) -> int:
        return self._cost(frame, tile, core, out, _taken(plan))

    def _cost(self, frame: Frame, tile: Size, core: Box, out: Size, taken: Tensor) -> int:
        if bool(taken.all()):
            return self.model.full_macs(frame, tile, core, out)
        return sum(
            self._part_macs(frame.size, (source[2] - source[0], source[3] - source[1]), box, out)
            for box, source in self._parts(frame, tile, core, taken)
        )

    def _part_macs(self, size: Size, read: Size, box: Box, out: Size) -> int:
        return self.model.full_macs(Frame(size, box[:2]), read, box, out)

    def _parts(self, frame: Frame, tile: Size, core: Box, taken: Tensor) -> list[tuple[Box, Box]]:
        """What runs in a tile: (LR pixels that are rendered, LR pixels that are read for them)."""
        limits, cells = self.model.limits, self.cells(frame.size)
        reach = MARGINS if limits.context is None else limits.context
        region, found = _region(core, frame.size), []
        for box in _cover(cells, taken):
            whole = cells.pixels(box)
            part = _meet(whole, region)
            if part[0] >= part[2] or part[1] >= part[3]:
                continue
            source = []
            # At the picture's border the model sees its reflection, however small the margin is.
            for axis in (0, 1):
                margin = cells.margin if whole[axis] else max(cells.margin, frame.mirrored)
                start = max(whole[axis] - margin, part[axis] - reach, frame.origin[axis])
                source.append(start // limits.window_multiple * limits.window_multiple)
            for axis in (0, 1):
                end = frame.origin[axis] + tile[axis]
                margin = cells.margin if whole[axis + 2] < frame.size[axis] else max(cells.margin, frame.mirrored)
                stop = min(whole[axis + 2] + margin, part[axis + 2] + reach)
                read = -(-(stop - source[axis]) // limits.window_multiple) * limits.window_multiple
                source.append(min(source[axis] + read, end))
            found.append((part, (source[0], source[1], source[2], source[3])))
        return found

    @torch.no_grad()
    def render(self, lr: Tensor, frame: Frame, core: Box, out: Size, plan: RoutePlan) -> Rendered:
        """Render the output pixels of `core` from a tile `lr` (1, 3, h, w) that lies at `frame`."""
        taken, tile, size = _taken(plan), (lr.shape[-2], lr.shape[-1]), frame.size
        inner = self.model.plan(None, size, out, Budget.full())
        if bool(taken.all()):
            return self.model.render(lr, frame, core, out, inner)
        region = _region(core, size)
        window, target = output_box(region, size, out), output_box(core, size, out)
        canvas = bicubic_base(lr, frame, out, window)[0]
        fade = _Fade(taken, size, out, region, window)
        macs, lean = Macs(sampling=base_macs(frame, out, window)), 0
        added = []
        for box, source in self._parts(frame, tile, core, taken):
            (oy, ox), (y0, x0, y1, x1) = frame.origin, source
            part = lr[..., y0 - oy : y1 - oy, x0 - ox : x1 - ox]
            rendered = self.model.render(part, replace(frame, origin=(y0, x0)), box, out, inner)
            place = output_box(box, size, out)
            here = rendered.rgb.float() - canvas[_inside(place, window)]
            fade.see(here, box, place)
            added.append((here, place))
            macs, lean = macs + rendered.macs, lean + rendered.lean
        for here, place in added:
            canvas[_inside(place, window)] += fade.apply(here, place)
        return Rendered(canvas[_inside(target, window)], macs, lean)


def _best_within(cells: Cells, gain: Tensor, granted: float, unit: int) -> Tensor:
    """(gy, gx) bool: the cells of the greatest gain whose rectangles read no more than `granted` LR pixels, in
    multiples of `unit`."""
    choices = cells.choices(gain)
    high = float(gain.max()) + 1e-30
    low = high * LOWEST_PRICE
    best: list[Box] = []
    spent, too_much = 0, choices.best(low)
    for _ in range(SEARCHES):
        price = (low * high) ** 0.5
        rectangles = choices.best(price)
        pixels = sum(cells.read(box, unit) for box in rectangles)
        if pixels > granted:
            low, too_much = price, rectangles
            continue
        high = price
        if pixels > spent:
            best, spent = rectangles, pixels
    taken = _with(torch.zeros(cells.shape, dtype=torch.bool), *best)
    # What is left buys rectangles that the next lower price would have brought, or halves of them.
    pending = deque(sorted(too_much, key=lambda box: -float(gain[box[0] : box[2], box[1] : box[3]].mean())))
    for _ in range(FILLINGS):
        if not pending:
            break
        box = pending.popleft()
        if bool(taken[box[0] : box[2], box[1] : box[3]].all()):
            continue
        if spent + (pixels := cells.read(box, unit)) <= granted:
            taken, spent = _with(taken, box), spent + pixels
        else:
            pending.extendleft(_halves(box))
    return taken


def _with(taken: Tensor, *rectangles: Box) -> Tensor:
    """`taken` (gy, gx) and the cells of some rectangles."""
    taken = taken.clone()
    for top, left, bottom, right in rectangles:
        taken[top:bottom, left:right] = True
    return taken


def _halves(box: Box) -> tuple[Box, ...]:
    """A rectangle of cells cut across its longer side; none of a single cell."""
    (y0, x0, y1, x1), rows, columns = box, box[2] - box[0], box[3] - box[1]
    if rows * columns == 1:
        return ()
    if rows >= columns:
        return (y0 + rows // 2, x0, y1, x1), (y0, x0, y0 + rows // 2, x1)
    return (y0, x0 + columns // 2, y1, x1), (y0, x0, y1, x0 + columns // 2)


def _taken(plan: RoutePlan) -> Tensor:
    """(gy, gx) bool: the cells on which the model runs."""
    return plan.route[0].choice[0] > 0


def _region(core: Box, size: Size) -> Box:
    """The whole cells within a rim of a core, in LR pixels."""
    return (
        max(0, core[0] // CELL - 1) * CELL,
        max(0, core[1] // CELL - 1) * CELL,
        min((-(-core[2] // CELL) + 1) * CELL, size[0]),
        min((-(-core[3] // CELL) + 1) * CELL, size[1]),
    )


def _cover(cells: Cells, taken: Tensor) -> tuple[Box, ...]:
    return _known_cover(cells, taken.shape[0], taken.shape[1], taken.numpy().tobytes())


@lru_cache(maxsize=8)
def _known_cover(cells: Cells, rows: int, columns: int, taken: bytes) -> tuple[Box, ...]:
    """Every tile asks for the rectangles of the whole picture."""
    return tuple(cells.cover(torch.frombuffer(bytearray(taken), dtype=torch.bool).view(rows, columns)))


def _meet(a: Box, b: Box) -> Box:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _inside(box: Box, window: Box) -> tuple[Any, ...]:
    """The pixels of a box, in a canvas that shows a window."""
    rows, columns = slice(box[0] - window[0], box[2] - window[0]), slice(box[1] - window[1], box[3] - window[1])
    return ..., rows, columns


class _Fade:
    """How what the model adds to bicubic loses its tone, and fades out where it ends.

    `taken` are the cells of the picture on which the model runs, `region` the LR pixels and `window` the output pixels
    of those that are looked at.
    """

    def __init__(self, taken: Tensor, size: Size, out: Size, region: Box, window: Box) -> None:
        self.first = region[0] // CELL, region[1] // CELL
        last = -(-region[2] // CELL), -(-region[3] // CELL)
        self.here = taken[self.first[0] : last[0], self.first[1] : last[1]].float()
        self.size, self.out, self.window = size, out, window
        self.tone = self.here.new_zeros(3, *self.here.shape)

    def see(self, added: Tensor, box: Box, place: Box) -> None:
        """Take the mean of each cell of a part: (3, H, W) at the output pixels `place`, LR pixels `box`."""
        sums, starts, stops = added, [], []
        for axis in (0, 1):
            length, out = self.size[axis], self.out[axis]
            cells = range(box[axis] // CELL, -(-box[axis + 2] // CELL))
            edges = [first_output(min(k * CELL, length), length, out) for k in (*cells, cells.stop)]
            counts = torch.tensor(edges).diff()
            index = torch.repeat_interleave(torch.arange(len(cells)), counts).to(added.device)
            shape = (3, len(cells), sums.shape[2]) if axis == 0 else (3, sums.shape[1], len(cells))
            sums = sums.new_zeros(shape).index_add_(axis + 1, index, sums)
            sums /= counts.clamp_min(1).to(sums).view(*((-1, 1) if axis == 0 else (-1,)))
            starts.append(cells.start - self.first[axis])
            stops.append(cells.stop - self.first[axis])
        self.tone[:, starts[0] : stops[0], starts[1] : stops[1]] = sums.cpu()

    def apply(self, added: Tensor, place: Box) -> Tensor:
        """`added` at the output pixels `place` without its tone, times how far it counts."""
        tone = self._between(torch.cat((self.tone, self.here[None])), place, linear=True).to(added)
        weight = (2 * self._between(self.here[None], place, linear=False) - 1).clamp_(0, 1).to(added)
        return (added - tone[:3] / tone[3].clamp_min(1e-6)) * weight

    def _between(self, cells: Tensor, place: Box, *, linear: bool) -> Tensor:
        """Values of cells (n, gy, gx) at output pixels: linear from centre to centre, or a step with a ramp of FADE LR
        pixels on each side of the border."""
        taps = []
        for axis, count in enumerate(cells.shape[1:]):
            j = torch.arange(place[axis], place[axis + 2], dtype=torch.float64) + 0.5
            centre = j * self.size[axis] / (self.out[axis] * CELL) - 0.5 - self.first[axis]
            lower = centre.floor()
            way = centre - lower if linear else ((centre - lower - 0.5) * CELL / (2 * FADE) + 0.5).clamp(0, 1)
            index = torch.stack((lower, lower + 1), 1).clamp(0, count - 1).long()
            taps.append((index, torch.stack((1 - way, way), 1)))
        return resample(cells, taps[0], taps[1])


_MARGINS: MutableMapping[Any, int] = WeakKeyDictionary()


def effective_margin(model: Model) -> int:
    """LR pixels around a rectangle after which the cut is no longer felt: the error that it makes there is half of
    what the model adds to bicubic, and fades out with the border. Measured once for each model, on a picture with the
    spectrum of photos."""
    if model not in _MARGINS:
        _MARGINS[model] = _measured_margin(model)
    return _MARGINS[model]


@torch.no_grad()
def _measured_margin(model: Model) -> int:
    limits = model.limits
    most = MARGINS if limits.context is None else min(MARGINS, limits.context)
    unit = lcm(limits.window_multiple, limits.patch_stride)
    rim, side = -(-MARGINS // unit) * unit, -(-PROBE_SIDE // unit) * unit
    size = (side + 2 * rim, side + 2 * rim)
    factor = 4 if limits.scales is None else round(max(limits.scales))
    out = (size[0] * factor, size[1] * factor)
    device = next((p.device for p in getattr(model, "parameters", lambda: iter(()))()), torch.device("cpu"))
    lr = photo_like(size).unsqueeze(0).to(device)
    core = (rim, rim, rim + side, rim + side)
    plan = model.plan(None, size, out, Budget.full())
    whole = model.render(lr, Frame(size), core, out, plan).rgb.float()
    cut = lr[..., rim : rim + side, rim : rim + side]
    alone = model.render(cut, Frame(size, (rim, rim)), core, out, plan).rgb.float()
    adds = (whole - bicubic_base(lr, Frame(size), out, output_box(core, size, out))[0]).square().mean()
    error = (whole - alone).square().mean(0)
    for margin in range(most):
        ring = error[margin * factor : -margin * factor or None, margin * factor : -margin * factor or None]
        if float(torch.cat((ring[:factor].flatten(), ring[:, :factor].flatten())).mean()) <= MARGIN_SHARE**2 * adds:
            return -(-margin // limits.window_multiple) * limits.window_multiple
    return most


@lru_cache(maxsize=4)
def photo_like(size: Size) -> Tensor:
    """(3, h, w) in [0, 1]: seeded noise whose amplitude falls with frequency, as that of photos does."""
    noise = torch.fft.rfft2(torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) - 0.5)
    rows, columns = torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1])
    falling = 1 / (rows.square() + columns.square()).sqrt().clamp_min(1 / max(size))
    picture = torch.fft.irfft2(noise * falling, s=size)
    return (0.5 + picture / (6 * picture.std())).clamp(0, 1)
