"""L1 and squared error of what a SuperResolver renders, at random points or on whole crops."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget.budget import Effort
from scalewise.contracts import Sampled
from scalewise.geometry.grid import Frame, Query, rectangle
from scalewise.training.stage import Batch, StepContext


def query_of(batch: Batch, dtype: torch.dtype = torch.float32) -> Query:
    """The points of a batch: scattered (b, q), rows times columns, or all pixels of whole crops."""
    if "y" not in batch:
        lr, hr = batch["lr"], batch["hr"]
        return rectangle(Frame((lr.shape[-2], lr.shape[-1])), (hr.shape[-2], hr.shape[-1]), device=lr.device)
    y, x = batch["y"].to(dtype), batch["x"].to(dtype)
    if batch["hr"].dim() == 3:
        return Query(y, x, batch["cell"])
    return Query(y.unsqueeze(2), x.unsqueeze(1), batch["cell"])


def rendered(model: nn.Module, batch: Batch, effort: Effort | None = None) -> Sampled:
    """What the model makes of a batch, in the shape of its "hr", float32; and its route."""
    lr = batch["lr"].contiguous(memory_format=torch.channels_last)
    sampled: Sampled = model(lr, query_of(batch), batch["scale"], effort)
    return Sampled(sampled.rgb.float(), sampled.route)


def l1(model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
    """Mean absolute error of RGB in [0, 1]. LIIF has it on (rgb - 0.5) / 0.5: twice this, which Adam does not see."""
    return {"loss": F.l1_loss(rendered(model, batch).rgb, batch["hr"])}


def squared(model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
    """Mean squared error of RGB in [0, 1]."""
    return {"loss": F.mse_loss(rendered(model, batch).rgb, batch["hr"])}


def ws_l1(sr: Tensor, hr: Tensor, top: Tensor, height: int) -> Tensor:
    """L1 weighted by latitude, for training on crops of ERP images `height` rows high; `top` is a crop's first row.

    `sr` and `hr` are (b, 3, h, w), `top` is (b,).

    sum(w·|e|) / sum(w) over the whole batch, as the CAMixerSR code has it.
    """
    rows = top[:, None] + torch.arange(sr.shape[-2], device=sr.device) + 0.5
    weights = torch.cos((rows - height / 2) * (math.pi / height)).to(sr)[:, None, :, None]
    return (weights * (sr - hr).abs()).mean() / weights.mean()
