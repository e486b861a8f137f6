"""The tiles of one picture, one after another: the next is read and the last one written while one is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from scalewise.budget.cost import Macs
from scalewise.budget.route import effort_map, map_unit
from scalewise.errors import Cancelled, ScalewiseError
from scalewise.execution.plan import RunPlan, full_macs
from scalewise.geometry import tiling
from scalewise.geometry.grid import Box, Size
from scalewise.geometry.projection import reach, read_beyond
from scalewise.geometry.resize import bicubic_base
from scalewise.geometry.tiling import Tile
from scalewise.images.alpha import LOCAL, Weighing
from scalewise.machine.device import numbers, work_alone
from scalewise.machine.memory import is_out_of_memory
from scalewise.models.model import Ready, Rendered, RoutePlan, RowByRow

Progress = Callable[[float], bool | None]

ALPHA_CONTEXT = 3 + LOCAL  # LR pixels beyond a tile that bicubic taps reach, and what weighs opacity beyond them
ROWS = 256  # output rows that are rounded at once


class Canvas(Protocol):
    """Where the pixels of an enlarged picture go: `images.Sink`, or anything that takes rectangles."""

    @property
    def size(self) -> Size: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> None: ...

    def write(self, y0: int, x0: int, rgb: Tensor, alpha: Tensor | None = None) -> None: ...

    def finish(self) -> Any: ...


@dataclass(frozen=True)
class Tally:
    """What the tiles so far cost: the MACs that ran, those without context and rims, those of the full model."""

    ran: Macs
    lean: int
    full: int
    notes: tuple[str, ...] = ()

    def add(self, rendered: Rendered, full: int, notes: Sequence[str] = ()) -> Tally:
        lean = self.lean + rendered.lean
        return Tally(self.ran + rendered.macs, lean, self.full + full, (*self.notes, *notes))


class EffortMap:
    """Where the work went, cell by cell: from the plan, or joined from what the tiles decided while they ran."""

    def __init__(self, size: Size, plan: RoutePlan) -> None:
        self.size = size
        self.planned = bool(plan.route)
        self.unit = map_unit(plan.route) if plan.route else max(size)
        self.cells = effort_map(plan.route)

    def add(self, tile: Tile, rendered: Rendered) -> None:
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


@dataclass
class Run:
    """One picture on its way. `tally` and `effort` grow with every tile; `bands` rows of tiles were finished before.

    `keep`, if any, is called when all pixels of a row of tiles are on the canvas: (its number, the tally, the map).
    `steer`, if any, is asked after each tile, and gives another plan for those behind it, or None.
    """

    run_plan: RunPlan
    plan: RoutePlan
    tally: Tally
    effort: EffortMap
    bands: int = 0
    keep: Callable[[int, Tally, EffortMap], None] | None = None
    steer: Callable[[Run, Tile], RoutePlan | None] | None = None
    _pending: deque[Future[None]] = field(default_factory=deque)

    @classmethod
    def of(cls, run_plan: RunPlan, plan: RoutePlan) -> Run:
        overhead = plan.overhead
        start = Tally(overhead, overhead.total, overhead.total)
        return cls(run_plan, plan, start, EffortMap(run_plan.source.size, plan))

    def band(self, tile: Tile) -> int:
        """The row of tiles that a tile, or a part of one, is in."""
        return tile.core[0] // self.run_plan.side

    def render(self, sink: Canvas, progress: Progress | None = None) -> None:
        """Render all tiles that are not done into `sink`. Raises Cancelled if `progress` says so."""
        beside = partial(ThreadPoolExecutor, 1, initializer=work_alone, initargs=(torch.get_num_threads(),))
        with beside() as reader, beside() as writer:
            try:
                self._render(sink, progress, reader, writer)
            except BaseException:
                reader.shutdown(cancel_futures=True)
                raise

    def _render(
        self, sink: Canvas, progress: Progress | None, reader: ThreadPoolExecutor, writer: ThreadPoolExecutor
    ) -> None:
        tiles = self.run_plan.tiles
        todo = deque(tile for tile in tiles if self.band(tile) >= self.bands)
        count, whole = 0, sum(_area(tile) for tile in tiles)
        done = whole - sum(_area(tile) for tile in todo)
        reading = reader.submit(self._read, todo[0]) if todo else None
        while todo:
            assert reading is not None
            if progress is not None and progress(done / whole) is False:
                raise Cancelled(f"cancelled after {count} of {count + len(todo)} tiles")
            tile, following = todo[0], todo[1] if len(todo) > 1 else None
            try:
                lr, weighing = reading.result()
                reading = reader.submit(self._read, following) if following else None
                sending = _Sending(partial(self._send, writer, sink, tile, weighing))
                rendered, notes = self._rendered(tile, lr, count + 1, sending)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                rendered = lr = weighing = None
            if rendered is None:  # here, where nothing holds on to what the tile had allocated
                todo = deque(self._smaller(todo))
                reading = reader.submit(self._read, todo[0])
                continue
            todo.popleft()
            count, done = count + 1, done + _area(tile)
            self.tally = self.tally.add(rendered, full_macs(self.run_plan.model, tile, self.run_plan), notes)
            self.effort.add(tile, rendered)
            changed = self.steer(self, tile) if self.steer is not None else None
            if changed is not None:
                self.plan = changed
                if self.effort.planned:
                    self.effort = EffortMap(self.run_plan.source.size, changed)
            finished = not todo or self.band(todo[0]) > self.band(tile)
            sending(rendered.rgb, rendered.rgb.shape[-2])
            self._wait(2)
            if finished and self.keep is not None:
                effort = kept_map(self.effort)
                self._queue(writer, partial(self.keep, self.band(tile), self.tally, effort))
                self._wait()  # so that no more than the row that is being worked on can be lost
        self._wait()

    def _wait(self, most: int = 0) -> None:
        """Until no more than so many works of the writer are left. Raises what they raised."""
        while len(self._pending) > most:
            self._pending.popleft().result()

    def _queue(self, writer: ThreadPoolExecutor, work: Callable[[], None]) -> None:
        """After one that failed, none runs. It waits for nothing, as it is called while a tile is computed: what the
        writer raises is no error of the model's."""
        before = self._pending[-1] if self._pending else None
        mode = torch.is_inference_mode_enabled()  # of this thread, which the writer has to share

        def run() -> None:
            if before is not None:
                before.result()
            with torch.inference_mode(mode):
                work()

        self._pending.append(writer.submit(run))

    def _smaller(self, todo: Sequence[Tile]) -> list[Tile]:
        """What is left to do, in tiles of half the side. Raises ScalewiseError if there are no smaller ones."""
        run_plan, core = self.run_plan, todo[0].core
        now, grid = max(core[2] - core[0], core[3] - core[1]), run_plan.model.grid
        side = -(-now // (2 * grid)) * grid
        if run_plan.device.type == "cuda":
            torch.cuda.empty_cache()
        if side >= now:
            raise ScalewiseError(f"memory ran out, even with tiles of {now} pixels: free some, or use another model")
        self.steer = None  # it counts the tiles that were planned
        note = f"memory ran out with tiles of {now}: the rest was done in tiles of {side}"
        self.tally = replace(self.tally, notes=(*self.tally.notes, note))
        places = {"grid": grid, "context": run_plan.context, "unit": run_plan.model.unit, "frame": run_plan.frame}
        return tiling.plan_tiles(
            run_plan.source.size, run_plan.out, side=side, **places, parts=[tile.core for tile in todo]
        )

    def _rendered(self, tile: Tile, lr: Tensor, number: int, ready: _Sending) -> tuple[Rendered, list[str]]:
        rendered, retried = render_tile(self.run_plan, self.plan, tile, lr, ready)
        if retried and ready.rows:
            return rendered, [f"tile {number} was not finite in bf16 and was redone in fp32 below row {ready.rows}"]
        return rendered, [f"tile {number} was not finite in bf16 and was redone in fp32"] if retried else []

    def _read(self, tile: Tile) -> tuple[Tensor, Weighing | None]:
        """What a tile sees, (1, 3, h, w), and what its opacity makes of the result."""
        source, frame = self.run_plan.source, self.run_plan.frame
        lr = read_beyond(partial(source.read, bled=True), frame, tile.source).unsqueeze(0)
        if not source.alpha:
            return lr, None
        top, left, bottom, right = reach(frame)
        box: Box = (
            max(top, tile.core[0] - ALPHA_CONTEXT),
            max(left, tile.core[1] - ALPHA_CONTEXT),
            min(bottom, tile.core[2] + ALPHA_CONTEXT),
            min(right, tile.core[3] + ALPHA_CONTEXT),
        )
        alpha = read_beyond(source.read_alpha, frame, box)  # type: ignore[arg-type]
        colour, bled = (read_beyond(partial(source.read, bled=bled), frame, box) for bled in (False, True))

        def interpolated(planes: Tensor) -> Tensor:
            return bicubic_base(planes, replace(frame, origin=box[:2]), self.run_plan.out, tile.target)

        return lr, Weighing(colour, bled, alpha, interpolated)

    def _send(
        self,
        writer: ThreadPoolExecutor,
        sink: Canvas,
        tile: Tile,
        weighing: Weighing | None,
        rgb: Tensor,
        first: int,
        last: int,
    ) -> None:
        self._queue(writer, partial(self._write, sink, tile, weighing, rgb.cpu(), first, last))

    def _write(self, sink: Canvas, tile: Tile, weighing: Weighing | None, rgb: Tensor, first: int, last: int) -> None:
        """Put the rows first..last-1 of a tile, as far as they lie in the window, on the canvas, a few at a time."""
        (top, left, _, right), window = tile.target, self.run_plan.window
        y0, x0 = max(top + first, window[0]), max(left, window[1])
        y1, x1 = min(top + last, window[2]), min(right, window[3])
        for y in range(y0, y1, ROWS):
            rows, columns = slice(y - top, min(y + ROWS, y1) - top), slice(x0 - left, x1 - left)
            whole = rgb[:, rows, columns], None
            part, alpha = whole if weighing is None else weighing(rgb, rows, columns)
            sink.write(y - window[0], x0 - window[1], part, alpha)


def finite(rgb: Tensor) -> bool:
    """True if every number is: NaN and infinity survive a sum, and one number is quicker to look at than all."""
    return bool(torch.isfinite(rgb.sum(dtype=torch.float32)))


def render_tile(
    run_plan: RunPlan, plan: RoutePlan, tile: Tile, lr: Tensor, ready: Ready | None = None
) -> tuple[Rendered, bool]:
    """One tile; redone in fp32 if it is not finite. True if it was. `ready` is told of rows, all finite, that are there
    before the others, where the model can say so: they are on their way, and stay as they are."""
    model, device, dtype = run_plan.model, run_plan.device, run_plan.dtype
    lr = lr.to(device).contiguous(memory_format=torch.channels_last)
    frame = replace(run_plan.frame, origin=tile.source[:2])
    looked = 0  # rows at which was looked

    def look(rgb: Tensor, rows: int) -> None:
        nonlocal looked
        if rows > looked:
            if not finite(rgb[:, looked:rows]):
                raise _NotFinite
            looked = rows
            if ready is not None:
                ready(rgb, rows)

    with suppress(_NotFinite), numbers(device, dtype):
        # from a GPU the rows are fetched at once: it would have to wait for them
        if ready is not None and device.type == "cpu" and isinstance(model, RowByRow):
            rendered = model.render_rows(lr, frame, tile.core, run_plan.out, plan, look)
        else:
            rendered = model.render(lr, frame, tile.core, run_plan.out, plan)
        if finite(rendered.rgb[:, looked:]):
            return rendered, False
    if dtype != torch.float32:
        rendered = model.render(lr, frame, tile.core, run_plan.out, plan)
        if finite(rendered.rgb):
            return rendered, True
    raise ScalewiseError("the model gave numbers that are not finite, in fp32 too: its weights do not fit this picture")


class _NotFinite(Exception):
    """Rows of a tile are not."""


@dataclass
class _Sending:
    """Sends the rows of a tile to the canvas, each once: `send(rgb, first, last)`."""

    send: Callable[[Tensor, int, int], None]
    rows: int = 0

    def __call__(self, rgb: Tensor, rows: int) -> None:
        if rows > self.rows:
            self.send(rgb, self.rows, rows)
            self.rows = rows


def kept_map(effort: EffortMap) -> EffortMap:
    """A copy that later tiles do not change."""
    copy = object.__new__(EffortMap)
    copy.__dict__.update(effort.__dict__, cells=effort.cells.clone())
    return copy


def _area(tile: Tile) -> int:
    return (tile.core[2] - tile.core[0]) * (tile.core[3] - tile.core[1])
