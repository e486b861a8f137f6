"""From a weight file to the start of a training: what is read, and what is refused before the first step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scalewise import zoo
from scalewise.checkpoints import files
from scalewise.errors import CheckpointError, TrainingError
from scalewise.recipes import find
from scalewise.recipes.fast import LEAN, exits_of
from scalewise.recipes.start import check_follows, read_start
from scalewise.training.recipe import CustomModel, Recipe

TINY = replace(find("fast-tiny"), network=exits_of(4, (1, 2), (2, 3), 8))
ABOUT = {"licence": "CC-BY-4.0", "training_data": "3 waves"}


def written(path: Path, recipe: Recipe = TINY) -> dict[str, Tensor]:
    model = recipe.network.build()
    recipe.network.save(model, path, ABOUT)
    return dict(model.state_dict())


def test_our_files_are_read_with_what_they_say(tmp_path: Path) -> None:
    weights = written(tmp_path / "own.safetensors")
    start = read_start(tmp_path / "own.safetensors", TINY)
    assert all(torch.equal(value, weights[name]) for name, value in start.weights.items())
    origin = start.origin
    assert (origin.name, origin.licence, origin.training_data) == ("own.safetensors", "CC-BY-4.0", "3 waves")
    assert origin.sha256 == files.sha256(tmp_path / "own.safetensors")


@pytest.mark.parametrize(("name", "recipe"), [("quality", "photo"), ("fast", "fast"), ("quality", "quality")])
def test_shipped_networks_begin_their_recipes(name: str, recipe: str) -> None:
    with zoo.weight_file(name) as path:
        origin = read_start(path, find(recipe), name).origin
    assert origin.name == name and origin.licence == "Apache-2.0" and origin.training_data


def test_plain_tensors_are_read_by_their_names(tmp_path: Path) -> None:
    """As a portable state has them, the file of a user's own network, and what torch.save writes."""
    weights = {name: value.half() for name, value in TINY.network.build().state_dict().items()}
    save_file(weights, tmp_path / "plain.safetensors", {"licence": "MIT"})
    torch.save(weights, tmp_path / "plain.pth")
    for path, licence in ((tmp_path / "plain.safetensors", "MIT"), (tmp_path / "plain.pth", None)):
        start = read_start(path, TINY)
        assert start.origin.licence == licence and start.origin.training_data is None
        assert all(torch.equal(value, weights[name]) for name, value in start.weights.items())


def test_a_network_of_ones_own_is_begun_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "own_here.py").write_text("from torch import nn\n\ndef build():\n    return nn.Linear(2, 3)\n")
    own = replace(TINY, network=CustomModel(f"{tmp_path / 'own_here.py'}:build"), stages=(replace(TINY.stages[0]),))
    model = own.network.build()
    own.network.save(model, tmp_path / "own.safetensors", ABOUT)
    start = read_start(tmp_path / "own.safetensors", own)
    assert torch.equal(start.weights["weight"], model.state_dict()["weight"]) and start.origin.licence == "CC-BY-4.0"


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    written(path)
    wider = replace(TINY, network=exits_of(5, (1, 2), (2, 3), 8))
    deeper = replace(TINY, network=exits_of(4, (1, 3), (2, 3), 8))
    leaky = replace(TINY, network=exits_of(4, (1, 2), (2, 3), 8, slope=0.1))
    later = replace(TINY, network=exits_of(4, (2, 2), (2, 3), 8))  # the same weights, at other places
    for other, message in (
        (wider, r"do not fit the network of recipe fast-tiny \(.*network.stem.weight \(4, 3, 3, 3\) instead of \(5,"),
        (deeper, r"missing: network\.blocks\.2\.conv1\.weight"),
        (leaky, r"another network than that of recipe fast-tiny: network\.slope 0\.0 in place of 0\.1"),
        (later, r"network\.exit_after \(1, 2\) in place of \(2, 2\)"),
    ):
        with pytest.raises(CheckpointError, match=message) as error:
            read_start(path, other)
        assert "\n" not in str(error.value) and str(tmp_path) not in str(error.value)


def test_a_training_follows_one_of_the_same_network_only() -> None:
    """Asked before the first of them has made its file."""
    check_follows(find("photo-tiny"), find("quality-tiny").begun_at("finish"))
    with pytest.raises(CheckpointError, match="what fast makes: its weights do not fit the network of recipe quality"):
        check_follows(find("quality"), find("fast"))
    leaky = replace(TINY, network=exits_of(4, (1, 2), (2, 3), 8, slope=0.1))
    with pytest.raises(
        CheckpointError, match=r"what fast-tiny makes is another network .* network\.slope 0\.0 in place"
    ):
        check_follows(leaky, TINY)


def test_what_is_no_weight_file_is_refused(tmp_path: Path) -> None:
    weights = written(tmp_path / "own.safetensors")
    torch.save({"format": 1, "stage": "exits", "weights": weights}, tmp_path / "last.ckpt")
    (tmp_path / "text.pth").write_text("not weights")
    save_file({"a": torch.zeros(2)}, tmp_path / "others.safetensors")
    save_file({**weights, "network.stem.bias": torch.full((4,), torch.nan)}, tmp_path / "nan.safetensors")
    for name, message in {
        "last.ckpt": "is the state of a training: resume that",
        "text.pth": "not a weight file",
        "others.safetensors": "do not fit.*published files are converted first",
        "nan.safetensors": "NaN or infinite weights; the file is damaged or badly trained$",
        "none.safetensors": "no such weight file",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            read_start(tmp_path / name, TINY)


def test_a_file_with_other_weights_than_were_written_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "own.safetensors")
    content = files.read(tmp_path / "own.safetensors")
    changed = {name: value + 1 if value.is_floating_point() else value for name, value in content.data.items()}
    save_file(changed, tmp_path / "changed.safetensors", dict(content.metadata))
    assert load_file(tmp_path / "changed.safetensors").keys() == content.data.keys()
    with pytest.raises(CheckpointError, match="sha256 differs"):
        read_start(tmp_path / "changed.safetensors", TINY)


def test_a_stem_that_a_stage_would_change_is_refused_when_it_is_read(tmp_path: Path) -> None:
    bound = replace(LEAN, network=TINY.network)
    written(tmp_path / "own.safetensors")
    with pytest.raises(TrainingError, match=r"stage trunk keeps kernels of network\.stem\.weight that sum to zero"):
        read_start(tmp_path / "own.safetensors", bound)
    assert read_start(tmp_path / "own.safetensors", bound.begun_at("router"))


def test_reading_leaves_random_numbers_alone(tmp_path: Path) -> None:
    written(tmp_path / "own.safetensors")
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    read_start(tmp_path / "own.safetensors", TINY)
    assert torch.equal(torch.rand(3), expected)
