"""Pictures of every container, written and read by other programs than ours: Pillow, tifffile, pypng, OpenCV."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import png
import tifffile
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from scalewise import images
from scalewise.images.metadata.metadata import photoshop_block
from scalewise.images.metadata.tiff import TiffWriter

HEIGHT, WIDTH = 12, 10
XMP = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
    ' xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    ' xmlns:GPano="http://ns.google.com/photos/1.0/panorama/" tiff:ImageWidth="10" tiff:Orientation="6"'
    ' GPano:FullPanoWidthPixels="10" GPano:ProjectionType="equirectangular">'
    "<GPano:CroppedAreaLeftPixels>3</GPano:CroppedAreaLeftPixels><dc:creator>Ümit</dc:creator>"
    '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
).encode()
IPTC = b"\x1c\x02\x05\x00\x05hello"


def picture(channels: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    """Smooth colours that use the whole range, with alpha that is never 0: (h, w, c)."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    waves = [np.sin((k + 1) * (y / HEIGHT + seed) + k * x / WIDTH) ** 2 for k in range(channels)]
    values = np.stack(waves, -1)
    if channels in (2, 4):
        values[..., -1] = 0.2 + 0.8 * values[..., -1]
    if dtype == "float32":
        return values.astype(np.float32)
    return np.round(values * np.iinfo(dtype).max).astype(dtype)


@functools.cache  # it bears the time
def profile(space: Literal["LAB", "XYZ", "sRGB"] = "sRGB") -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()


def gray_profile() -> bytes:
    """A profile whose header says GRAY: byte for byte is all that is asked of it."""
    blob = bytearray(profile())
    blob[16:20] = b"GRAY"
    return bytes(blob)


def exif(orientation: int = 1) -> Image.Exif:
    tags = Image.Exif()
    tags[0x010F], tags[0x0132], tags[0x0112] = "Maker", "2020:01:02 03:04:05", orientation
    camera = tags.get_ifd(0x8769)
    camera[0x829A], camera[0x927C], camera[0xA002], camera[0xA003] = 0.01, b"private\0notes\1\2\3", WIDTH, HEIGHT
    tags.get_ifd(0x8825)[0x0001] = "N"
    return tags


def with_metadata(path: Path, orientation: int = 1, channels: int = 3) -> Path:
    image = Image.fromarray(picture(3) if channels == 3 else picture(1)[..., 0])
    options: dict[str, Any] = {"icc_profile": profile() if channels == 3 else gray_profile(), "exif": exif(orientation)}
    if path.suffix == ".jpg":
        options |= {"dpi": (300, 300), "xmp": XMP, "quality": 100}
    elif path.suffix == ".webp":
        options |= {"xmp": XMP, "lossless": True}
    elif path.suffix == ".png":
        texts = PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", XMP.decode())
        texts.add_text("Title", "A tree")
        texts.add_itxt("Titel", "Bäume")
        options |= {"dpi": (300, 300), "pnginfo": texts}
    elif path.suffix == ".tif":
        options |= {"dpi": (300, 300)}
    image.save(path, **options)
    if path.suffix == ".jpg":
        content, block = path.read_bytes(), photoshop_block(IPTC)
        path.write_bytes(content[:2] + b"\xff\xed" + (len(block) + 2).to_bytes(2) + block + content[2:])
    if path.suffix == ".tif":  # no other program here writes directories of EXIF into one; what is in is checked
        plain = io.BytesIO(path.read_bytes())
        with path.open("w+b") as file:
            metadata = images.Metadata(exif=options["exif"].tobytes(), xmp=XMP, iptc=IPTC, dpi=(300.0, 300.0))
            TiffWriter(file).append(plain, metadata)
        with Image.open(path) as written:
            assert written.getexif().get_ifd(0x8769)[0xA002] == WIDTH
    return path


# Writers: array (h, w, c) → file.


def by_pypng(path: Path, array: np.ndarray) -> None:
    height, width, channels = array.shape
    writer = png.Writer(
        width, height, greyscale=channels < 3, alpha=channels in (2, 4), bitdepth=array.dtype.itemsize * 8
    )
    with path.open("wb") as file:
        writer.write(file, array.reshape(height, -1).tolist())


def by_pillow(mode: str | None = None, **options: Any) -> Callable[[Path, np.ndarray], None]:
    def write(path: Path, array: np.ndarray) -> None:
        image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
        if mode is not None:
            image = image.convert(mode)
        image.save(path, **options)

    return write


def by_tifffile(**options: Any) -> Callable[[Path, np.ndarray], None]:
    def write(path: Path, array: np.ndarray) -> None:
        channels = array.shape[2]
        kind: dict[str, Any] = {"photometric": "rgb" if channels > 2 else "minisblack"}
        if channels in (2, 4):
            kind["extrasamples"] = ["unassalpha"]
        if options.get("planarconfig") == "separate":
            array = array.transpose(2, 0, 1)
        tifffile.imwrite(path, array[..., 0] if channels == 1 else array, **(kind | options), metadata=None)

    return write


def by_opencv(path: Path, array: np.ndarray) -> None:
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[array.shape[2]]
    assert cv2.imwrite(str(path), np.ascontiguousarray(array[..., order]))


# Readers: file → arrays of its pages (h, w, c).


def with_pypng(path: Path) -> list[np.ndarray]:
    width, height, rows, info = png.Reader(filename=str(path)).asDirect()
    dtype = np.uint16 if info["bitdepth"] == 16 else np.uint8
    return [np.vstack([np.asarray(row, dtype) for row in rows]).reshape(height, width, info["planes"])]


def with_tifffile(path: Path) -> list[np.ndarray]:
    with tifffile.TiffFile(path) as file:
        pages = [page.asarray() for page in file.pages]
    return [page[..., None] if page.ndim == 2 else page for page in pages]


def with_opencv(path: Path) -> list[np.ndarray]:
    array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert array is not None
    array = array[..., None] if array.ndim == 2 else array
    return [array[..., {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[array.shape[2]]]]


def with_pillow(path: Path) -> list[np.ndarray]:
    pages = []
    with Image.open(path) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            image.load()
            page = image.convert("RGBA" if image.has_transparency_data else "RGB") if image.mode == "P" else image
            array = np.asarray(page)
            pages.append(array[..., None] if array.ndim == 2 else array)
    return pages


@dataclass(frozen=True)
class Case:
    """What goes in, what is read back, how far it may be off in mean absolute error (0 to 1)."""

    name: str
    suffix: str
    write: Callable[[Path, np.ndarray], None]
    pages: list[np.ndarray]
    out: str
    read: Callable[[Path], list[np.ndarray]]
    error: float = 0.0
    channels: int | None = None  # read back, if not those that went in
    dtype: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    says: str = ""


def many(write: Callable[[Path, list[np.ndarray]], None]) -> Callable[[Path, Any], None]:
    return write


def tiff_pages(path: Path, arrays: list[np.ndarray]) -> None:
    with tifffile.TiffWriter(path) as file:
        for array in arrays:
            page = array[..., 0] if array.shape[2] == 1 else array
            file.write(page, photometric="rgb" if array.shape[2] > 2 else "minisblack", metadata=None)


def frames(format: str, **options: Any) -> Callable[[Path, list[np.ndarray]], None]:
    def write(path: Path, arrays: list[np.ndarray]) -> None:
        first, *rest = (Image.fromarray(array) for array in arrays)
        first.save(path, format, save_all=True, append_images=rest, duration=[50, 120, 70], loop=3, **options)

    return write


def jpeg_bytes(array: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "jpeg", **options)
    return out.getvalue()
