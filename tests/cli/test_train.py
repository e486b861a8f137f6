"""`scalewise train`: what it writes and says; errors are one line before the first step."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from scalewise import images, zoo
from scalewise.cli import app
from scalewise.cli.train import parse_time
from scalewise.errors import DataError, InvalidRequest
from scalewise.evaluate import bicubic, evaluate, upscaler_of
from scalewise.evaluate.validation import Validation
from scalewise.recipes import find
from scalewise.training import engine


def run(*words: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["train", *map(str, words)], catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        images.save(folder / name, random.integers(0, 256, (140, 150, 3)).astype(np.uint8))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_recipe_trains_measures_and_goes_on(tmp_path: Path, photos: Path) -> None:
    out = tmp_path / "out"
    words = ("edsr-x4-tiny", "--data", photos, "--val", photos, "--val-side", 64, "--out", out, "--workers", 0, "-q")
    code, printed, _ = run(*words, "--steps", 2, "--dtype", "fp32", "--state", tmp_path / "state")
    assert code == 0 and "l1 step 2 of 2" in printed
    loaded = zoo.load(out / "edsr-x4-tiny.safetensors")
    assert loaded.card["training_data"].startswith("2 pictures of") and loaded.card["licence"] == "Apache-2.0"
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert {"loss", "rate"} <= set(lines[0]) and "val/default x4" in lines[1]
    assert loaded.card["validation"]["default x4"] == pytest.approx(lines[1]["val/default x4"])
    assert images.open(out / "pictures" / "0000002.png").size == (2 * 64, 3 * 64)
    assert {path.name for path in (tmp_path / "state").iterdir()} == {"edsr-x4-tiny.safetensors", "edsr-x4-tiny.jsonl"}
    assert any((out / "tensorboard").iterdir())
    code, _, error = run(*words, "--steps", 2)
    assert code == 2 and "--resume" in error and error.count("\n") == 1
    code, _, error = run(*words, "--steps", 3, "--resume", "--max-time", "0:00")
    assert code == 0 and "step 3" in run(*words, "--steps", 3, "--resume")[1]


def test_several_folders_are_trained_on(tmp_path: Path, photos: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    images.save(more / "c.png", np.full((140, 150, 3), 90, np.uint8))
    words = ("edsr-x4-tiny", "--data", photos, "--data", more, "--out", tmp_path / "out", "--workers", 0, "-q")
    assert run(*words, "--steps", 1)[0] == 0
    card = zoo.load(tmp_path / "out" / "edsr-x4-tiny.safetensors").card
    assert card["training_data"].startswith("3 pictures of photos0/, more/")


QUEUE = """
[[training]]
recipe = "edsr-x4-tiny"
steps = 2
workers = 0
val_side = 64
val_every = 1
out = "first"

[[training]]
recipe = "srresnet-x4-tiny"
steps = 1
workers = 0
val_side = 64
out = "second"
"""


def test_a_queue_goes_on_wherever_it_was_stopped(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[int] = []
    monkeypatch.setattr(os, "nice", lowered.append)
    (tmp_path / "queue.toml").write_text(QUEUE)
    words = ("--queue", tmp_path / "queue.toml", "--data", photos, "--val", photos, "-q")
    code, printed, error = run(*words, "--max-time", "0")
    assert code == 0 and "1/2 edsr-x4-tiny: l1 step 1 of 2" in printed and "the same command goes on" in error
    code, printed, _ = run(*words)
    assert (
        code == 0
        and "1/2 edsr-x4-tiny: l1 step 2 of 2" in printed
        and "2/2 srresnet-x4-tiny: l1 step 1 of 1" in printed
    )
    assert run(*words)[1] == printed and lowered == [19, 19, 19]
    lines = (tmp_path / "queue.log").read_text().splitlines()
    seen = [line.split("  ")[1:3] for line in lines]
    assert seen == [["edsr-x4-tiny", "step 1"], ["edsr-x4-tiny", "step 2"], ["srresnet-x4-tiny", "step 1"]]
    assert all("default x4 " in line for line in lines)


def test_a_training_begins_with_a_network_that_is_there(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("enaf-srresnet-tiny", "--data", photos, "--workers", 0, "--start", "enaf-srresnet-tiny")
    out = tmp_path / "out"
    late = (*words, "--stage", "estimator", "--steps", 2, "--out", out)
    code, printed, _ = run(*late, "--max-time", "0", "-q")
    assert code == 0 and "estimator step 1 of 2" in printed
    shipped = zoo.load("enaf-srresnet-tiny").card
    card = zoo.load(out / "enaf-srresnet-tiny.safetensors").card
    assert card["started_from"].startswith("enaf-srresnet-tiny (sha256 ") and card["licence"] == "Apache-2.0"
    assert card["training_data"].startswith("2 pictures of ") and card["training_data"].endswith(
        shipped["training_data"]
    )
    code, printed, said = run(*late, "--resume")
    assert code == 0 and "estimator step 2 of 2" in printed
    assert "goes on from its state, and not from enaf-srresnet-tiny" in said
    without = [word for word in late if word not in ("--start", words[-1])]  # the state has these weights in it
    code, printed, said = run(words[0], *without, "--resume", "-q")
    assert code == 0 and "estimator step 2 of 2" in printed
    assert zoo.load(out / "enaf-srresnet-tiny.safetensors").card["started_from"] == card["started_from"]
    for missing in (without, [*without[:-1], tmp_path / "nowhere", "--resume"]):
        code, _, said = run(words[0], *missing, "-q")
        assert code == 2 and "--start FILE or NAME" in said
    monkeypatch.setattr(engine, "is_first_process", lambda: False)
    assert run(*late, "--resume")[2] == ""  # of several processes the first one speaks
    code, _, said = run(*words, "--steps", 3, "--out", out, "--resume", "-q")
    assert code == 1 and "began at stage estimator, not backbone" in said


def test_a_trained_file_is_begun_with(tmp_path: Path, photos: Path) -> None:
    words = ("edsr-x4-tiny", "--data", photos, "--workers", 0, "--dtype", "fp32", "-q", "--steps", 1, "--out")
    assert run(*words, tmp_path / "first")[0] == 0
    file = tmp_path / "first" / "edsr-x4-tiny.safetensors"
    assert run(*words, tmp_path / "second", "--start", file)[0] == 0
    card = zoo.load(tmp_path / "second" / "edsr-x4-tiny.safetensors").card
    assert card["recipe"] == "scalewise train edsr-x4-tiny --start edsr-x4-tiny.safetensors --stage l1"
    assert "before that, of edsr-x4-tiny.safetensors: 2 pictures of" in card["training_data"]


def test_a_queue_begins_with_what_it_made_and_refuses_what_does_not_fit_at_once(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "nice", lambda by: None)
    first = '[[training]]\nrecipe = "edsr-x4-tiny"\nsteps = 1\nworkers = 0\nout = "first"\n'
    second = first.replace("first", "second") + 'start = "first/edsr-x4-tiny.safetensors"\nstage = "l1"\n'
    words = ("--queue", tmp_path / "queue.toml", "--data", photos, "-q")
    for wrong, message in (
        ("fast", "do not fit the network of recipe edsr-x4-tiny"),
        ("none.pth", "none.pth: no such"),
    ):
        (tmp_path / "queue.toml").write_text(first + second.replace("first/edsr-x4-tiny.safetensors", wrong))
        code, _, error = run(*words)
        assert code in (1, 2) and message in error and error.count("\n") == 1
        assert not (tmp_path / "first").exists()
    other = first.replace("edsr-x4-tiny", "edsr-x2-tiny")
    (tmp_path / "queue.toml").write_text(other + second.replace("edsr-x4-tiny.s", "edsr-x2-tiny.s"))
    code, _, error = run(*words)
    assert code == 1 and "what edsr-x2-tiny makes: its weights do not fit the network of recipe edsr-x4" in error
    assert not (tmp_path / "first").exists()
    (tmp_path / "queue.toml").write_text(first + second)
    assert run(*words)[0] == 0
    card = zoo.load(tmp_path / "second" / "edsr-x4-tiny.safetensors").card
    assert card["started_from"].startswith("edsr-x4-tiny.safetensors (sha256 ")
    assert run(*words)[0] == 0  # its state comes first now


def test_the_list_names_every_recipe() -> None:
    code, printed, _ = run("--list")
    assert code == 0 and all(name in printed for name in ("fast", "edsr-liif-tiny", "edsr-x4"))


def test_the_list_needs_no_lightning() -> None:
    code = "import sys; from scalewise.recipes import RECIPES; import scalewise.training.engine, scalewise.training.gan"
    command = [sys.executable, "-c", f"{code}; print('lightning' in sys.modules)"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout.strip() == b"False"


def test_what_cannot_be_is_one_line(tmp_path: Path, photos: Path) -> None:
    out = ("--out", tmp_path / "out", "-q")
    wrong = {
        ("fats", "--data", photos): "no recipe is called 'fats'",
        ("fast",): "--data",
        ("fast", "--data", tmp_path / "nowhere"): "no pictures",
        ("fast", "--data", photos): "384 pixels on both sides",
        ("fast", "--data", photos, "--max-time", "soon"): "HH:MM:SS",
        ("--queue", tmp_path / "none.toml"): "none.toml cannot be read",
        ("fast", "--data", photos, "--dtype", "fp8"): "--dtype fp8",
        ("edsr-x4-tiny", "--data", photos, "--devices", "3"): "3 processes",
        ("edsr-x4-tiny", "--data", photos, "--val", photos, "--protocol", "best"): "unknown protocol",
        ("edsr-x4-tiny", "--data", photos, "--model", "nowhere.py:build"): "no file",
        (
            "--queue",
            "q.toml",
            "--start",
            "fast",
            "--steps",
            "3",
        ): "q.toml: each training there has its own --start, --steps",
        ("fast", "--data", photos, "--stage", "router"): "--start FILE or NAME",
        ("fast", "--data", photos, "--start", "fast", "--stage", "last"): "no stage 'last': its stages are exits,",
        ("fast", "--data", photos, "--start", "fats"): "no model and no file is called 'fats'",
        ("fast", "--data", photos, "--start", "quality"): "do not fit the network of recipe fast",
        ("fast", "--data", photos, "--start", "bicubic"): "bicubic ships without weights",
        ("fast", "--data", photos, "--start", photos / "a.png"): "not a weight file",
    }
    for words, message in wrong.items():
        code, _, error = run(*words, *(() if "--queue" in words else out))
        assert code in (1, 2) and error.startswith("scalewise: ") and error.count("\n") == 1 and message in error, error
    assert not (tmp_path / "out" / "last.ckpt").exists()


def test_times_are_parsed() -> None:
    assert parse_time("01:30:00") == 5400 and parse_time("90:00") == 5400 and parse_time("7") == 7
    assert parse_time(None) == math.inf
    with pytest.raises(InvalidRequest):
        parse_time("1h")


def test_the_watch_measures_what_evaluate_measures(tmp_path: Path, photos: Path) -> None:
    """On whole pictures, and against bicubic."""
    watch = Validation.of(photos, find("edsr-liif-tiny"), "default", 0, tmp_path)
    model = zoo.bicubic()
    model.register_parameter("any", torch.nn.Parameter(torch.zeros(())))
    found = watch(model, 1)
    for scale in (2, 3, 4):
        expected = evaluate(upscaler_of(model), photos, scale).mean["psnr"]
        floor = evaluate(bicubic, photos, scale).mean["psnr"]
        assert found[f"default x{scale}"] == pytest.approx(expected, abs=1e-6)
        assert found[f"default x{scale} over bicubic"] == pytest.approx(expected - floor, abs=1e-6)
    small = tmp_path / "small"
    small.mkdir()
    images.save(small / "a.png", np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(DataError, match="too small"):
        Validation.of(small, find("edsr-liif-tiny"), "default", 0, tmp_path)
