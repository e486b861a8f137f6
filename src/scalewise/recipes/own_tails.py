"""EDSR-baseline, RDN and SwinIR with their own tails at ×2, ×3 and ×4: the fixed-scale rows of the any-scale tables.

LIIF (Chen et al., CVPR 2021, arXiv:2012.09161) trains EDSR's and RDN's like its any-scale networks, on all pixels of
48×48 LR crops; CiaoSR (arXiv:2212.04362, Table 1) prints all three, SwinIR's by mistake as a copy of RDN's. SwinIR
ends with 64 channels before its tail, and is trained as LTE (arXiv:2111.08918) trains it. Tiny siblings add to bicubic
interpolation.
"""

from __future__ import annotations

from dataclasses import replace

from scalewise.checkpoints.spec import Pair, tail
from scalewise.data import FixedScaleCrops
from scalewise.recipes.edsr import EDSR_X4, EDSR_X4_TINY, LIIF_STAGE
from scalewise.recipes.expected import printed
from scalewise.recipes.pairs import ENCODERS, pair_recipe
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage
from scalewise.upsamplers.fixed import PixelShuffle

BACKBONES, SCALES = ("edsr", "rdn", "swinir"), (2, 3, 4)


def own_tail(encoder: str, scale: int) -> Recipe:
    """An encoder of `pairs.ENCODERS` with its pixel shuffle."""
    stage = pair_recipe(encoder, "lte").stages[0] if encoder == "swinir" else LIIF_STAGE
    sources = {} if encoder == "swinir" else {"ciaosr": "CiaoSR table 1"}
    expects = printed(f"{encoder}-own-tail", "DIV2K", sources)
    return Recipe(
        f"{encoder}-x{scale}",
        Pair(ENCODERS[encoder].paper, tail(PixelShuffle, scale=scale)),
        (_at(stage, scale, 48),),
        source="LIIF (arXiv:2012.09161), its fixed-scale networks; CiaoSR (arXiv:2212.04362), table 1",
        summary=f"{ENCODERS[encoder].title} with pixel shuffle: ×{scale} only",
        expects={name: value for name, value in expects.items() if name.endswith(f" x{scale}")},
        validate_at=(float(scale),),
    )


def tiny_own_tail(encoder: str, scale: int) -> Recipe:
    """The same at a size that trains in minutes on two cores."""
    return replace(
        own_tail(encoder, scale),
        name=f"{encoder}-x{scale}-tiny",
        network=Pair(ENCODERS[encoder].tiny, tail(PixelShuffle, scale=scale), base="bicubic"),
        stages=(_at(EDSR_X4_TINY.stages[0], scale, 32, tries=3),),
        summary="the same in minutes on two cores",
        expects={},
    )


def _at(stage: Stage, scale: int, lr_side: int, *, tries: int = 1) -> Stage:
    return replace(stage, samples=FixedScaleCrops(scale=scale, lr_side=lr_side, tries=tries))


OWN_TAILS = [
    make(encoder, scale)
    for encoder in BACKBONES
    for scale in SCALES
    if f"{encoder}-x{scale}" != EDSR_X4.name  # LIIF's own row of it, in `edsr.py`
    for make in (own_tail, tiny_own_tail)
]
