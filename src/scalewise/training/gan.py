"""Training against a discriminator: L1, perceptual and adversarial loss of CiaoSR's real-world model.

CiaoSR (Cao et al., CVPR 2023), section 5.4, takes the losses and the discriminator of Real-ESRGAN (Wang et al., ICCV
workshops 2021, arXiv:2107.10833): a U-Net with spectral normalisation that judges every pixel.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import Optimizer

from scalewise.layers import conv3
from scalewise.training.losses.perceptual import VGG19, WIDTHS
from scalewise.training.losses.pixel import rendered
from scalewise.training.stage import Batch, Stage, StepContext
from scalewise.training.task import Prepared, StageTask


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


@dataclass(frozen=True)
class Adversarial:
    """A stage's `task`: the weights of the perceptual and the adversarial loss relative to L1, the discriminator's
    width, and VGG19: a state dict by path, or random weights of `widths`. `learning_rate` of the discriminator: the
    stage's if None. Samples have "hr", a window, and "plain": the same before it was sharpened, which the discriminator
    sees."""

    perceptual: float = 1.0
    adversarial: float = 0.1
    channels: int = 64
    vgg: Path | None = None
    widths: Sequence[int] = WIDTHS
    learning_rate: float | None = None

    def __call__(self, model: nn.Module, stage: Stage, *, seed: tuple[int, ...], out: Path) -> StageTask:
        return AdversarialTask(model, stage, self, seed=seed, out=out)


class AdversarialTask(StageTask):
    """A step of the generator, then one of the discriminator, on the same batch. Logs `accuracy`: the share of pixels,
    half of them real, that the discriminator classifies correctly."""

    one_process = True

    def __init__(
        self, model: nn.Module, stage: Stage, settings: Adversarial, *, seed: tuple[int, ...], out: Path
    ) -> None:
        super().__init__(model, stage, seed=seed, out=out)
        self.settings = settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed[0])
            self.judge = UNetDiscriminator(settings.channels)
        if settings.vgg is None:
            print(
                f"stage {stage.name}: the perceptual loss looks through random weights: give VGG19's", file=sys.stderr
            )
        self.vgg = VGG19(settings.vgg, settings.widths).requires_grad_(False)

    def optimizers(self) -> list[Optimizer]:
        return [self.adamw(self.learnt.values()), self.adamw(self.judge.parameters())]

    def set_rate(self) -> float:
        rate = super().set_rate()
        if self.settings.learning_rate is not None:
            for group in self.raw_optimizers[1].param_groups:
                group["lr"] = rate * self.settings.learning_rate / self.stage.learning_rate
        return rate

    def forward(self, batch: Batch, context: StepContext) -> dict[str, Tensor]:
        """The generator's losses, and its picture "sr"."""
        sr = rendered(self.model, batch).rgb
        error = F.l1_loss(sr, batch["hr"])
        seen = self.vgg.distance(sr, batch["hr"])
        self.judge.requires_grad_(False)
        fooled = against(self.judge(sr).float(), real=True)
        self.judge.requires_grad_(True)
        loss = error + self.settings.perceptual * seen + self.settings.adversarial * fooled
        return {"loss": loss, "l1": error, "perceptual": seen, "adversarial": fooled, "sr": sr}

    def train_step(self, batch: Batch, prepared: Prepared) -> None:
        ours, theirs = prepared.optimizers
        losses = prepared.losses(batch, self.context())
        sr = losses.pop("sr")
        self.last = {name: value.detach() for name, value in losses.items()}
        self.descend(ours, losses["loss"], batch, prepared)

        with torch.autocast(sr.device.type, torch.bfloat16, enabled=prepared.bf16):
            real, made = self.judge(batch["plain"]).float(), self.judge(sr.detach()).float()
            judged = against(real, real=True) + against(made, real=False)
        right = ((real > 0).float().mean() + (made < 0).float().mean()) / 2
        self.last |= {"judge": judged.detach(), "accuracy": right.detach()}
        self.descend(theirs, judged, batch, prepared)
