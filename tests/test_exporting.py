"""An ONNX file gives torch's pixels at any size, without gather; what cannot be exported is said in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from scalewise import zoo
from scalewise.encoders.carn import CARN
from scalewise.encoders.edsr import EDSR
from scalewise.encoders.fsrcnn import FSRCNN
from scalewise.encoders.rcan import RCAN
from scalewise.encoders.srresnet import SRResNet
from scalewise.encoders.swinir import SwinIR
from scalewise.errors import InvalidRequest, UnsupportedScale
from scalewise.exporting import export, one_scale
from scalewise.model import SuperResolver
from scalewise.upsamplers.fixed import CascadeTail, Deconvolution, PixelShuffle, ResNetTail
from scalewise.upsamplers.liif import LIIF

SHAPES = ((16, 16), (23, 40), (57, 31))


def pair(encoder: nn.Module, tail: Callable[[int], nn.Module]) -> SuperResolver:
    upsampler = tail(encoder.channels)  # type: ignore[arg-type]
    scales = getattr(upsampler, "scales", None)
    return SuperResolver(encoder, upsampler, scales=scales).eval()  # type: ignore[arg-type]


NETWORKS: dict[str, Callable[[], SuperResolver]] = {
    "edsr": lambda: pair(EDSR(16, 2), lambda c: PixelShuffle(c, 4)),
    "srresnet": lambda: pair(SRResNet(16, 2), lambda c: ResNetTail(c, 4)),
    "carn": lambda: pair(CARN(16), lambda c: CascadeTail(c, (2, 4))),
    "rcan": lambda: pair(RCAN(16, 1, blocks=2, reduction=4), lambda c: PixelShuffle(c, 4)),
    "fsrcnn": lambda: pair(FSRCNN(16, 8), lambda c: Deconvolution(c, 4)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_gives_torchs_pixels_on_three_shapes(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    network = NETWORKS[name]()
    path = tmp_path / "network.onnx"
    operators = export(network, 4, path)
    if name != "fsrcnn":  # it arranges the weights of its deconvolution so, not pixels
        assert not {"Gather", "GatherElements", "GatherND", "ScatterND"} & set(operators)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for shape in SHAPES:
        lr = torch.rand(1, 3, *shape)
        with torch.no_grad():
            expected = one_scale(network, 4)(lr)
        found = torch.from_numpy(session.run(None, {"lr": lr.numpy()})[0])
        assert found.shape == (1, 3, 4 * shape[0], 4 * shape[1])
        assert torch.allclose(found, expected, atol=1e-4)


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    edsr = NETWORKS["edsr"]()
    with pytest.raises(UnsupportedScale, match="×4, not by 3"):
        one_scale(edsr, 3)
    with pytest.raises(InvalidRequest, match="decides where it works"):
        one_scale(zoo.fast(), 4)
    with pytest.raises(InvalidRequest, match="any scale"):
        one_scale(pair(EDSR(16, 1), LIIF), 4)
    with pytest.raises(InvalidRequest, match="windows of 8"):
        one_scale(pair(SwinIR(12, (2,), heads=(2,), features=None), lambda c: PixelShuffle(c, 4)), 4)
    with pytest.raises(InvalidRequest, match=r"allowed is \.onnx"):
        export(edsr, 4, tmp_path / "network.pt")
