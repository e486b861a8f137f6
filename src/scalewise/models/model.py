"""What runs: Model, what the pipeline asks of it.

An encoder with an upsampler is in `super_resolver.py`, patches that leave early in `multi_exit.py`, paths and exits of
overlapping patches in `patchwise.py` and `early_exit.py`; networks at scales that are not theirs in `rescaled.py`. The
way of an image (`pipeline.py`): `score` tiles for the router → `plan` once with the budget → `render` tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

from scalewise.budget.budget import Budget, Effort, format_budget
from scalewise.budget.cost import Macs
from scalewise.budget.gains import GainCurve
from scalewise.budget.route import Route
from scalewise.errors import BudgetInfeasible
from scalewise.geometry.grid import Box, Frame, Size

BORDER = 6  # LR pixels after which no trained network shows its zero padding by a level (tests/models/test_flat.py)
UNBOUNDED_CONTEXT = 32  # LR pixels around a tile of a model whose context is the whole image
BYTES_PER_OUTPUT_PIXEL = 36  # base, canvas and rounded copy of three colours


@dataclass(frozen=True)
class RoutePlan:
    """What was decided for one image: its `effort`, the `route` known so far, the MACs it will take and the full ones.

    `macs` and `macs_full` are those of the untiled image; `overhead` is what deciding cost (the router)."""

    effort: Effort
    route: Route
    macs: int
    macs_full: int
    overhead: Macs = field(default_factory=Macs)


def kinds(route: Route) -> list[tuple[str, int, Size, int]]:
    """What each decision is about: unit, its LR pixels, rows and columns of units, number of options."""
    return [(one.unit, one.extent, (one.choice.shape[1], one.choice.shape[2]), len(one.cost)) for one in route]


def below_floor(budget: Budget, macs: int, full: int) -> BudgetInfeasible:
    """The error for a budget below the `macs` that a model takes at least of its `full` ones. The share and the MACs
    that it names are rounded up, so that they can be asked for."""
    percent = math.ceil(macs / full * 1e4) / 1e4
    step = 10.0 ** (math.floor(math.log10(macs)) - 2) if macs else 1.0
    return BudgetInfeasible(
        f"budget {format_budget(budget)} is below the floor of this model on this image, {percent:.2%} "
        f"({math.ceil(macs / step) * step:.3g} MACs): ask for more",
        macs / full,
    )


def one_level(budget: Budget, full: int) -> RoutePlan:
    """The plan of a model with one level of effort. Raises BudgetInfeasible for less; `models/partial.py` runs such a
    model on a part of the picture."""
    budget.dial_of()
    if (budget.kind == "fraction" and budget.value < 1) or budget.allowed(full) < full:
        raise BudgetInfeasible(
            f"budget {format_budget(budget)}: this model has one level of effort, 100% ({full:.3g} MACs); leave "
            "the budget out, or take a model with exits (fast)",
            1.0,
        )
    return RoutePlan(Effort(), (), full, full)


@dataclass(frozen=True)
class Rendered:
    """One tile: `rgb` (3, H, W) of its target box, not clamped; the MACs that ran; those without rims and context.

    `route`: the decisions that fell while the tile ran, on the units of the tile as it was read."""

    rgb: Tensor
    macs: Macs
    lean: int
    route: Route = ()


@dataclass(frozen=True)
class ModelLimits:
    """What a model can be run on; lengths are LR pixels.

    `scales`: the only factors that it has, or None for any. `context`: how far beyond a tile its output depends on the
    image; None: on all of it. `patch_stride`: tiles start at multiples of it. `window_multiple`: sides of what it reads
    are multiples of it. `score_margin`: how far the patches that `score` looks at reach beyond the stride. `wraps`: it
    can render tiles of a 360° image that reach beyond its borders. `levels` says among what a budget chooses: "one": it
    has one level of effort, "cells": patches on a plan made before it runs, "inside": units that it chooses itself.
    `weighs_patches`: what `score` gives are gains of patches of the stride, (exits, gy, gx), so a patch that is given
    more weight comes first. `border`: how far an image should be mirrored beyond its borders, so that the model's zero
    padding shows nowhere; 0 of a model that does not pad with zeros. `notes`: what reports say of it.
    """

    scales: tuple[float, ...] | None
    context: int | None
    patch_stride: int = 1
    window_multiple: int = 1
    score_margin: int = 0
    wraps: bool = True
    levels: Literal["one", "cells", "inside"] = "inside"
    weighs_patches: bool = False
    border: int = 0
    notes: tuple[str, ...] = ()


class Model(Protocol):
    """What the pipeline runs. `gains`: of a model with one level of effort, what it gains by the score of a cell, where
    that was measured (`models/partial.py`)."""

    gains: GainCurve | None = None

    @property
    def limits(self) -> ModelLimits: ...

    def bytes_per_pixel(self, scale: tuple[float, float]) -> float: ...

    def score(self, lr: Tensor, scale: tuple[float, float]) -> Tensor | None: ...

    def plan(self, evidence: Tensor | None, size: Size, out: Size, budget: Budget) -> RoutePlan: ...

    def fits(self, plan: RoutePlan, size: Size) -> bool:
        """True if a plan that was stored decides about this model's units of an image of `size`. Without a route it
        fits every model that decides while it runs."""
        return not plan.route

    def full_macs(self, frame: Frame, tile: Size, core: Box, out: Size) -> int: ...

    def planned_macs(self, frame: Frame, tile: Size, core: Box, out: Size, plan: RoutePlan) -> int | None:
        """The MACs that `render` will run on a tile; None where that is decided while it runs."""
        ...

    def render(self, lr: Tensor, frame: Frame, core: Box, out: Size, plan: RoutePlan) -> Rendered: ...


@runtime_checkable
class InEightBits(Protocol):
    """A model that can compute in 8 bits."""

    @property
    def spans_shape(self) -> tuple[int, ...]:
        """Of what `spans` gives."""
        ...

    def spans(self, lr: Tensor) -> Tensor:
        """What 8 bits should span, measured on crops of photos lr (b, 3, h, w). Raises ValueError."""
        ...

    def in_eight_bits(self, spans: Tensor) -> Model:
        """A copy for a CPU with AVX512-VNNI."""
        ...


OnRows = Callable[[Tensor, int], None]  # (rgb (3, H, W) of a tile, how many rows from above are final)


@runtime_checkable
class RowByRow(Protocol):
    """A model that reports finished rows of a tile while it renders, so that they are written and encoded meanwhile."""

    def render_rows(self, lr: Tensor, frame: Frame, core: Box, out: Size, plan: RoutePlan, on_rows: OnRows) -> Rendered:
        """As `Model.render`; `on_rows` is called with the growing canvas, as often as rows are finished."""
        ...
