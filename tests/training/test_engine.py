"""The engine: resuming is exact, processes share batches, what goes wrong stops in order and leaves whole files."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import training.toy as toy
from safetensors.torch import load_file
from training.toy import PLAN, STAGE, TOY, acting, waves

from scalewise import images, zoo
from scalewise.checkpoints.spec import Pair, spec, tail
from scalewise.data import FixedScaleCrops
from scalewise.encoders.edsr import EDSR
from scalewise.errors import DataError, InvalidRequest, TrainingError, UnwritableOutput
from scalewise.storage import locked
from scalewise.training import state as states
from scalewise.training.engine import LOCK_NAME, Trained, train
from scalewise.training.losses.pixel import squared
from scalewise.training.task import StageTask
from scalewise.upsamplers.fixed import PixelShuffle
from scalewise.upsamplers.liif import LIIF

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Several wait for each other more than they compute here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def child(out: Path, *words: str) -> int:
    command = [sys.executable, str(Path(toy.__file__)), str(out), f"threads={torch.get_num_threads()}", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run that nothing disturbed."""
    return train(TOY, waves(), tmp_path_factory.mktemp("straight"), PLAN)


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path, straight: Trained) -> None:
    assert child(tmp_path, "kill=5") == -signal.SIGKILL
    state = states.read_state(tmp_path)
    assert state is not None and state["step"] == 4 and not (tmp_path / "toy.safetensors").exists()
    resumed = train(TOY, waves(), tmp_path, replace(PLAN, resume=True))
    assert resumed.reason == "done" and resumed.stage == "finish"
    assert same(load_file(resumed.weights), load_file(straight.weights))
    fresh = TOY.network.build().state_dict()
    assert not same(fresh, straight.model.state_dict())


@pytest.mark.slow
def test_two_processes_train_what_a_stage_leaves_out_in_part(tmp_path: Path) -> None:
    """The trunk of `lean` learns before the early heads, which are among the stage's parameters."""
    images.save(tmp_path / "a.png", np.random.default_rng(1).integers(0, 256, (260, 260, 3)).astype(np.uint8))
    words = ("lean-tiny", "--devices", "2", "--steps", "4", "--workers", "0", "-q", "--out", str(tmp_path / "out"))
    command = [sys.executable, "-m", "scalewise", "train", *words, "--data", str(tmp_path)]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(tmp_path),
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "lean-tiny.safetensors").exists()


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_the_doubled_batch(tmp_path: Path) -> None:
    gradients = []
    for devices in (1, 2):
        out = tmp_path / str(devices)
        assert child(out, f"devices={devices}") == 0
        gradients.append([torch.load(out / f"gradient{step}.pt") for step in (0, 1)])
    for one, two in zip(*gradients, strict=True):
        for name, value in one.items():
            assert (value - two[name]).abs().max() <= 1e-6, name
    weights = [load_file(tmp_path / devices / "toy.safetensors") for devices in "12"]
    assert all((value - weights[1][name]).abs().max() <= 1e-6 for name, value in weights[0].items())


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, straight: Trained) -> None:
    stopped = train(acting(2, lambda: os.kill(os.getpid(), signal.SIGINT)), waves(), tmp_path, PLAN)
    assert (stopped.reason, stopped.stage, stopped.step) == ("interrupted", "l1", 3)
    assert zoo.load(stopped.weights).card["steps"].endswith("stopped at step 3 of l1")
    resumed = train(TOY, waves(), tmp_path, replace(PLAN, resume=True))
    assert same(load_file(resumed.weights), load_file(straight.weights))


def test_a_run_stops_in_time_and_a_finished_one_is_not_run_again(tmp_path: Path, straight: Trained) -> None:
    for step in (1, 2):
        stopped = train(TOY, waves(), tmp_path, replace(PLAN, resume=True, seconds=0.0))
        assert (stopped.reason, stopped.step) == ("time", step)
    done = train(TOY, waves(), tmp_path, replace(PLAN, resume=True))
    again = train(TOY, waves(), tmp_path, replace(PLAN, resume=True))
    assert done.reason == again.reason == "done"
    assert same(load_file(done.weights), load_file(straight.weights))
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 6, 3]  # the log has a line where it stops and at the end of a stage


def test_the_average_follows_the_weights_and_is_what_a_stage_leaves(tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    one = replace(TOY, stages=(replace(STAGE, steps=3),))

    def keep(model: torch.nn.Module, step: int) -> dict[str, float]:
        seen.append(model.state_dict())
        return {"default x2": float(step)}

    done = train(one, waves(), tmp_path, replace(PLAN, validate_every=1), validate=keep)
    assert same(seen[-1], dict(done.model.state_dict()))
    plain = train(replace(one, stages=(replace(STAGE, steps=3, ema=None),)), waves(), tmp_path / "plain", PLAN)
    last = dict(plain.model.state_dict())
    name = "encoder.head.weight"
    new = STAGE.forgetting(2)
    assert new == 0.75 and STAGE.forgetting(1000) == pytest.approx(0.1)
    assert torch.allclose(seen[2][name], (1 - new) * seen[1][name] + new * last[name], atol=1e-7)
    assert zoo.load(done.weights).card["validation"] == {"default x2": 3.0}


def test_what_is_frozen_stays_and_has_no_average(tmp_path: Path) -> None:
    stage = replace(STAGE, trains=lambda model: model.get_submodule("upsampler").parameters())
    done = train(replace(TOY, stages=(stage,)), waves(), tmp_path, PLAN)
    torch.manual_seed(TOY.seed)
    fresh = TOY.network.build().state_dict()
    moved = {name for name, value in done.model.state_dict().items() if not torch.equal(value, fresh[name])}
    assert moved and all(name.startswith("upsampler.") for name in moved)
    with pytest.raises(TrainingError, match="trains nothing"):
        train(replace(TOY, stages=(replace(STAGE, trains=lambda model: ()),)), waves(), tmp_path / "none", PLAN)


def test_a_loss_that_is_not_a_number_stops_with_its_batch(tmp_path: Path) -> None:
    def broken(model, batch, context):
        factor = torch.nan if context.step == 3 else 1.0
        return {"loss": squared(model, batch, context)["loss"] * factor}

    recipe = replace(TOY, stages=(replace(STAGE, loss=broken),))
    with pytest.raises(TrainingError, match=r"step 3 of l1.*not finite.*bad_batch\.pt"):
        train(recipe, waves(), tmp_path, PLAN)
    saved = torch.load(tmp_path / "bad_batch.pt")
    assert saved["step"] == 3 and saved["batch"]["lr"].shape == (4, 3, 8, 8)
    state = states.read_state(tmp_path)
    assert state is not None and state["step"] == 2


def test_a_full_disk_leaves_the_last_state_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = torch.save, []

    def full(value: object, path: Path) -> None:
        calls.append(path)
        if len(calls) == 2:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(value, path)

    monkeypatch.setattr(states.torch, "save", full)
    with pytest.raises(UnwritableOutput, match="No space left"):
        train(TOY, waves(), tmp_path, PLAN)
    state = states.read_state(tmp_path)
    assert state is not None and state["step"] == 2
    assert not list(tmp_path.glob(".*.part"))


def test_a_portable_state_goes_on_and_warms_the_learning_rate_up(tmp_path: Path) -> None:
    keep = tmp_path / "training-state"
    first = train(
        acting(3, lambda: os.kill(os.getpid(), signal.SIGTERM)), waves(), tmp_path / "a", replace(PLAN, state=keep)
    )
    assert first.step == 4 and {file.name for file in keep.iterdir()} == {"toy.safetensors", "toy.jsonl"}
    halves, earlier = load_file(keep / "toy.safetensors"), (keep / "toy.jsonl").read_text().splitlines()
    assert earlier and all(value.dtype == torch.float16 for value in halves.values())
    other = train(TOY, waves(), tmp_path / "b", replace(PLAN, resume=True, state=keep, log_every=1))
    assert other.stage == "finish" and {file.name for file in keep.iterdir()} == {"toy.safetensors", "toy.jsonl"}
    log = (tmp_path / "b" / "log.jsonl").read_text().splitlines()
    assert log[: len(earlier)] == earlier and (keep / "toy.jsonl").read_text().splitlines() == log
    line = json.loads(log[len(earlier)])
    assert line["step"] == 5 and 0 < line["rate"] <= STAGE.rate(4) / 100


def test_what_does_not_fit_is_said_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"24 pixels on both sides.*the largest has 20"):
        train(TOY, waves(side=20), tmp_path / "small", PLAN)
    with pytest.raises(DataError, match="24 pixels"):
        train(TOY, [], tmp_path / "none", PLAN)
    with pytest.raises(InvalidRequest, match="batches of 4, which 3 processes"):
        train(TOY, waves(), tmp_path / "three", replace(PLAN, devices=3))
    assert not list(tmp_path.rglob("last.ckpt"))
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot make"):
        train(TOY, waves(), tmp_path / "file" / "out", PLAN)


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    train(TOY, waves(), tmp_path, PLAN)
    again = replace(PLAN, resume=True)
    with pytest.raises(InvalidRequest, match="resume it"):
        train(TOY, waves(), tmp_path, PLAN)
    with pytest.raises(TrainingError, match="recipe 'toy', not 'other'"):
        train(replace(TOY, name="other"), waves(), tmp_path, again)
    with pytest.raises(TrainingError, match="seed"):
        train(replace(TOY, seed=5), waves(), tmp_path, again)
    with pytest.raises(TrainingError, match="does not reach"):
        train(TOY.shortened(2), waves(), tmp_path, again)
    wider = Pair(spec(EDSR, channels=5, blocks=1), tail(LIIF, hidden=(8,)))
    with pytest.raises(TrainingError, match="does not fit the recipe's network"):
        train(replace(TOY, network=wider), waves(), tmp_path, again)
    (tmp_path / "last.ckpt").write_bytes(b"PK damaged")
    with pytest.raises(TrainingError, match="cannot be read"):
        train(TOY, waves(), tmp_path, again)


@pytest.mark.parametrize(("before", "after"), [("adamw", "soap"), ("soap", "adamw")])
def test_a_state_of_another_optimizer_is_refused(tmp_path: Path, before: Any, after: Any) -> None:
    first, second = (replace(TOY, stages=(replace(STAGE, optimizer=name),)) for name in (before, after))
    train(first, waves(), tmp_path, replace(PLAN, seconds=0.0))
    state = states.read_state(tmp_path)
    assert state is not None and [one.pop("name").lower() for one in state["optimizers"]] == [before]
    unnamed = tmp_path / "unnamed"  # as states were before
    unnamed.mkdir()
    states.write_state(unnamed, state)
    for out in (tmp_path, unnamed):
        with pytest.raises(TrainingError, match="another optimizer"):
            train(second, waves(), out, replace(PLAN, resume=True))
    ends = [train(first, waves(), out, replace(PLAN, resume=True)) for out in (tmp_path, unnamed)]
    assert all(end.reason == "done" for end in ends) and same(*(dict(end.model.state_dict()) for end in ends))


def test_the_optimizer_of_a_state_is_known_by_its_name(tmp_path: Path) -> None:
    """Not by the options that it happens to have."""

    class Other(torch.optim.AdamW):
        pass

    class Task(StageTask):
        def optimizers(self) -> list[torch.optim.Optimizer]:
            return [Other(list(self.learnt.values()), 1e-3)]

    others = replace(TOY, stages=(replace(STAGE, task=Task),))
    train(others, waves(), tmp_path, replace(PLAN, seconds=0.0))
    with pytest.raises(TrainingError, match="another optimizer, Other, than the stage's, AdamW"):
        train(TOY, waves(), tmp_path, replace(PLAN, resume=True))
    assert train(others, waves(), tmp_path, replace(PLAN, resume=True)).reason == "done"


def test_fp16_is_not_for_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="fp16"):
        train(TOY, waves(), tmp_path, replace(PLAN, dtype="fp16"))


def test_the_weight_file_says_how_it_was_made(tmp_path: Path) -> None:
    done = train(TOY, waves(), tmp_path, PLAN, card={"training_data": "2 waves"})
    loaded = zoo.load(done.weights)
    card = loaded.card
    assert card["training_data"] == "2 waves" and card["licence"] == "Apache-2.0" and card["source"] == "tests"
    assert card["steps"] == "l1 6, finish 3" and 0 <= card["hours"] < 1 and "torch" in card["machine"]
    picture = torch.rand(1, 3, 8, 8)
    assert loaded.model.limits.context == done.model.limits.context  # type: ignore[attr-defined]
    features = [model.encoder(picture) for model in (done.model, loaded.model)]  # type: ignore[attr-defined]
    assert torch.allclose(*features, atol=1e-6)


def test_fixed_scales_and_bf16_train(tmp_path: Path) -> None:
    network = Pair(spec(EDSR, channels=4, blocks=1), tail(PixelShuffle, scale=2))
    stage = replace(STAGE, samples=FixedScaleCrops(scale=2, lr_side=8), steps=30, batch=2)
    done = train(
        replace(TOY, network=network, stages=(stage,)), waves(), tmp_path, replace(PLAN, dtype="bf16", log_every=10)
    )
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]
    assert all(value.dtype == torch.float32 for value in done.model.state_dict().values())


def test_two_trainings_do_not_write_to_one_folder(tmp_path: Path) -> None:
    with locked(tmp_path / LOCK_NAME, "busy"), pytest.raises(UnwritableOutput, match="another training"):
        train(TOY, waves(), tmp_path, PLAN)
    assert not (tmp_path / "last.ckpt").exists()
    (tmp_path / LOCK_NAME).write_text("left by a killed run")
    train(TOY.shortened(2), waves(), tmp_path, PLAN)
    assert (tmp_path / "last.ckpt").exists() and not (tmp_path / LOCK_NAME).exists()
