"""The metrics equal what the papers' code computes, and behave as measures should."""

import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from scalewise.errors import InvalidRequest, MissingDependency, ProtocolMismatch
from scalewise.evaluate import metrics
from scalewise.geometry.projection import fisheye_shrink, latitude_weights, row_latitudes
from scalewise.training.losses.pixel import ws_l1


def golden(shared: Path, name: str) -> tuple[dict[str, dict], dict[str, Tensor]]:
    folder = shared / "golden" / name
    cases = json.loads((folder / "meta.json").read_text())["cases"]
    return {case["id"]: case for case in cases}, load_file(folder / "cases.safetensors")


def rgb(levels: Tensor) -> Tensor:
    """(h, w, 3) BGR 8-bit → (3, h, w) RGB in [0, 1]."""
    return levels.flip(-1).permute(2, 0, 1).double() / 255


def noisy_pair(height: int = 40, width: int = 48) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(3, height, width, generator=generator)
    return hr + 0.02 * torch.randn(3, height, width, generator=generator), hr


def test_psnr_and_ssim_equal_basicsr(shared: Path) -> None:
    cases, tensors = golden(shared, "ref_psnr_ssim")
    pairs = {
        "uint8_bgr": [rgb(tensors[f"uint8_bgr.in.{key}"]) for key in ("img", "img2")],
        "tensor_rgb": [tensors[f"tensor_rgb.in.{key}"][0] for key in ("img", "img2")],
    }
    for case, (a, b) in pairs.items():
        for border in cases[case]["crop_borders"]:
            for channel in ("rgb", "y"):
                for metric in ("psnr", "ssim"):
                    key = f"{metric}_{channel}_crop{border}"
                    ours = getattr(metrics, metric)(a, b, channel=channel, shave=border)
                    atol = cases[case]["output_info"][key]["suggested_atol"]
                    assert ours == pytest.approx(float(tensors[f"{case}.out.{key}"]), abs=atol), (case, key)
    y = metrics.luma(pairs["uint8_bgr"][0])[0] * 255
    torch.testing.assert_close(y.float(), tensors["uint8_bgr.out.y_channel"][..., 0], atol=0.006, rtol=0)
    y = metrics.luma(pairs["tensor_rgb"][0])[None]
    torch.testing.assert_close(y.float(), tensors["tensor_rgb.out.y"], atol=3e-5, rtol=0)


def test_liif_psnr_equals_liif(shared: Path) -> None:
    cases, tensors = golden(shared, "ref_psnr_ssim")
    a, b = (tensors[f"liif_style.in.{key}"][0] for key in ("img", "img2"))
    conventions: list[tuple[str, metrics.Channel, int]] = [
        ("plain", "rgb", 0),
        ("benchmark_x2", "y-liif", 2),
        ("benchmark_x4", "y-liif", 4),
        ("div2k_x2", "rgb", 8),
        ("div2k_x4", "rgb", 10),
    ]
    for key, channel, shave in conventions:
        atol = cases["liif_style"]["output_info"][key]["suggested_atol"]
        ours = metrics.psnr(a, b, channel=channel, shave=shave)
        assert ours == pytest.approx(float(tensors[f"liif_style.out.{key}"]), abs=atol), key


def test_spherical_metrics_equal_the_odisr_code(shared: Path) -> None:
    cases, tensors = golden(shared, "ref_ws_psnr_ssim")
    a, b = (rgb(tensors[f"erp_48x96.in.{key}"]) for key in ("img", "img2"))
    for border in (0, 4):
        for channel in ("rgb", "y"):
            for metric in ("ws_psnr", "ws_ssim"):
                key = f"{metric}_{channel}_crop{border}"
                ours = getattr(metrics, metric)(a, b, channel=channel, shave=border)
                atol = cases["erp_48x96"]["output_info"][key]["suggested_atol"]
                assert ours == pytest.approx(float(tensors[f"erp_48x96.out.{key}"]), abs=atol), key
    for case, height in (("erp_8x16", 8), ("erp_7x5", 7)):
        weights = tensors[f"{case}.out.latitude_weights"]
        torch.testing.assert_close(latitude_weights(height), weights, atol=3e-5, rtol=0)
        maps = {"cos_latitude": latitude_weights(height), "latitude": row_latitudes(height)}
        for key, ours in maps.items():
            theirs = tensors[f"{case}.out.{key}"][0]
            torch.testing.assert_close(ours[:, None].expand_as(theirs).float(), theirs, atol=3e-5, rtol=0)
    loss = ws_l1(*(tensors[f"wsl1.in.{key}"] for key in ("pred", "target", "top")), height=64)
    assert float(loss) == pytest.approx(float(tensors["wsl1.out.loss"]), abs=1e-5)


def test_bands_of_rows_do_not_change_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    sr, hr = noisy_pair()
    measures = (metrics.psnr, metrics.ssim, metrics.ws_psnr, metrics.ws_ssim)
    whole = [measure(sr, hr) for measure in measures]
    monkeypatch.setattr(metrics, "BAND", 7)
    assert [measure(sr, hr) for measure in measures] == pytest.approx(whole, abs=1e-9)


def test_equal_pictures_are_perfect_and_a_constant_error_is_alike_everywhere() -> None:
    _, hr = noisy_pair()
    assert metrics.psnr(hr, hr) == math.inf
    assert metrics.ssim(hr, hr) == pytest.approx(1)
    assert metrics.psnr(hr + 0.1, hr) == pytest.approx(20, abs=1e-5)
    assert metrics.ws_psnr(hr + 0.1, hr) == pytest.approx(20, abs=1e-5)


def test_consistency_knows_what_was_given() -> None:
    lr = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))
    faithful = lr.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert metrics.consistency(lr, faithful) > metrics.consistency(lr, faithful.roll(4, 2)) + 5


def test_pictures_that_cannot_be_compared_say_why() -> None:
    image = torch.zeros(3, 16, 20)
    with pytest.raises(ProtocolMismatch, match="20x16 and 16x20"):
        metrics.psnr(image, image.mT)
    with pytest.raises(ProtocolMismatch, match="border of 8"):
        metrics.psnr(image, image, shave=8)
    with pytest.raises(ProtocolMismatch, match="at least 11"):
        metrics.ssim(image, image, shave=3)


def test_fisheye_lr_keeps_a_picture_and_its_seam() -> None:
    height, width, scale = 64, 128, 4
    latitude = row_latitudes(height)[:, None]
    longitude = (torch.arange(width, dtype=torch.float64) + 0.5) * (2 * math.pi / width)
    smooth = 0.5 + 0.4 * torch.cos(latitude) * torch.cos(longitude + 1)  # smooth on the sphere
    hr = smooth.float().expand(3, height, width).contiguous()
    lr = fisheye_shrink(hr, scale)
    assert lr.shape == (3, 16, 32)
    expected = hr.reshape(3, 16, 4, 32, 4).mean((2, 4))
    assert float((lr - expected)[:, 1:-1].abs().max()) < 0.03
    assert float((lr[..., 0] - lr[..., -1]).abs().max()) < 0.12  # no dark line where longitude wraps


def test_pyiqa_is_asked_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def create_metric(name: str):
        def metric(*pictures: Tensor) -> Tensor:
            calls.append((name, [tuple(picture.shape) for picture in pictures]))
            return torch.tensor(0.25)

        return metric

    stand_in = ModuleType("pyiqa")
    stand_in.create_metric = create_metric  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyiqa", stand_in)
    sr, hr = noisy_pair()
    assert metrics.perceptual("lpips")(sr, hr) == 0.25
    assert metrics.perceptual("niqe")(sr, hr) == 0.25
    assert calls == [("lpips", [(1, 3, 40, 48)] * 2), ("niqe", [(1, 3, 40, 48)])]
    with pytest.raises(InvalidRequest, match="allowed are lpips"):
        metrics.perceptual("vibes")
    assert metrics.perceptual("niqe")(sr, None) == 0.25
    with pytest.raises(ProtocolMismatch, match="lpips compares with an HR picture"):
        metrics.perceptual("lpips")(sr, None)


def test_a_metric_may_be_a_function_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def brightness(sr, hr):\n    return sr.mean()\n")
    sr, hr = noisy_pair()
    assert metrics.perceptual(f"{tmp_path / 'mine.py'}:brightness")(sr, hr) == pytest.approx(float(sr.mean()))
    (tmp_path / "other.py").write_text("limit = 3\n\ndef each(sr, hr):\n    return sr\n\ndef none(sr, hr):\n    pass\n")
    with pytest.raises(InvalidRequest, match="has no function 'limit'"):
        metrics.perceptual(f"{tmp_path / 'other.py'}:limit")
    for name, kind in (("each", "Tensor"), ("none", "NoneType")):
        with pytest.raises(InvalidRequest, match=f"gave {kind}: it must give a number"):
            metrics.perceptual(f"{tmp_path / 'other.py'}:{name}")(sr, hr)
    with pytest.raises(InvalidRequest, match=r"metric .*mine.py:darkness: .* has no function 'darkness'"):
        metrics.perceptual(f"{tmp_path / 'mine.py'}:darkness")


def test_without_pyiqa_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(MissingDependency, match="pip install pyiqa"):
        metrics.perceptual("brisque")
