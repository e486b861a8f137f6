"""`scalewise figure`: the papers' figures of their routers, drawn of any model and picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from scalewise.cli.format import table_text
from scalewise.cli.options import (
    FILES,
    Native,
    OneScale,
    Overwrite,
    Quiet,
    check_files,
    measuring,
    parse_crop,
    wanted_budget,
)
from scalewise.errors import InvalidRequest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scalewise.budget.budget import Budget
    from scalewise.execution.plan import RunOptions
    from scalewise.models.model import Model

Name = Literal["scales", "layers", "masks", "maps", "crops"]


@measuring
def figure(
    kind: Annotated[str, typer.Argument(metavar="scales|layers|masks|maps|crops", help="What is drawn.")],
    pictures: Annotated[
        list[Path], typer.Argument(metavar="PICTURE...", help="Pictures to enlarge; for crops originals.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="A .png.", rich_help_panel=FILES)],
    name: Annotated[
        list[str], typer.Option("--model", "-n", metavar="MODEL|FILE", help="As often as there are models to compare.")
    ],
    scale: OneScale = 2,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="SHARE|MACS", help="Per picture: 50%, 0.5 or 2e12macs.")
    ] = None,
    native: Native = None,
    crop: Annotated[
        str | None, typer.Option("--crop", metavar="X,Y,W,H", help="For crops: pixels of the original.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    *,
    how: RunOptions,
) -> None:
    """Draw what routers do. scales: TADT's β and MACs by scale. layers: the share of windows and tokens that stays in
    each layer; of CAMixerSR that gets attention. masks: which ones, and AdaFormer's confidence. maps: where several
    models work on one picture. crops: their pictures beside bicubic and the original, of which the LR is made."""
    from scalewise import upscale
    from scalewise.evaluate import figures
    from scalewise.evaluate.pairs import read_picture
    from scalewise.storage import atomic_write

    if kind not in get_args(Name):
        raise InvalidRequest(f"there is no figure {kind!r}: there are {', '.join(get_args(Name))}")
    if output.suffix.lower() != ".png":
        raise InvalidRequest(f"-o {output}: figures are .png")
    if len(pictures) > 1 and kind not in ("scales", "layers"):
        raise InvalidRequest(f"figure {kind} is of one picture, and there are {len(pictures)}")
    if len(name) > 1 and kind == "masks":
        raise InvalidRequest(f"figure masks is of one model, and there are {len(name)}")
    if crop is not None and kind != "crops":
        raise InvalidRequest(f"--crop is for figure crops, not {kind}")
    if kind == "scales" and (budget is not None or native is not None):
        raise InvalidRequest(
            "figure scales is of the β that TADT's controller chooses: leave out --budget and --native"
        )
    if kind in ("scales", "layers", "masks") and (how.tile is not None or how.dtype != "fp32"):
        raise InvalidRequest(f"figure {kind} runs pictures as a whole in fp32: leave out --tile and --dtype")
    check_files([output], overwrite=overwrite)
    figures.new_figure(1, 1)  # without matplotlib nothing is computed first
    wanted = wanted_budget(budget, native)
    names, rows = _labels(name), list[list[str]]()
    if kind == "crops":
        drawn = _crops(pictures[0], names, scale, crop, wanted, how)
    elif kind == "maps":
        run = partial(upscale, pictures[0], scale, budget=wanted, tile=how.tile, device=how.device, dtype=how.dtype)
        reports = {label: run(model=one).report for label, one in names.items()}
        drawn = figures.draw_maps(read_picture(pictures[0]), reports)
    else:
        models = {label: _loaded(one, how) for label, one in names.items()}
        lrs = [read_picture(path) for path in pictures]
        if kind == "scales":
            lines = {one: figures.intensities(model, lrs) for one, model in models.items()}
            drawn = figures.draw_scales(lines)
            for one, line in lines.items():
                rows += [[one, "β", *_numbers(line.beta[::8])], [one, "MACs", *_numbers(line.share[::8])]]
        else:
            found = {one: [figures.routes(model, lr, scale, wanted) for lr in lrs] for one, model in models.items()}
            if kind == "layers":
                shares = {one: figures.kept_shares(route) for one, route in found.items()}
                drawn = figures.draw_layers(shares)
                rows = [
                    [one, f"{unit}s", *_numbers(kept)] for one, units in shares.items() for unit, kept in units.items()
                ]
            else:
                drawn = figures.draw_masks(lrs[0], next(iter(found.values()))[0])
    with atomic_write(output, overwrite=overwrite) as temporary:
        figures.save(drawn, temporary)
    if rows and not quiet:
        width = max(map(len, rows))
        columns = ["×1", "×2", "×3", "×4"] if kind == "scales" else [str(k) for k in range(1, width - 1)]
        rows = [row + [""] * (width - len(row)) for row in rows]
        typer.echo(table_text(["model", "", *columns], rows, "text"), nl=False)


def _labels(names: list[str]) -> dict[str, str]:
    """What a figure calls each model → the model: files by their last part, unless two have the same."""
    short = [Path(name).name for name in names]
    return dict(zip(short if len(set(short)) == len(set(names)) else names, names, strict=True))


def _numbers(values: Sequence[float]) -> list[str]:
    return [f"{value:.3f}" for value in values]


def _loaded(name: str, how: RunOptions) -> Model:
    from scalewise import zoo

    return zoo.load(name, device=how.device).model


def _crops(
    picture: Path, names: Mapping[str, str], scale: float, crop: str | None, budget: Budget, how: RunOptions
) -> Figure:
    """Of an original, whose LR is made as the protocol default makes it."""
    from scalewise.cli.measure import found_models
    from scalewise.evaluate import DEFAULT, Pair, bicubic, figures, load_pair

    if crop is None:
        raise InvalidRequest("figure crops wants --crop X,Y,WIDTH,HEIGHT in pixels of the original")
    lr, hr = load_pair(Pair(picture.stem, picture), scale, DEFAULT)
    find = found_models(how)
    upscalers = {"bicubic": bicubic} | {label: find(name, budget) for label, name in names.items()}
    return figures.draw_crops(lr, scale, parse_crop(crop), upscalers, hr)
