"""Where the user wants effort: a grey picture, white for all of it and black for the least."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from scalewise import images
from scalewise.budget.route import Decision
from scalewise.errors import InvalidRequest
from scalewise.geometry.grid import Frame, Size
from scalewise.models.model import Model, RoutePlan

MAX_STRETCH = 0.02  # relative difference of the two aspect ratios


def read_mask(path: str, size: Size) -> Tensor:
    """(h, w) float in [0, 1] for a picture of `size`; a mask of another size is resized. Raises UnreadableImage, and
    InvalidRequest for one of another shape."""
    source = images.open(path)
    (height, width), (rows, columns) = source.size, size
    if abs(height * columns / (width * rows) - 1) > MAX_STRETCH:
        raise InvalidRequest(
            f"the effort mask {path!r} is {width}×{height}, another shape than the picture of {columns}×{rows}"
        )
    gray = source.read((0, 0, height, width)).mean(0)
    return gray if source.size == size else F.interpolate(gray[None, None], size=size, mode="area")[0, 0]


def masked(plan: RoutePlan, mask: Tensor, model: Model, out: Size) -> RoutePlan:
    """The plan with no unit above what the mask grants it: the mean of its pixels, as a share of the options. The
    decisions must be of patches, made before the model runs."""
    size = (mask.shape[0], mask.shape[1])
    route = tuple(_limited(decision, mask) for decision in plan.route)
    limited = replace(plan, route=route)
    macs = model.planned_macs(Frame(size), size, (0, 0, *size), out, limited)
    return limited if macs is None else replace(limited, macs=min(plan.macs, macs + plan.overhead.total))


def _limited(decision: Decision, mask: Tensor) -> Decision:
    options, extent = decision.cost.shape[0], decision.extent
    rows, columns = decision.choice.shape[-2:]
    here = mask[: rows * extent, : columns * extent]
    padding = (0, max(0, columns * extent - here.shape[1]), 0, max(0, rows * extent - here.shape[0]))
    means = F.avg_pool2d(F.pad(here[None, None], padding), extent, divisor_override=1)[0, 0]
    areas = F.avg_pool2d(F.pad(torch.ones_like(here)[None, None], padding), extent, divisor_override=1)[0, 0]
    most = (means / areas.clamp_min(1) * (options - 1)).round().long()
    return replace(decision, choice=torch.minimum(decision.choice, most.unsqueeze(0)))
