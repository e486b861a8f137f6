"""A stage against a discriminator, as a value: `gan.py` runs it. Apart from there, so that recipes can be listed, and
models trained by `device_loop.py`, without Lightning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from scalewise.training.losses.perceptual import WIDTHS
from scalewise.training.stage import Stage

if TYPE_CHECKING:
    from scalewise.training.task import StageTask


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

    def __call__(self, model: nn.Module, stage: Stage, *, seed: tuple[int, ...], out: Path) -> StageTask:
        from scalewise.training.gan import AdversarialWay

        return AdversarialWay(
            model,
            stage,
            seed=seed,
            out=out,
            perceptual=self.perceptual,
            adversarial=self.adversarial,
            channels=self.channels,
            vgg=self.vgg,
            widths=self.widths,
            learning_rate=self.learning_rate,
        )
