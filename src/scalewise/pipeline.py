"""The whole way of an image, top to bottom. Start here.

open → output size → score by the router → plan with the budget → render tile after tile → save.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypedDict, TypeVar, Unpack, overload

import numpy as np
import torch
from torch import Tensor

from scalewise import images
from scalewise.budget.budget import Budget
from scalewise.budget.cost import CostReport
from scalewise.budget.meter import listening
from scalewise.budget.route import paint
from scalewise.errors import InvalidRequest, ScalewiseError, shown
from scalewise.execution.enlarge import enlarge
from scalewise.execution.pages import joined
from scalewise.execution.plan import Beyond, RunOptions
from scalewise.execution.planner import plan_run
from scalewise.execution.progress import Progress, ProgressMeter
from scalewise.geometry.grid import Box, Size
from scalewise.geometry.projection import Projection
from scalewise.geometry.sizes import checked_crop, wanted_size
from scalewise.images.arrays import as_batch, batch_of
from scalewise.machine.device import NumberType, for_inference, pick_device, torch_defaults
from scalewise.machine.memory import parse_bytes
from scalewise.models.chained import Chained
from scalewise.models.model import Model
from scalewise.version import __version__
from scalewise.zoo import LoadedModel, load

if TYPE_CHECKING:
    from PIL import Image

ScaleLike = float | str | Sequence[float]
SizeLike = str | Sequence[int]
Shape = TypeVar("Shape", bound="tuple[int, ...]")
Number = TypeVar("Number", bound="np.generic")
Picture = TypeVar("Picture", covariant=True)


class BinaryFile(Protocol):
    """What is open for reading bytes."""

    def read(self, size: int = ..., /) -> bytes: ...


class UpscaleOptions(TypedDict, total=False):
    """The options of `upscale`, for type checkers."""

    size: SizeLike | None
    long_edge: int | None
    budget: str | float | Budget | None
    model: str | Path | LoadedModel | Model
    tile: int | None
    device: str | None
    dtype: NumberType
    exact_scale: bool
    projection: Projection
    max_memory: str | int | None
    crop: Sequence[int] | None
    beyond: Beyond
    effort_mask: object
    restore: str | Path | LoadedModel | Model | None
    progress: Progress | None


@dataclass(frozen=True, eq=False)
class Upscaled(Generic[Picture]):
    """A result: `image` in the kind and dtype of the input (a file gives a numpy array), and what it cost.

    `note` is written into the file: what made the picture. `crop` is the part of the source that it shows. Of a batch,
    `each` has the results of its pictures, and `report` their sum. Results pickle and copy; notebooks show them.
    """

    image: Picture
    report: CostReport
    source: images.Source
    note: str = ""
    crop: Box | None = None
    each: tuple[Upscaled[Any], ...] = ()

    def save(
        self,
        path: str | Path,
        *,
        quality: int | None = None,
        lossless: bool = False,
        strip: bool = False,
        dpi: images.Dpi = "keep",
        overwrite: bool = False,
    ) -> Path:
        """Write the picture with the input's metadata; atomic. What the format cannot hold is added to `report.notes`.
        Raises UnwritableOutput, and InvalidRequest for options that contradict each other or the format.

        Args:
            path: Its extension names the format.
            quality: 1 to 100, for JPEG, WebP and AVIF; by default 95.
            lossless: For WebP and AVIF; PNG and TIFF always are.
            strip: Pixels only, in sRGB: no metadata, no note, no profile.
            dpi: `scale`: the resolution grows with the picture, so that prints keep their size.
            overwrite: Replace a file that is there.
        """
        notes: list[str] = []
        path = images.save(
            path,
            self.image,
            like=self._like,
            encoding=images.Encoding(quality, lossless, strip, dpi, self.note),
            overwrite=overwrite,
            notes=notes,
        )
        self._add_notes(notes)
        return path

    def to_bytes(
        self,
        format: str = "png",
        *,
        quality: int | None = None,
        lossless: bool = False,
        strip: bool = False,
        dpi: images.Dpi = "keep",
    ) -> bytes:
        """The file that `save` would write with the same options, as bytes: `png`, `jpg`, `webp`, `tif`, `avif`, `gif`.
        Raises UnwritableOutput and InvalidRequest."""
        notes: list[str] = []
        how = images.Encoding(quality, lossless, strip, dpi, self.note)
        data = images.to_bytes(format, self.image, like=self._like, encoding=how, notes=notes)
        self._add_notes(notes)
        return data

    @property
    def pil(self) -> Image.Image:
        """The picture as a PIL image, with profile and EXIF: 16 bit of gray alone, otherwise 8."""
        return images.to_pil(self.image, self._like)

    def effort_picture(self) -> Tensor:
        """Where the work went, over the gray input: uint8 (h, w, 3)."""
        self._check_single()
        return effort_picture(self.source, self.report)

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows, at most 1024 pixels a side; None for a result that is no picture, as of a batch."""
        try:
            return images.thumbnail(self.image, self._like)
        except ScalewiseError:
            return None

    @property
    def _like(self) -> images.Source:
        self._check_single()
        return cropped(self.source, self.crop)

    def _check_single(self) -> None:
        if self.each:
            raise InvalidRequest(f"this is a batch of {len(self.each)} pictures: take one of them, as result.each[0]")

    def _add_notes(self, notes: list[str]) -> None:
        said = dict.fromkeys((*self.report.notes, *notes))
        object.__setattr__(self, "report", replace(self.report, notes=tuple(said)))


@overload
def upscale(
    image: np.ndarray[Shape, np.dtype[Number]], scale: ScaleLike | None = None, **options: Unpack[UpscaleOptions]
) -> Upscaled[np.ndarray[Shape, np.dtype[Number]]]: ...
@overload
def upscale(image: Tensor, scale: ScaleLike | None = None, **options: Unpack[UpscaleOptions]) -> Upscaled[Tensor]: ...
@overload
def upscale(
    image: Image.Image, scale: ScaleLike | None = None, **options: Unpack[UpscaleOptions]
) -> Upscaled[Image.Image]: ...
@overload
def upscale(
    image: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile,
    scale: ScaleLike | None = None,
    **options: Unpack[UpscaleOptions],
) -> Upscaled[np.ndarray]: ...
def upscale(
    image: Any,
    scale: ScaleLike | None = None,
    *,
    size: SizeLike | None = None,
    long_edge: int | None = None,
    budget: str | float | Budget | None = None,
    model: str | Path | LoadedModel | Model = "fast",
    tile: int | None = None,
    device: str | None = None,
    dtype: NumberType = "auto",
    exact_scale: bool = False,
    projection: Projection = "auto",
    max_memory: str | int | None = None,
    crop: Sequence[int] | None = None,
    beyond: Beyond = "bicubic",
    effort_mask: object = None,
    restore: str | Path | LoadedModel | Model | None = None,
    progress: Progress | None = None,
) -> Upscaled[Any]:
    """Enlarge a picture. Safe to call from several threads.

        result = scalewise.upscale("photo.jpg", 3.7, budget="50%")
        result.save("photo_x3.7.png")

    Numbers of sizes are rows first, as the shape of an array is; texts are width first, as people write them.

    Args:
        image: A path, the bytes of a file, a file object open for reading bytes; a numpy array (H, W[, C]) of uint8,
            uint16 or float in [0, 1]; a torch tensor (C, H, W); a PIL image. Or a batch (N, C, H, W) of numpy or torch:
            each picture is enlarged by itself, with the whole budget.
        scale: A factor, (rows, columns) of factors, or text: `"3.7"`, width × height as `"2x1.5"`.
        size: Instead of a scale, the output in pixels: (rows, columns), or text: `"3840x2160"`, `"3840x"`, `"x2160"`.
        long_edge: Instead of a scale, the pixels of the longer side.
        budget: A share of the full model's MACs (`0.5`, `"50%"`), MACs (`"2e12macs"`) or seconds (`"2s"`: of this call,
            without loading the model and measuring its speed at first use). None: the full model.
        model: A name of the zoo, a weight file, what `load` gives, or a model.
        tile: The side of a tile in LR pixels; chosen by memory if absent.
        device: `cpu`, `cuda`, `cuda:1`, `mps`; None: CUDA if there is one.
        dtype: `fp32`, `bf16`, `fp16`, or `auto`: bf16 where the machine is good at it. `int8`: the blocks of networks
            with exits at any scale in 8 bits, where the processor has AVX512-VNNI.
        exact_scale: Refuse scales that the model was not made for, instead of resizing its output.
        projection: `erp` is for 360° pictures; `auto` finds them by their metadata; `flat`: none.
        max_memory: The most bytes that the process holds, as a number or `"2GiB"`; by default half of what is free.
        crop: (first row, first column, end row, end column) in LR pixels: only this part is rendered, as it will be in
            the whole picture.
        beyond: How a model of fixed scales goes beyond its largest: `bicubic`, or `again`, a second run on its output.
        effort_mask: A picture of any kind, stretched over this one: white grants all of the effort, and comes first;
            black grants the least.
        restore: A model of scale 1 that runs before the other one.
        progress: Called with the share done in [0, 1], within tiles too. Returning False cancels; what it raises comes
            through.

    Returns:
        An `Upscaled`: its `image` is of the kind and dtype that came in, a numpy array for files and bytes.

    Raises:
        ScalewiseError: One of its subclasses for every error that is expected; `Cancelled` if `progress` asked for it.
    """
    if progress is not None and not callable(progress):
        raise InvalidRequest(f"progress is {shown(progress)}: allowed is a function of the share done")
    loaded = resolve_model(model, device)
    if restore is not None:
        loaded = replace(loaded, model=restored(resolve_model(restore, device).model, loaded.model))
    most = None if max_memory is None else parse_bytes(max_memory)
    box = None if crop is None else checked_crop(crop)
    options = RunOptions(tile, device, dtype, exact_scale, projection, most, box, beyond, effort_mask)
    asked = {"scale": scale, "size": size, "long_edge": long_edge, "budget": Budget.parse(budget)}
    one = partial(_upscaled, loaded=loaded, options=options, **asked)
    batch = batch_of(image)
    if batch is None:
        return one(image, progress=progress)
    results = []
    for done, picture in enumerate(batch):
        part = None if progress is None else partial(_part_of, progress, done, len(batch))
        results.append(one(picture, progress=part))
    report = joined([result.report for result in results], called="pictures")
    report = replace(report, effort_map=torch.stack([result.report.effort_map for result in results]))
    image, first = as_batch([result.image for result in results]), results[0]
    return Upscaled(image, report, first.source, first.note, box, tuple(results))


def _part_of(progress: Progress, done: int, count: int, share: float) -> bool | None:
    """The share done of a batch, from that of a picture in it."""
    return progress((done + share) / count)


def _upscaled(
    image: object,
    *,
    scale: object,
    size: object,
    long_edge: int | None,
    loaded: LoadedModel,
    budget: Budget,
    options: RunOptions,
    progress: Progress | None,
) -> Upscaled[Any]:
    """One picture, from what was asked for to the result."""
    with torch_defaults(pick_device(options.device)):
        source = images.open(image)
        out = wanted_size(source.size, scale, size, long_edge)
        with listening(None if progress is None else ProgressMeter(progress).hear):  # a probe can be cancelled too
            run_plan = plan_run(source, out, loaded.model, budget, options)
        sink = images.create(None, run_plan.canvas, cropped(source, options.crop))
        picture, report = enlarge(run_plan, sink, progress)
    return Upscaled(picture, report, source, provenance(loaded.name, source.size, out, budget), options.crop)


def cropped(source: images.Source, crop: Box | None) -> images.Source:
    """The part of a picture that a crop leaves, as a picture of its own."""
    if crop is None:
        return source
    top, left, bottom, right = crop

    def fetch(box: Box) -> Any:
        return source.fetch((box[0] + top, box[1] + left, box[2] + top, box[3] + left))

    bands = None if source.bands is None else source.bands.cropped(top, left)
    return replace(source, size=(bottom - top, right - left), fetch=fetch, turn=None, bands=bands)


def resolve_model(model: str | Path | LoadedModel | Model, device: str | None = None) -> LoadedModel:
    """A model to run on its device, from what `upscale` takes; by name it is loaded once per process. Raises
    InvalidRequest, UnknownModel, CheckpointError."""
    if isinstance(model, str | Path):
        return load(model, device=device)
    if isinstance(model, LoadedModel):
        return model
    if not hasattr(model, "render"):
        raise InvalidRequest(f"model is {type(model).__name__}: give a name, a weight file, or what load() gives")
    device_found = pick_device(device)
    with torch_defaults(device_found):
        return LoadedModel(getattr(model, "name", type(model).__name__), for_inference(model, device_found))


def restored(restoration: Model, model: Model) -> Model:
    """`model` on what `restoration` makes of a picture. Raises InvalidRequest for one that does not restore."""
    own = restoration.limits.scales
    if own is None or 1.0 not in own:
        scales = "any" if own is None else ", ".join(f"×{scale:g}" for scale in own)
        raise InvalidRequest(f"a restoration has scale ×1; this model has {scales}: take it as the model instead")
    return Chained(restoration, model)


def provenance(model: str, size: Size, out: Size, budget: Budget) -> str:
    """What made a picture, as one line: version, model, scale and budget."""
    scale = " x ".join(f"{m / n:.6g}" for m, n in zip(reversed(out), reversed(size), strict=True))
    amounts = {"fraction": f"{budget.value:.4g} of the MACs", "macs": f"{budget.value:.4g} MACs"}
    amounts["seconds"] = f"{budget.value:g} s"
    allowed = amounts.get(budget.kind, f"{budget.dial}={budget.value:g}")
    return f"scalewise {__version__}: model {model}, scale {scale}, budget {allowed}"


def effort_picture(source: images.Source, report: CostReport, max_side: int = 2048) -> Tensor:
    """Where the work went, drawn over the gray input: uint8 (h, w, 3), at most `max_side` pixels a side."""
    (height, width), step = source.size, -(-max(source.size) // max_side)
    rows = max(1, 256 // step) * step
    bands = [source.read((top, 0, min(top + rows, height), width)) for top in range(0, height, rows)]
    gray = torch.cat([band[:, ::step, ::step].mean(0) for band in bands])
    return paint(report.effort_map, report.effort_unit, gray, step)
