"""The command line: `main`, and how errors become one line and an exit code.

- upscale.py: upscale, its options in upscale_options.py; one_picture.py, many_pictures.py: its work; paths.py: which
  files it reads and writes; stdio.py: the three streams, and signals
- measure.py: evaluate, curve, calibrate; published.py: reproduce;
  figure.py: figure
- video.py: video
- models.py: models, inspect, convert; export.py: export; doctor.py: doctor; serve.py: app
- train.py: train
- options.py: options that several commands share; format.py: how tables, numbers and errors are printed

Commands import what they need when they run: `scalewise --help` loads neither torch nor libvips.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import scalewise
from scalewise.cli import doctor, export, figure, measure, models, published, serve, train, upscale, video
from scalewise.cli.format import explain, missing_extra
from scalewise.cli.stdio import Interrupted, end_by_signals, open_streams
from scalewise.errors import InvalidRequest, ScalewiseError
from scalewise.machine.threads import set_idle_threads

INTERRUPTED = 130  # what a shell gives a command that SIGINT ended


def report(error: BaseException) -> int:
    """Print an error that is expected as one line; its exit code. Raises any other again."""
    message = missing_extra(error) if isinstance(error, ModuleNotFoundError) else explain(error)
    if message is None:
        raise error
    typer.echo(f"scalewise: {message}", err=True)
    if isinstance(error, KeyboardInterrupt):
        return error.exit_code if isinstance(error, Interrupted) else INTERRUPTED
    return 2 if isinstance(error, InvalidRequest | ModuleNotFoundError) else 1


class Commands(TyperGroup):
    """An error that is expected is one line on stderr; any other keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ScalewiseError, KeyboardInterrupt, ModuleNotFoundError) as error:
            raise typer.Exit(report(error)) from None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in self.commands and (os.path.exists(name) or os.path.splitext(name)[1]):
            raise InvalidRequest(f"{name!r} is no command: to enlarge a picture, write scalewise upscale {name} -s 2")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="scalewise",
    cls=Commands,
    no_args_is_help=True,
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


def help_of(command: Callable[..., None]) -> str:
    """A command's docstring as typer prints it: its help is markup, where a bracket would be a style, and vanish."""
    return (inspect.getdoc(command) or "").replace("[", "\\[")


for command in (
    upscale.upscale,
    video.video,
    models.models,
    doctor.doctor,
    measure.evaluate,
    measure.curve,
    measure.calibrate,
    published.reproduce,
    figure.figure,
    models.inspect,
    models.convert,
    export.export,
    serve.app,
    train.train,
):
    app.command(help=help_of(command))(command)


def main() -> None:
    """The entry point of the package."""
    set_idle_threads()
    open_streams()
    end_by_signals()
    try:
        app(prog_name="scalewise")
    except ScalewiseError as error:  # from an option that acts at once, as --version
        sys.exit(report(error))
