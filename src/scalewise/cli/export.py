"""`scalewise export`: a network as a file that other programs run."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalewise.cli.format import format_line
from scalewise.cli.options import Overwrite
from scalewise.errors import InvalidRequest

if TYPE_CHECKING:
    from torch import Tensor

    from scalewise.export.int8 import Crop
    from scalewise.export.onnx_file import Exported
    from scalewise.zoo import LoadedModel

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"  # of a clone; an installed package has none
CROP_SIDE = 96  # LR pixels
CALIBRATION_PIXELS = 64 * CROP_SIDE**2  # LR pixels of all crops: enough for ranges that no longer grow
LEAST_CROPS = 8
MOST_PHOTOS = 32


def export(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Where to, a .onnx; a .dtmodel for darktable.")],
    name: Annotated[
        str,
        typer.Option("--model", "-n", metavar="MODEL|FILE", help="A network, by name or weight file."),
    ],
    scale: Annotated[
        float | None, typer.Option("--scale", "-s", metavar="FACTOR", help="The scale; not with --package.")
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            "--tile", "-t", metavar="N", help="Take pictures of N×N pixels only, as browsers and accelerators prefer."
        ),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store weights as 16-bit floats: half of the size.")] = False,
    package: Annotated[
        str | None, typer.Option("--package", metavar="darktable", help="For darktable: ×2 and ×4 in one .dtmodel.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Convolutions in 8 bits, all but the last; needs onnxruntime.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Photos for --int8. Default: examples/ of the clone."),
    ] = None,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Keep a file of --int8 that loses more than 0.15 dB.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a network at one scale and full budget as an ONNX file: lr (1, 3, h, w) in [0, 1] to sr (1, 3, h·s, w·s).

    scalewise export -n fast -s 4 fast_x4.onnx
    """
    from scalewise import zoo
    from scalewise.export.onnx_file import MAX_TILE
    from scalewise.export.onnx_file import export as write

    if package not in (None, "darktable"):
        raise InvalidRequest(f"--package {package} is not known: allowed is darktable")
    if package and (scale is not None or tile is not None or int8):
        raise InvalidRequest(
            "--package darktable holds ×2 and ×4 of any size in float: leave out -s, --tile and --int8"
        )
    if not int8 and (data is not None or accept_loss):
        raise InvalidRequest("--data and --accept-loss belong to --int8: add it, or leave them out")
    if int8 and half:
        raise InvalidRequest("--int8 and --half both say how weights are stored: leave one out")
    if tile is not None and not 1 <= tile <= MAX_TILE:
        raise InvalidRequest(f"--tile {tile} is out of range: allowed are 1 to {MAX_TILE} pixels a side")
    if package is None and scale is None:
        raise InvalidRequest("a network is exported at one scale: add -s 4, or --package darktable")
    model = zoo.load(name, device="cpu")
    if scale is None:
        _package(model, output, half=half, overwrite=overwrite)
    elif int8:
        _int8(model, scale, output, tile=tile, data=data, accept_loss=accept_loss, overwrite=overwrite)
    else:
        done = write(model.model, scale, output, tile=tile, half=half, overwrite=overwrite)
        typer.echo(f"{format_line(str(output))}: {_line(scale, done, tile)}")


def _line(scale: float, done: Exported, tile: int | None, *, compared: str = "") -> str:
    takes = f"pictures of {done.least} pixels a side or more" if tile is None else f"pictures of {tile}×{tile} only"
    shapes = ", ".join(f"{width}×{height}" for height, width in done.shapes)
    return (
        f"×{scale:g}, {takes}; {compared}at most {done.difference:.1e} from torch on {shapes}; "
        f"operators {', '.join(done.operators)}"
    )


def _package(model: LoadedModel, output: Path, *, half: bool, overwrite: bool) -> None:
    from scalewise.export.darktable import export_package

    name = Path(model.name).stem
    for scale, done in export_package(model.model, name, model.card, output, half=half, overwrite=overwrite).items():
        typer.echo(f"{format_line(str(output))}: {_line(scale, done, None)}")


def _int8(
    model: LoadedModel,
    scale: float,
    output: Path,
    *,
    tile: int | None,
    data: Path | None,
    accept_loss: bool,
    overwrite: bool,
) -> None:
    from scalewise.export.int8 import export_int8
    from scalewise.export.phases import whole

    if data is None and not EXAMPLES.is_dir():
        raise InvalidRequest("--int8 is calibrated on photos: name a folder of them with --data")
    crops = calibration_crops(data or EXAMPLES, whole(scale), tile or CROP_SIDE)
    done = export_int8(model.model, scale, output, crops, tile=tile, accept_loss=accept_loss, overwrite=overwrite)
    typer.echo(
        f"{format_line(str(output))}: {done.quantized} of {done.convolutions} convolutions in 8 bits; "
        f"{done.fp32:.3f} dB in 32 bits, {done.int8:.3f} in 8, {done.loss:.3f} lost (RGB, {len(crops)} crops of "
        f"{tile or CROP_SIDE}×{tile or CROP_SIDE})\n"
        f"{_line(scale, done.exported, tile, compared='in 32 bits ')}"
    )


def calibration_crops(folder: Path, scale: int, side: int) -> list[Crop]:
    """Pairs of LR (3, side, side) and HR from the photos of a folder, by a fixed draw; a photo smaller than a crop is
    mirrored at its borders. Raises DataError."""
    from scalewise.data.decode import decode, find
    from scalewise.evaluate.metrics import eight_bit
    from scalewise.geometry.resize import imresize

    draw, paths = random.Random(0), find(folder)
    photos = draw.sample(paths, min(len(paths), MOST_PHOTOS))
    count = max(LEAST_CROPS, CALIBRATION_PIXELS // side**2)
    crops = []
    for index, path in enumerate(photos):
        photo = mirrored_to(decode(path), side * scale)
        for _ in range(count * (index + 1) // len(photos) - count * index // len(photos)):
            top, left = (draw.randint(0, n - side * scale) for n in photo.shape[1:])
            hr = photo[:, top : top + side * scale, left : left + side * scale].float() / 255
            crops.append((eight_bit(imresize(hr, (side, side))), hr))
    return crops


def mirrored_to(photo: Tensor, least: int) -> Tensor:
    """(3, h, w) → the same, mirrored below and to the right until both sides have `least` pixels."""
    import torch

    for axis in (1, 2):
        while photo.shape[axis] < least:
            photo = torch.cat((photo, photo.flip(axis)), axis)
    return photo
