"""The steps of `gan.Adversarial`: generator and discriminator in turns, as Lightning runs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.errors import TrainingError
from scalewise.training.gan import Adversarial, UNetDiscriminator, against
from scalewise.training.losses.perceptual import VGG19
from scalewise.training.losses.pixel import rendered
from scalewise.training.recipe import Batch, Stage, check_losses
from scalewise.training.task import Way


class AdversarialWay(Way):
    """A step of the generator, then one of the discriminator, on the same batch. Logs `accuracy`: the share of pixels,
    half of them real, that the discriminator judges rightly."""

    def __init__(
        self, settings: Adversarial, model: nn.Module, stage: Stage, *, seed: tuple[int, ...], out: Path
    ) -> None:
        super().__init__(model, stage, seed=seed, out=out)
        self.automatic_optimization = False
        self.settings = settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed[0])
            self.judge = UNetDiscriminator(settings.channels)
        if settings.vgg is None:
            print(f"stage {stage.name}: the perceptual loss looks through random weights; --vgg FILE", file=sys.stderr)
        self.vgg = VGG19(settings.vgg, settings.widths).requires_grad_(False)

    def configure_optimizers(self) -> Any:
        if self.trainer.world_size > 1:
            raise TrainingError(
                f"stage {self.stage.name} trains against a discriminator, which one process does: --devices 1"
            )
        stage = self.stage
        optimizers = [
            torch.optim.AdamW(
                list(parameters), stage.learning_rate, betas=stage.betas, weight_decay=stage.decay, fused=self.fused()
            )
            for parameters in (self.learnt.values(), self.judge.parameters())
        ]
        return self.restored(optimizers)

    def training_step(self, batch: Batch, index: int) -> None:
        self.batch = batch
        self.moment()  # seeds this step
        ours, theirs = self.optimizers()  # type: ignore[misc]
        sr = rendered(self.model, batch).rgb
        error = F.l1_loss(sr, batch["hr"])
        seen = self.vgg.distance(sr, batch["hr"])
        self.judge.requires_grad_(False)
        fooled = against(self.judge(sr).float(), real=True)
        self.judge.requires_grad_(True)
        loss = error + self.settings.perceptual * seen + self.settings.adversarial * fooled
        losses = {"loss": loss, "l1": error, "perceptual": seen, "adversarial": fooled}
        check_losses(losses)
        self.last = {name: value.detach() for name, value in losses.items()}
        self._step(ours, loss)

        if self.settings.learning_rate is not None:
            for group in theirs.param_groups:
                group["lr"] = self.rate() * self.settings.learning_rate / self.stage.learning_rate
        real, made = self.judge(batch["plain"]).float(), self.judge(sr.detach()).float()
        judged = against(real, real=True) + against(made, real=False)
        right = ((real > 0).float().mean() + (made < 0).float().mean()) / 2
        self.last |= {"judge": judged.detach(), "accuracy": right.detach()}
        self._step(theirs, judged)

    def _step(self, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        self.checked(optimizer)
        optimizer.step()
