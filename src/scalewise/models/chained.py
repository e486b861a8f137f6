"""Chained: one model on what another one made: a restoration before an enlargement, or a second pass."""

from __future__ import annotations

from dataclasses import replace
from math import gcd, lcm

from torch import Tensor, nn

from scalewise.budget.budget import Budget
from scalewise.errors import UnsupportedScale
from scalewise.geometry.grid import Box, Frame, Size, inside, output_box
from scalewise.geometry.projection import reflected
from scalewise.models.model import Model, ModelLimits, Rendered, RoutePlan, below_floor


class Chained(nn.Module, Model):
    """`second` on the output of `first`, which runs at its own whole scale.

    After a first model of scale 1 the second one spends what a budget leaves; it looks at the picture before the first
    one. With a larger first scale the pair has one level of effort. Raises UnsupportedScale for a first model without a
    scale of its own.
    """

    def __init__(self, first: Model, second: Model) -> None:
        super().__init__()
        scales = first.limits.scales
        if scales is None:
            raise UnsupportedScale("the first of two models must have a scale of its own; this one has any")
        self.first, self.second, self.scale = first, second, round(max(scales))
        self.gains = second.gains if self.scale == 1 else None

    @property
    def limits(self) -> ModelLimits:
        first, second, s = self.first.limits, self.second.limits, self.scale
        context = None
        if first.context is not None and second.context is not None:
            context = first.context + -(-second.context // s) + self._step
        return replace(
            second,
            scales=None if second.scales is None else tuple(s * own for own in second.scales),
            context=context,
            patch_stride=lcm(first.patch_stride, second.patch_stride // gcd(second.patch_stride, s)),
            window_multiple=lcm(first.window_multiple, self._step),
            wraps=first.wraps and second.wraps,
            levels=second.levels if s == 1 else "one",
            border=max(first.border, -(-second.border // s)),
            notes=tuple(dict.fromkeys((*first.notes, *second.notes))),
        )

    @property
    def _step(self) -> int:
        """LR pixels whose multiples are where the second one's windows may start."""
        unit = self.second.limits.window_multiple
        return unit // gcd(unit, self.scale)

    def bytes_per_pixel(self, scale: tuple[float, float]) -> float:
        s = self.scale
        inner = self.second.bytes_per_pixel((scale[0] / s, scale[1] / s)) * s * s
        return max(self.first.bytes_per_pixel((s, s)), inner) + 12 * s * s

    def score(self, lr: Tensor, scale: tuple[float, float]) -> Tensor | None:
        return self.second.score(lr, scale) if self.scale == 1 else None

    def plan(self, evidence: Tensor | None, size: Size, out: Size, budget: Budget) -> RoutePlan:
        middle = self._middle(size)
        before = self.first.plan(None, size, middle, Budget.full()).macs_full
        full = before + self.second.plan(evidence, middle, out, Budget.full()).macs_full
        if budget.kind == "native":
            plan = self.second.plan(evidence, middle, out, budget)
        elif (allowed := budget.allowed(full)) >= full:
            plan = self.second.plan(evidence, middle, out, Budget.full())
        elif allowed <= before:
            raise below_floor(budget, before, full)
        else:
            plan = self.second.plan(evidence, middle, out, Budget.macs(allowed - before))
        return replace(plan, macs=plan.macs + before, macs_full=plan.macs_full + before)

    def fits(self, plan: RoutePlan, size: Size) -> bool:
        return self.second.fits(plan, self._middle(size))

    def full_macs(self, frame: Frame, tile: Size, core: Box, out: Size) -> int:
        wide = self._widened(frame, tile, core)
        inner = self.second.full_macs(*self._inner(frame, wide, core), out)
        return self.first.full_macs(frame, tile, wide, self._middle(frame.size)) + inner

    def planned_macs(self, frame: Frame, tile: Size, core: Box, out: Size, plan: RoutePlan) -> int | None:
        wide = self._widened(frame, tile, core)
        inner = self.second.planned_macs(*self._inner(frame, wide, core), out, plan)
        return None if inner is None else self.first.full_macs(frame, tile, wide, self._middle(frame.size)) + inner

    def render(self, lr: Tensor, frame: Frame, core: Box, out: Size, plan: RoutePlan) -> Rendered:
        """Render the output pixels of `core` from a tile `lr` (1, 3, h, w) that lies at `frame`."""
        wide, middle = self._widened(frame, (lr.shape[-2], lr.shape[-1]), core), self._middle(frame.size)
        before = self.first.render(lr, frame, wide, middle, self.first.plan(None, frame.size, middle, Budget.full()))
        inner, tile, box = self._inner(frame, wide, core)
        # As after any file: what lies outside of the range would be clipped there.
        seen = before.rgb.clamp(0, 1)
        for axis, first in enumerate(output_box(wide, frame.size, middle)[:2]):
            start = inner.origin[axis]
            index = reflected(start, start + tile[axis], middle[axis], frame.goes_on[axis]) - first
            # Of a part that is narrower than the reflection the last pixels are repeated.
            seen = seen.index_select(axis + 1, index.clamp(0, seen.shape[axis + 1] - 1).to(seen.device))
        after = self.second.render(seen.unsqueeze(0), inner, box, out, plan)
        return replace(after, macs=before.macs + after.macs, lean=before.lean + after.lean)

    def _middle(self, size: Size) -> Size:
        return size[0] * self.scale, size[1] * self.scale

    def _widened(self, frame: Frame, tile: Size, core: Box) -> Box:
        """The LR pixels that the first one renders: the core, and the second one's context as far as the tile goes."""
        own = self.second.limits.context
        reach, step = 32 if own is None else -(-own // self.scale), self._step
        y0, x0, y1, x1 = inside(frame, tile)
        return (
            max(y0, (core[0] - reach) // step * step),
            max(x0, (core[1] - reach) // step * step),
            min(y1, core[2] + reach),
            min(x1, core[3] + reach),
        )

    def _inner(self, frame: Frame, wide: Box, core: Box) -> tuple[Frame, Size, Box]:
        """Frame, tile and core as the second one sees them: what the first one made of `wide`, and its reflection
        beyond the picture's borders."""
        middle, limits = self._middle(frame.size), self.second.limits
        box, rim = output_box(wide, frame.size, middle), limits.border if frame.mirrored else 0
        above = -(-rim // limits.window_multiple) * limits.window_multiple
        start, stop = list(box[:2]), list(box[2:])
        for axis in (0, 1):
            before, after = frame.goes_on[axis]
            start[axis] -= above if start[axis] == 0 and not before else 0
            stop[axis] += rim if stop[axis] == middle[axis] and not after else 0
        return (
            replace(frame, size=middle, origin=(start[0], start[1]), mirrored=rim),
            (stop[0] - start[0], stop[1] - start[1]),
            output_box(core, frame.size, middle),
        )
