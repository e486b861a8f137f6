"""The whole way of an image from Python: kinds and sizes, threads, cancelling, tiles, saving."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import scalewise
from scalewise import Budget, Cancelled, images, zoo
from scalewise.encoders.rcan import RCAN
from scalewise.errors import InvalidRequest, UnsupportedScale, UnwritableOutput
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import RunOptions, RunPlan
from scalewise.execution.planner import plan_run
from scalewise.geometry.grid import output_box
from scalewise.machine.memory import LiveTensors, parse_bytes, used_bytes
from scalewise.models.multi_exit import MultiExitModel
from scalewise.models.super_resolver import SuperResolver
from scalewise.pipeline import upscale, wanted_size
from scalewise.upsamplers.liif import LIIF

BICUBIC = zoo.bicubic()
random = np.random.default_rng(0)


def array(height: int = 12, width: int = 17, channels: int = 3, dtype: Any = np.uint8) -> np.ndarray:
    values = random.random((height, width, channels))
    if np.dtype(dtype).kind == "u":
        values = (values * np.iinfo(dtype).max).round()
    return values.astype(dtype)


def bicubic(image: Any, scale: Any = 2.0, **more: Any) -> scalewise.Upscaled:
    return scalewise.upscale(image, scale, model=BICUBIC, **more)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4])
def test_numpy_comes_back_as_it_went_in(dtype: Any, channels: int) -> None:
    image = array(12, 17, channels, dtype) if channels else array(12, 17, 1, dtype)[..., 0]
    result = bicubic(image, 2.5).image
    assert isinstance(result, np.ndarray) and result.dtype == dtype
    assert result.shape == (30, 42, *image.shape[2:])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_torch_comes_back_as_it_went_in(dtype: torch.dtype, channels: int) -> None:
    image = torch.rand(channels, 9, 8)
    image = (image * 255).round().to(dtype) if dtype == torch.uint8 else image.to(dtype)
    result = bicubic(image, 3).image
    assert isinstance(result, torch.Tensor) and result.dtype == dtype and result.shape == (channels, 27, 24)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_pil_comes_back_as_it_went_in(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(array(12, 17, 1, np.uint16)[..., 0])
    else:
        image = Image.fromarray(array(12, 17, 4), "RGBA").convert(mode)
    result = bicubic(image, 2).image
    assert isinstance(result, Image.Image) and result.mode == mode and result.size == (34, 24)


def test_a_path_gives_an_array(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(array()).save(path)
    for name in (path, str(path)):
        assert bicubic(name).image.shape == (24, 34, 3)


@given(
    st.integers(1, 24),
    st.integers(1, 24),
    st.floats(1, 6, allow_nan=False),
    st.floats(1, 6, allow_nan=False),
)
def test_the_size_is_the_rounded_product(height: int, width: int, sy: float, sx: float) -> None:
    result = bicubic(np.zeros((height, width, 3), np.uint8), (sy, sx))
    expected = (max(1, round(height * sy)), max(1, round(width * sx)))
    assert result.image.shape[:2] == result.report.size == expected


def test_one_pixel_stays_one_colour() -> None:
    image = np.array([[[10, 200, 77]]], np.uint8)
    assert (bicubic(image, (7.3, 2)).image == image).all()


def test_exactly_one_wish_decides_the_size() -> None:
    assert wanted_size((20, 30), scale=2) == (40, 60)
    assert wanted_size((20, 30), out=(25, 90)) == (25, 90)
    assert wanted_size((20, 30), long_edge=45) == (30, 45)
    assert wanted_size((1, 300), long_edge=310) == (1, 310)
    requests: list[dict[str, Any]] = [{}, {"scale": 2, "long_edge": 99}, {"out": (40, 60), "long_edge": 60}]
    for request in requests:
        with pytest.raises(InvalidRequest, match="exactly one"):
            wanted_size((20, 30), **request)
    for wrong in (0, -1, float("nan"), 1e9, (2, 0.5)):
        with pytest.raises(UnsupportedScale):
            wanted_size((20, 30), scale=wrong)
    with pytest.raises(UnsupportedScale):
        wanted_size((20, 30), long_edge=29)


@pytest.mark.parametrize("scale", [2, 2.7, (3, 1.4), 4])
@pytest.mark.parametrize("tile", [16, 37])
def test_tiles_equal_the_whole_image(scale: Any, tile: int) -> None:
    image = torch.rand(4, 61, 75)
    whole, tiled = bicubic(image, scale), bicubic(image, scale, tile=tile)
    torch.testing.assert_close(tiled.image, whole.image, atol=1e-5, rtol=0)


def test_threads_do_not_disturb_each_other() -> None:
    pictures = [torch.rand(3, 30 + k, 41) for k in range(6)]
    alone = [bicubic(picture, 2.3, tile=16).image for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda picture: bicubic(picture, 2.3, tile=16).image, pictures * 2))
    for one, other in zip(alone * 2, together, strict=True):
        assert torch.equal(one, other)


def test_progress_rises_to_one_and_may_cancel() -> None:
    seen: list[float] = []
    image = array(40, 40)
    bicubic(image, tile=16, progress=lambda share: seen.append(share))
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] == 1 and len(set(seen)) == 10
    stop = threading.Event()

    def until_half(share: float) -> bool:
        if share >= 0.5:
            stop.set()
        return not stop.is_set()

    with pytest.raises(Cancelled, match="4 of 9"):
        bicubic(image, tile=16, progress=until_half)


def test_the_callers_model_is_untouched() -> None:
    model = zoo.edsr_liif().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scalewise.upscale(array(6, 6), 1.5, model=model)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_same_call_gives_the_same_picture() -> None:
    model = zoo.edsr_liif()
    image = array(9, 11)
    first, second = (scalewise.upscale(image, 2.2, model=model) for _ in range(2))
    assert np.array_equal(first.image, second.image) and first.report.macs == second.report.macs


def test_a_model_with_one_level_takes_a_budget_and_keeps_to_it() -> None:
    model = zoo.edsr_liif()
    assert scalewise.upscale(array(4, 4), 2, model=model, budget=Budget.full()).report.share == 1
    assert scalewise.upscale(array(40, 48), 2, model=model, budget="60%").report.share <= 0.6


def test_saving_keeps_metadata_and_is_atomic(tmp_path: Path) -> None:
    photo, out = tmp_path / "photo.jpg", tmp_path / "out.png"
    exif = Image.Exif()
    exif[0x010E] = "a heron"  # ImageDescription
    Image.fromarray(array(16, 16)).save(photo, exif=exif, dpi=(300, 300))
    result = bicubic(photo)
    assert result.save(out) == out
    with Image.open(out) as saved:
        assert np.array_equal(np.asarray(saved), result.image)
        assert saved.getexif()[0x010E] == "a heron"
        assert saved.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    with pytest.raises(UnwritableOutput):
        result.save(out)
    result.save(out, overwrite=True)
    with pytest.raises(UnwritableOutput):
        result.save(tmp_path / "no" / "out.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.png", "photo.jpg"]


def test_a_result_is_written_with_the_options_that_the_command_line_has(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a heron"  # ImageDescription
    Image.fromarray(array(16, 16)).save(tmp_path / "photo.jpg", exif=exif, dpi=(300, 300))
    result = bicubic(tmp_path / "photo.jpg")
    options: dict[str, dict[str, Any]] = {"lossless.webp": {"lossless": True}, "bare.png": {"strip": True}}
    for name, how in (options | {"print.png": {"dpi": "scale"}, "small.jpg": {"quality": 5}}).items():
        path = result.save(tmp_path / name, **how)
        assert result.to_bytes(path.suffix[1:], **how) == path.read_bytes(), name
    with Image.open(tmp_path / "lossless.webp") as saved:
        assert np.array_equal(np.asarray(saved), result.image)
    with Image.open(tmp_path / "bare.png") as saved:
        assert not saved.getexif() and "dpi" not in saved.info and "xmp" not in saved.info
    with Image.open(tmp_path / "print.png") as saved:
        assert saved.info["dpi"] == pytest.approx((600, 600), abs=0.1)
    with pytest.raises(InvalidRequest, match="contradict"):
        result.to_bytes("webp", lossless=True, quality=50)
    with pytest.raises(InvalidRequest, match="cannot be lossless"):
        result.save(tmp_path / "no.jpg", lossless=True)


def test_opacity_is_enlarged_on_the_same_grid() -> None:
    image = np.full((8, 8, 4), 0.25, np.float32)
    image[:, 4:] = 1
    result = bicubic(image, 3.5, tile=4).image
    assert np.allclose(bicubic(image[..., 3], 3.5).image, result[..., 3], atol=1e-6)


def test_the_report_is_plain_and_the_map_a_picture() -> None:
    result = bicubic(array(40, 60), 2)
    values = result.report.as_dict()
    assert (
        values["size"] == [80, 120] == list(result.report.size)
        and (values["width"], values["height"]) == (120, 80)
        and isinstance(values["seconds"], float)
    )
    picture = result.effort_picture()
    assert picture.shape == (40, 60, 3) and picture.dtype == torch.uint8


def test_a_model_without_bounds_says_what_tiling_changes() -> None:
    torch.manual_seed(0)
    encoder = RCAN(8, groups=1, blocks=1, reduction=4)
    model = SuperResolver(encoder, LIIF(8, (16,)))
    picture = np.random.default_rng(0).random((40, 56, 3)).astype(np.float32)
    whole, tiled = (upscale(picture, 2.0, model=model, tile=tile, dtype="fp32") for tile in (None, 16))
    assert not whole.report.notes
    assert any("tiles of 16" in note and "differs" in note for note in tiled.report.notes)
    assert tiled.image.shape == whole.image.shape and np.isfinite(tiled.image).all()


@pytest.mark.parametrize("tile", [None, 32, 64])
def test_a_budget_in_macs_holds_with_tiles_too(tile: int | None) -> None:
    picture = np.random.default_rng(0).random((150, 200, 3)).astype(np.float32)
    granted = 4e9
    report = upscale(picture, 2.0, budget=f"{granted}macs", tile=tile, dtype="fp32").report
    assert report.macs <= granted
    assert report.macs < report.macs_full


def test_what_load_gives_can_be_passed_on_and_other_things_cannot() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    assert upscale(picture, 2.0, model=zoo.load("bicubic")).image.shape == (16, 16, 3)
    for wrong in (None, 3):
        with pytest.raises(InvalidRequest, match="model is"):
            upscale(picture, 2.0, model=wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="tile is"):
        upscale(picture, 2.0, model="bicubic", tile=-5)
    with pytest.raises(InvalidRequest, match="device"):
        upscale(picture, 2.0, model="bicubic", device="meta")


def test_a_flat_picture_stays_flat_in_bf16() -> None:
    flat = np.full((8, 8, 3), 0.9, np.float32)
    result = upscale(flat, 2.0, model="bicubic", dtype="bf16").image
    assert np.abs(result - 0.9).max() * 255 <= 0.01


# --- large pictures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["fast", "bicubic"])
@pytest.mark.parametrize("crop", [(0, 0, 20, 30), (33, 17, 90, 66), (70, 90, 71, 91)])
def test_a_crop_is_cut_from_the_whole_picture(model: str, crop: tuple[int, int, int, int]) -> None:
    """Bit for bit, with what was decided on the whole picture."""
    picture = array(100, 110, 4)
    more: dict[str, Any] = {"model": model, "tile": 32, "dtype": "fp32", "budget": 0.5 if model == "fast" else None}
    whole = upscale(picture, 2.7, **more)
    part = upscale(picture, 2.7, crop=crop, **more)
    y0, x0, y1, x1 = output_box(crop, (100, 110), whole.report.size)
    assert np.array_equal(part.image, whole.image[y0:y1, x0:x1]) and part.report.size == (y1 - y0, x1 - x0)
    assert 0 < part.report.macs_full < whole.report.macs_full if model == "fast" else part.report.macs == 0


def test_a_crop_must_lie_inside() -> None:
    for crop in ((0, 0, 13, 5), (-1, 0, 5, 5), (5, 5, 5, 9)):
        with pytest.raises(InvalidRequest, match="crop"):
            bicubic(array(12, 17), crop=crop)


def test_memory_is_read_in_the_usual_units() -> None:
    assert [parse_bytes(text) for text in ("2GiB", "800MB", "1.5 g", "64", "3k")] == [
        2 * 2**30, 800_000_000, 1_500_000_000, 64, 3000
    ]  # fmt: skip
    for wrong in ("", "many", "-1GB", "2XB", "nan"):
        with pytest.raises(InvalidRequest, match="memory"):
            parse_bytes(wrong)


def test_less_memory_means_smaller_tiles_and_too_little_is_refused() -> None:
    source, model = images.open(array(4000, 3000)), zoo.load("fast", device="cpu").model
    out, device = (8000, 6000), torch.device("cpu")

    def run_plan(more: float) -> RunPlan:
        held = used_bytes(device) + 4000 * 3000 * 12  # of which the canvas will take as much
        return plan_run(
            source, out, model, Budget.full(), RunOptions(max_memory=int(held + more * 2**20), device="cpu")
        )

    roomy, tight = run_plan(800), run_plan(300)
    assert roomy.side > tight.side >= model.limits.patch_stride and roomy.recomputed < tight.recomputed < 1
    assert all(one.side % model.limits.patch_stride == 0 and one.seconds and one.seconds > 0 for one in (roomy, tight))
    with pytest.raises(InvalidRequest, match="not enough"):
        plan_run(source, out, model, Budget.full(), RunOptions(max_memory=2**20, device="cpu"))


def test_live_tensors_are_counted() -> None:
    with LiveTensors() as live:
        a = torch.zeros(1000)
        b = a + 1  # 8000 bytes
        del a
        c = b.view(10, 100).t()  # no new bytes
        d = torch.zeros(500)  # 6000 bytes, the first are gone
    assert (live.peak, live.bytes) == (8000, 6000) and c.numel() + d.numel() == 1500


def test_what_the_writer_cannot_do_ends_the_run() -> None:
    class Full:
        size = (80, 80)
        written = 0

        def __enter__(self) -> Full:
            return self

        def __exit__(self, kind: Any, error: Any, trace: Any, /) -> None:
            pass

        def write(self, y0: int, x0: int, rgb: torch.Tensor, alpha: torch.Tensor | None = None) -> None:
            self.written += 1
            if self.written == 3:
                raise UnwritableOutput("the disk is full")

        def finish(self) -> None:
            pytest.fail("finished")

    sink = Full()
    with pytest.raises(UnwritableOutput, match="full"):
        source = images.open(array(40, 40))
        enlarge(plan_run(source, (80, 80), zoo.bicubic(), Budget.full(), RunOptions(tile=8)), sink)
    assert sink.written == 3


def test_a_tile_that_is_not_finite_is_done_again_in_fp32() -> None:
    class Overflowing(SuperResolver):
        def render(self, *arguments: Any, **named: Any) -> Any:
            rendered = super().render(*arguments, **named)
            return replace(rendered, rgb=rendered.rgb * float("inf")) if torch.is_autocast_enabled("cpu") else rendered

    plain = zoo.bicubic()
    model = Overflowing(plain.encoder, plain.upsampler, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    picture = array(20, 20)
    result = upscale(picture, 2.0, model=model, tile=16, dtype="bf16")
    assert sum("redone in fp32" in note for note in result.report.notes) == 4
    assert np.array_equal(result.image, bicubic(picture, tile=16, dtype="fp32").image)


@pytest.mark.slow
def test_deciding_on_400_megapixels_is_quick_enough_to_run_here() -> None:
    """Costs are computed per kind of patch: a 20 000 x 20 000 picture has 390 000 patches and four kinds."""
    model = zoo.load("fast", device="cpu").model
    assert isinstance(model, MultiExitModel)
    size = (20_000, 20_000)
    evidence = torch.rand(model.network.exits, 625, 625) * 1e-3
    plan = model.plan(evidence, size, (40_000, 40_000), Budget.fraction(0.5))
    assert 0.499 * plan.macs_full <= plan.macs <= 0.5 * plan.macs_full
