"""Recipes as values: schedules, shortening, models of one's own, and what is in the list."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training.toy import PLAN, TOY, waves

from scalewise.checkpoints.spec import Network, Pair
from scalewise.errors import InvalidRequest, TrainingError
from scalewise.models.super_resolver import SuperResolver
from scalewise.recipes import RECIPES, find
from scalewise.recipes.pairs import PAIRS
from scalewise.training.engine import train
from scalewise.training.recipe import CustomModel
from scalewise.training.stage import Stage, constant, cosine, halved, inverse_root, one_cycle

ROOT = Path(__file__).resolve().parent.parent.parent


def test_schedules() -> None:
    assert constant(0.7) == 1
    assert cosine(0) == 1 and cosine(1) == pytest.approx(0.01) and cosine(0.5) == pytest.approx(0.505)
    assert [inverse_root(0.5)(done) for done in (0, 1.5, 4)] == [1, 0.5, pytest.approx(1 / 3)]
    assert [halved(0.2, 0.8)(done) for done in (0, 0.19, 0.2, 0.8, 1)] == [1, 1, 0.5, 0.25, 0.25]
    assert one_cycle(0) == pytest.approx(0.04) and one_cycle(0.3) == 1 and one_cycle(1) < 1e-5
    stage = Stage("s", 110, TOY.stages[0].samples, TOY.stages[0].loss, learning_rate=2.0, schedule=cosine, warmup=10)
    assert [stage.rate(step) for step in (0, 9, 10)] == [0.2, 2.0, 2.0]
    assert stage.rate(110) == pytest.approx(0.02)


@pytest.mark.parametrize("steps", [2, 3, 10, 10_000])
def test_shortening_keeps_the_shares(steps: int) -> None:
    short = TOY.shortened(steps)
    assert short.steps == steps and all(stage.steps >= 1 for stage in short.stages)
    if steps == 10_000:
        assert [stage.steps for stage in short.stages] == [6_667, 3_333]
    with pytest.raises(InvalidRequest, match="2 stages"):
        TOY.shortened(1)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_and_has_a_tiny_sibling(name: str) -> None:
    recipe = find(name)
    assert recipe.name == name and recipe.source and recipe.summary and recipe.steps > 0
    assert name.endswith("-tiny") or f"{name}-tiny" in RECIPES or recipe in PAIRS  # of pairs: test_pairs.py
    assert isinstance(recipe.network, Network | Pair)
    with torch.device("meta"):
        model = recipe.network.build()
    for stage in recipe.stages:
        assert not stage.trains or list(stage.trains(model))


def test_names_steps_and_seeds_are_asked_for() -> None:
    short = find("fast", steps=92, seed=7)
    assert (short.steps, short.seed) == (92, 7)
    with pytest.raises(InvalidRequest, match=r"no recipe is called 'fats': there are fast,"):
        find("fats")


EXAMPLE = """
from scalewise.upsamplers.liif import LIIF
from scalewise.models.super_resolver import SuperResolver
from scalewise.encoders.edsr import EDSR

def build():
    return SuperResolver(EDSR(4, 1), LIIF(4, (8,)))

def number():
    return 3
"""


def test_a_model_of_ones_own_is_named_by_its_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs_here.py").write_text(EXAMPLE)
    monkeypatch.chdir(tmp_path)
    for target in ("theirs_here:build", str(tmp_path / "theirs_here.py") + ":build"):
        assert isinstance(CustomModel(target).build(), SuperResolver)
    wrong = {
        "theirs_here:none": "has no function 'none'",
        "theirs_here:number": "gave int",
        "theirs_here": "write package.module:function",
        "nowhere.at.all:build": "No module named",
        "nowhere.py:build": "no file",
    }
    for target, words in wrong.items():
        with pytest.raises(InvalidRequest, match=words):
            CustomModel(target).build()


def test_the_encoder_of_the_documentation_trains(tmp_path: Path) -> None:
    """Its code is the block of docs/training.md, 30 lines at most."""
    code = re.findall(
        r"```python title=\"mine\.py\"\n(.*?)```", (ROOT / "docs" / "training.md").read_text(), re.DOTALL
    )[0]
    assert len(code.strip().splitlines()) <= 30
    path = tmp_path / "mine.py"
    path.write_text(code)
    own = replace(TOY, network=CustomModel(f"{path}:build"), stages=(replace(TOY.stages[0], steps=2),))
    done = train(own, waves(), tmp_path / "out", PLAN)
    assert done.reason == "done" and isinstance(done.model, SuperResolver)
    size = (40, 40)
    assert done.model.macs(size, (80, 80)).total > 0
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        done.model.encoder(torch.rand(1, 3, *size))  # type: ignore[operator]
    assert counter.get_total_flops() // 2 == done.model.encoder.macs(size, (2.0, 2.0)).total


def test_a_loss_without_a_loss_is_named(tmp_path: Path) -> None:
    stage = replace(TOY.stages[0], loss=lambda model, batch, context: {"l1": torch.zeros(())})
    with pytest.raises(TrainingError, match=r"must give 'loss'.*it gave l1"):
        train(replace(TOY, stages=(stage,)), waves(), tmp_path, PLAN)
