"""Losses of the adaptive encoders: TADT's two stages and AdaFormer's confidence beside its L1.

TADT (Xu et al., ECAI 2024): first the network with all branches, then everything with drawn routes and a price on the
intensity (Eq. 5-7). AdaFormer (Luo et al., AAAI 2024): L1, and the uncertainty loss that trains its estimator (Eq. 17).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.effort import Effort
from scalewise.routing.branch import PENALTY, TaskController, intensity_loss
from scalewise.routing.token import uncertainty_loss
from scalewise.training.losses import query_of, rendered
from scalewise.training.recipe import Batch, Moment

ALL_BRANCHES = Effort(native={"beta": 1.0})  # an untrained controller then gives every branch p = 1


def without_controller(model: nn.Module) -> Iterable[nn.Parameter]:
    """What TADT's first stage trains."""
    return (p for name, p in model.named_parameters() if not name.startswith("encoder.controller."))


def all_branches_l1(model: nn.Module, batch: Batch, moment: Moment) -> dict[str, Tensor]:
    """TADT's first stage: L1 of the Baseline. The controller must be as it was built."""
    sampled = model(batch["lr"], query_of(batch), batch["scale"], ALL_BRANCHES)
    return {"loss": F.l1_loss(sampled.rgb.float(), batch["hr"])}


@dataclass(frozen=True)
class RoutedL1:
    """TADT's second stage: L1 of drawn routes plus `penalty` (λ) times the intensity loss (Eq. 5)."""

    penalty: float = PENALTY

    def __call__(self, model: nn.Module, batch: Batch, moment: Moment) -> dict[str, Tensor]:
        controller = model.get_submodule("encoder.controller")
        assert isinstance(controller, TaskController)
        error = F.l1_loss(rendered(model, batch).rgb, batch["hr"])
        beta = controller.intensity(batch["scale"])
        loss = error + self.penalty * intensity_loss(beta, batch["scale"])
        return {"loss": loss, "l1": error.detach(), "beta": beta.detach().mean()}


def estimator(model: nn.Module) -> Iterable[nn.Parameter]:
    """AdaFormer's estimator of confidence alone."""
    return model.get_submodule("encoder.confidence").parameters()


def halting_l1(model: nn.Module, batch: Batch, moment: Moment) -> dict[str, Tensor]:
    """AdaFormer: L1 in 0..255 plus the uncertainty loss of all layers' confidences; `kept` is the share of attention
    units that ran. The batch has whole crops at one integer scale."""
    sampled = rendered(model, batch)
    scale = batch["hr"].shape[-1] // batch["lr"].shape[-1]
    error = 255 * F.l1_loss(sampled.rgb, batch["hr"])
    logits = [one.evidence.float() for one in sampled.route if one.evidence is not None]
    confidence = uncertainty_loss(logits, sampled.rgb, batch["hr"], scale=scale)
    kept = sum(one.choice.float().mean() for one in sampled.route) / len(sampled.route)
    return {"loss": error + confidence, "l1": error.detach(), "uncertainty": confidence.detach(), "kept": kept}  # type: ignore[dict-item]
