"""Pictures in, pictures out, by libvips: `open` gives a Source to read boxes from, `create` a Sink to write them to.

- read.py: `open`; source.py: boxes of float in [0, 1]; files.py, arrays.py: of files; of numpy, PIL and torch
- write.py: `create`, `save`, `create_pages`; sink.py: boxes → a file or array: range, rounding; pages.py: several pages
- encode.py: which container holds what; stream.py: encoded while rows are still being computed
- alpha.py: colour under transparent pixels
- metadata/: what stays true of a larger picture, and how files hold it
- geotiff/: by rasterio (extra `geo`)

Names load what they need when they are first used: training from a pack runs without libvips.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalewise.images.metadata.metadata import Metadata
    from scalewise.images.pages import Album, create_pages
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
    "create",
    "create_pages",
    "open",
    "save",
]

_HOMES = {"Metadata": "metadata.metadata", "Album": "pages", "create_pages": "pages"}
_HOMES |= dict.fromkeys(["QUALITY", "WRITABLE", "Encoding", "Sink", "create", "save"], "sink")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'scalewise.images' has no attribute {name!r}")
    return getattr(import_module(f"scalewise.images.{_HOMES.get(name, 'source')}"), name)
