"""FSRCNN, CARN-M and SRResNet with their own tails at ×4, as the networks that route patches start from them.

ClassSR (Kong et al., CVPR 2021, arXiv:2103.04039) trains these three alike, and ARM and ENAF go on from such networks:
500 000 steps of 16 crops of 32×32 LR pixels, Adam (0.9, 0.99) 1e-3 for FSRCNN and 2e-4 for the others, falling along a
cosine to 1e-7, L1. For EDSR see `edsr.py`.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from scalewise.checkpoints.spec import Pair, Spec, spec, tail
from scalewise.data import FixedScaleCrops
from scalewise.encoders.carn import CARN
from scalewise.encoders.fsrcnn import FSRCNN
from scalewise.encoders.srresnet import SRResNet
from scalewise.models.super_resolver import Base
from scalewise.recipes.expected import printed
from scalewise.training.losses.pixel import l1
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage, cosine, cosine_to
from scalewise.upsamplers.fixed import CascadeTail, Deconvolution, ResNetTail

L1 = Stage(
    "l1", 500_000, FixedScaleCrops(scale=4, lr_side=32), l1, learning_rate=2e-4, schedule=cosine_to(5e-4),
    betas=(0.9, 0.99),
)  # fmt: skip
TINY = replace(
    L1, steps=1_200, samples=FixedScaleCrops(scale=4, lr_side=32, tries=3), batch=8, learning_rate=2e-3,
    schedule=cosine, warmup=50, ema=0.99,
)  # fmt: skip


def network(encoder: Spec[nn.Module], upsampler: Spec[nn.Module], base: Base | None = None) -> Pair:
    return Pair(encoder, upsampler, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), base=base)


def recipe(name: str, title: str, of: Pair, stage: Stage) -> Recipe:
    return Recipe(
        f"{name}-x4",
        of,
        (stage,),
        source="ClassSR (arXiv:2103.04039), its backbones; the same networks in ARM and ENAF",
        summary=f"{title} with its own tail: ×4 only",
        expects=printed(name, "Test2K", {"enaf": "ENAF table 1"}),
        validate_at=(4.0,),
    )


def tiny(paper: Recipe, of: Pair, stage: Stage = TINY) -> Recipe:
    return replace(
        paper, name=f"{paper.name}-tiny", network=of, stages=(stage,), summary="the same in minutes on two cores",
        expects={},
    )  # fmt: skip


DECONVOLUTION, CASCADE = tail(Deconvolution, scale=4), tail(CascadeTail, scales=(4,))
RESNET_TAIL = tail(ResNetTail, scale=4)
FASTER = replace(L1, learning_rate=1e-3, schedule=cosine_to(1e-4))
FSRCNN_X4 = recipe("fsrcnn", "FSRCNN", network(spec(FSRCNN), DECONVOLUTION), FASTER)
CARN_X4 = recipe("carn", "CARN-M", network(spec(CARN), CASCADE), L1)
SRRESNET_X4 = recipe("srresnet", "SRResNet", network(spec(SRResNet), RESNET_TAIL), L1)
FIXED = (
    FSRCNN_X4,
    tiny(FSRCNN_X4, network(spec(FSRCNN), DECONVOLUTION, base="bicubic"), replace(TINY, steps=3_000)),
    CARN_X4,
    tiny(CARN_X4, network(spec(CARN, channels=32), CASCADE, base="bicubic")),
    SRRESNET_X4,
    tiny(SRRESNET_X4, network(spec(SRResNet, channels=32, blocks=4), RESNET_TAIL)),  # adds to the picture itself
)
