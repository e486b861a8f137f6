"""Spoiled pictures and weight files end in one of our errors: no crash, no hang, nothing left behind, no code run."""

from __future__ import annotations

import os
import random
from pathlib import Path

import fuzzing
import pytest

from scalewise import compat, images
from scalewise.errors import CheckpointError


def complaints(outcome: fuzzing.Outcome) -> str:
    return "\n".join(f"input {number} from {name}: {what}" for number, name, what in outcome.wrong)


def test_300_spoiled_files() -> None:
    outcome = fuzzing.run(300, seed=int(os.environ.get("SCALEWISE_FUZZ_SEED", "0")))
    assert not outcome.wrong, complaints(outcome)
    assert sum(outcome.answers.values()) == 300 and min(outcome.answers.values()) > 10


@pytest.mark.slow
def test_20000_spoiled_files() -> None:
    outcome = fuzzing.run(20_000, seed=1)
    assert not outcome.wrong, complaints(outcome)
    assert sum(outcome.answers.values()) == 20_000


def test_whole_seeds_are_read(tmp_path: Path) -> None:
    for name, content in fuzzing.picture_seeds().items():
        (tmp_path / name).write_bytes(content)
        assert images.open(tmp_path / name).read().shape[0] == 3
    sentinel = tmp_path / "code-was-run"
    for name, content in fuzzing.weight_seeds(tmp_path, sentinel).items():
        (tmp_path / name).write_bytes(content)
        if name.startswith("native"):
            assert compat.load(tmp_path / name).model is not None
        elif name.startswith("evil") and name.endswith(".pth"):
            with pytest.raises(CheckpointError, match="nothing in it was run"):
                compat.load(tmp_path / name)
    assert not sentinel.exists()


def test_a_number_and_a_seed_decide_an_input() -> None:
    content = bytes(range(256)) * 4
    first, second = (fuzzing.spoiled(content, "a.png", [content], random.Random("1/7")) for _ in range(2))
    assert first == second != content


@pytest.mark.parametrize(("trick", "words"), [("die", "died with code"), ("hang", "no answer in")])
def test_a_child_that_dies_or_hangs_is_seen_and_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trick: str, words: str
) -> None:
    script = tmp_path / "src" / "child.py"
    script.parent.mkdir()
    script.write_text(
        "import json, os, sys, time\n"
        "start, stop = int(sys.argv[2]), int(sys.argv[3])\n"
        "print(json.dumps({'ready': 1}), flush=True)\n"
        "for n in range(start, stop):\n"
        "    print(json.dumps({'at': n, 'name': 'x'}), flush=True)\n"
        f"    if n == 2: {'os._exit(9)' if trick == 'die' else 'time.sleep(60)'}\n"
        "    print(json.dumps({'done': n, 'name': 'x', 'answer': 'refused', 'wrong': '', 'seconds': 0}), flush=True)\n"
    )
    monkeypatch.setattr(fuzzing, "__file__", str(script))
    monkeypatch.setattr(fuzzing, "LIMIT", 0.5)
    outcome = fuzzing.run(5)
    assert [number for number, _, _ in outcome.wrong] == [2] and words in outcome.wrong[0][2]
    assert outcome.answers["refused"] == 4
