"""The harder half of photos: ranked by a network's error, written as tiles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from scalewise.data import decode_folder
from scalewise.errors import DataError
from scalewise.recipes import find, hardest
from scalewise.recipes.fast import exits_of

TOY = replace(find("fast-tiny"), network=exits_of(8, (1, 2), (2, 3), 8))


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
def toy(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    path = tmp_path / "toy.safetensors"
    TOY.network.save(TOY.network.build(), path, {})
    return path


def test_the_hard_half_is_written_without_the_worst(
    photos: Path, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four squares half are kept; a share of a quarter leaves the noise out."""
    monkeypatch.setattr(hardest, "WORST", 0.25)
    hardest.main([str(photos), "--network", str(toy), "--out", str(tmp_path / "tiles")])
    (tiles,) = {path.name for path in (tmp_path / "tiles").iterdir()} - {"0000-0000-0000.png", "0000-0256-0256.png"}
    assert tiles == "0000-0256-0000.png"
    tile = np.asarray(Image.open(tmp_path / "tiles" / tiles))
    assert tile.shape == (384, 384, 3)
    assert np.array_equal(tile, np.asarray(Image.open(photos / "one.png"))[128:, :384])


def test_errors_are_those_of_the_network(photos: Path, toy: Path) -> None:
    network = hardest.open_exits(toy)
    pictures = decode_folder(photos)
    places = list(hardest.squares(pictures))
    assert places == [(0, 0, 0), (0, 0, 256), (0, 256, 0), (0, 256, 256)]
    together = hardest.errors(network, pictures, places)
    alone = torch.cat([hardest.errors(network, pictures, [place]) for place in places])
    torch.testing.assert_close(together, alone)
    assert together.argmax() == 1 and hardest.hard_half(torch.arange(40.0)) == list(range(18, 38))


def test_small_pictures_are_refused(toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    Image.new("RGB", (200, 300)).save(folder / "a.png")
    with pytest.raises(DataError, match="no picture has 256 pixels"):
        hardest.write([folder], toy, tmp_path / "out")


def test_other_networks_and_folders_that_cannot_be_made_are_refused(
    photos: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "taken").write_text("a file")
    for file, out, why in (
        (tmp_path / "other.safetensors", tmp_path / "out", "not of a network with our exits"),
        (tmp_path / "none.safetensors", tmp_path / "out", "none.safetensors"),
        (toy, tmp_path / "taken", "cannot make"),
    ):
        with pytest.raises(SystemExit):
            hardest.main([str(photos), "--network", str(file), "--out", str(out)])
        assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
