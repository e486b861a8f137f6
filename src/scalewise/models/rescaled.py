"""Rescaled: a model of fixed scales at any other scale. It runs at its next own scale, the rest is bicubic."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from scalewise.budget.budget import Budget
from scalewise.geometry.grid import Box, Frame, Size, inside, output_box
from scalewise.geometry.resize import axis_taps, resample
from scalewise.models.model import BYTES_PER_OUTPUT_PIXEL, Model, ModelLimits, Rendered, RoutePlan


class Rescaled(Model):
    """A model of fixed scales at any other scale: it runs at its next own scale, and the rest is antialiased bicubic.

    `note` says so in the report. The next own scale is the smallest that is not below both factors, or the largest.
    """

    def __init__(self, model: Model, size: Size, out: Size) -> None:
        assert model.limits.scales is not None
        wanted = max(out[0] / size[0], out[1] / size[1])
        own = sorted(model.limits.scales)
        self.own = next((s for s in own if s >= wanted - 1e-9), own[-1])
        self.model = model
        self.middle = (round(size[0] * self.own), round(size[1] * self.own))
        taps = max(axis_taps(m, n)[0].shape[1] for m, n in zip(self.middle, out, strict=True))
        self.reach = -(-taps // max(1, int(self.own))) + 1  # LR pixels under the taps of one output pixel
        self.note = f"ran at its own ×{self.own:g}, then bicubic to the size asked for"

    @property
    def limits(self) -> ModelLimits:
        own = self.model.limits
        return replace(own, scales=None, context=None if own.context is None else own.context + self.reach)

    def bytes_per_pixel(self, scale: tuple[float, float]) -> float:
        return self.model.bytes_per_pixel((self.own, self.own)) + BYTES_PER_OUTPUT_PIXEL * scale[0] * scale[1]

    def score(self, lr: Tensor, scale: tuple[float, float]) -> Tensor | None:
        return self.model.score(lr, (self.own, self.own))

    def plan(self, evidence: Tensor | None, size: Size, out: Size, budget: Budget) -> RoutePlan:
        return self.model.plan(evidence, size, self.middle, budget)

    def fits(self, plan: RoutePlan, size: Size) -> bool:
        return self.model.fits(plan, size)

    def full_macs(self, frame: Frame, tile: Size, core: Box, out: Size) -> int:
        return self.model.full_macs(frame, tile, self._widened(frame, tile, core), self.middle)

    def planned_macs(self, frame: Frame, tile: Size, core: Box, out: Size, plan: RoutePlan) -> int | None:
        return self.model.planned_macs(frame, tile, self._widened(frame, tile, core), self.middle, plan)

    def _widened(self, frame: Frame, tile: Size, core: Box) -> Box:
        """The core and the LR pixels under the taps of its border, as far as the tile and the image go."""
        y0, x0, y1, x1 = inside(frame, tile)
        reach = self.reach
        return max(y0, core[0] - reach), max(x0, core[1] - reach), min(y1, core[2] + reach), min(x1, core[3] + reach)

    def render(self, lr: Tensor, frame: Frame, core: Box, out: Size, plan: RoutePlan) -> Rendered:
        target = output_box(core, frame.size, out)
        rows, columns = (
            tuple(t[a:b] for t in axis_taps(m, n, goes_on=goes_on))
            for m, n, a, b, goes_on in zip(self.middle, out, target[:2], target[2:], frame.goes_on, strict=True)
        )
        wide = self._widened(frame, (lr.shape[-2], lr.shape[-1]), core)
        inner = self.model.render(lr, frame, wide, self.middle, plan)
        y0, x0, _, _ = output_box(wide, frame.size, self.middle)
        rgb = resample(inner.rgb, (rows[0] - y0, rows[1]), (columns[0] - x0, columns[1]))
        return Rendered(rgb, inner.macs, inner.lean)
