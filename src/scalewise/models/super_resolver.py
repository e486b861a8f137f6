"""SuperResolver(encoder, upsampler): any encoder with any upsampler, rendered tile by tile."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget.budget import Budget, Effort
from scalewise.budget.cost import Macs
from scalewise.budget.route import Route
from scalewise.contracts import Encoder, RoutedEncoder, Sampled, Upsampler
from scalewise.geometry.grid import Box, Frame, Query, Size, output_box, rectangle
from scalewise.layers import pad_to_grid
from scalewise.models.model import (
    BORDER,
    BYTES_PER_OUTPUT_PIXEL,
    Model,
    ModelLimits,
    Rendered,
    RoutePlan,
    below_floor,
    kinds,
    one_level,
)

Base = Literal["bilinear", "bicubic"]
BASE_TAPS: dict[Base, int] = {"bilinear": 2, "bicubic": 4}  # pixels along an axis


class SuperResolver(nn.Module, Model):
    """Any encoder with any upsampler. Images are RGB in [0, 1]; the networks see (x - mean) / std.

    `scales` are the factors the pair was made for (fixed-scale networks), or None for any. With a `base` the output is
    added to the interpolated image (bicubic: a = -0.75), so that a small network need not learn to pass the image on.
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
        base: Base | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.upsampler = upsampler
        self._scales = scales
        self.base: Base | None = base
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @property
    def limits(self) -> ModelLimits:
        grid, reaches = self.encoder.grid, (self.encoder.context, self.upsampler.context)
        context = None
        if reaches[0] is not None and reaches[1] is not None:
            context = max(reaches[0] + reaches[1], BASE_TAPS[self.base] // 2 if self.base else 0)
        levels = "inside" if isinstance(self.encoder, RoutedEncoder) else "one"
        border = BORDER if next(self.parameters(), None) is not None else 0  # interpolation alone pads nothing
        return ModelLimits(self._scales, context, grid, window_multiple=grid, levels=levels, border=border)

    def bytes_per_pixel(self, scale: tuple[float, float]) -> float:
        """Rough working memory per LR pixel of a tile, by which tiles are sized: some layers of features at once, and
        for tails of fixed scale such layers at output size."""
        layer, area = 4 * self.encoder.channels, scale[0] * scale[1]
        return 16 * layer + (BYTES_PER_OUTPUT_PIXEL if self._scales is None else 4 * layer) * area

    def forward(
        self,
        lr: Tensor,
        query: Query,
        scale: Tensor,
        effort: Effort | None = None,
        frame: Frame | None = None,
        plan: Route = (),
    ) -> Sampled:
        """lr (b, 3, h, w) in [0, 1], scale (b, 2) → RGB at the query's points, not clamped.

        `plan`: decisions made before on the whole image; without them the encoder decides on this one."""
        effort = effort or Effort()
        height, width = lr.shape[-2:]
        frame = frame or Frame((height, width))
        normal = (lr - self.mean) / self.std
        padded = pad_to_grid(normal, self.encoder.grid)
        plan = plan or self.encoder.route(padded, scale, effort)
        encoded = self.encoder.encode(padded, frame, scale, effort, plan)
        features = encoded.features[..., :height, :width]
        rgb = self.upsampler.sample(self.upsampler.prepare(features, normal, frame), query)
        return Sampled(self.finished(rgb, lr, query), encoded.route)

    def finished(self, rgb: Tensor, lr: Tensor, query: Query) -> Tensor:
        """What the upsampler gave as RGB: scaled by the networks' range, then added to their mean, or to the base."""
        std, mean = (self.std, self.mean) if query.rectangle else (self.std.view(1, 1, 3), self.mean.view(1, 1, 3))
        return rgb * std + (mean if self.base is None else interpolated(lr, query, self.base))

    def score(self, lr: Tensor, scale: tuple[float, float]) -> Tensor | None:
        """The encoder's evidence, if it routes by the whole image."""
        if not isinstance(self.encoder, RoutedEncoder):
            return None
        return self.encoder.score(pad_to_grid((lr - self.mean) / self.std, self.encoder.grid), scale)

    def plan(self, evidence: Tensor | None, size: Size, out: Size, budget: Budget) -> RoutePlan:
        """What the encoder makes of the budget. Raises BudgetInfeasible below the model's floor."""
        full = self.macs(size, out).total
        scale = (out[0] / size[0], out[1] / size[1])
        if isinstance(self.encoder, RoutedEncoder):
            native, allowed = budget.dial_of(*self.encoder.dials), budget.allowed(full)
            fixed = full - self.encoder.macs(self.padded(size), scale).total
            grant = self.encoder.allocate(evidence, self.padded(size), scale, allowed - fixed, native)
            macs = grant.macs + fixed
            if native is None and macs > allowed:
                raise below_floor(budget, macs, full)
            effort = grant.effort if native is not None else replace(grant.effort, share=allowed / full)
            return RoutePlan(effort, grant.route, macs, full)
        return one_level(budget, full)

    def fits(self, plan: RoutePlan, size: Size) -> bool:
        """True if a stored plan is one of the encoder's for an image of `size`."""
        blank = getattr(self.encoder, "blank_route", None)  # encoders that decide on the whole image have one
        return not plan.route or (blank is not None and kinds(plan.route) == kinds(blank(self.padded(size))))

    def render(self, lr: Tensor, frame: Frame, core: Box, out: Size, plan: RoutePlan) -> Rendered:
        """Render the output pixels of `core` from a tile `lr` (1, 3, h, w) that lies at `frame`."""
        target = output_box(core, frame.size, out)
        scale = (out[0] / frame.size[0], out[1] / frame.size[1])
        query = rectangle(frame, out, target, device=lr.device)
        sampled = self(lr, query, torch.tensor([scale], device=lr.device), plan.effort, frame, plan.route)
        route = sampled.route
        tile, kept = (lr.shape[-2], lr.shape[-1]), (core[2] - core[0], core[3] - core[1])
        pixels = (target[2] - target[0], target[3] - target[1])
        if self._scales is None:
            return Rendered(sampled.rgb[0], *self._tile_macs(tile, pixels, kept, pixels, route), route)
        enlarged = tuple(
            (round(n * scale[0]), round(m * scale[1])) for n, m in (tile, kept)
        )  # tails enlarge all of a tile
        return Rendered(sampled.rgb[0], *self._tile_macs(tile, enlarged[0], kept, enlarged[1], route), route)

    def _tile_macs(self, tile: Size, pixels: Size, kept: Size, kept_pixels: Size, route: Route) -> tuple[Macs, int]:
        """What a tile cost, and what it would have without its context, at the same share of the work."""
        spent, full = self.macs(tile, pixels, route), self.macs(tile, pixels).total
        return spent, min(spent.total, round(self.macs(kept, kept_pixels).total * spent.total / max(full, 1)))

    def full_macs(self, frame: Frame, tile: Size, core: Box, out: Size) -> int:
        """MACs of one tile with everything on, which is always so here."""
        target, scale = output_box(core, frame.size, out), (out[0] / frame.size[0], out[1] / frame.size[1])
        pixels = (target[2] - target[0], target[3] - target[1])
        if self._scales is not None:
            pixels = (round(tile[0] * scale[0]), round(tile[1] * scale[1]))
        return self.macs(tile, pixels).total

    def planned_macs(self, frame: Frame, tile: Size, core: Box, out: Size, plan: RoutePlan) -> int | None:
        """The same, but for encoders that decide while they run: None."""
        return None if isinstance(self.encoder, RoutedEncoder) else self.full_macs(frame, tile, core, out)

    def macs(self, size: Size, out: Size, route: Route = ()) -> Macs:
        """The cost of one whole image, or of one tile and the pixels rendered from it."""
        scale = (out[0] / size[0], out[1] / size[1])
        taps = 0 if self.base is None else 3 * BASE_TAPS[self.base] ** 2 * out[0] * out[1]
        return self.encoder.macs(self.padded(size), scale, route) + self.upsampler.macs(size, out) + Macs(sampling=taps)

    def padded(self, size: Size) -> Size:
        """`size` up to multiples of the encoder's grid."""
        height, width = (-(-n // self.encoder.grid) * self.encoder.grid for n in size)
        return height, width


def interpolated(lr: Tensor, query: Query, base: Base) -> Tensor:
    """lr (b, 3, h, w) at the points of a query: (b, 3, hq, wq) for a rectangle, else (b, q, 3). Beyond its border the
    image repeats its edge."""
    y, x = torch.broadcast_tensors(query.y, query.x)
    height, width = lr.shape[-2:]
    grid = torch.stack((2 * x.double() / width - 1, 2 * y.double() / height - 1), -1).to(lr.dtype)
    grid = grid if query.rectangle else grid.unsqueeze(1)
    grid = grid.expand(len(lr), *grid.shape[1:])
    rgb = F.grid_sample(lr, grid, mode=base, padding_mode="border", align_corners=False)
    return rgb if query.rectangle else rgb.squeeze(2).transpose(1, 2)
