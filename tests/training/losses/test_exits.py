"""Training of multi-exit networks: every exit learns, and the router what exits bring, on a frozen network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from scalewise import zoo
from scalewise.budget.budget import Budget
from scalewise.data import AnyScaleCrops, Numbered
from scalewise.models.model import Model
from scalewise.models.multi_exit import MultiExitModel
from scalewise.multiexit.anyscale import AnyScaleExits
from scalewise.recipes.fast import EXITS, FAST, FINISH, HARDER, ROUTER
from scalewise.routing.patch import PatchRouter
from scalewise.training.engine import TrainOptions, train
from scalewise.training.losses.exits import ExitLoss, patch_drops, query_of, random_choice, router_loss, trunk_loss
from scalewise.training.recipe import Recipe
from scalewise.training.stage import StepContext
from scalewise.training.state import read_state

CROPS = AnyScaleCrops(lr_side=16, points=16, layout="rows", base=True)


@pytest.fixture(scope="module")
def photos() -> list[torch.Tensor]:
    random = np.random.default_rng(0)
    waves = np.stack(
        [np.sin(np.add.outer(np.arange(150) * a, np.arange(160) * b)) for a, b in random.uniform(0.1, 1, (3, 2))]
    )
    return [torch.from_numpy(((waves * 0.4 + 0.5) * 255).astype(np.uint8))] * 2


def network() -> AnyScaleExits:
    torch.manual_seed(0)
    return AnyScaleExits(8, exit_after=(1, 2), kernels=(2, 3))


def routed(network: AnyScaleExits, channels: int = 8) -> MultiExitModel:
    return MultiExitModel(PatchRouter(2, patch=16, channels=channels), network, patch=16)


def exits(model: MultiExitModel, steps: int = 6) -> Recipe:
    stage = replace(EXITS, steps=steps, samples=CROPS, loss=ExitLoss((0.5, 1.0)), batch=2, warmup=2)
    router = replace(ROUTER, steps=1, samples=replace(CROPS, lr_side=32), batch=1)
    return Recipe("toy", Built(model), (stage, router), source="tests")


@dataclass(frozen=True)
class Built:
    """A network that is there already."""

    model: MultiExitModel

    def build(self) -> MultiExitModel:
        return self.model

    def save(self, model: torch.nn.Module, path: Path, about: object) -> None:
        torch.save(model.state_dict(), path)


def batch_of(photos: list[torch.Tensor], samples: AnyScaleCrops, count: int) -> dict[str, torch.Tensor]:
    return next(iter(DataLoader(Numbered(samples, photos, seed=(0,), batch=count, stop=1), count)))


@pytest.mark.parametrize("slope", [0.0, 0.1])
@torch.no_grad()
def test_the_trunks_loss_is_that_of_the_last_exit(photos: list[torch.Tensor], slope: float) -> None:
    torch.manual_seed(0)
    exits = AnyScaleExits(8, exit_after=(1, 2), kernels=(2, 3), slope=slope)
    batch = batch_of(photos, CROPS, 2)
    everything = torch.full_like(batch["lr"][:, :1], 2, dtype=torch.int64)
    residual = exits.dense(batch["lr"], query_of(batch), everything)[-1]
    wanted = (residual - (batch["hr"] - batch["base"])).square().mean()
    torch.testing.assert_close(trunk_loss(routed(exits), batch, StepContext(0, 1, None))["loss"], wanted)
    features = torch.rand(1, 8, 9, 9)  # the block that inference runs is the one that is trained
    block = exits.blocks[0]
    trained = exits.masked_block(features, None, *block.tensors(), slope=slope)  # type: ignore[operator, union-attr]
    torch.testing.assert_close(block(features), trained[..., 2:-2, 2:-2])


def test_training_lowers_the_loss_of_every_exit(photos: list[torch.Tensor]) -> None:
    trunk = network()
    model = routed(trunk)
    numbered = Numbered(replace(CROPS, scales=(2.0, 3.0)), photos, seed=(0,), batch=2, stop=40)
    optimizer = torch.optim.Adam(trunk.parameters(), 3e-3)
    logged = []
    for step, batch in enumerate(DataLoader(numbered, 2)):
        losses = ExitLoss((0.5, 1.0))(model, batch, StepContext(step, 40, torch.Generator().manual_seed(step)))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        logged.append({name: float(value.detach()) for name, value in losses.items()})
    for exit in ("l1/exit1", "l1/exit2"):
        values = [step[exit] for step in logged]
        assert sum(values[-12:]) < 0.9 * sum(values[:12])


def test_the_router_learns_where_exits_help(photos: list[torch.Tensor]) -> None:
    model = routed(network())
    batch = batch_of(photos, replace(CROPS, lr_side=32, points=32), 8)
    assert patch_drops(model, batch).shape == (8, 2, 2, 2)
    optimizer = torch.optim.Adam(model.router.parameters(), 1e-2)
    losses = []
    for step in range(30):
        loss = router_loss(model, batch, StepContext(step, 30, torch.Generator()))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_the_router_is_trained_on_a_frozen_network(tmp_path: Path, photos: list[torch.Tensor]) -> None:
    trunk = network()
    model = routed(trunk)
    before = trunk.state_dict()["stem.weight"].clone()
    done = train(exits(model), photos, tmp_path, TrainOptions(workers=0, dtype="fp32", quiet=True))
    state = read_state(tmp_path)
    assert done.stage == "router" and state is not None
    assert not torch.equal(trunk.state_dict()["stem.weight"], before)
    assert state["average"] == {} and len(state["optimizers"][0]["state"]) == len(list(model.router.parameters()))


def test_drops_add_up_to_the_whole_gain(photos: list[torch.Tensor]) -> None:
    model = routed(network(), channels=4)
    batch = batch_of(photos, replace(CROPS, lr_side=32, points=32), 2)
    residual = model.network.dense(batch["lr"], query_of(batch), torch.full((2, 1, 32, 32), 2))[-1]
    target = batch["hr"] - batch["base"]
    gain = (target.square() - (residual - target).square()).mean()
    drops = patch_drops(model, batch).sum(1)  # (b, gy, gx): patches hold about the same number of points
    assert torch.allclose(drops.mean(), gain, rtol=0.3, atol=1e-6)


def test_half_of_the_choices_are_all_on() -> None:
    choice = random_choice(torch.zeros(200, 3, 48, 48), 3, torch.Generator().manual_seed(0))
    assert choice.shape == (200, 1, 48, 48)
    assert 0.4 < float((choice == 3).flatten(1).all(1).float().mean()) < 0.6


def test_the_recipe_runs_from_photos_to_a_weight_file(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pictures = [torch.from_numpy(random.integers(0, 256, (3, 140, 150)).astype(np.uint8))] * 2
    stages = (
        replace(EXITS, samples=CROPS, batch=1),
        replace(FINISH, samples=CROPS, batch=1),
        replace(HARDER, samples=CROPS, batch=1),
        replace(ROUTER, samples=replace(CROPS, lr_side=32), batch=1),
    )
    assert [stage.name for stage in FAST.stages] == [stage.name for stage in stages]
    tiny = replace(FAST, stages=stages).shortened(4)
    done = train(tiny, pictures, tmp_path / "out", TrainOptions(workers=0, quiet=True))
    loaded = zoo.load(done.weights)
    assert loaded.card["licence"] == "Apache-2.0" and loaded.card["steps"] == "exits 1, finish 1, harder 1, router 1"
    lr = torch.rand(1, 3, 40, 40)
    half = Budget.fraction(0.6)
    models: list[Model] = [done.model, loaded.model]  # type: ignore[list-item]
    plans = [m.plan(m.score(lr, (2.0, 2.0)), (40, 40), (80, 80), half) for m in models]
    assert torch.equal(plans[0].route[0].choice, plans[1].route[0].choice)
