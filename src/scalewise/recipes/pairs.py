"""Every encoder with every any-scale upsampler, as the papers train them, and tiny siblings that meet each of them.

The setup is LIIF's (Chen et al., CVPR 2021, arXiv:2012.09161): 1 M steps of 16 crops of 48×48 LR pixels, scales
U(1, 4), 2304 points of each, Adam 1e-4 halved four times, L1. LTE (arXiv:2111.08918), CiaoSR (arXiv:2212.04362) and
TADT (arXiv:2408.08736), whose tables hold most of the pairs, point to it; the code below has what they change. ITSRN
published no training on photos, its rows were trained by CiaoSR; RCAN, NLSN and CAT with these upsamplers by TADT. For
ELAN, and for pairs without a printed row, nothing is expected. What differs from LIIF in ours: `recipes/edsr.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from scalewise.checkpoints.spec import Pair, Spec, spec, tail
from scalewise.data import AnyScaleCrops
from scalewise.encoders.cat import CAT
from scalewise.encoders.edsr import EDSR
from scalewise.encoders.elan import ELAN
from scalewise.encoders.nlsa import NLSA
from scalewise.encoders.rcan import RCAN
from scalewise.encoders.rdn import RDN
from scalewise.encoders.swinir import SwinIR
from scalewise.layers import DIV2K_MEAN
from scalewise.models.super_resolver import Base
from scalewise.recipes.edsr import EDSR_LIIF, LIIF_STAGE
from scalewise.recipes.expected import printed
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage, cosine, halved
from scalewise.upsamplers.ciaosr import CiaoSR
from scalewise.upsamplers.itsrn import ITSRN
from scalewise.upsamplers.liif import LIIF
from scalewise.upsamplers.lte import LTE
from scalewise.upsamplers.metasr import MetaSR


@dataclass(frozen=True)
class Part:
    """An encoder or upsampler: its title, the size that the papers give it, and one that trains in minutes."""

    title: str
    paper: Spec[nn.Module]
    tiny: Spec[nn.Module]


ENCODERS: Mapping[str, Part] = {
    "edsr": Part("EDSR-baseline", spec(EDSR, channels=64, blocks=16), spec(EDSR, channels=32, blocks=4)),
    "rdn": Part("RDN", spec(RDN), spec(RDN, channels=32, blocks=3, layers=3, growth=16)),
    # TADT ends these two with a convolution to 64 channels.
    "rcan": Part("RCAN", spec(RCAN, width=64), spec(RCAN, channels=32, groups=2, blocks=2, reduction=8)),
    "nlsa": Part(
        "NLSN", spec(NLSA, width=64), spec(NLSA, channels=32, blocks=8, res_scale=1.0, chunk=64, hashes=2)
    ),
    "swinir": Part(
        "SwinIR", spec(SwinIR), spec(SwinIR, embed=32, depths=(2, 2), heads=(2, 2), features=32, drop_path=0.0)
    ),
    "cat": Part(
        "CAT-R-2",
        spec(CAT),
        spec(CAT, embed=32, depths=(2,), heads=(2,), splits=((4, 16),), features=32, drop_path=0.0),
    ),
    "elan": Part("ELAN", spec(ELAN, channels=180, depth=36, share=0), spec(ELAN, channels=30, depth=4)),
}  # fmt: skip
UPSAMPLERS: Mapping[str, Part] = {
    "metasr": Part("Meta-SR", tail(MetaSR), tail(MetaSR, hidden=32)),
    "liif": Part("LIIF", tail(LIIF), tail(LIIF, hidden=(64, 64))),
    "lte": Part("LTE", tail(LTE), tail(LTE, hidden_dim=64, mlp=(64, 64))),
    "itsrn": Part("ITSRN", tail(ITSRN), tail(ITSRN, hidden=(64, 32))),
    "ciaosr": Part("CiaoSR", tail(CiaoSR), tail(CiaoSR, hidden=(64, 64))),
}
ADD_TO_THE_PICTURE = {"lte", "ciaosr"}  # these learn a residual on the bilinear picture; the others need a base
CIAOSR_MEAN, CIAOSR_STD = DIV2K_MEAN, (1.0, 1.0, 1.0)


def pair_recipe(encoder: str, upsampler: str) -> Recipe:
    """An encoder with an upsampler, as the paper that prints the pair trains it."""
    trunk, stage = ENCODERS[encoder].paper, LIIF_STAGE
    if (encoder, upsampler) == ("swinir", "lte"):
        stage = replace(LIIF_STAGE, steps=500_000, batch=32, learning_rate=2e-4, schedule=halved(0.5, 0.8, 0.9, 0.95))
    if (encoder, upsampler) == ("swinir", "ciaosr"):  # without LTE's last convolution
        trunk = spec(SwinIR, features=None)
    return Recipe(
        f"{encoder}-{upsampler}",
        pair_of(trunk, UPSAMPLERS[upsampler].paper),
        (one_scale(stage) if upsampler == "metasr" else stage,),
        source="LIIF (arXiv:2012.09161), section 4; LTE, CiaoSR and TADT train their pairs alike",
        summary=f"{ENCODERS[encoder].title} with {UPSAMPLERS[upsampler].title}: any scale",
        expects=printed(f"{encoder}-{upsampler}", "DIV2K", {"tadt": "TADT table 1", "ciaosr": "CiaoSR table 1"}),
    )


TINY_CROPS = AnyScaleCrops(lr_side=32, points=24, whole=0.3, tries=3)
TINY = replace(
    LIIF_STAGE, steps=1_000, samples=TINY_CROPS, batch=4, learning_rate=1e-3, schedule=cosine, warmup=50,
    ema=0.99,
)  # fmt: skip


def tiny_pair(encoder: str, upsampler: str) -> Recipe:
    """The same at a size that trains in minutes on two cores."""
    return replace(
        pair_recipe(encoder, upsampler),
        name=f"{encoder}-{upsampler}-tiny",
        network=pair_of(ENCODERS[encoder].tiny, UPSAMPLERS[upsampler].tiny, base=tiny_base(upsampler)),
        stages=(tiny_stage(upsampler),),
        summary="the same in minutes on two cores",
        expects={},
    )


def tiny_base(upsampler: str) -> Base | None:
    """What the tiny sibling adds to."""
    return None if upsampler in ADD_TO_THE_PICTURE else "bilinear"


def tiny_stage(upsampler: str) -> Stage:
    """Meta-SR and ITSRN take longer."""
    if upsampler == "metasr":
        return replace(one_scale(TINY), steps=4_000)
    if upsampler == "itsrn":
        return replace(TINY, steps=5_000, samples=replace(TINY_CROPS, whole=0.5))
    return TINY


def pair_of(encoder: Spec[nn.Module], upsampler: Spec[nn.Module], *, base: Base | None = None) -> Pair:
    """With the colours that the upsampler's paper shows its networks."""
    if upsampler.make is CiaoSR:
        return Pair(encoder, upsampler, mean=CIAOSR_MEAN, std=CIAOSR_STD, base=base)
    return Pair(encoder, upsampler, base=base)


def one_scale(stage: Stage) -> Stage:
    """Meta-SR knows one scale for both axes."""
    assert isinstance(stage.samples, AnyScaleCrops)
    return replace(stage, samples=replace(stage.samples, unequal=0.0))


PAIRS = [
    pair_recipe(encoder, upsampler)
    for encoder in ENCODERS
    for upsampler in UPSAMPLERS
    if f"{encoder}-{upsampler}" != EDSR_LIIF.name
]
# with edsr-liif-tiny every encoder and every upsampler
TINY_PAIRS = [
    tiny_pair(*pair)
    for pair in (
        ("edsr", "metasr"),
        ("edsr", "itsrn"),
        ("edsr", "lte"),
        ("edsr", "ciaosr"),
        ("rdn", "lte"),
        ("rcan", "lte"),
        ("nlsa", "lte"),
        ("swinir", "lte"),
        ("cat", "lte"),
        ("elan", "lte"),
    )
]
