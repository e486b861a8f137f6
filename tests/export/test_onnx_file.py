"""An ONNX file gives the model's pixels at any size, at full budget; what cannot be exported is said in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from scalewise import zoo
from scalewise.checkpoints.build import patch_routed
from scalewise.cli import app
from scalewise.encoders.adaformer import AdaFormer
from scalewise.encoders.camixer import CAMixer
from scalewise.encoders.carn import CARN
from scalewise.encoders.cat import CAT
from scalewise.encoders.edsr import EDSR
from scalewise.encoders.elan import ELAN
from scalewise.encoders.fsrcnn import FSRCNN
from scalewise.encoders.nlsa import NLSA
from scalewise.encoders.rcan import RCAN
from scalewise.encoders.rdn import RDN
from scalewise.encoders.srresnet import SRResNet
from scalewise.encoders.swinir import SwinIR
from scalewise.encoders.tadt import TADT
from scalewise.errors import InvalidRequest, UnsupportedScale
from scalewise.export import onnx_file
from scalewise.export.onnx_file import export, in_full, one_scale
from scalewise.models.patchwise import PatchwiseModel
from scalewise.models.super_resolver import SuperResolver
from scalewise.upsamplers.ciaosr import CiaoSR
from scalewise.upsamplers.fixed import CascadeTail, Deconvolution, DirectShuffle, PixelShuffle, ResNetTail
from scalewise.upsamplers.itsrn import ITSRN
from scalewise.upsamplers.liif import LIIF
from scalewise.upsamplers.lte import LTE
from scalewise.upsamplers.metasr import MetaSR

SHAPES = ((16, 16), (23, 40), (57, 31))


def pair(encoder: nn.Module, tail: Callable[[int], nn.Module]) -> SuperResolver:
    upsampler = tail(encoder.channels)  # type: ignore[arg-type]
    scales = getattr(upsampler, "scales", None)
    return SuperResolver(encoder, upsampler, scales=scales).eval()  # type: ignore[arg-type]


CONVOLUTIONAL: dict[str, Callable[[], Any]] = {
    "edsr": lambda: pair(EDSR(16, 2), lambda c: PixelShuffle(c, 4)),
    "srresnet": lambda: pair(SRResNet(16, 2), lambda c: ResNetTail(c, 4)),
    "carn": lambda: pair(CARN(16), lambda c: CascadeTail(c, (2, 4))),
    "rdn": lambda: pair(RDN(8, 2, layers=2, growth=8), lambda c: PixelShuffle(c, 4)),
    "rcan": lambda: pair(RCAN(16, 1, blocks=2, reduction=4), lambda c: PixelShuffle(c, 4)),
    "fsrcnn": lambda: pair(FSRCNN(16, 8), lambda c: Deconvolution(c, 4)),
    "exits": lambda: patch_routed(8, [1, 2], [3, 4], 32, 8).eval(),
    "bicubic": zoo.bicubic,
    "liif": lambda: pair(EDSR(8, 1), lambda c: LIIF(c, (16, 16))),
    "lte": lambda: pair(EDSR(8, 1), lambda c: LTE(c, 16, (16,))),
    "metasr": lambda: pair(EDSR(8, 1), lambda c: MetaSR(c, 16)),
}
WINDOWED: dict[str, Callable[[], Any]] = {
    "swinir": lambda: pair(SwinIR(12, (2,), heads=(2,), features=None), lambda c: PixelShuffle(c, 4)),
    "elan": lambda: pair(ELAN(15, 4, windows=(2, 4, 8)), lambda c: DirectShuffle(c, 4)),
    "cat": lambda: pair(CAT(32, (2,), heads=(2,), splits=((2, 8),), features=None), lambda c: MetaSR(c, 8)),
    "camixer": lambda: pair(CAMixer(12, (1, 1)), lambda c: DirectShuffle(c, 4)),
    "tadt": lambda: pair(TADT(24, 1, windows=(2, 4), global_window=8, pooled=2, features=8), lambda c: LIIF(c, (8,))),
}
SOON = ("edsr", "exits", "liif")  # writing a file takes seconds
NETWORKS = CONVOLUTIONAL | WINDOWED
WRITTEN = [name if name in SOON else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]


@pytest.mark.parametrize("name", NETWORKS)
def test_one_scale_is_the_model_at_full_budget(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for shape in ((16, 17), (19, 32)):
        lr = torch.rand(1, 3, *shape)
        assert torch.allclose(one_scale(network, 4)(lr)[0], in_full(network, lr, 4), atol=1e-5)


@pytest.mark.parametrize("name", WRITTEN)
def test_the_file_gives_torchs_pixels_on_three_shapes(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = NETWORKS[name]()
    path = tmp_path / "network.onnx"
    exported = export(network, 4, path)
    assert exported.difference < 1e-5 and len(exported.shapes) == 3
    if name in CONVOLUTIONAL:
        assert not {"Gather", "GatherElements", "GatherND", "ScatterND"} & set(exported.operators)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for shape in SHAPES:
        lr = torch.rand(1, 3, *shape)
        found = torch.from_numpy(session.run(None, {"lr": lr.numpy()})[0])
        assert found.shape == (1, 3, 4 * shape[0], 4 * shape[1])
        assert torch.allclose(found[0], in_full(network, lr, 4), atol=1e-5)


def test_16_bit_weights_are_half_the_file_and_give_the_pixels(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    network, path, whole = patch_routed(32, [1, 2], [3, 4], 32, 8).eval(), tmp_path / "half.onnx", tmp_path / "f.onnx"
    export(network, 4, whole)
    exported = export(network, 4, path, half=True)
    assert "Cast" in exported.operators and 0 < exported.difference < 1e-3
    assert path.stat().st_size < 0.65 * whole.stat().st_size
    weights = onnx.load(str(path)).graph.initializer
    assert {len(one.dims) for one in weights if one.data_type == onnx.TensorProto.FLOAT16} == {4}
    lr = torch.rand(1, 3, 23, 40)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"lr": lr.numpy()})[0])
    assert torch.allclose(found[0], in_full(network, lr, 4), atol=1e-3)


def test_weights_that_16_bits_cannot_hold_stay_in_32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    network, path = NETWORKS["exits"](), tmp_path / "half.onnx"
    with torch.no_grad():
        for weight in network.network.blocks.parameters():
            weight.zero_()
        network.network.blocks[0].conv1.weight.fill_(1e5)
    monkeypatch.setattr(onnx_file, "HALVED_FROM", 100)
    assert export(network, 4, path, half=True).difference < 1e-3
    kinds = {one.name: one.data_type for one in onnx.load(str(path)).graph.initializer}
    assert kinds["network.blocks.0.conv1.weight"] == onnx.TensorProto.FLOAT
    assert kinds["network.blocks.0.conv2.weight_half"] == onnx.TensorProto.FLOAT16


def test_a_tile_is_the_only_size(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    network, path = NETWORKS["exits"](), tmp_path / "tile.onnx"
    exported = export(network, 4, path, tile=24)
    assert exported.shapes == ((24, 24),) and "Shape" not in exported.operators
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, 3, 24, 24] and session.get_outputs()[0].shape == [1, 3, 96, 96]
    lr = torch.rand(1, 3, 24, 24)
    found = torch.from_numpy(session.run(None, {"lr": lr.numpy()})[0])
    assert torch.allclose(found[0], in_full(network, lr, 4), atol=1e-5)
    for tile in (1, 4096):
        with pytest.raises(InvalidRequest, match=f"a tile of {tile} pixels .* takes 2 to 2048"):
            export(network, 4, tmp_path / "other.onnx", tile=tile)
    assert [one.name for one in tmp_path.iterdir()] == ["tile.onnx"]


def test_a_file_names_no_folder_of_the_machine_that_made_it(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    path = tmp_path / "network.onnx"
    export(NETWORKS["bicubic"](), 2, path)
    assert b".py" not in path.read_bytes()


def test_the_model_stays_as_and_where_it_was(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = NETWORKS["fsrcnn"]().to(device).train()
    export(network, 4, tmp_path / "network.onnx")
    assert network.training and network.encoder.training
    assert all(one.device.type == device.type and one.requires_grad for one in network.parameters())


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked by onnx's own evaluator, as where ONNX Runtime is not installed."""
    pytest.importorskip("onnxscript")
    find = onnx_file.find_spec
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    network, path = NETWORKS["bicubic"](), tmp_path / "network.onnx"
    monkeypatch.setattr(onnx_file, "in_full", lambda model, lr, scale: in_full(model, lr, scale) + 0.01)
    with pytest.raises(InvalidRequest, match=r"wrong by 0\.01 .* not kept"):
        export(network, 2, path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(onnx_file, "in_full", lambda model, lr, scale: in_full(model, lr, scale) * torch.nan)
    with pytest.raises(InvalidRequest, match="wrong by nan"):
        export(network, 2, path)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_file_once(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    arguments = ["export", "-n", "bicubic", "-s", "2", str(tmp_path / "bicubic.onnx")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and "×2, pictures of 2 pixels a side or more; at most " in done.stdout
    assert "bicubic.onnx' exists" in CliRunner().invoke(app, arguments).stderr.replace("\n", " ")
    again = CliRunner().invoke(app, [*arguments[:3], "-s", "2.5", str(tmp_path / "other.onnx")])
    assert again.exit_code == 2 and "one whole factor from 1 to 16, not at 2.5" in again.stderr


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    edsr, shuffle = NETWORKS["edsr"](), lambda c: PixelShuffle(c, 4)
    with pytest.raises(UnsupportedScale, match="×4, not by 3"):
        one_scale(edsr, 3)
    for scale in (2.5, 17):
        with pytest.raises(UnsupportedScale, match="one whole factor"):
            one_scale(NETWORKS["exits"](), scale)
    with pytest.raises(InvalidRequest, match="ITSRN asks LR pixels"):
        one_scale(pair(EDSR(8, 1), lambda c: ITSRN(c, (8,))), 4)
    with pytest.raises(InvalidRequest, match="CiaoSR asks LR pixels"):
        one_scale(pair(EDSR(8, 1), lambda c: CiaoSR(c, (8,))), 4)
    with pytest.raises(InvalidRequest, match="NLSA sorts pixels"):
        one_scale(pair(NLSA(8, 1), shuffle), 4)
    with pytest.raises(InvalidRequest, match="AdaFormer decides where"):
        one_scale(pair(AdaFormer(8, blocks=2), shuffle), 4)
    with pytest.raises(InvalidRequest, match="PatchwiseModel cuts the picture"):
        one_scale(PatchwiseModel(nn.Identity(), nn.Identity()), 4)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=r"allowed is \.onnx"):
        export(edsr, 4, tmp_path / "network.pt")
