"""Training against a discriminator: L1, perceptual and adversarial loss of CiaoSR's real-world model.

CiaoSR (Cao et al., CVPR 2023), section 5.4, takes the losses and the discriminator of Real-ESRGAN (Wang et al., ICCV
workshops 2021, arXiv:2107.10833): a U-Net with spectral normalisation that judges every pixel.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from scalewise.errors import TrainingError
from scalewise.layers import conv3
from scalewise.training.losses.perceptual import VGG19
from scalewise.training.losses.pixel import rendered
from scalewise.training.stage import Batch, Stage, check_losses
from scalewise.training.task import StageTask


class UNetDiscriminator(nn.Module):
    """(b, 3, h, w), sides multiples of 8 → (b, 1, h, w) logits: is this pixel of a real picture?

    Three steps down by convolutions of stride 2, three up by bilinear enlargement, with the features of the way down
    added. First and last convolution are plain, all others spectrally normalised and without bias."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        c = channels
        self.first = conv3(3, c)
        self.down = nn.ModuleList(spectral_norm(nn.Conv2d(c << k, c << (k + 1), 4, 2, 1, bias=False)) for k in range(3))
        self.up = nn.ModuleList(spectral_norm(conv3(c << (k + 1), c << k, bias=False)) for k in (2, 1, 0))
        self.refine = nn.ModuleList(spectral_norm(conv3(c, c, bias=False)) for _ in range(2))
        self.last = conv3(c, 1)

    def forward(self, rgb: Tensor) -> Tensor:
        x = F.leaky_relu(self.first(rgb), 0.2)
        passed = []
        for layer in self.down:
            passed.append(x)
            x = F.leaky_relu(layer(x), 0.2)
        for layer in self.up:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = F.leaky_relu(layer(x), 0.2) + passed.pop()
        for layer in self.refine:
            x = F.leaky_relu(layer(x), 0.2)
        return self.last(x)


def against(logits: Tensor, *, real: bool) -> Tensor:
    """Binary cross entropy of logits that should all say `real`, or all not."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


class AdversarialWay(StageTask):
    """A step of the generator, then one of the discriminator, on the same batch. Logs `accuracy`: the share of pixels,
    half of them real, that the discriminator judges rightly."""

    def __init__(
        self,
        model: nn.Module,
        stage: Stage,
        *,
        seed: tuple[int, ...],
        out: Path,
        perceptual: float,
        adversarial: float,
        channels: int,
        vgg: Path | None,
        widths: Sequence[int],
        learning_rate: float | None,
    ) -> None:
        super().__init__(model, stage, seed=seed, out=out)
        self.automatic_optimization = False
        self.perceptual, self.adversarial, self.learning_rate = perceptual, adversarial, learning_rate
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed[0])
            self.judge = UNetDiscriminator(channels)
        if vgg is None:
            print(f"stage {stage.name}: the perceptual loss looks through random weights; --vgg FILE", file=sys.stderr)
        self.vgg = VGG19(vgg, widths).requires_grad_(False)

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
        loss = error + self.perceptual * seen + self.adversarial * fooled
        losses = {"loss": loss, "l1": error, "perceptual": seen, "adversarial": fooled}
        check_losses(losses)
        self.last = {name: value.detach() for name, value in losses.items()}
        self._step(ours, loss)

        if self.learning_rate is not None:
            for group in theirs.param_groups:
                group["lr"] = self.rate() * self.learning_rate / self.stage.learning_rate
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
