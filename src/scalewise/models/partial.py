"""PartialModel: a model with one level of effort, run where it pays; the rest of the picture is bicubic.

No training is needed. How much a cell of the picture gains is read off the picture itself: where it loses detail when
it is reduced and enlarged again, a network has detail to restore; its square stands for the squared error, unless what
the model gains was measured. The cells of greatest gain are joined into rectangles
(`routing/rectangles.py`), and the model runs on those, with a margin around each.

Three things keep the borders from being seen. What the model adds to bicubic fades out towards cells that are left to
bicubic. Rectangles that touch fade into each other. And the low frequencies are locked: the mean of what the model
adds, cell by cell, is taken off again, so that a model that shifts tone does not draw the border of its cells.
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
from scalewise.geometry.grid import Box, Frame, Size, output_box
from scalewise.geometry.resize import BASE_REACH, base_macs, bicubic_base, imresize
from scalewise.models.blend import CELL, FADE, Fade, Part, meet, pixels_of
from scalewise.models.model import Model, ModelLimits, Rendered, RoutePlan, kinds
from scalewise.routing.rectangles import Cells

RIM = 2 * CELL  # LR pixels beyond a tile whose cells say how its own fade and what their tone is
JOINT_MARGIN = 2  # LR pixels, at least, that a rectangle reads of another that it touches
CALL_MACS = 1e8  # that could be computed in the time that a network takes to start on a rectangle, and to join it ...
CALL_PIXELS = 800.0  # ... and the most LR pixels that this stands for: small pictures have choices too
SEARCHES = 16  # prices that are tried, each halving the span of the logarithm
CORRECTIONS = 6  # plans that are tried, as rectangles cost something else than their pixels
FILLINGS = 64  # rectangles that are tried for what the best price leaves of the budget
LOWEST_PRICE = 1e-9  # over the highest

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
            choice, spent, worth = torch.zeros_like(choice), 0, 0.0
            for _ in range(CORRECTIONS):
                tried = _best_within(cells, gain, granted, self.model.limits.window_multiple)
                cost, gained = self._cost(frame, size, whole, out, tried), float(gain[tried].sum())
                if cost <= allowed and gained > worth:
                    choice, spent, worth = tried, cost, gained
                if 0.99 * allowed <= cost <= allowed:
                    break
                granted *= 0.995 * allowed / max(cost, allowed / 2)
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
        return sum(self._part_macs(frame.size, part, out) for part in self._parts(frame, tile, core, taken))

    def _part_macs(self, size: Size, part: Part, out: Size) -> int:
        y0, x0, y1, x1 = part.source
        return self.model.full_macs(Frame(size, part.box[:2]), (y1 - y0, x1 - x0), part.box, out)

    def _parts(self, frame: Frame, tile: Size, core: Box, taken: Tensor) -> list[Part]:
        """What runs in a tile."""
        limits, cells = self.model.limits, self.cells(frame.size)
        reach = MARGINS if limits.context is None else limits.context
        joint = min(JOINT_MARGIN, reach)
        region, found = _region(core, frame.size), []
        for box in _cover(cells, taken):
            whole = cells.pixels(box)
            part = meet(whole, region)
            if part[0] >= part[2] or part[1] >= part[3]:
                continue
            joins = _joins(box, taken)
            # At the picture's border the model sees its reflection, however small the margin is.
            borders = whole[0] == 0, whole[1] == 0, whole[2] == frame.size[0], whole[3] == frame.size[1]
            margins = [
                max(cells.margin, joint * joined, frame.mirrored * border)
                for joined, border in zip(joins, borders, strict=True)
            ]
            source = []
            for axis in (0, 1):
                start = max(whole[axis] - margins[axis], part[axis] - reach, frame.origin[axis])
                source.append(start // limits.window_multiple * limits.window_multiple)
            for axis in (0, 1):
                end = frame.origin[axis] + tile[axis]
                stop = min(whole[axis + 2] + margins[axis + 2], part[axis + 2] + reach)
                read = -(-(stop - source[axis]) // limits.window_multiple) * limits.window_multiple
                source.append(min(source[axis] + read, end))
            top, left, bottom, right = (min(FADE, joint) * joined for joined in joins)
            around = whole[0] - top, whole[1] - left, whole[2] + bottom, whole[3] + right
            found.append(Part(part, whole, around, meet(around, region), (source[0], source[1], source[2], source[3])))
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
        fade = Fade(taken, size, out, region, window)
        macs, lean = Macs(sampling=base_macs(frame, out, window)), 0
        added, weights = [], canvas.new_zeros(canvas.shape[-2:])
        for part in self._parts(frame, tile, core, taken):
            (oy, ox), (y0, x0, y1, x1) = frame.origin, part.source
            seen = lr[..., y0 - oy : y1 - oy, x0 - ox : x1 - ox]
            rendered = self.model.render(seen, replace(frame, origin=(y0, x0)), part.box, out, inner)
            place, own = output_box(part.box, size, out), output_box(part.own, size, out)
            here = rendered.rgb.float() - canvas[pixels_of(place, window)]
            fade.see(here[pixels_of(own, place)], part.own, own)
            weight = part.weight(place, size, out).to(here)
            weights[pixels_of(place, window)] += weight
            added.append((here, weight, place))
            macs, lean = macs + rendered.macs, lean + rendered.lean
        for here, weight, place in added:
            share = weight / weights[pixels_of(place, window)].clamp_min(1e-6)
            canvas[pixels_of(place, window)] += fade.apply(here, place) * share
        return Rendered(canvas[pixels_of(target, window)], macs, lean)


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


def _joins(box: Box, taken: Tensor) -> tuple[bool, bool, bool, bool]:
    """Whether another cell of `taken` lies at the top, left, bottom, right of a rectangle of cells."""
    y0, x0, y1, x1 = box
    sides = (
        taken[y0 - 1 : y0, x0:x1] if y0 else taken[:0],
        taken[y0:y1, x0 - 1 : x0] if x0 else taken[:0],
        taken[y1 : y1 + 1, x0:x1],
        taken[y0:y1, x1 : x1 + 1],
    )
    top, left, bottom, right = (bool(side.any()) for side in sides)
    return top, left, bottom, right


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
