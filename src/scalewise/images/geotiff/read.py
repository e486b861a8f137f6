"""GeoTIFF read through rasterio (GDAL; extra `geo`): any number of bands, nodata; `write.py` is the way back.

Bands are read in threes, each three a page of its `Source`: those that are named red, green and blue first, then the
others in their order; of a last pair the second counts twice, a last one alone is gray. Values of 8 bit and fewer are
taken as they are; those of other types from the least to the largest valid one of their band as 0 to 1, and back.
Alpha and palettes are no pictures: they are enlarged by nearest neighbour, and so is the mask of what is valid.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scalewise.errors import MissingDependency, ScalewiseError, UnreadableImage
from scalewise.images.alpha import REACH_PIXELS, bleed
from scalewise.images.decode import check_size, upright
from scalewise.images.extras import read_extras
from scalewise.images.metadata import tiff_pages
from scalewise.images.metadata.exif import TRANSPOSED
from scalewise.images.metadata.ifd import DamagedDirectory, Ifd, Layout, directory, header
from scalewise.images.metadata.metadata import Metadata
from scalewise.images.metadata.tiff_pages import TiffPages, numbers
from scalewise.images.source import LEVELS, Box, Source

Size = tuple[int, int]
Range = tuple[float, float]

DTYPES = ("uint8", "int8", "uint16", "int16", "float32")
BLOCK_SIDE = 256  # rows and columns of a tile of the output, and rows at once
_LOCATED = {33550, 33922, 34264, 34735, 50844}  # scale, tie points, transformation, keys, rational polynomials
_NODATA, _SAMPLES, _PHOTOMETRIC, _SAMPLE_FORMAT = 42113, 277, 262, 339
_INKS, _SIGNED = 5, 2
_LAB = (8, 9, 10)  # CIE, ICC, ITU
_MOST_SIDECAR_BYTES = 2**20


@dataclass(frozen=True)
class Group:
    """Bands (from 1) that are enlarged as one picture, and the values of each that are taken as 0 and 1."""

    bands: tuple[int, ...]
    ranges: tuple[Range, ...] = ()
    origin: Size = (0, 0)  # the first pixel of a crop
    orientation: int = 1  # the file's, if the picture was turned upright: one that lies on earth is not
    count: int = 0  # bands in the file
    located: bool = True  # on earth

    def cropped(self, top: int, left: int) -> Group:
        return replace(self, origin=(self.origin[0] + top, self.origin[1] + left))

    @property
    def channels(self) -> tuple[int, ...]:
        """The bands of the picture's channels: one, or three."""
        return self.bands if len(self.bands) == 1 else (*self.bands, self.bands[-1])[:3]

    @property
    def lost(self) -> tuple[str, ...]:
        """What a format that holds one picture alone has no place for."""
        bands = (f"all bands but {self} have",) if self.count > len(self.bands) else ()
        return (("the georeference has",) if self.located else ()) + bands

    def __str__(self) -> str:
        return ", ".join(map(str, self.bands))


def wanted(path: Path, survey: TiffPages | None) -> bool:
    """True for a TIFF that is to be read here: with a georeference in it or in a file next to it, nodata, more than 4
    bands, signed integers, or samples beyond its colours that are not opacity.

    Raises MissingDependency for one with a georeference or such samples where rasterio is missing: they would be lost.
    """
    try:
        tags, layout = _tags(path)
    except (DamagedDirectory, OSError):
        return False  # libvips says what is wrong
    if survey is None:
        return False

    def number(tag: int) -> int:
        return numbers(tags, layout, tag, (0,))[0]

    beside = sidecars(path)
    located = bool(_LOCATED & tags.keys()) or any(map(_locates, beside))
    many = number(_SAMPLES) > 4 and number(_PHOTOMETRIC) != _INKS
    data = many or (number(_SAMPLES) in (2, 4) and number(_PHOTOMETRIC) < 3 and survey.unspecified(0))
    signed = number(_SAMPLE_FORMAT) == _SIGNED and number(_PHOTOMETRIC) not in _LAB  # a* and b* have a sign
    if not (located or data or beside or _NODATA in tags or signed):
        return False
    if find_spec("rasterio") is not None:
        return True
    if located:
        what = "is a GeoTIFF, whose georeference would be lost"
    elif data:
        what = "has samples beyond its colours, which would be lost"
    else:
        return False
    raise MissingDependency(f"{str(path)!r} {what}: pip install 'scalewise[geo]'")


def decodes(path: Path) -> bool:
    """True if GDAL is there and reads the pixels of a TIFF: it knows compressions that libvips may not."""
    try:
        with reading(path) as data:
            data.read(1, window=((0, 1), (0, 1)))
    except (ImportError, ScalewiseError, RuntimeError, ValueError):
        return False
    return True


def sidecars(path: Path) -> list[Path]:
    """Files next to a TIFF that say where it lies, or more of it."""
    names = [path.with_name(f"{path.name}.aux.xml")]
    names += [path.with_suffix(suffix) for suffix in (".tfw", ".TFW", ".tifw", ".wld", ".RPB", ".rpb")]
    names += [path.with_name(path.stem + end) for end in ("_RPC.TXT", "_rpc.txt")]  # rational polynomials
    found = []
    for name in names:
        with suppress(OSError):
            found += [name] if name.is_file() else []
    return found


def _locates(sidecar: Path) -> bool:
    """True for a world file, and for one of GDAL's that holds a georeference."""
    if sidecar.suffix.lower() != ".xml":
        return True
    with suppress(OSError), sidecar.open("rb") as file:
        text = file.read(_MOST_SIDECAR_BYTES)
        return any(word in text for word in (b"<SRS", b"<GeoTransform", b"<GCPList"))
    return False


def open_file(path: Path, max_pixels: int, page: int | None = None) -> Source:
    """A three of bands as a `Source`, read as float in [0, 1] without nodata. Raises UnreadableImage."""
    name, page = repr(str(path)), page or 0
    extras = read_extras(path, name, "tiff")
    survey = tiff_pages.survey(path, name)
    assert survey is not None, "wanted has read it"
    if survey.number(0, _PHOTOMETRIC, 1) in _LAB:
        raise UnreadableImage(f"{name} has L*a*b* pixels and a georeference, which are not read: convert it to RGB")
    with reading(path) as data:
        stored, dtype = (data.height, data.width), data.dtypes[0]
        check_size(name, stored, max_pixels)
        if dtype not in DTYPES:
            raise UnreadableImage(f"{name} has bands of type {dtype}; allowed are {', '.join(DTYPES)}: convert it")
        groups = grouped(roles(data, survey.number(0, _PHOTOMETRIC, 1)))
        if not groups:
            raise UnreadableImage(f"{name} has a palette, whose classes cannot be mixed: gdal_translate -expand rgb")
        if page >= len(groups):
            raise UnreadableImage(f"{name} has bands for {len(groups)} pictures; page {page}, from 0, is not there")
        bands, bits = groups[page], bits_of(data)
        plain = dtype == "uint8" and bits == 8
        if dtype == "uint8":
            ranges = [(0.0, float(2**bits - 1))] * len(bands)
        else:
            ranges = [_range(data, band) for band in bands]
        if survey.number(0, _PHOTOMETRIC, 1) == tiff_pages.MIN_IS_WHITE:
            ranges = [(high, low) for low, high in ranges]
        located = not data.transform.is_identity or bool(data.gcps[0]) or data.rpcs is not None
        orientation = 1 if located else extras.tiff.orientation
        group = Group(bands, tuple(ranges), orientation=orientation, count=data.count, located=located)
        notes = list(extras.notes)
        if dtype != "uint8":
            notes.append(f"{dtype}: the values of each band, least to greatest, taken as 0 to 1, and back")
        if len(groups) > 1:
            notes.append(f"{data.count} bands, enlarged in {len(groups)} pictures: those beyond colours are data")
        if data.subdatasets:
            notes.append(f"the first of {len(data.subdatasets)} pictures in the file")
        elif len(survey.pictures) > 1:
            notes.append(f"the first of {len(survey.pictures)} pictures in the file")
        size = stored[::-1] if orientation in TRANSPOSED else stored
    bounds = dict(zip(bands, group.ranges, strict=True))

    def fetch(box: Box) -> np.ndarray:
        y0, x0, y1, x1 = box
        top, left = max(0, y0 - REACH_PIXELS), max(0, x0 - REACH_PIXELS)
        wide = (top, left, min(size[0], y1 + REACH_PIXELS), min(size[1], x1 + REACH_PIXELS))
        with reading(path) as data:
            raw, valid = read(data, group.bands, wide, orientation)
        planes = {}
        for band, values, known in zip(group.bands, raw, valid, strict=True):
            low, high = bounds[band]
            plane = torch.from_numpy(np.where(known, (values.astype(np.float64) - low) / (high - low), 0.5)).float()
            planes[band] = bleed(plane[None], torch.from_numpy(known)[None])[0]
        pixels = torch.stack([planes[band] for band in group.channels], -1)
        pixels = pixels[y0 - top : y1 - top, x0 - left : x1 - left]
        return (pixels * 255).round().to(torch.uint8).numpy() if plain else pixels.numpy()

    extras.survey = survey
    metadata = extras.add_to(Metadata(icc=extras.tiff.icc, orientation=orientation))
    depth = "uint8" if plain else "float32"
    return Source(
        size=size,
        kind="gray" if len(group.channels) == 1 else "rgb",
        alpha=False,
        dtype=depth,
        origin="path",
        metadata=upright(metadata, size),
        path=path,
        format="tiff",
        pages=len(groups),
        page=page,
        levels=LEVELS[depth],
        tiled=True,
        bands=group,
        notes=tuple(notes),
        fetch=fetch,
        restore=partial(_restored, [bounds[band] for band in group.bands], dtype),
        turn=lambda number: open_file(path, max_pixels, number),
    )


def _restored(bounds: Sequence[Range], dtype: str, canvas: np.ndarray) -> np.ndarray:
    """A canvas in the values of the file, as numpy."""
    planes = [in_file_values(canvas[..., c], between, dtype) for c, between in enumerate(bounds)]
    return planes[0] if len(planes) == 1 else np.stack(planes, -1)


def grouped(roles: Sequence[str]) -> list[tuple[int, ...]]:
    """Bands (from 1) in threes, from the colour interpretation of each; alpha and palettes left out."""
    pictures = [band for band, role in enumerate(roles, 1) if role not in ("alpha", "palette")]
    colours = [roles.index(role) + 1 for role in ("red", "green", "blue") if role in roles]
    first = colours if len(colours) == 3 else []
    rest = [band for band in pictures if band not in first]
    return [tuple(three) for three in ([first] if first else []) + [rest[i : i + 3] for i in range(0, len(rest), 3)]]


def in_file_values(pixels: np.ndarray, bounds: Range, dtype: str) -> np.ndarray:
    """From the levels of a canvas to the values of the file: rounded for integers, within the bounds.

    The first bound is black: where it is the greater one, the least value is white.
    """
    black, white = bounds
    if pixels.dtype == np.uint8:
        return 255 - pixels if black > white else pixels
    values = pixels.astype(np.float64) * (white - black) + black
    return np.clip(values if dtype == "float32" else values.round(), min(bounds), max(bounds)).astype(dtype)


def roles(data: Any, photometric: int) -> list[str]:
    """The colour interpretation of each band; GDAL gives a palette to gray of which white is 0, or that has one bit."""
    names = [one.name for one in data.colorinterp]
    if names[0] == "palette" and photometric in (0, 1):
        colours = data.colormap(1).values()
        gray = all(red == green == blue for red, green, blue, _ in colours)
        return ["gray" if gray else "palette", *names[1:]]
    return names


def bits_of(data: Any) -> int:
    """Bits of a sample, where GDAL says that a type of more bits holds fewer; else those of the type."""
    said = data.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "")
    return int(said) if said.isascii() and said.isdigit() else 8 * np.dtype(data.dtypes[0]).itemsize


def read(data: Any, bands: Sequence[int], box: Box, orientation: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Values (bands, h, w) of a box of the upright picture, and which are valid: not nodata, not masked, finite."""
    from rasterio.windows import Window

    y0, x0, y1, x1 = box
    transposed, flip_y, flip_x = orientation in TRANSPOSED, orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    height, width = (data.width, data.height) if transposed else (data.height, data.width)
    if flip_y:
        y0, y1 = height - y1, height - y0
    if flip_x:
        x0, x1 = width - x1, width - x0
    if transposed:
        y0, x0, y1, x1 = x0, y0, x1, y1
    window = Window(x0, y0, x1 - x0, y1 - y0)  # pyright: ignore[reportCallIssue] (attrs)
    values = data.read(list(bands), window=window)
    valid = (data.read_masks(list(bands), window=window) > 0) & np.isfinite(values)

    def turned(planes: np.ndarray) -> np.ndarray:
        planes = planes.transpose(0, 2, 1) if transposed else planes
        return planes[:, :: -1 if flip_y else 1, :: -1 if flip_x else 1]

    return np.ascontiguousarray(turned(values)), np.ascontiguousarray(turned(valid))


def _range(data: Any, band: int) -> Range:
    """The least and the largest valid value of a band."""
    low, high = np.inf, -np.inf
    for top in range(0, data.height, BLOCK_SIDE):
        values, valid = read(data, [band], (top, 0, min(top + BLOCK_SIDE, data.height), data.width))
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
    except (RasterioError, UnicodeError) as error:
        raise UnreadableImage(f"{str(path)!r} is damaged or no GeoTIFF: {' '.join(str(error).split())}") from error
    try:
        yield data
    except RasterioError as error:
        raise UnreadableImage(f"{str(path)!r} is truncated or damaged: {' '.join(str(error).split())}") from error
    finally:
        data.close()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warning that a file has no georeference."""
    from rasterio.errors import NotGeoreferencedWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _tags(path: Path) -> tuple[Ifd, Layout]:
    """The first directory of a TIFF. Raises DamagedDirectory, OSError."""
    with tiff_pages.reading(path) as (read_at, _):
        layout, offset = header(read_at)
        return directory(read_at, layout, offset)[0], layout
