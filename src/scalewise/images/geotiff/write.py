"""GeoTIFF written through rasterio: what `read.py` read, larger, where it lies on earth."""

from __future__ import annotations

import math
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from scalewise.errors import InvalidRequest, UnreadableImage, UnwritableOutput
from scalewise.images.encode import Encoding
from scalewise.images.geotiff.read import Range, Size, bits_of, grouped, in_file_values, quiet, read, reading, roles
from scalewise.images.metadata import tiff_pages
from scalewise.images.metadata.exif import ORIENTATION
from scalewise.images.metadata.ifd import SHORT, DamagedDirectory, Ifd, directory, entry_of, header, integers
from scalewise.images.metadata.metadata import Metadata
from scalewise.images.metadata.tiff import TiffWriter
from scalewise.images.pages import PageWriter
from scalewise.images.sink import Sink, Trial, canvas_of, encoding_seconds, same_file
from scalewise.images.source import Box, Source
from scalewise.storage import atomic_write, check_writable

BLOCK_SIDE = 256  # rows and columns of a tile of the output
_WIDE_COLUMNS = 16 * BLOCK_SIDE  # written at once
_LOSSLESS = ("lzw", "zstd", "deflate")
# Domains of tags that GDAL makes itself, or that are written in other ways.
_OWN_DOMAINS = ("IMAGE_STRUCTURE", "DERIVED_SUBDATASETS", "SUBDATASETS", "RPC", "xml:XMP", "COLOR_PROFILE", "EXIF", "")
_RESOLUTION = ("TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION", "TIFFTAG_RESOLUTIONUNIT")


class GeoTiffPages(PageWriter):
    """All bands of a GeoTIFF into a new one: each page's pixels are kept until the last is complete."""

    def __init__(
        self, path: Path, source: Source, size_of: Callable[[Size], Size], how: Encoding, overwrite: bool
    ) -> None:
        super().__init__(path, source)
        check_place(path, source, overwrite=overwrite)
        self._size, self._how, self._overwrite = size_of(source.size), how, overwrite
        self._pages: list[tuple[Source, np.ndarray]] = []

    def __len__(self) -> int:
        return self.source.pages

    def __iter__(self) -> Iterator[tuple[Source, Sink]]:
        for number in range(len(self)):
            page = self.source.at(number)
            sink = Sink(self._size, page, page.dtype, self._keep(page), folder=self.path.parent)
            yield from self._turn(page, sink)

    def _keep(self, page: Source) -> Callable[[np.ndarray], tuple[None, list[str]]]:
        def keep(canvas: np.ndarray) -> tuple[None, list[str]]:
            self._pages.append((page, canvas))
            return None, []

        return keep

    def encoding_seconds(self, sample: torch.Tensor) -> float:
        canvas = canvas_of(sample, self.source, self.source.dtype)
        return encoding_seconds(trial(self.source), canvas, math.prod(self._size)) * len(self)

    def finish(self) -> Path:
        assert len(self._pages) == len(self), "finish before all pages are"
        self._said |= dict.fromkeys(write(self.path, self._pages, self._how, overwrite=self._overwrite))
        self._pages = []
        return self.path

    def abort(self) -> None:
        super().abort()
        self._pages = []


def deliver(
    path: Path, like: Source, how: Encoding, *, overwrite: bool
) -> Callable[[np.ndarray], tuple[Path, list[str]]]:
    """The end of a `Sink`: writes a GeoTIFF of the bands of one page."""

    def finish(canvas: np.ndarray) -> tuple[Path, list[str]]:
        return path, write(path, [(like, canvas)], how, overwrite=overwrite)

    return finish


def trial(like: Source) -> Trial:
    """The trial of a `Sink`: writes a small canvas of one page as `write` would, into memory."""

    def encoded(canvas: np.ndarray) -> None:
        from rasterio.errors import RasterioError
        from rasterio.io import MemoryFile

        assert like.path is not None
        height, width, _ = canvas.shape
        canvases = {
            band: (canvas[..., c], bounds)
            for c, (band, bounds) in enumerate(zip(like.bands.bands, like.bands.ranges, strict=True))
        }
        # what fails here fails again when the file is written, and is reported then
        with reading(like.path) as data, quiet(), suppress(RasterioError), MemoryFile() as place:
            part = (min(height, like.size[0]), min(width, like.size[1]))
            larger = _Larger(data, (height, width), replace(like, size=part))
            with place.open(**_profile(larger, like.bands.bands)) as out:
                _fill(larger, out, like.bands.bands, canvases)

    return encoded


def picture(like: Source, values: np.ndarray) -> torch.Tensor:
    """What `Source.restore` gave, (h, w) or (h, w, bands) in the values of the file, as a `Sink` takes it."""
    planes = values[..., None] if values.ndim == 2 else values
    if planes.shape[2] != len(like.bands.bands):
        raise InvalidRequest(f"a picture of shape {values.shape} does not hold {like.bands}")
    scaled = [
        torch.from_numpy((planes[..., c].astype(np.float64) - low) / (high - low)).float()
        for c, (low, high) in enumerate(like.bands.ranges)
    ]
    return torch.stack((scaled * 3 if len(scaled) == 1 else [*scaled, scaled[-1]])[:3])


@dataclass(frozen=True)
class _Larger:
    """An open input, the size of the output, and the page that it shows: all, or `origin` and `size` of a crop."""

    data: Any
    out: Size
    like: Source

    @property
    def origin(self) -> Size:
        return self.like.bands.origin

    @property
    def size(self) -> Size:
        return self.like.size

    @property
    def photometric(self) -> int:
        """The interpretation that the input's tag names: black is 0, white is 0, RGB, palette, …"""
        with tiff_pages.reading(self.like.path or Path()) as (read_at, _):
            layout, first = header(read_at)
            ifd, _ = directory(read_at, layout, first, only=(tiff_pages.PHOTOMETRIC,))
            return tiff_pages.numbers(ifd, layout, tiff_pages.PHOTOMETRIC, (1,))[0]

    @property
    def factors(self) -> tuple[float, float]:
        return self.out[0] / self.size[0], self.out[1] / self.size[1]

    def row(self, row: float) -> float:
        return (row - self.origin[0]) * self.factors[0]

    def column(self, column: float) -> float:
        return (column - self.origin[1]) * self.factors[1]

    def nearest(self, axis: int, start: int, stop: int) -> np.ndarray:
        """The input's pixels that hold the centres of output pixels start..stop-1 of an axis."""
        return self.origin[axis] + ((2 * np.arange(start, stop) + 1) * self.size[axis]) // (2 * self.out[axis])


def write(path: Path, pages: Sequence[tuple[Source, np.ndarray]], how: Encoding, *, overwrite: bool) -> list[str]:
    """A GeoTIFF from pages (a `Source` of this file and its canvas) of one input; atomic. Raises UnwritableOutput.

    With pages missing it has the bands of the others. Pixels that are not valid in the input are copied by
    nearest neighbour, and no valid one gets the value that means nodata. What was written is read again before it gets
    its name: GDAL does not report what goes wrong when a file is closed. The answer says what was left out.
    """
    import rasterio
    from rasterio.errors import RasterioError

    like, canvas = pages[0]
    assert like.path is not None
    canvases = {
        band: (canvas[..., c], one.bands.ranges[c]) for one, canvas in pages for c, band in enumerate(one.bands.bands)
    }
    with reading(like.path) as data, quiet(), atomic_write(path, overwrite=overwrite) as temporary:
        larger = _Larger(data, (canvas.shape[0], canvas.shape[1]), like)
        whole = set(canvases) >= {b for three in grouped(roles(data, larger.photometric)) for b in three}
        bands = range(1, data.count + 1) if whole else sorted(canvases)
        profile = _profile(larger, bands) | ({} if how.strip else _place(larger))
        try:
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(temporary, "w", **profile) as out:
                notes = _describe(larger, out, bands, how)
                sums = _fill(larger, out, bands, canvases)
            notes += _add_tags(larger, temporary, how, whole=whole)
            _check(temporary, sums)
            _put_sidecar(temporary, path, overwrite=overwrite)
        except (RasterioError, UnreadableImage, OSError, DamagedDirectory, struct.error) as error:
            free = shutil.disk_usage(path.parent).free / 2**20
            raise UnwritableOutput(
                f"could not write {str(path)!r}: {' '.join(str(error.__cause__ or error).split())} "
                f"({free:.0f} MiB are free there)"
            ) from error
        finally:
            sidecar(temporary).unlink(missing_ok=True)
    return ([] if whole else [f"bands {like.bands} alone"]) + notes


def sidecar(path: Path) -> Path:
    """The file in which GDAL puts what a TIFF has no tags for."""
    return path.with_name(f"{path.name}.aux.xml")


def check_place(path: Path, source: Source, *, overwrite: bool) -> None:
    """Raises UnwritableOutput for an output that is the input, or is there already, by itself or in its sidecar."""
    if source.path is not None and same_file(path, source.path):
        raise UnwritableOutput(f"{str(path)!r} is the input itself; choose another name")
    check_writable(path, overwrite=overwrite)
    if sidecar(path).exists():
        check_writable(sidecar(path), overwrite=overwrite)


def _put_sidecar(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Put what GDAL wrote next to its temporary file next to the output; an old one, of another picture, is removed."""
    if sidecar(temporary).exists():
        with atomic_write(sidecar(path), overwrite=overwrite) as place:
            place.write_bytes(sidecar(temporary).read_bytes())
    elif overwrite:
        sidecar(path).unlink(missing_ok=True)


def _add_tags(larger: _Larger, temporary: Path, how: Encoding, *, whole: bool) -> list[str]:
    """Add what GDAL does not write: EXIF, XMP, IPTC, profile, resolution, orientation and the kinds of extra
    samples."""
    like = larger.like
    tags: Ifd = {}
    with temporary.open("r+b") as out, tiff_pages.reading(like.path or temporary) as (read_at, _):
        layout, first = header(read_at)
        old, _ = directory(read_at, layout, first)
        new = header(lambda offset, count: _read_at(out, offset, count))[0]
        if whole and tiff_pages.EXTRA_SAMPLES in old:
            kinds = integers(old[tiff_pages.EXTRA_SAMPLES], layout)
            tags[tiff_pages.EXTRA_SAMPLES] = entry_of(SHORT, kinds, new)
        if ORIENTATION in old and like.bands.orientation == 1:  # the rows of a map stay as they are stored
            tags[ORIENTATION] = entry_of(SHORT, integers(old[ORIENTATION], layout)[:1] or (1,), new)
        metadata, notes = Metadata(), ()
        if not how.strip:
            metadata, notes = like.metadata.updated(like.size, larger.out, how.dpi, how.note)
        TiffWriter.amend(out, tags, metadata)
    return list(notes)


def _read_at(file: IO[bytes], offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)


def _check(temporary: Path, sums: Mapping[Box, int]) -> None:
    """Raises UnreadableImage if a file does not hold the pixels of which the check sums are given, by box."""
    with reading(temporary) as written:
        for (top, left, bottom, right), expected in sums.items():
            window = _window(top, left, bottom, right)
            if zlib.crc32(written.read(window=window).tobytes()) != expected:
                raise UnreadableImage("it was not written whole")


def _window(top: int, left: int, bottom: int, right: int) -> Any:
    from rasterio.windows import Window

    return Window(left, top, right - left, bottom - top)  # pyright: ignore[reportCallIssue] (attrs)


def _profile(larger: _Larger, bands: Sequence[int]) -> dict[str, Any]:
    """How the file is laid out: tiles, lossless, BigTIFF where it may become large."""
    data, dtype = larger.data, larger.data.dtypes[0]
    compression = data.compression.value.lower() if data.compression is not None else ""
    profile = {
        "driver": "GTiff",
        "height": larger.out[0],
        "width": larger.out[1],
        "count": len(bands),
        "dtype": dtype,
        "nodata": data.nodata,
        "tiled": True,
        "blockxsize": BLOCK_SIDE,
        "blockysize": BLOCK_SIDE,
        "compress": compression if compression in _LOSSLESS else "deflate",
        "predictor": 3 if dtype == "float32" else 2,
        "interleave": "pixel" if len(bands) <= 4 else "band",
        "bigtiff": "IF_SAFER",
    }
    kinds = {0: "MINISWHITE", 5: "CMYK"}
    if [data.colorinterp[band - 1].name for band in bands[:3]] == ["red", "green", "blue"]:
        profile["photometric"] = "RGB"
    elif larger.photometric in kinds and len(bands) == data.count:
        profile["photometric"] = kinds[larger.photometric]
    if bits_of(data) < 8 * np.dtype(dtype).itemsize:
        profile |= {"nbits": bits_of(data), "predictor": 1}
    return profile


def _place(larger: _Larger) -> dict[str, Any]:
    """Coordinate system and affine transformation; control points and polynomials are set later."""
    data, (rows, columns) = larger.data, larger.factors
    if data.transform.is_identity:
        return {"crs": data.crs}
    a, b, c, d, e, f, *_ = data.transform
    (y, x), affine = larger.origin, type(data.transform)
    first = c + a * x + b * y, f + d * x + e * y
    return {"crs": data.crs, "transform": affine(a / columns, b / rows, first[0], d / columns, e / rows, first[1])}


def _describe(larger: _Larger, out: Any, bands: Sequence[int], how: Encoding) -> list[str]:
    """What the bands are, and all tags, domain by domain; the answer says what was left out."""
    data, notes = larger.data, []
    if "palette" not in (one.name for one in data.colorinterp):
        out.colorinterp = [data.colorinterp[band - 1] for band in bands]
    out.scales, out.offsets = ([values[band - 1] for band in bands] for values in (data.scales, data.offsets))
    if how.strip:
        return []
    _place_by_points(larger, out)
    plain = {name: value for name, value in data.tags().items() if name not in _RESOLUTION}
    out.update_tags(**plain, **({"SCALEWISE": how.note} if how.note else {}))
    for place, band in enumerate(bands, 1):
        tags = {name: value for name, value in data.tags(band).items() if not name.startswith("STATISTICS_")}
        out.update_tags(place, **tags)
        if data.descriptions[band - 1]:
            out.set_band_description(place, data.descriptions[band - 1])
        if data.units[band - 1]:
            out.set_band_unit(place, data.units[band - 1])
    for place, band in ((0, 0), *enumerate(bands, 1)):
        for domain in data.tag_namespaces(*([band] if band else [])):
            if domain in _OWN_DOMAINS:
                continue
            if domain.startswith(("xml:", "json:")):
                notes.append(f"tags of the domain {domain!r} were left out")
                continue
            tags = data.tags(*([band] if band else []), ns=domain)
            out.update_tags(*([place] if place else []), ns=domain, **tags)
    return notes


def _place_by_points(larger: _Larger, out: Any) -> None:
    """Control points and rational polynomials, in pixels of the output."""
    from rasterio.control import GroundControlPoint
    from rasterio.crs import CRS

    points, crs = larger.data.gcps
    if points:
        at = ((larger.row(p.row), larger.column(p.col), p) for p in points)
        moved = [GroundControlPoint(y, x, p.x, p.y, p.z, id=p.id, info=p.info) for y, x, p in at]
        out.gcps = (moved, crs or CRS())
    polynomials = larger.data.rpcs
    if polynomials is not None:
        rows, columns = larger.factors
        # they count from the centre of the first pixel
        polynomials.line_off = larger.row(polynomials.line_off + 0.5) - 0.5
        polynomials.samp_off = larger.column(polynomials.samp_off + 0.5) - 0.5
        polynomials.line_scale *= rows
        polynomials.samp_scale *= columns
        out.rpcs = polynomials


def _fill(
    larger: _Larger, out: Any, bands: Sequence[int], canvases: Mapping[int, tuple[np.ndarray, Range]]
) -> dict[Box, int]:
    """Write the pixels, some tiles at a time; a check sum of each box (top, left, bottom, right)."""
    from rasterio.enums import MaskFlags

    sums: dict[Box, int] = {}
    data, flags = larger.data, larger.data.mask_flag_enums[0]
    masked = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
    height, width = larger.out
    places = [(top, left) for top in range(0, height, BLOCK_SIDE) for left in range(0, width, _WIDE_COLUMNS)]
    for top, left in places:
        bottom, right = min(top + BLOCK_SIDE, height), min(left + _WIDE_COLUMNS, width)
        rows, columns = larger.nearest(0, top, bottom), larger.nearest(1, left, right)
        y, x = int(rows[0]), int(columns[0])
        values, valid = read(
            data, bands, (y, x, int(rows[-1]) + 1, int(columns[-1]) + 1), larger.like.bands.orientation
        )
        block, known = (part[:, rows - y][:, :, columns - x] for part in (values, valid))
        for place, band in enumerate(bands):
            if band in canvases:
                canvas, bounds = canvases[band]
                fresh = in_file_values(canvas[top:bottom, left:right], bounds, data.dtypes[0])
                np.copyto(block[place], not_nodata(fresh, data.nodatavals[band - 1]), where=known[place])
        window = _window(top, left, bottom, right)
        sums[top, left, bottom, right] = zlib.crc32(block.tobytes())
        out.write(block, window=window)
        if masked:
            out.write_mask(known.all(0), window=window)
    return sums


def not_nodata(values: np.ndarray, nodata: float | None) -> np.ndarray:
    """Values of valid pixels, moved by the least step where they would mean nodata."""
    if nodata is None or not (hit := values == nodata).any():
        return values
    if values.dtype.kind == "f":
        return np.where(hit, np.nextafter(values, np.inf, dtype=values.dtype), values)
    top = np.iinfo(values.dtype).max
    return np.where(hit, values - 1 if nodata == top else values + 1, values).astype(values.dtype)
