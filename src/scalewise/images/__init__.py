"""Pictures in, pictures out, by libvips: `open` gives a Source to read boxes from, `create` a Sink to write them to.

- source.py: a file or array → boxes of float in [0, 1]; files.py, arrays.py: of files; of numpy, PIL and torch
- sink.py: boxes → a file or array: range, rounding; encode.py: which container holds what; album.py: several pages
- metadata.py: what stays true of a larger picture; exif.py, xmp.py: the fields; ifd.py: directories of tags
- containers.py, tiff.py: metadata and pages put into files as they are
- geo.py, geo_write.py: GeoTIFF, by rasterio (extra `geo`)
- bleed.py: colour under transparent pixels
- atomic.py: a file that is whole or not there

Names load what they need when they are first used: training from a pack writes files atomically without libvips.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalewise.images.album import Album, create_pages
    from scalewise.images.atomic import atomic_write
    from scalewise.images.metadata import Metadata
    from scalewise.images.sink import QUALITY, WRITABLE, Encoding, Sink, create, save
    from scalewise.images.source import MAX_PIXELS, READABLE, Box, Source, open

__all__ = [
    "MAX_PIXELS",
    "QUALITY",
    "READABLE",
    "WRITABLE",
    "Album",
    "Box",
    "Encoding",
    "Metadata",
    "Sink",
    "Source",
    "atomic_write",
    "create",
    "create_pages",
    "open",
    "save",
]

_HOMES = {"atomic_write": "atomic", "Metadata": "metadata", "Album": "album", "create_pages": "album"}
_HOMES |= dict.fromkeys(["QUALITY", "WRITABLE", "Encoding", "Sink", "create", "save"], "sink")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'scalewise.images' has no attribute {name!r}")
    return getattr(import_module(f"scalewise.images.{_HOMES.get(name, 'source')}"), name)
