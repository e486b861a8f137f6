"""EDSR-baseline, with LIIF at any scale and with its own pixel shuffle at ×4; siblings that train in minutes.

LIIF: Chen et al., CVPR 2021, arXiv:2012.09161, section 4: 1 M steps of 16 crops, 2304 points of each, Adam 1e-4 halved
four times, L1. EDSR: Lim et al., CVPR workshops 2017, arXiv:1707.02921, section 4.2: 16 crops, Adam 1e-4 halved every
200 000 steps, L1; the fixed-scale rows of LIIF's tables are trained like LIIF, and so is ours. Not in the papers: a
quarter of the any-scale samples has unequal axes; the tiny siblings also average their weights, look for detail
(`tries`) and learn a residual on an interpolated picture (`base`).
"""

from __future__ import annotations

from dataclasses import replace

from scalewise.checkpoints.spec import Pair, spec, tail
from scalewise.data import AnyScaleCrops, FixedScaleCrops
from scalewise.encoders.edsr import EDSR
from scalewise.training.losses.pixel import l1
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage, cosine, halved
from scalewise.upsamplers.fixed import PixelShuffle
from scalewise.upsamplers.liif import LIIF

LIIF_STAGE = Stage("l1", 1_000_000, AnyScaleCrops(lr_side=48, points=48), l1, schedule=halved(0.2, 0.4, 0.6, 0.8))

EDSR_LIIF = Recipe(
    "edsr-liif",
    Pair(spec(EDSR, channels=64, blocks=16), tail(LIIF)),
    (LIIF_STAGE,),
    source="LIIF (arXiv:2012.09161), section 4 and its published configuration",
    summary="EDSR-baseline with LIIF: any scale",
    expects={"liif-div2k DIV2K x2": 34.67, "liif-div2k DIV2K x3": 30.96, "liif-div2k DIV2K x4": 29.00},
)
TINY = replace(
    LIIF_STAGE, steps=3_000, samples=AnyScaleCrops(lr_side=32, points=32, whole=0.3, tries=3), batch=8,
    learning_rate=5e-4, schedule=cosine, warmup=50, ema=0.99,
)  # fmt: skip
EDSR_LIIF_TINY = replace(
    EDSR_LIIF,
    name="edsr-liif-tiny",
    network=Pair(spec(EDSR, channels=32, blocks=4), tail(LIIF, hidden=(64, 64)), base="bilinear"),
    stages=(TINY,),
    summary="the same in minutes on two cores",
    expects={},
)

EDSR_X4 = Recipe(
    "edsr-x4",
    Pair(spec(EDSR, channels=64, blocks=16), tail(PixelShuffle, scale=4)),
    (replace(LIIF_STAGE, samples=FixedScaleCrops(scale=4, lr_side=48)),),
    source="EDSR (arXiv:1707.02921), baseline; the trunk and tail of its published weights",
    summary="EDSR-baseline with pixel shuffle: ×4 only",
    expects={"liif-div2k DIV2K x4": 28.94},
    validate_at=(4.0,),
)
EDSR_X4_TINY = replace(
    EDSR_X4,
    name="edsr-x4-tiny",
    network=Pair(spec(EDSR, channels=32, blocks=4), tail(PixelShuffle, scale=4), base="bicubic"),
    stages=(replace(TINY, steps=2_000, samples=FixedScaleCrops(scale=4, lr_side=32, tries=3), learning_rate=2e-3),),
    summary="the same in minutes on two cores",
    expects={},
)
