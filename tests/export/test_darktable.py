"""A darktable package holds two networks that give our picture, and says what it is; or it is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch

from scalewise import images, zoo
from scalewise.checkpoints.build import patch_routed
from scalewise.encoders.edsr import EDSR
from scalewise.errors import InvalidRequest, UnsupportedScale
from scalewise.export.darktable import UNKNOWN, config, export_package
from scalewise.export.onnx_file import in_full
from scalewise.models.super_resolver import SuperResolver
from scalewise.upsamplers.fixed import PixelShuffle

PHOTO = Path(__file__).resolve().parents[2] / "examples" / "photo.jpg"
ABOUT = {"licence": "Apache-2.0", "training_data": "59 photos (CC0)", "recipe": "train fast", "source": "ours"}


def check_package(model: Any, path: Path, largest: tuple[int, int]) -> None:
    """Names and layout; both networks in ONNX Runtime on a piece of a photo, to one level of ours."""
    runtime = pytest.importorskip("onnxruntime", reason="opening the networks needs onnxruntime")
    with ZipFile(path) as package:
        folder = path.stem
        assert package.testzip() is None
        assert package.namelist() == [f"{folder}/{name}" for name in ("config.json", "model_x2.onnx", "model_x4.onnx")]
        said = json.loads(package.read(f"{folder}/config.json"))
        assert said["id"] == folder and said["task"] == "upscale" and said["backend"] == "onnx"
        for scale in (2, 4):
            session = runtime.InferenceSession(
                package.read(f"{folder}/model_x{scale}.onnx"), providers=["CPUExecutionProvider"]
            )
            (taken,), (given,) = session.get_inputs(), session.get_outputs()
            assert taken.shape == [1, 3, "height", "width"] and taken.type == given.type == "tensor(float)"
            lr = images.open(PHOTO).read((100, 200, 100 + largest[0], 200 + largest[1])).unsqueeze(0)
            found = torch.from_numpy(session.run(None, {taken.name: lr.numpy()})[0])[0]
            ours = in_full(model, lr, scale)
            levels = [(picture.clamp(0, 1) * 255).round() for picture in (found, ours)]
            assert levels[0].shape == (3, largest[0] * scale, largest[1] * scale)
            assert (levels[0] - levels[1]).abs().max() <= 1


@pytest.mark.parametrize("half", [False, True])
def test_both_networks_give_our_picture(half: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="writing ONNX files needs onnxscript")
    model, path = patch_routed(8, [1, 2], [3, 4], 32, 8).eval(), tmp_path / "tiny.dtmodel"
    done = export_package(model, "tiny", ABOUT, path, half=half)
    assert sorted(done) == [2, 4]
    check_package(model, path, (37, 50))
    assert [one.name for one in tmp_path.iterdir()] == ["tiny.dtmodel"]
    if half:  # once is enough
        first = path.read_bytes()
        export_package(model, "tiny", ABOUT, path, half=half, overwrite=True)
        assert path.read_bytes() == first


@pytest.mark.slow
def test_fast_as_a_package_gives_our_picture(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="writing ONNX files needs onnxscript")
    model, path = zoo.load("fast", device="cpu"), tmp_path / "scalewise-fast.dtmodel"
    export_package(model.model, "fast", model.card, path)
    check_package(model.model, path, (96, 128))
    with ZipFile(path) as package:
        card = json.loads(package.read("scalewise-fast/config.json"))["model_card"]
    assert card["license"] == "Apache-2.0" and "photos" in card["training_data"]


def test_the_config_is_what_darktable_reads() -> None:
    found = config("scalewise-fast", "fast", ABOUT)
    assert found["attributes"] == {"model_x2": {"input_sizes": [512]}, "model_x4": {"input_sizes": [256]}}
    assert isinstance(found["version"], str) and found["name"] == "scalewise fast"
    card = found["model_card"]
    assert card["license"] == "Apache-2.0" and card["training_data"] == "59 photos (CC0)"
    assert card["notes"] == "training: train fast" and "author" not in card
    silent = config("x", "x", {})["model_card"]
    assert silent["license"] == silent["training_data"] == UNKNOWN and "notes" not in silent
    assert config("x", "x", {"license": "MIT"})["model_card"]["license"] == "MIT"


def test_what_is_no_package_is_said_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = patch_routed(8, [1, 2], [3, 4], 32, 8).eval()
    with pytest.raises(InvalidRequest, match=r"allowed is \.dtmodel"):
        export_package(model, "x", {}, tmp_path / "x.onnx")
    with pytest.raises(InvalidRequest, match="'my model' becomes the id"):
        export_package(model, "x", {}, tmp_path / "my model.dtmodel")
    only_x4 = SuperResolver(EDSR(8, 1), PixelShuffle(8, 4), scales=(4,)).eval()
    with pytest.raises(UnsupportedScale, match="×4, not by 2"):
        export_package(only_x4, "x", {}, tmp_path / "x.dtmodel")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr("scalewise.export.onnx_file.TOLERANCE", -1.0)
    with pytest.raises(InvalidRequest, match="not kept"):
        export_package(model, "x", {}, tmp_path / "x.dtmodel")
    assert not list(tmp_path.iterdir())
