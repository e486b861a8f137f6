"""The GDAL road carries a picture: profile, XMP, orientation, kinds of samples, tags, sidecars; or leaves no file.

Each of `data/` was made by hand to repeat the situation of a public report; it stands for a kind.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from images.cases import DATA, enlarged, pixels, said
from PIL import Image
from rasterio.transform import from_origin

from scalewise import images
from scalewise.errors import UnwritableOutput

# The GDAL road carries a picture.


def test_orientation_profile_and_kinds_of_samples_go_through_gdal(tmp_path: Path) -> None:
    enlarged(DATA / "photoshop5.tif", tmp_path / "b.tif")
    stored = tifffile.imread(DATA / "photoshop5.tif")
    with tifffile.TiffFile(DATA / "photoshop5.tif") as old, tifffile.TiffFile(tmp_path / "b.tif") as new:
        before, after = old.pages[0].tags, new.pages[0].tags  # type: ignore[union-attr]
        for tag in (34675, 338, 315, 33432, 305, 282, 296):  # profile, samples, artist, copyright, program, resolution
            assert after[tag].value == before[tag].value
        assert after.get(274) is None or after[274].value == 1
        assert new.pages[0].planarconfig in (1, 2)  # type: ignore[union-attr]
    with rasterio.open(tmp_path / "b.tif") as out:
        written = out.read()
    upright = np.rot90(stored, -1).transpose(2, 0, 1)  # orientation 6: a quarter to the right
    assert written.shape == (5, 128, 96)
    assert np.abs(written[:, ::2, ::2].astype(int) - upright).mean() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_gdal_turns_as_pillow_does(tmp_path: Path, orientation: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, (6, 9, 5)).astype(np.uint8)
    turned = [(274, "H", 1, orientation, True)]
    kinds = ["unspecified", "unspecified"]
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=kinds, extratags=turned, metadata=None)
    Image.fromarray(values[..., :3]).save(tmp_path / "a.png", exif=_orientation(orientation))
    assert np.allclose(pixels(tmp_path / "a.tif"), pixels(tmp_path / "a.png"), atol=1e-6)
    box = (1, 2, 4, 5)
    whole = images.open(tmp_path / "a.tif").read()
    assert np.array_equal(images.open(tmp_path / "a.tif").read(box).numpy(), whole[:, 1:4, 2:5].numpy())


def _orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def test_profile_and_xmp_of_a_map_are_kept(tmp_path: Path) -> None:
    enlarged(DATA / "ortho_icc.tif", tmp_path / "b.tif", note="made by a test", dpi="scale")
    with tifffile.TiffFile(DATA / "ortho_icc.tif") as old, tifffile.TiffFile(tmp_path / "b.tif") as new:
        before, after = old.pages[0].tags, new.pages[0].tags  # type: ignore[union-attr]
        assert after[34675].value == before[34675].value and after[282].value == (600, 1)
        assert b'dc:source="drone"' in after[700].value and b"made by a test" in after[700].value
    with rasterio.open(tmp_path / "b.tif") as out:
        assert out.crs.to_epsg() == 32633 and out.transform.a == 5
    assert said(enlarged(DATA / "ortho_icc.tif", tmp_path / "b.png"), "the georeference has no place in a png")
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.info["icc_profile"] == before[34675].value


def test_tags_of_all_domains_are_kept(tmp_path: Path) -> None:
    enlarged(DATA / "namespaces.tif", tmp_path / "b.tif")
    with rasterio.open(tmp_path / "b.tif") as out:
        assert out.tags(ns="IMAGERY") == {"CLOUDCOVER": "3", "SATELLITEID": "WV02"}
        assert out.tags(ns="MYNS") == {"a": "1"} and out.tags()["plain"] == "kept"


def test_what_lies_in_a_sidecar_is_kept_in_one(tmp_path: Path) -> None:
    for name in ("utm3d.tif", "utm3d.tif.aux.xml"):
        shutil.copy(DATA / name, tmp_path / name)
    (tmp_path / "out").mkdir()
    enlarged(tmp_path / "utm3d.tif", tmp_path / "out" / "b.tif")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.tif", "b.tif.aux.xml"]
    with rasterio.open(tmp_path / "utm3d.tif") as old, rasterio.open(tmp_path / "out" / "b.tif") as new:
        assert "3D" in old.crs.to_wkt() and new.crs == old.crs and new.transform.a == old.transform.a / 2
    with pytest.raises(UnwritableOutput, match="exists"):
        (tmp_path / "out" / "b.tif").unlink()
        enlarged(tmp_path / "utm3d.tif", tmp_path / "out" / "b.tif")


def test_a_world_file_next_to_a_tiff_is_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((8, 9, 3), 80, np.uint8), photometric="rgb", metadata=None)
    (tmp_path / "a.tfw").write_text("10\n0\n0\n-10\n500005\n4499995\n")
    enlarged(tmp_path / "a.tif", tmp_path / "b.tif")
    with rasterio.open(tmp_path / "b.tif") as out:
        assert (out.transform.a, out.transform.c, out.transform.f) == (5, 500000, 4500000)


@pytest.mark.parametrize("kib", [1, 8, 20, 40])
def test_a_full_disk_leaves_no_geotiff(tmp_path: Path, kib: int) -> None:
    resource = pytest.importorskip("resource")
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3)).astype(np.uint8)
    profile = {"driver": "GTiff", "width": 60, "height": 60, "count": 3, "dtype": "uint8", "crs": "EPSG:32633"}
    transform = from_origin(5e5, 4.5e6, 10, 10)
    with rasterio.open(tmp_path / "a.tif", "w", transform=transform, **profile) as out:
        out.write(noise.transpose(2, 0, 1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "out").mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 1024, before[1]))
    try:
        with pytest.raises(UnwritableOutput):
            enlarged(tmp_path / "a.tif", tmp_path / "out" / "b.tif")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".gif", ".avif"])
def test_a_file_that_cannot_be_read_back_gets_no_name(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scalewise.images import write

    real = write.write_container

    def cut(encoded: object, out: io.BufferedRandom, format: str) -> list[str]:
        left_out = real(encoded, out, format)  # type: ignore[arg-type]
        out.truncate(out.seek(0, io.SEEK_END) * 2 // 3)  # what a disk that lies leaves of it
        return left_out

    monkeypatch.setattr(write, "write_container", cut)
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    with pytest.raises(UnwritableOutput, match=r"read back|came out"):
        images.save(tmp_path / f"b{suffix}", noise)
    assert list(tmp_path.iterdir()) == []
