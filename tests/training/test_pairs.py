"""Encoders × upsamplers: which pairs have a recipe and a tiny sibling, twenty steps of the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training.toy import PLAN, waves

from scalewise import zoo
from scalewise.data import AnyScaleCrops
from scalewise.geometry.grid import Frame, rectangle
from scalewise.models.super_resolver import SuperResolver
from scalewise.recipes import RECIPES, find
from scalewise.recipes.pairs import ENCODERS, UPSAMPLERS, tiny_pair
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
