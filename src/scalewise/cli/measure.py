"""`scalewise evaluate`, `curve`, `calibrate`: how good, and at what cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalewise.cli.format import progress_bar, table_text
from scalewise.cli.options import (
    FILES,
    Data,
    Native,
    OneScale,
    Protocol,
    Report,
    measuring,
    parse_budgets,
    parse_dials,
    parse_factors,
    wanted_budget,
    write_json,
)
from scalewise.errors import DataError, InvalidRequest

if TYPE_CHECKING:
    from scalewise.budget.budget import Budget
    from scalewise.evaluate import EvalResult, Upscaler
    from scalewise.evaluate.curve import CurvePoint
    from scalewise.execution.plan import RunOptions

Model = Annotated[
    str, typer.Option("--model", "-n", metavar="MODEL|FILE", help="A name of `scalewise models`, or a weight file.")
]
Budgets = Annotated[str, typer.Option("--budgets", metavar="LIST", help="Shares of the full model's MACs, in percent.")]

Convention = Annotated[
    str | None,
    typer.Option(
        "--convention",
        metavar="honest|classsr|camixer",
        help="Also the mean cost per patch: our MACs, or FLOPs as that paper counts them.",
    ),
]


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
    convention: Convention = None,
    self_ensemble: Annotated[
        bool,
        typer.Option("--self-ensemble", help="The mean over 8 flips and turns: + in the papers, at 8 times the cost."),
    ] = False,
    wrap: Annotated[bool, typer.Option("--wrap", help="For 360° pictures: the network sees across the seam.")] = False,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME|FUNCTION",
            help="Also lpips, niqe, brisque or piqe, if pyiqa is installed, or a function of your own, which gives a "
            "number for (sr, hr): file.py:function.",
        ),
    ] = None,
    without_hr: Annotated[
        bool,
        typer.Option("--without-hr", help="--data holds pictures to enlarge: measure what needs no original."),
    ] = False,
    through: Annotated[
        str | None,
        typer.Option("--through", metavar="LIST", help="Enlarge in steps: 2,4 goes to ×2, to ×4, then to --scale."),
    ] = None,
    estimates: Annotated[
        bool,
        typer.Option("--estimates", help="Also by how many dB ENAF's or ARM's estimates of a patch's PSNR are off."),
    ] = False,
    *,
    how: RunOptions,
    report: Report,
) -> None:
    """Measure a model on a folder: PSNR, SSIM and consistency per picture, share of MACs, seconds.

    Pictures that cannot be read are named and skipped, and the exit code is then 1.
    """
    from scalewise import evaluate as runner
    from scalewise.evaluate import metrics

    report.check()
    if without_hr and estimates:
        raise InvalidRequest("--estimates compares with originals, and --without-hr says that there are none")
    if without_hr and protocol != "default":
        raise InvalidRequest("--without-hr follows no protocol: leave out --protocol")
    find = found_models(how)
    measured = upscaler = find(name, wanted_budget(budget, native))
    if self_ensemble:
        upscaler = runner.self_ensemble(upscaler)
    if wrap:
        upscaler = runner.wrapped(upscaler)
    if through is not None:
        upscaler = runner.in_steps(upscaler, parse_factors(through))
    off = runner.estimate_errors(measured, data, scale, protocol) if estimates else ()
    extra = {one: metrics.perceptual(one) for one in metric or ()}
    with progress_bar(report.quiet) as bar:
        run = runner.evaluate_alone if without_hr else partial(runner.evaluate, protocol=protocol)
        result = run(
            upscaler, data, scale, extra=extra, progress=lambda done, all: bar(f"{done + 1} of {all}", done / all)
        )
    cost = runner.paper_cost(measured, result, convention) if convention is not None else None
    found = {"model": name, **result.as_dict()} | ({} if cost is None else {"cost": cost.as_dict()})
    report.write(found | ({"estimate_errors": list(off)} if off else {}))
    if not report.quiet:
        typer.echo(f"{name} on {data}, ×{scale:g}, protocol {result.protocol}")
        typer.echo(_per_picture(result), nl=False)
        if cost is not None:
            typer.echo(cost.words())
        if off:
            typer.echo(
                f"estimates are off by {', '.join(f'{error:.2f}' for error in off)} dB, path 0 to {len(off) - 1}"
            )
    _end(result)


def _per_picture(result: EvalResult) -> str:
    """One row per picture, and the mean."""

    measured = {key for one in result.images for key in one.values} - {"macs", "macs_full"}
    columns = [key for key in result.mean if key in measured or not result.images]
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


def found_models(how: RunOptions) -> Callable[[str, Budget], Upscaler]:
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
    dial: Annotated[
        list[str] | None,
        typer.Option(
            "--dial",
            metavar="NAME=LIST",
            help="Instead of budgets, values of the paper's own dial: eta=0.05,0.1,0.5. As often as models differ in "
            "their dials: the first is the first model's, and so on; one alone is for all.",
        ),
    ] = None,
    convention: Convention = None,
    target: Annotated[
        float | None,
        typer.Option(
            "--match-psnr",
            metavar="DB",
            help="Also the cheapest setting of each model that reaches so many dB, and what it costs.",
        ),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Draw it, to a .png.", rich_help_panel=FILES)
    ] = None,
    *,
    how: RunOptions,
    report: Report,
) -> None:
    """Quality against cost over budgets or values of the papers' dials, for one or several models, with bicubic as the
    floor."""
    from scalewise.budget.budget import Budget, format_budget
    from scalewise.evaluate import curve as curves
    from scalewise.storage import atomic_write

    report.check(picture)
    if picture is not None and picture.suffix.lower() != ".png":
        raise InvalidRequest(f"-o {picture}: the picture of a curve is a .png")
    shares = [Budget.fraction(share) for share in parse_budgets(budgets)]
    settings = parse_dials(dial, name) if dial else dict.fromkeys(name, shares)
    find = found_models(how)
    for one in name:
        find(one, Budget.full())  # a wrong name is an error before hours of work
    models = {one: lambda budget, one=one: find(one, budget) for one in name}
    with progress_bar(report.quiet) as bar:
        steps = sum(map(len, settings.values()))
        done = iter(range(steps))
        found = curves.curve(
            models, data, scale, protocol, budgets=settings, convention=convention, target=target,
            progress=lambda model, budget: bar(f"{model} {format_budget(budget)}", next(done) / steps),
        )  # fmt: skip
    if picture is not None:
        with atomic_write(picture, overwrite=report.overwrite) as temporary, temporary.open("wb") as file:
            found.plot(file)  # type: ignore[arg-type]
    report.write(found.as_dict())
    if not report.quiet:
        typer.echo(f"×{scale:g}, protocol {found.protocol}, means over {data}")
        typer.echo(table_text(*_curve_table(found.points), "text"), nl=False)
        if found.matched:
            typer.echo(f"at {found.target:g} dB")
            typer.echo(table_text(*_curve_table(found.matched), "text"), nl=False)
    for note in found.notes:
        typer.echo(f"scalewise: {note}", err=True)
    if any(" was skipped: " in note for note in found.notes):
        raise typer.Exit(1)


def _curve_table(points: Sequence[CurvePoint]) -> tuple[list[str], list[list[str]]]:
    """Header and rows; the cost of a patch where a convention was asked for."""
    costs = any(point.cost is not None for point in points)
    header = ["model", "setting", "share", "GMACs", "PSNR", "SSIM", "seconds", *(["M per patch", "of all"] * costs)]
    rows = []
    for p in points:
        row = [
            p.model,
            p.setting or "-",
            f"{p.macs_share:.1%}",
            f"{p.macs / 1e9:.2f}",
            f"{p.psnr:.3f}",
            f"{p.ssim:.4f}",
        ]
        row.append(f"{p.seconds:.3f}")
        if costs:
            row += ["-", "-"] if p.cost is None else [f"{p.cost.mean / 1e6:.2f}", f"{p.cost.share:.1%}"]
        rows.append(row)
    return header, rows


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
    *,
    how: RunOptions,
    report: Report,
) -> None:
    """Measure what a budget costs in dB: PSNR against the share of MACs, on a folder.

    For a network with one level of effort the command first measures what the network gains where; with --keep,
    budgets are spent by that from then on.
    """
    from scalewise import evaluate as runner
    from scalewise import zoo
    from scalewise.budget import quality
    from scalewise.evaluate.gains import measure_gains

    weights = None if not keep else _weight_file(name)
    report.check()
    shares = parse_budgets(budgets)
    find = found_models(how)
    results: list[EvalResult] = []
    model = zoo.load(name, device=how.device).model
    with progress_bar(report.quiet) as bar:
        if model.limits.levels == "one":
            bar(f"{name}: what it gains where", 0.0)
            model.gains = measure_gains(model, data, scale, protocol, how)

        def run(budget: Budget) -> tuple[float, float, float]:
            bar(f"{name} at {budget.value:.0%}", len(results) / len(shares))
            result = runner.evaluate(find(name, budget), data, scale, protocol)
            if not result.images:
                raise DataError(f"no picture of {str(data)!r} could be read: {result.skipped[0].error}")
            results.append(result)
            return result.mean["macs_share"], result.mean["psnr"], result.mean["seconds"]

        found = quality.measure(run, shares, scale=scale, protocol=protocol, data=str(data))
        found = replace(found, gains=model.gains)
    if weights is not None:
        curves = quality.joined(quality.read_sidecar(weights), found)
        write_json(quality.sidecar(weights), curves, overwrite=True)
    report.write({"model": name, **found.as_dict()})
    if not report.quiet:
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
