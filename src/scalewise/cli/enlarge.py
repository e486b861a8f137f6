"""`scalewise upscale`: files and folders, larger."""

from __future__ import annotations

from collections.abc import Callable
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
from scalewise.cli.places import Piece, check_places, checked_ext, checked_suffix, complain, find_pieces, folders
from scalewise.errors import InvalidRequest, ScalewiseError

if TYPE_CHECKING:
    from scalewise.cost import CostReport
    from scalewise.effort import Budget
    from scalewise.grid import Size
    from scalewise.images import Source
    from scalewise.pipeline import Job
    from scalewise.zoo import LoadedModel

SIZE = "How large (one of these)"


def upscale(
    inputs: Annotated[
        list[str] | None, typer.Argument(metavar="INPUT...", help="Pictures, and folders of them.")
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            "--scale",
            "-s",
            metavar="FACTOR",
            help="3.7, or width x height: 2x1.5. From 1 to 100.",
            rich_help_panel=SIZE,
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="WxH", help="Width x height in pixels: 3840x2160.", rich_help_panel=SIZE),
    ] = None,
    long_edge: Annotated[
        int | None, typer.Option("--long-edge", metavar="N", help="Pixels of the longer side.", rich_help_panel=SIZE)
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="INPUT", help="The same as INPUT.", rich_help_panel=FILES),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A file, or a folder (one that exists, or ends with /). Default: beside the input, with a suffix.",
            rich_help_panel=FILES,
        ),
    ] = None,
    name: Annotated[
        str,
        typer.Option(
            "--model",
            "-n",
            metavar="MODEL|FILE",
            help="A name that `scalewise models` lists, or a weight file: FILE, FILE:key=value,…",
        ),
    ] = "fast",
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="SHARE|MACS",
            help="A share of the full model's MACs, 50% or 0.5, or MACs: 2e12macs. Default: 100%.",
        ),
    ] = None,
    tile: TileSide = 0,
    device: Device = None,
    dtype: Number = "auto",
    fp32: Fp32 = False,
    threads: Threads = None,
    exact_scale: Annotated[
        bool,
        typer.Option(
            "--exact-scale",
            help="Refuse scales that the model was not made for, instead of resizing.",
            rich_help_panel=RUNNING,
        ),
    ] = False,
    effort_map: Annotated[
        str | None,
        typer.Option(
            "--effort-map",
            metavar="PNG",
            help="Draw where the work went, to a .png; a folder for several inputs.",
            rich_help_panel=FILES,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="JSON",
            help="Write the costs as JSON; a list for several inputs or a folder.",
            rich_help_panel=FILES,
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Sub-folders too; they are kept below -o.", rich_help_panel=FILES)
    ] = False,
    overwrite: Overwrite = False,
    suffix: Annotated[
        str | None,
        typer.Option(
            "--suffix",
            metavar="TEXT",
            help="Put behind the name. Default: _x3.7 beside the input, nothing below -o.",
            rich_help_panel=FILES,
        ),
    ] = None,
    ext: Annotated[
        str | None,
        typer.Option(
            "--ext", metavar="EXT", help="png, jpg, webp, tif, avif. Default: the input's.", rich_help_panel=FILES
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(
            "--quality", metavar="N", help="1 to 100, of jpg, webp and avif. Default: 95.", rich_help_panel=FILES
        ),
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
    suffix, ext = checked_suffix(suffix), checked_ext(ext, output)

    several = len(names) > 1 or Path(names[0]).is_dir()
    pieces, failures = find_pieces(names, output, effort_map, suffix, ext, recursive, several)
    check_places(pieces, report)
    check_files([report], overwrite=overwrite)
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
            failures.append(complain(piece.source, error))
    if report is not None:
        write_json(report, [*results, *failures] if several else results[0], overwrite=overwrite)
    if failures:
        typer.echo(f"scalewise: {len(failures)} of {len(results) + len(failures)} inputs failed", err=True)
        raise typer.Exit(1)


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
        with folders(piece), progress_bar(self.quiet) as bar:
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
        f"{amount(report.macs)}MACs" + (f" ({report.share:.1%} of full)" if report.macs_full else ""),
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
