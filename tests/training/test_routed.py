"""Recipes of networks with routes: what each loss and stage trains, crops of 360° images, short runs."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training.toy import PLAN, waves

from scalewise import zoo
from scalewise.data import FixedScaleCrops, PanoramaCrops
from scalewise.encoders.camixer_odi import CAMixerODI
from scalewise.errors import TrainingError
from scalewise.geometry.grid import Frame, rectangle
from scalewise.geometry.projection import tangent_positions
from scalewise.models.super_resolver import SuperResolver
from scalewise.recipes import RECIPES, find
from scalewise.recipes.arm import ARM_FSRCNN_TINY
from scalewise.recipes.camixer import CAMIXER_ODI_TINY, CAMIXER_TINY
from scalewise.recipes.classsr import CLASSSR_FSRCNN_TINY
from scalewise.recipes.enaf import ENAF_FSRCNN_TINY
from scalewise.training.edge_table import EdgeTable
from scalewise.training.engine import train
from scalewise.training.losses.adaptive import SphericalL1, WindowedL1, coded_ratio, hardest_windows, printed_ratio
from scalewise.training.losses.exits import divided_l1
from scalewise.training.losses.pixel import ws_l1
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Batch, StepContext

METHODS = ("adaformer", "camixer", "enaf", "arm", "classsr", "ape")
TINY = [name for name in RECIPES if name.split("-")[0] in METHODS and name.endswith("-tiny")]
# The others take longer.
QUICK = {"arm-fsrcnn-tiny", "classsr-fsrcnn-tiny", "ape-fsrcnn-tiny", "enaf-fsrcnn-tiny"}
SMOKE = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in TINY]


def context() -> StepContext:
    return StepContext(0, 1, torch.Generator().manual_seed(3))


def built(recipe: Recipe) -> nn.Module:
    torch.manual_seed(0)
    model = recipe.network.build()
    prepare = recipe.stages[0].prepare
    if prepare is not None:
        prepare(model)
    return model


def batch(count: int, side: int, scale: int) -> Batch:
    torch.manual_seed(1)
    hr = torch.rand(count, 3, side * scale, side * scale)
    return {"lr": F.avg_pool2d(hr, scale), "hr": hr, "scale": torch.full((count, 2), float(scale))}


@pytest.mark.parametrize("name", SMOKE)
def test_tiny_recipes_run_twenty_steps_and_load(name: str, tmp_path: Path) -> None:
    recipe = find(name).shortened(20)
    crops = {4: FixedScaleCrops(scale=4, lr_side=8), 2: FixedScaleCrops(scale=2, lr_side=16)}
    samples = (
        PanoramaCrops(scale=int(recipe.validate_at[0]), lr_side=16)
        if "odi" in name
        else crops[int(recipe.validate_at[0])]
    )
    stages = tuple(replace(stage, samples=samples, batch=3) for stage in recipe.stages)
    done = train(replace(recipe, stages=stages), waves(side=160), tmp_path, PLAN)
    assert (done.reason, done.step) == ("done", recipe.stages[-1].steps)
    state = done.model.state_dict()
    assert all(bool(value.isfinite().all()) for value in state.values())
    assert state.keys() == zoo.load(done.weights).model.state_dict().keys()  # type: ignore[union-attr]


def test_ratio_losses_aim_where_they_say() -> None:
    error = torch.arange(16.0).view(1, 4, 4)
    all_and_nothing = [torch.ones(1, 4, 4), torch.zeros(1, 4, 4)]
    assert float(printed_ratio(all_and_nothing, 0.5, error)) == 0  # layers that have settled satisfy it
    assert float(hardest_windows(all_and_nothing, 0.5, error)) == 0.5
    assert float(hardest_windows([(error >= 12).float()] * 2, 0.25, error)) == 0  # the quarter with the largest error
    assert float(printed_ratio(all_and_nothing, 0.25, error)) == 0.0625
    assert float(coded_ratio(all_and_nothing, 0.25, error)) == 0  # ½ is its target at any γ
    assert float(coded_ratio([torch.ones(1, 2, 2)], 0.25, error)) == 0.125


def test_a_drawn_share_is_the_share_of_hard_windows_and_all_layers_feel_it() -> None:
    model, one = built(CAMIXER_TINY).train(), batch(4, 64, 2)
    for name, module in model.named_modules():
        if name.endswith("predictor.score"):
            nn.init.zeros_(module[-1].weight), nn.init.zeros_(module[-1].bias)  # type: ignore[index]
    for wanted in (0.1, 0.9):
        losses = WindowedL1(hardest_windows, (wanted, wanted))(model, one, context())
        assert float(losses["hard"]) == pytest.approx(wanted, abs=0.08)  # 256 windows by chance
        torch.testing.assert_close(losses["loss"].detach(), losses["l1"] + losses["ratio"])
    model.zero_grad()
    losses["loss"].backward()
    scores = {name: p.grad for name, p in model.named_parameters() if name.endswith("predictor.score.2.weight")}
    assert len(scores) == 4 and all(grad is not None and bool(grad.any()) for grad in scores.values())


def test_latitudes_of_crops_are_those_of_the_whole_sphere() -> None:
    model = built(CAMIXER_ODI_TINY).train()
    assert isinstance(model, SuperResolver) and isinstance(model.encoder, CAMixerODI)
    nn.init.normal_(model.encoder.conv_after_body.weight, std=0.1)  # the trunk counts
    whole = batch(1, 32, 2) | {"top": torch.zeros(1)}
    model.encoder.generator = torch.Generator().manual_seed(5)
    losses = SphericalL1(printed_ratio, height=64)(model, whole, context())
    model.encoder.generator = torch.Generator().manual_seed(5)
    query = rectangle(Frame((32, 32)), (64, 64))
    rgb = model(whole["lr"], query, whole["scale"]).rgb
    torch.testing.assert_close(losses["l1"], ws_l1(rgb, whole["hr"], whole["top"], 64).detach())


def test_photos_hang_in_panoramas_without_reaching_their_edges() -> None:
    for crops in (PanoramaCrops(scale=2, lr_side=32), PanoramaCrops(scale=4, lr_side=64)):
        side, edge = crops.lr_side * crops.scale, crops.needs / 2 / crops.focal
        for top in range(0, crops.height - side + 1, 32):
            assert max(float(axis.abs().max()) for axis in tangent_positions(crops.height, top, side)) < edge
    columns, rows = tangent_positions(1024, 480, 64)
    assert float(columns[32, 63]) == pytest.approx(math.tan(31.5 * math.pi / 1024))  # at the equator, a plain lens
    assert float(rows[63, 32]) == pytest.approx(31.5 * math.pi / 1024, rel=1e-2)


def test_panorama_crops_show_the_same_in_lr_and_hr() -> None:
    crops = PanoramaCrops(scale=2, lr_side=16)
    ramp = torch.arange(80.0)
    picture = torch.stack((ramp[:, None] + 2 * ramp, 255 - 3 * ramp[:, None] + 0 * ramp, 3 * ramp + 0 * ramp[:, None]))
    for seed in range(3):
        one = crops.sample([picture.to(torch.uint8)], np.random.default_rng(seed))
        assert one["lr"].shape == (3, 16, 16) and one["hr"].shape == (3, 32, 32) and float(one["top"]) % 2 == 0
        assert float((F.avg_pool2d(one["hr"][None], 2)[0] - one["lr"]).abs().max()) < 3 / 255


def test_phases_of_enaf_train_their_part_alone() -> None:
    model, one = built(ENAF_FSRCNN_TINY), batch(3, 16, 4)
    parts = ("network.backbone.", "network.heads.", "router.estimator.")
    for stage, part in zip(ENAF_FSRCNN_TINY.stages, parts, strict=True):
        assert stage.trains is not None
        model.requires_grad_(False)
        for p in stage.trains(model):
            p.requires_grad_(True)
        stage.loss(model, one, context())["loss"].backward()
        learnt = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        assert learnt and all(name.startswith(part) for name in learnt)
        model.zero_grad()


def test_arms_table_has_the_psnr_of_each_width_at_each_busyness(tmp_path: Path) -> None:
    model = built(ARM_FSRCNN_TINY)
    task = EdgeTable(model, ARM_FSRCNN_TINY.stages[-1], seed=(1,), out=tmp_path)
    flat, busy = batch(2, 16, 4), batch(2, 16, 4)
    flat = {"lr": flat["lr"] * 0.02 + 0.5, "hr": flat["hr"] * 0.02 + 0.5}
    busy["lr"] = busy["lr"].round()
    for one in (flat, busy):
        task.fill(one)
    table = task.router.expected
    assert table.shape == (4, 30) and bool(table.isfinite().all()) and float(task.count.sum()) == 4
    assert bool((table[:, 0] > table[:, -1]).all())  # what is flat is restored better by every width
    assert len(table[1].unique()) <= 4  # empty bins have what their neighbours have


def test_a_table_is_filled_by_one_process(tmp_path: Path) -> None:
    task = EdgeTable(built(ARM_FSRCNN_TINY), ARM_FSRCNN_TINY.stages[-1], seed=(1,), out=tmp_path)
    with pytest.raises(TrainingError, match="stage table is trained by one process"):
        task.prepare(SimpleNamespace(world_size=2), "fp32")  # type: ignore[arg-type]


def test_classsrs_networks_learn_patches_by_difficulty() -> None:
    model, one = built(CLASSSR_FSRCNN_TINY), batch(6, 8, 4)
    contrast = torch.tensor([0.1, 0.9, 0.5, 0.2, 1.0, 0.4]).view(-1, 1, 1, 1)
    one["lr"], one["hr"] = one["lr"] * contrast, one["hr"] * contrast
    losses = divided_l1(model, one, context())
    each = [float(losses[f"l1/net{k}"]) for k in (1, 2, 3)]
    assert all(less < more for less, more in itertools.pairwise(each))
    assert float(losses["loss"].detach()) == pytest.approx(sum(each))
