"""The two commands that prepare a narrower network: what they write begins its recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from scalewise import recipes
from scalewise.data import decode_folder
from scalewise.errors import DataError
from scalewise.recipes import find, hardest, narrow
from scalewise.recipes.fast import exits_of
from scalewise.recipes.start import read_start

WIDE = replace(find("fast-tiny"), name="toy-wide", network=exits_of(32, (1, 2), (2, 3), 8))
NARROW = replace(WIDE, name="toy", network=exits_of(32, (1, 2), (2, 3), 8, hidden=(16, 32)))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    random = np.random.default_rng(1)
    smooth = np.linspace(0, 255, 512 * 512 * 3).reshape(512, 512, 3).astype(np.uint8)
    smooth[:256, 256:] = random.integers(0, 256, (256, 256, 3))  # noise, hardest of all
    smooth[256:, :256] = random.integers(100, 140, (256, 256, 3))
    Image.fromarray(smooth).save(folder / "one.png")
    return folder


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    path = tmp_path / "wide.safetensors"
    WIDE.network.save(WIDE.network.build(), path, {"licence": "CC-BY-4.0", "training_data": "3 waves"})
    return path


def test_what_is_cut_begins_the_recipe(
    photos: Path, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "toy", NARROW)
    monkeypatch.setattr(narrow, "BATCHES", 2)
    out = tmp_path / "narrow.safetensors"
    narrow.main([str(wide), "--recipe", "toy", "--data", str(photos), "--out", str(out)])
    assert "16, 32 channels" in capsys.readouterr().out
    start = read_start(out, NARROW)
    assert (start.origin.licence, start.origin.training_data) == ("CC-BY-4.0", "3 waves")
    before = read_start(wide, WIDE)
    assert torch.equal(start.weights["network.blocks.1.conv1.weight"], before.weights["network.blocks.1.conv1.weight"])
    assert start.weights["network.blocks.0.conv2.weight"].shape == (32, 16, 3, 3)


def test_what_cannot_be_cut_is_refused(
    photos: Path, wide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    for file, why in ((tmp_path / "other.safetensors", "network with our exits"), (wide, "it has 2 blocks")):
        with pytest.raises(SystemExit):
            narrow.main([str(file), "--recipe", "fast", "--data", str(photos), "--out", str(tmp_path / "out")])
        assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_hard_half_is_written_without_the_worst(
    photos: Path, wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four squares half are kept; a share of a quarter leaves the noise out."""
    monkeypatch.setattr(hardest, "WORST", 0.25)
    hardest.main([str(photos), "--network", str(wide), "--out", str(tmp_path / "tiles")])
    (tiles,) = {path.name for path in (tmp_path / "tiles").iterdir()} - {"0000-0000-0000.png", "0000-0256-0256.png"}
    assert tiles == "0000-0256-0000.png"
    tile = np.asarray(Image.open(tmp_path / "tiles" / tiles))
    assert tile.shape == (384, 384, 3)
    assert np.array_equal(tile, np.asarray(Image.open(photos / "one.png"))[128:, :384])


def test_errors_are_those_of_the_network(photos: Path, wide: Path) -> None:
    _, model = narrow.open_exits(wide)
    pictures = decode_folder(photos)
    places = list(hardest.squares(pictures))
    assert places == [(0, 0, 0), (0, 0, 256), (0, 256, 0), (0, 256, 256)]
    together = hardest.errors(model.network, pictures, places)
    alone = torch.cat([hardest.errors(model.network, pictures, [place]) for place in places])
    torch.testing.assert_close(together, alone)
    assert together.argmax() == 1 and hardest.hard_half(torch.arange(40.0)) == list(range(18, 38))


def test_small_pictures_are_refused(wide: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    Image.new("RGB", (200, 300)).save(folder / "a.png")
    with pytest.raises(DataError, match="no picture has 256 pixels"):
        hardest.write([folder], wide, tmp_path / "out")
