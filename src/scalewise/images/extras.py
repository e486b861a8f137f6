"""What a file holds beyond what libvips reports of it, read from its own structure, format by format."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from scalewise.errors import UnreadableImage
from scalewise.images.metadata import colour, gif, jpeg, png, tiff
from scalewise.images.metadata.exif import DamagedDirectory, parse
from scalewise.images.metadata.gif import GifFrames
from scalewise.images.metadata.ifd import integers
from scalewise.images.metadata.metadata import Metadata, exif_dpi, has_paths
from scalewise.images.metadata.tiff import TiffExtras
from scalewise.images.metadata.tiff_pages import TiffPages

NO_TIFF = TiffExtras()  # for files of other formats
_HEAD_BYTES = 2**16  # at the start of a HEIF file, where its boxes of metadata lie
_WORLD_FILES = {"png": (".pgw", ".wld"), "jpeg": (".jgw", ".wld")}  # a TIFF's are read with it
# What a HEIF file holds next to the picture and a larger one has no place for, by the words that name it.
_HEIF_AUXILIARY = ((b"hdrgainmap", "gain map of an HDR picture"), (b"tmap", "gain map of an HDR picture"))


@dataclass
class Extras:
    """The parts of one file; `notes` says what of it is left out in any output."""

    tiff: TiffExtras = NO_TIFF
    png: Metadata | None = None  # what the chunks of a PNG say
    profiled: bool = False  # a PNG has a colour profile, though it may be damaged
    gif: GifFrames | None = None
    jpeg: jpeg.JpegExtras | None = None
    colours: bytes | None = None  # those of a HEIF file, as an ICC profile
    survey: TiffPages | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def short(self) -> bool:
        return self.tiff.short or (self.jpeg is not None and self.jpeg.short)

    def orientation(self, otherwise: int) -> int:
        """The EXIF orientation, even where libvips does not see it."""
        blob = self.png.exif if self.png is not None else None
        if otherwise != 1 or blob is None:
            return otherwise
        try:
            exif = parse(blob)
        except DamagedDirectory:
            return otherwise
        found = integers(exif.main[0x0112], exif.layout) if 0x0112 in exif.main else ()
        return found[0] if found and 1 <= found[0] <= 8 else otherwise

    def add_to(self, metadata: Metadata) -> Metadata:
        """`metadata` as libvips reports them, with what this knows better."""
        if self.survey is not None:
            exif, iptc, xmp = self.tiff.exif, self.tiff.iptc, metadata.xmp or self.tiff.xmp
            return replace(metadata, exif=exif, iptc=iptc, xmp=xmp, dpi=self.tiff.dpi, density=self.tiff.density)
        if self.png is not None:
            chunks = self.png
            return replace(
                chunks,
                icc=metadata.icc or chunks.icc,
                exif=metadata.exif or chunks.exif,
                xmp=metadata.xmp or chunks.xmp,
                iptc=metadata.iptc or chunks.iptc,
                orientation=metadata.orientation,
            )
        if self.jpeg is not None:
            dpi = (exif_dpi(metadata.exif) if metadata.exif else None) or self.jpeg.dpi
            density = self.jpeg.density if dpi is None else None
            return replace(metadata, comments=tuple(self.jpeg.comments), dpi=dpi, density=density)
        if self.gif is not None:
            return replace(metadata, comments=tuple(self.gif.comments))
        if self.colours is not None and metadata.icc is None:
            return replace(metadata, colours=self.colours)
        return metadata


def read_extras(path: Path, name: str, format: str, directory: int = 0) -> Extras:
    """The extras of a file; `directory`: which one of a TIFF. Raises UnreadableImage."""
    found = Extras()
    try:
        if format == "tiff":
            found.tiff = tiff.read_extras(path, directory)
            if found.tiff.short:
                raise UnreadableImage(f"{name} is truncated or damaged: it is too short for the pixels it promises")
            if found.tiff.layers:
                found.notes.append("Photoshop's layers were left out: the picture is what they make together")
            if found.tiff.photoshop is not None and has_paths(found.tiff.photoshop):
                found.notes.append("Photoshop's paths were left out")
        elif format == "png":
            found.png, seen = png.read_metadata(path)
            found.profiled = png.PROFILE in seen
            if png.ANIMATION in seen:
                found.notes.append("the first picture of an animated PNG")
        elif format == "jpeg":
            found.jpeg = jpeg.read_extras(path)
            found.notes += found.jpeg.notes
        elif format == "gif":
            found.gif = gif.read_frames(path)
        elif format == "heif":
            _look_into_heif(path, found)
        for suffix in _WORLD_FILES.get(format, ()):
            if path.with_suffix(suffix).is_file():
                found.notes.append(f"the georeference next to it ({suffix}) is of the old pixels and was not carried")
    except (OSError, OverflowError) as error:
        raise UnreadableImage(f"cannot read {name}: {error}") from error
    return found


def _look_into_heif(path: Path, found: Extras) -> None:
    """Colours by code points (`nclx`), and what lies next to the picture."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    at = head.find(b"colrnclx")
    if at >= 0 and len(head) >= at + 12:
        primaries, transfer = int.from_bytes(head[at + 8 : at + 10]), int.from_bytes(head[at + 10 : at + 12])
        found.colours, hdr = colour.of_code_points(primaries, transfer)
        if hdr:
            found.notes.append(colour.HDR_LEFT_OUT)
    found.notes += dict.fromkeys(f"the {what} was left out" for word, what in _HEIF_AUXILIARY if word in head)
