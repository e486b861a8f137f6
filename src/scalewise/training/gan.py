"""Training against a discriminator: L1, perceptual and adversarial loss of CiaoSR's real-world model.

CiaoSR (Cao et al., CVPR 2023), section 5.4, takes the losses and the discriminator of Real-ESRGAN (Wang et al., ICCV
workshops 2021, arXiv:2107.10833): a U-Net with spectral normalisation that judges every pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from scalewise.layers import conv3
from scalewise.training.losses.perceptual import WIDTHS
from scalewise.training.recipe import Stage

if TYPE_CHECKING:
    from scalewise.training.task import Way


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


@dataclass(frozen=True)
class Adversarial:
    """A stage's `way`: the weights of the perceptual and the adversarial loss beside L1's 1, the discriminator's width,
    and VGG19: a state dict by path, or random weights of `widths`. `learning_rate` of the discriminator: the stage's if
    None. Samples have "hr", a window, and "plain": the same before it was sharpened, which the discriminator sees."""

    perceptual: float = 1.0
    adversarial: float = 0.1
    channels: int = 64
    vgg: Path | None = None
    widths: Sequence[int] = WIDTHS
    learning_rate: float | None = None

    def __call__(self, model: nn.Module, stage: Stage, *, seed: tuple[int, ...], out: Path) -> Way:
        from scalewise.training.adversarial import AdversarialWay  # recipes can be listed without Lightning

        return AdversarialWay(self, model, stage, seed=seed, out=out)


def against(logits: Tensor, *, real: bool) -> Tensor:
    """Binary cross entropy of logits that should all say `real`, or all not."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))
