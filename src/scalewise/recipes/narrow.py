"""Cut a narrower network out of a wider one of ours, for `scalewise train NAME --start FILE` to go on from:

python -m scalewise.recipes.narrow FILE --recipe NAME --data DIR [DIR …] --out FILE

The recipe says how many channels each block has inside, and of which crops; those stay that the pictures need most
(`training/narrow.py`). With `--keep` that share of all channels stays, wherever it is needed most: so the numbers of a
recipe are found.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import default_collate

from scalewise.checkpoints import files, native
from scalewise.checkpoints.load import Loaded, load_native
from scalewise.data import open_pictures
from scalewise.data.crops import large_enough
from scalewise.errors import InvalidRequest, ScalewiseError
from scalewise.machine.device import pick_dtype
from scalewise.models.multi_exit import MultiExitModel
from scalewise.recipes import find
from scalewise.recipes.fast import SHARES
from scalewise.training.narrow import narrowed, widths_for, worth_of_channels
from scalewise.training.stage import Batch

BATCHES, BATCH, SEED = 32, 8, 3  # of the crops that it is measured on


def open_exits(file: Path) -> tuple[Loaded, MultiExitModel]:
    """A weight file with exits of ours. Raises InvalidRequest for others, and CheckpointError for what is none."""
    content = files.read(file)
    found = load_native(content, {}) if native.accepts(content) else None
    if found is None or not isinstance(found.model, MultiExitModel):
        raise InvalidRequest(f"{file} is not of a network with our exits: give a file of fast, quality or photo")
    return found, found.model


def cut(file: Path, name: str, data: Sequence[Path], out: Path, keep: float | None = None) -> tuple[int, ...]:
    """Write the narrower network and return how many channels its blocks have inside: as the recipe `name` has them, or
    the share `keep` of all. Raises InvalidRequest, CheckpointError and DataError."""
    found, model = open_exits(file)
    recipe = find(name)
    samples, ours = recipe.stages[0].samples, recipe.network.build()
    if not isinstance(ours, MultiExitModel) or len(ours.network.hidden) != len(model.network.hidden):
        raise InvalidRequest(f"{file} is no wider form of {name}: it has {len(model.network.hidden)} blocks")
    pictures = large_enough([picture for folder in data for picture in open_pictures(folder)], samples)
    random = np.random.default_rng(SEED)

    def batches() -> Iterator[Batch]:
        for _ in range(BATCHES):
            yield default_collate([samples.sample(pictures, random) for _ in range(BATCH)])

    bf16 = pick_dtype("auto", torch.device("cpu")) == torch.bfloat16
    with torch.random.fork_rng(devices=[]), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        torch.manual_seed(SEED)
        worth = worth_of_channels(model.network, batches(), SHARES[-model.network.exits :])
    widths = ours.network.hidden if keep is None else widths_for(worth, keep)
    model.network = narrowed(model.network, worth, widths)
    about = {"training_data": found.description.about.get("training_data", "not known")}
    if licence := found.description.about.get("licence"):
        about["licence"] = licence
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    settings = {**found.description.arguments, "hidden": list(widths)}
    native.write(out, tensors, found.description.builder, settings, about)
    return widths


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("file", type=Path, help="a weight file of ours")
    parser.add_argument("--recipe", required=True, help="whose widths and crops")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of photos")
    parser.add_argument("--keep", type=float, help="share of the inner channels that stays, in place of the recipe's")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        widths = cut(given.file, given.recipe, given.data, given.out, given.keep)
    except ScalewiseError as error:
        parser.error(str(error))
    print(f"{given.out}: {', '.join(map(str, widths))} channels inside its blocks")


if __name__ == "__main__":
    main()
