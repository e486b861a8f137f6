"""CiaoSR for real pictures in two stages: L1, then L1, perceptual and adversarial loss together; a tiny sibling.

Cao et al., CVPR 2023, arXiv:2212.04362, section 5.4 and the published configuration: SwinIR's trunk without non-local
attention, `data/degradations.real_world`, 48 crops, Adam 2e-4 for 1 M steps, then 1e-4 for both networks for 400 k,
averaged weights. L1 and perceptual loss see the sharpened crop, the discriminator the crop itself. What is broken in
the published configuration is mended: windows, not runs of points folded into squares, are what the losses look at.

The perceptual loss wants VGG19's weights, which are not ours to ship: `scalewise train ciaosr-real --vgg FILE`. The
tiny sibling looks through random ones.
"""

from __future__ import annotations

from dataclasses import replace

from scalewise.checkpoints.spec import Pair, spec, tail
from scalewise.data import AnyScaleCrops
from scalewise.data.degradations import real_world, unsharp
from scalewise.encoders.swinir import SwinIR
from scalewise.recipes.pairs import CIAOSR_MEAN, CIAOSR_STD, ENCODERS
from scalewise.training.gan import Adversarial
from scalewise.training.losses.pixel import l1
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage, cosine
from scalewise.upsamplers.ciaosr import CiaoSR

# 256 HR pixels are spoiled together, as the paper prints; of their LR the published code learns 64×64 at any scale.
CROPS = AnyScaleCrops(lr_side=64, points=64, unequal=0.0, reduce=real_world, target=unsharp, hr_side=256)
L1 = Stage("l1", 1_000_000, CROPS, l1, batch=48, learning_rate=2e-4, betas=(0.9, 0.99), ema=0.999)
GAN = replace(
    L1, name="gan", steps=400_000, samples=replace(CROPS, layout="window"), learning_rate=1e-4, task=Adversarial()
)  # fmt: skip

CIAOSR_REAL = Recipe(
    "ciaosr-real",
    Pair(spec(SwinIR, features=None), tail(CiaoSR, non_local=False), mean=CIAOSR_MEAN, std=CIAOSR_STD),
    (L1, GAN),
    source="CiaoSR (arXiv:2212.04362), section 5.4 and its published configuration",
    summary="SwinIR with CiaoSR for real pictures: blur, noise and JPEG undone, any scale",
)  # fmt: skip

SMALL = AnyScaleCrops(lr_side=32, points=32, tries=3, reduce=real_world, target=unsharp)
# Not sharpened: so small a network first learns to undo the damage.
TINY = replace(
    L1, steps=800, samples=replace(SMALL, target=None), batch=4, learning_rate=2e-3, schedule=cosine, warmup=50,
    ema=0.99,
)  # fmt: skip
TINY_GAN = replace(
    TINY, name="gan", steps=200, samples=replace(SMALL, layout="window"), learning_rate=1e-4, warmup=10,
    task=Adversarial(channels=16, learning_rate=2e-3),
)  # fmt: skip
CIAOSR_REAL_TINY = replace(
    CIAOSR_REAL,
    name="ciaosr-real-tiny",
    network=Pair(
        ENCODERS["swinir"].tiny, tail(CiaoSR, hidden=(64, 64), non_local=False), mean=CIAOSR_MEAN, std=CIAOSR_STD
    ),
    stages=(TINY, TINY_GAN),
    summary="the same in minutes on two cores, through a random VGG19",
)  # fmt: skip
