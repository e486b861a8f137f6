"""Every row of the papers' ablation tables has a name that builds, trains two steps and renders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training.toy import PLAN, waves

from scalewise import zoo
from scalewise.budget.budget import Budget, Effort
from scalewise.data import AnyScaleCrops, FixedScaleCrops
from scalewise.encoders.tadt import TADT
from scalewise.errors import InvalidRequest
from scalewise.evaluate import upscaler_of
from scalewise.models.super_resolver import SuperResolver
from scalewise.recipes import find
from scalewise.recipes.ablations import STARTS, VARIANTS
from scalewise.routing.branch import TaskController
from scalewise.training.engine import train
from scalewise.training.recipe import Recipe

TINY = {
    "tadt": "tadt-liif-tiny",
    "adaformer": "adaformer-x2-tiny",
    "camixer": "camixer-x2-printed-tiny",
    "enaf": "enaf-fsrcnn-tiny",
    "ciaosr": "edsr-ciaosr-tiny",
}
NAMES = [(paper, name) for paper, variants in VARIANTS.items() for name in variants]
BUILT = [(paper, name) for paper, name in NAMES if name != "ape-signal"]
QUICK = {
    ("tadt", "fixed-beta"), ("adaformer", "uniform"), ("camixer", "no-conv-attention"), ("ciaosr", "mlp-weights"),
}  # fmt: skip


@pytest.mark.parametrize(("paper", "variant"), BUILT)
def test_a_variant_of_the_papers_size_builds(paper: str, variant: str) -> None:
    recipe = find(f"{paper}@{variant}")
    assert recipe.name == f"{STARTS[paper]}@{variant}" and recipe.expects == {}
    assert (recipe.network, recipe.stages) != (find(STARTS[paper]).network, find(STARTS[paper]).stages) or (
        paper,
        variant,
    ) == ("camixer", "gamma-0.5")  # which is what the recipe has
    with torch.device("meta"):
        model = recipe.network.build()
    for stage in recipe.stages:
        assert not stage.trains or list(stage.trains(model))


def toy(recipe: Recipe) -> Recipe:
    """Two steps of each stage on crops of a few pixels."""
    stages = []
    for stage in recipe.stages:
        samples = stage.samples
        if isinstance(samples, AnyScaleCrops):
            samples = replace(samples, lr_side=16, points=8, scales=tuple(min(s, 3.0) for s in samples.scales))
        else:
            assert isinstance(samples, FixedScaleCrops)
            samples = replace(samples, lr_side=16 if samples.scale == 2 else 8)
        stages.append(replace(stage, samples=samples, batch=2, steps=2, warmup=0))
    return replace(recipe, stages=tuple(stages))


@pytest.mark.parametrize(
    ("paper", "variant"),
    [pytest.param(*pair, marks=[] if pair in QUICK else [pytest.mark.slow]) for pair in BUILT if pair[1] != "scales-4"],
)
def test_a_variant_trains_two_steps_and_renders(paper: str, variant: str, tmp_path: Path) -> None:
    recipe = find(f"{TINY[paper]}@{variant}")
    done = train(toy(recipe), waves(side=64), tmp_path, PLAN)
    model = zoo.load(done.weights).model
    scale = 2 if model.limits.scales is None else int(model.limits.scales[0])
    lr = torch.rand(3, 20, 24)
    budgets = [Budget.full()]
    if paper in ("tadt", "adaformer", "camixer"):
        budgets.append(Budget.native({"tadt": "beta", "adaformer": "epsilon", "camixer": "gamma"}[paper], 0.25))
    for budget in budgets:
        found = upscaler_of(model, budget)(lr, (20 * scale, 24 * scale), float(scale))
        assert found.sr.shape == (3, 20 * scale, 24 * scale) and bool(found.sr.isfinite().all())
        assert 0 < found.macs <= found.macs_full


def test_what_cannot_be_built_says_why() -> None:
    with pytest.raises(InvalidRequest, match="makes no picture"):
        find("adaformer@ape-signal")
    with pytest.raises(InvalidRequest, match=r"tadt-liif has no variant 'gsa': it has no-gsa,"):
        find("tadt@gsa")
    with pytest.raises(InvalidRequest, match=r"fast has no variant 'no-gsa': variants are of tadt,"):
        find("fast@no-gsa")
    with pytest.raises(InvalidRequest, match="MultiScaleTransformer does not take fixed_beta"):
        find("tadt-baseline-liif@fixed-beta")
    with pytest.raises(InvalidRequest, match="no stage with the loss"):
        find("tadt-baseline-liif@no-lbeta")


def intensity(controller: TaskController, *scales: float) -> Tensor:
    return controller.intensity(torch.tensor(scales).unsqueeze(1).expand(-1, 2)).detach()


def test_a_fixed_intensity_is_what_it_says_above_four_too() -> None:
    for variant, expected in (("fixed-beta", [0.5] * 4), ("beta-0.25s", [0.25, 0.5, 1.0, 1.0])):
        model = find(f"tadt-liif-tiny@{variant}").network.build()
        assert isinstance(model, SuperResolver) and isinstance(model.encoder, TADT)
        torch.testing.assert_close(intensity(model.encoder.controller, 1, 2, 4, 8), torch.tensor(expected))
        model.encoder.eval()
        running = []
        for scale in (2.0, 6.0):
            route = model.encoder.route(
                torch.rand(1, 3, 32, 32), torch.full((1, 2), scale), Effort(native={"beta": 0.0})
            )
            running.append(sum(int(one.choice.sum()) for one in route))
        assert running == ([4, 4] if variant == "fixed-beta" else [4, 8])


def test_of_the_log_of_the_scale_the_middle_is_two() -> None:
    controller = TaskController(8, scale_input="log")
    seen: list[Tensor] = []
    controller.scale[0].register_forward_hook(lambda module, given, out: seen.append(given[0]))
    intensity(controller, 1, 2, 4)
    torch.testing.assert_close(seen[0].flatten(), torch.tensor([-0.5, 0.0, 0.5]))
    with pytest.raises(InvalidRequest, match="scale_input is 'squared'"):
        TaskController(8, scale_input="squared")  # type: ignore[arg-type]
