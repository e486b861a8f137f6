"""Protocols as data, the runner, and that what cannot be measured says so."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from scalewise.errors import DataError, ProtocolMismatch
from scalewise.evaluate import (
    DEFAULT,
    PROTOCOLS,
    EvalProtocol,
    Pair,
    Prediction,
    Tiles,
    bicubic,
    compare_protocols,
    evaluate,
    evaluate_alone,
    find_pairs,
    find_protocol,
    fuse,
    in_steps,
    load_pair,
    metrics,
    predict,
    score,
    self_ensemble,
    wrapped,
)
from scalewise.geometry.resize import imresize


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    """A smooth picture of 8-bit levels."""
    small = torch.rand(3, height // 4 + 2, width // 4 + 2, generator=torch.Generator().manual_seed(seed))
    return (imresize(small, (height, width)).clamp(0, 1) * 255).round() / 255


def save(image: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()).save(path)


def nearest(lr: Tensor, size: tuple[int, int], scale: float) -> Prediction:
    """A cheap upscaler with a cost, exact on tiles."""
    rows, columns = (torch.arange(n) * m // n for n, m in zip(size, lr.shape[-2:], strict=True))
    return Prediction(lr[:, rows][:, :, columns], macs=size[0] * size[1], macs_full=4 * size[0] * size[1], seconds=0.5)


def test_the_eleven_protocols_are_there() -> None:
    assert list(PROTOCOLS) == [
        "default", "liif-benchmark", "liif-div2k", "ciaosr", "classsr", "arm", "enaf", "camixer-large",
        "camixer-light", "adaformer", "odi",
    ]  # fmt: skip
    assert all(protocol.source for protocol in PROTOCOLS.values())


@pytest.mark.parametrize(
    ("scale", "expected"), [(2, 33.68), pytest.param(3, 30.41, marks=pytest.mark.slow), (4, 28.43)]
)
def test_bicubic_reaches_the_published_number_on_set5(shared: Path, scale: int, expected: float) -> None:
    result = evaluate(bicubic, shared / "data/bench/Set5", scale)
    assert len(result.images) == 5
    assert result.mean["psnr"] == pytest.approx(expected, abs=0.02)
    assert result.mean["macs_share"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "expected"), [("Set14", (30.33, 27.64, 26.09)), ("B100", (29.56, 27.21, 25.96))])
def test_bicubic_reaches_the_published_number(shared: Path, dataset: str, expected: tuple[float, ...]) -> None:
    for scale, psnr in zip((2, 3, 4), expected, strict=True):
        result = evaluate(bicubic, shared / "data/bench" / dataset, scale)
        assert result.mean["psnr"] == pytest.approx(psnr, abs=0.02)


def test_patch_fusion_equals_enaf(shared: Path) -> None:
    folder = shared / "golden/ref_patch_fusion"
    tensors = load_file(folder / "cases.safetensors")
    for case in json.loads((folder / "meta.json").read_text())["cases"]:
        name, scale = case["id"], case["scale"]
        image = tensors[f"{name}.in.img"]
        tiles = Tiles(case["patch_size"], case["patch_size"] - case["step"], "drop")
        h, w = image.shape[-2:]
        side = tiles.side(h, w)
        starts = [(y, x) for y in tiles.starts(h, side) for x in tiles.starts(w, side)]
        y, x = starts[-1]
        assert torch.equal(image[:, y : y + side, x : x + side], tensors[f"{name}.out.patch_last"]), name
        patches = tensors[f"{name}.in.sr_patches"]
        size = tuple(n * scale for n in tiles.area(h, w))
        fused = fuse(((y * scale, x * scale, patches[k]) for k, (y, x) in enumerate(starts)), size)
        torch.testing.assert_close(fused, tensors[f"{name}.out.fused"], atol=3e-5, rtol=0, msg=name)


def test_tile_starts_are_those_of_the_papers() -> None:
    patches, tiles = PROTOCOLS["enaf"].tiles, PROTOCOLS["camixer-large"].tiles
    assert patches is not None and tiles is not None
    assert patches.starts(100, 32) == [0, 28, 56] and patches.area(100, 59) == (88, 32)
    assert tiles.starts(64, 64) == [0]
    assert tiles.starts(130, 64) == [0, 60, 66]
    assert tiles.side(40, 100) == 40
    with pytest.raises(ProtocolMismatch, match="do not fit"):
        patches.area(31, 100)


@pytest.mark.parametrize("name", ["classsr", "enaf", "camixer-large", "ciaosr"])
def test_tiles_of_a_local_upscaler_equal_the_whole_picture(name: str) -> None:
    lr = picture(70, 101)
    part = predict(nearest, lr, (280, 404), 4, PROTOCOLS[name])
    h, w = PROTOCOLS[name].area((70, 101), 4)
    assert part.sr.shape == (3, 4 * h, 4 * w)
    torch.testing.assert_close(part.sr, nearest(lr, (280, 404), 4).sr[:, : 4 * h, : 4 * w])
    assert part.macs * 4 == part.macs_full and part.macs >= 4 * h * 4 * w  # overlaps are paid for


def test_patches_are_rounded_before_they_are_merged_where_the_paper_does() -> None:
    lr = torch.full((3, 32, 60), 0.4999)
    for name, level in (("classsr", 127 / 255), ("enaf", 0.4999)):
        sr = predict(bicubic, lr, (128, 240), 4, PROTOCOLS[name]).sr
        torch.testing.assert_close(sr, torch.full_like(sr, level), atol=1e-6, rtol=0)


def test_settings_change_what_the_network_is_told_and_shown() -> None:
    seen = []

    def spy(lr: Tensor, size: tuple[int, int], scale: float) -> Prediction:
        seen.append((tuple(lr.shape[-2:]), size, scale))
        return nearest(lr, size, scale)

    lr = picture(16, 21)
    sr = predict(spy, lr, (96, 126), 6, find_protocol("liif-div2k:cell_clip=4,window_pad=8")).sr
    assert seen == [((24, 24), (144, 144), 4)]  # a whole window more, though 16 divides
    torch.testing.assert_close(sr, nearest(lr, (96, 126), 6).sr)
    for wrong in ("nonsense", "default:shave=3", "default:cell_clip=0"):
        with pytest.raises(ProtocolMismatch):
            find_protocol(wrong)


def test_every_folder_layout_is_found(tmp_path: Path) -> None:
    hr, lr = picture(48, 60), picture(12, 15)
    save(hr, tmp_path / "a/HR/img.png")
    save(lr, tmp_path / "a/LR_bicubic/X4/imgx4.png")
    save(hr, tmp_path / "b/GTmod12/img.png")
    save(lr, tmp_path / "b/LRbicx4/img.png")
    save(hr, tmp_path / "c/image_SRF_4/img_HR.png")
    save(lr, tmp_path / "c/image_SRF_4/img_LR.png")
    save(hr, tmp_path / "d/HR/X4/img.png")
    save(lr, tmp_path / "d/LR/X4/img.png")
    save(hr, tmp_path / "e/DIV2K_valid_HR/img.png")
    save(lr, tmp_path / "e/DIV2K_valid_LR_bicubic/X4/imgx4.png")
    for layout in "abcde":
        (pair,) = find_pairs(tmp_path / layout, 4)
        assert pair.lr is not None and pair.name == "img", layout
        assert load_pair(pair, 4, DEFAULT)[0].shape == (3, 12, 15)
    save(hr, tmp_path / "f/img.png")
    (pair,) = find_pairs(tmp_path / "f", 4)
    assert pair == Pair("img", tmp_path / "f/img.png")


@pytest.mark.parametrize("scale", [2, 2.7, 3.3, 5])
def test_a_made_lr_has_the_geometry_of_the_project(tmp_path: Path, scale: float) -> None:
    hr = picture(61, 83)
    save(hr, tmp_path / "img.png")
    lr, cropped = load_pair(find_pairs(tmp_path, scale)[0], scale, DEFAULT)
    assert lr.shape[-2:] == (math.floor(61 / scale), math.floor(83 / scale))
    assert cropped.shape[-2:] == tuple(round(n * scale) for n in lr.shape[-2:])
    torch.testing.assert_close(cropped, hr[:, : cropped.shape[-2], : cropped.shape[-1]])
    torch.testing.assert_close((imresize(cropped, (lr.shape[-2], lr.shape[-1])) * 255).round().clamp(0, 255) / 255, lr)


def test_a_given_lr_is_used_whole_at_fractional_scales(tmp_path: Path) -> None:
    save(picture(32, 45), tmp_path / "HR/img.png")
    save(picture(13, 18), tmp_path / "LR_bicubic/X2.5/imgx2.5.png")
    lr, hr = load_pair(find_pairs(tmp_path, 2.5)[0], 2.5, DEFAULT)
    assert lr.shape[-2:] == (13, 18) and hr.shape[-2:] == (32, 45)


def test_what_a_protocol_cannot_measure_says_so(tmp_path: Path) -> None:
    save(picture(48, 60), tmp_path / "plain/img.png")
    save(picture(48, 60), tmp_path / "paired/HR/img.png")
    save(picture(6, 8), tmp_path / "paired/LR_bicubic/X4/imgx4.png")
    save(picture(48, 60), tmp_path / "lacking/HR/img.png")
    (tmp_path / "lacking/LR_bicubic/X4").mkdir(parents=True)
    save(picture(48, 60), tmp_path / "srf/image_SRF_4/img_HR.png")
    (tmp_path / "empty").mkdir()
    for folder, scale, protocol, message in (
        ("plain", 3, "classsr", "is for x4; got x3"),
        ("plain", 2.5, "liif-div2k", "takes whole scales; got x2.5"),
        ("plain", 4, "liif-benchmark", "takes the published LR at x4"),
        ("plain", 4, "enaf", "do not fit into an LR of 15x12"),
        ("plain", 4, "odi", "twice as wide as high; img.png is 60x48"),
        ("plain", 100, "default", "too small"),
        ("plain", 0.5, "default", "at least 1"),
        ("plain", 4, "unheard-of", "known are default"),
        ("paired", 4, "default", "not a pair of scale 4"),
        ("lacking", 4, "default", "lacks imgx4.png"),
        ("srf", 2, "default", "there is image_SRF_4"),
        ("srf", 4, "default", "lacks img_LR.png"),
    ):
        with pytest.raises(ProtocolMismatch, match=message) as caught:
            evaluate(nearest, tmp_path / folder, scale, protocol)
        assert "\n" not in str(caught.value)
    for folder in ("empty", "missing"):
        with pytest.raises(DataError):
            evaluate(nearest, tmp_path / folder, 2)


def test_a_corrupt_picture_is_named_skipped_and_counted(tmp_path: Path) -> None:
    save(picture(40, 40), tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"not a picture")
    save(picture(40, 44, 1), tmp_path / "c.png")
    steps = []
    result = evaluate(nearest, tmp_path, 2, progress=lambda done, total: steps.append((done, total)))
    assert [image.name for image in result.images] == ["a", "c"]
    assert [picture.name for picture in result.skipped] == ["b"] and "b.png" in result.skipped[0].error
    assert steps == [(0, 3), (1, 3), (2, 3)]
    result.write(tmp_path / "result.json")
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["protocol"] == "default" and written["skipped"][0]["name"] == "b"
    assert written["mean"]["macs_share"] == 0.25 and written["mean"]["seconds"] == 0.5
    psnrs = [image["psnr"] for image in written["images"]]
    assert written["mean"]["psnr"] == pytest.approx(sum(psnrs) / 2)
    (tmp_path / "only").mkdir()
    (tmp_path / "only/b.png").write_bytes(b"")
    nothing = evaluate(nearest, tmp_path / "only", 2)
    assert nothing.as_dict()["mean"] == {"psnr": None, "ssim": None, "macs_share": None, "seconds": None}


def test_extra_measures_see_the_picture_without_its_border(tmp_path: Path) -> None:
    save(picture(40, 44), tmp_path / "a.png")
    sizes = []

    def measure(sr: Tensor, hr: Tensor) -> float:
        sizes.append((tuple(sr.shape), tuple(hr.shape)))
        return 7.0

    result = evaluate(nearest, tmp_path, 2, extra={"lpips": measure})
    assert result.mean["lpips"] == 7 and sizes == [((3, 36, 40), (3, 36, 40))]


def test_the_score_follows_the_protocol() -> None:
    hr = torch.full((3, 40, 40), 0.5)
    sr = hr + 0.001
    plain = dataclasses.replace(DEFAULT, channel="rgb", rounding="none")
    assert score(sr, hr, 2, plain)["psnr"] == pytest.approx(60, abs=1e-3)
    assert score(sr * 0, hr * 0 - 0.5, 2, PROTOCOLS["liif-div2k"])["psnr"] == pytest.approx(6.02, abs=0.01)
    edge = hr.clone()
    edge[:, :8] = 0  # the border that x2 of liif-div2k leaves out
    assert score(edge, hr, 2, PROTOCOLS["liif-div2k"])["psnr"] == math.inf
    assert score(edge, hr, 2, DEFAULT)["psnr"] < 30
    assert math.isnan(score(sr[:, :20, :20], hr[:, :20, :20], 2, PROTOCOLS["liif-div2k"])["ssim"])


def test_self_ensemble_of_a_symmetric_upscaler_changes_nothing_but_the_cost() -> None:
    lr = picture(9, 14)
    one, eight = bicubic(lr, (20, 31), 2.2), self_ensemble(nearest)(lr, (18, 28), 2)
    torch.testing.assert_close(self_ensemble(bicubic)(lr, (20, 31), 2.2).sr, one.sr, atol=1e-5, rtol=0)
    assert eight.macs == 8 * 18 * 28 and eight.macs_full == 4 * eight.macs


def test_a_wrapped_panorama_turns_with_its_input() -> None:
    lr = picture(8, 24)
    for size, turn in (((16, 48), 5), ((20, 60), 4)):
        upscaled = wrapped(bicubic, 4)(lr, size, 2).sr
        turned = wrapped(bicubic, 4)(lr.roll(turn, -1), size, 2).sr
        torch.testing.assert_close(turned, upscaled.roll(turn * size[1] // 24, -1), atol=1e-5, rtol=0)


def test_the_same_prediction_scores_differently_under_each_protocol(tmp_path: Path) -> None:
    save(picture(140, 152), tmp_path / "a.png")
    rows = {row.protocol: row for row in compare_protocols(bicubic, tmp_path, 4)}
    assert set(rows) == set(PROTOCOLS)
    assert "equirectangular" in rows["odi"].absent
    assert all(math.isfinite(row.psnr) for name, row in rows.items() if name != "odi")
    assert rows["classsr"].psnr == pytest.approx(rows["enaf"].psnr, abs=0.1)
    assert rows["default"].psnr > rows["classsr"].psnr  # luma averages the colours' noise


def test_a_360_picture_is_measured_on_the_sphere(shared: Path, tmp_path: Path) -> None:
    panorama = Image.open(shared / "data/pano360/examplepano.jpg").convert("RGB").resize((256, 128))
    panorama.save(tmp_path / "pano.png")
    result = evaluate(wrapped(bicubic), tmp_path, 4, "odi")
    assert {"psnr", "ssim", "ws_psnr", "ws_ssim"} <= result.mean.keys()
    assert 15 < result.mean["ws_psnr"] < 45
    rows = [row.protocol for row in compare_protocols(bicubic, tmp_path, 4, [PROTOCOLS["odi"]])]
    assert rows == ["odi", "odi (WS)"]


def test_gray_pictures_and_16_bits_are_read(tmp_path: Path) -> None:
    Image.fromarray(np.arange(40 * 40, dtype=np.uint16).reshape(40, 40) * 40).save(tmp_path / "deep.png")
    Image.fromarray(np.arange(40 * 40, dtype=np.uint8).reshape(40, 40)).save(tmp_path / "gray.png")
    assert len(evaluate(bicubic, tmp_path, 2).images) == 2


def test_a_protocol_is_a_value() -> None:
    own = EvalProtocol("mine", "a test", channel="rgb", shave=(0, 3))
    assert own.border(2.5) == 3 and DEFAULT.border(2.5) == 3
    assert dataclasses.replace(own) == own


def test_steps_on_the_way_to_a_scale_are_rounded_and_add_up() -> None:
    seen = []

    def watched(lr: Tensor, size: tuple[int, int], scale: float) -> Prediction:
        seen.append((tuple(lr.shape[-2:]), size, scale))
        return nearest(lr + 0.001, size, scale)

    found = in_steps(watched, [2.0, 4.0])(picture(8, 6), (96, 72), 12)
    assert seen == [((8, 6), (16, 12), 2.0), ((16, 12), (32, 24), 2.0), ((32, 24), (96, 72), 3.0)]
    assert found.macs == 16 * 12 + 32 * 24 + 96 * 72
    assert float(found.sr.max()) <= float(picture(8, 6).max()) + 0.0011  # what rounding took away twice
    with pytest.raises(ProtocolMismatch, match="rising factors"):
        in_steps(nearest, [4.0, 2.0])(picture(8, 6), (96, 72), 12)
    with pytest.raises(ProtocolMismatch, match="cell_clip"):
        in_steps(nearest, [2.0])(picture(8, 6), (96, 72), 4)


def test_pictures_without_an_original_are_enlarged_and_measured_alone(tmp_path: Path) -> None:
    save(picture(8, 12), tmp_path / "one.png")
    found = evaluate_alone(nearest, tmp_path, 3, extra={"width": lambda sr, hr: sr.shape[-1] if hr is None else 0.0})
    values = found.images[0].values
    assert found.images[0].size == (24, 36) and values["width"] == 36 and "psnr" not in values
    assert values["macs_share"] == 0.25
    lr = picture(8, 12)
    faint = evaluate_alone(lambda seen, size, scale: Prediction(imresize(seen, size) + 1e-3), tmp_path, 3).images[0]
    expected = metrics.consistency(lr, imresize(lr, (24, 36)) + 1e-3)
    assert faint.values["consistency"] == pytest.approx(expected)  # of what the network gave, as with an original
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        evaluate_alone(nearest, tmp_path / "empty", 3)
