"""`scalewise models`, `inspect`, `convert`, `export`, `doctor`: what there is, and whether it works here."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalewise.cli.format import format_line, memory
from scalewise.cli.options import OneScale, Overwrite
from scalewise.errors import ScalewiseError

if TYPE_CHECKING:
    from scalewise.zoo import Entry

REQUIRED = ("torch", "numpy", "pyvips", "safetensors", "pillow", "typer", "rich", "psutil")
OPTIONAL = {  # what each library that need not be there is for
    "lightning": "training",
    "fastapi": "the web page",
    "ray": "many machines",
    "rasterio": "maps with coordinates",
    "onnx": "export",
    "openvino": "comparison",
    "matplotlib": "pictures of curves",
    "pyiqa": "LPIPS, NIQE, BRISQUE, PIQE",
}


def models() -> None:
    """List the models that can be named by -n."""
    import torch

    from scalewise import zoo
    from scalewise.cli.format import table_text

    rows = []
    for name, entry in zoo.MODELS.items():
        with torch.device("meta"):  # its shape, without its memory
            scales = getattr(entry.build(), "scales", None)
        kinds = "any" if scales is None else ", ".join(f"×{scale:g}" for scale in scales)
        rows.append([name, kinds, _weights(entry), entry.licence, entry.summary])
    typer.echo(table_text(["name", "scales", "weights", "licence", "what for"], rows, "text"), nl=False)
    typer.echo(
        "\nAny weight file can be given instead: -n FILE, or -n FILE:key=value; scalewise inspect FILE says what it is."
    )


def _weights(entry: Entry) -> str:
    if not entry.needs_weights:
        return "none needed"
    if entry.weights is None:
        return "yours"
    return "here" if (resources.files("scalewise") / "weights" / entry.weights).is_file() else "missing"


def inspect(
    file: Annotated[Path, typer.Argument(help="A weight file, ours or published.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what a weight file is: network, scales, parameters, and what had to be assumed."""
    import json

    from scalewise import zoo

    found = zoo.describe(file)
    typer.echo(json.dumps(found.as_dict(), indent=2, default=str) if as_json else "\n".join(found.lines()))


def convert(
    file: Annotated[str, typer.Argument(help="A weight file; FILE:key=value sets what it leaves open.")],
    output: Annotated[Path, typer.Argument(help="Where to, a .safetensors.")],
    overwrite: Overwrite = False,
) -> None:
    """Turn a published weight file into a safetensors file that says what it is and gives the same pixels."""
    from scalewise import zoo

    path, settings = zoo.file_and_settings(file)
    typer.echo("\n".join(zoo.convert(path, output, overwrite=overwrite, **settings).lines()))


def export(
    output: Annotated[Path, typer.Argument(help="Where to, a .onnx.")],
    name: Annotated[
        str,
        typer.Option("--model", "-n", metavar="MODEL|FILE", help="A network, by name or weight file."),
    ],
    scale: OneScale,
    overwrite: Overwrite = False,
) -> None:
    """Write a network at one scale and full budget as an ONNX file: lr (1, 3, h, w) in [0, 1] to sr (1, 3, h·s, w·s).

    scalewise export -n fast -s 4 fast_x4.onnx
    """
    from scalewise import zoo
    from scalewise.export.onnx_file import export as write

    done = write(zoo.load(name, device="cpu").model, scale, output, overwrite=overwrite)
    shapes = ", ".join(f"{width}x{height}" for height, width in done.shapes)
    typer.echo(
        f"{format_line(str(output))}: ×{scale:g}, pictures of {done.least} pixels a side or more; at most "
        f"{done.difference:.1e} from torch on {shapes}; operators {', '.join(done.operators)}"
    )


def doctor() -> None:
    """Say what is installed, what this machine can do, and whether the models load; exit code 1 if one does not."""
    broken = []
    for name, value, fine in _findings():
        typer.echo(f"{name:<20}{value}")
        if not fine:
            broken.append(name)
    if broken:
        typer.echo(f"scalewise: not in order: {', '.join(broken)}", err=True)
        raise typer.Exit(1)


def _findings() -> Iterator[tuple[str, str, bool]]:
    """(what, how it is, whether that is fine)."""
    import psutil
    import pyvips
    import torch

    import scalewise
    from scalewise import images, zoo
    from scalewise.machine.device import fast_bf16, pick_device

    yield "scalewise", scalewise.__version__, True
    yield "python", f"{platform.python_version()} ({platform.machine()}, {sys.platform})", True
    for name in REQUIRED:
        yield name, *_version(name)
    yield "libvips", ".".join(str(pyvips.version(part)) for part in range(3)), True
    device = pick_device(None)
    words = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"
    yield "device", f"{device} ({words})", True
    yield "threads", str(torch.get_num_threads()), True
    yield "bf16", "fast here: used by default" if fast_bf16(device) else "slow here: fp32 is used", True
    ram = psutil.virtual_memory()
    yield "memory", f"{memory(ram.available)} free of {memory(ram.total)}", True
    reads = sorted(name for name, loader in LOADERS.items() if pyvips.type_find("VipsForeignLoad", loader))
    yield "reads", " ".join(reads), {"jpeg", "png", "tiff", "webp"} <= set(reads)
    yield "writes", " ".join(sorted(images.WRITABLE)), True
    for name, entry in zoo.MODELS.items():
        if entry.needs_weights and entry.weights is None:
            continue
        try:
            loaded = zoo.load(name)
        except (ScalewiseError, OSError) as error:
            yield f"model {name}", str(error), False
        else:
            count = sum(p.numel() for p in loaded.model.parameters())  # type: ignore[attr-defined]
            yield f"model {name}", f"loads, {count:,} parameters", True
    for name, purpose in OPTIONAL.items():
        version, there = _version(name)
        yield name, version if there else f"not installed ({purpose})", True


LOADERS = {
    "jpeg": "jpegload",
    "png": "pngload",
    "tiff": "tiffload",
    "webp": "webpload",
    "gif": "gifload",
    "heif": "heifload",
}


def _version(name: str) -> tuple[str, bool]:
    try:
        return importlib.metadata.version(name), True
    except importlib.metadata.PackageNotFoundError:
        return "not installed", False
