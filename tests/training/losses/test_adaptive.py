"""Recipes of the adaptive encoders: first weights, two steps of each, and what their losses train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training.toy import PLAN, waves

from scalewise import zoo
from scalewise.data import AnyScaleCrops, FixedScaleCrops
from scalewise.geometry.grid import Frame, rectangle
from scalewise.models.super_resolver import SuperResolver
from scalewise.recipes import find, start
from scalewise.recipes.adaformer import ADAFORMER_X2_TINY
from scalewise.recipes.tadt import TADT_LIIF_TINY
from scalewise.routing.branch import PENALTY, intensity_loss
from scalewise.training.engine import train
from scalewise.training.losses.adaptive import ALL_BRANCHES, RoutedL1, all_branches_l1, halting_l1, without_controller
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Batch, StepContext

MOMENT = StepContext(0, 1, torch.Generator())


def built(recipe: Recipe) -> SuperResolver:
    torch.manual_seed(0)
    model = recipe.network.build()
    assert isinstance(model, SuperResolver)
    return model


def batch(scale: int, side: int = 32) -> Batch:
    torch.manual_seed(1)
    hr = torch.rand(2, 3, side * scale, side * scale)
    return {"lr": F.avg_pool2d(hr, scale), "hr": hr, "scale": torch.full((2, 2), float(scale))}


@pytest.mark.parametrize(
    ("recipe", "begin"),
    [(TADT_LIIF_TINY, start.tadt_liif), (ADAFORMER_X2_TINY, start.adaformer_shuffle)],
    ids=["tadt", "adaformer"],
)
@torch.no_grad()
def test_tiny_networks_start_as_bilinear_interpolation(recipe: Recipe, begin: Callable[[nn.Module], None]) -> None:
    model = built(recipe).eval()
    begin(model)
    lr = torch.rand(1, 3, 32, 32)
    found = model(lr, rectangle(Frame((32, 32)), (64, 64)), torch.full((1, 2), 2.0)).rgb
    wanted = F.interpolate(lr, scale_factor=2, mode="bilinear", align_corners=False)
    inside = (..., slice(2, -2), slice(2, -2))  # the networks see zeros beyond the picture
    torch.testing.assert_close(found[inside], wanted[inside])


@pytest.mark.parametrize("name", ["tadt-liif-tiny", "adaformer-x2-tiny"])
def test_tiny_recipes_run_and_load(name: str, tmp_path: Path) -> None:
    recipe = find(name)
    recipe = recipe.shortened(2 * len(recipe.stages))
    assert len(recipe.stages) == 2
    samples = AnyScaleCrops(lr_side=32, points=4, scales=(1.0, 1.25))
    if name.startswith("adaformer"):
        samples = FixedScaleCrops(scale=2, lr_side=16)
    stages = tuple(replace(stage, samples=samples, batch=2) for stage in recipe.stages)
    done = train(replace(recipe, stages=stages), waves(), tmp_path, PLAN)
    assert (done.reason, done.step) == ("done", recipe.stages[-1].steps)
    loaded = zoo.load(done.weights).model
    assert isinstance(loaded, SuperResolver)
    for name, value in done.model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name].float(), value.float())


def test_the_first_stage_of_tadt_runs_all_branches_and_leaves_the_controller() -> None:
    model = built(TADT_LIIF_TINY).train()
    learnt = {id(p) for p in without_controller(model)}
    left = {name for name, p in model.named_parameters() if id(p) not in learnt}
    assert left and all(name.startswith("encoder.controller.") for name in left)
    one = batch(2)
    query = rectangle(Frame((32, 32)), (64, 64))
    route = model(one["lr"], query, one["scale"], ALL_BRANCHES).route
    assert all(bool(decision.choice.all()) for decision in route)
    wanted = F.l1_loss(model.eval()(one["lr"], query, one["scale"]).rgb, one["hr"])
    torch.testing.assert_close(all_branches_l1(model.train(), one, MOMENT)["loss"], wanted)


def test_the_second_stage_of_tadt_prices_intensity_and_trains_the_controller() -> None:
    model, one = built(TADT_LIIF_TINY).train(), batch(2)
    losses = RoutedL1()(model, one, MOMENT)
    beta = model.get_submodule("encoder.controller").intensity(one["scale"])  # type: ignore[operator]
    torch.testing.assert_close(losses["loss"], losses["l1"] + PENALTY * intensity_loss(beta, one["scale"]))
    losses["loss"].backward()
    assert all(p.grad is not None for p in model.get_submodule("encoder.controller").scale.parameters())  # type: ignore[union-attr]


def test_adaformers_uncertainty_trains_its_estimator_alone() -> None:
    model, one = built(ADAFORMER_X2_TINY).train(), batch(2, 16)
    losses = halting_l1(model, one, MOMENT)
    torch.testing.assert_close(losses["loss"].detach(), losses["l1"] + losses["uncertainty"])
    assert 0 <= float(losses["kept"]) <= 1
    losses["loss"].backward()
    estimator = dict(model.get_submodule("encoder.confidence").named_parameters())
    assert all(p.grad is not None and bool(p.grad.any()) for p in estimator.values())
    plain = built(ADAFORMER_X2_TINY).train()
    query = rectangle(Frame((16, 16)), (32, 32))
    (255 * F.l1_loss(plain(one["lr"], query, one["scale"]).rgb, one["hr"])).backward()
    for (name, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
        if "confidence" not in name:
            torch.testing.assert_close(p.grad, q.grad)
