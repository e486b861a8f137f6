"""`scalewise models`, `inspect`, `convert`: which models there are, and what a weight file is."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalewise.cli.format import format_line, table_text
from scalewise.cli.options import Overwrite
from scalewise.errors import InvalidRequest, ScalewiseError

if TYPE_CHECKING:
    from scalewise.zoo import Entry


LICENCE_KEYS = ("license", "licence")


def models(
    folder: Annotated[
        Path | None,
        typer.Option("--dir", metavar="FOLDER", help="List the weight files of a folder instead.", show_default=False),
    ] = None,
) -> None:
    """List the models that can be named by -n."""
    import torch

    from scalewise import zoo
    from scalewise.checkpoints.load import scales_of

    if folder is not None:
        typer.echo(_files_of(folder), nl=False)
        return
    rows = []
    for name, entry in zoo.MODELS.items():
        with torch.device("meta"):  # its shape, without its memory
            scales = scales_of(entry.build())
        kinds = "any" if scales is None else ", ".join(f"×{scale:g}" for scale in scales)
        rows.append([name, kinds, _weights(entry), entry.licence, entry.summary])
    typer.echo(table_text(["name", "scales", "weights", "licence", "what for"], rows, "text"), nl=False)
    typer.echo(
        "\nAny weight file can be given instead: -n FILE, or -n FILE:key=value; scalewise inspect FILE says what it is."
    )


def _files_of(folder: Path) -> str:
    """The weight files of a folder as a table; those that cannot be used with the reason."""
    from scalewise import zoo

    if not folder.is_dir():
        raise InvalidRequest(f"{str(folder)!r} is no folder: name one that holds weight files")
    rows = []
    for path in zoo.weight_files(folder):
        try:
            found = zoo.describe(path)
        except ScalewiseError as error:
            rows.append([path.name, "", "", "", str(error).removeprefix(f"{path}: ")])
            continue
        scales = "any" if found.scales is None else ", ".join(f"×{scale:g}" for scale in found.scales)
        licence = next((text for key, text in found.about.items() if key.lower() in LICENCE_KEYS), "not stated")
        network = found.network if not found.lacks else f"{found.network}: lacks {found.lacks}"
        rows.append([path.name, scales, f"{found.parameters:,}", licence, network])
    if not rows:
        return f"{folder}: no weight files ({', '.join(zoo.WEIGHT_ENDINGS)})\n"
    lines = [[format_line(cell) for cell in row] for row in rows]
    return table_text(["file", "scales", "parameters", "licence", "network"], lines, "text")


def _weights(entry: Entry) -> str:
    if not entry.needs_weights:
        return "none needed"
    if entry.weights is None:
        return "yours"
    return "here" if (resources.files("scalewise") / "weights" / entry.weights).is_file() else "missing"


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A weight file, ours or published.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what a weight file is: network, scales, parameters, and what had to be assumed."""
    from scalewise import zoo

    loaded = zoo.open_file(zoo.file_and_settings(str(file))[0])
    found = replace(loaded.description, about=_measures(loaded.model) | dict(loaded.description.about))
    typer.echo(json.dumps(found.as_dict(), indent=2, default=str) if as_json else format_description(found.lines()))


def _measures(model: Any) -> dict[str, str]:
    """MACs per pixel and context of what can upscale, at its largest scale, or at ×4 where it takes any scale."""
    if not hasattr(model, "full_macs"):
        return {}
    from scalewise.geometry.grid import Frame

    side, limits = 32 * model.limits.patch_stride, model.limits
    scale = 4 if limits.scales is None else round(max(limits.scales))
    macs = model.full_macs(Frame((side, side)), (side, side), (0, 0, side, side), (scale * side, scale * side))
    context = "the whole picture" if limits.context is None else f"{limits.context} pixels"
    return {"macs": f"{macs / side**2:.3g} per pixel of the input (×{scale})", "context": context}


def format_description(lines: list[str]) -> str:
    """What a weight file is, as a table; its calibration as one of its own. Nothing in it can steer a terminal."""
    first, rows, calibration = lines[0], [], ""
    for line in lines[1:]:
        name, _, value = line.partition(" ")
        if name == "calibration":
            calibration = value
        else:
            rows.append((format_line(name.replace("_", " ")), format_line(value.strip())))
    width = max((len(name) for name, _ in rows), default=0) + 2
    text = [format_line(first), *(f"{name:<{width}}{value}" for name, value in rows)]
    return "\n".join([*text, *_calibration_lines(calibration)])


def _calibration_lines(text: str) -> list[str]:
    """What budgets cost, scale by scale; nothing if the text is not a calibration."""
    try:
        rows = [
            [f"×{curve['scale']:g}", f"{point['budget']:.0%}", f"{point['share']:.1%}", f"{point['psnr']:.2f}"]
            for curve in json.loads(text or "[]")
            for point in curve["points"]
        ]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []
    return ["", table_text(["scale", "budget", "MACs spent", "PSNR"], rows, "text").rstrip()] if rows else []


def convert(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A weight file; FILE:key=value sets what it leaves open.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Where to, a .safetensors.")],
    overwrite: Overwrite = False,
) -> None:
    """Turn a published weight file into a safetensors file that says what it is and gives the same pixels."""
    from scalewise import zoo

    path, settings = zoo.file_and_settings(file)
    typer.echo(format_description(zoo.convert(path, output, overwrite=overwrite, **settings).lines()))
