"""The whole way of an image, top to bottom. Start here.

open → output size → survey by the router → decide with the budget → render tile after tile → save.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from scalewise import __version__, images
from scalewise.budget.budget import Budget, budget_words
from scalewise.budget.cost import CostReport
from scalewise.budget.route import levelled, paint
from scalewise.budget.speed import SMALL, Speed, Tried, keep_speed, kept_speed, measure_speed, speed_file
from scalewise.errors import BudgetInfeasible, InvalidRequest
from scalewise.execution.checkpoint import Journal
from scalewise.execution.deadline import Pace, words
from scalewise.execution.plan import Job, Outlook, in_one_tile, look_ahead
from scalewise.execution.tiles import Canvas, Progress, Run, full_macs
from scalewise.geometry import tiling
from scalewise.geometry.grid import Box, Frame, Size, check_output, output_size
from scalewise.geometry.projection import Projection
from scalewise.geometry.resize import imresize
from scalewise.machine.device import Dtype, for_inference, pick_device
from scalewise.machine.memory import PeakMemory, parse_bytes
from scalewise.models.digest import digest_of_model
from scalewise.models.model import Model, Plan
from scalewise.zoo import LoadedModel, load

Scale = float | tuple[float, float]

SURVEY_SIDE = 1024  # LR pixels a side that the router sees at once


@dataclass(frozen=True)
class Upscaled:
    """A result: `image` in the kind and dtype of the input (a path gives a numpy array), and what it cost."""

    image: Any
    report: CostReport
    source: images.Source
    note: str = ""  # where it comes from, for the file
    crop: Box | None = None  # the part of the source that it shows

    def save(
        self,
        path: str | Path,
        *,
        quality: int | None = None,
        encoding: images.Encoding | None = None,
        overwrite: bool = False,
    ) -> Path:
        """Write the picture with the input's metadata; atomic. Raises UnwritableOutput."""
        how = replace(encoding or images.Encoding(quality), note=self.note)
        return images.save(path, self.image, like=cropped(self.source, self.crop), encoding=how, overwrite=overwrite)

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
    progress: Progress | None = None,
) -> Upscaled:
    """Enlarge a picture: a path, numpy HWC (uint8, uint16, float in [0, 1]), PIL image, torch CHW tensor.

    One of `scale` (a factor, or rows × columns), `size` (rows, columns) and `long_edge` says how far; `budget` is a
    share of the full model's MACs (`0.5`, `"50%"`), MACs (`"2e12macs"`) or seconds (`"2s"`: of this call, without
    loading the model and the measuring that its first use takes); `model` a name of the zoo, a weight file
    or a model. `tile` is the side of a tile in LR pixels, chosen by memory if absent. `projection` "erp" is for 360°
    pictures; "auto" finds them by their metadata. `max_memory` bounds what the process holds ("2GiB"; half of what is
    free), and `crop` (row and column of the first pixel, and behind the last, in the input) renders that part as it
    will be in the whole picture. `progress` gets the share done in [0, 1]; returning False cancels.
    Safe to call from several threads. Raises ScalewiseError's children.
    """
    source = images.open(image)
    out = wanted_size(source.size, scale, size, long_edge)
    most = None if max_memory is None else parse_bytes(max_memory)
    job = Job(tile, device, dtype, exact_scale, projection, most, crop)
    wish, loaded = Budget.parse(budget), ready(model, device)
    ahead = look_ahead(source, out, loaded, wish, job)
    sink = images.create(None, ahead.canvas, cropped(source, crop))
    picture, report = enlarge(source, sink, loaded, wish, job, progress, ahead=ahead)
    name = model if isinstance(model, str | Path) else getattr(model, "name", type(model).__name__)
    return Upscaled(picture, report, source, provenance(str(name), source.size, out, wish), crop)


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


def ready(model: str | Path | LoadedModel | Model, device: str | None = None) -> Model:
    """A model to run, loaded and made ready for its device; by name it is loaded once per process."""
    if isinstance(model, str | Path):
        return load(model, device=device).model
    if isinstance(model, LoadedModel):
        return model.model
    if not hasattr(model, "render"):
        raise InvalidRequest(f"model is {type(model).__name__}: give a name, a weight file, or what load() gives")
    return for_inference(model, pick_device(device))


def provenance(model: str, size: Size, out: Size, budget: Budget) -> str:
    """What made a picture, in words: version, model, scale and budget."""
    scale = " x ".join(f"{m / n:.6g}" for m, n in zip(reversed(out), reversed(size), strict=True))
    amounts = {"fraction": f"{budget.value:.4g} of the MACs", "macs": f"{budget.value:.4g} MACs"}
    amounts["seconds"] = f"{budget.value:g} s"
    allowed = amounts.get(budget.kind, f"{budget.dial}={budget.value:g}")
    return f"scalewise {__version__}: model {model}, scale {scale}, budget {allowed}"


def enlarge(
    source: images.Source,
    sink: Canvas,
    model: Model,
    budget: Budget,
    job: Job,
    progress: Progress | None = None,
    *,
    ahead: Outlook | None = None,
    journal: Journal | None = None,
) -> tuple[Any, CostReport]:
    """Render all of `source` into `sink`, or the crop of `job`; the sink's result and the report.

    The sink is discarded on any error. `ahead` is what `look_ahead` said of this run, if it was asked before. A
    `journal` keeps each row of tiles that is finished, and knows those that an earlier run finished.
    """
    started = time.perf_counter()
    with sink, PeakMemory(pick_device(job.device)) as peak, torch.no_grad():
        ahead = ahead or look_ahead(source, sink.size, model, budget, job)
        plan = journal.plan if journal is not None else None
        pace = None
        if plan is None:
            plan, pace = paced(ahead, budget, model, job, sink)
        run = Run.of(ahead, plan)
        if journal is not None:
            assert isinstance(sink, images.Sink)
            journal.begin(run, sink)
        if pace is not None:
            run.steer = pace.after
            pace.start()
        run.render(sink, progress)
        if pace is not None and (took := pace.took()) is not None:
            learn_speed(model, ahead, *took)
        result = sink.finish()
        seconds = time.perf_counter() - started - (0.0 if pace is None else pace.excused)
        if journal is not None:
            journal.end()
        if progress is not None:
            progress(1.0)
    tally = run.tally
    report = CostReport(
        macs=tally.ran.total,
        macs_full=tally.full,
        by_kind=tally.ran.as_dict(),
        seconds=seconds,
        peak_bytes=peak.bytes,
        size=sink.size,
        effort=run.plan.effort if pace is None else replace(run.plan.effort, budget=words(pace.budget)),
        effort_map=levelled(run.effort.cells, tally.ran.total / tally.full if tally.full else 1.0),
        effort_unit=run.effort.unit,
        rim=1 - tally.lean / tally.ran.total if tally.ran.total else 0.0,
        notes=(*ahead.notes, *tally.notes, *([] if pace is None or pace.deadline is None else [_repeats(pace)])),
    )
    return result, report


def _repeats(pace: Pace) -> str:
    side = f" --tile {pace.ahead.side}" if len(pace.ahead.plan) > 1 else ""
    return f"the time became an effort that --budget {words(pace.budget)}{side} repeats"


def paced(ahead: Outlook, budget: Budget, model: Model, job: Job, sink: Canvas) -> tuple[Plan, Pace | None]:
    """What the budget buys, and who changes it on the way: where seconds were asked for, and where such a run is
    repeated. Raises BudgetInfeasible."""
    if budget.kind != "seconds":
        decide = decider(ahead)
        return decide(replace(budget, later=())), Pace(ahead, decide, budget) if budget.later else None
    began = time.perf_counter()
    speed = speed_of(model, ahead)
    spent = time.perf_counter() - began  # measuring, at first use, is not the picture's
    tail, beside = _encoding(ahead, sink) if isinstance(sink, images.Sink) else (0.0, 0.0)
    began = time.perf_counter()  # the survey is part of what was measured
    times = {"began": began, "tail": tail, "beside": beside, "excused": spent}
    pace, plan = Pace.to_deadline(ahead, decider(ahead), speed, budget.value, **times)
    return plan, pace


def _encoding(ahead: Outlook, sink: images.Sink) -> tuple[float, float]:
    """Seconds that encoding adds: of the last row of tiles behind the last tile; and of the others on the way, where it
    takes a thread from the model."""
    encoding = sink.encoding_seconds(sample_of(ahead.source, ahead.out))
    if not sink.streams:
        return encoding, 0.0
    top, _, bottom, _ = ahead.window
    behind = encoding * (bottom - max(tile.target[0] for tile in ahead.tiles)) / (bottom - top)
    return behind, (encoding - behind) / torch.get_num_threads()


def sample_of(source: images.Source, out: Size) -> Tensor:
    """Some pixels like those of the output, by which to see how long encoding takes: (3, H, W)."""
    height, width = source.size
    side, parts = min(24, height, width), 6  # many small ones: pictures are smooth here and rough there
    rows = []
    for i in range(parts):
        y, row = (height - side) * (2 * i + 1) // (2 * parts), []
        for j in range(parts):
            x = (width - side) * (2 * j + 1) // (2 * parts)
            lr = source.read((y, x, y + side, x + side), bled=True)
            row.append(imresize(lr, (max(1, side * out[0] // height), max(1, side * out[1] // width))))
        rows.append(torch.cat(row, -1))
    return torch.cat(rows, -2)


# Of one model object, what is on the disk too: (scale, device, number type, threads) → speed.
_SPEEDS: MutableMapping[Any, dict[tuple[Any, ...], Speed]] = WeakKeyDictionary()


def speed_of(model: Model, ahead: Outlook) -> Speed:
    """Milliseconds of the levels of `model` at this scale on this machine; measured at first use, then kept."""
    here, known = _here(ahead), _SPEEDS.setdefault(model, {})
    if here not in known:
        key = _key(model, ahead)
        found = kept_speed(speed_file(key))
        run = partial(_tried, model, here[0], ahead)
        if found is None:
            found = measure_speed(run)
            keep_speed(speed_file(key), found, key, measured=time.time())
        else:
            run(Budget.full(), SMALL)  # in a new process, the first run gets ready
        known[here] = found
    return known[here]


def learn_speed(model: Model, ahead: Outlook, share: float, ratio: float) -> None:
    """A run at `share` took `ratio` times what `speed_of` said."""
    learned, key = speed_of(model, ahead).learned(share, ratio), _key(model, ahead)
    _SPEEDS[model][_here(ahead)] = learned
    keep_speed(speed_file(key), learned, key)


def _here(ahead: Outlook) -> tuple[Any, ...]:
    scale = tuple(round(m / n, 1) for m, n in zip(ahead.out, ahead.source.size, strict=True))
    return scale, str(ahead.device), str(ahead.dtype), torch.get_num_threads()


def _key(model: Model, ahead: Outlook) -> tuple[Any, ...]:
    return digest_of_model(model), *_here(ahead), machine_of(ahead.device), __version__, torch.__version__


def machine_of(device: torch.device) -> str:
    """What computes: the GPU's name, or the processor's and how many cores it has."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"


def _tried(model: Model, scale: tuple[float, float], ahead: Outlook, budget: Budget, side: int) -> Tried:
    """A run of a picture of `side`: smooth in places, and rough in others."""
    generator = torch.Generator().manual_seed(side)
    smooth = F.interpolate(torch.rand(1, 3, 12, 12, generator=generator), (side, side), mode="bilinear")[0]
    rough = F.interpolate(torch.rand(1, 1, 6, 6, generator=generator), (side, side), mode="nearest")[0].square()
    picture = (smooth + rough * (torch.rand(3, side, side, generator=generator) - 0.5)).clamp(0, 1)
    source = images.open((picture * 255).round().to(torch.uint8))
    out = (max(1, round(side * scale[0])), max(1, round(side * scale[1])))
    how = Job(side, str(ahead.device), "bf16" if ahead.dtype == torch.bfloat16 else "fp32", projection="flat")
    began = time.perf_counter()
    plain = in_one_tile(source, out, model, how)
    report = enlarge(source, images.create(None, out, source), model, budget, how, ahead=plain)[1]
    seconds = time.perf_counter() - began
    return Tried(report.share, sum(full_macs(plain.model, tile, plain) for tile in plain.tiles), seconds)


def decide(ahead: Outlook, budget: Budget) -> Plan:
    """What the budget buys on this picture: the router looks at all of it, and the model decides once."""
    return decider(ahead)(budget)


def decider(ahead: Outlook) -> Callable[[Budget], Plan]:
    """The same for several budgets: the router looks once."""
    model, tiles = ahead.model, ahead.plan
    evidence = _survey(ahead.source, model, ahead.out, ahead.device)
    tiled = sum(full_macs(model, tile, ahead) for tile in tiles)
    return lambda budget: _decide(model, evidence, tiles, ahead.frame, ahead.out, budget, tiled)


REFINEMENTS = 12  # times that less is granted, because tiles made a plan dearer
MARGIN = 0.998  # of what would just do, so that few of them are needed


def _decide(
    model: Model, evidence: Tensor | None, tiles: list[tiling.Tile], frame: Frame, out: Size, budget: Budget, full: int
) -> Plan:
    """A plan that keeps to the budget in these tiles, which cost `full` MACs with everything on, without the router.

    A model decides for the picture without context, and that decision stays if it can. But tiles compute their context
    too, which costs most where the picture is difficult: then less is granted. Raises BudgetInfeasible.
    """
    size = frame.size
    if budget.kind == "native" or (len(tiles) == 1 and not frame.wrap):
        return model.decide(evidence, size, out, budget)
    whole = model.full_macs(Frame(size), size, (0, 0, *size), out)
    first = Budget.macs(budget.value * whole / full) if budget.kind == "macs" else budget
    plan = model.decide(evidence, size, out, first)
    fixed, granted = plan.overhead.total, first.allowed(plan.macs_full)
    allowed = budget.allowed(full + fixed)
    for _ in range(REFINEMENTS):
        costs = [model.planned_macs(_at(frame, tile), _side(tile), tile.core, out, plan) for tile in tiles]
        known = [cost for cost in costs if cost is not None]
        cost = sum(known) + fixed
        if cost <= allowed or len(known) < len(costs):
            return plan
        granted = fixed + (granted - fixed) * (allowed - fixed) / (cost - fixed) * MARGIN
        try:
            plan = model.decide(evidence, size, out, Budget.macs(max(1.0, granted)))
        except BudgetInfeasible:
            break
    raise BudgetInfeasible(
        f"budget {budget_words(budget)} cannot be kept in {len(tiles)} tiles, which compute their context too: ask for "
        "more, or for larger tiles"
    )


def _at(frame: Frame, tile: tiling.Tile) -> Frame:
    return replace(frame, origin=tile.source[:2])


def _side(tile: tiling.Tile) -> Size:
    y0, x0, y1, x1 = tile.source
    return y1 - y0, x1 - x0


def _survey(source: images.Source, model: Model, out: Size, device: torch.device) -> Tensor | None:
    """The router's evidence on the whole image, read in pieces cut along its units."""
    height, width = source.size
    scale = (out[0] / height, out[1] / width)
    rows = []
    for top, bottom in _pieces(height, model):
        row = []
        for left, right in _pieces(width, model):
            evidence = model.survey(source.read((top, left, bottom, right), bled=True).unsqueeze(0).to(device), scale)
            if evidence is None:
                return None
            row.append(evidence.cpu())
        rows.append(torch.cat(row, -1))
    return torch.cat(rows, -2)


def _pieces(length: int, model: Model) -> list[tuple[int, int]]:
    """The spans of an axis that a survey reads: they overlap by its margin, and each holds a whole unit if the axis
    does."""
    grid, margin = model.grid, model.survey_margin
    side = max(1, SURVEY_SIDE // grid) * grid
    starts = range(0, max(0, length - grid - margin) + 1, side)
    return [*((start, start + side + margin) for start in starts[:-1]), (starts[-1], length)]


def effort_picture(source: images.Source, report: CostReport, most: int = 2048) -> Tensor:
    """Where the work went, drawn over the gray input: uint8 (h, w, 3), at most `most` pixels a side."""
    (height, width), step = source.size, -(-max(source.size) // most)
    rows = max(1, 256 // step) * step
    bands = [source.read((top, 0, min(top + rows, height), width)) for top in range(0, height, rows)]
    gray = torch.cat([band[:, ::step, ::step].mean(0) for band in bands])
    return paint(report.effort_map, report.effort_unit, gray, step)


__all__ = [
    "Canvas",
    "Job",
    "Outlook",
    "Progress",
    "Upscaled",
    "cropped",
    "effort_picture",
    "enlarge",
    "look_ahead",
    "provenance",
    "ready",
    "sample_of",
    "upscale",
    "wanted_size",
]
