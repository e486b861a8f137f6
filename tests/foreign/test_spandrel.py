"""Networks that spandrel builds: at their own scale, at others, in tiles, under a budget; and what is refused."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign.networks import SMALL, write

import scalewise
from scalewise import zoo
from scalewise.errors import CheckpointError
from scalewise.evaluate.upscalers import upscaler_of
from scalewise.execution.plan import RunOptions
from scalewise.models.super_resolver import SuperResolver
from scalewise.models.whole_network import WholeNetwork

pytest.importorskip("einops", reason="reads networks of others: pip install einops; pip install --no-deps spandrel")
if importlib.util.find_spec("spandrel") is None:  # importing it needs torchvision, or our names in its place
    pytest.skip("reads networks of others: pip install --no-deps spandrel", allow_module_level=True)

OURS = ("SPAN", "SwinIR")  # that we have a network of our own for
ARCHITECTURES = tuple(name for name in SMALL if name not in OURS)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    return {name: write(name, folder) for name in SMALL}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def picture(height: int = 72, width: int = 88) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = [128 + 60 * np.sin(x / (3 + k)) * np.cos(y / (4 + k)) for k in range(3)]
    noise = np.random.default_rng(0).normal(0, 12, (height, width, 3))
    return np.clip(np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)


def as_floats(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / 255


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_gives_the_pixels_that_spandrel_gives(files: dict[str, Path], name: str) -> None:
    model = zoo.load(files[name]).model
    assert isinstance(model, WholeNetwork)
    lr = as_floats(picture())
    gray = model.needs.channels == 1
    lr = np.repeat(lr[..., :1], 3, 2) if gray else lr
    seen = torch.from_numpy(lr).permute(2, 0, 1).unsqueeze(0)
    size = 72 * model.scale, 88 * model.scale
    ours = upscaler_of(model, options=RunOptions(dtype="fp32"))(seen[0], size, model.scale).sr.clamp(0, 1)
    theirs = model.network.descriptor(seen[:, :1] if gray else seen)[0].clone().expand(3, -1, -1)  # type: ignore[union-attr]
    assert float((ours - theirs).abs().max()) < 1e-4


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_any_scale_and_any_size(files: dict[str, Path], name: str) -> None:
    image = picture(24, 32)
    by_scale = scalewise.upscale(image, 2.7, model=files[name])
    assert by_scale.image.shape == (65, 86, 3)
    assert any("own ×" in note for note in by_scale.report.notes)
    assert scalewise.upscale(image, size=(61, 77), model=files[name]).image.shape == (61, 77, 3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tiles_equal_the_whole_within_what_was_measured(files: dict[str, Path], name: str) -> None:
    model = zoo.load(files[name]).model
    assert isinstance(model, WholeNetwork)
    lr = as_floats(picture())
    whole = scalewise.upscale(lr, model.scale, model=model, dtype="fp32")
    tiled = scalewise.upscale(lr, model.scale, model=model, tile=24, dtype="fp32")
    if model.measured.context is None:
        assert any("whole picture" in note for note in tiled.report.notes)
        return
    assert model.measured.difference <= 0.25 / 255
    assert np.abs(tiled.image - whole.image).max() <= max(1e-3, 2 * model.measured.difference)


@pytest.mark.parametrize("name", ["Compact", "SPAN", "SAFMN"])
def test_half_of_the_work_is_half_of_the_work(files: dict[str, Path], name: str) -> None:
    image = picture(96, 128)
    image[:, :64] = 128  # nothing to restore on the left
    model = zoo.load(files[name]).model
    half = scalewise.upscale(image, 2, model=model, budget=0.5)
    assert 0.2 < half.report.share <= 0.5
    left, right = half.report.effort_map[:, :7].mean(), half.report.effort_map[:, 9:].mean()
    assert left < 0.2 < 0.5 < right


@pytest.mark.parametrize("name", OURS)
def test_networks_of_ours_come_first(files: dict[str, Path], name: str) -> None:
    assert isinstance(zoo.open_file(files[name]).model, SuperResolver)


def test_a_weight_file_is_found_by_its_name(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SCALEWISE_MODELS", f"{tmp_path}:{files['Compact'].parent}")
    assert zoo.load("Compact").name == "Compact.pth"
    assert zoo.load("Compact.pth").model.limits.scales == (2.0,)


def test_a_description_says_what_the_file_is(files: dict[str, Path]) -> None:
    lines = "\n".join(zoo.describe(files["Compact"]).lines())
    assert "Compact" in lines and "spandrel" in lines and "×2" in lines
    assert "context" in lines and "per pixel" in lines


def test_torchvision_is_left_as_it_was(files: dict[str, Path]) -> None:
    zoo.load(files["Compact"])
    if "torchvision" in sys.modules:
        assert sys.modules["torchvision"].__spec__ is not None


def test_faces_and_inpainting_are_refused(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from scalewise.foreign import spandrel_network

    spandrel = spandrel_network.imported()
    for purpose, word in (("FaceSR", "faces"), ("Inpainting", "mask")):
        monkeypatch.setattr(spandrel.ImageModelDescriptor, "purpose", property(lambda _, p=purpose: p))
        with pytest.raises(CheckpointError, match=word):
            zoo.open_file(files["Compact"])
