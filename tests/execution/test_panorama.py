"""360° images: the plane that they continue to, no seam at the meridian, turned in is turned out, tiles = whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models.exits import toy_exits
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scalewise import zoo
from scalewise.budget.budget import Budget
from scalewise.encoders.edsr import EDSR
from scalewise.encoders.nlsa import NLSA
from scalewise.encoders.swinir import SwinIR
from scalewise.encoders.tadt import TADT
from scalewise.errors import InvalidRequest
from scalewise.evaluate import upscaler_of, wrapped
from scalewise.execution.plan import RunOptions
from scalewise.geometry.grid import Frame, Query, axis_positions, output_size
from scalewise.geometry.projection import Projection, frame_of, reach, read_beyond, units
from scalewise.geometry.resize import bicubic_base
from scalewise.geometry.tiling import plan_tiles
from scalewise.models.multi_exit import MultiExitModel
from scalewise.models.super_resolver import SuperResolver
from scalewise.pipeline import upscale
from scalewise.training.losses.exits import at_query
from scalewise.upsamplers.fixed import PixelShuffle
from scalewise.upsamplers.liif import LIIF

PATCH = 16


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Toys are done sooner without others to wait for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def routed() -> MultiExitModel:
    return toy_exits(8, (1, 2, 3), (3, 3, 4), patch=PATCH)


def liif() -> SuperResolver:
    torch.manual_seed(0)
    return SuperResolver(EDSR(8, 2), LIIF(8, hidden=(16, 16))).eval()


def shuffled() -> SuperResolver:
    torch.manual_seed(0)
    return SuperResolver(EDSR(8, 2), PixelShuffle(8, 2), scales=(2.0,)).eval()


MODELS: dict[str, Callable[[], Any]] = {"routed": routed, "bicubic": zoo.bicubic, "liif": liif, "shuffle": shuffled}


def noise(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(3))


def enlarged(model: Any, lr: Tensor, scale: Any = 2, projection: Projection = "erp", **more: Any) -> Tensor:
    return upscale(lr, scale, model=model, dtype="fp32", projection=projection, **more).image


def meridian(image: Tensor, columns: int = 1) -> float:
    """The step across the meridian over the mean step at the 16 places nearest to it, on either side, that lie a
    multiple of `columns` away: all of them between two LR pixels."""
    steps = (image.double() - image.double().roll(1, -1)).abs().mean((0, 1))
    others = torch.arange(1, 17) * columns
    return float(steps[0] / torch.cat((steps[others], steps[-others])).mean())


def sphere(height: int, width: int) -> Tensor:
    """A picture that is smooth on the sphere, the poles included: waves along directions in space."""
    latitude = (torch.arange(height).double() + 0.5) / height * torch.pi - torch.pi / 2
    longitude = (torch.arange(width).double() + 0.5) / width * 2 * torch.pi
    x, y = latitude.cos()[:, None] * longitude.cos(), latitude.cos()[:, None] * longitude.sin()
    z = latitude.sin()[:, None].expand_as(x)
    waves = [torch.sin(a * x + b * y + c * z) for a, b, c in ((9, 2, 4), (-3, 8, 5), (2, -5, 11))]
    return (torch.stack(waves) * 0.4 + 0.5).float()


# --- the plane --------------------------------------------------------------------------------------------------------


def on_the_plane(image: Tensor, y: int, x: int) -> Tensor:
    """A pixel of the plane, at most one pole away."""
    height, width = image.shape[-2:]
    if not 0 <= y < height:
        y, x = (-1 - y if y < 0 else 2 * height - 1 - y), x + width // 2
    return image[:, y, x % width]


@given(st.integers(1, 5), st.integers(1, 7), st.data())
def test_a_box_of_the_plane_is_made_of_pixels_of_the_image(height: int, width: int, data: st.DataObject) -> None:
    image, frame = noise(height, width), Frame((height, width), wrap=True, poles=(True, True))
    y0 = data.draw(st.integers(-height, 2 * height - 1))
    y1 = data.draw(st.integers(y0 + 1, 2 * height))
    x0 = data.draw(st.integers(-20, 20))
    x1 = data.draw(st.integers(x0 + 1, x0 + 20))
    box = read_beyond(lambda b: image[:, b[0] : b[2], b[1] : b[3]], frame, (y0, x0, y1, x1))
    expected = [on_the_plane(image, y, x) for y in range(y0, y1) for x in range(x0, x1)]
    assert torch.equal(box, torch.stack(expected, -1).view_as(box))


def test_squares_of_a_tile_are_those_that_they_are_copies_of() -> None:
    size, side = (24, 40), 8
    numbers = torch.arange(24 * 40).view(1, *size)
    frame = Frame(size, (-16, -24), wrap=True, poles=(True, True))
    rows, columns = units(frame, (56, 88), side)
    seen = read_beyond(lambda b: numbers[:, b[0] : b[2], b[1] : b[3]], frame, (-16, -24, 40, 64))[0, ::side, ::side]
    assert torch.equal(rows, seen // 40 // side) and torch.equal(columns, seen % 40 // side)
    rows, columns = units(Frame(size, (8, 16)), (16, 24), side)
    assert rows[:, 0].tolist() == [1, 2] and columns[0].tolist() == [2, 3, 4]


FULL = {
    "ProjectionType": "equirectangular",
    "FullPanoWidthPixels": "800",
    "FullPanoHeightPixels": "400",
    "CroppedAreaImageWidthPixels": "800",
    "CroppedAreaImageHeightPixels": "400",
    "CroppedAreaLeftPixels": "0",
    "CroppedAreaTopPixels": "0",
}


def cropped(width: int, height: int, top: int) -> dict[str, str]:
    names = ("CroppedAreaImageWidthPixels", "CroppedAreaImageHeightPixels", "CroppedAreaTopPixels")
    return FULL | dict(zip(names, map(str, (width, height, top)), strict=True))


@pytest.mark.parametrize(
    ("size", "gpano", "wrap", "poles"),
    [
        ((400, 800), FULL, True, (True, True)),
        ((100, 200), FULL, True, (True, True)),  # reduced, and the fields left as they were
        ((300, 800), cropped(800, 300, 0), True, (True, False)),
        ((300, 800), cropped(800, 300, 100), True, (False, True)),
        ((300, 800), cropped(800, 300, 50), True, (False, False)),
        ((400, 700), cropped(700, 400, 0), False, (False, False)),  # not all of the 360°
        ((300, 300), FULL, False, (False, False)),  # cut by a program that does not know
        ((400, 800), {"ProjectionType": "equirectangular"}, True, (True, True)),
        ((400, 700), {"ProjectionType": "equirectangular"}, False, (False, False)),
        ((400, 800), FULL | {"ProjectionType": "cylindrical"}, False, (False, False)),
        ((400, 800), FULL | {"FullPanoWidthPixels": "nan"}, False, (False, False)),
        ((400, 800), FULL | {"FullPanoWidthPixels": "a lot"}, False, (False, False)),
        ((400, 800), None, False, (False, False)),
    ],
)
def test_metadata_say_what_goes_on(size: Any, gpano: Any, wrap: bool, poles: tuple[bool, bool]) -> None:
    assert frame_of(size, "auto", gpano) == Frame(size, wrap=wrap, poles=poles)
    assert frame_of(size, "flat", gpano) == Frame(size)


def test_without_metadata_the_sides_say_what_goes_on() -> None:
    assert frame_of((400, 800), "erp") == Frame((400, 800), wrap=True, poles=(True, True))
    assert frame_of((401, 800), "erp").poles == (True, True)
    assert frame_of((100, 800), "erp") == Frame((100, 800), wrap=True)
    with pytest.raises(InvalidRequest, match="flat"):
        frame_of((400, 700), "erp")
    with pytest.raises(InvalidRequest, match="erp"):
        frame_of((400, 800), "round")  # type: ignore[arg-type]
    assert not frame_of((300, 700), "erp", cropped(700, 300, 0)).wrap  # the metadata know better


def test_over_one_pole_the_plane_ends_on_the_other_side() -> None:
    assert reach(Frame((10, 20), wrap=True, poles=(True, False)))[::2] == (-10, 10)
    tiles = plan_tiles((10, 40), (20, 80), side=64, grid=1, context=30, frame=Frame((10, 40), wrap=True))
    assert tiles[0].source == (0, -30, 10, 70)


# --- what comes out ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("scale", "size"), [(1.7, (24, 51)), ((1.4, 3), (19, 40))])
def test_tiles_equal_the_whole_panorama(name: str, scale: Any, size: Any) -> None:
    lr, model = noise(*size), MODELS[name]()
    tiled = enlarged(model, lr, scale, tile=16)
    torch.testing.assert_close(tiled, enlarged(model, lr, scale), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("scale", "shift"), [(2, 7), (1.75, 32)])
def test_turned_in_is_turned_out(name: str, scale: float, shift: int) -> None:
    lr, model = noise(32, 64), MODELS[name]()
    turned = enlarged(model, lr.roll(shift, -1), scale)
    torch.testing.assert_close(turned, enlarged(model, lr, scale).roll(round(shift * scale), -1), atol=1e-5, rtol=0)


def test_within_a_budget_turned_in_is_turned_out_by_whole_patches() -> None:
    lr, model = noise(40, 96), routed()
    whole = upscale(lr, 2.5, model=model, budget=0.5, dtype="fp32", projection="erp")
    assert 0.3 < whole.report.share < 0.6
    turned = enlarged(model, lr.roll(2 * PATCH, -1), 2.5, budget=0.5)
    torch.testing.assert_close(turned, whole.image.roll(80, -1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_only_the_borders_differ_from_a_flat_picture(name: str) -> None:
    lr, model = noise(48, 120), MODELS[name]()
    flat, erp = (enlarged(model, lr, 2, projection) for projection in ("flat", "erp"))
    near = 2 * (model.limits.context + 1)
    torch.testing.assert_close(erp[:, near:-near, near:-near], flat[:, near:-near, near:-near], atol=1e-5, rtol=0)
    assert (erp - flat)[..., :4].abs().max() > 1e-3 and (erp - flat)[..., -4:].abs().max() > 1e-3


@pytest.mark.parametrize("name", [*MODELS, "fast"])
@pytest.mark.parametrize(("scale", "columns"), [(2, 2), (2.5, 5)])
def test_there_is_no_step_at_the_meridian(name: str, scale: float, columns: int) -> None:
    lr, model = sphere(64, 128), MODELS[name]() if name in MODELS else name
    assert meridian(lr) < 1.05
    assert meridian(enlarged(model, lr, scale), columns) < 1.05
    if name in ("bicubic", "fast"):
        assert meridian(enlarged(model, lr, scale, "flat"), columns) > 1.2


def plane(image: Tensor, margin: int) -> Tensor:
    height, width = image.shape[-2:]
    rows = [
        torch.stack([on_the_plane(image, y, x) for x in range(-margin, width + margin)], -1)
        for y in range(-margin, height + margin)
    ]
    return torch.stack(rows, -2)


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 64), (21, 55)])
@pytest.mark.parametrize("budget", [1.0, 0.5])
def test_routed_equals_dense_then_select_on_the_plane(size: tuple[int, int], budget: float) -> None:
    """Copies of pixels leave where the originals do."""
    model, lr, out = routed(), noise(*size).unsqueeze(0), output_size(size, 1.6)
    frame, context = Frame(size, wrap=True, poles=(True, True)), model.limits.context
    assert context is not None
    gains = torch.rand(3, *(-(-n // PATCH) for n in size), generator=torch.Generator().manual_seed(2))
    plan = model.plan(gains, size, out, Budget.fraction(budget))
    choice = plan.route[0].choice.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)[:, : size[0], : size[1]]

    margin = context + 1
    wide, chosen = plane(lr[0], margin).unsqueeze(0), plane(choice, margin).unsqueeze(0)
    y, x = (axis_positions(0, m, n, m, -margin).float() for n, m in zip(size, out, strict=True))
    cell = torch.tensor([[size[0] / out[0], size[1] / out[1]]])
    query = Query(y.view(1, -1, 1), x.view(1, 1, -1), cell)
    expected = bicubic_base(wide, replace(frame, origin=(-margin, -margin)), out, (0, 0, *out))
    reached = at_query(chosen, query)
    for level, residual in enumerate(model.network.dense(wide, query, chosen), 1):  # type: ignore[attr-defined]
        expected = expected + torch.where(reached == level, residual, 0.0)

    cut = slice(margin - context, -(margin - context))
    tile = replace(frame, origin=(-context, -context))
    with FlopCounterMode(display=False) as counter:
        rendered = model.render(wide[..., cut, cut], tile, (0, 0, *size), out, plan)
    torch.testing.assert_close(rendered.rgb, expected[0], atol=2e-5, rtol=0)
    assert rendered.macs.total == counter.get_total_flops() // 2


def test_bicubic_at_the_poles_goes_down_on_the_other_side() -> None:
    lr = noise(8, 16)
    sr = enlarged(zoo.bicubic(), lr, 3)
    other_side = lr.flip(-2).roll(8, -1)
    taller = torch.cat((other_side, lr, other_side), -2)
    inside = enlarged(zoo.bicubic(), torch.cat((taller[..., -4:], taller, taller[..., :4]), -1), 3, "flat")
    torch.testing.assert_close(sr, inside[:, 24:48, 12:-12], atol=1e-5, rtol=0)


def test_opacity_goes_around_too() -> None:
    lr = noise(16, 32, 4)
    sr = enlarged(zoo.bicubic(), lr, 2)
    torch.testing.assert_close(enlarged(zoo.bicubic(), lr.roll(5, -1), 2), sr.roll(10, -1), atol=1e-5, rtol=0)


def unbounded() -> SuperResolver:
    return SuperResolver(NLSA(16, 4, chunk=16, hashes=2), LIIF(16, hidden=(8,))).eval()


def windowed() -> SuperResolver:
    return SuperResolver(SwinIR(8, (2,), heads=(2,), window=4, features=8), LIIF(8, hidden=(8,))).eval()


@pytest.mark.parametrize("build", [unbounded, windowed])
@pytest.mark.parametrize("size", [(20, 40), (11, 27)])
def test_models_that_look_far_or_in_windows_see_across_the_meridian(build: Any, size: Any) -> None:
    lr, model = noise(*size), build()
    changed = lr.clone()
    changed[..., -1] = 1 - changed[..., -1]
    before, after = enlarged(model, lr), enlarged(model, changed)
    assert (before - after)[..., 0].abs().max() > 1e-4
    flat = enlarged(model, lr, 2, "flat")
    assert before.shape == flat.shape


def branched() -> SuperResolver:
    small = {"windows": (2, 4), "global_window": 8, "pooled": 4, "heads": 1, "features": 6}
    torch.manual_seed(0)
    encoder = TADT(12, 1, cells=True, **small)  # type: ignore[arg-type]
    torch.nn.init.normal_(encoder.controller.judge.weight, std=5)
    return SuperResolver(encoder, LIIF(6, hidden=(8,))).eval()


@pytest.mark.parametrize("size", [(24, 48), (19, 43)])
def test_routed_cells_beyond_the_meridian_are_those_inside(size: Any) -> None:
    lr, model = noise(*size), branched()
    whole = enlarged(model, lr, budget=0.97)
    torch.testing.assert_close(enlarged(model, lr, tile=16, budget=0.97), whole, atol=1e-5, rtol=0)
    if size == (24, 48):
        turned = enlarged(model, lr.roll(16, -1), budget=0.97)
        torch.testing.assert_close(turned, whole.roll(32, -1), atol=1e-5, rtol=0)


def test_windows_that_fit_the_width_turn_with_the_picture() -> None:
    lr, model = noise(20, 40), windowed()
    torch.testing.assert_close(enlarged(model, lr.roll(8, -1)), enlarged(model, lr).roll(16, -1), atol=1e-5, rtol=0)


def test_the_report_says_how_it_was_enlarged() -> None:
    notes = upscale(noise(8, 16), 2, model=zoo.bicubic(), projection="erp").report.notes
    assert any("360°" in note for note in notes)
    assert not upscale(noise(8, 16), 2, model=zoo.bicubic()).report.notes


def test_a_budget_in_macs_holds_with_the_context_of_a_panorama() -> None:
    lr, model = noise(48, 96), routed()
    full = upscale(lr, 2, model=model, dtype="fp32", projection="erp").report
    half = upscale(lr, 2, model=model, dtype="fp32", projection="erp", budget=Budget.macs(full.macs / 2)).report
    assert half.macs <= full.macs / 2 * 1.02


def test_a_file_says_itself_that_it_is_a_panorama(tmp_path: Path) -> None:
    fields = " ".join(f'GPano:{name}="{value}"' for name, value in FULL.items())
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" {fields}/>'
        "</rdf:RDF></x:xmpmeta>"
    )
    levels = (sphere(20, 40).movedim(0, -1) * 255).round().byte().numpy()
    Image.fromarray(levels).save(tmp_path / "a.png")
    Image.fromarray(levels).save(tmp_path / "b.jpg", xmp=xmp.encode())
    assert not upscale(tmp_path / "a.png", 2, model=zoo.bicubic()).report.notes
    assert any("360°" in note for note in upscale(tmp_path / "b.jpg", 2, model=zoo.bicubic()).report.notes)
    assert not upscale(tmp_path / "b.jpg", 2, model=zoo.bicubic(), projection="flat").report.notes


def test_a_panorama_is_measured_as_it_is_enlarged() -> None:
    lr, model = noise(16, 32), liif()
    measured = wrapped(upscaler_of(model, None, RunOptions(dtype="fp32")))(lr, (32, 64), 2)
    torch.testing.assert_close(measured.sr.clamp(0, 1), enlarged(model, lr), atol=1e-6, rtol=0)


# --- real panoramas ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("picture", ["bluemarble", "examplepano", "puydesancy"])
def test_published_panoramas_have_no_seam(shared: Path, picture: str) -> None:
    with Image.open(shared / "data/pano360" / f"{picture}.jpg") as image:
        small = np.array(image.resize((256, 128), Image.Resampling.BOX))
    lr = torch.from_numpy(small).movedim(-1, 0)
    for model in ("fast", "bicubic"):
        sr, flat = (enlarged(model, lr, 2, projection) for projection in ("erp", "flat"))
        assert meridian(sr, 2) < 1.05 * max(1.0, meridian(lr))  # the pictures have a step of their own
        assert meridian(flat, 2) > 1.2
