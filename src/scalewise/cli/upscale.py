"""`scalewise upscale`: files and folders, larger."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from scalewise.cli.many_pictures import Work, finished, manifest_of, one_by_one, spread_out
from scalewise.cli.one_picture import Result, Run, UpscaleRequest, echo
from scalewise.cli.options import (
    FILES,
    RUNNING,
    Device,
    Fp32,
    Native,
    Number,
    Overwrite,
    Quiet,
    Threads,
    TileSide,
    check_files,
    parse_scale,
    parse_size,
    run_options,
    use_threads,
    wanted_budget,
    write_json,
)
from scalewise.cli.paths import check_places, checked_ext, checked_suffix, complain, find_pieces
from scalewise.cli.stdio import streams
from scalewise.errors import InvalidRequest

SIZE = "How large (one of these)"


def upscale(
    inputs: Annotated[
        list[str] | None, typer.Argument(metavar="INPUT...", help="Pictures, and folders of them; - is stdin.")
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
            help="A file, a folder (one that exists, or ends with /), or - for stdout. Default: beside the input, "
            "with a suffix.",
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
            metavar="SHARE|SECONDS|MACS",
            help="A share of the full model's MACs, 50% or 0.5, seconds: 2s, 1500ms, or MACs: 2e12macs. Default: 100%.",
        ),
    ] = None,
    native: Native = None,
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
    max_memory: Annotated[
        str | None,
        typer.Option(
            "--max-memory",
            metavar="SIZE",
            help="What the process, or the GPU, may hold: 2GiB, 800MB. Default: half of what is free.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option(
            "--crop",
            metavar="X,Y,W,H",
            help="Only this part, in pixels of the input, as it will be in the whole picture.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--no-resume",
            help="Keep what is finished beside the output, so that the same command goes on where it was cut off. "
            "Default: for runs of more than a minute.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="local|ray",
            help="ray: a pool of workers, on one machine or many.",
            rich_help_panel=RUNNING,
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            metavar="HOST",
            help="Of a Ray cluster: auto, or ray://host:10001. Default: one on this machine, for this run.",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", help="Of Ray. Default: as many as fit.", rich_help_panel=RUNNING),
    ] = None,
    projection: Annotated[
        str,
        typer.Option(
            "--projection",
            metavar="auto|flat|erp",
            help="erp: a 360° picture (equirectangular), without a seam. auto: if its metadata say so.",
            rich_help_panel=RUNNING,
        ),
    ] = "auto",
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
            "--ext", metavar="EXT", help="png, jpg, webp, tif, avif, gif. Default: the input's.", rich_help_panel=FILES
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(
            "--quality", metavar="N", help="1 to 100, of jpg, webp and avif. Default: 95.", rich_help_panel=FILES
        ),
    ] = None,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Of webp and avif; png and tif always are.", rich_help_panel=FILES)
    ] = False,
    strip: Annotated[
        bool,
        typer.Option(
            "--strip",
            help="Pixels only: no metadata, no profile (colours become sRGB), no note.",
            rich_help_panel=FILES,
        ),
    ] = False,
    dpi: Annotated[
        str,
        typer.Option(
            "--dpi",
            metavar="keep|scale",
            help="Keep the resolution (prints grow), or scale it (prints keep their size).",
            rich_help_panel=FILES,
        ),
    ] = "keep",
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
    from scalewise.images import Encoding

    encoding = Encoding(quality, lossless, strip, dpi)  # type: ignore[arg-type] (it looks itself)
    factor = None if scale is None else parse_scale(scale)
    target = None if size is None else parse_size(size)
    if long_edge is not None and long_edge < 1:
        raise InvalidRequest(f"--long-edge {long_edge} is out of range: pixels of the longer side of the output")
    how = run_options(tile, device, dtype, fp32, exact_scale, projection, max_memory, crop)
    request = UpscaleRequest(name, wanted_budget(budget, native), how, encoding, factor, target, long_edge, resume)
    if engine not in ("local", "ray") or (engine == "local" and (address is not None or workers is not None)):
        raise InvalidRequest(f"--engine {engine}: allowed are local, and ray with --address and --workers")
    if suffix is None:
        one_factor = isinstance(factor, float)
        suffix = "" if output is not None else f"_x{scale}" if one_factor else f"_{scale or size or long_edge}"
    with streams(names, output, ext) as places:
        suffix, ext = checked_suffix(suffix), checked_ext(ext, places.output)
        several = len(names) > 1 or Path(names[0]).is_dir()
        pieces, failures = find_pieces(places.names, places.output, effort_map, suffix, ext, recursive, several)
        pieces = [replace(piece, overwrite=overwrite) for piece in pieces]
        check_places(pieces, report)
        check_files([report], overwrite=overwrite)
        zoo.load(name, device=device)  # a wrong name is said before anything else
        run = partial(Run, request)
        if engine == "local":
            say = None if quiet else echo
            local = run(say=say, bar=not quiet, alone=not several, shown=places.shown)
            work: Work = partial(one_by_one, local)
        else:
            work = partial(spread_out, run, address=address, workers=workers)
        results: list[dict[str, Any]] = []
        with manifest_of(pieces, request) if several else nullcontext() as manifest:
            for piece, outcome in finished(pieces, work, manifest, overwrite):
                if isinstance(outcome, Result):
                    results.append(outcome.report)
                    if outcome.line and not quiet:
                        typer.echo(outcome.line, err=places.to_stdout)
                elif several:
                    failures.append(complain(piece.source, outcome))
                else:
                    raise outcome
    if report is not None:
        write_json(report, [*results, *failures] if several else results[0], overwrite=overwrite)
    if failures:
        typer.echo(f"scalewise: {len(failures)} of {len(results) + len(failures)} inputs failed", err=True)
        raise typer.Exit(1)
