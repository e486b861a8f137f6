"""`scalewise reproduce`: published tables beside what we measure and count."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalewise.cli.format import progress_bar, reproduced_table
from scalewise.cli.measure import found_models
from scalewise.cli.options import (
    FILES,
    Report,
    Style,
    measuring,
    wanted_budget,
)
from scalewise.errors import DataError, InvalidRequest

if TYPE_CHECKING:
    from scalewise.evaluate import Upscaler
    from scalewise.execution.plan import RunOptions


@measuring
def reproduce(
    table: Annotated[
        str,
        typer.Argument(metavar="TABLE", help="A published table: adaformer, arm, bicubic, camixer, ciaosr, …; all."),
    ],
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
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME=FUNCTION",
            help="What measures lpips, niqe, brisque or piqe in place of pyiqa: lpips=file.py:function, of (sr, hr).",
        ),
    ] = None,
    time: Annotated[
        bool,
        typer.Option("--time", help="Also time the networks of rows in milliseconds, on one thread and on all."),
    ] = False,
    style: Style = "text",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the table here instead.", rich_help_panel=FILES),
    ] = None,
    *,
    how: RunOptions,
    report: Report,
) -> None:
    """A published table next to what we measure: published, ours, difference, and why a number is absent; parameters,
    and GMACs of a picture of 1280×720, are always ours."""
    from scalewise.budget.budget import Budget
    from scalewise.evaluate import metrics, published, tables
    from scalewise.storage import atomic_write

    report.check(output)
    if time:
        if how.device not in (None, "cpu"):
            raise InvalidRequest(f"--time is of the processor: leave out --device {how.device}")
        how = replace(how, device="cpu")
    names = published.tables() if table == "all" else [table]
    printed = [row for name in names for row in published.load_table(name)]
    known = {row.method for row in printed}
    files = dict(_pair("--weights", "METHOD=FILE", text) for text in weights or ())
    functions = dict(_pair("--metric", "NAME=FUNCTION", text) for text in metric or ())
    for unknown in sorted({*functions} - {*metrics.PYIQA_METRICS}):
        raise InvalidRequest(f"--metric {unknown}: there are {', '.join(metrics.PYIQA_METRICS)}")
    measures = {name: metrics.perceptual(function) for name, function in functions.items()}
    wanted = known | {tables.weights_of(row.method, row.dial) for row in printed}
    for unknown in sorted({*(method or ())} - known) or sorted({*files} - wanted):
        raise InvalidRequest(f"table {table} has no method {unknown!r}: there are {', '.join(sorted(wanted))}")
    if data is not None and not data.is_dir():
        raise DataError(f"no folder {str(data)!r}: give a folder that holds one folder per dataset")
    find = found_models(how)
    for file in files.values():
        find(file, Budget.full())

    def models(name: str, dial: str) -> Upscaler | None:
        weights = tables.weights_of(name, dial)
        if weights not in files:
            return None
        if weights != name:
            return find(files[weights], Budget.full())
        if dial and "=" not in dial:
            raise InvalidRequest(f"printed at {dial!r}: which value that is, is not published")
        return find(files[name], wanted_budget(None, dial or None))

    with progress_bar(report.quiet) as bar:
        rows = tables.reproduce(
            table, data, models, methods=method or (), measures=measures, time=how if time else None,
            progress=lambda row: bar(f"{row.method} {row.dataset} ×{row.scale:g}", 0.0),
        )  # fmt: skip
    report.write([row.as_dict() for row in rows])
    if report.json is not None and output is None:
        return
    text = reproduced_table(rows, style)
    timing = next((row.timing for row in rows if row.timing is not None), None)
    if timing is not None and style == "text":
        text += (
            f"milliseconds: ours of one thread of {timing.machine}, for an output of 1280x720 "
            "(table ciaosr: an input of 192x192)\n"
        )
    if output is None:
        typer.echo(text, nl=False)
        return
    with atomic_write(output, overwrite=report.overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _pair(option: str, form: str, text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise InvalidRequest(f"{option} {text!r}: write {form}")
    return name, value
