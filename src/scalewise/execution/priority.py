"""A mask of priority: a picture that says where the work should go first."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from scalewise import images
from scalewise.errors import InvalidRequest
from scalewise.execution.plan import RunPlan
from scalewise.geometry.grid import Size

BOOST = 1e4  # times the gain that the router sees in a patch: enough that a painted patch comes before any other


def with_mask(run_plan: RunPlan, mask: images.Source) -> RunPlan:
    """The plan of a run that spends its budget first where `mask`, stretched over the picture, is bright.

    What is left goes where it would have gone. Raises InvalidRequest for a model that does not plan by patches.
    """
    if not run_plan.model.limits.weighs_patches:
        raise InvalidRequest("a mask needs a model that is planned by patches, as fast, quality, photo and pano are")
    return replace(run_plan, weights=patch_weights(mask, run_plan.source.size, run_plan.model.limits.patch_stride))


def weighted(evidence: Tensor, weights: Tensor) -> Tensor:
    """Gains (exits, gy, gx) with those of painted patches raised. What is painted counts as if it had, besides its own
    gain, that of a patch of the mean: people paint what they care for, where the router may see nothing to gain."""
    usual = evidence.mean((-2, -1), keepdim=True)
    return evidence * weights + usual * (weights - 1)


def patch_weights(mask: images.Source, size: Size, patch: int) -> Tensor:
    """1 where nothing is painted to BOOST where all of a patch is white: float64 (gy, gx) of a picture of `size`."""
    painted = mask.read().mean(0).double()
    alpha = mask.read_alpha()
    painted = painted if alpha is None else painted * alpha[0]
    sums = torch.zeros(painted.shape[0] + 1, painted.shape[1] + 1, dtype=torch.float64)
    sums[1:, 1:] = painted.cumsum(0).cumsum(1)
    (y0, y1), (x0, x1) = (_spans(n, length, patch) for n, length in zip(size, painted.shape, strict=True))
    total = sums[y1][:, x1] - sums[y0][:, x1] - sums[y1][:, x0] + sums[y0][:, x0]
    mean = total / ((y1 - y0)[:, None] * (x1 - x0)[None])
    return 1 + (BOOST - 1) * mean.clamp(0, 1)


def _spans(pixels: int, length: int, patch: int) -> tuple[Tensor, Tensor]:
    """First and end of the mask's `length` rows under each patch of an axis, at least one."""
    starts = torch.arange(0, pixels, patch)
    first = (starts * length // pixels).clamp_max(length - 1)
    end = -(-((starts + patch).clamp_max(pixels) * length) // pixels)
    return first, torch.maximum(end, first + 1)
