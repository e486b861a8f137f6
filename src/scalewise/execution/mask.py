"""Where the user wants effort: a picture; white grants all of it, and comes first, black grants the least."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from scalewise import images
from scalewise.budget.route import Decision
from scalewise.geometry.grid import Frame, Size
from scalewise.models.model import Model, RoutePlan

BOOST = 1e4  # times the gain that the router sees in a patch: enough that a white patch comes before any other


def read_mask(mask: object, size: Size) -> Tensor:
    """(h, w) float in [0, 1] for a picture of `size`: the mean of the colours times the opacity, stretched if it is of
    another size. `mask` is whatever `images.open` takes. Raises UnreadableImage."""
    source = images.open(mask)
    gray, alpha = source.read().mean(0), source.read_alpha()
    gray = gray if alpha is None else gray * alpha[0]
    return gray if source.size == size else F.interpolate(gray[None, None], size=size, mode="area")[0, 0]


def takes_mask(model: Model) -> bool:
    """False for a model that decides by a look at the whole picture, which a mask cannot steer, and for one without
    work to place, as bicubic interpolation."""
    limits, side = model.limits, 8 * model.limits.patch_stride
    if limits.levels == "inside":
        return model.score(torch.zeros(1, 3, side, side), (2.0, 2.0)) is None
    scale = 2 if limits.scales is None else round(max(limits.scales))
    size, out = (side, side), (side * scale, side * scale)
    return model.full_macs(Frame(size), size, (0, 0, *size), out) > 0


def weighted(evidence: Tensor, mask: Tensor, patch: int) -> Tensor:
    """Gains (exits, gy, gx) with those of white patches raised. What is white counts as if it had, besides its own
    gain, that of a patch of the mean: people paint what they care for, where the router may see nothing to gain."""
    weights = BOOST ** patch_means(mask, patch, (evidence.shape[-2], evidence.shape[-1]))
    return evidence * weights + evidence.mean((-2, -1), keepdim=True) * (weights - 1)


def masked(plan: RoutePlan, mask: Tensor, model: Model, out: Size) -> RoutePlan:
    """The plan with no unit above what the mask grants it: the mean of its pixels, as a share of the options. The
    decisions must be of patches, made before the model runs."""
    size = (mask.shape[0], mask.shape[1])
    route = tuple(_limited(decision, mask) for decision in plan.route)
    limited = replace(plan, route=route)
    macs = model.planned_macs(Frame(size), size, (0, 0, *size), out, limited)
    return limited if macs is None else replace(limited, macs=min(plan.macs, macs + plan.overhead.total))


def _limited(decision: Decision, mask: Tensor) -> Decision:
    options, shape = decision.cost.shape[0], decision.choice.shape
    most = (patch_means(mask, decision.extent, (shape[-2], shape[-1])) * (options - 1)).round().long()
    return replace(decision, choice=torch.minimum(decision.choice, most.unsqueeze(0)))


def patch_means(mask: Tensor, patch: int, cells: Size) -> Tensor:
    """(gy, gx): the mean of a mask (h, w) over each patch; those at the right and the bottom may be cut off."""
    rows, columns = cells
    here = mask[: rows * patch, : columns * patch]
    padding = (0, max(0, columns * patch - here.shape[1]), 0, max(0, rows * patch - here.shape[0]))
    sums, areas = (
        F.avg_pool2d(F.pad(one[None, None], padding), patch, divisor_override=1)[0, 0]
        for one in (here, torch.ones_like(here))
    )
    return sums / areas.clamp_min(1)
