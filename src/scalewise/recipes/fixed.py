"""FSRCNN, CARN-M and SRResNet with their own tails at ×4, as the networks that route patches start from them.

ClassSR (Kong et al., CVPR 2021, arXiv:2103.04039) trains these three alike, and ARM and ENAF go on from such networks:
500 000 steps of 16 crops of 32×32 LR pixels, Adam (0.9, 0.99) 1e-3 for FSRCNN and 2e-4 for the others, falling along a
cosine, L1. For EDSR see `edsr.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from scalewise.checkpoints.spec import Network
from scalewise.data import FixedScaleCrops
from scalewise.recipes import start
from scalewise.recipes.pairs import printed
from scalewise.training.losses.pixel import l1
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage, cosine

L1 = Stage(
    "l1", 500_000, FixedScaleCrops(scale=4, lr_side=32), l1, learning_rate=2e-4, schedule=cosine, betas=(0.9, 0.99)
)  # fmt: skip
TINY = replace(L1, steps=1_200, batch=8, learning_rate=2e-3, warmup=50, ema=0.99)


def network(encoder: str, tail: str, sizes: Mapping[str, Any], **of_tail: Any) -> Network:
    return Network.pair(
        encoder, tail, of_encoder=sizes, of_upsampler=of_tail, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )


def recipe(name: str, title: str, of: Network, stage: Stage) -> Recipe:
    return Recipe(
        f"{name}-x4",
        of,
        (stage,),
        source="ClassSR (arXiv:2103.04039), its backbones; the same networks in ARM and ENAF",
        summary=f"{title} with its own tail: ×4 only",
        expects=printed(name, "Test2K", {"enaf": "ENAF table 1"}),
        validate_at=(4.0,),
    )


def tiny(paper: Recipe, of: Network, stage: Stage = TINY) -> Recipe:
    return replace(
        paper, name=f"{paper.name}-tiny", network=of, stages=(stage,), summary="the same in minutes on two cores",
        expects={},
    )  # fmt: skip


FSRCNN = network("fsrcnn", "deconvolution", {}, scale=4)
FSRCNN_X4 = recipe("fsrcnn", "FSRCNN", FSRCNN, replace(L1, learning_rate=1e-3))
CARN_X4 = recipe("carn", "CARN-M", network("carn", "cascade_tail", {}, scales=[4]), L1)
SRRESNET_X4 = recipe("srresnet", "SRResNet", network("srresnet", "resnet_tail", {}, scale=4), L1)
FIXED = (
    FSRCNN_X4,
    tiny(FSRCNN_X4, FSRCNN, replace(TINY, steps=3_000, prepare=start.fsrcnn_own)),  # small as it is
    CARN_X4,
    tiny(
        CARN_X4,
        network("carn", "cascade_tail", {"channels": 32}, scales=[4]),
        replace(TINY, prepare=start.carn),
    ),
    SRRESNET_X4,
    tiny(
        SRRESNET_X4,
        network("srresnet", "resnet_tail", {"channels": 32, "blocks": 4}, scale=4),
        replace(TINY, prepare=start.reading_pixels),
    ),
)
