"""`scalewise train`: make a model by a recipe, from a folder of photos or from a pack of crops."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from scalewise.cli.format import table_text
from scalewise.cli.options import FILES, RUNNING, Quiet
from scalewise.errors import InvalidRequest

ROOM = 4 / 3  # side of a pack's crops over what a sample needs, so that samples can move in them


def train(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="A name of --list.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR|PACK", help="A folder of photos, or a pack of --pack.")
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
    pack: Annotated[
        Path | None,
        typer.Option(
            "--pack", metavar="FILE", help="Only write the crops of --data as one file.", rich_help_panel=FILES
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            metavar="DIR",
            help="Keep half-precision weights here, and resume from them.",
            rich_help_panel=FILES,
        ),
    ] = None,
    parts: Annotated[
        bool, typer.Option("--parts", help="Leave the state in parts of 15 MiB too.", rich_help_panel=FILES)
    ] = False,
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
    if recipe is None or data is None:
        raise InvalidRequest("name a recipe and --data DIR; scalewise train --list says which recipes there are")
    seconds = parse_time(max_time)

    from scalewise.data import open_pictures, read_pack, write_pack
    from scalewise.evaluate.validation import Validation
    from scalewise.recipes import find
    from scalewise.training.engine import TrainOptions
    from scalewise.training.engine import train as run

    chosen = find(recipe, model=model, steps=steps, seed=seed, vgg=vgg)
    say = None if quiet else (lambda name: typer.echo(f"reading {name}", err=True))
    pictures, card = read_pack(data) if data.is_file() else (open_pictures(data, progress=say), {})
    if not card:
        megapixels = sum(picture.shape[1] * picture.shape[2] for picture in pictures) / 1e6
        card = {"training_data": about or f"{len(pictures)} pictures of {data.name}/, {megapixels:.0f} Mpx"}
    if pack is not None:
        count = write_pack(pack, pictures, round(chosen.needs * ROOM / 16) * 16, card)
        typer.echo(f"{pack}: {count} crops, {pack.stat().st_size / 2**20:.1f} MiB")
        return
    out = out or Path("runs") / chosen.name
    plan = TrainOptions(
        resume=resume, seconds=seconds, devices=devices, nodes=nodes, dtype=checked_dtype(dtype), workers=workers,
        save_every=save_every, watch_every=val_every, state=state, parts=parts, quiet=quiet,
    )  # fmt: skip
    watch = None if val is None else Validation.of(val, chosen, protocol, val_side, out)
    done = run(chosen, pictures, out, plan, watch=watch, card=card)
    if not done.main:
        return
    typer.echo(f"{done.stage} step {done.step} of {done.steps}: {done.weights}")
    if done.reason != "done":
        typer.echo(f"scalewise: stopped ({done.reason}); --resume goes on", err=True)
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
