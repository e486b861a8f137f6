"""One compute worker with a bounded queue: requests in, results in a folder of their own, nothing left behind.

A visitor holds a token that cannot be guessed; everything of a request lies in the folder of that name, and goes away
`keep_seconds` after it was last asked for, or when the server ends.
"""

from __future__ import annotations

import logging
import queue
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from scalewise import images, pipeline, zoo
from scalewise.budget.budget import Budget
from scalewise.budget.cost import CostReport
from scalewise.budget.quality import Calibration
from scalewise.errors import Cancelled, InvalidRequest, ScalewiseError
from scalewise.geometry.grid import Frame, Size
from scalewise.geometry.resize import imresize
from scalewise.images import WRITABLE

PREVIEW = 2400  # pixels a side of what the browser is shown; the download is whole
CROP = 256  # LR pixels a side of the first look and of the curve
SWEEP_SECONDS = 60.0  # between two looks at what nobody asked for in a while
PROBE = 160  # pixels a side of the picture that the machine's speed is read from


def sentence(error: Exception | str) -> str:
    """What a visitor is told: one line, in which files of the server are named without their folders."""
    text = str(error).splitlines()[0] if str(error) else "that did not work"
    return re.sub(r"(?<![\w.])/(?:[^/\s']+/)+", "", text)


class Busy(ScalewiseError):
    """The queue is full."""


@dataclass(frozen=True)
class Limits:
    """What one server grants: bytes of an upload, pixels of a result, requests that wait, seconds that a request may
    take and that its result is kept."""

    max_bytes: int = 256 << 20
    max_pixels: int = 50_000_000
    queue: int = 8
    seconds: float = 900
    keep_seconds: float = 1800


@dataclass(frozen=True)
class Request:
    """What to make of one uploaded file. `size` is a text as of `wanted`; `crop` looks at the centre only."""

    path: Path
    scale: float = 2.0
    size: str = ""
    budget: str = "100%"  # as of Budget.parse
    model: str = "fast"
    crop: bool = False


@dataclass(frozen=True)
class Result:
    """Files in the request's folder: the picture, and what the viewer shows; with the report."""

    picture: Path
    report: CostReport
    before: Path
    after: Path
    effort: Path
    effort_extent: tuple[float, float]  # the map's width and height over the picture's: cells may stick out


@dataclass
class Task:
    """One request on its way. `wait` blocks until it is done, or for `timeout` seconds."""

    token: str
    folder: Path
    run: Callable[[Task], Any]
    share: float = 0.0
    started: float | None = None
    touched: float = field(default_factory=time.monotonic)
    result: Any = None
    error: Exception | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    def wait(self, timeout: float | None = None) -> bool:
        return self.done.wait(timeout)

    def value(self) -> Any:
        """The result, or the error raised."""
        if self.error is not None:
            raise self.error
        return self.result


class Worker:
    """Runs tasks one after another, in the order they came."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.root = Path(tempfile.mkdtemp(prefix="scalewise-app-")).resolve()
        self.tasks: dict[str, Task] = {}
        self.waiting: queue.Queue[Task | None] = queue.Queue()
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self._loop, name="scalewise-worker", daemon=True)
        self.thread.start()

    def submit(self, run: Callable[[Task], Any]) -> Task:
        """Queue `run(task)`. Raises Busy if too many wait already."""
        self.sweep()
        with self.lock:
            ahead = sum(not task.done.is_set() for task in self.tasks.values())
            if ahead > self.limits.queue:
                raise Busy(
                    f"{ahead} requests are being worked on or waiting, which is all this server takes; try later"
                )
            token = secrets.token_urlsafe(24)
            folder = self.root / token
            folder.mkdir(mode=0o700)
            task = self.tasks[token] = Task(token, folder, run)
        self.waiting.put(task)
        return task

    def upscale(self, request: Request) -> Task:
        """Queue one picture: the task's result is a Result."""
        check_upload(request.path, self.limits)
        return self.submit(lambda task: upscale_into(task, request, self.limits))

    def find(self, token: str) -> Task | None:
        task = self.tasks.get(token)
        if task is not None:
            task.touched = time.monotonic()
        return task

    def cancel(self, token: str) -> None:
        task = self.tasks.get(token)
        if task is not None:
            task.cancelled.set()

    def forget(self, token: str) -> None:
        """Cancel, and remove everything that belongs to the token."""
        self.cancel(token)
        task = self.tasks.pop(token, None)
        if task is not None:
            task.wait(self.limits.seconds)
            shutil.rmtree(task.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what nobody asked for in a while."""
        now = time.monotonic()
        for token, task in list(self.tasks.items()):
            if task.done.is_set() and now - task.touched > self.limits.keep_seconds:
                self.forget(token)

    def close(self) -> None:
        for task in list(self.tasks.values()):
            task.cancelled.set()
        self.waiting.put(None)
        self.thread.join(10)
        shutil.rmtree(self.root, ignore_errors=True)

    def _loop(self) -> None:
        while True:
            try:
                task = self.waiting.get(timeout=SWEEP_SECONDS)
            except queue.Empty:
                self.sweep()
                continue
            if task is None:
                return
            task.started = time.monotonic()
            try:
                if task.cancelled.is_set():
                    raise Cancelled("cancelled before it began")
                task.result = task.run(task)
            except Exception as error:  # it belongs to the visitor, the worker goes on
                if not isinstance(error, ScalewiseError):
                    logging.getLogger(__name__).exception("a request failed")
                task.error = error.with_traceback(None)  # its frames hold pictures
                task.error.__context__ = task.error.__cause__ = None
            task.touched = time.monotonic()
            task.done.set()


def follow(task: Task, limits: Limits, part: tuple[float, float] = (0.0, 1.0)) -> Callable[[float], bool]:
    """A progress callback that fills `part` of the task's share, and ends it when cancelled or late."""

    def progress(share: float) -> bool:
        task.share = part[0] + (part[1] - part[0]) * share
        assert task.started is not None
        if time.monotonic() - task.started > limits.seconds:
            raise InvalidRequest(
                f"stopped after {limits.seconds:.0f} s, the time this server gives one request: "
                "ask for a smaller size or a lower budget"
            )
        return not task.cancelled.is_set()

    return progress


# --- what a task does -------------------------------------------------------------------------------------------------


def check_upload(path: Path, limits: Limits) -> None:
    """Raises InvalidRequest for a file that is too large, or gone."""
    if not path.is_file():
        raise InvalidRequest("the upload is no longer here: send the picture again")
    size = path.stat().st_size
    if size > limits.max_bytes:
        raise InvalidRequest(f"the file has {size >> 20} MiB, and this server takes {limits.max_bytes >> 20} MiB")


def wanted(size: Size, scale: float, text: str) -> Size:
    """The output size: `text` is `3840x2160`, `3840x` (width), `x2160` (height) or `3508` (long edge); if it is empty,
    `scale` counts. Raises InvalidRequest."""
    text = text.strip().lower().replace("×", "x")
    if not text:
        return pipeline.wanted_size(size, scale)
    match = re.fullmatch(r"(\d{1,7})?\s*(x)?\s*(\d{1,7})?", text)
    if not match or not (match[1] or match[3]) or (match[1] and match[3] and not match[2]):
        raise InvalidRequest(f"size {text!r} is not a size: write 3840x2160, 3840x (width), x2160 (height) or 3508")
    width, height = (int(x) if x else None for x in (match[1], match[3]))
    if not match[2]:
        return pipeline.wanted_size(size, long_edge=int(text))
    if width is None:
        assert height is not None
        width = max(1, round(size[1] * height / size[0]))
    if height is None:
        height = max(1, round(size[0] * width / size[1]))
    return pipeline.wanted_size(size, out=(height, width))


def check_output(out: Size, limits: Limits) -> None:
    if out[0] * out[1] > limits.max_pixels:
        raise InvalidRequest(
            f"{out[1]}x{out[0]} are {out[0] * out[1] / 1e6:.0f} megapixels, and this server makes at most "
            f"{limits.max_pixels / 1e6:.0f}: ask for less"
        )


def upscale_into(task: Task, request: Request, limits: Limits) -> Result:
    """Enlarge the request's picture into the task's folder."""
    model = zoo.load(known(request.model)).model
    source = images.open(request.path, max_pixels=limits.max_pixels)
    if request.crop:
        source = images.open(centre(source))
    out = wanted(source.size, request.scale, "" if request.crop else request.size)
    check_output(out, limits)
    suffix = request.path.suffix.lower() if request.path.suffix.lower() in WRITABLE and not request.crop else ".png"
    picture = task.folder / f"{safe_stem(request.path)}_{out[1]}x{out[0]}{suffix}"
    sink = images.create(picture, out, source)
    _, report = pipeline.enlarge(
        source, sink, model, Budget.parse(request.budget), pipeline.RunOptions(), follow(task, limits)
    )
    before, after, effort = (task.folder / f"{name}.png" for name in ("before", "after", "effort"))
    shown = preview_size(out)
    images.save(after, shrink(images.open(picture).read(), shown), overwrite=True)
    images.save(before, shrink(source.read(), shown), overwrite=True)
    cells = pipeline.paint(report.effort_map, 1, torch.ones_like(report.effort_map))
    images.save(effort, cells.movedim(-1, 0), overwrite=True)
    gy, gx = report.effort_map.shape
    unit = report.effort_unit
    extent = (gx * unit / source.size[1], gy * unit / source.size[0])
    return Result(picture, report, before, after, effort, extent if report.effort_map.numel() > 1 else (1.0, 1.0))


def known(model: str) -> str:
    """A name of the zoo that can run. Raises InvalidRequest: paths are not for visitors."""
    names = runnable()
    if model not in names:
        raise InvalidRequest(f"model {model!r} is not served here: choose one of {', '.join(names)}")
    return model


def runnable() -> tuple[str, ...]:
    return tuple(name for name, entry in zoo.MODELS.items() if entry.weights or not entry.needs_weights)


def safe_stem(path: Path) -> str:
    return re.sub(r"[^\w.-]+", "_", path.stem)[:80] or "picture"


def preview_size(out: Size) -> Size:
    factor = min(1.0, PREVIEW / max(out))
    return max(1, round(out[0] * factor)), max(1, round(out[1] * factor))


def shrink(picture: torch.Tensor, size: Size) -> torch.Tensor:
    """uint8 (3, H, W) of the wanted size, by bicubic, enlarging too: the viewer's before is this."""
    return (imresize(picture, size).clamp(0, 1) * 255).round().to(torch.uint8)


def centre(source: images.Source, side: int = CROP) -> torch.Tensor:
    """The centre of a picture as uint8 (3, h, w), at most `side` pixels a side."""
    h, w = source.size
    top, left = max(0, (h - side) // 2), max(0, (w - side) // 2)
    box = (top, left, min(h, top + side), min(w, left + side))
    return (source.read(box).clamp(0, 1) * 255).round().to(torch.uint8)


# --- what to expect before the run ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forecast:
    """`seconds`, and how many dB below the full model (None where that was never measured)."""

    size: Size
    seconds: float
    loss: float | None


def forecast(source: images.Source, scale: float, size: str, budget: str, model: str) -> Forecast:
    """What a run will take and give away; raises ScalewiseError for what cannot be run."""
    out = wanted(source.size, scale, size)
    loaded = zoo.load(known(model))
    parsed = Budget.parse(budget)
    whole = loaded.model.full_macs(Frame(source.size), source.size, (0, 0, *source.size), out)
    if parsed.kind == "seconds":  # as much as fits, and no more than there is
        room = parsed.value - out[0] * out[1] * SECONDS_PER_PIXEL
        share = min(1.0, max(0.0, room) / max(whole * seconds_per_mac(model), 1e-12))
    else:
        share = min(1.0, parsed.allowed(whole) / max(whole, 1))
    seconds = share * whole * seconds_per_mac(model) + out[0] * out[1] * SECONDS_PER_PIXEL
    return Forecast(out, seconds, loss(loaded.card, max(out[0] / source.size[0], out[1] / source.size[1]), share))


SECONDS_PER_PIXEL = 6e-8  # writing and previewing a pixel, beside the network


@lru_cache(maxsize=8)
def seconds_per_mac(model: str) -> float:
    """Read off this machine, once: a small picture at full effort, its second run."""
    picture = (torch.rand(3, PROBE, PROBE, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    for _ in range(2):
        report = pipeline.upscale(picture, 2.0, model=model).report
    return report.seconds / max(report.macs, 1)


def loss(card: Any, scale: float, share: float) -> float | None:
    """dB below the full model at a share of the work, from the calibration of the nearest scale."""
    curves = [Calibration.from_dict(curve) for curve in card.get("calibration", ())]
    if not curves:
        return None
    return min(curves, key=lambda curve: abs(curve.scale - scale)).loss_at(share)


def curve_of(task: Task, request: Request, limits: Limits) -> list[tuple[float, float]]:
    """(share of the MACs, PSNR in dB) for the centre of this very picture: shrunk by the scale, enlarged again."""
    loaded = zoo.load(known(request.model))
    scale = min(4.0, max(2.0, request.scale))
    hr = centre(images.open(request.path, max_pixels=limits.max_pixels), round(CROP * scale))
    low = tuple(max(8, round(n / scale)) for n in hr.shape[-2:])
    lr = (imresize(hr.float() / 255, low).clamp(0, 1) * 255).round().to(torch.uint8)  # type: ignore[arg-type]
    progress, points, budgets = follow(task, limits), [], (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
    for index, budget in enumerate(budgets):
        if not progress(index / len(budgets)):
            raise Cancelled("cancelled")
        try:
            done = pipeline.upscale(lr, size=(hr.shape[-2], hr.shape[-1]), budget=budget, model=loaded)
        except ScalewiseError:
            continue  # below this model's floor
        error = (done.image.float() - hr.float()).square().mean().item()
        points.append((done.report.share, 10 * torch.log10(torch.tensor(255**2 / max(error, 1e-9))).item()))
    return points
