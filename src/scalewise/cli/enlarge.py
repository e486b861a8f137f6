"""`scalewise upscale`: files and folders, larger."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalewise.cli.common import (
    FILES,
    RUNNING,
    Device,
    Fp32,
    Number,
    Overwrite,
    Quiet,
    Threads,
    TileSide,
    amount,
    check_files,
    job,
    memory,
    parse_scale,
    parse_size,
    progress_bar,
    use_threads,
    write_json,
)
from scalewise.errors import InvalidRequest, ScalewiseError, UnreadableImage, UnwritableOutput

if TYPE_CHECKING:
    from scalewise.cost import CostReport
    from scalewise.effort import Budget
    from scalewise.grid import Size
    from scalewise.images import Source
    from scalewise.pipeline import Job
    from scalewise.zoo import LoadedModel

SIZE = "How large (one of these)"


def upscale(
    inputs: Annotated[list[str] | None, typer.Argument(metavar="INPUT...", help="Pictures, and folders of them.")] = None,
    more: Annotated[
        list[str] | None, typer.Option("--input", "-i", metavar="INPUT", help="The same as INPUT.", rich_help_panel=FILES)
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="A file, or a folder (one that exists, or ends with /). Default: beside the input, with a suffix.",
            rich_help_panel=FILES,
        ),
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option("--scale", "-s", help="3.7, or width x height: 2x1.5. From 1 to 100.", rich_help_panel=SIZE),
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", help="Width x height in pixels: 3840x2160.", rich_help_panel=SIZE)
    ] = None,
    long_edge: Annotated[
        int | None, typer.Option("--long-edge", help="Pixels of the longer side.", rich_help_panel=SIZE)
    ] = None,
    name: Annotated[
        str,
        typer.Option(
            "--model", "-n", metavar="MODEL|FILE", help="A name of `scalewise models`, or a weight file: FILE, FILE:key=value,…"
        ),
    ] = "fast",
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="A share of the full model's MACs, 50% or 0.5, or MACs: 2e12macs. Default: 100%."),
    ] = None,
    tile: TileSide = 0,
    device: Device = None,
    dtype: Number = "auto",
    fp32: Fp32 = False,
    threads: Threads = None,
    exact_scale: Annotated[
        bool,
        typer.Option(
            "--exact-scale", help="Refuse scales that the model was not made for, instead of resizing.", rich_help_panel=RUNNING
        ),
    ] = False,
    effort_map: Annotated[
        str | None,
        typer.Option(
            "--effort-map", help="Draw where the work went, to a .png; a folder for several inputs.", rich_help_panel=FILES
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", help="Write the costs as JSON; a list for several inputs or a folder.", rich_help_panel=FILES),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Sub-folders too; they are kept below -o.", rich_help_panel=FILES)
    ] = False,
    overwrite: Overwrite = False,
    suffix: Annotated[
        str | None,
        typer.Option(
            "--suffix", help="Put behind the name. Default: _x3.7 beside the input, nothing below -o.", rich_help_panel=FILES
        ),
    ] = None,
    ext: Annotated[
        str | None, typer.Option("--ext", help="png, jpg, webp, tif, avif. Default: the input's.", rich_help_panel=FILES)
    ] = None,
    quality: Annotated[
        int | None, typer.Option("--quality", help="1 to 100, of jpg, webp and avif. Default: 95.", rich_help_panel=FILES)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Enlarge pictures by any factor, within a budget.

    scalewise upscale photo.jpg -s 3.7 --budget 50%
    """
    if sum(x is not None for x in (scale, size, long_edge)) != 1:
        raise InvalidRequest("say how large, by one of these: -s 2, --size 3840x2160, --long-edge 3000")
    names = [*(inputs or ()), *(more or ())]
    if not names:
        raise InvalidRequest("name a picture or a folder: scalewise upscale photo.jpg -s 2")
    use_threads(threads)

    from scalewise import zoo
    from scalewise.effort import Budget
    from scalewise.pipeline import wanted_size

    factor = None if scale is None else parse_scale(scale)
    target = None if size is None else parse_size(size)
    if long_edge is not None and long_edge < 1:
        raise InvalidRequest(f"--long-edge {long_edge} is out of range: pixels of the longer side of the output")
    allowed, how = Budget.parse(budget), job(tile, device, dtype, fp32, exact_scale)
    if suffix is None:
        one_factor = isinstance(factor, float)
        suffix = "" if output is not None else f"_x{scale}" if one_factor else f"_{scale or size or long_edge}"
    suffix, ext = _checked_suffix(suffix), _checked_ext(ext, output)

    several = len(names) > 1 or Path(names[0]).is_dir()
    pieces, failures = _pieces(names, output, effort_map, suffix, ext, recursive, several)
    _check_places(pieces, report)
    check_files([report], overwrite=overwrite)
    if not pieces:
        raise typer.Exit(1)
    run = Run(
        loaded=zoo.load(name, device=how.device),
        budget=allowed,
        how=how,
        size_of=lambda source_size: wanted_size(source_size, factor, target, long_edge),
        quality=quality,
        overwrite=overwrite,
        quiet=quiet,
    )
    results: list[dict[str, Any]] = []
    for piece in pieces:
        try:
            results.append(run(piece))
        except ScalewiseError as error:
            if not several:
                raise
            failures.append(_complain(piece.source, error))
    if report is not None:
        write_json(report, [*results, *failures] if several else results[0], overwrite=overwrite)
    if failures:
        typer.echo(f"scalewise: {len(failures)} of {len(results) + len(failures)} inputs failed", err=True)
        raise typer.Exit(1)


@dataclass(frozen=True)
class Piece:
    """One picture: where it is, where its result goes, where its map goes; `top`: the folder that may have to be made."""

    source: Path
    output: Path
    top: Path | None = None
    effort: Path | None = None
    effort_top: Path | None = None


@dataclass(frozen=True)
class Run:
    """One model with one wish, called for each picture; gives the report of a picture."""

    loaded: LoadedModel
    budget: Budget
    how: Job
    size_of: Callable[[Size], Size]
    quality: int | None
    overwrite: bool
    quiet: bool

    def __call__(self, piece: Piece) -> dict[str, Any]:
        from scalewise import images
        from scalewise.pipeline import effort_picture, enlarge

        source = images.open(piece.source)
        size = self.size_of(source.size)
        with _folders(piece), progress_bar(self.quiet) as bar:
            check_files([piece.effort], overwrite=self.overwrite)
            sink = images.create(piece.output, size, source, quality=self.quality, overwrite=self.overwrite)

            def progress(share: float) -> None:
                bar(piece.source.name, share)

            _, report = enlarge(source, sink, self.loaded.model, self.budget, self.how, progress)
            if piece.effort is not None:
                images.save(piece.effort, effort_picture(source, report).numpy(), overwrite=self.overwrite)
        report = replace(report, notes=(*report.notes, *_notes(source, size)))
        if not self.quiet:
            typer.echo(summary(self.loaded.name, report, piece.output))
        named = {"input": str(piece.source), "output": str(piece.output), "model": self.loaded.name}
        return named | report.as_dict()


def summary(model: str, report: CostReport, output: Path) -> str:
    """One line about one picture."""
    height, width = report.size
    parts = [
        f"{width}x{height}",
        model,
        f"{amount(report.macs)}MACs ({report.share:.1%} of full)",
        f"{report.seconds:.2f} s",
        f"peak {memory(report.peak_bytes)}",
        str(output),
    ]
    return "  ".join(parts) + "".join(f"; {note}" for note in report.notes)


def _notes(source: Source, size: Size) -> list[str]:
    """What the user may not have meant."""
    notes = []
    rows, columns = (n / m for n, m in zip(size, source.size, strict=True))
    # one pixel of rounding is no stretching
    if abs(rows - columns) * min(source.size) > 1:
        notes.append(f"stretched: ×{columns:.4g} in width, ×{rows:.4g} in height")
    if source.pages > 1:
        notes.append(f"the first of {source.pages} pages or frames")
    return notes


def _checked_suffix(suffix: str) -> str:
    if any(sign in suffix for sign in ("/", os.sep, "\0")):
        raise InvalidRequest(f"--suffix {suffix!r} cannot be part of a file name: choose the folder by -o")
    return suffix


def _checked_ext(ext: str | None, output: str | None) -> str | None:
    """`png`, `.png` → `.png`; `auto` is the input's, as in Real-ESRGAN."""
    from scalewise.images import WRITABLE

    if ext is None or ext == "auto":
        return None
    ext = f".{ext.lower().lstrip('.')}"
    if ext not in WRITABLE:
        raise InvalidRequest(f"--ext {ext[1:]} cannot be written: allowed are {' '.join(sorted(WRITABLE))}")
    if output is not None and not _is_folder(output) and Path(output).suffix.lower() != ext:
        raise InvalidRequest(f"-o {output} and --ext {ext[1:]} contradict each other: leave one out")
    return ext


def _pieces(
    names: list[str],
    output: str | None,
    effort_map: str | None,
    suffix: str,
    ext: str | None,
    recursive: bool,
    several: bool,
) -> tuple[list[Piece], list[dict[str, Any]]]:
    """The pictures that were meant, and a line for each of several inputs that are not there."""
    from scalewise import jobs

    there, failures = [], []
    for name in names:
        try:
            jobs.expand([name], recursive)
        except UnreadableImage as error:
            if not several:
                raise
            failures.append(_complain(Path(name), error))
            continue
        there.append(name)
    pairs = jobs.plan(there, output, suffix, ext, recursive=recursive)
    top = Path(output) if output is not None and _is_folder(output) else None
    if effort_map is None:
        return [Piece(source, place, top) for source, place in pairs], failures
    if several and not _is_folder(effort_map):
        raise InvalidRequest(f"--effort-map {effort_map} is one file, and there are several inputs: name a folder (end it with /)")
    maps = jobs.plan(there, effort_map, "_effort", ".png", recursive=recursive)
    effort_top = Path(effort_map) if _is_folder(effort_map) else None
    both = zip(pairs, maps, strict=True)
    return [Piece(source, place, top, map, effort_top) for (source, place), (_, map) in both], failures


def _check_places(pieces: list[Piece], report: Path | None) -> None:
    """No file may be written twice, and none over an input. Raises InvalidRequest."""
    from scalewise.images import WRITABLE

    taken = {os.path.realpath(piece.source): "an input" for piece in pieces}
    beside = [("--effort-map", piece.effort) for piece in pieces if piece.effort is not None]
    for option, path in [*(("-o", piece.output) for piece in pieces), *beside, ("--report", report)]:
        if path is None:
            continue
        if option == "--effort-map" and path.suffix.lower() not in WRITABLE:
            raise InvalidRequest(f"--effort-map {path} is not a picture: name it .png")
        real = os.path.realpath(path)
        if real in taken:
            raise InvalidRequest(f"{option} {path} is {taken[real]} too: choose another name")
        taken[real] = option


@contextmanager
def _folders(piece: Piece) -> Iterator[None]:
    """Make the folders that -o and --effort-map name by a slash, and those below; take back empty ones on failure."""
    made: list[Path] = []
    try:
        for path, top in ((piece.output, piece.top), (piece.effort, piece.effort_top)):
            if path is not None and top is not None and not path.parent.is_dir():
                made += _make(path.parent, top)
        yield
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        raise


def _make(folder: Path, top: Path) -> list[Path]:
    """Make `folder`, which is `top` or below it; what was made, outermost first."""
    if not top.parent.is_dir():
        raise UnwritableOutput(f"folder {str(top.parent)!r} does not exist; make it first")
    missing = [path for path in (folder, *folder.parents) if (path == top or top in path.parents) and not path.exists()]
    for path in reversed(missing):
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise UnwritableOutput(f"cannot make folder {str(path)!r}: {error.strerror}") from error
    return missing[::-1]


def _is_folder(name: str) -> bool:
    return name.endswith(("/", os.sep)) or Path(name).is_dir()


def _complain(path: Path, error: ScalewiseError) -> dict[str, Any]:
    """Say what went wrong with one of several inputs, and go on."""
    message = str(error)
    typer.echo(f"scalewise: {message if str(path) in message else f'{path}: {message}'}", err=True)
    return {"input": str(path), "error": message}
