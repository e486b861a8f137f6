"""`scalewise evaluate`, `curve`, `calibrate`, `reproduce`: how good, and at what cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalewise.cli.format import progress_bar, reproduced_table, table_text
from scalewise.cli.options import (
    FILES,
    Data,
    Json,
    Native,
    OneScale,
    Overwrite,
    Protocol,
    Quiet,
    Style,
    check_files,
    measuring,
    parse_budgets,
    wanted_budget,
    write_json,
)
from scalewise.errors import DataError, InvalidRequest

if TYPE_CHECKING:
    from scalewise.budget.budget import Budget
    from scalewise.evaluate import EvalResult, Upscaler
    from scalewise.execution.plan import RunOptions

Model = Annotated[
    str, typer.Option("--model", "-n", metavar="MODEL|FILE", help="A name of `scalewise models`, or a weight file.")
]
Budgets = Annotated[str, typer.Option("--budgets", metavar="LIST", help="Shares of the full model's MACs, in percent.")]


@measuring
def evaluate(
    data: Data,
    name: Model = "fast",
    scale: OneScale = 4,
    protocol: Protocol = "default",
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="SHARE|MACS", help="Per picture: 50%, 0.5 or 2e12macs. Default: 100%."),
    ] = None,
    native: Native = None,
    convention: Annotated[
        str | None,
        typer.Option(
            "--convention",
            metavar="honest|classsr|camixer",
            help="Also the mean cost per patch: our MACs, or FLOPs as that paper counts them.",
        ),
    ] = None,
    self_ensemble: Annotated[
        bool,
        typer.Option("--self-ensemble", help="The mean over 8 flips and turns: + in the papers, at 8 times the cost."),
    ] = False,
    wrap: Annotated[bool, typer.Option("--wrap", help="For 360° pictures: the network sees across the seam.")] = False,
    metric: Annotated[
        list[str] | None,
        typer.Option("--metric", metavar="NAME", help="Also lpips, niqe, brisque or piqe, if pyiqa is installed."),
    ] = None,
    json: Json = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    *,
    how: RunOptions,
) -> None:
    """Measure a model on a folder: PSNR, SSIM and consistency per picture, share of MACs, seconds.

    Pictures that cannot be read are named and skipped, and the exit code is then 1.
    """
    from scalewise import evaluate as runner
    from scalewise.evaluate import metrics

    check_files([json], overwrite=overwrite)
    find = _models(how)
    measured = upscaler = find(name, wanted_budget(budget, native))
    if self_ensemble:
        upscaler = runner.self_ensemble(upscaler)
    if wrap:
        upscaler = runner.wrapped(upscaler)
    extra = {one: metrics.perceptual(one) for one in metric or ()}
    with progress_bar(quiet) as bar:
        result = runner.evaluate(
            upscaler,
            data,
            scale,
            protocol,
            extra=extra,
            progress=lambda done, all: bar(f"{done + 1} of {all}", done / all),
        )
    cost = runner.paper_cost(measured, result, convention) if convention is not None else None
    if json is not None:
        found = {"model": name, **result.as_dict()} | ({} if cost is None else {"cost": cost.as_dict()})
        write_json(json, found, overwrite=overwrite)
    if not quiet:
        typer.echo(f"{name} on {data}, ×{scale:g}, protocol {result.protocol}")
        typer.echo(_per_picture(result), nl=False)
        if cost is not None:
            typer.echo(cost.words())
    _end(result)


def _per_picture(result: EvalResult) -> str:
    """One row per picture, and the mean."""

    columns = [key for key in result.mean if key not in ("macs", "macs_full")]
    rows = [[one.name, *(_figure(key, one.values.get(key, math.nan)) for key in columns)] for one in result.images]
    rows.append(["mean", *(_figure(key, result.mean[key]) for key in columns)])
    return table_text(["picture", *columns], rows, "text")


def _figure(key: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    if key == "macs_share":
        return f"{value:.1%}"
    if key.startswith("path"):
        return f"{value:g}"
    digits = {"psnr": 3, "ws_psnr": 3, "consistency": 2, "seconds": 2}.get(key, 4)
    return f"{value:.{digits}f}"


def _end(result: EvalResult) -> None:
    """Name what was skipped; a run with skipped pictures is no success."""
    for picture in result.skipped:
        typer.echo(f"scalewise: skipped {picture.name}: {picture.error}", err=True)
    if result.skipped:
        raise typer.Exit(1)


def _models(how: RunOptions) -> Callable[[str, Budget], Upscaler]:
    """(name or file, budget) → what is measured. `bicubic` by name is MATLAB's own, whose taps cost no MACs."""
    from scalewise import evaluate as runner
    from scalewise import zoo
    from scalewise.budget.budget import Budget

    def find(name: str, budget: Budget) -> Upscaler:
        if name == "bicubic" and budget == Budget.full():
            return runner.bicubic
        return runner.upscaler_of(zoo.load(name, device=how.device).model, budget, how)

    return find


@measuring
def curve(
    data: Data,
    name: Annotated[
        list[str], typer.Option("--model", "-n", metavar="MODEL|FILE", help="As often as there are models to compare.")
    ] = ["fast"],  # noqa: B006 (typer copies it)
    scale: OneScale = 4,
    protocol: Protocol = "default",
    budgets: Budgets = "25,50,75,100",
    picture: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Draw it, to a .png.", rich_help_panel=FILES)
    ] = None,
    json: Json = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    *,
    how: RunOptions,
) -> None:
    """Quality against cost over budgets, for one or several models, with bicubic as the floor."""
    from scalewise.budget.budget import Budget
    from scalewise.evaluate import curve as curves
    from scalewise.storage import atomic_write

    check_files([json, picture], overwrite=overwrite)
    if picture is not None and picture.suffix.lower() != ".png":
        raise InvalidRequest(f"-o {picture}: the picture of a curve is a .png")
    shares = parse_budgets(budgets)
    find = _models(how)
    for one in name:
        find(one, Budget.full())  # a wrong name is an error before hours of work
    models = {one: lambda share, one=one: find(one, Budget.fraction(share)) for one in name}
    with progress_bar(quiet) as bar:
        steps = 1 + len(shares) * len([one for one in models if one != "bicubic"])
        done = iter(range(steps))
        found = curves.curve(
            models, data, scale, protocol, budgets=shares,
            progress=lambda model, share: bar(f"{model} {share:.0%}", next(done) / steps),
        )  # fmt: skip
    if picture is not None:
        with atomic_write(picture, overwrite=overwrite) as temporary, temporary.open("wb") as file:
            found.plot(file)  # type: ignore[arg-type]
    if json is not None:
        write_json(json, found.as_dict(), overwrite=overwrite)
    if not quiet:
        typer.echo(f"×{scale:g}, protocol {found.protocol}, means over {data}")
        rows = [
            [
                p.model,
                f"{p.budget:.0%}" if p.budget else "-",
                f"{p.macs_share:.1%}",
                f"{p.macs / 1e9:.2f}",
                f"{p.psnr:.2f}",
                f"{p.ssim:.4f}",
                f"{p.seconds:.3f}",
            ]
            for p in found.points
        ]
        header = ["model", "budget", "share", "GMACs", "PSNR", "SSIM", "seconds"]
        typer.echo(table_text(header, rows, "text"), nl=False)
    for note in found.notes:
        typer.echo(f"scalewise: {note}", err=True)
    if any(" was skipped: " in note for note in found.notes):
        raise typer.Exit(1)


@measuring
def calibrate(
    data: Data,
    name: Model = "fast",
    scale: OneScale = 4,
    protocol: Protocol = "default",
    budgets: Budgets = "25,50,75,100",
    keep: Annotated[
        bool,
        typer.Option(
            "--keep",
            help="Keep the curve next to the weight file, as FILE.calibration.json, where it is found on loading.",
            rich_help_panel=FILES,
        ),
    ] = False,
    json: Json = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    *,
    how: RunOptions,
) -> None:
    """Measure what a budget costs in dB: PSNR against the share of MACs, on a folder."""
    from scalewise import evaluate as runner
    from scalewise.budget import quality

    weights = None if not keep else _weight_file(name)
    check_files([json], overwrite=overwrite)
    shares = parse_budgets(budgets)
    find = _models(how)
    results: list[EvalResult] = []
    with progress_bar(quiet) as bar:

        def run(budget: Budget) -> tuple[float, float, float]:
            bar(f"{name} at {budget.value:.0%}", len(results) / len(shares))
            result = runner.evaluate(find(name, budget), data, scale, protocol)
            if not result.images:
                raise DataError(f"no picture of {str(data)!r} could be read: {result.skipped[0].error}")
            results.append(result)
            return result.mean["macs_share"], result.mean["psnr"], result.mean["seconds"]

        found = quality.measure(run, shares, scale=scale, protocol=protocol, data=str(data))
    if weights is not None:
        curves = quality.joined(quality.read_sidecar(weights), found)
        write_json(quality.sidecar(weights), curves, overwrite=True)
    if json is not None:
        write_json(json, {"model": name, **found.as_dict()}, overwrite=overwrite)
    if not quiet:
        typer.echo(f"{name} on {data}, ×{scale:g}, protocol {protocol}")
        rows = [
            [f"{p.budget:.0%}", f"{p.share:.1%}", f"{p.psnr:.3f}", f"{found.loss_at(p.share):.3f}", f"{p.seconds:.3f}"]
            for p in found.points
        ]
        typer.echo(table_text(["budget", "share", "PSNR", "loss", "seconds"], rows, "text"), nl=False)
    for budget in sorted(set(shares) - {point.budget for point in found.points}):
        typer.echo(f"scalewise: {budget:.0%} is below the floor of this model", err=True)
    _end(results[0])


def _weight_file(name: str) -> Path:
    """The file of `-n FILE` or `-n FILE:key=value`. Raises InvalidRequest for models by name."""
    from scalewise.zoo import file_and_settings

    path, _ = file_and_settings(name)
    if not path.is_file():
        raise InvalidRequest(f"--keep is for weight files, and {name!r} is a name: use --json")
    return path


@measuring
def reproduce(
    table: Annotated[str, typer.Argument(help="A published table: adaformer, arm, bicubic, camixer, ciaosr, …")],
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="A folder that holds one folder per dataset: Set5, B100, …"),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", metavar="NAME", help="Only the rows of this method.")
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option("--weights", metavar="METHOD=FILE", help="The weight file of a method, or a model's name."),
    ] = None,
    style: Style = "text",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the table here instead.", rich_help_panel=FILES),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    *,
    how: RunOptions,
) -> None:
    """A published table next to what we measure: published, ours, difference, and why a number is absent."""
    from scalewise.budget.budget import Budget
    from scalewise.evaluate import tables
    from scalewise.storage import atomic_write

    check_files([output], overwrite=overwrite)
    known = {row.method for row in tables.load_table(table)}
    files = dict(_pair(text) for text in weights or ())
    for unknown in sorted({*(method or ()), *files} - known):
        raise InvalidRequest(f"table {table} has no method {unknown!r}: there are {', '.join(sorted(known))}")
    if data is not None and not data.is_dir():
        raise DataError(f"no folder {str(data)!r}: give a folder that holds one folder per dataset")
    find = _models(how)
    for file in files.values():
        find(file, Budget.full())

    def models(name: str, dial: str) -> Upscaler | None:
        if name in files and dial and "=" not in dial:
            raise InvalidRequest(f"printed at {dial!r}: which value that is, is not published")
        return find(files[name], wanted_budget(None, dial or None)) if name in files else None

    with progress_bar(quiet) as bar:
        rows = tables.reproduce(
            table, data, models, methods=method or (),
            progress=lambda row: bar(f"{row.method} {row.dataset} ×{row.scale:g}", 0.0),
        )  # fmt: skip
    text = reproduced_table(rows, style)
    if output is None:
        typer.echo(text, nl=False)
        return
    with atomic_write(output, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _pair(text: str) -> tuple[str, str]:
    method, sign, file = text.partition("=")
    if not (method and sign and file):
        raise InvalidRequest(f"--weights {text!r}: write METHOD=FILE")
    return method, file
