"""GeoTIFF read through rasterio (GDAL; extra `geo`): any number of bands, nodata; `write.py` is the way back.

Bands are read in threes, each three a page of its `Source`: what says that it is red, green and blue first, then the
others as they lie; of a last pair the second counts twice, a last one alone is gray. Values of 8 bit are taken as they
are; those of other types from the least to the largest valid one of their band as 0 to 1, and back. Alpha and palettes
are no pictures: they are enlarged by nearest neighbour, and so is the mask of what is valid.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scalewise.errors import MissingDependency, UnreadableImage
from scalewise.images.alpha import REACH, bleed
from scalewise.images.metadata.ifd import DamagedDirectory, Ifd, Layout, directory, header, integers
from scalewise.images.metadata.metadata import Metadata
from scalewise.images.source import LEVELS, Box, Source

Size = tuple[int, int]
Range = tuple[float, float]

DTYPES = ("uint8", "int8", "uint16", "int16", "float32")
BLOCK = 256  # rows and columns of a tile of the output, and rows at once
_LOCATED = {33550, 33922, 34264, 34735, 50844}  # scale, tie points, transformation, keys, rational polynomials
_NODATA, _SAMPLES, _PHOTOMETRIC, _SAMPLE_FORMAT = 42113, 277, 262, 339
_INKS, _SIGNED = 5, 2
_LAB = (8, 9, 10)  # CIE, ICC, ITU


@dataclass(frozen=True)
class Group:
    """Bands (from 1) that are enlarged as one picture, and the values of each that are taken as 0 and 1."""

    bands: tuple[int, ...]
    ranges: tuple[Range, ...] = ()
    origin: Size = (0, 0)  # of a crop, its first pixel

    def cropped(self, top: int, left: int) -> Group:
        return replace(self, origin=(self.origin[0] + top, self.origin[1] + left))

    @property
    def channels(self) -> tuple[int, ...]:
        """The bands of the picture's channels: one, or three."""
        return self.bands if len(self.bands) == 1 else (*self.bands, self.bands[-1])[:3]

    def __str__(self) -> str:
        return ", ".join(map(str, self.bands))


def wanted(path: Path) -> bool:
    """True for a TIFF that is to be read here: with a georeference, nodata, more than 4 bands or signed integers.

    Raises MissingDependency for one with a georeference where rasterio is missing: it would be lost.
    """
    try:
        tags, layout = _tags(path)
    except (DamagedDirectory, OSError):
        return False  # libvips says what is wrong

    def number(tag: int) -> int:
        return (*integers(tags[tag], layout), 0)[0] if tag in tags else 0

    located = bool(_LOCATED & tags.keys())
    many = number(_SAMPLES) > 4 and number(_PHOTOMETRIC) != _INKS
    signed = number(_SAMPLE_FORMAT) == _SIGNED and number(_PHOTOMETRIC) not in _LAB  # a* and b* have a sign
    if not (located or many or _NODATA in tags or signed):
        return False
    if find_spec("rasterio") is not None:
        return True
    if located:
        raise MissingDependency(
            f"{str(path)!r} is a GeoTIFF, whose georeference would be lost: pip install 'scalewise[geo]'"
        )
    return False


def open_file(path: Path, max_pixels: int, page: int | None = None) -> Source:
    """A three of bands as a `Source`, read as float in [0, 1] without nodata. Raises UnreadableImage."""
    name, page = repr(str(path)), page or 0
    with reading(path) as data:
        size, dtype = (data.height, data.width), data.dtypes[0]
        if size[0] * size[1] > max_pixels:
            raise UnreadableImage(
                f"{name} has {size[1]}x{size[0]} pixels; at most {max_pixels} are read unless max_pixels is raised"
            )
        if dtype not in DTYPES:
            raise UnreadableImage(f"{name} has bands of type {dtype}; allowed are {', '.join(DTYPES)}: convert it")
        groups = grouped([one.name for one in data.colorinterp])
        if not groups:
            raise UnreadableImage(f"{name} has a palette, whose classes cannot be mixed: gdal_translate -expand rgb")
        if page >= len(groups):
            raise UnreadableImage(f"{name} has bands for {len(groups)} pictures; page {page}, from 0, is not there")
        bands = groups[page]
        plain = dtype == "uint8"
        group = Group(bands, tuple((0.0, 255.0) if plain else _range(data, band) for band in bands))
        notes = [] if plain else [f"{dtype}: the values of each band, least to greatest, taken as 0 to 1, and back"]
        if data.subdatasets:
            notes.append(f"the first of {len(data.subdatasets)} pictures in the file")
    bounds = {band: bound for band, bound in zip(bands, group.ranges, strict=True)}

    def fetch(box: Box) -> np.ndarray:
        y0, x0, y1, x1 = box
        top, left = max(0, y0 - REACH), max(0, x0 - REACH)
        wide = (top, left, min(size[0], y1 + REACH), min(size[1], x1 + REACH))
        with reading(path) as data:
            raw, valid = read(data, group.bands, wide)
        planes = {}
        for band, values, known in zip(group.bands, raw, valid, strict=True):
            low, high = bounds[band]
            plane = torch.from_numpy(np.where(known, (values.astype(np.float64) - low) / (high - low), 0.5)).float()
            planes[band] = bleed(plane[None], torch.from_numpy(known)[None])[0]
        pixels = torch.stack([planes[band] for band in group.channels], -1)
        pixels = pixels[y0 - top : y1 - top, x0 - left : x1 - left]
        return (pixels * 255).round().to(torch.uint8).numpy() if plain else pixels.numpy()

    def restore(canvas: np.ndarray) -> np.ndarray:
        planes = [in_file_values(canvas[..., c], bounds[band], dtype) for c, band in enumerate(group.bands)]
        return planes[0] if len(planes) == 1 else np.stack(planes, -1)

    depth = "uint8" if plain else "float32"
    return Source(
        size=size,
        kind="gray" if len(group.channels) == 1 else "rgb",
        alpha=False,
        dtype=depth,
        origin="path",
        metadata=Metadata(),
        path=path,
        format="tiff",
        pages=len(groups),
        page=page,
        levels=LEVELS[depth],
        tiled=True,
        bands=group,
        notes=tuple(notes),
        fetch=fetch,
        restore=restore,
        turn=lambda number: open_file(path, max_pixels, number),
    )


def grouped(roles: Sequence[str]) -> list[tuple[int, ...]]:
    """Bands (from 1) in threes, from the colour interpretation of each; alpha and palettes left out."""
    pictures = [band for band, role in enumerate(roles, 1) if role not in ("alpha", "palette")]
    colours = [roles.index(role) + 1 for role in ("red", "green", "blue") if role in roles]
    first = colours if len(colours) == 3 else []
    rest = [band for band in pictures if band not in first]
    return [tuple(three) for three in ([first] if first else []) + [rest[i : i + 3] for i in range(0, len(rest), 3)]]


def in_file_values(pixels: np.ndarray, bounds: Range, dtype: str) -> np.ndarray:
    """From the levels of a canvas to the values of the file: rounded for integers, within the bounds."""
    if pixels.dtype == np.uint8:
        return pixels
    low, high = bounds
    values = pixels.astype(np.float64) * (high - low) + low
    return np.clip(values if dtype == "float32" else values.round(), low, high).astype(dtype)


def read(data: Any, bands: Sequence[int], box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Values (bands, h, w) of a box, and which of them are valid: not nodata, not masked, finite."""
    from rasterio.windows import Window

    y0, x0, y1, x1 = box
    window = Window(x0, y0, x1 - x0, y1 - y0)  # pyright: ignore[reportCallIssue] (attrs)
    values = data.read(list(bands), window=window)
    return values, (data.read_masks(list(bands), window=window) > 0) & np.isfinite(values)


def _range(data: Any, band: int) -> Range:
    """The least and the largest valid value of a band."""
    low, high = np.inf, -np.inf
    for top in range(0, data.height, BLOCK):
        values, valid = read(data, [band], (top, 0, min(top + BLOCK, data.height), data.width))
        if valid.any():
            low, high = min(low, float(values[valid].min())), max(high, float(values[valid].max()))
    if low > high:  # nothing is valid
        return 0.0, 1.0
    return low, high if high > low else low + 1


@contextmanager
def reading(path: Path) -> Iterator[Any]:
    """The file, opened for this call alone: GDAL's handles belong to one thread. Raises UnreadableImage."""
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with quiet():
            data = rasterio.open(os.fspath(path.absolute()), driver="GTiff")
    except RasterioError as error:
        raise UnreadableImage(f"{str(path)!r} is damaged or no GeoTIFF: {' '.join(str(error).split())}") from error
    try:
        yield data
    except RasterioError as error:
        raise UnreadableImage(f"{str(path)!r} is truncated or damaged: {' '.join(str(error).split())}") from error
    finally:
        data.close()


@contextmanager
def quiet() -> Iterator[None]:
    """A file without a georeference is none of our worries."""
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _tags(path: Path) -> tuple[Ifd, Layout]:
    """The first directory of a TIFF. Raises DamagedDirectory, OSError."""
    with path.open("rb") as file:

        def read_at(offset: int, count: int) -> bytes:
            if offset > end:  # a seek beyond what the system can count would raise
                return b""
            file.seek(offset)
            return file.read(min(count, end - offset))

        end = file.seek(0, os.SEEK_END)
        layout, offset = header(read_at)
        return directory(read_at, layout, offset)[0], layout
