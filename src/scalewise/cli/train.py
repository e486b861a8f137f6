"""`scalewise train`: make a model by a recipe from folders of photos, or many models from a queue."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalewise.cli.format import table_text
from scalewise.cli.options import FILES, RUNNING, Quiet
from scalewise.errors import InvalidRequest

if TYPE_CHECKING:
    from torch import nn

    from scalewise.evaluate.validation import Validation
    from scalewise.recipes.queue import QueuedTraining
    from scalewise.training.engine import Trained
    from scalewise.training.recipe import Recipe
    from scalewise.training.start import Start


def train(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="A name of --list.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option("--data", metavar="DIR", help="A folder of photos; give it again for more.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Say which recipes there are.")] = False,
    val: Annotated[
        Path | None, typer.Option("--val", metavar="DIR", help="A folder of photos to measure on, none of --data.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Weights, state and logs. Default: runs/RECIPE.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="FILE.py:FUNCTION", help="Train your own: a function that builds the model."),
    ] = None,
    queue: Annotated[
        Path | None,
        typer.Option("--queue", metavar="FILE.toml", help="Train what it lists, in order, going on where it was."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--start", metavar="FILE|NAME", help="Begin with the weights of this file or network."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="NAME", help="With --start: begin at a later stage of the recipe.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", metavar="N", help="So many in place of the recipe's.")] = None,
    max_time: Annotated[
        str | None, typer.Option("--max-time", metavar="HH:MM:SS", help="Stop in time; --resume goes on.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in --out stopped.")] = False,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="Another than the recipe's.")] = None,
    protocol: Annotated[
        str, typer.Option("--protocol", metavar="NAME", help="How --val is measured: docs/protocols.md.")
    ] = "default",
    val_side: Annotated[
        int, typer.Option("--val-side", metavar="N", help="Side of the centre measured in --val; 0: all.")
    ] = 384,
    val_every: Annotated[int, typer.Option("--val-every", metavar="N", help="Steps between measurements.")] = 1000,
    save_every: Annotated[int, typer.Option("--save-every", metavar="N", help="Steps between saved states.")] = 250,
    devices: Annotated[
        int,
        typer.Option("--devices", metavar="N", help="GPUs, or processes where there is none.", rich_help_panel=RUNNING),
    ] = 1,
    nodes: Annotated[int, typer.Option("--nodes", metavar="N", help="Machines.", rich_help_panel=RUNNING)] = 1,
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="auto|fp32|bf16", help="Number type.", rich_help_panel=RUNNING)
    ] = "auto",
    workers: Annotated[
        int, typer.Option("--workers", metavar="N", help="Processes that make samples.", rich_help_panel=RUNNING)
    ] = 1,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            metavar="DIR",
            help="Write half-precision weights here, and resume from them.",
            rich_help_panel=FILES,
        ),
    ] = None,
    about: Annotated[
        str | None, typer.Option("--about", metavar="TEXT", help="What the model card says of --data.")
    ] = None,
    vgg: Annotated[
        Path | None,
        typer.Option("--vgg", metavar="FILE", help="VGG19's weights, for recipes with a perceptual loss."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make a model by a recipe; killed at any time, the same command with --resume goes on."""
    if listed:
        return _list()
    given = {
        "dtype": checked_dtype(dtype), "workers": workers, "protocol": protocol, "val_side": val_side,
        "val_every": val_every, "save_every": save_every, "state": state, "about": about, "out": out,
        "start": start, "stage": stage,
    }  # fmt: skip
    seconds = parse_time(max_time)
    if queue is not None:
        of_one = {
            "RECIPE": recipe, "--out": out, "--model": model, "--start": start, "--stage": stage, "--steps": steps,
            "--seed": seed, "--state": state, "--about": about, "--vgg": vgg,
        }  # fmt: skip
        if misplaced := [name for name, value in of_one.items() if value is not None]:
            raise InvalidRequest(f"--queue {queue}: each training there has its own {', '.join(misplaced)}, if any")
        return _train_queue(queue, tuple(data or ()), val, seconds, quiet)
    if recipe is None or not data:
        raise InvalidRequest("name a recipe and --data DIR; scalewise train --list says which recipes there are")

    from scalewise.recipes import find
    from scalewise.recipes.queue import QueuedTraining

    chosen = find(recipe, model=model, stage=stage, steps=steps, seed=seed, vgg=vgg)
    training = QueuedTraining(recipe, data=tuple(data), val=val, **given)
    if stage is not None and start is None and not (resume and _has_state(training, chosen)):
        raise InvalidRequest(f"--stage {stage} begins with weights that are there: name them by --start FILE or NAME")
    done = _train_one(chosen, training, seconds, quiet, resume=resume, devices=devices, nodes=nodes)
    if not done.main:
        return
    typer.echo(f"{done.stage} step {done.step} of {done.steps}: {done.weights}")
    if done.reason != "done":
        typer.echo(f"scalewise: stopped ({done.reason}); --resume goes on", err=True)
        raise typer.Exit(130 if done.reason == "interrupted" else 0)


def _train_one(
    recipe: Recipe,
    training: QueuedTraining,
    seconds: float,
    quiet: bool,
    *,
    resume: bool,
    devices: int = 1,
    nodes: int = 1,
    log: Path | None = None,
) -> Trained:
    """One training, from its pictures to its weights. `log`: a file that gets a line for each validation."""
    from scalewise.data import open_pictures
    from scalewise.evaluate.validation import Validation
    from scalewise.training.engine import TrainOptions, is_first_process
    from scalewise.training.engine import train as run

    out = _folder(training, recipe)
    quiet = quiet or not is_first_process()  # of several, which run the same command
    start = _start(training, recipe, resume, quiet)
    say = None if quiet else (lambda name: typer.echo(f"reading {name}", err=True))
    pictures = [picture for folder in training.data for picture in open_pictures(folder, progress=say)]
    megapixels = sum(picture.shape[1] * picture.shape[2] for picture in pictures) / 1e6
    folders = ", ".join(f"{folder.name}/" for folder in training.data)
    card = {"training_data": training.about or f"{len(pictures)} pictures of {folders}, {megapixels:.0f} Mpx"}
    options = TrainOptions(
        resume=resume, start=start, seconds=seconds, devices=devices, nodes=nodes, dtype=checked_dtype(training.dtype),
        workers=training.workers, save_every=training.save_every, validate_every=training.val_every,
        state=training.state, quiet=quiet,
    )  # fmt: skip
    measure = None
    if training.val is not None:
        measure = Validation.of(training.val, recipe, training.protocol, training.val_side, out)
    validate = measure if log is None or measure is None else _logged(measure, recipe.name, log)
    return run(recipe, pictures, out, options, validate=validate, card=card)


def _folder(training: QueuedTraining, recipe: Recipe) -> Path:
    return training.out or Path("runs") / recipe.name


def _has_state(training: QueuedTraining, recipe: Recipe) -> bool:
    from scalewise.training.state import has_state

    return has_state(_folder(training, recipe), training.state, recipe.name)


def _start(training: QueuedTraining, recipe: Recipe, resume: bool, quiet: bool) -> Start | None:
    """The weights that a training begins with, compared with the recipe's network; None if it has a state to go on
    from, which comes first."""
    if training.start is None:
        return None
    from scalewise import zoo
    from scalewise.recipes.start import read_start

    if resume and _has_state(training, recipe):
        if not quiet:
            typer.echo(f"{recipe.name} goes on from its state, and not from {training.start}", err=True)
        return None
    with zoo.weight_file(training.start) as path:
        return read_start(path, recipe, training.start if training.start in zoo.MODELS else None)


def _logged(measure: Validation, name: str, log: Path) -> Callable[[nn.Module, int], Mapping[str, float]]:
    """The validation, and a line of what it found."""

    def validate(model: nn.Module, step: int) -> Mapping[str, float]:
        found = measure(model, step)
        values = "  ".join(f"{key} {value:.3f}" for key, value in found.items())
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {name}  step {step}  {values}\n")
        return found

    return validate


def _train_queue(path: Path, data: tuple[Path, ...], val: Path | None, seconds: float, quiet: bool) -> None:
    """Every training of a queue, in order, each from where it was stopped, at the lowest priority. `data` and `val` are
    for those that name none."""
    from scalewise.data.decode import find as find_pictures
    from scalewise.recipes.queue import read_queue
    from scalewise.recipes.start import check_follows

    trainings = [replace(one, data=one.data or data, val=one.val or val) for one in read_queue(path)]
    for one in trainings:
        if not one.data:
            raise InvalidRequest(f"--queue {path}: {one.recipe} names no data: write data = DIR, or give --data")
        for folder in (*one.data, *((one.val,) if one.val else ())):
            find_pictures(folder)
    made: dict[Path, Recipe] = {}  # by the trainings before: such a file may not be there yet
    for one in trainings:
        recipe = one.found()
        if one.start is not None and (before := made.get(Path(one.start).resolve())) is not None:
            check_follows(recipe, before)
        else:
            _start(one, recipe, resume=True, quiet=True)
        made[(_folder(one, recipe) / f"{recipe.name}.safetensors").resolve()] = recipe
    if hasattr(os, "nice"):
        os.nice(19)
    started = time.monotonic()
    for number, one in enumerate(trainings, 1):
        left = seconds - (time.monotonic() - started)
        done = _train_one(one.found(), one, left, quiet, resume=True, log=path.with_suffix(".log"))
        typer.echo(
            f"{number}/{len(trainings)} {one.recipe}: {done.stage} step {done.step} of {done.steps}: {done.weights}"
        )
        if done.reason != "done":
            typer.echo(f"scalewise: stopped ({done.reason}); the same command goes on", err=True)
            raise typer.Exit(130 if done.reason == "interrupted" else 0)


def _list() -> None:
    from scalewise.recipes import RECIPES

    rows = [
        [name, f"{recipe.steps:,}", ", ".join(stage.name for stage in recipe.stages), str(recipe.needs), recipe.summary]
        for name, recipe in RECIPES.items()
    ]
    typer.echo(table_text(["recipe", "steps", "stages", "least side", "what for"], rows, "text"), nl=False)


def parse_time(text: str | None) -> float:
    """`01:30:00`, `90:00` (minutes) or seconds; no text is no limit. Raises InvalidRequest."""
    if text is None:
        return math.inf
    parts = text.split(":")
    if len(parts) > 3 or not all(part.isdecimal() for part in parts):
        raise InvalidRequest(f"--max-time {text!r} is not a time: write HH:MM:SS, as 01:30:00")
    return float(sum(int(part) * 60**power for power, part in enumerate(reversed(parts))))


def checked_dtype(text: str) -> Any:
    if text not in ("auto", "fp32", "bf16"):
        raise InvalidRequest(f"--dtype {text} is not known: allowed are auto, fp32, bf16")
    return text
