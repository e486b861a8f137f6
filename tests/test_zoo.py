"""The zoo: names and files lead to models that run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scalewise import pipeline, zoo
from scalewise.errors import CheckpointError, UnknownModel


def test_a_name_is_loaded_once_and_ready_to_run() -> None:
    loaded = zoo.load("bicubic")
    assert loaded is zoo.load("bicubic")
    assert loaded.name == "bicubic" and not loaded.model.training  # type: ignore[attr-defined]


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UnknownModel, match="fast, quality, photo, bicubic"):
        zoo.load("no-such-model")
    with pytest.raises(UnknownModel):
        zoo.load("no-such-file.pth:res_scale=1")


def test_a_removed_name_says_what_to_take() -> None:
    with pytest.raises(UnknownModel, match="pano was removed: use quality with projection erp"):
        zoo.load("pano")


def test_a_model_without_weights_says_what_to_do() -> None:
    with pytest.raises(CheckpointError, match="name its weight file"):
        zoo.load("edsr-liif")


@pytest.mark.parametrize("name", [name for name, entry in zoo.MODELS.items() if entry.weights])
def test_shipped_weights_load(name: str) -> None:
    loaded = zoo.load(name)
    assert loaded.name == name and loaded.card["licence"]


def test_a_shipped_model_without_its_file_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(zoo.resources, "files", lambda package: tmp_path)
    with pytest.raises(CheckpointError, match="the weights of fast are missing here"):
        zoo.MODELS["fast"].build()


def test_a_file_with_settings(shared: Path) -> None:
    path = shared / "golden" / "edsr_basicsr_x4" / "weights.pth"
    plain, scaled = zoo.load(path), zoo.load(f"{path}:res_scale=0.5")
    assert plain.name == scaled.name == "weights.pth"
    assert plain.model.limits.scales == scaled.model.limits.scales == (4,)
    picture = np.random.default_rng(0).random((8, 8, 3), np.float32)
    one, other = (pipeline.upscale(picture, 4, model=loaded.model).image for loaded in (plain, scaled))
    assert not np.allclose(one, other)


@pytest.mark.parametrize(
    ("text", "path", "settings"),
    [
        ("a.pth", "a.pth", {}),
        ("a.pth:res_scale=1,name=x", "a.pth", {"res_scale": 1, "name": "x"}),
        ("c:/a.pth", "c:/a.pth", {}),
        ("c:/a.pth:on=true", "c:/a.pth", {"on": True}),
    ],
)
def test_settings_follow_the_last_colon(text: str, path: str, settings: dict[str, object]) -> None:
    assert zoo.file_and_settings(text) == (Path(path), settings)


def test_a_file_whose_name_looks_like_settings_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pth:b=1"
    path.touch()
    assert zoo.file_and_settings(str(path)) == (path, {})
