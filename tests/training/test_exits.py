"""Training of multi-exit networks: it learns, it resumes exactly, samples are numbered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from scalewise import images, zoo
from scalewise.data import AnyScaleCrops, decode_folder
from scalewise.effort import Budget
from scalewise.errors import DataError
from scalewise.multiexit.anyscale import AnyScaleExits
from scalewise.patches import PatchRouted
from scalewise.recipes.fast import FAST, export, fit, train
from scalewise.routing.patch import PatchRouter
from scalewise.training.exits import ExitTraining, RouterTraining, patch_drops, random_choice

SHORT = replace(FAST, batch=2, lr_side=16, router_side=32, points=16)


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


def run(folder: Path, photos: list[torch.Tensor], steps: int, of: int) -> ExitTraining:
    module = ExitTraining(network(), steps=of, warmup=2, weights=(0.5, 1.0))
    fit(module, folder, SHORT, photos, 16, steps, workers=0, save_every=2)
    return module


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path, photos: list[torch.Tensor]) -> None:
    straight = run(tmp_path / "straight", photos, 6, of=6)
    run(tmp_path / "resumed", photos, 4, of=6)
    resumed = run(tmp_path / "resumed", photos, 6, of=6)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    fresh = ExitTraining(network(), steps=6).state_dict()
    assert any(not torch.equal(value, fresh[name]) for name, value in straight.state_dict().items())


def test_a_finished_run_is_not_run_again(tmp_path: Path, photos: list[torch.Tensor]) -> None:
    first = run(tmp_path, photos, 4, of=4)
    again = run(tmp_path, photos, 4, of=4)
    assert torch.equal(first.network.stem.weight, again.network.stem.weight)


def test_training_lowers_the_loss_of_every_exit(photos: list[torch.Tensor]) -> None:
    module = ExitTraining(network(), steps=60, learning_rate=3e-3, warmup=5, weights=(0.5, 1.0))
    crops = AnyScaleCrops(photos, length=120, lr_side=16, points=16, scales=(2.0, 3.0))
    logged: list[dict[str, float]] = []
    module.log = lambda name, value, **_: logged[-1].__setitem__(name, float(value.detach()))  # type: ignore[method-assign]
    optimizer = torch.optim.Adam(module.network.parameters(), 3e-3)
    for index, batch in enumerate(DataLoader(crops, 2)):
        logged.append({})
        loss = module.training_step(batch, index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for exit in ("l1/exit1", "l1/exit2"):
        losses = [step[exit] for step in logged]
        assert sum(losses[-20:]) < 0.9 * sum(losses[:20])


def test_the_router_learns_where_exits_help(photos: list[torch.Tensor]) -> None:
    model = PatchRouted(PatchRouter(2, patch=16, channels=8), network(), patch=16)
    batch = next(iter(DataLoader(AnyScaleCrops(photos, length=8, lr_side=32, points=32), 8)))
    drops = patch_drops(model, batch)
    assert drops.shape == (8, 2, 2, 2)
    module = RouterTraining(model, steps=1)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    optimizer = torch.optim.Adam(model.router.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_drops_add_up_to_the_whole_gain(photos: list[torch.Tensor]) -> None:
    model = PatchRouted(PatchRouter(2, patch=16, channels=4), network(), patch=16)
    batch = next(iter(DataLoader(AnyScaleCrops(photos, length=2, lr_side=32, points=32), 2)))
    query_choice = torch.full((2, 1, 32, 32), 2)
    from scalewise.training.exits import query_of

    residual = model.network.dense(batch["lr"], query_of(batch), query_choice)[-1]  # type: ignore[attr-defined]
    target = batch["hr"] - batch["base"]
    gain = (target.square() - (residual - target).square()).mean()
    drops = patch_drops(model, batch).sum(1)  # (b, gy, gx), means per patch
    counts = torch.ones_like(drops)
    assert torch.allclose(
        (drops * counts).mean(), gain, rtol=0.3, atol=1e-6
    )  # patches hold about the same number of points


def test_samples_are_numbered(photos: list[torch.Tensor]) -> None:
    crops = AnyScaleCrops(photos, length=6, lr_side=16, points=16, seed=3)
    later = AnyScaleCrops(photos, length=6, lr_side=16, points=16, seed=3, first=2)
    assert len(later) == 4
    for name, value in crops[2].items():
        assert torch.equal(value, later[0][name])
    scales = torch.stack([crops[i]["scale"] for i in range(6)])
    assert bool((scales >= 0.9).all()) and bool((scales <= 4.1).all()) and len(scales[:, 0].unique()) > 3


def test_the_base_of_a_sample_is_the_bicubic_of_its_lr(photos: list[torch.Tensor]) -> None:
    from scalewise.grid import Frame
    from scalewise.resize import bicubic_base

    sample = AnyScaleCrops(photos, length=1, lr_side=16, points=16, seed=4)[0]
    out = tuple(round(16 * s) for s in sample["scale"].tolist())
    whole = bicubic_base(sample["lr"].unsqueeze(0), Frame((16, 16)), out, (0, 0, *out))[0]  # type: ignore[arg-type]
    rows, columns = ((v * n / 16 - 0.5).round().long() for v, n in zip((sample["y"], sample["x"]), out, strict=True))
    assert torch.allclose(whole[:, rows][:, :, columns], sample["base"], atol=1e-5)


def test_half_of_the_choices_are_all_on() -> None:
    choice = random_choice(200, 48, 3, torch.Generator().manual_seed(0))
    assert choice.shape == (200, 1, 48, 48)
    assert 0.4 < float((choice == 3).flatten(1).all(1).float().mean()) < 0.6


def test_data_that_does_not_fit_is_refused(tmp_path: Path, photos: list[torch.Tensor]) -> None:
    with pytest.raises(DataError, match="no pictures"):
        decode_folder(tmp_path)
    with pytest.raises(DataError, match="192"):
        AnyScaleCrops(photos, length=1)
    images.save(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    assert decode_folder(tmp_path)[0].shape == (3, 4, 4)
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(DataError, match=r"b\.png"):
        decode_folder(tmp_path)


def test_the_recipe_runs_from_photos_to_a_weight_file(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        images.save(tmp_path / name, random.integers(0, 256, (140, 150, 3)).astype(np.uint8))
    tiny = replace(SHORT, batch=1, router_batch=1, steps=1, finish_steps=1, router_steps=1)
    model = train(tiny, tmp_path, tmp_path / "out", workers=0)
    export(model, tmp_path / "tiny.safetensors", {"network": "tiny", "licence": "Apache-2.0"})
    loaded = zoo.load(tmp_path / "tiny.safetensors")
    assert loaded.card["licence"] == "Apache-2.0"
    lr = torch.rand(1, 3, 40, 40)
    half = Budget.fraction(0.6)
    plans = [m.decide(m.survey(lr, (2.0, 2.0)), (40, 40), (80, 80), half) for m in (model, loaded.model)]
    assert torch.equal(plans[0].route[0].choice, plans[1].route[0].choice)
