"""A training that begins with weights that are there: it has them, its card says so, and a state comes before them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training.toy import PLAN, STAGE, TOY, waves

from scalewise import zoo
from scalewise.checkpoints.spec import Pair, spec, tail
from scalewise.encoders.edsr import EDSR
from scalewise.errors import InvalidRequest, TrainingError
from scalewise.training.engine import train
from scalewise.training.start import Origin, Start
from scalewise.training.state import read_portable
from scalewise.upsamplers.liif import LIIF

STILL = replace(TOY, stages=tuple(replace(stage, learning_rate=0.0) for stage in TOY.stages))
PROMISING = replace(TOY, expects={"Set5 x4": 30.0})
KNOWN = Origin("first.safetensors", "0123456789abcdef" * 4, "3 waves", "CC-BY-4.0")


def start_of(seed: int, origin: Origin = KNOWN) -> Start:
    """First weights of another seed than a run's own."""
    torch.manual_seed(seed)
    return Start(TOY.network.build().state_dict(), origin)


def test_a_training_begins_with_the_weights(tmp_path: Path) -> None:
    start = start_of(7)
    done = train(STILL, waves(), tmp_path, replace(PLAN, start=start))
    assert done.reason == "done"
    for name, value in load_file(done.weights).items():
        torch.testing.assert_close(value, start.weights[name])


def test_the_optimizer_starts_anew_with_the_warm_up_of_its_stage(tmp_path: Path) -> None:
    train(TOY, waves(), tmp_path, replace(PLAN, start=start_of(7), log_every=1))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["rate"] for line in lines[:6]] == [STAGE.rate(step) for step in range(6)]
    assert lines[0]["rate"] < lines[1]["rate"] == STAGE.learning_rate


def test_the_card_says_what_a_training_began_with(tmp_path: Path) -> None:
    """Also of a run that went on from its state without being told again."""
    card = {"training_data": "2 waves"}
    started = replace(PLAN, start=start_of(7), state=tmp_path / "state", resume=True)
    train(PROMISING, waves(), tmp_path / "a", replace(started, seconds=0.0), card=card)
    went_on = [train(PROMISING, waves(), tmp_path / out, replace(started, start=None), card=card) for out in ("a", "b")]
    for done in went_on:
        said = zoo.load(done.weights).card
        assert said["started_from"] == "first.safetensors (sha256 0123456789abcdef)"
        assert said["training_data"] == "2 waves; before that, of first.safetensors: 3 waves"
        assert said["licence"] == "Apache-2.0; of first.safetensors, with which it began: CC-BY-4.0"
        assert said["recipe"] == "scalewise train toy --start first.safetensors --stage l1"
        assert "expects" not in said
    own = train(PROMISING, waves(), tmp_path / "own", PLAN, card=card)
    assert zoo.load(own.weights).card["expects"] and "started_from" not in zoo.load(own.weights).card


def test_what_a_file_does_not_say_is_said_to_be_unknown() -> None:
    card = Origin("plain.pth").added_to({"licence": "Apache-2.0"})
    assert card["started_from"] == "plain.pth" and card["training_data"] == "before that, of plain.pth: not known"
    assert card["licence"] == "Apache-2.0; of plain.pth, with which it began: not known"
    assert Origin("same", licence="Apache-2.0").added_to({"licence": "Apache-2.0"})["licence"] == "Apache-2.0"


def test_a_state_comes_before_the_weights(tmp_path: Path) -> None:
    first, second = start_of(7), start_of(8, Origin("second"))
    straight = train(TOY, waves(), tmp_path / "straight", replace(PLAN, start=first))
    train(TOY, waves(), tmp_path / "parts", replace(PLAN, start=first, seconds=0.0))
    done = train(TOY, waves(), tmp_path / "parts", replace(PLAN, start=second, resume=True))
    ours, theirs = load_file(done.weights), load_file(straight.weights)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert zoo.load(done.weights).card["started_from"].startswith("first.safetensors")


def test_a_training_may_begin_at_a_later_stage(tmp_path: Path) -> None:
    late = TOY.begun_at("finish")
    assert [stage.name for stage in late.stages] == ["finish"] and TOY.begun_at("l1") == TOY
    with pytest.raises(InvalidRequest, match="toy has no stage 'end': its stages are l1, finish"):
        TOY.begun_at("end")
    started = replace(PLAN, start=start_of(7), state=tmp_path / "state")
    straight = train(late, waves(), tmp_path / "straight", started)
    assert zoo.load(straight.weights).card["steps"] == "finish 3"
    train(late, waves(), tmp_path / "parts", replace(started, seconds=0.0))
    with pytest.raises(TrainingError, match="began at stage finish, not l1: begin there too"):
        train(TOY, waves(), tmp_path / "parts", replace(PLAN, resume=True))
    done = train(late, waves(), tmp_path / "parts", replace(PLAN, resume=True))
    ours, theirs = load_file(done.weights), load_file(straight.weights)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    with pytest.raises(TrainingError, match="began at stage finish, not l1"):  # nor from the portable state
        train(TOY, waves(), tmp_path / "other", replace(started, resume=True))
    kept = read_portable(tmp_path / "state", "toy")
    assert kept is not None and kept[1]["begins"] == "finish" and kept[1]["start"] == vars(KNOWN)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    wider = Pair(spec(EDSR, channels=5, blocks=1), tail(LIIF, hidden=(8,)))
    start = Start(wider.build().state_dict(), KNOWN)
    with pytest.raises(TrainingError, match=r"first\.safetensors does not fit the recipe's network"):
        train(TOY, waves(), tmp_path, replace(PLAN, start=start))
    assert not (tmp_path / "last.ckpt").exists()
