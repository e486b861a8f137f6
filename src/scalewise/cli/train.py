"""`scalewise train`: make a model by a recipe, from a folder of photos or from a pack of crops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalewise.cli.options import FILES, RUNNING, Quiet
from scalewise.errors import DataError, InvalidRequest

if TYPE_CHECKING:
    from torch import Tensor, nn

    from scalewise.evaluate import EvalProtocol, Picture
    from scalewise.training.recipe import Recipe

SHOWN = 3  # crops in a sample picture
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
    from scalewise.recipes import find
    from scalewise.training.engine import Plan
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
    plan = Plan(
        resume=resume, seconds=seconds, devices=devices, nodes=nodes, dtype=checked_dtype(dtype), workers=workers,
        save_every=save_every, watch_every=val_every, state=state, parts=parts, quiet=quiet,
    )  # fmt: skip
    watch = None if val is None else Watch.of(val, chosen, protocol, val_side, out)
    done = run(chosen, pictures, out, plan, watch=watch, card=card)
    if not done.main:
        return
    typer.echo(f"{done.stage} step {done.step} of {done.steps}: {done.weights}")
    if done.reason != "done":
        typer.echo(f"scalewise: stopped ({done.reason}); --resume goes on", err=True)
        raise typer.Exit(130 if done.reason == "interrupted" else 0)


def _list() -> None:
    from scalewise.evaluate.tables import table_text
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


@dataclass
class Watch:
    """Measures a model on the centres of pictures under a protocol, and saves some beside bicubic and the truth.

    `__call__` gives "PROTOCOL xSCALE" → dB, and the gain over bicubic."""

    pictures: list[Picture]
    scales: tuple[float, ...]
    protocol: EvalProtocol
    out: Path
    floor: dict[float, float] = field(default_factory=dict)  # dB of bicubic

    @classmethod
    def of(cls, folder: Path, recipe: Recipe, protocol: str, side: int, out: Path) -> Watch:
        """Raises DataError and ProtocolMismatch before hours of training, not after."""
        from scalewise.data import decode_folder
        from scalewise.evaluate import find_protocol

        how = find_protocol(protocol)
        pictures = []
        for picture in decode_folder(folder):
            top, left = ((n - side) // 2 if 0 < side < n else 0 for n in picture.shape[-2:])
            centre = picture[:, top : top + side or None, left : left + side or None] if side else picture
            pictures.append(centre.float() / 255)
        for scale in recipe.validate_at:
            how.check(scale)
        watch = cls(pictures, recipe.validate_at, how, out)
        if min(min(p.shape[-2:]) for p in pictures) < 8 * max(recipe.validate_at):
            raise DataError(f"pictures of {str(folder)!r} are too small to measure at x{max(recipe.validate_at):g}")
        return watch

    def __call__(self, model: nn.Module, step: int) -> Mapping[str, float]:
        import torch

        from scalewise.evaluate import bicubic, predict, score, upscaler_of
        from scalewise.pipeline import Job

        device = str(next(model.parameters()).device)
        upscaler = upscaler_of(model, job=Job(device=device))  # type: ignore[arg-type]
        found: dict[str, float] = {}
        rows: list[Tensor] = []
        for scale in self.scales:
            total, floor = 0.0, 0.0
            for number, (lr, hr) in enumerate(self.pair(picture, scale) for picture in self.pictures):
                size = (hr.shape[-2], hr.shape[-1])
                with torch.no_grad():
                    sr = predict(upscaler, lr, size, scale, self.protocol).sr.float()
                total += score(sr, hr[:, : sr.shape[-2], : sr.shape[-1]], scale, self.protocol)["psnr"]
                if scale not in self.floor or (number < SHOWN and scale == self.scales[-1]):
                    plain = predict(bicubic, lr, size, scale, self.protocol).sr
                    floor += score(plain, hr[:, : plain.shape[-2], : plain.shape[-1]], scale, self.protocol)["psnr"]
                    if number < SHOWN and scale == self.scales[-1] and sr.shape == hr.shape == plain.shape:
                        rows.append(torch.cat([plain, sr, hr], -1))
            self.floor.setdefault(scale, floor / len(self.pictures))
            name = f"{self.protocol.name} x{scale:g}"
            found[name] = total / len(self.pictures)
            found[f"{name} over bicubic"] = found[name] - self.floor[scale]
        self.show(rows, step)
        return found

    def pair(self, picture: Picture, scale: float) -> tuple[Picture, Picture]:
        """(lr, hr): the picture cropped as the protocol does, and the LR that the protocol makes of it."""
        from scalewise.evaluate import make_lr

        h, w = (math.floor((n - n % self.protocol.multiple) / scale + 1e-9) for n in picture.shape[-2:])
        hr = picture[:, : round(h * scale), : round(w * scale)]
        return make_lr(hr, (h, w), scale, self.protocol), hr

    def show(self, rows: list[Tensor], step: int) -> None:
        """Bicubic, ours and the truth from left to right, one row for each picture."""
        import torch

        from scalewise import images

        if not rows:
            return
        folder = self.out / "pictures"
        folder.mkdir(exist_ok=True)
        width = min(row.shape[-1] for row in rows)
        sheet = torch.cat([row[..., :width] for row in rows if row.shape[-1] == width], -2)
        levels = (sheet.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        images.save(folder / f"{step:07d}.png", levels, overwrite=True)
