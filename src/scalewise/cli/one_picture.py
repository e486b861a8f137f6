"""One picture of `scalewise upscale`: plan it, refuse early, enlarge it, and say what it cost."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scalewise.cli.format import amount, duration, format_line, memory, progress_bar
from scalewise.cli.options import write_json
from scalewise.cli.paths import LARGE, MADE, PassedOver, PictureTask, folders
from scalewise.errors import UnwritableOutput

if TYPE_CHECKING:
    from scalewise.budget.budget import Budget
    from scalewise.budget.cost import CostReport
    from scalewise.execution.arrivals import Arrivals
    from scalewise.execution.checkpoint import RunCheckpoint
    from scalewise.execution.plan import RunOptions, RunPlan
    from scalewise.geometry.grid import Size
    from scalewise.geometry.sizes import Sides
    from scalewise.images import Encoding, Source

SHORT_SECONDS = 10  # several pictures that take less are not announced one by one
MUCH_CONTEXT_SHARE = 0.3  # a share of the pixels read that is worth a warning
# Bytes of an encoded file over those of its pixels, at most; 1 for other formats.
ENCODED_SHARE = {".jpg": 0.35, ".jpeg": 0.35, ".jpe": 0.35, ".jfif": 0.35, ".webp": 0.35, ".avif": 0.25}


@dataclass(frozen=True)
class UpscaleRequest:
    """What was asked for, of any picture; it can be sent to another machine."""

    model: str
    budget: Budget
    how: RunOptions
    encoding: Encoding
    scale: float | tuple[float, float] | None = None
    size: Sides | None = None
    long_edge: int | None = None
    resume: bool | None = None  # None: for long runs
    restart: bool = False
    restore: str | None = None

    def size_of(self, size: Size) -> Size:
        """The output size of a picture of `size`."""
        from scalewise.geometry.sizes import wanted_size

        return wanted_size(size, self.scale, self.size, self.long_edge)

    def is_large_enough(self, size: Size) -> bool:
        """True if a picture of `size` has more pixels on a side than were asked for."""
        if self.long_edge is not None:
            return max(size) > self.long_edge
        sides = zip(size, self.size or (), strict=False)
        return any(target is not None and n > target for n, target in sides)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, and the state of a weight file: two equal ones ask for the same pictures."""
        from scalewise.storage import stamp
        from scalewise.zoo import file_and_settings

        how = dataclasses.asdict(self.how)
        del how["max_memory"], how["device"], how["mirror"]
        files = [file_and_settings(name)[0] for name in (self.model, self.restore) if name is not None]
        if self.how.effort_mask is not None:
            files.append(Path(str(self.how.effort_mask)))
        asked = {"scale": self.scale, "size": self.size, "long_edge": self.long_edge, "restore": self.restore}
        asked["weights"] = [stamp(file) for file in files]
        budget, encoding = dataclasses.asdict(self.budget), dataclasses.asdict(self.encoding)
        return {"model": self.model, "budget": budget, "how": how, "encoding": encoding, **asked}


@dataclass(frozen=True)
class Result:
    """The report of a picture, and the line about it."""

    report: dict[str, Any]
    line: str


@dataclass(frozen=True)
class UpscaleCommand:
    """A model with a request, loaded once and called for each picture. `say` prints what a run will take; `manifest`
    is the digest of the request in the manifests of the results, None without them."""

    request: UpscaleRequest
    say: Callable[[str], None] | None = None
    bar: bool = False
    alone: bool = False  # one picture, not several
    shown: Callable[[Path], str] = str  # a name as the user gave it
    manifest: str | None = None
    loaded: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        from scalewise import zoo

        loaded = zoo.load(self.request.model, device=self.request.how.device)
        if self.request.restore is not None:
            from scalewise.pipeline import restored

            before = zoo.load(self.request.restore, device=self.request.how.device)
            name = f"{before.name} + {loaded.name}"
            loaded = replace(loaded, name=name, model=restored(before.model, loaded.model))
        object.__setattr__(self, "loaded", loaded)

    def __call__(self, task: PictureTask) -> Result | PassedOver:
        from scalewise import images

        source = images.open(task.source)
        if not self.alone and self.request.is_large_enough(source.size):
            return PassedOver(LARGE, f"it has {format_size(source.size)} pixels")
        size = self.request.size_of(source.size)
        if not self.alone and self._is_made(task, source, size):
            return PassedOver(MADE, f"{self.shown(task.output)} is its result")
        with ExitStack() as stack:
            stack.enter_context(folders(task))
            bar = stack.enter_context(progress_bar(not self.bar))
            report, task = self._enlarge(stack, task, source, size, lambda share: bar(task.source.name, share))
            report = replace(report, notes=(*report.notes, *_stretched(source, size)))
            named = {"input": self.shown(task.source), "output": self.shown(task.output), "model": self.loaded.name}
            result = Result(named | report.as_dict(), summary(self.loaded.name, report, self.shown(task.output)))
            if task.report is not None:
                write_json(task.report, result.report, overwrite=task.may_replace(task.report))
        return result

    def _is_made(self, task: PictureTask, source: Source, size: Size) -> bool:
        """True if the result lies next to its input, made by a command for this picture alone: no manifest lists it,
        but it says itself what made it."""
        from scalewise.batch.files import is_made
        from scalewise.pipeline import provenance

        if task.listed or task.top is not None or task.may_replace(task.output) or self.request.how.crop is not None:
            return False
        if task.effort is not None and not os.path.lexists(task.effort):
            return False
        note = provenance(self.loaded.name, source.size, size, self.request.budget)
        return is_made(task.output, task.source, note, size)

    def _enlarge(
        self, stack: ExitStack, task: PictureTask, source: Source, size: Size, progress: Callable[[float], None]
    ) -> tuple[CostReport, PictureTask]:
        """Write the picture and its effort map; the report, and the task with the files that it may replace.

        What `stack` holds lasts until the report is written too.
        """
        from scalewise import images
        from scalewise.execution import checkpoint as checkpoints
        from scalewise.execution.arrivals import Arrivals
        from scalewise.execution.pages import enlarge_pages
        from scalewise.execution.planner import plan_run
        from scalewise.pipeline import cropped, effort_picture, provenance
        from scalewise.storage import on_arrival

        request, how, model = self.request, self.request.how, self.loaded.model
        canvas = _canvas(source, size, how)
        like = source if how.crop is None else replace(cropped(source, how.crop), pages=1)
        encoding = replace(request.encoding, note=provenance(self.loaded.name, source.size, size, request.budget))
        images.check_format(task.output, canvas, like, encoding)
        if not checkpoints.exists(task.output):  # else it may know that these files are its own
            check_free(task)
        run_plan = plan_run(source, size, model, request.budget, how)
        checkpoint = self._checkpoint(stack, task, run_plan, like)
        keeper: RunCheckpoint | Arrivals | None = checkpoint
        if checkpoint is not None:
            run_plan = checkpoint.run_plan
        elif like.path is not None and self.manifest is None:  # a manifest knows its files itself
            what = partial(checkpoints.request_of, run_plan, model, request.budget, task.output)
            keeper = stack.enter_context(Arrivals.of(task.output, what))
        if keeper is not None:
            task = replace(task, own=task.own | {path for path in task.files if keeper.owns(path)})
        check_free(task)
        check_disk(task.output, run_plan, checkpoint is not None)
        long = (run_plan.seconds or 0) > SHORT_SECONDS or (self.alone and len(run_plan.tiles) > 1)
        if long and self.say is not None:
            self.say(announcement(run_plan, task.output, checkpoint is not None))
        stack.enter_context(
            on_arrival(
                _recorder(task, self.manifest, keeper if checkpoint is not None or len(task.files) > 1 else None)
            )
        )
        writer = images.create_pages(
            task.output,
            like,
            request.size_of if how.crop is None else lambda _: run_plan.canvas,
            encoding=encoding,
            overwrite=task.may_replace(task.output),
            scratch=None if checkpoint is None else checkpoint.pixels,
        )
        _, report = enlarge_pages(
            writer, model, request.budget, how, progress, run_plan=run_plan, checkpoint=checkpoint
        )
        if task.effort is not None:
            effort = effort_picture(source, report).numpy()
            noted = images.Encoding(note=encoding.note)  # so that a later run for the folder knows it for a result
            images.save(task.effort, effort, encoding=noted, overwrite=task.may_replace(task.effort))
        return report, task

    def _checkpoint(self, stack: ExitStack, task: PictureTask, run_plan: RunPlan, like: Source) -> RunCheckpoint | None:
        """The checkpoint next to the output, if the run is long, or one is there: for a single page."""
        from scalewise.execution.checkpoint import LONG_SECONDS, RunCheckpoint, has_rows, request_of

        request = self.request
        long = has_rows(task.output) or (run_plan.seconds or 0) > LONG_SECONDS
        wanted = long or request.restart if request.resume is None else request.resume
        # Under a deadline, decisions change on the way, and are not stored.
        if request.budget.kind == "seconds" or like.pages > 1 or like.path is None:
            wanted = False
        if not wanted:
            return None
        what = request_of(run_plan, self.loaded.model, request.budget, task.output)
        checkpoint = stack.enter_context(RunCheckpoint.of(task.output, what, run_plan, restart=request.restart))
        if checkpoint.notes and self.say is not None:
            self.say(format_line(f"{task.output}: {checkpoint.notes}"))
        return checkpoint


def _recorder(
    task: PictureTask, manifest: str | None, keeper: RunCheckpoint | Arrivals | None
) -> Callable[[Path, list[int]], None]:
    """Writes down that a file of a task is about to get its name, wherever a later run looks for that."""
    from scalewise.batch.manifest import MANIFEST, record_arrival

    ours = {os.path.abspath(path) for path in task.files}

    def record(path: Path, arriving: list[int]) -> None:
        if os.path.abspath(path) not in ours:
            return
        if keeper is not None:
            keeper.arriving(path, arriving)
        if manifest is not None:
            record_arrival(task.home / MANIFEST, manifest, task.source, path, arriving)

    return record


def _canvas(source: Source, out: Size, how: RunOptions) -> Size:
    from scalewise.execution.plan import window_of

    y0, x0, y1, x1 = window_of(source.size, out, how.crop)
    return y1 - y0, x1 - x0


def check_free(task: PictureTask) -> None:
    """Raise UnwritableOutput now, and not after the work, for a file that cannot be written."""
    from scalewise.storage import check_writable

    for path in task.files:
        check_writable(path, overwrite=task.may_replace(path))


def check_disk(output: Path, run_plan: RunPlan, checkpoint: bool) -> None:
    """Raises UnwritableOutput if a folder has less room than the run will take there."""
    for folder, needed in _disk(output, run_plan, checkpoint).items():
        with suppress(OSError):
            free = shutil.disk_usage(folder).free
            if needed > free:
                raise UnwritableOutput(
                    f"{str(output)!r} takes {memory(needed)} of disk in {str(folder)!r} while it is made, and "
                    f"{memory(free)} are free: free some, or write to another place"
                )


def _disk(output: Path, run_plan: RunPlan, checkpoint: bool) -> dict[Path, int]:
    """Bytes for each folder: the canvas if it is a file, the encoded picture twice; a large input, decoded."""
    from scalewise.execution.plan import DECODED_BYTES, raw_bytes
    from scalewise.images.sink import CANVAS_BYTES

    source = run_plan.source
    canvas, decoded = raw_bytes(source, run_plan.canvas), raw_bytes(source, source.size)
    file = round(canvas * ENCODED_SHARE.get(output.suffix.lower(), 1.0))
    found = {output.parent: (canvas if checkpoint or canvas > CANVAS_BYTES else 0) + 2 * file}
    if decoded > DECODED_BYTES:
        temporary = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
        found[temporary] = found.get(temporary, 0) + decoded
    return found


def announcement(run_plan: RunPlan, output: Path, checkpoint: bool) -> str:
    """What a run will take, in one line."""
    tiles, disk = len(run_plan.tiles), sum(_disk(output, run_plan, checkpoint).values())
    parts = [
        f"{output.name}: {format_size(run_plan.canvas)} in {tiles} tile{'s' * (tiles > 1)}",
        f"about {duration(run_plan.seconds or 0)}",
        f"{memory(run_plan.memory)} of memory",
        f"up to {memory(disk)} of disk",
        f"{run_plan.recomputed:.0%} of the pixels read are context, computed more than once",
    ]
    if run_plan.recomputed > MUCH_CONTEXT_SHARE:
        parts.append("warning: larger tiles (--max-memory, --tile) would be faster")
    return format_line(", ".join(parts))


def summary(model: str, report: CostReport, output: str) -> str:
    """One line about one picture."""
    parts = [
        format_size(report.size),
        model,
        f"{amount(report.macs)}MACs" + (f" ({report.share:.1%} of full)" if report.macs_full else ""),
        f"{report.seconds:.2f} s",
        f"peak {memory(report.peak_bytes)}",
        format_line(output),
    ]
    return "  ".join(parts) + "".join(f"; {note}" for note in report.notes)


def format_size(size: Size) -> str:
    """(rows, columns) as width x height."""
    return f"{size[1]}x{size[0]}"


def _stretched(source: Source, size: Size) -> list[str]:
    """What the user may not have meant."""
    notes = []
    rows, columns = (n / m for n, m in zip(size, source.size, strict=True))
    # One pixel of rounding is no stretching.
    if abs(rows - columns) * min(source.size) > 1:
        notes.append(f"stretched: ×{columns:.4g} in width, ×{rows:.4g} in height")
    return notes


def echo(line: str) -> None:
    typer.echo(f"scalewise: {line}", err=True)
