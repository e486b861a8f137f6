"""What a job does: looking at an upload, checking what is asked of it, enlarging it.

With `clip_tasks.py`, `forecast.py`, `models.py` and `previews.py` the part of the server that computes. They load torch
and libvips, so routes import them when they are asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scalewise import images, pipeline, zoo
from scalewise.app.models import OwnModel, floor_of, known
from scalewise.app.problems import Refused, said_of, unnamed
from scalewise.app.worker import Limits
from scalewise.budget.budget import Budget
from scalewise.budget.cost import CostReport
from scalewise.budget.meter import listening
from scalewise.errors import (
    ImageError,
    InvalidRequest,
    ScalewiseError,
    UnreadableImage,
)
from scalewise.execution.mask import takes_mask
from scalewise.execution.pages import enlarge_pages
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run
from scalewise.geometry.grid import Box, Size
from scalewise.geometry.projection import frame_of
from scalewise.geometry.sizes import wanted_size
from scalewise.images import WRITABLE, Encoding, extension_of
from scalewise.images.source import which_page

_VIDEOS = {
    0: (b"\x1aE\xdf\xa3", b"OggS", b"FLV", b"\0\0\1\xba"),
    4: (b"ftyp", b"moov"),
    8: (b"AVI ",),
}  # where they begin
_HEIF = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1")  # pictures, in the container of mp4
CONVERTED_PIXELS = 1 << 22  # at once, when a result is converted
MASK_PIXELS = 16_000_000
FORMATS = ("png", "jpg", "webp", "tif", "avif", "gif")  # that can be asked for, as far as libvips writes them
_OF_TIFF = (".tif", ".tiff")
_OF_PAGES = (*_OF_TIFF, ".gif", ".webp")  # hold pages or frames


@dataclass(frozen=True)
class Facts:
    """What an upload is: size (H, W) upright, container, pages or frames, bits, whether it says that it is a 360°
    picture, why it can be none, and the sizes of its pages where they differ."""

    size: Size
    format: str
    pages: int
    alpha: bool
    gray: bool
    depth: str
    panorama: bool
    bytes: int
    flat: str | None = None
    sizes: tuple[Size, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        named = {"width": self.size[1], "height": self.size[0], "format": self.format, "pages": self.pages}
        kind = {"alpha": self.alpha, "gray": self.gray, "depth": self.depth, "panorama": self.panorama}
        return {**named, **kind, "bytes": self.bytes}


@dataclass(frozen=True, eq=False)
class JobRequest:
    """What is asked for: one of `scale`, `size` (a text: `3840x2160`, `3840x`, `x2160`) and `long_edge`; `crop` is
    (x, y, width, height) in pixels of the input."""

    scale: float | None = None
    size: str | None = None
    long_edge: int | None = None
    budget: str = "100%"
    model: str = "fast"
    format: str | None = None
    quality: int | None = None
    crop: tuple[int, int, int, int] | None = None
    projection: str = "auto"
    effort_map: bool = False
    own: OwnModel | None = None  # instead of a model of the zoo
    mask: np.ndarray | None = None  # gray (h, w): where the work goes first

    def model_on(self, device: str | None) -> zoo.LoadedModel:
        """The model, ready to run. Raises Refused."""
        return self.own.loaded if self.own is not None else zoo.load(known(self.model), device=device)


@dataclass(frozen=True)
class Result:
    """Files in the job's folder, the report, and what the page needs to draw the effort map: the map's extent over the
    picture's, as its last cells may stick out."""

    picture: Path
    report: CostReport
    cells: Path
    extent: tuple[float, float]  # width, height
    drawn: Path | None  # the effort map over the picture, if asked for


# --- looking ----------------------------------------------------------------------------------------------------------


def look(path: Path, limits: Limits) -> Facts:
    """The facts of an upload, by its own first bytes. Raises Refused: 415 for what is no picture of a kind that can be
    read, 413 for too many pixels or pages, 422 for damaged ones."""
    with said_of("file"):
        try:
            source = images.open(path, max_pixels=limits.max_pixels)
        except UnreadableImage as error:
            text = unnamed(str(error))
            if _is_video(path):
                raise Refused(415, "the file is a video: the tab Clip takes it, and POST /v1/clips", "file") from None
            if "is not a picture of a kind" in text:
                raise Refused(415, text, "file") from None
            if "at most" in text and ("pixels" in text or "frames" in text):
                raise Refused(413, f"{text} by this server", "file") from None
            raise
    if source.pages > limits.max_pages:
        raise Refused(413, f"the file has {source.pages} pages or frames; at most {limits.max_pages} are read", "file")
    assert source.format is not None
    kind = (source.format, source.pages, source.alpha, source.kind == "gray", source.dtype, source.gpano is not None)
    sizes = source.sizes if len(set(source.sizes)) > 1 else ()
    return Facts(source.size, *kind, path.stat().st_size, _flat(source.size, source.gpano), sizes)


def _flat(size: Size, gpano: Mapping[str, str] | None = None) -> str | None:
    """Why neither its metadata nor its sides make it a 360° picture; None if they do. Its metadata may be large, and
    what is seen in an upload is kept as long as the upload is."""
    try:
        frame_of(size, "erp", gpano)
    except InvalidRequest as error:
        return str(error)
    return None


def _is_video(path: Path) -> bool:
    """By its first bytes: a container of clips, not one of pictures."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[8:] not in _HEIF and any(head.startswith(marks, at) for at, marks in _VIDEOS.items())


# --- checking ---------------------------------------------------------------------------------------------------------


def out_size(size: Size, request: JobRequest) -> Size:
    """The output size (H, W) of a whole picture of `size`. Raises Refused."""
    given = {"scale": request.scale, "size": request.size or None, "long_edge": request.long_edge}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise Refused(422, f"say how large by one of scale, size and long_edge, not by {' and '.join(named)}", named[1])
    with said_of(named[0] if named else "scale"):
        if request.size:
            return wanted_size(size, out=request.size)
        if request.long_edge is not None:
            return wanted_size(size, long_edge=request.long_edge)
        return wanted_size(size, 2.0 if request.scale is None else request.scale)


def box_of(request: JobRequest, size: Size) -> Box | None:
    """The crop as (y0, x0, y1, x1). Raises Refused if it does not lie in the picture."""
    if request.crop is None:
        return None
    x, y, width, height = request.crop
    if x < 0 or y < 0 or width < 1 or height < 1 or x + width > size[1] or y + height > size[0]:
        told = f"{x},{y},{width},{height}"
        raise Refused(422, f"crop {told} (x,y,width,height) is not inside the picture, {size[1]}x{size[0]}", "crop")
    return y, x, y + height, x + width


def suffix_of(facts: Facts, request: JobRequest) -> str:
    """Of the file that will be made: as asked, else the container that came in, else PNG."""
    if request.format is not None:
        found = f".{request.format.lower().lstrip('.')}"
        if found not in WRITABLE:
            raise Refused(
                422, f"format {request.format[:20]!r} cannot be written: allowed are {', '.join(formats())}", "format"
            )
        return found
    return extension_of(facts.format)


def formats() -> tuple[str, ...]:
    """What can be written here."""
    return tuple(name for name in FORMATS if f".{name}" in WRITABLE)


def pages_made(facts: Facts, box: Box | None, suffix: str) -> tuple[Size, ...]:
    """The sizes of the pages or frames of an upload that the file of a job holds: one of a crop, or where the format
    has no more; pages of several sizes are for TIFF alone."""
    held = _OF_TIFF if facts.sizes else _OF_PAGES
    if box is not None or suffix not in held:
        return (facts.size,)
    return facts.sizes or (facts.size,) * facts.pages


def check(facts: Facts, request: JobRequest, limits: Limits) -> Size:
    """The output size of a page; raises Refused for what this server will not do, before any work."""
    out, box = out_size(facts.size, request), box_of(request, facts.size)
    model = request.model_on(limits.device).model
    suffix = suffix_of(facts, request)
    with said_of("budget"):
        budget = Budget.parse(request.budget)
    floor = floor_of(request.model) if request.own is None else request.own.least
    if budget.kind == "fraction" and budget.value < floor:
        called = "your weight file" if request.own is not None else f"model {request.model!r}"
        raise Refused(
            422,
            f"budget {100 * budget.value:.3g}% is below the least of {called}, {math.ceil(floor * 100)}%: ask for more",
            "budget",
        )
    if request.mask is not None and not takes_mask(model):
        raise Refused(422, f"model {request.model[:60]!r} takes no mask: it has no patches to steer", "mask")
    with said_of("quality"):
        Encoding(request.quality)
    if request.projection not in ("auto", "flat", "erp"):
        raise Refused(
            422, f"projection {request.projection[:20]!r} is not known: allowed are auto, flat, erp", "projection"
        )
    sizes = pages_made(facts, box, suffix)
    pages = len(sizes)
    if request.projection == "erp":
        _check_panorama(facts, sizes)
    _check_alpha(facts.alpha, suffix)
    if request.mask is not None and pages > 1:
        raise Refused(422, f"a mask is for one picture, and this file has {pages} pages or frames", "mask")
    area = 0
    for number, size in enumerate(sizes, 1):
        try:
            area += math.prod(out_size(size, request))
        except Refused as error:  # not of the first page, which is checked by now
            raise Refused(error.status, f"page {number} of {pages}: {error}", error.field) from None
    if box is not None:
        area = round(area * (box[2] - box[0]) * (box[3] - box[1]) / (facts.size[0] * facts.size[1]))
    if area > limits.max_pixels:
        told = f"{out[1]}x{out[0]}" + (f" in {pages} pages or frames" if pages > 1 else "")
        if len(set(sizes)) > 1:
            told = f"{pages} pages of several sizes"
        raise Refused(
            422,
            f"{told} are {area / 1e6:.0f} megapixels, and this server makes at most "
            f"{limits.max_pixels / 1e6:.0f} (--max-pixels): ask for less",
            "long_edge" if request.long_edge is not None else "size" if request.size else "scale",
        )
    return out


def _check_panorama(facts: Facts, sizes: Sequence[Size]) -> None:
    """Every page that is made must be a 360° picture: the first also by its metadata, the others by their sides."""
    if facts.flat is not None:
        raise Refused(422, facts.flat, "projection")
    for number, size in enumerate(sizes[1:], 2):
        if size != facts.size and (reason := _flat(size)) is not None:
            raise Refused(422, f"page {number} of {len(sizes)}: {reason}", "projection")


def _check_alpha(alpha: bool, suffix: str) -> None:
    if alpha and suffix in (".jpg", ".jpeg"):
        raise Refused(422, "jpg cannot hold the transparency of this picture: ask for png, webp or tif", "format")


def mask_of(data: bytes) -> np.ndarray:
    """A mask that came with a job, as gray. Raises Refused."""
    with said_of("mask"):
        try:
            source = images.open(data, max_pixels=MASK_PIXELS)
            gray, alpha = source.read().mean(0), source.read_alpha()
        except ImageError as error:
            text = str(error).replace("the picture in memory", "the mask").replace(" unless max_pixels is raised", "")
            raise Refused(422, text, "mask") from None
    return (gray if alpha is None else gray * alpha[0]).numpy()


# --- enlarging --------------------------------------------------------------------------------------------------------


def enlarge(
    upload: Path, facts: Facts, request: JobRequest, folder: Path, limits: Limits, progress: Callable[[float], None]
) -> Result:
    """Enlarge the upload into `folder`, every page and frame of it. Raises Refused, and what `progress` raises."""
    with said_of():
        loaded = request.model_on(limits.device)
        source = images.open(upload, max_pixels=limits.max_pixels)
        box = box_of(request, source.size)
        budget = Budget.parse(request.budget)
        out = out_size(source.size, request)
        projection: Any = request.projection  # checked
        how = RunOptions(device=limits.device, projection=projection, crop=box, effort_mask=request.mask)
        suffix = suffix_of(facts, request)
        like = source if box is None else replace(pipeline.cropped(source, box), pages=1)
        with listening(lambda macs: progress(0.0)):  # a probe can be cancelled too
            run_plan = plan_run(source, out, loaded.model, budget, how)
        note = pipeline.provenance(loaded.name, source.size, out, budget)

        def size_of(size: Size) -> Size:
            return out_size(size, request) if box is None else run_plan.canvas

        album = images.create_pages(
            folder / f"result{suffix}", like, size_of, encoding=Encoding(request.quality, note=note)
        )
        left = like.pages - len(album)

        def told(share: float) -> None:
            progress(0.98 * share)

        picture, report = enlarge_pages(album, loaded.model, budget, how, told, run_plan=run_plan)
        if left > 0 and source.bands is None:  # of bands it is said already
            notes = (note for note in report.notes if note not in which_page(source))  # said here with its reason
            report = replace(report, notes=(*notes, _first_only(like.pages, suffix)))
        cells, extent = _cells(report, source.size, folder)
        drawn = None
        if request.effort_map:
            drawn = folder / "effort-map.png"
            images.save(drawn, pipeline.effort_picture(source, report).numpy())
    progress(1.0)
    return Result(picture, report, cells, extent, drawn)


def _first_only(pages: int, suffix: str) -> str:
    reason = f"{suffix[1:]} does not hold them (ask for tif, gif or webp)"
    if suffix in _OF_PAGES:
        reason = f"they are of several sizes or kinds, and frames of a {suffix[1:]} are alike (ask for tif)"
    return f"the first of {pages} pages or frames: {reason}"


def convert(picture: Path, format: str, quality: int | None, max_pixels: int) -> Path:
    """A finished picture in another container, beside it, every page and frame that this holds; made once. Raises
    Refused."""
    suffix = suffix_of(Facts((1, 1), "png", 1, False, False, "uint8", False, 0), JobRequest(format=format))
    made = picture.with_name(f"converted-{quality}{suffix}")
    with said_of("format"):
        if suffix == picture.suffix and quality is None:
            return picture
        if not made.exists():
            source = images.open(picture, max_pixels=max_pixels)
            _check_alpha(source.alpha, suffix)
            with images.create_pages(made, source, lambda size: size, encoding=Encoding(quality)) as album:
                for page, sink in album:
                    rows = max(1, CONVERTED_PIXELS // page.size[1])
                    for top in range(0, page.size[0], rows):
                        band = (top, 0, min(top + rows, page.size[0]), page.size[1])
                        sink.write(top, 0, page.read(band), page.read_alpha(band))
                    sink.finish()
                album.finish()
    return made


def _cells(report: CostReport, size: Size, folder: Path) -> tuple[Path, tuple[float, float]]:
    """The effort map, one pixel a cell, and its extent over the picture's."""
    from scalewise.budget.route import paint

    path, cells = folder / "cells.png", report.effort_map
    images.save(path, paint(cells, 1, torch.ones_like(cells)).movedim(-1, 0))
    if cells.numel() == 1:
        return path, (1.0, 1.0)
    unit = report.effort_unit
    return path, (cells.shape[1] * unit / size[1], cells.shape[0] * unit / size[0])


_MEDIA_TYPES = {"jpg": "image/jpeg", "tif": "image/tiff", "mp4": "video/mp4", "webm": "video/webm"}
_MEDIA_TYPES |= {"mov": "video/quicktime", "mkv": "video/x-matroska"}


def media_type(path: Path) -> str:
    suffix = path.suffix.lower().lstrip(".")
    return _MEDIA_TYPES.get(suffix, f"image/{suffix}")


__all__ = [
    "Facts",
    "JobRequest",
    "Result",
    "ScalewiseError",
    "check",
    "enlarge",
    "look",
    "media_type",
    "out_size",
]
