"""`scalewise upscale`: files and folders, larger."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import typer

from scalewise.cli.many_pictures import Outcome, Work, finished, manifests_of, one_by_one, spread_out
from scalewise.cli.one_picture import Result, UpscaleCommand, UpscaleRequest, echo
from scalewise.cli.options import (
    Device,
    Fp32,
    Native,
    Number,
    Overwrite,
    Quiet,
    Threads,
    TileSide,
    check_files,
    run_options,
    use_threads,
    wanted_budget,
    write_json,
)
from scalewise.cli.paths import (
    PassedOver,
    PictureTask,
    check_paths,
    checked_ext,
    checked_suffix,
    complain,
    find_tasks,
    format_names,
    format_passed_over,
)
from scalewise.cli.stdio import Streams, streams
from scalewise.cli.upscale_options import (
    Address,
    Beyond,
    Budget,
    Crop,
    Dpi,
    EffortMap,
    EffortMask,
    Engine,
    ExactScale,
    Ext,
    Inputs,
    LongEdge,
    Lossless,
    MaxMemory,
    Model,
    MoreInputs,
    Output,
    Projection,
    Quality,
    Recursive,
    Report,
    Restart,
    Restore,
    Resume,
    Scale,
    Size,
    Strip,
    Suffix,
    Workers,
)
from scalewise.errors import InvalidRequest


def upscale(
    inputs: Inputs = None,
    scale: Scale = None,
    size: Size = None,
    long_edge: LongEdge = None,
    more: MoreInputs = None,
    output: Output = None,
    name: Model = "fast",
    budget: Budget = None,
    native: Native = None,
    tile: TileSide = 0,
    device: Device = None,
    dtype: Number = "auto",
    fp32: Fp32 = False,
    threads: Threads = None,
    exact_scale: ExactScale = False,
    max_memory: MaxMemory = None,
    crop: Crop = None,
    beyond: Beyond = "bicubic",
    effort_mask: EffortMask = None,
    restore: Restore = None,
    resume: Resume = None,
    restart: Restart = False,
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = None,
    projection: Projection = "auto",
    effort_map: EffortMap = None,
    report: Report = None,
    recursive: Recursive = False,
    overwrite: Overwrite = False,
    suffix: Suffix = None,
    ext: Ext = None,
    quality: Quality = None,
    lossless: Lossless = False,
    strip: Strip = False,
    dpi: Dpi = "keep",
    quiet: Quiet = False,
) -> None:
    """Enlarge pictures by any factor, within a budget.

    scalewise upscale photo.jpg -s 3.7 --budget 50%
    """
    names = [*(inputs or ()), *(more or ())]
    if not names:
        raise InvalidRequest("name a picture or a folder: scalewise upscale photo.jpg -s 2")
    check_size({"-s": scale, "--size": size, "--long-edge": long_edge})
    check_engine(engine, address, workers)
    use_threads(threads)

    from scalewise.geometry.sizes import parse_scale, parse_size
    from scalewise.images import Encoding

    request = UpscaleRequest(
        name,
        wanted_budget(budget, native),
        run_options(tile, device, dtype, fp32, exact_scale, projection, max_memory, crop, beyond, effort_mask),
        Encoding(quality, lossless, strip, dpi),  # type: ignore[arg-type] (it looks itself)
        scale=None if scale is None else parse_scale(scale),
        size=None if size is None else parse_size(size),
        long_edge=long_edge,
        resume=resume,
        restart=restart,
        restore=restore,
    )
    several = len(names) > 1 or os.path.isdir(names[0])
    if suffix is None:
        suffix = default_suffix(output, scale, size or long_edge)
    with streams(names, output, ext) as at:
        suffix, ext = checked_suffix(suffix), checked_ext(ext, at.output)
        found = find_tasks(at.names, at.output, effort_map, suffix, ext, recursive, several)
        check_paths(found.tasks, report)
        if several:
            check_files([report], overwrite=overwrite)
        own_report = None if several else report
        tasks = [replace(task, overwrite=overwrite, report=own_report) for task in found.tasks]
        work = work_of(request, engine, address, workers, several=several, quiet=quiet, at=at)
        results = Results(several, quiet, at, failures=found.failures)
        results.echo(format_passed_over(found.passed_over))
        with manifests_of(tasks, request) if several else nullcontext({}) as manifests:
            for task, outcome in finished(tasks, work, manifests):
                results.take(task, outcome)
    results.end(report if several else None, overwrite)


def check_size(options: dict[str, Any]) -> None:
    """Exactly one option says how large. Raises InvalidRequest."""
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        got = f", not by {' and '.join(given)}" if given else ""
        raise InvalidRequest(f"say how large, by one of these: -s 2, --size 3840x2160, --long-edge 3000{got}")
    if (edge := options["--long-edge"]) is not None and edge < 1:
        raise InvalidRequest(f"--long-edge {edge} is out of range: pixels of the longer side of the output")


def check_engine(engine: str, address: str | None, workers: int | None) -> None:
    """Raises InvalidRequest."""
    if engine not in ("local", "ray") or (engine == "local" and (address is not None or workers is not None)):
        raise InvalidRequest(f"--engine {engine}: allowed are local, and ray with --address and --workers")
    if workers is not None and workers < 1:
        raise InvalidRequest(f"--workers {workers} is out of range: at least 1")


def default_suffix(output: str | None, scale: str | None, size: str | int | None) -> str:
    """`_x3.7`, `_2x1.5`, `_3840x2160` next to the input; nothing where -o says where."""
    if output is not None:
        return ""
    one_factor = scale is not None and "x" not in scale.lower().replace("×", "x")
    return f"_x{scale}" if one_factor else f"_{scale or size}"


def work_of(
    request: UpscaleRequest,
    engine: str,
    address: str | None,
    workers: int | None,
    *,
    several: bool,
    quiet: bool,
    at: Streams,
) -> Work:
    """What enlarges pictures: this process, or Ray. Raises what loading the model raises, before anything is done."""
    from scalewise import zoo
    from scalewise.batch.manifest import digest_of_request

    digest = digest_of_request(request.as_dict()) if several else None
    if engine == "ray":
        zoo.load(request.model, device=request.how.device)
        make = partial(UpscaleCommand, request, manifest=digest)
        return partial(spread_out, make, address=address, workers=workers)
    say = None if quiet else echo
    command = UpscaleCommand(request, say, bar=not quiet, alone=not several, shown=at.shown, manifest=digest)
    return partial(one_by_one, command)


@dataclass
class Results:
    """Prints each result as it comes, and at the end what was passed over and what failed."""

    several: bool
    quiet: bool
    at: Streams
    reports: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    passed_over: dict[str, list[Path]] = field(default_factory=dict)  # by reason

    def take(self, task: PictureTask, outcome: Outcome) -> None:
        """Raises the error of a picture that is alone."""
        match outcome:
            case Result(report, line):
                self.reports.append(report)
                if line and not self.quiet:
                    typer.echo(line, err=self.at.to_stdout)
            case PassedOver(reason, detail):
                self.passed_over.setdefault(reason, []).append(task.source)
                self.reports.append({"input": str(task.source), "passed_over": detail})
            case _ if self.several:
                self.failures.append(complain(task.source, outcome))
            case _:
                raise outcome

    def echo(self, lines: list[str]) -> None:
        for line in [] if self.quiet else lines:
            echo(line)

    def end(self, report: Path | None, overwrite: bool) -> None:
        """Write the report of several. Raises typer.Exit with code 1 if one has failed."""
        self.echo([format_names(paths, "passed over", why) for why, paths in self.passed_over.items()])
        if report is not None:
            write_json(report, [*self.reports, *self.failures], overwrite=overwrite)
        if self.failures:
            total = len(self.reports) + len(self.failures)
            typer.echo(f"scalewise: {len(self.failures)} of {total} inputs failed", err=True)
            raise typer.Exit(1)
