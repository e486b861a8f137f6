"""GeoTIFF: where it lies, what is valid, many bands, any of the usual types; by rasterio there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.errors import MissingDependency, UnreadableImage, UnwritableOutput
from scalewise.execution.pages import enlarge_pages
from scalewise.execution.plan import RunOptions
from scalewise.images.encode import Encoding
from scalewise.images.geotiff import read as geo
from scalewise.images.geotiff import write as geo_write
from scalewise.pipeline import upscale

rasterio: Any = pytest.importorskip("rasterio")
from rasterio.control import GroundControlPoint  # noqa: E402
from rasterio.crs import CRS  # noqa: E402
from rasterio.enums import ColorInterp  # noqa: E402
from rasterio.rpc import RPC  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402

HERE = {"crs": "EPSG:32632", "transform": from_origin(500000, 5400000, 10, 10)}
NAMES = {"uint8": (3, 250), "int8": (-90, 100), "uint16": (700, 9300), "int16": (-120, 3100), "float32": (-3.5, 812.25)}


def values(bands: int, height: int, width: int, dtype: str) -> np.ndarray:
    low, high = NAMES[dtype]
    drawn = np.random.default_rng(5).random((bands, height, width)) * (high - low) + low
    return (drawn if dtype == "float32" else drawn.round()).astype(dtype)


def saved(path: Path, array: np.ndarray, **more: Any) -> Path:
    profile = {"driver": "GTiff", "count": len(array), "height": array.shape[1], "width": array.shape[2]} | HERE
    described = {name: more.pop(name) for name in ("colorinterp", "gcps", "rpcs", "mask") if name in more}
    with rasterio.open(path, "w", **(profile | {"dtype": array.dtype.name} | more)) as out:
        for name in ("colorinterp", "gcps", "rpcs"):
            if name in described:
                setattr(out, name, described[name])
        out.write(array)
        if "mask" in described:
            out.write_mask(described["mask"])
    return path


def enlarged(path: Path, scale: float = 2, **encoding: Any) -> Path:
    out = path.with_name("larger.tif")
    source = images.open(path)
    writer = images.create_pages(
        out, source, lambda size: (round(size[0] * scale), round(size[1] * scale)), encoding=Encoding(**encoding)
    )
    return enlarge_pages(writer, zoo.bicubic(), Budget.full(), RunOptions(dtype="fp32"))[0]


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("bands", [1, 2, 3, 8])
def test_all_bands_of_any_type_keep_their_place_and_range(tmp_path: Path, dtype: str, bands: int) -> None:
    array = values(bands, 9, 13, dtype)
    path = saved(tmp_path / "a.tif", array)
    with rasterio.open(enlarged(path, 3)) as out:
        assert (out.count, out.height, out.width, out.dtypes[0]) == (bands, 27, 39, dtype)
        assert out.crs.to_epsg() == 32632 and out.nodata is None
        assert out.transform.almost_equals(from_origin(500000, 5400000, 10 / 3, 10 / 3))
        assert out.profile["tiled"] and out.profile["compress"] == "deflate"
        large = out.read()
    inside = (large.min((1, 2)) >= array.min((1, 2))).all() and (large.max((1, 2)) <= array.max((1, 2))).all()
    assert inside or dtype == "uint8"
    for band in range(bands):  # the same as any gray picture of these values
        low, high = (0.0, 255.0) if dtype == "uint8" else (float(array[band].min()), float(array[band].max()))
        gray = torch.from_numpy((array[band].astype(np.float64) - low) / (high - low)).float().unsqueeze(0)
        expected = upscale(gray.repeat(3, 1, 1), 3, model=zoo.bicubic(), dtype="fp32").image[0].clamp(0, 1)
        expected = expected.double().numpy() * (high - low) + low
        off = np.abs(large[band].astype(np.float64) - expected).max()
        assert off <= (1e-6 * (high - low) if dtype == "float32" else 0.51)


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 0), ("int16", -9999), ("float32", float("nan")), ("uint8", 9)])
def test_nodata_stays_where_it_is_and_bleeds_nowhere(tmp_path: Path, dtype: str, nodata: float) -> None:
    array = values(2, 40, 50, dtype)
    hole = np.zeros((2, 40, 50), bool)
    hole[0, 5:30, 7:40], hole[1, 20:25, :] = True, True
    if nodata == nodata:
        array[array == nodata] += 1
    holed = np.where(hole, nodata, array).astype(dtype)
    path = saved(tmp_path / "a.tif", holed, nodata=nodata)
    with rasterio.open(enlarged(path)) as out:
        assert out.nodata == nodata or nodata != nodata
        large, valid = out.read(), out.read_masks() > 0
    assert np.array_equal(valid, ~hole.repeat(2, 1).repeat(2, 2))
    for band in range(2):
        known = holed[band][~hole[band]]
        inside = (large[band][valid[band]] >= known.min()).all() and (large[band][valid[band]] <= known.max()).all()
        assert inside or dtype == "uint8"
    (tmp_path / "larger.tif").unlink()
    flat = np.where(hole, nodata, 77).astype(dtype)  # stays flat around the hole
    with rasterio.open(enlarged(saved(tmp_path / "b.tif", flat, nodata=nodata))) as out:
        assert (out.read()[valid] == 77).all()


def test_boxes_are_the_same_as_the_whole(tmp_path: Path) -> None:
    array = values(3, 60, 70, "int16")
    array[:, 10:50, 12:60] = -1
    source = images.open(saved(tmp_path / "a.tif", array, nodata=-1))
    whole = source.read()
    for box in ((0, 0, 20, 20), (15, 30, 40, 70), (30, 5, 60, 50)):
        y0, x0, y1, x1 = box
        assert torch.equal(source.read(box), whole[:, y0:y1, x0:x1])


def test_a_valid_pixel_never_becomes_nodata() -> None:
    odd = np.array([1, 2, 2, 3], np.uint8)
    assert geo_write.not_nodata(odd, 2).tolist() == [1, 3, 3, 3]
    assert geo_write.not_nodata(np.array([255], np.uint8), 255).tolist() == [254]
    assert (geo_write.not_nodata(np.array([0.5, 1], np.float32), 0.5) != 0.5).all()


def test_bands_go_in_threes_colours_first() -> None:
    assert geo.grouped(["gray"]) == [(1,)]
    assert geo.grouped(["blue", "green", "red", "alpha"]) == [(3, 2, 1)]
    assert geo.grouped(["undefined"] * 5) == [(1, 2, 3), (4, 5)]
    assert geo.grouped(["undefined", "red", "green", "blue", "alpha", "undefined"]) == [(2, 3, 4), (1, 6)]
    assert geo.grouped(["palette"]) == []
    assert str(geo.Group((4, 5))) == "4, 5" and geo.Group((4, 5)).channels == (4, 5, 5)


def test_alpha_and_masks_are_enlarged_by_nearest_neighbour(tmp_path: Path) -> None:
    array = values(4, 12, 16, "uint8")
    array[3] = 255 * (np.arange(16) > 4)
    colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    with rasterio.open(enlarged(saved(tmp_path / "a.tif", array, colorinterp=colours))) as out:
        assert list(out.colorinterp) == colours
        assert np.array_equal(out.read(4), array[3].repeat(2, 0).repeat(2, 1))
    mask = np.arange(12)[:, None] < np.arange(16)[None]
    (tmp_path / "larger.tif").unlink()
    with rasterio.open(enlarged(saved(tmp_path / "b.tif", array[:3], mask=mask))) as out:
        assert np.array_equal(out.read_masks(1) > 0, mask.repeat(2, 0).repeat(2, 1))
        assert not list(tmp_path.glob("*.msk"))


def test_a_palette_is_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", count=1, height=8, width=9, dtype="uint8", **HERE) as out:
        out.write(values(1, 8, 9, "uint8"))
        out.write_colormap(1, {0: (0, 0, 0, 255), 1: (255, 0, 0, 255)})
    with pytest.raises(UnreadableImage, match="palette"):
        images.open(path)


def test_what_was_said_is_kept_but_what_is_no_longer_true(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", values(4, 6, 7, "uint16"))
    with rasterio.open(path, "r+") as data:
        data.update_tags(MISSION="Sentinel", AREA_OR_POINT="Area")
        data.update_tags(2, WAVELENGTH="560", STATISTICS_MEAN="12")
        data.set_band_description(2, "green")
        data.set_band_unit(2, "W/m2")
        data.scales, data.offsets = (0.1,) * 4, (2.0,) * 4
    with rasterio.open(enlarged(path, note="scalewise says")) as out:
        assert out.tags()["MISSION"] == "Sentinel" and out.tags()["SCALEWISE"] == "scalewise says"
        assert out.tags(2)["WAVELENGTH"] == "560" and "STATISTICS_MEAN" not in out.tags(2)
        assert out.descriptions == (None, "green", None, None) and out.units[1] == "W/m2"
        assert out.scales == (0.1,) * 4 and out.offsets == (2.0,) * 4
    (tmp_path / "larger.tif").unlink()
    with rasterio.open(enlarged(path, strip=True)) as out:
        assert "MISSION" not in out.tags() and out.crs is None


def test_control_points_and_polynomials_follow_the_pixels(tmp_path: Path) -> None:
    places = [(row, column) for row in (0, 6) for column in (0, 9)]
    corners = [GroundControlPoint(row, column, column * 1.0, -row * 1.0) for row, column in places]
    crs = rasterio.crs.CRS.from_epsg(4326)
    path = saved(tmp_path / "a.tif", values(1, 6, 9, "uint8"), crs=None, transform=None, gcps=(corners, crs))
    with rasterio.open(enlarged(path, 3)) as out:
        points, found = out.gcps
        assert found.to_epsg() == 4326
        assert {(p.row, p.col, p.x) for p in points} == {(row * 3, column * 3, column) for row, column in places}
    (tmp_path / "larger.tif").unlink()
    ones = [1.0] + [0.0] * 19
    numbers = (10, 5, 45, 1, ones, ones, 2.5, 3, 8, 1, ones, ones, 4.5, 4.5)
    rpc = RPC(*numbers)  # pyright: ignore[reportCallIssue] (attrs)
    path = saved(tmp_path / "b.tif", values(1, 6, 9, "uint8"), crs=None, transform=None, rpcs=rpc)
    with rasterio.open(enlarged(path, 2)) as out:
        assert (out.rpcs.line_off, out.rpcs.samp_off) == (5.5, 9.5)
        assert (out.rpcs.line_scale, out.rpcs.samp_scale) == (6, 9)


def test_from_python_a_result_is_in_the_values_of_the_file(tmp_path: Path) -> None:
    array = values(1, 10, 12, "int16")
    path = saved(tmp_path / "a.tif", array)
    result = upscale(path, 2, model=zoo.bicubic(), dtype="fp32")
    assert result.image.dtype == np.int16 and result.image.shape == (20, 24)
    result.save(tmp_path / "b.tif")
    with rasterio.open(tmp_path / "b.tif") as out:
        assert np.array_equal(out.read(1), result.image) and out.crs.to_epsg() == 32632


def test_a_crop_lies_where_it_was_cut(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", values(3, 20, 24, "uint16"))
    whole = upscale(path, 2, model=zoo.bicubic(), dtype="fp32")
    part = upscale(path, 2, model=zoo.bicubic(), dtype="fp32", crop=(4, 6, 14, 18))
    part.save(tmp_path / "b.tif")
    with rasterio.open(tmp_path / "b.tif") as out:
        assert out.transform.almost_equals(from_origin(500060, 5399960, 5, 5))
        assert np.array_equal(out.read(), whole.image[8:28, 12:36].transpose(2, 0, 1))


def test_a_part_of_the_bands_is_said_to_be_one(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", values(5, 6, 7, "uint8"))
    result = upscale(path, 2, model=zoo.bicubic(), dtype="fp32")
    source = images.open(path)
    with images.create(tmp_path / "b.tif", (12, 14), source) as sink:
        sink.write(0, 0, torch.from_numpy(result.image).movedim(-1, 0) / 255)
        sink.finish()
    assert sink.notes == ("bands 1, 2, 3 alone",)
    with rasterio.open(tmp_path / "b.tif") as out:
        assert np.array_equal(out.read(), result.image.transpose(2, 0, 1))


def test_other_formats_say_that_the_georeference_is_lost(tmp_path: Path) -> None:
    source = images.open(saved(tmp_path / "a.tif", values(3, 6, 7, "uint8")))
    sink = images.create(tmp_path / "a.png", (6, 7), source)
    assert any("georeference" in note for note in sink.notes)
    sink.abort()


def test_a_plain_tiff_is_not_read_here(tmp_path: Path) -> None:
    images.save(tmp_path / "plain.tif", np.zeros((4, 5, 3), np.uint8))
    assert images.open(tmp_path / "plain.tif").bands is None
    located = saved(tmp_path / "a.tif", values(1, 4, 5, "uint8"))
    many = saved(tmp_path / "b.tif", values(5, 4, 5, "uint8"), crs=None, transform=None)
    signed = saved(tmp_path / "c.tif", values(1, 4, 5, "int16"), crs=None, transform=None)
    assert all(images.open(path).bands is not None for path in (located, many, signed))


def test_without_rasterio_a_georeference_is_not_lost_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "a.tif", values(3, 4, 5, "uint8"))
    monkeypatch.setattr(geo, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="geo"):
        images.open(path)


def test_what_cannot_be_read_or_written_is_said_in_one_line(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", values(3, 40, 50, "int16"))
    whole = path.read_bytes()
    with pytest.raises(UnreadableImage, match="max_pixels"):
        images.open(path, max_pixels=100)
    with pytest.raises(UnreadableImage, match="page 3"):
        images.open(path, page=3)
    with pytest.raises(UnwritableOutput, match="input itself"):
        images.create_pages(path, images.open(path), lambda size: size, overwrite=True)
    doubles = saved(tmp_path / "d.tif", np.zeros((1, 3, 3)), dtype="float64")
    with pytest.raises(UnreadableImage, match="float64"):
        images.open(doubles)
    for cut in range(100, len(whole), 400):
        path.write_bytes(whole[:cut])
        with pytest.raises(UnreadableImage):
            images.open(path).read()


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    source = images.open(saved(tmp_path / "a.tif", values(5, 6, 7, "uint8")))
    with images.create_pages(tmp_path / "out.tif", source, lambda size: size) as writer:
        page, sink = next(iter(writer))
        sink.write(0, 0, page.read())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif"]


def test_control_points_without_a_coordinate_system_are_kept(tmp_path: Path) -> None:
    places = [(row, column) for row in (0, 6) for column in (0, 9)]
    corners = [GroundControlPoint(row, column, column * 3, row * 2) for row, column in places]
    path = saved(tmp_path / "a.tif", values(1, 6, 9, "uint8"), crs=None, transform=None, gcps=(corners, CRS()))
    with rasterio.open(enlarged(path)) as out:
        points, crs = out.gcps
    assert not crs
    found = [(point.row, point.col, point.x, point.y) for point in points]
    assert found == [(2 * row, 2 * column, column * 3, row * 2) for row, column in places]


@pytest.mark.parametrize("name", ["a_RPC.TXT", "a_rpc.txt", "a.RPB"])
def test_polynomials_of_a_file_next_to_the_picture_are_carried(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / "a.tif", values(1, 6, 9, "uint8"), crs=None, transform=None)
    rest = {"LAT_OFF": 50, "LONG_OFF": 10, "HEIGHT_OFF": 100, "LAT_SCALE": 1, "LONG_SCALE": 1, "HEIGHT_SCALE": 100}
    keys = {"LINE_OFF": 2.5, "SAMP_OFF": 4.5, "LINE_SCALE": 3, "SAMP_SCALE": 4.5} | rest
    tables = ("LINE_NUM_COEFF", "LINE_DEN_COEFF", "SAMP_NUM_COEFF", "SAMP_DEN_COEFF")
    if name.endswith("RPB"):
        words = {"OFF": "Offset", "SCALE": "Scale", "NUM_COEFF": "NumCoef", "DEN_COEFF": "DenCoef"}

        def word(key: str) -> str:
            first, last = key.split("_", 1)
            return first.lower() + words[last]

        lines = [f"\t{word(key)} = {value};" for key, value in keys.items()]
        lines += [f"\t{word(table)} = (\n" + ",\n".join(["\t\t1"] + ["\t\t0"] * 19) + ");" for table in tables]
        text = 'satId = "X";\nbandId = "P";\nSpecId = "RPC00B";\nBEGIN_GROUP = IMAGE\n\terrBias = 0;\n\terrRand = 0;\n'
        text += "\n".join(lines) + "\nEND_GROUP = IMAGE\nEND;\n"
    else:
        numbers = [(f"{table}_{k}", int(k == 1)) for table in tables for k in range(1, 21)]
        text = "".join(f"{key}: {value}\n" for key, value in [*keys.items(), *numbers])
    (tmp_path / name).write_text(text)
    with rasterio.open(enlarged(path)) as out:
        assert out.rpcs is not None and (out.rpcs.line_off, out.rpcs.samp_off) == (5.5, 9.5)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("compression", ["zstd", "lerc", "lerc_deflate", "lerc_zstd", "lzma"])
def test_compressions_that_libvips_may_not_know_are_read_without_a_georeference(
    tmp_path: Path, compression: str, dtype: str
) -> None:
    array = values(3, 6, 9, dtype)
    path = saved(
        tmp_path / "a.tif", array, crs=None, transform=None, compress=compression, photometric="rgb", MAX_Z_ERROR=0
    )
    with rasterio.open(path) as data:
        assert np.array_equal(data.read(), array)
    source = images.open(path)
    low, high = source.levels
    shown = source.read().numpy() * (high - low) + low
    assert source.size == (6, 9) and source.kind == "rgb" and shown.shape == (3, 6, 9)
    assert images.open(enlarged(path)).size == (12, 18)
