"""In 8 bits compute all convolutions but the last; what that loses is measured, and too much is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from scalewise import zoo
from scalewise.checkpoints.build import patch_routed
from scalewise.cli import app
from scalewise.cli.export import calibration_crops
from scalewise.errors import DataError, InvalidRequest
from scalewise.export import int8
from scalewise.export.int8 import export_int8, last_convolutions

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def node(kind: str, name: str, *inputs: str) -> SimpleNamespace:
    return SimpleNamespace(op_type=kind, name=name, input=inputs, output=[f"{name}.out"])


def small_network() -> Any:
    return patch_routed(8, [1, 2], [3, 4], 32, 8).eval()


def test_last_are_convolutions_that_no_other_follows() -> None:
    graph = SimpleNamespace(
        node=[
            node("Conv", "stem", "lr"),
            node("Relu", "relu", "stem.out"),
            node("Conv", "tail", "relu.out"),
            node("Conv", "base", "lr"),
            node("Add", "sum", "tail.out", "base.out"),
        ],
        output=[SimpleNamespace(name="sum.out")],
    )
    assert last_convolutions(graph) == {"tail", "base"}


def test_only_the_last_convolutions_compute_in_float(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime", reason="int8 files are made by onnxruntime")
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "int8.onnx"
    crops = calibration_crops(EXAMPLES, 4, 24)[:12]
    done = export_int8(small_network(), 4, path, crops)
    graph = onnx.load(str(path)).graph
    makers = {name: one.op_type for one in graph.node for name in one.output}
    fed = [makers.get(one.input[0]) for one in graph.node if one.op_type == "Conv"]
    assert fed.count("DequantizeLinear") == done.quantized and len(fed) == done.convolutions == done.quantized + 2
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for shape in ((16, 16), (23, 40)):
        found = session.run(None, {"lr": torch.rand(1, 3, *shape).numpy()})[0]
        assert found.shape == (1, 3, 4 * shape[0], 4 * shape[1])
    assert done.fp32 > 10 and abs(done.loss) < 0.15


def test_too_great_a_loss_is_refused_unless_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime", reason="int8 files are made by onnxruntime")
    path, crops = tmp_path / "int8.onnx", calibration_crops(EXAMPLES, 2, 24)[:4]
    monkeypatch.setattr(int8, "MOST_LOSS", -1.0)
    with pytest.raises(InvalidRequest, match=r"loses .* dB .* at most -1 is allowed: .*accept the loss"):
        export_int8(small_network(), 2, path, crops, tile=24)
    assert not list(tmp_path.iterdir())
    done = export_int8(small_network(), 2, path, crops, tile=24, accept_loss=True)
    assert path.is_file() and done.loss > -1 and done.exported.shapes == ((24, 24),)


def test_a_network_of_one_convolution_stays_in_float(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    with pytest.raises(InvalidRequest, match="no convolution but its last"):
        export_int8(zoo.bicubic(), 2, tmp_path / "int8.onnx", [])
    assert not list(tmp_path.iterdir())


def test_crops_are_the_same_in_every_call_and_mirrored_where_a_photo_ends(tmp_path: Path) -> None:
    first, second = calibration_crops(EXAMPLES, 2, 32), calibration_crops(EXAMPLES, 2, 32)
    assert len(first) == 64 * 96**2 // 32**2
    assert all(
        torch.equal(a, b) for one, two in zip(first[:5], second[:5], strict=True) for a, b in zip(one, two, strict=True)
    )
    lr, hr = first[0]
    assert lr.shape == (3, 32, 32) and hr.shape == (3, 64, 64) and lr.min() >= 0 and lr.max() <= 1
    Image.effect_noise((40, 30), 60).convert("RGB").save(tmp_path / "small.png")
    _, hr = calibration_crops(tmp_path, 4, 64)[0]
    assert hr.shape == (3, 256, 256) and hr.std() > 0.01
    with pytest.raises(DataError, match="no pictures in"):
        calibration_crops(tmp_path / "none", 2, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--package", "gimp"], "allowed is darktable"),
        (["--package", "darktable", "-s", "4"], "leave out -s, --tile and --int8"),
        (["--package", "darktable", "--int8"], "leave out -s, --tile and --int8"),
        (["-s", "4", "--data", "."], "belong to --int8"),
        (["-s", "4", "--accept-loss"], "belong to --int8"),
        (["-s", "4", "--int8", "--half"], "leave one out"),
        ([], "add -s 4, or --package darktable"),
        (["-s", "2.5", "--int8"], "one whole factor from 1 to 16, not at 2.5"),
        (["-s", "2", "--int8", "--tile", "0"], "--tile 0 is out of range"),
    ],
)
def test_options_that_contradict_each_other_are_said(options: list[str], message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", "-n", "bicubic", str(tmp_path / "x.onnx"), *options])
    assert done.exit_code == 2 and message in done.stderr.replace("\n", " ")
    assert not list(tmp_path.iterdir())
