"""Encoders × upsamplers: which pairs have a recipe and a tiny sibling, twenty steps of the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training.toy import PLAN, waves

from scalewise import zoo
from scalewise.data import AnyScaleCrops, FixedScaleCrops
from scalewise.geometry.grid import Frame, rectangle
from scalewise.models.super_resolver import SuperResolver
from scalewise.recipes import RECIPES, find
from scalewise.recipes.own_tails import OWN_TAILS
from scalewise.recipes.pairs import ENCODERS, UPSAMPLERS, tiny_pair
from scalewise.recipes.tadt import TADT_PAIRS
from scalewise.training.engine import train

PAIRS = [(encoder, upsampler) for encoder in ENCODERS for upsampler in UPSAMPLERS]
WITHOUT_SIBLING = [pair for pair in PAIRS if "-".join((*pair, "tiny")) not in RECIPES]


def test_every_encoder_and_every_upsampler_is_in_a_trained_sibling() -> None:
    assert all("-".join(pair) in RECIPES for pair in PAIRS)
    trained = set(PAIRS) - set(WITHOUT_SIBLING)
    assert {encoder for encoder, _ in trained} == set(ENCODERS)
    assert {upsampler for _, upsampler in trained} == set(UPSAMPLERS)


def test_a_pair_is_trained_as_its_paper_says() -> None:
    assert find("rdn-lte").stages == find("edsr-liif").stages
    swinir = find("swinir-lte")
    assert (swinir.steps, swinir.stages[0].batch, swinir.stages[0].rate(250_000)) == (500_000, 32, 1e-4)
    assert swinir.expects["liif-div2k:window_pad=8 DIV2K x4"] == 29.51
    assert find("nlsa-liif").expects == {"liif-div2k DIV2K x3": 31.39, "liif-div2k DIV2K x4": 29.40}  # ×2: no memory
    assert find("elan-lte").expects == {} and find("fsrcnn-x4").expects == {"classsr Test2K x4": 25.61}
    samples = find("cat-metasr").stages[0].samples
    assert isinstance(samples, AnyScaleCrops) and samples.unequal == 0


def test_tadt_is_paired_as_its_tables_are() -> None:
    names = {recipe.name for recipe in TADT_PAIRS if not recipe.name.endswith("-tiny")}
    assert names == {f"{e}-{u}" for e in ("tadt", "tadt-baseline") for u in ("metasr", "liif", "lte", "ciaosr")}
    routed, alone = find("tadt-lte"), find("tadt-baseline-lte")
    assert [stage.name for stage in routed.stages] == ["baseline", "routed"] and len(alone.stages) == 1
    assert routed.expects["liif-div2k DIV2K x2"] == 35.31 and alone.expects["liif-div2k DIV2K x2"] == 35.27
    assert {stage.samples.unequal for stage in find("tadt-metasr").stages} == {0.0}  # type: ignore[attr-defined]
    assert find("rdn-x3").expects == {"liif-div2k DIV2K x3": 31.22} and find("swinir-x2").expects == {}


TINY = [recipe.name for recipe in (*TADT_PAIRS, *OWN_TAILS) if recipe.name.endswith("-tiny")]
QUICK_TINY = {"tadt-baseline-lte-tiny", "edsr-x2-tiny", "edsr-x3-tiny", "rdn-x3-tiny"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK_TINY else [pytest.mark.slow]) for name in TINY]
)
def test_tadt_and_networks_with_their_own_tail_train_for_some_steps(name: str, tmp_path: Path) -> None:
    """Also ×3.3 of a network with an any-scale upsampler, ×3 of one that has a tail of ×3."""
    recipe = find(name).shortened(4)
    stages = []
    for stage in recipe.stages:
        samples = stage.samples
        if isinstance(samples, AnyScaleCrops):
            samples = replace(samples, lr_side=16, points=8, scales=(1.0, 2.5))
        else:
            assert isinstance(samples, FixedScaleCrops)
            samples = replace(samples, lr_side=8)
        stages.append(replace(stage, samples=samples, batch=2, ema=0.5))
    done = train(replace(recipe, stages=tuple(stages)), waves(), tmp_path, PLAN)
    loaded = zoo.load(done.weights).model
    assert isinstance(loaded, SuperResolver)
    scales = loaded.limits.scales
    size = (30, 36) if scales is None else (10 * int(scales[0]), 12 * int(scales[0]))
    low = (10, 12)
    padded = torch.rand(1, 3, *(-(-n // loaded.encoder.grid) * loaded.encoder.grid for n in low))
    with torch.no_grad():
        query = rectangle(Frame(low), size)
        rgb = loaded(padded, query, torch.full((1, 2), size[0] / low[0])).rgb
    assert rgb.shape == (1, 3, *size) and bool(rgb.isfinite().all())


QUICK = {("edsr", "metasr"), ("swinir", "liif"), ("elan", "lte"), ("edsr", "itsrn")}
SMOKE = [
    pytest.param(*pair, id="-".join(pair), marks=[] if pair in QUICK else [pytest.mark.slow])
    for pair in WITHOUT_SIBLING
]


@pytest.mark.parametrize(("encoder", "upsampler"), SMOKE)
def test_the_other_pairs_train_for_twenty_steps(encoder: str, upsampler: str, tmp_path: Path) -> None:
    recipe = tiny_pair(encoder, upsampler)
    (stage,) = recipe.stages
    assert isinstance(stage.samples, AnyScaleCrops)
    crops = replace(stage.samples, lr_side=16, points=8, scales=(1.0, 2.5))
    recipe = replace(recipe, stages=(replace(stage, samples=crops, steps=20, batch=2, warmup=4, ema=0.5),))
    done = train(recipe, waves(), tmp_path, PLAN)
    assert (done.reason, done.step) == ("done", 20)
    loaded = zoo.load(done.weights).model
    assert isinstance(loaded, SuperResolver)
    with torch.no_grad():
        rgb = loaded(torch.rand(1, 3, 9, 11), rectangle(Frame((9, 11)), (18, 22)), torch.full((1, 2), 2.0)).rgb
    assert rgb.shape == (1, 3, 18, 22) and bool(rgb.isfinite().all())
