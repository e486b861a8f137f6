"""Pictures in, pictures out, by libvips: `open` gives a Source to read boxes from, `create` a Sink to write them to.

- read.py: `open`; source.py: boxes of float in [0, 1]; arrays.py: of numpy, PIL and torch
- files.py: which loader, limits, pages; decode.py: upright, gray or RGB, range; extras.py: what libvips omits
- held.py: bytes and open files
- write.py: `create`, `save`, `create_pages`, `to_bytes`
- sink.py: boxes → a file or array: range, rounding; pages.py: several pages
- encode.py: which container holds what; stream.py: encoded while rows are still being computed
- alpha.py: opacity weighs colour
- metadata/: what stays true of a larger picture, and how files hold it
- geotiff/: by rasterio (extra `geo`)

Names load what they need when they are first used: training from a pack runs without libvips.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalewise.images.encode import FORMATS, QUALITY, WRITABLE, Encoding, check_format, extension_of
    from scalewise.images.files import container
    from scalewise.images.metadata.metadata import Dpi, Metadata
    from scalewise.images.pages import PageWriter
    from scalewise.images.read import open
    from scalewise.images.sink import Sink
    from scalewise.images.source import MAX_PIXELS, READABLE, Box, Source
    from scalewise.images.write import create, create_pages, save, thumbnail, to_bytes, to_pil

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "QUALITY",
    "READABLE",
    "WRITABLE",
    "Box",
    "Dpi",
    "Encoding",
    "Metadata",
    "PageWriter",
    "Sink",
    "Source",
    "check_format",
    "container",
    "create",
    "create_pages",
    "extension_of",
    "open",
    "save",
    "thumbnail",
    "to_bytes",
    "to_pil",
]

_HOMES = {"PageWriter": "pages", "Sink": "sink", "container": "files", "open": "read"}
_HOMES |= dict.fromkeys(["Dpi", "Metadata"], "metadata.metadata")
_HOMES |= dict.fromkeys(["FORMATS", "QUALITY", "WRITABLE", "Encoding", "check_format", "extension_of"], "encode")
_HOMES |= dict.fromkeys(["create", "create_pages", "save", "thumbnail", "to_bytes", "to_pil"], "write")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'scalewise.images' has no attribute {name!r}")
    return getattr(import_module(f"scalewise.images.{_HOMES.get(name, 'source')}"), name)
