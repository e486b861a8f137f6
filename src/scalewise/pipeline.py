"""The whole way of an image, top to bottom. Start here.

open → output size → score by the router → plan with the budget → render tile after tile → save.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalewise import images
from scalewise.budget.budget import Budget
from scalewise.budget.cost import CostReport
from scalewise.budget.route import paint
from scalewise.errors import InvalidRequest
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import Beyond, RunOptions
from scalewise.execution.planner import plan_run
from scalewise.execution.progress import Progress
from scalewise.geometry.grid import Box, Size, check_output, output_size
from scalewise.geometry.projection import Projection
from scalewise.machine.device import Dtype, for_inference, pick_device, torch_defaults
from scalewise.machine.memory import parse_bytes
from scalewise.models.chained import Chained
from scalewise.models.model import Model
from scalewise.version import __version__
from scalewise.zoo import LoadedModel, load

Scale = float | tuple[float, float]


@dataclass(frozen=True)
class Upscaled:
    """A result: `image` in the kind and dtype of the input (a path gives a numpy array), and what it cost.

    `note` is written into the file: what made the picture. `crop` is the part of the source that it shows.
    """

    image: Any
    report: CostReport
    source: images.Source
    note: str = ""
    crop: Box | None = None

    def save(
        self,
        path: str | Path,
        *,
        quality: int | None = None,
        encoding: images.Encoding | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Write the picture with the input's metadata; atomic. What the format cannot hold is added to `report.notes`.
        Raises UnwritableOutput."""
        how, notes = replace(encoding or images.Encoding(quality), note=self.note), []
        like = cropped(self.source, self.crop)
        path = images.save(path, self.image, like=like, encoding=how, overwrite=overwrite, notes=notes)
        said = dict.fromkeys((*self.report.notes, *notes))
        object.__setattr__(self, "report", replace(self.report, notes=tuple(said)))
        return path

    def effort_picture(self) -> Tensor:
        """Where the work went, over the gray input: uint8 (h, w, 3)."""
        return effort_picture(self.source, self.report)


def upscale(
    image: Any,
    scale: Scale | None = None,
    *,
    size: Size | None = None,
    long_edge: int | None = None,
    budget: str | float | Budget | None = None,
    model: str | Path | LoadedModel | Model = "fast",
    tile: int | None = None,
    device: str | None = None,
    dtype: Dtype = "auto",
    exact_scale: bool = False,
    projection: Projection = "auto",
    max_memory: str | int | None = None,
    crop: Box | None = None,
    beyond: Beyond = "bicubic",
    effort_mask: str | Path | None = None,
    restore: str | Path | LoadedModel | Model | None = None,
    progress: Progress | None = None,
) -> Upscaled:
    """Enlarge a picture: a path, numpy HWC (uint8, uint16, float in [0, 1]), PIL image, torch CHW tensor.

    One of `scale` (a factor, or rows × columns), `size` (rows, columns) and `long_edge` says how far; `budget` is a
    share of the full model's MACs (`0.5`, `"50%"`), MACs (`"2e12macs"`) or seconds (`"2s"`: of this call, without
    loading the model and measuring its speed at first use); `model` is a name of the zoo, a weight file or a model.
    `tile` is the side of a tile in LR pixels, chosen by memory if absent. `projection` "erp" is for 360° pictures;
    "auto" finds them by their metadata. `max_memory` bounds what the process holds ("2GiB"; by default half of what is
    free). `crop` (y0, x0, y1, x1) in LR pixels, its end excluded, renders that part as it will be in the whole
    picture. `beyond` says how a model of fixed scales goes beyond its largest: "bicubic", or "again" for a second run
    on its own output. `effort_mask` is a grey picture of the input's shape: white for all of the effort, black for the
    least. `restore` is a model of scale 1 that runs before. `progress` gets the share done in [0, 1], between layers
    too; returning False cancels.
    Safe to call from several threads. Raises the children of ScalewiseError.
    """
    most = None if max_memory is None else parse_bytes(max_memory)
    mask = None if effort_mask is None else str(effort_mask)
    options = RunOptions(tile, device, dtype, exact_scale, projection, most, crop, beyond, mask)
    with torch_defaults(pick_device(device)):
        source = images.open(image)
        out = wanted_size(source.size, scale, size, long_edge)
        found = resolve_model(model, device)
        if restore is not None:
            found = restored(resolve_model(restore, device), found)
        run_plan = plan_run(source, out, found, Budget.parse(budget), options)
        sink = images.create(None, run_plan.canvas, cropped(source, crop))
        picture, report = enlarge(run_plan, sink, progress)
    name = model if isinstance(model, str | Path) else getattr(model, "name", type(model).__name__)
    return Upscaled(picture, report, source, provenance(str(name), source.size, out, run_plan.budget), crop)


def wanted_size(size: Size, scale: Scale | None = None, out: Size | None = None, long_edge: int | None = None) -> Size:
    """The output size (rows, columns) for exactly one of scale, size and long edge. Raises InvalidRequest."""
    if sum(x is not None for x in (scale, out, long_edge)) != 1:
        raise InvalidRequest("say how far to enlarge by exactly one of scale, size and long edge")
    if scale is not None:
        return output_size(size, scale if isinstance(scale, tuple) else float(scale))
    if out is None:
        assert long_edge is not None
        longest = max(size)
        out = (max(1, round(size[0] * long_edge / longest)), max(1, round(size[1] * long_edge / longest)))
    return check_output(size, out)


def cropped(source: images.Source, crop: Box | None) -> images.Source:
    """The part of a picture that a crop leaves, as a picture of its own."""
    if crop is None:
        return source
    top, left, bottom, right = crop

    def fetch(box: Box) -> Any:
        return source.fetch((box[0] + top, box[1] + left, box[2] + top, box[3] + left))

    bands = None if source.bands is None else source.bands.cropped(top, left)
    return replace(source, size=(bottom - top, right - left), fetch=fetch, turn=None, bands=bands)


def resolve_model(model: str | Path | LoadedModel | Model, device: str | None = None) -> Model:
    """A model to run on its device, from what `upscale` takes; by name it is loaded once per process. Raises
    InvalidRequest, UnknownModel, CheckpointError."""
    if isinstance(model, str | Path):
        return load(model, device=device).model
    if isinstance(model, LoadedModel):
        return model.model
    if not hasattr(model, "render"):
        raise InvalidRequest(f"model is {type(model).__name__}: give a name, a weight file, or what load() gives")
    return for_inference(model, pick_device(device))


def restored(restoration: Model, model: Model) -> Model:
    """`model` on what `restoration` makes of a picture. Raises InvalidRequest for one that does not restore."""
    if restoration.scales is None or 1.0 not in restoration.scales:
        scales = "any" if restoration.scales is None else ", ".join(f"×{scale:g}" for scale in restoration.scales)
        raise InvalidRequest(f"a restoration has scale ×1; this model has {scales}: give it by -n to enlarge with it")
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
