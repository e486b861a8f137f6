"""Losses of the adaptive encoders: TADT's two stages, AdaFormer's L1 and confidence, CAMixerSR's windows.

TADT (Xu et al., ECAI 2024): first the network with all branches, then everything with drawn routes and a price on the
intensity (Eq. 5-7). AdaFormer (Luo et al., AAAI 2024): L1, and the uncertainty loss that trains its estimator (Eq. 17).
CAMixerSR (Wang et al., CVPR 2024): L1 of drawn windows and a ratio loss that holds their share; on 360° images the L1
is weighed by latitude (supplement, Eq. 6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget.budget import Effort
from scalewise.contracts import Sampled
from scalewise.encoders.camixer_odi import CAMixerODI
from scalewise.geometry.grid import Frame
from scalewise.geometry.projection import latitude_weights
from scalewise.models.super_resolver import SuperResolver
from scalewise.routing.branch import PENALTY, THRESHOLD, TaskController, intensity_loss
from scalewise.routing.token import SMALL, uncertainty_loss
from scalewise.training.losses.pixel import query_of, rendered, ws_l1
from scalewise.training.stage import Batch, StepContext

ALL_BRANCHES = Effort(native={"beta": 1.0})  # an untrained controller then gives every branch p = 1


def without_controller(model: nn.Module) -> Iterable[nn.Parameter]:
    """What TADT's first stage trains."""
    return (p for name, p in model.named_parameters() if not name.startswith("encoder.controller."))


def all_branches_l1(model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
    """TADT's first stage: L1 of the Baseline. The controller must be as it was built."""
    sampled = model(batch["lr"], query_of(batch), batch["scale"], ALL_BRANCHES)
    return {"loss": F.l1_loss(sampled.rgb.float(), batch["hr"])}


@dataclass(frozen=True)
class RoutedL1:
    """TADT's second stage: L1 of drawn routes plus `penalty` (λ) times the intensity loss (Eq. 5).

    λ is weighed against the L1 of RGB in [-1, 1], which TADT takes from LIIF: twice that of RGB in [0, 1].
    `threshold` is α of Eq. 6; None prices β everywhere."""

    penalty: float = PENALTY
    threshold: tuple[float, float, float] | None = THRESHOLD

    def __call__(self, model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        controller = model.get_submodule("encoder.controller")
        assert isinstance(controller, TaskController)
        error = 2 * F.l1_loss(rendered(model, batch).rgb, batch["hr"])
        beta = controller.intensity(batch["scale"])
        loss = error + self.penalty * intensity_loss(beta, batch["scale"], self.threshold)
        return {"loss": loss, "l1": error.detach(), "beta": beta.detach().mean()}


def estimator(model: nn.Module) -> Iterable[nn.Parameter]:
    """AdaFormer's estimator of confidence alone."""
    return model.get_submodule("encoder.confidence").parameters()


def halting_l1(model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
    """AdaFormer: L1 in 0..255 plus the uncertainty loss of all layers' confidences; `kept` is the share of attention
    units that ran. The batch has whole crops at one integer scale."""
    sampled = rendered(model, batch)
    scale = batch["hr"].shape[-1] // batch["lr"].shape[-1]
    error = 255 * F.l1_loss(sampled.rgb, batch["hr"])
    logits = [one.evidence.float() for one in sampled.route if one.evidence is not None]
    confidence = uncertainty_loss(logits, sampled.rgb, batch["hr"], scale=scale)
    kept = sum(one.choice.float().mean() for one in sampled.route) / len(sampled.route)
    return {"loss": error + confidence, "l1": error.detach(), "uncertainty": confidence.detach(), "kept": kept}  # type: ignore[dict-item]


PONDER, DISTRIBUTION = 5e-4, 0.1  # weights of A-ViT (Yin et al., CVPR 2022, arXiv:2112.07658)


def ponder_l1(model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
    """AdaFormer halted by A-ViT's losses (Table 4): L1 in 0..255 plus the ponder loss and the distance of halting over
    depth from a Gaussian around the middle layer.

    The confidences are A-ViT's halting probabilities: what a token ponders is the number of layers until they sum to 1,
    plus what was left of 1 before the last of them."""
    sampled = rendered(model, batch)
    error = 255 * F.l1_loss(sampled.rgb, batch["hr"])
    halting = torch.stack([one.evidence.float().sigmoid() for one in sampled.route if one.evidence is not None])
    before = halting.cumsum(0) - halting
    running = (before.detach() < 1 - SMALL).float()  # layers that a token takes part in
    ponder = (running.sum(0) + 1 - (halting * running).sum(0).clamp(max=1)).mean()
    layers = torch.arange(len(halting), device=halting.device, dtype=halting.dtype)
    wanted = (-(layers - layers.mean()).square() / 2).softmax(0)
    found = halting.flatten(1).mean(1)
    found = found / found.sum()
    distance = (found * (found.clamp_min(SMALL).log() - wanted.log())).sum()
    loss = error + PONDER * ponder + DISTRIBUTION * distance
    return {"loss": loss, "l1": error.detach(), "ponder": ponder.detach(), "distribution": distance.detach()}


# Masks (b, gy, gx) of all layers, 0 or 1 with a gradient; γ; the mean error of each window (b, gy, gx) → what is added.
RatioLoss = Callable[[Sequence[Tensor], float, Tensor], Tensor]


def printed_ratio(masks: Sequence[Tensor], gamma: float, error: Tensor) -> Tensor:
    """As CAMixerSR prints it: the squared distance of the share in all layers together from γ."""
    return (torch.stack([mask.mean() for mask in masks]).mean() - gamma).square()


def coded_ratio(masks: Sequence[Tensor], gamma: float, error: Tensor) -> Tensor:
    """As CAMixerSR's code has it: the target is ½ whatever γ is, which only weighs it."""
    return 2 * gamma * printed_ratio(masks, 0.5, error)


def hardest_windows(masks: Sequence[Tensor], gamma: float, error: Tensor) -> Tensor:
    """Ours: in every layer the share γ of the batch's windows with the largest error is to be hard, the others not.

    Held by its mean over all layers, the predictor may settle layers at all and at nothing, and
    the L1 alone tells it too little of content."""
    hard = (error >= error.flatten().quantile(1 - gamma)).to(error)
    return torch.stack([(mask - hard).square().mean() for mask in masks]).mean()


@dataclass(frozen=True)
class WindowedL1:
    """CAMixerSR: L1 with windows drawn by the predictor, plus `weight` times the ratio loss at γ.

    With a range as `gamma` a share is drawn for each step, and the draw's odds are those of the share (`Effort.keep`):
    the predictor learns an order of windows that serves any budget."""

    ratio: RatioLoss
    gamma: float | tuple[float, float] = 0.5
    weight: float = 1.0

    def __call__(self, model: nn.Module, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        gamma, effort = self.drawn(context)
        sampled = self.sampled(model, batch, effort)
        masks = [one.evidence for one in sampled.route if one.evidence is not None]
        l1 = self.l1(sampled.rgb, batch)
        ratio = self.ratio(masks, gamma, window_error(sampled.rgb, batch["hr"], masks[0]))
        hard = torch.stack([mask.detach().mean() for mask in masks]).mean()
        return {"loss": l1 + self.weight * ratio, "l1": l1.detach(), "ratio": ratio.detach(), "hard": hard}

    def drawn(self, context: StepContext) -> tuple[float, Effort]:
        """This step's γ, and the effort that shifts the draw to it."""
        if not isinstance(self.gamma, tuple):
            return self.gamma, Effort()
        low, high = self.gamma
        gamma = low + (high - low) * float(torch.rand((), generator=context.generator))
        return gamma, Effort(keep=gamma)

    def sampled(self, model: nn.Module, batch: Batch, effort: Effort) -> Sampled:
        return rendered(model, batch, effort)

    def l1(self, rgb: Tensor, batch: Batch) -> Tensor:
        return F.l1_loss(rgb, batch["hr"])


@dataclass(frozen=True)
class SphericalL1(WindowedL1):
    """The same on crops of 360° images whose HR is `height` rows high: L1 weighed by cos(latitude) (Eq. 6).

    `batch["top"]` is the HR row where a crop starts; the network gets the latitudes of each crop's own rows."""

    height: int = 1024

    def sampled(self, model: nn.Module, batch: Batch, effort: Effort) -> Sampled:
        assert isinstance(model, SuperResolver) and isinstance(model.encoder, CAMixerODI)
        lr = (batch["lr"] - model.mean) / model.std
        h, w = lr.shape[-2:]
        scale, frame = batch["hr"].shape[-1] // w, Frame((h, w))
        rows = (batch["top"] // scale).long()[:, None].cpu() + torch.arange(h)
        cosine = latitude_weights(self.height // scale)[rows].to(lr)  # (b, h)
        noise = model.encoder.noise(lr, effort.keep)
        encoded = model.encoder.run(lr, frame, effort, noise, cosine[:, None, :, None].expand(-1, -1, -1, w))
        field = model.upsampler.prepare(encoded.features, lr, frame)
        rgb = model.upsampler.sample(field, query_of(batch)).float()
        return Sampled(model.finished(rgb, batch["lr"], query_of(batch)), encoded.route)

    def l1(self, rgb: Tensor, batch: Batch) -> Tensor:
        return ws_l1(rgb, batch["hr"], batch["top"], self.height)


def window_error(rgb: Tensor, hr: Tensor, mask: Tensor) -> Tensor:
    """The mean absolute error in each window of a mask (b, gy, gx), without gradient."""
    return F.adaptive_avg_pool2d((rgb.detach() - hr).abs().mean(1), (mask.shape[-2], mask.shape[-1]))
