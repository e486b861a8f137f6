"""GeoTIFF written through rasterio: what `read.py` read, larger, where it lies on earth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scalewise.errors import InvalidRequest, UnwritableOutput
from scalewise.images.encode import Encoding
from scalewise.images.geotiff.read import Range, Size, grouped, in_file_values, quiet, read, reading
from scalewise.images.pages import PageWriter
from scalewise.images.sink import Sink, Trial, canvas_of, encoding_seconds, same_file
from scalewise.images.source import Source
from scalewise.storage import atomic_write, check_writable

BLOCK = 256  # rows and columns of a tile of the output
_WIDE = 16 * BLOCK  # columns written at once
_LOSSLESS = ("lzw", "zstd", "deflate")


class GeoTiffPages(PageWriter):
    """All bands of a GeoTIFF into a new one: each page's pixels are kept until the last is there."""

    def __init__(
        self, path: Path, source: Source, size_of: Callable[[Size], Size], how: Encoding, overwrite: bool
    ) -> None:
        super().__init__(path, source)
        if source.path is not None and same_file(path, source.path):
            raise UnwritableOutput(f"{str(path)!r} is the input itself; choose another name")
        check_writable(path, overwrite=overwrite)
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
        write(self.path, self._pages, self._how, overwrite=self._overwrite)
        self._pages = []
        return self.path

    def abort(self) -> None:
        super().abort()
        self._pages = []


def deliver(
    path: Path, like: Source, how: Encoding, *, overwrite: bool
) -> Callable[[np.ndarray], tuple[Path, list[str]]]:
    """For a `Sink`: a GeoTIFF of the bands of one page."""

    def finish(canvas: np.ndarray) -> tuple[Path, list[str]]:
        whole = write(path, [(like, canvas)], how, overwrite=overwrite)
        return path, [] if whole else [f"bands {like.bands} alone"]

    return finish


def trial(like: Source) -> Trial:
    """For a `Sink`: writes a small canvas of one page as `write` would, into memory."""

    def encoded(canvas: np.ndarray) -> None:
        from rasterio.errors import RasterioError
        from rasterio.io import MemoryFile

        assert like.path is not None
        height, width, _ = canvas.shape
        canvases = {
            band: (canvas[..., c], bounds)
            for c, (band, bounds) in enumerate(zip(like.bands.bands, like.bands.ranges, strict=True))
        }
        # what fails here will fail, and be said, when the file is written
        with reading(like.path) as data, quiet(), suppress(RasterioError), MemoryFile() as place:
            part = (min(height, like.size[0]), min(width, like.size[1]))
            larger = _Larger(data, (height, width), like.bands.origin, part)
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
    """An open input, the size of the output, and which pixels of the input it shows: `origin` and `size` of a crop."""

    data: Any
    out: Size
    origin: Size
    size: Size

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


def write(path: Path, pages: Sequence[tuple[Source, np.ndarray]], how: Encoding, *, overwrite: bool) -> bool:
    """A GeoTIFF from pages (a `Source` of this file and its canvas) of one input; atomic. Raises UnwritableOutput.

    With pages missing it has the bands of those that are there, and the answer is False. Pixels that are not valid in
    the input are copied by nearest neighbour, and no valid one gets the value that means nodata.
    """
    import rasterio
    from rasterio.errors import RasterioError

    like, canvas = pages[0]
    assert like.path is not None
    canvases = {
        band: (canvas[..., c], one.bands.ranges[c]) for one, canvas in pages for c, band in enumerate(one.bands.bands)
    }
    with reading(like.path) as data, quiet(), atomic_write(path, overwrite=overwrite) as temporary:
        larger = _Larger(data, (canvas.shape[0], canvas.shape[1]), like.bands.origin, like.size)
        whole = all(band in canvases for three in grouped([one.name for one in data.colorinterp]) for band in three)
        bands = range(1, data.count + 1) if whole else sorted(canvases)
        profile = _profile(larger, bands) | ({} if how.strip else _place(larger))
        try:
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(temporary, "w", **profile) as out:
                _describe(larger, out, bands, how)
                _fill(larger, out, bands, canvases)
        except (RasterioError, OSError) as error:
            raise UnwritableOutput(f"could not write {str(path)!r}: {' '.join(str(error).split())}") from error
    return whole


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
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": compression if compression in _LOSSLESS else "deflate",
        "predictor": 3 if dtype == "float32" else 2,
        "interleave": "pixel" if len(bands) <= 4 else "band",
        "bigtiff": "IF_SAFER",
    }
    if [data.colorinterp[band - 1].name for band in bands[:3]] == ["red", "green", "blue"]:
        profile["photometric"] = "RGB"
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


def _describe(larger: _Larger, out: Any, bands: Sequence[int], how: Encoding) -> None:
    """What the bands are, and what was said of them."""
    data = larger.data
    out.colorinterp = [data.colorinterp[band - 1] for band in bands]
    out.scales, out.offsets = ([values[band - 1] for band in bands] for values in (data.scales, data.offsets))
    if how.strip:
        return
    _place_by_points(larger, out)
    out.update_tags(**data.tags(), **({"SCALEWISE": how.note} if how.note else {}))
    for place, band in enumerate(bands, 1):
        tags = {name: value for name, value in data.tags(band).items() if not name.startswith("STATISTICS_")}
        out.update_tags(place, **tags)
        if data.descriptions[band - 1]:
            out.set_band_description(place, data.descriptions[band - 1])
        if data.units[band - 1]:
            out.set_band_unit(place, data.units[band - 1])


def _place_by_points(larger: _Larger, out: Any) -> None:
    """Control points and rational polynomials, in pixels of the output."""
    from rasterio.control import GroundControlPoint

    points, crs = larger.data.gcps
    if points:
        at = ((larger.row(p.row), larger.column(p.col), p) for p in points)
        out.gcps = ([GroundControlPoint(y, x, p.x, p.y, p.z, id=p.id, info=p.info) for y, x, p in at], crs)
    polynomials = larger.data.rpcs
    if polynomials is not None:
        rows, columns = larger.factors
        # they count from the centre of the first pixel
        polynomials.line_off = larger.row(polynomials.line_off + 0.5) - 0.5
        polynomials.samp_off = larger.column(polynomials.samp_off + 0.5) - 0.5
        polynomials.line_scale *= rows
        polynomials.samp_scale *= columns
        out.rpcs = polynomials


def _fill(larger: _Larger, out: Any, bands: Sequence[int], canvases: Mapping[int, tuple[np.ndarray, Range]]) -> None:
    """The pixels, some tiles at a time."""
    from rasterio.enums import MaskFlags
    from rasterio.windows import Window

    data, flags = larger.data, larger.data.mask_flag_enums[0]
    masked = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
    height, width = larger.out
    places = [(top, left) for top in range(0, height, BLOCK) for left in range(0, width, _WIDE)]
    for top, left in places:
        bottom, right = min(top + BLOCK, height), min(left + _WIDE, width)
        rows, columns = larger.nearest(0, top, bottom), larger.nearest(1, left, right)
        y, x = int(rows[0]), int(columns[0])
        values, valid = read(data, bands, (y, x, int(rows[-1]) + 1, int(columns[-1]) + 1))
        block, known = (part[:, rows - y][:, :, columns - x] for part in (values, valid))
        for place, band in enumerate(bands):
            if band in canvases:
                canvas, bounds = canvases[band]
                fresh = in_file_values(canvas[top:bottom, left:right], bounds, data.dtypes[0])
                np.copyto(block[place], not_nodata(fresh, data.nodatavals[band - 1]), where=known[place])
        window = Window(left, top, right - left, bottom - top)  # pyright: ignore[reportCallIssue] (attrs)
        out.write(block, window=window)
        if masked:
            out.write_mask(known.all(0), window=window)


def not_nodata(values: np.ndarray, nodata: float | None) -> np.ndarray:
    """Values of valid pixels, moved by the least step where they would mean nodata."""
    if nodata is None or not (hit := values == nodata).any():
        return values
    if values.dtype.kind == "f":
        return np.where(hit, np.nextafter(values, np.inf, dtype=values.dtype), values)
    top = np.iinfo(values.dtype).max
    return np.where(hit, values - 1 if nodata == top else values + 1, values).astype(values.dtype)
