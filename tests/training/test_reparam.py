"""A bound stem: a network learns with it, and is the same function when its kernels are plain again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.utils import parametrize
from training.toy import PLAN, check_going_on_is_exact, waves

from scalewise import zoo
from scalewise.data.resident import Pictures
from scalewise.errors import TrainingError
from scalewise.models.multi_exit import MultiExitModel
from scalewise.recipes.fast import LEAN, LEAN_SMALL, TRUNK, exits_of
from scalewise.training.device_loop import DeviceTraining
from scalewise.training.engine import train
from scalewise.training.reparam import bind_stem, load_plain, plain
from scalewise.training.start import Origin, Start

CROPS = replace(LEAN_SMALL, lr_side=16, points=16, scales=(1.0, 2.0))
STAGE = replace(TRUNK, steps=4, samples=CROPS, batch=2, warmup=0, ema=0.5)
NETWORK = exits_of(4, (1, 2), (2, 3), 8, slope=0.1)
RECIPE = replace(LEAN, name="lean-toy", network=NETWORK, stages=(STAGE, replace(STAGE, name="trunk-end", steps=2)))


@pytest.fixture
def bound() -> MultiExitModel:
    torch.manual_seed(0)
    model = NETWORK.build()
    assert isinstance(model, MultiExitModel)
    bind_stem(model)
    return model


def test_a_plain_stem_computes_what_a_bound_one_does(bound: MultiExitModel) -> None:
    made = plain(bound)
    assert not any(parametrize.is_parametrized(module) for module in made.modules())
    assert made.state_dict().keys() == NETWORK.build().state_dict().keys()
    picture = torch.rand(1, 3, 9, 9)
    with torch.no_grad():
        outputs = [model.get_submodule("network.stem")(picture) for model in (bound, made)]
    assert torch.equal(*outputs)


def test_a_flat_picture_leaves_a_stem_without_a_trace(bound: MultiExitModel) -> None:
    grey = torch.full((1, 3, 5, 5), 0.7)
    made = plain(bound)
    with torch.no_grad():
        features = made.get_submodule("network").enter(grey)  # type: ignore[operator]
    bias = made.get_parameter("network.stem.bias").view(1, -1, 1, 1)
    torch.testing.assert_close(features, bias.expand_as(features), atol=1e-5, rtol=0)


def test_binding_changes_the_stem_alone_and_happens_once() -> None:
    model = NETWORK.build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bind_stem(model)
    names = set(model.state_dict())
    bind_stem(model)
    assert set(model.state_dict()) == names != set(before)
    stem = "network.stem.weight"
    assert all(torch.equal(value, before[name]) for name, value in plain(model).state_dict().items() if name != stem)


def test_plain_weights_load_into_a_bound_stem(bound: MultiExitModel) -> None:
    weights = plain(bound).state_dict()
    fresh = NETWORK.build()
    bind_stem(fresh)
    load_plain(fresh, weights)
    for name, value in plain(fresh).state_dict().items():
        torch.testing.assert_close(value, weights[name], atol=1e-6, rtol=0)
    with pytest.raises(RuntimeError):
        load_plain(fresh, {"network.stem.weight": torch.zeros(2)})


def test_a_stopped_run_goes_on_exactly(tmp_path: Path) -> None:
    straight = train(RECIPE, waves(), tmp_path / "straight", PLAN)
    assert straight.reason == "done" and straight.stage == "trunk-end"
    done = check_going_on_is_exact(RECIPE, PLAN, "trunk", straight, tmp_path / "parts")
    assert not any("parametrizations" in name for name in load_file(done.weights))
    zoo.load(done.weights)


def test_a_portable_state_has_plain_kernels_and_goes_on(tmp_path: Path) -> None:
    options = replace(PLAN, resume=True, seconds=0.0, state=tmp_path / "state")
    train(RECIPE, waves(), tmp_path / "a", options)
    assert load_file(tmp_path / "state" / "lean-toy.safetensors").keys() == NETWORK.build().state_dict().keys()
    gone_on = train(RECIPE, waves(), tmp_path / "b", options)
    assert (gone_on.stage, gone_on.step) == ("trunk", 2)


@pytest.fixture
def learnt(bound: MultiExitModel) -> dict[str, torch.Tensor]:
    """Plain weights of a network that learnt with a bound stem, as a file in half precision has them."""
    return {name: value.half() for name, value in plain(bound).state_dict().items()}


@pytest.mark.parametrize("stage", [0, 1])
def test_a_training_that_begins_with_a_learnt_stem_leaves_it_as_it_is(learnt: dict, stage: int) -> None:
    model = NETWORK.build()
    Start(learnt, Origin("lean")).begin(model, RECIPE.stages[stage])
    assert parametrize.is_parametrized(model.get_submodule("network.stem"))
    for name, value in plain(model).state_dict().items():
        torch.testing.assert_close(value, learnt[name].float(), atol=1e-3 * float(value.abs().max()), rtol=0)


def test_a_started_run_learns_with_a_bound_stem(tmp_path: Path, learnt: dict) -> None:
    done = train(RECIPE.begun_at("trunk-end"), waves(), tmp_path, replace(PLAN, start=Start(learnt, Origin("lean"))))
    kernel = load_file(done.weights)["network.stem.weight"]
    assert float(kernel.mean((2, 3)).abs().max()) < 1e-6 * float(kernel.abs().max())
    assert not torch.allclose(kernel, learnt["network.stem.weight"].float())


def test_a_stem_that_learnt_otherwise_is_refused_where_it_would_be_bound(tmp_path: Path) -> None:
    start = Start(NETWORK.build().state_dict(), Origin("other"))
    with pytest.raises(TrainingError, match=r"stage trunk keeps kernels of network\.stem\.weight that sum to zero"):
        train(RECIPE, waves(), tmp_path, replace(PLAN, start=start))
    assert not (tmp_path / "last.ckpt").exists()
    router = LEAN.stages[-1]
    model = NETWORK.build()
    start.begin(model, router)  # which leaves the stem alone
    assert torch.equal(model.state_dict()["network.stem.weight"], start.weights["network.stem.weight"])


def test_on_one_device_a_learnt_stem_is_left_as_it_is_too(learnt: dict) -> None:
    still = replace(RECIPE, stages=tuple(replace(stage, learning_rate=0.0) for stage in RECIPE.stages))
    pictures = Pictures.of(waves(), torch.device("cpu"))
    run = DeviceTraining(still, pictures, NETWORK.build(), Start(learnt, Origin("lean")))
    for done in (0.0, 0.9):  # both stages
        run.advance(done)
    for name, value in run.result().state_dict().items():
        torch.testing.assert_close(value, learnt[name].float(), atol=1e-3 * float(value.abs().max()), rtol=0)


def test_weights_of_a_deeper_network_do_not_fit_a_bound_one(bound: MultiExitModel) -> None:
    with pytest.raises(RuntimeError, match="Unexpected key"):
        load_plain(bound, {**plain(bound).state_dict(), "network.blocks.9.conv1.weight": torch.zeros(1)})
