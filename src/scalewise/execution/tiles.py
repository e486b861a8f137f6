"""The tiles of one picture, one after another: the next is read and the last one written while one is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Event
from typing import Any, Protocol

import torch
from torch import Tensor

from scalewise.budget.cost import Macs
from scalewise.budget.meter import tick
from scalewise.budget.route import effort_map, map_unit
from scalewise.errors import ScalewiseError
from scalewise.execution.plan import RunPlan, area
from scalewise.execution.progress import ProgressMeter
from scalewise.geometry.grid import Box, Size
from scalewise.geometry.projection import reach, read_beyond
from scalewise.geometry.resize import bicubic_base
from scalewise.geometry.tiling import Tile
from scalewise.images.alpha import LOCAL, Weighing
from scalewise.machine.device import DTYPES, numbers, use_one_thread
from scalewise.machine.memory import is_out_of_memory
from scalewise.models.model import OnRows, Rendered, RoutePlan, RowByRow

ALPHA_CONTEXT = 3 + LOCAL  # LR pixels beyond a tile that bicubic taps reach, and what weighs opacity beyond them
ROUNDED_ROWS = 256  # output rows that are rounded at once
POLL_SECONDS = 0.1  # between two looks at whether a run was cancelled, while the writer is waited for
WEIGHED_ROWS = 64  # the same where opacity weighs them, which takes some 80 bytes a pixel
MAX_PENDING = 2  # calls that may wait for the writer while the next tile is computed


class Canvas(Protocol):
    """Where the pixels of an enlarged picture go: `images.Sink`, or anything that takes rectangles."""

    @property
    def size(self) -> Size: ...

    def __enter__(self) -> Any: ...

    def __exit__(self, kind: Any, error: Any, trace: Any, /) -> None: ...

    def write(self, y0: int, x0: int, rgb: Tensor, alpha: Tensor | None = None) -> None: ...

    def finish(self) -> Any: ...


@dataclass
class Tally:
    """What the tiles so far cost, and where.

    `ran` are the MACs that ran, `lean` those without context and rims, `full` those of the full model. `cells` is the
    effort map (gy, gx), whose cells are `unit` LR pixels wide: that of the plan, or joined from what tiles decided
    while they ran, if it is not `planned`.
    """

    ran: Macs
    lean: int
    full: int
    unit: int
    cells: Tensor
    planned: bool
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, size: Size, plan: RoutePlan) -> Tally:
        """Before the first tile: the router has run."""
        overhead, planned = plan.overhead, bool(plan.route)
        unit = map_unit(plan.route) if planned else max(size)
        return cls(overhead, overhead.total, overhead.total, unit, effort_map(plan.route), planned)

    def add(self, size: Size, tile: Tile, rendered: Rendered, full: int) -> None:
        """Count a tile of a picture of `size`, which costs `full` MACs with everything on."""
        self.ran += rendered.macs
        self.lean += rendered.lean
        self.full += full
        if not self.planned and rendered.route:
            self._place(size, tile, effort_map(rendered.route), map_unit(rendered.route))

    def _place(self, size: Size, tile: Tile, cells: Tensor, unit: int) -> None:
        if unit != self.unit:
            self.unit = unit
            self.cells = torch.ones(tuple(-(-n // unit) for n in size))
        top, left, bottom, right = (
            tile.core[0] // unit,
            tile.core[1] // unit,
            -(-tile.core[2] // unit),
            -(-tile.core[3] // unit),
        )
        y, x = top - tile.source[0] // unit, left - tile.source[1] // unit
        self.cells[top:bottom, left:right] = cells[y : y + bottom - top, x : x + right - left]

    def snapshot(self) -> Tally:
        """A copy that later tiles do not change."""
        return replace(self, cells=self.cells.clone())


@dataclass
class TileRunner:
    """Renders the tiles of one picture. `tally` grows with every tile; the first `rows` rows of tiles were rendered by
    an earlier run.

    `on_row`, if any, is called when a row of tiles is rendered, with the number of tiles rendered so far: it gives
    another plan for the rows below, or None. `on_row_written` is called when all pixels of a row are on the canvas,
    with the number of the row and what the tiles so far cost.
    """

    run_plan: RunPlan
    plan: RoutePlan
    tally: Tally
    meter: ProgressMeter | None = None
    on_row: Callable[[TileRunner, int], RoutePlan | None] | None = None
    rows: int = 0
    on_row_written: Callable[[int, Tally], None] | None = None
    _pending: deque[Future[None]] = field(default_factory=deque)
    _ended: Event = field(default_factory=Event)  # the run was cancelled, or failed
    _sent: int = 0  # rows of the tile in work that are on their way to the canvas

    @classmethod
    def of(
        cls,
        run_plan: RunPlan,
        plan: RoutePlan,
        meter: ProgressMeter | None = None,
        on_row: Callable[[TileRunner, int], RoutePlan | None] | None = None,
    ) -> TileRunner:
        return cls(run_plan, plan, Tally.of(run_plan.source.size, plan), meter, on_row)

    def row(self, tile: Tile) -> int:
        """The row of tiles that a tile, or a part of one, is in."""
        return tile.core[0] // self.run_plan.side

    def render(self, sink: Canvas) -> None:
        """Render all tiles that are not done into `sink`. Raises Cancelled if `progress` says so."""
        helper = partial(ThreadPoolExecutor, 1, initializer=use_one_thread, initargs=(torch.get_num_threads(),))
        with helper() as reader, helper() as writer:
            try:
                self._render(sink, reader, writer)
            except BaseException:
                self._ended.set()
                reader.shutdown(cancel_futures=True)
                raise

    def _render(self, sink: Canvas, reader: ThreadPoolExecutor, writer: ThreadPoolExecutor) -> None:
        tiles = self.run_plan.tiles
        todo = deque(tile for tile in tiles if self.row(tile) >= self.rows)
        before = len(tiles) - len(todo)
        count, whole = 0, sum(area(tile.core) for tile in tiles)
        done = whole - sum(area(tile.core) for tile in todo)
        reading = reader.submit(self._read, todo[0]) if todo else None
        while todo:
            assert reading is not None
            tile, following = todo[0], todo[1] if len(todo) > 1 else None
            full = self.run_plan.full_macs(tile)
            if self.meter is not None:
                share = self.plan.macs / max(self.plan.macs_full, 1)
                place = f"after {count} of {count + len(todo)} tiles"
                self.meter.begin_tile(done / whole, (done + area(tile.core)) / whole, share * full, place)
            self._sent = 0
            try:
                lr, weighing = reading.result()
                reading = reader.submit(self._read, following) if following else None
                send = partial(self._send, writer, sink, tile, weighing)
                rendered, redone = render_tile(self.run_plan, self.plan, tile, lr, send)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                rendered = lr = weighing = send = None
                redone = False
            if rendered is None or send is None:  # outside the handler, whose error holds what the tile had allocated
                todo = deque(self._smaller(todo))
                reading = reader.submit(self._read, todo[0])
                continue
            todo.popleft()
            count, done = count + 1, done + area(tile.core)
            if redone:
                name = next(name for name, dtype in DTYPES.items() if dtype == self.run_plan.dtype)
                below = f" below row {self._sent}" if self._sent else ""
                self._note(f"tile {count} was not finite in {name} and was redone in fp32{below}")
            self.tally.add(self.run_plan.source.size, tile, rendered, full)
            row_ends = not todo or self.row(todo[0]) > self.row(tile)
            if row_ends and self.on_row is not None and (plan := self.on_row(self, before + count)) is not None:
                self.plan = plan
                if self.tally.planned:
                    self.tally.cells = effort_map(plan.route)
            send(rendered.rgb, rendered.rgb.shape[-2])
            self._wait(MAX_PENDING)
            if row_ends and self.on_row_written is not None:
                self._queue(writer, partial(self.on_row_written, self.row(tile), self.tally.snapshot()))
                self._wait()  # so that no more than the row in work can be lost
        self._wait()

    def _wait(self, most: int = 0) -> None:
        """Wait until at most so many calls are left for the writer. Raises what they raised."""
        while len(self._pending) > most:
            work = self._pending.popleft()
            while not wait((work,), POLL_SECONDS).done:
                tick()
            work.result()

    def _queue(self, writer: ThreadPoolExecutor, work: Callable[[], None]) -> None:
        """Hand a call to the writer; after one that failed, none runs.

        It waits for nothing, as it is called while a tile is computed: what the writer raises is no error of the
        model's."""
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
        now, grid = max(core[2] - core[0], core[3] - core[1]), run_plan.model.limits.patch_stride
        side = -(-now // (2 * grid)) * grid
        if run_plan.device.type == "cuda":
            torch.cuda.empty_cache()
        if side >= now:
            raise ScalewiseError(f"memory ran out, even with tiles of {now} pixels: free some, or use another model")
        self.on_row = None  # it counts the tiles that were planned
        self._note(f"memory ran out with tiles of {now}: the rest was done in tiles of {side}")
        return run_plan.cut(side, [tile.core for tile in todo])

    def _note(self, note: str) -> None:
        self.tally.notes = (*self.tally.notes, note)

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

        def interpolated(planes: Tensor, rows: slice) -> Tensor:
            y, left, _, right = tile.target
            target = y + rows.start, left, y + rows.stop, right
            return bicubic_base(planes, replace(frame, origin=box[:2]), self.run_plan.out, target)

        return lr, Weighing(colour, bled, alpha, interpolated)

    def _send(
        self,
        writer: ThreadPoolExecutor,
        sink: Canvas,
        tile: Tile,
        weighing: Weighing | None,
        rgb: Tensor,
        rows: int,
    ) -> None:
        """Send the first `rows` rows of a tile to the canvas, each once."""
        if rows > self._sent:
            self._queue(writer, partial(self._write, sink, tile, weighing, rgb.cpu(), self._sent, rows))
            self._sent = rows

    def _write(self, sink: Canvas, tile: Tile, weighing: Weighing | None, rgb: Tensor, first: int, last: int) -> None:
        """Put the rows first..last-1 of a tile, as far as they lie in the window, on the canvas, a few at a time."""
        (top, left, _, right), window = tile.target, self.run_plan.window
        y0, x0 = max(top + first, window[0]), max(left, window[1])
        y1, x1 = min(top + last, window[2]), min(right, window[3])
        step = ROUNDED_ROWS if weighing is None else WEIGHED_ROWS
        for y in range(y0, y1, step):
            if self._ended.is_set():  # nobody wants the rest
                return
            rows, columns = slice(y - top, min(y + step, y1) - top), slice(x0 - left, x1 - left)
            whole = rgb[:, rows, columns], None
            part, alpha = whole if weighing is None else weighing(rgb, rows, columns)
            sink.write(y - window[0], x0 - window[1], part, alpha)


def finite(rgb: Tensor) -> bool:
    """True if every number is: NaN and infinity survive a sum, and one number is quicker to look at than all."""
    return bool(torch.isfinite(rgb.sum(dtype=torch.float32)))


def render_tile(run_plan: RunPlan, plan: RoutePlan, tile: Tile, lr: Tensor, on_rows: OnRows) -> tuple[Rendered, bool]:
    """One tile, and whether it was redone in fp32, as it was not finite in 16 bits. Raises ScalewiseError if it is not
    finite in fp32 either.

    Where the model renders row by row, `on_rows` gets the rows that are final while others are still computed. All of
    them are finite, and they are not redone.
    """
    model, device, dtype = run_plan.model, run_plan.device, run_plan.dtype
    lr = lr.to(device).contiguous(memory_format=torch.channels_last)
    frame = run_plan.frame_at(tile)
    checked = 0  # rows

    def check(rgb: Tensor, rows: int) -> None:
        nonlocal checked
        if rows > checked:
            if not finite(rgb[:, checked:rows]):
                raise _NotFinite
            checked = rows
            on_rows(rgb, rows)

    with suppress(_NotFinite), numbers(device, dtype):
        # A GPU's rows are sent at the end: to copy some of them it would have to wait for them.
        if device.type == "cpu" and isinstance(model, RowByRow):
            rendered = model.render_rows(lr, frame, tile.core, run_plan.out, plan, check)
        else:
            rendered = model.render(lr, frame, tile.core, run_plan.out, plan)
        if finite(rendered.rgb[:, checked:]):
            return rendered, False
    if dtype != torch.float32:
        rendered = model.render(lr, frame, tile.core, run_plan.out, plan)
        if finite(rendered.rgb):
            return rendered, True
    raise ScalewiseError("the model gave numbers that are not finite, in fp32 too: its weights do not fit this picture")


class _NotFinite(Exception):
    """Some rows of a tile are not finite."""
