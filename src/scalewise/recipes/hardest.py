"""The harder half of a folder of photos, in tiles, to train on: what a network does well already teaches it little.

    python -m scalewise.recipes.hardest DIR [DIR …] --network FILE --out DIR

Squares of 256 pixels are ranked by the squared error of the network at ×4. The worst 5% are left out, as noise that
nothing restores, and the next half is written, each with 64 pixels around it (Moser et al., arXiv:2403.17083, who find
half of the crops as good as all).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scalewise.checkpoints import files, native
from scalewise.checkpoints.load import load_native
from scalewise.data import bicubic_8bit, open_pictures
from scalewise.errors import DataError, InvalidRequest, ScalewiseError, UnwritableOutput
from scalewise.geometry.grid import Frame, Query, rectangle
from scalewise.geometry.resize import imresize
from scalewise.machine.device import numbers, pick_dtype
from scalewise.models.multi_exit import MultiExitModel
from scalewise.multiexit.anyscale import AnyScaleExits
from scalewise.recipes.pictures import save_png

SQUARE, AROUND, SCALE, BATCH = 256, 64, 4, 16
WORST, KEPT = 0.05, 0.5  # shares of the squares

Place = tuple[int, int, int]  # number of the picture, first row, first column


def open_exits(file: Path) -> AnyScaleExits:
    """The network of a weight file with exits of ours. Raises InvalidRequest for others, and CheckpointError for what
    is no weight file."""
    content = files.read(file)
    model = load_native(content, {}).model if native.accepts(content) else None
    if not isinstance(model, MultiExitModel):
        raise InvalidRequest(f"{file} is not of a network with our exits: give a file of fast, quality or photo")
    return model.network


def squares(pictures: Sequence[Tensor]) -> Iterator[Place]:
    """The squares of a grid over each picture (3, h, w)."""
    for number, picture in enumerate(pictures):
        height, width = picture.shape[-2:]
        for top in range(0, height - SQUARE + 1, SQUARE):
            for left in range(0, width - SQUARE + 1, SQUARE):
                yield number, top, left


@torch.no_grad()
def errors(network: AnyScaleExits, pictures: Sequence[Tensor], places: Sequence[Place]) -> Tensor:
    """(n,): mean squared error of the whole network at each place, RGB in [0, 1]."""
    found, side = [], SQUARE // SCALE
    for first in range(0, len(places), BATCH):
        some = places[first : first + BATCH]
        cut = [pictures[number][:, top : top + SQUARE, left : left + SQUARE] for number, top, left in some]
        hr = torch.stack(cut).float() / 255
        lr = bicubic_8bit(hr, (side, side), np.random.default_rng())
        one = rectangle(Frame((side, side)), (SQUARE, SQUARE))
        query = Query(*(part.expand(len(some), *part.shape[1:]) for part in (one.y, one.x, one.cell)))
        residual = network.full(lr.contiguous(memory_format=torch.channels_last), query)
        found.append((imresize(lr, (SQUARE, SQUARE)) + residual.float() - hr).square().mean((1, 2, 3)))
    return torch.cat(found)


def hard_half(error: Tensor) -> list[int]:
    """Numbers (sorted) of what is kept of (n,) errors: the half below the worst, at least one."""
    order = error.argsort(descending=True).tolist()
    first, last = int(WORST * len(order)), int((WORST + KEPT) * len(order))
    return sorted(order[first : max(first + 1, last)])


def write(folders: Sequence[Path], file: Path, out: Path) -> int:
    """Write the tiles as PNG and return how many there are. Raises DataError if no picture is large enough,
    UnwritableOutput for the folder or a full disk, InvalidRequest and CheckpointError for the network."""
    network = open_exits(file)
    pictures = [picture for folder in folders for picture in open_pictures(folder)]
    places = list(squares(pictures))
    if not places:
        raise DataError(f"no picture has {SQUARE} pixels on both sides: give larger ones")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnwritableOutput(f"cannot make {out}: {error.strerror}") from None
    cpu = torch.device("cpu")
    with numbers(cpu, pick_dtype("auto", cpu)):
        found = errors(network, pictures, places)
    kept = [places[index] for index in hard_half(found)]
    for number, top, left in kept:
        picture = pictures[number]
        y, x = (
            min(max(0, start - AROUND), max(0, length - SQUARE - 2 * AROUND))
            for start, length in zip((top, left), picture.shape[-2:], strict=True)
        )
        side = SQUARE + 2 * AROUND
        tile = picture[:, y : y + side, x : x + side].permute(1, 2, 0).contiguous()
        save_png(Image.fromarray(tile.numpy()), out / f"{number:04d}-{top:04d}-{left:04d}.png")
    return len(kept)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--network", type=Path, required=True, help="a weight file of fast, quality or photo")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        count = write(given.photos, given.network, given.out)
    except ScalewiseError as error:
        parser.error(str(error))
    print(f"{given.out}: {count} tiles")


if __name__ == "__main__":
    main()
