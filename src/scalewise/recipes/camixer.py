"""CAMixerSR at ×2 in three ways: with the ratio loss that is coded, with the one that is printed, and with the repaired
predictor, which routes by content; and CAMixerSR for 360° images. Tiny siblings.

Wang et al., CVPR 2024, arXiv:2402.19289; its published configuration is for ×4: DIV2K, LR crops of 64×64, 64 of them,
AdamW 5e-4 (0.9, 0.99), decay 1e-4, halved at 250, 400, 450 and 475 of 500 thousand steps, EMA 0.999, L1 plus the ratio
loss. The published code does not train as it is (it reads a ratio that it never sets). For 360° images neither code nor
supplement gives optimizer or steps: those are OSRT's (Yu et al., CVPR 2023), whose light model it is compared with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from scalewise.data import FixedScaleCrops, PanoramaCrops
from scalewise.recipes import start
from scalewise.training.adaptive import SphericalL1, WindowedL1, coded_ratio, layer_ratio, printed_ratio
from scalewise.training.recipe import Recipe, Stage, cosine, halved
from scalewise.zoo import Network

GRAY, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
TINY_SIZE = {"channels": 24, "depths": [2, 2]}


def network(predictor: str = "published", **sizes: object) -> Network:
    of_encoder = {"predictor": predictor, **sizes}
    return Network.pair("camixer", "direct_shuffle", of_encoder=of_encoder, of_upsampler={"scale": 2}, mean=GRAY, std=ONE)


L1 = Stage(
    "l1", 500_000, FixedScaleCrops(scale=2, lr_side=64), WindowedL1(coded_ratio), batch=64, learning_rate=5e-4,
    schedule=halved(0.5, 0.8, 0.9, 0.95), betas=(0.9, 0.99), decay=1e-4,
)  # fmt: skip

CAMIXER_CODED = Recipe(
    "camixer-x2-coded",
    network(),
    (L1,),
    source="CAMixerSR (arXiv:2402.19289), its published configuration, at ×2",
    summary="CAMixerSR with the ratio loss of its code: ×2",
    expects={"camixer-light Set5 x2": 38.23, "camixer-light Set14 x2": 34.00, "camixer-light B100 x2": 32.34},
    validate_at=(2.0,),
)
CAMIXER_PRINTED = replace(
    CAMIXER_CODED,
    name="camixer-x2-printed",
    stages=(replace(L1, loss=WindowedL1(printed_ratio)),),
    source="CAMixerSR (arXiv:2402.19289), section 3.3, and its published configuration, at ×2",
    summary="CAMixerSR with the ratio loss that is printed: ×2",
)


def but_the_score(model: nn.Module) -> Iterable[nn.Parameter]:
    """All but what scores windows: it starts at zero, so windows are drawn by chance alone."""
    return (p for name, p in model.named_parameters() if ".predictor.score." not in name)


# Ours: both kinds of windows learn on windows of all kinds before the predictor chooses, or it would avoid for ever what
# attention cannot do yet; then everything, at a share drawn anew for each step.
BY_CHANCE = replace(
    L1, name="by-chance", steps=100_000, loss=WindowedL1(layer_ratio, (0.05, 0.95), 0.01), prepare=start.by_chance,
    trains=but_the_score, schedule=lambda done: 1.0,
)  # fmt: skip
ROUTED = replace(BY_CHANCE, name="routed", steps=400_000, prepare=None, trains=None, schedule=L1.schedule)
CAMIXER = replace(
    CAMIXER_CODED,
    name="camixer-x2",
    network=network("repaired"),
    stages=(BY_CHANCE, ROUTED),
    source="ours after CAMixerSR (arXiv:2402.19289): a predictor that sees content, spec adaptive §2.4",
    summary="CAMixerSR with the repaired predictor: ×2, any share of attention",
)
