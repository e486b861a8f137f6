"""CAMixerSR at ×2 and ×4 in three ways: with the ratio loss that is coded, with the one that is printed, and with the
repaired predictor, which routes by content; its three sizes for large pictures at ×4; CAMixerSR for 360° images. Tiny
siblings.

Wang et al., CVPR 2024, arXiv:2402.19289; its published configuration is for ×4, and taken for ×2 too: DIV2K, LR crops
of 64×64, 64 of them, AdamW 5e-4 (0.9, 0.99), decay 1e-4, halved at 250, 400, 450 and 475 of 500 thousand steps, EMA
0.999, L1 plus the ratio loss. The published code does not train as it is (it reads a ratio that it never sets). For
360° images neither code nor supplement gives optimizer or steps: those are OSRT's (Yu et al., CVPR 2023), whose light
model it is compared with. `classsr.py` has CAMixerSR with ClassSR.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from scalewise.checkpoints.spec import Pair, spec, tail
from scalewise.data import FixedScaleCrops, PanoramaCrops
from scalewise.encoders.camixer import BASE, MEDIUM, SMALL, CAMixer
from scalewise.encoders.camixer_odi import CAMixerODI
from scalewise.layers import DIV2K_MEAN
from scalewise.recipes.expected import printed_at
from scalewise.training.losses.adaptive import SphericalL1, WindowedL1, coded_ratio, hardest_windows, printed_ratio
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage, cosine, halved
from scalewise.upsamplers.fixed import DirectShuffle

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
PUBLISHED = Pair(spec(CAMixer, predictor="published"), tail(DirectShuffle, scale=2), mean=ZERO, std=ONE)
SMALL_PUBLISHED = replace(PUBLISHED, encoder=spec(CAMixer, 24, (2, 2), predictor="published"), base="bicubic")


L1 = Stage(
    "l1", 500_000, FixedScaleCrops(scale=2, lr_side=64), WindowedL1(coded_ratio), batch=64, learning_rate=5e-4,
    schedule=halved(0.5, 0.8, 0.9, 0.95), betas=(0.9, 0.99), decay=1e-4, ema=0.999,
)  # fmt: skip

CAMIXER_CODED = Recipe(
    "camixer-x2-coded",
    PUBLISHED,
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


# Ours: a share drawn for each step, and a loss that shows every layer which windows have the largest error.
REPAIRED = replace(L1, loss=WindowedL1(hardest_windows, (0.5, 0.98), 3.0))
CAMIXER = replace(
    CAMIXER_CODED,
    name="camixer-x2",
    network=replace(PUBLISHED, encoder=spec(CAMixer, predictor="repaired")),
    stages=(REPAIRED,),
    source="ours after CAMixerSR (arXiv:2402.19289): a predictor that sees content",
    summary="CAMixerSR with the repaired predictor: ×2, any share of attention",
)

ODI = Stage(
    "l1", 500_000, PanoramaCrops(scale=2, lr_side=128), SphericalL1(printed_ratio), learning_rate=2e-4,
    schedule=halved(0.5, 0.8, 0.9, 0.95), betas=(0.9, 0.99),
)  # fmt: skip
CAMIXER_ODI_NETWORK = Pair(spec(CAMixerODI), tail(DirectShuffle, scale=2), mean=DIV2K_MEAN, std=ONE)
CAMIXER_ODI = Recipe(
    "camixer-odi-x2",
    CAMIXER_ODI_NETWORK,
    (ODI,),
    source="CAMixerSR (arXiv:2402.19289), supplement 1.3; optimizer and steps of OSRT-light (CVPR 2023)",
    summary="CAMixerSR for 360° images: ×2, L1 weighed by latitude",
    expects={"odi ODI-SR x2": 30.46, "odi SUN360 x2": 31.04},
    validate_at=(2.0,),
)

# In fp32, which is as fast here; in bf16 a gradient overflowed: attention is not scaled.
CROPS = FixedScaleCrops(scale=2, lr_side=48, tries=3)
TINY = replace(
    L1, steps=400, samples=CROPS, batch=4, learning_rate=2e-3, schedule=cosine,
    warmup=30, decay=0.0, ema=0.99, exact=True,
)  # fmt: skip
CAMIXER_CODED_TINY = replace(
    CAMIXER_CODED,
    name="camixer-x2-coded-tiny",
    network=SMALL_PUBLISHED,
    stages=(TINY,),
    summary="the same in minutes on two cores",
    expects={},
)
CAMIXER_PRINTED_TINY = replace(
    CAMIXER_CODED_TINY,
    name="camixer-x2-printed-tiny",
    stages=(replace(TINY, loss=WindowedL1(printed_ratio)),),
    source=CAMIXER_PRINTED.source,
)
CAMIXER_TINY = replace(
    CAMIXER,
    name="camixer-x2-tiny",
    network=replace(SMALL_PUBLISHED, encoder=spec(CAMixer, 24, (2, 2), predictor="repaired")),
    stages=(replace(TINY, steps=800, loss=REPAIRED.loss),),
    summary="the same in minutes on two cores",
    expects={},
)  # fmt: skip
CAMIXER_ODI_TINY = replace(
    CAMIXER_ODI,
    name="camixer-odi-x2-tiny",
    network=replace(CAMIXER_ODI_NETWORK, encoder=spec(CAMixerODI, 24, (2, 2)), base="bicubic"),
    stages=(
        replace(
            TINY,
            steps=400,
            samples=PanoramaCrops(scale=2, lr_side=32, tries=3),
            loss=SphericalL1(printed_ratio),
            batch=6,
        ),
    ),
    summary="the same in minutes on two cores",
    expects={},
)


# --- ×4: the published configuration, and its sizes for large pictures ------------------------------------------------


def at_four(recipe: Recipe, name: str, lr_side: int, expects: Mapping[str, float], **encoder: object) -> Recipe:
    """A recipe of ×2 at ×4; `encoder`: other arguments of its encoder."""
    network = recipe.network
    assert isinstance(network, Pair)
    stages = tuple(
        replace(stage, samples=replace(stage.samples, scale=4, lr_side=lr_side))  # type: ignore[type-var]
        for stage in recipe.stages
    )
    network = replace(
        network,
        encoder=replace(network.encoder, arguments={**network.encoder.arguments, **encoder}),
        upsampler=tail(DirectShuffle, scale=4),
    )
    return replace(
        recipe, name=name, network=network, stages=stages, summary=recipe.summary.replace("×2", "×4"), expects=expects,
        source=recipe.source.replace(", at ×2", ""), validate_at=(4.0,),
    )  # fmt: skip


LIGHT_X4 = printed_at("camixer-b", "camixer", "camixer-light", "gamma=0.5", 4)
CAMIXER_X4 = at_four(CAMIXER, "camixer-x4", 64, LIGHT_X4)
CAMIXER_X4_PRINTED = at_four(CAMIXER_PRINTED, "camixer-x4-printed", 64, LIGHT_X4)
CAMIXER_X4_CODED = at_four(CAMIXER_CODED, "camixer-x4-coded", 64, LIGHT_X4)
CAMIXER_X4_TINY = at_four(CAMIXER_TINY, "camixer-x4-tiny", 32, {})
CAMIXER_X4_PRINTED_TINY = at_four(CAMIXER_PRINTED_TINY, "camixer-x4-printed-tiny", 32, {})
CAMIXER_X4_CODED_TINY = at_four(CAMIXER_CODED_TINY, "camixer-x4-coded-tiny", 32, {})


def for_large_pictures(size: str, channels: int, tiny_channels: int) -> tuple[Recipe, Recipe]:
    """`camixer-s-x4` and so on, and its sibling: the supplement says of them no more than their channels."""
    expects = printed_at(f"camixer-{size}", "camixer", "camixer-large", "gamma=0.5", 4)
    summary = f"CAMixerSR-{size.upper()} for large pictures: ×4"
    paper = at_four(CAMIXER_PRINTED, f"camixer-{size}-x4", 64, expects, channels=channels)
    tiny = at_four(CAMIXER_PRINTED_TINY, f"camixer-{size}-x4-tiny", 32, {}, channels=tiny_channels)
    return replace(paper, summary=summary), tiny


ODI_X4 = printed_at("camixer-odi", "camixer", "odi", "", 4)
CAMIXER_ODI_X4 = at_four(CAMIXER_ODI, "camixer-odi-x4", 64, ODI_X4)
CAMIXER_ODI_X4_TINY = at_four(CAMIXER_ODI_TINY, "camixer-odi-x4-tiny", 32, {})
CAMIXER_AT_FOUR = (
    CAMIXER_X4, CAMIXER_X4_TINY, CAMIXER_X4_PRINTED, CAMIXER_X4_PRINTED_TINY, CAMIXER_X4_CODED, CAMIXER_X4_CODED_TINY,
    *for_large_pictures("s", SMALL, 16), *for_large_pictures("m", MEDIUM, 20), *for_large_pictures("b", BASE, 24),
    CAMIXER_ODI_X4, CAMIXER_ODI_X4_TINY,
)  # fmt: skip
