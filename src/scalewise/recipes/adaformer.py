"""AdaFormer with one convolution and a pixel shuffle, at ×2 and at the paper's ×4, trained with its halting; siblings.

Luo et al., AAAI 2024: LR crops of 48×48, 16 of them, Adam 2e-4 halved every 200 of 1000 epochs of 1000 steps, L1 and
the uncertainty loss of every layer's confidence (Eq. 17), halting at ε = 0.05.
"""

from __future__ import annotations

from dataclasses import replace

from scalewise.checkpoints.spec import Pair, spec, tail
from scalewise.data import FixedScaleCrops
from scalewise.encoders.adaformer import AdaFormer
from scalewise.training.losses.adaptive import estimator, halting_l1
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage, cosine, halved
from scalewise.upsamplers.fixed import DirectShuffle

L1 = Stage(
    "l1", 1_000_000, FixedScaleCrops(scale=2, lr_side=48), halting_l1, learning_rate=2e-4,
    schedule=halved(0.2, 0.4, 0.6, 0.8),
)  # fmt: skip

ADAFORMER_X2 = Recipe(
    "adaformer-x2",
    Pair(spec(AdaFormer), tail(DirectShuffle, scale=2)),
    (L1,),
    source="AdaFormer (AAAI 2024), section 4.1",
    summary="AdaFormer: ×2, tokens leave when they are well restored",
    validate_at=(2.0,),
)

TINY = replace(
    L1, steps=1_800, samples=FixedScaleCrops(scale=2, lr_side=32, tries=3), batch=4, learning_rate=2e-3,
    schedule=cosine, warmup=50, ema=0.99,
)  # fmt: skip
# In so few steps the estimator learns too little: it goes on alone, faster, on crops of which many are flat.
ESTIMATOR = replace(
    TINY, name="estimator", steps=800, samples=FixedScaleCrops(scale=2, lr_side=32), learning_rate=1e-2,
    betas=(0.9, 0.99), trains=estimator,
)  # fmt: skip

SMALL = spec(AdaFormer, channels=32, blocks=4, embed=32, heads=2, hidden=64, encoder_blocks=2, decoder_blocks=2)
ADAFORMER_X2_TINY = replace(
    ADAFORMER_X2,
    name="adaformer-x2-tiny",
    network=Pair(SMALL, tail(DirectShuffle, scale=2), base="bicubic"),
    stages=(TINY, ESTIMATOR),
    summary="the same in minutes on two cores",
)  # fmt: skip

ADAFORMER_X4 = replace(
    ADAFORMER_X2,
    name="adaformer-x4",
    network=Pair(spec(AdaFormer), tail(DirectShuffle, scale=4)),
    stages=(replace(L1, samples=FixedScaleCrops(scale=4, lr_side=48)),),
    summary="AdaFormer: ×4, tokens leave when they are well restored",
    expects={
        "adaformer Set5 x4": 32.43, "adaformer Set14 x4": 28.80, "adaformer B100 x4": 27.70,
        "adaformer Urban100 x4": 26.48, "adaformer DIV2K x4": 30.63,
    },
    validate_at=(4.0,),
)  # fmt: skip
ADAFORMER_X4_TINY = replace(
    ADAFORMER_X4,
    name="adaformer-x4-tiny",
    network=Pair(SMALL, tail(DirectShuffle, scale=4), base="bicubic"),
    stages=(
        replace(TINY, samples=FixedScaleCrops(scale=4, lr_side=24, tries=3)),
        replace(ESTIMATOR, samples=FixedScaleCrops(scale=4, lr_side=24)),
    ),
    summary="the same in minutes on two cores",
    expects={},
)
