"""One picture of `scalewise upscale`: look ahead, refuse early, enlarge, and say what it cost."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scalewise.cli.format import amount, duration, format_line, memory, progress_bar
from scalewise.cli.options import check_files
from scalewise.cli.paths import PictureTask, folders
from scalewise.errors import UnwritableOutput

if TYPE_CHECKING:
    from scalewise.budget.budget import Budget
    from scalewise.budget.cost import CostReport
    from scalewise.execution.checkpoint import RunCheckpoint
    from scalewise.execution.plan import RunOptions, RunPlan
    from scalewise.geometry.grid import Size
    from scalewise.images import Encoding, Source

SHORT_SECONDS = 10  # several pictures that take less are not announced one by one
MUCH_CONTEXT = 0.3  # of the pixels read: worth a warning
ENCODED = {
    ".jpg": 0.35,
    ".jpeg": 0.35,
    ".webp": 0.35,
    ".avif": 0.25,
}  # bytes of a file over those of its pixels, at most


@dataclass(frozen=True)
class UpscaleRequest:
    """What was asked for, of any picture; it can be sent to another machine."""

    model: str
    budget: Budget
    how: RunOptions
    encoding: Encoding
    scale: float | tuple[float, float] | None = None
    size: Size | None = None
    long_edge: int | None = None
    resume: bool | None = None  # None: for long runs

    def size_of(self, size: Size) -> Size:
        """The output size of a picture of `size`."""
        from scalewise.pipeline import wanted_size

        return wanted_size(size, self.scale, self.size, self.long_edge)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, and the state of a weight file: two equal ones ask for the same pictures."""
        from scalewise.storage import stamp
        from scalewise.zoo import file_and_settings

        how = dataclasses.asdict(self.how)
        del how["max_memory"], how["device"]
        weights = stamp(file_and_settings(self.model)[0])
        asked = {"scale": self.scale, "size": self.size, "long_edge": self.long_edge, "weights": weights}
        budget, encoding = dataclasses.asdict(self.budget), dataclasses.asdict(self.encoding)
        return {"model": self.model, "budget": budget, "how": how, "encoding": encoding, **asked}


@dataclass(frozen=True)
class Result:
    """The report of a picture, and the line about it."""

    report: dict[str, Any]
    line: str


@dataclass(frozen=True)
class Run:
    """A model with a wish, loaded once and called for each picture. `say` is told what a run will take."""

    request: UpscaleRequest
    say: Callable[[str], None] | None = None
    bar: bool = False
    alone: bool = False  # one picture, not several
    shown: Callable[[Path], str] = str  # a name as the user gave it
    loaded: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        from scalewise import zoo

        object.__setattr__(self, "loaded", zoo.load(self.request.model, device=self.request.how.device))

    def __call__(self, piece: PictureTask) -> Result:
        from scalewise import images
        from scalewise.execution.pages import enlarge_pages
        from scalewise.execution.planner import plan_run
        from scalewise.pipeline import cropped, effort_picture, provenance

        request, how, model = self.request, self.request.how, self.loaded.model
        source = images.open(piece.source)
        size = request.size_of(source.size)
        with ExitStack() as stack:
            stack.enter_context(folders(piece))
            bar = stack.enter_context(progress_bar(not self.bar))
            check_files([piece.effort], overwrite=piece.overwrite)
            like = source if how.crop is None else replace(cropped(source, how.crop), pages=1)
            encoding = replace(request.encoding, note=provenance(self.loaded.name, source.size, size, request.budget))
            check_output(piece, like, _canvas(source, size, how), encoding)
            run_plan = plan_run(source, size, model, request.budget, how)
            checkpoint = self._journal(stack, piece, run_plan, like)
            run_plan = run_plan if checkpoint is None else checkpoint.run_plan(run_plan)
            check_disk(piece.output, run_plan, checkpoint is not None)
            long = (run_plan.seconds or 0) > SHORT_SECONDS or (self.alone and len(run_plan.tiles) > 1)
            if long and self.say is not None:
                self.say(announcement(run_plan, piece.output, checkpoint is not None))
            album = images.create_pages(
                piece.output,
                like,
                request.size_of if how.crop is None else lambda _: run_plan.canvas,
                encoding=encoding,
                overwrite=piece.overwrite,
                scratch=None if checkpoint is None else checkpoint.pixels,
            )

            def progress(share: float) -> None:
                bar(piece.source.name, share)

            _, report = enlarge_pages(
                album, model, request.budget, how, progress, run_plan=run_plan, checkpoint=checkpoint
            )
            if piece.effort is not None:
                images.save(piece.effort, effort_picture(source, report).numpy(), overwrite=piece.overwrite)
        report = replace(report, notes=(*report.notes, *_notes(source, size)))
        named = {"input": self.shown(piece.source), "output": self.shown(piece.output), "model": self.loaded.name}
        line = summary(self.loaded.name, report, self.shown(piece.output))
        return Result(named | report.as_dict(), line)

    def _journal(self, stack: ExitStack, piece: PictureTask, run_plan: RunPlan, like: Source) -> RunCheckpoint | None:
        """The journal beside the output, if the run is long, or one is there: for a single page."""
        from scalewise.execution.checkpoint import LONG_SECONDS, RunCheckpoint, folder_of, forget, request_of

        kept = folder_of(piece.output).is_dir()
        if self.request.resume is False and kept:
            forget(piece.output)
        long = kept or (run_plan.seconds or 0) > LONG_SECONDS
        wanted = long if self.request.resume is None else self.request.resume
        if self.request.budget.kind == "seconds":
            return None  # what was decided on the way is not kept
        if not wanted or like.pages > 1 or like.path is None:
            return None
        request = request_of(run_plan, self.loaded.model, self.request.budget, piece.output)
        checkpoint = stack.enter_context(RunCheckpoint.of(piece.output, request))
        if checkpoint.said and self.say is not None:
            self.say(f"{piece.output}: {checkpoint.said}")
        return checkpoint


def _canvas(source: Source, out: Size, how: RunOptions) -> Size:
    from scalewise.execution.plan import window_of

    y0, x0, y1, x1 = window_of(source.size, out, how.crop)
    return y1 - y0, x1 - x0


def check_output(piece: PictureTask, like: Source, canvas: Size, encoding: Encoding) -> None:
    """What the format or the disk cannot take is refused before anything is computed. Raises UnwritableOutput."""
    from scalewise.images.encode import check_format
    from scalewise.storage import check_writable

    check_format(piece.output, canvas, like, encoding)
    check_writable(piece.output, overwrite=piece.overwrite)


def check_disk(output: Path, run_plan: RunPlan, kept: bool) -> None:
    """Raises UnwritableOutput if a folder has less room than the run will take there."""
    for folder, needed in _disk(output, run_plan, kept).items():
        with suppress(OSError):
            free = shutil.disk_usage(folder).free
            if needed > free:
                raise UnwritableOutput(
                    f"{str(output)!r} takes {memory(needed)} of disk in {str(folder)!r} while it is made, and "
                    f"{memory(free)} are free: free some, or write to another place"
                )


def _disk(output: Path, run_plan: RunPlan, kept: bool) -> dict[Path, int]:
    """Bytes for each folder: the canvas if it is a file, the encoded picture twice; a large input, decoded."""
    from scalewise.execution.plan import DECODED_BYTES, raw_bytes
    from scalewise.images.sink import CANVAS_BYTES

    source = run_plan.source
    canvas, decoded = raw_bytes(source, run_plan.canvas), raw_bytes(source, source.size)
    file = round(canvas * ENCODED.get(output.suffix.lower(), 1.0))
    found = {output.parent: (canvas if kept or canvas > CANVAS_BYTES else 0) + 2 * file}
    if decoded > DECODED_BYTES:
        place = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
        found[place] = found.get(place, 0) + decoded
    return found


def announcement(run_plan: RunPlan, output: Path, kept: bool) -> str:
    """What a run will take, in one line."""
    height, width = run_plan.canvas
    tiles, disk = len(run_plan.tiles), sum(_disk(output, run_plan, kept).values())
    parts = [
        f"{output.name}: {width}x{height} in {tiles} tile{'s' * (tiles > 1)}",
        f"about {duration(run_plan.seconds or 0)}",
        f"{memory(run_plan.memory)} of memory",
        f"up to {memory(disk)} of disk",
        f"{run_plan.recomputed:.0%} of the pixels read are context, computed more than once",
    ]
    if run_plan.recomputed > MUCH_CONTEXT:
        parts.append("warning: larger tiles (--max-memory, --tile) would be faster")
    return format_line(", ".join(parts))


def summary(model: str, report: CostReport, output: str) -> str:
    """One line about one picture."""
    height, width = report.size
    parts = [
        f"{width}x{height}",
        model,
        f"{amount(report.macs)}MACs" + (f" ({report.share:.1%} of full)" if report.macs_full else ""),
        f"{report.seconds:.2f} s",
        f"peak {memory(report.peak_bytes)}",
        format_line(output),
    ]
    return "  ".join(parts) + "".join(f"; {note}" for note in report.notes)


def _notes(source: Source, size: Size) -> list[str]:
    """What the user may not have meant."""
    notes = []
    rows, columns = (n / m for n, m in zip(size, source.size, strict=True))
    # one pixel of rounding is no stretching
    if abs(rows - columns) * min(source.size) > 1:
        notes.append(f"stretched: ×{columns:.4g} in width, ×{rows:.4g} in height")
    return notes


def echo(line: str) -> None:
    typer.echo(f"scalewise: {line}", err=True)
