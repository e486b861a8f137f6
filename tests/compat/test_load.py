"""Published formats are recognised, described, converted; what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.test_files import edsr_state, saved
from safetensors import safe_open

from scalewise import compat, zoo
from scalewise.budget.budget import Effort
from scalewise.errors import CheckpointError, InvalidRequest, UnwritableOutput
from scalewise.evaluate import evaluate, upscaler_of
from scalewise.execution.plan import RunOptions
from scalewise.geometry.grid import Frame, rectangle
from scalewise.models.super_resolver import SuperResolver


@torch.no_grad()
def upscale(model: Any, size: tuple[int, int] = (9, 11), factor: float | None = None) -> torch.Tensor:
    assert isinstance(model, SuperResolver)
    scale = factor or (model.limits.scales[0] if model.limits.scales else 2.3)
    lr = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    out = (round(size[0] * scale), round(size[1] * scale))
    return model(lr, rectangle(Frame(size), out), torch.full((1, 2), scale), Effort()).rgb


def pattern(height: int, width: int) -> torch.Tensor:
    """x[0, c, i, j] = ((7 i + 13 j + 29 c) mod 64) / 63, the picture of the published numbers."""
    c, i, j = torch.meshgrid(torch.arange(3), torch.arange(height), torch.arange(width), indexing="ij")
    return ((7 * i + 13 * j + 29 * c) % 64).unsqueeze(0) / 63


PUBLISHED = [
    ("carn_m_multiscale.pth", 2, (0.496973, 0.351929, 0.098088, 0.711403, 0.635744)),
    ("carn_m_multiscale.pth", 3, (0.498204, 0.352963, 0.067866, 0.458409, 0.580038)),
    ("carn_m_multiscale.pth", 4, (0.496603, 0.354609, -0.001821, 0.953851, 0.640817)),
]


@pytest.mark.parametrize(("name", "scale", "expected"), PUBLISHED)
def test_published_weights_give_the_published_numbers(shared: Path, name: str, scale: int, expected: Any) -> None:
    model = compat.load(shared / "weights" / name).super_resolver
    query = rectangle(Frame((32, 32)), (32 * scale, 32 * scale))
    with torch.no_grad():
        y = model(pattern(32, 32), query, torch.full((1, 2), float(scale))).rgb
    found = [y.mean(), y.std(correction=0), y[0, 0, 0, 0], y[0, 1, 17, 23], y[0, 2, -1, -1]]
    torch.testing.assert_close(torch.stack(found), torch.tensor(expected), rtol=0, atol=1e-5)


def test_one_file_for_three_scales(shared: Path) -> None:
    it = compat.describe(shared / "weights" / "carn_m_multiscale.pth")
    assert it.scales == (2, 3, 4)
    assert it.parameters == 414_811 - 24
    assert it.network == "CARN-M" and not it.assumed and not it.lacks


GOLDEN = [
    "edsr_baseline_liif_x4",
    "edsr_basicsr_x2",
    "rcan_pytorch_x3",
    "rdn_liif_x4",
    "nlsn_x2",
    "swinir_light_x3",
    "elan_light_x4",
    "liif_full",
    "lte_edsr",
    "ltep_edsr",
    "itsrn_sine",
    "metasr_official_edsr",
    "ciaosr_rdn",
    "lte_swinir",
]


@pytest.mark.parametrize("name", GOLDEN)
def test_a_converted_file_describes_itself_and_gives_the_same_pixels(shared: Path, tmp_path: Path, name: str) -> None:
    source = next((shared / "golden" / name).glob("weights.*"))
    out = tmp_path / "converted.safetensors"
    told = compat.convert(source, out)
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["arguments"]) == json.loads(json.dumps(told.arguments))
    assert metadata["source_sha256"] == compat.describe(source).sha256
    again = compat.load(out)
    assert torch.equal(upscale(again.model), upscale(compat.load(source).model))
    assert again.description.lines()[0].startswith(str(out))


def test_a_converted_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    compat.convert(saved(tmp_path / "x.pth", edsr_state()), out)
    content = bytearray(out.read_bytes())
    content[-5] ^= 1
    out.write_bytes(content)
    with pytest.raises(CheckpointError, match="sha256 differs"):
        compat.load(out)


def test_convert_neither_overwrites_nor_takes_other_formats(tmp_path: Path) -> None:
    source, out = saved(tmp_path / "x.pth", edsr_state()), tmp_path / "x.safetensors"
    with pytest.raises(InvalidRequest, match="safetensors"):
        compat.convert(source, tmp_path / "x.onnx")
    compat.convert(source, out)
    with pytest.raises(UnwritableOutput, match="exists"):
        compat.convert(source, out)
    compat.convert(source, out, overwrite=True)
    with pytest.raises(UnwritableOutput, match="cannot write"):
        compat.convert(source, tmp_path / "nowhere" / "x.safetensors")


def test_an_encoder_alone_loads_and_says_what_is_missing(tmp_path: Path) -> None:
    state = {name: value for name, value in edsr_state().items() if not name.startswith("tail")}
    loaded = compat.load(saved(tmp_path / "encoder.pth", state))
    assert loaded.model(torch.rand(1, 3, 5, 6)).shape == (1, 4, 5, 6)  # type: ignore[operator]
    assert "EDSR" in loaded.description.network
    with pytest.raises(CheckpointError, match="lacks an upsampler"):
        _ = loaded.super_resolver
    compat.convert(tmp_path / "encoder.pth", tmp_path / "encoder.safetensors")
    with pytest.raises(CheckpointError, match="lacks an upsampler"):
        _ = compat.load(tmp_path / "encoder.safetensors").super_resolver


def test_what_shapes_leave_open_is_said_and_can_be_set(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", edsr_state())
    assert compat.describe(path).assumed == {"res_scale": 1.0}
    set_ = compat.load(path, res_scale=0.5)
    assert not set_.description.assumed
    assert set_.description.arguments["encoder"]["arguments"]["res_scale"] == 0.5
    assert not torch.equal(upscale(set_.model), upscale(compat.load(path).model))
    with pytest.raises(InvalidRequest, match=r"res_scale='much' is not a value for it; the published one is 1\.0"):
        compat.load(path, res_scale="much")
    with pytest.raises(InvalidRequest, match="chunk cannot be set; this file can be set: res_scale"):
        compat.load(path, chunk=3)


@pytest.mark.parametrize(
    ("wrap", "form"),
    [
        (lambda state: state, "bare state dict"),
        (lambda state: {f"module.{name}": value for name, value in state.items()}, "bare state dict"),
        (lambda state: {"model": {"name": "edsr-baseline", "args": {"scale": 2}, "sd": state}}, "LIIF wrapper"),
    ],
)
def test_wrappers_of_one_network(tmp_path: Path, wrap: Any, form: str) -> None:
    it = compat.describe(saved(tmp_path / "x.pth", wrap(edsr_state())))
    assert it.format == form
    assert it.arguments["encoder"]["name"] == "edsr" and it.scales == (2,)


def test_averaged_weights_are_preferred(shared: Path, tmp_path: Path) -> None:
    state = torch.load(shared / "golden" / "edsr_basicsr_x2" / "weights.pth", weights_only=True)["params"]
    other = {name: value + 1 for name, value in state.items()}
    path = saved(tmp_path / "x.pth", {"params": other, "params_ema": state})
    assert torch.equal(compat.load(path).model.state_dict()["encoder.head.bias"], state["conv_first.bias"])
    generators = torch.load(shared / "golden" / "ciaosr_edsr" / "weights.pth", weights_only=True)["state_dict"]
    average = {name.replace("generator.", "generator_ema."): value + 1 for name, value in generators.items()}
    path = saved(tmp_path / "y.pth", {"meta": {}, "state_dict": generators | average})
    expected = generators["generator.conv_first.bias"] + 1
    assert torch.equal(compat.load(path).model.state_dict()["encoder.head.bias"], expected)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("weights/carn-pcsr-phase1.pth", "PCSR"),
        ("weights/arm-carn.state", "no weights"),
    ],
)
def test_known_files_of_other_kinds_are_named(shared: Path, name: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        compat.load(shared / name)


def test_unknown_keys_name_the_nearest_network(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth", edsr_state() | {"extra.weight": torch.rand(2)})
    with pytest.raises(CheckpointError, match=r"nearest is EDSR .*, which has no extra\.weight"):
        compat.load(path)
    state = edsr_state()
    del state["head.0.bias"]
    with pytest.raises(CheckpointError, match=r"missing: encoder\.head\.bias"):
        compat.load(saved(tmp_path / "y.pth", state))
    with pytest.raises(CheckpointError, match="none of its 1 keys is known"):
        compat.load(saved(tmp_path / "z.pth", {"foo.bar": torch.rand(2)}))
    with pytest.raises(CheckpointError, match="no weights in a known wrapper"):
        compat.load(saved(tmp_path / "w.pth", {"epoch": 3, "note": "hello"}))


def test_official_nlsn_draws_rotations_and_ours_does_not(shared: Path) -> None:
    source = shared / "golden" / "nlsn_x2" / "weights.pt"
    ours, official = compat.load(source).model, compat.load(source, parity=True).model
    assert torch.equal(upscale(ours, (20, 20)), upscale(ours, (20, 20)))
    assert not torch.equal(upscale(official, (20, 20)), upscale(official, (20, 20)))


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("scale", "expected"), [pytest.param(2, 37.68, marks=slow), pytest.param(3, 34.06, marks=slow), (4, 31.88)]
)
def test_carn_m_reaches_its_psnr_on_set5(shared: Path, scale: int, expected: float) -> None:
    model = zoo.load(shared / "weights" / "carn_m_multiscale.pth", device="cpu").model
    result = evaluate(upscaler_of(model, options=RunOptions(dtype="fp32")), shared / "data" / "bench" / "Set5", scale)
    assert len(result.images) == 5
    assert result.mean["psnr"] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(("name", "expected"), [("disp_x4.pth", 31.94), ("etds_m7c48_x4.pth", 31.71)])
def test_plain_stacks_reach_their_psnr_on_set5(shared: Path, name: str, expected: float) -> None:
    model = zoo.load(shared / "weights" / name, device="cpu").model
    result = evaluate(upscaler_of(model, options=RunOptions(dtype="fp32")), shared / "data" / "bench" / "Set5", 4)
    assert result.mean["psnr"] == pytest.approx(expected, abs=0.005)
