"""The command line: `main`, and how errors become one line and an exit code.

- upscale.py: upscale; one_picture.py, many_pictures.py: its work; paths.py: which files it reads and writes; stdio.py:
  stdin and stdout
- measure.py: evaluate, curve, calibrate, reproduce
- models.py: models, inspect, convert, export, doctor; serve.py: app
- train.py: train
- options.py: options that several commands share; format.py: how tables and numbers are printed

Commands import what they need when they run: `scalewise --help` loads neither torch nor libvips.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import scalewise
from scalewise.cli import measure, models, serve, train, upscale
from scalewise.cli.format import format_line
from scalewise.errors import InvalidRequest, ScalewiseError
from scalewise.machine.threads import set_idle_threads

INTERRUPTED = 130  # what a shell gives a command that SIGINT ended


class Commands(TyperGroup):
    """What goes wrong on purpose is one line on stderr; anything else keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ScalewiseError as error:
            typer.echo(f"scalewise: {format_line(str(error))}", err=True)
            raise typer.Exit(2 if isinstance(error, InvalidRequest) else 1) from None
        except KeyboardInterrupt:
            typer.echo("scalewise: interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="scalewise",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"scalewise {scalewise.__version__}")
        raise typer.Exit()


@app.callback()
def scalewise_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Enlarge images by any factor, and spend computation only where the picture needs it."""


for command in (
    upscale.upscale,
    models.models,
    models.doctor,
    measure.evaluate,
    measure.curve,
    measure.calibrate,
    measure.reproduce,
    models.inspect,
    models.convert,
    models.export,
    serve.app,
    train.train,
):
    app.command()(command)


def main() -> None:
    """The entry point of the package."""
    set_idle_threads()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name need not be text that the terminal can show
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    app(prog_name="scalewise")
