"""The whole way of an image, top to bottom. Start here.

open → output size → survey by the router → decide with the budget → render tile after tile → save.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch
from torch import Tensor

from scalewise import images, tiling
from scalewise.cost import CostReport
from scalewise.effort import Budget
from scalewise.errors import Cancelled, InvalidRequest, ScalewiseError
from scalewise.grid import Box, Frame, Size, check_output, output_size
from scalewise.inference import Dtype, for_inference, pick_device, pick_dtype
from scalewise.memory import PeakMemory
from scalewise.model import Model, Plan, Rendered
from scalewise.rescaled import Rescaled
from scalewise.resize import bicubic_base
from scalewise.route import effort_map, levelled, map_unit, paint
from scalewise.zoo import LoadedModel, load

Progress = Callable[[float], bool | None]
Scale = float | tuple[float, float]

CONTEXT_OF_THE_UNBOUNDED = 32  # LR pixels around a tile of a model whose context is the whole image
SURVEY_SIDE = 2048  # LR pixels a side that the router sees at once


@dataclass(frozen=True)
class Upscaled:
    """A result: `image` in the kind and dtype of the input (a path gives a numpy array), and what it cost."""

    image: Any
    report: CostReport
    source: images.Source

    def save(self, path: str | Path, *, quality: int | None = None, overwrite: bool = False) -> Path:
        """Write the picture with the input's metadata; atomic. Raises UnwritableOutput."""
        return images.save(path, self.image, like=self.source, quality=quality, overwrite=overwrite)

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
    progress: Progress | None = None,
) -> Upscaled:
    """Enlarge a picture: a path, numpy HWC (uint8, uint16, float in [0, 1]), PIL image, torch CHW tensor.

    One of `scale` (a factor, or rows × columns), `size` (rows, columns) and `long_edge` says how far; `budget` is a
    share of the full model's MACs (`0.5`, `"50%"`) or MACs (`"2e12macs"`); `model` a name of the zoo, a weight file
    or a model. `tile` is the side of a tile in LR pixels, chosen by memory if absent. `progress` gets the share done
    in [0, 1]; returning False cancels. Safe to call from several threads. Raises ScalewiseError's children.
    """
    source = images.open(image)
    out = wanted_size(source.size, scale, size, long_edge)
    sink = images.create(None, out, source)
    job = Job(tile=tile, device=device, dtype=dtype, exact_scale=exact_scale)
    picture, report = enlarge(source, sink, ready(model, device), Budget.parse(budget), job, progress)
    return Upscaled(picture, report, source)


@dataclass(frozen=True)
class Job:
    """How to run: tile side in LR pixels, device, number type; `exact_scale` refuses other scales than the model's."""

    tile: int | None = None
    device: str | None = None
    dtype: Dtype = "auto"
    exact_scale: bool = False

    def __post_init__(self) -> None:
        if self.tile is not None and not (isinstance(self.tile, int) and self.tile > 0):
            raise InvalidRequest(f"tile is {self.tile!r}: allowed is a side in LR pixels, at least 1")


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


def ready(model: str | Path | LoadedModel | Model, device: str | None = None) -> Model:
    """A model to run, loaded and made ready for its device; by name it is loaded once per process."""
    if isinstance(model, str | Path):
        return load(model, device=device).model
    if isinstance(model, LoadedModel):
        return model.model
    if not hasattr(model, "render"):
        raise InvalidRequest(f"model is {type(model).__name__}: give a name, a weight file, or what load() gives")
    return for_inference(model, pick_device(device))


class Canvas(Protocol):
    """Where the pixels of an enlarged picture go: `images.Sink`, or anything that takes rectangles."""

    @property
    def size(self) -> Size: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> None: ...

    def write(self, y0: int, x0: int, rgb: Tensor, alpha: Tensor | None = None) -> None: ...

    def finish(self) -> Any: ...


def enlarge(
    source: images.Source, sink: Canvas, model: Model, budget: Budget, job: Job, progress: Progress | None = None
) -> tuple[Any, CostReport]:
    """Render all of `source` into `sink`; the sink's result and the report. The sink is discarded on any error."""
    device, size, out = pick_device(job.device), source.size, sink.size
    dtype = pick_dtype(job.dtype, device)
    notes: list[str] = []
    started = time.perf_counter()
    with sink, PeakMemory(device) as peak, torch.no_grad():
        if model.scales is not None and not _own_scale(model.scales, size, out):
            if job.exact_scale:
                own = ", ".join(f"×{s:g}" for s in model.scales)
                raise InvalidRequest(
                    f"this model was made for {own} only; leave out the exact scale to resize the rest"
                )
            rescaled = Rescaled(model, size, out)
            notes.append(rescaled.note)
            model = rescaled
        scale = (out[0] / size[0], out[1] / size[1])
        side = job.tile or tiling.tile_side(model.bytes_per_pixel(scale), model.grid)
        context = model.context
        if context is None:
            context = CONTEXT_OF_THE_UNBOUNDED
            if job.tile is None and _fits_whole(model, size, scale):
                side = max(size)
            elif side < max(size):
                notes.append(
                    f"this model looks at the whole picture, but ran in tiles of {side} with {context} pixels of "
                    "context: the result differs from an untiled one"
                )
        tiles = tiling.plan(size, out, side=side, grid=model.grid, context=context, unit=model.unit)
        tiled = sum(_full_macs(model, tile, size, out) for tile in tiles)
        if budget.kind == "macs" and len(tiles) > 1:  # the plan is made for the untiled picture: leave room for context
            whole = model.full_macs(Frame(size), size, (0, 0, *size), out)
            budget = Budget.macs(budget.value * whole / tiled)
        plan = model.decide(_survey(source, model, out, device), size, out, budget)
        ran, lean = plan.overhead, plan.overhead.total
        effort = EffortMap(size, plan)
        for index, tile in enumerate(tiles):
            if progress is not None and progress(index / len(tiles)) is False:
                raise Cancelled(f"cancelled after {index} of {len(tiles)} tiles; nothing was written")
            rendered, retried = _render(source, model, tile, out, plan, device, dtype)
            ran, lean = ran + rendered.macs, lean + rendered.lean
            effort.add(tile, rendered)
            if retried:
                notes.append(f"tile {index + 1} of {len(tiles)} was not finite in bf16 and was redone in fp32")
            alpha = _alpha(source, tile, out)
            sink.write(tile.target[0], tile.target[1], rendered.rgb.cpu(), alpha)
        seconds = time.perf_counter() - started
        full = tiled + plan.overhead.total
        result = sink.finish()
        if progress is not None:
            progress(1.0)
    rim = 1 - lean / ran.total if ran.total else 0.0
    report = CostReport(
        macs=ran.total,
        macs_full=full,
        by_kind=ran.as_dict(),
        seconds=seconds,
        peak_bytes=peak.bytes,
        size=out,
        effort=plan.effort,
        effort_map=levelled(effort.cells, ran.total / full if full else 1.0),
        effort_unit=effort.unit,
        rim=rim,
        notes=tuple(notes),
    )
    return result, report


class EffortMap:
    """Where the work went, cell by cell: from the plan, or joined from what the tiles decided while they ran."""

    def __init__(self, size: Size, plan: Plan) -> None:
        self.size = size
        self.planned = bool(plan.route)
        self.unit = map_unit(plan.route) if plan.route else max(size)
        self.cells = effort_map(plan.route)

    def add(self, tile: tiling.Tile, rendered: Rendered) -> None:
        if self.planned or not rendered.route:
            return
        here, unit = effort_map(rendered.route), map_unit(rendered.route)
        if unit != self.unit:
            self.unit = unit
            self.cells = torch.ones(tuple(-(-n // unit) for n in self.size))
        y0, x0, y1, x1 = (
            tile.core[0] // unit,
            tile.core[1] // unit,
            -(-tile.core[2] // unit),
            -(-tile.core[3] // unit),
        )
        y, x = y0 - tile.source[0] // unit, x0 - tile.source[1] // unit
        self.cells[y0:y1, x0:x1] = here[y : y + y1 - y0, x : x + x1 - x0]


def _full_macs(model: Model, tile: tiling.Tile, size: Size, out: Size) -> int:
    y0, x0, y1, x1 = tile.source
    return model.full_macs(Frame(size, (y0, x0)), (y1 - y0, x1 - x0), tile.core, out)


def _fits_whole(model: Model, size: Size, scale: tuple[float, float]) -> bool:
    """True if half of the free memory holds the whole image at once."""
    return size[0] * size[1] * model.bytes_per_pixel(scale) <= psutil.virtual_memory().available / 2


def _own_scale(scales: tuple[float, ...], size: Size, out: Size) -> bool:
    return any(out == (round(size[0] * s), round(size[1] * s)) for s in scales)


def _survey(source: images.Source, model: Model, out: Size, device: torch.device) -> Tensor | None:
    """The router's evidence on the whole image, read in pieces cut along patches."""
    height, width = source.size
    scale = (out[0] / height, out[1] / width)
    side = max(1, SURVEY_SIDE // model.grid) * model.grid
    rows = []
    for top in range(0, height, side):
        row = []
        for left in range(0, width, side):
            box = (top, left, min(top + side, height), min(left + side, width))
            evidence = model.survey(source.read(box).unsqueeze(0).to(device), scale)
            if evidence is None:
                return None
            row.append(evidence.cpu())
        rows.append(torch.cat(row, -1))
    return torch.cat(rows, -2)


def _render(
    source: images.Source,
    model: Model,
    tile: tiling.Tile,
    out: Size,
    plan: Plan,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Rendered, bool]:
    """One tile; redone in fp32 if it is not finite. True if it was."""
    lr = source.read(tile.source).unsqueeze(0).to(device).contiguous(memory_format=torch.channels_last)
    frame = Frame(source.size, (tile.source[0], tile.source[1]))
    with _numbers(device, dtype):
        rendered = model.render(lr, frame, tile.core, out, plan)
    if bool(torch.isfinite(rendered.rgb).all()):
        return rendered, False
    if dtype != torch.float32:
        rendered = model.render(lr, frame, tile.core, out, plan)
        if bool(torch.isfinite(rendered.rgb).all()):
            return rendered, True
    raise ScalewiseError("the model gave numbers that are not finite, in fp32 too: its weights do not fit this picture")


@contextmanager
def _numbers(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    if dtype == torch.float32:
        yield
    else:
        with torch.autocast(device.type, dtype):
            yield


def _alpha(source: images.Source, tile: tiling.Tile, out: Size) -> Tensor | None:
    """The opacity of a tile's output pixels: bicubic on the same grid."""
    if not source.alpha:
        return None
    height, width = source.size
    box: Box = (
        max(0, tile.core[0] - ALPHA_CONTEXT),
        max(0, tile.core[1] - ALPHA_CONTEXT),
        min(height, tile.core[2] + ALPHA_CONTEXT),
        min(width, tile.core[3] + ALPHA_CONTEXT),
    )
    alpha = source.read_alpha(box)
    assert alpha is not None
    return bicubic_base(alpha, Frame(source.size, (box[0], box[1])), out, tile.target).clamp(0, 1)


ALPHA_CONTEXT = 3  # LR pixels that bicubic taps reach beyond a tile


def effort_picture(source: images.Source, report: CostReport, most: int = 2048) -> Tensor:
    """Where the work went, drawn over the gray input: uint8 (h, w, 3), at most `most` pixels a side."""
    step = -(-max(source.size) // most)
    gray = source.read().mean(0)[::step, ::step]
    return paint(report.effort_map, report.effort_unit, gray, step)


__all__ = ["Canvas", "Job", "Progress", "Upscaled", "effort_picture", "enlarge", "ready", "upscale", "wanted_size"]
