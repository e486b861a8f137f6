"""ONNX files: the pixels that onnxruntime gives, at any scale and in tiles; what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import scalewise
from scalewise import zoo
from scalewise.errors import CheckpointError
from scalewise.evaluate.upscalers import upscaler_of
from scalewise.models.whole_network import WholeNetwork

onnx = pytest.importorskip("onnx", reason="ONNX files: pip install 'scalewise[onnx]'")
pytest.importorskip("onnxruntime", reason="ONNX files: pip install 'scalewise[onnx]'")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def graph(scale: int = 2, *, size: object = None, domain: str = "", channels: int = 3, outputs: int | None = None):
    """A convolution and a depth-to-space."""
    helper = onnx.helper
    sides = [size, size] if size is not None else ["h", "w"]
    weights = (
        np.random.default_rng(0).normal(0, 0.2, ((outputs or channels) * scale**2, channels, 3, 3)).astype(np.float32)
    )
    nodes = [
        helper.make_node("Conv", ["lr", "w"], ["x"], pads=[1, 1, 1, 1], domain=domain),
        helper.make_node("DepthToSpace", ["x"], ["sr"], blocksize=scale, mode="CRD"),
    ]
    made = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("lr", 1, [1, channels, *sides])],
        [helper.make_tensor_value_info("sr", 1, None)],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def written(folder: Path, model: object) -> Path:
    path = folder / "small.onnx"
    path.write_bytes(model.SerializeToString())  # type: ignore[attr-defined]
    return path


def picture() -> np.ndarray:
    return np.random.default_rng(1).random((40, 52, 3), np.float32)


def test_the_pixels_are_those_of_onnxruntime(tmp_path: Path) -> None:
    model = zoo.load(written(tmp_path, graph())).model
    assert isinstance(model, WholeNetwork) and model.limits.context == 4  # it sees 1, and 4 is the least that is tried
    assert model.measured.conv_macs == 12 * 27
    lr = picture()
    published = upscaler_of(model)(torch.from_numpy(lr).permute(2, 0, 1), (80, 104), 2).sr.clamp(0, 1)
    theirs = model.network.session.run(None, {"lr": lr.transpose(2, 0, 1)[None]})[0][0].clip(0, 1)  # type: ignore[union-attr]
    assert np.abs(published.numpy() - theirs).max() < 1e-5
    ours = scalewise.upscale(lr, 2, model=model)
    assert np.abs(ours.image - theirs.transpose(1, 2, 0))[2:-2, 2:-2].max() < 1e-5  # beyond a border is a reflection
    tiled = scalewise.upscale(lr, 2, model=model, tile=16)
    assert np.abs(tiled.image - ours.image).max() < 1e-5
    assert scalewise.upscale(lr, 2.7, model=model).image.shape == (108, 140, 3)


def test_gray_networks_enlarge_the_luma(tmp_path: Path) -> None:
    model = zoo.load(written(tmp_path, graph(channels=1))).model
    assert scalewise.upscale(picture(), 2, model=model).image.shape == (80, 104, 3)


def test_networks_of_four_channels_enlarge_the_colours(tmp_path: Path) -> None:
    model = zoo.load(written(tmp_path, graph(channels=4))).model
    assert scalewise.upscale(picture(), 2, model=model).image.shape == (80, 104, 3)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"size": 64}, "64×64 only"),
        ({"domain": "evil.ops"}, "operators of 'evil.ops'"),
        ({"channels": 5}, "5 channels"),
        ({"channels": 1, "outputs": 3}, "gray to gray"),
        ({"channels": 3, "outputs": 1}, "gray to gray"),
    ],
)
def test_what_cannot_run_is_refused_in_a_line(tmp_path: Path, options: dict, word: str) -> None:
    with pytest.raises(CheckpointError, match=word) as caught:
        zoo.load(written(tmp_path, graph(**options)))
    assert "\n" not in str(caught.value)


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    model = graph()
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", "/etc/hostname"
    with pytest.raises(CheckpointError, match="other files"):
        zoo.load(written(tmp_path, model))
