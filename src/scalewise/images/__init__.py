"""Pictures in, pictures out, by libvips: `open` gives a Source to read boxes from, `create` a Sink to write them to.

- source.py: a file or array → boxes of float in [0, 1]
- sink.py: boxes → a file or array: range, rounding, encoding
- arrays.py: numpy, PIL and torch, there and back
- metadata.py: profile, EXIF, XMP, resolution
- atomic.py: a file that is whole or not there
"""

from scalewise.images.atomic import atomic_write
from scalewise.images.metadata import Metadata
from scalewise.images.sink import QUALITY, WRITABLE, Sink, create, save
from scalewise.images.source import MAX_PIXELS, READABLE, Box, Source, open

__all__ = [
    "MAX_PIXELS",
    "QUALITY",
    "READABLE",
    "WRITABLE",
    "Box",
    "Metadata",
    "Sink",
    "Source",
    "atomic_write",
    "create",
    "open",
    "save",
]
