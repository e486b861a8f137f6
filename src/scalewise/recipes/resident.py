"""Train recipes side by side on one device by the clock (`training/device_loop.py`), from a folder of pictures:

python -m scalewise.recipes.resident fast quality --pictures DIR --seconds 400 --out DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from scalewise.data.resident import Pictures
from scalewise.errors import ScalewiseError
from scalewise.recipes import find
from scalewise.recipes.start import read_start
from scalewise.training.device_loop import DeviceTraining, load_pictures, train
from scalewise.training.recipe import Recipe
from scalewise.training.start import Start


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--pictures", type=Path, nargs="+", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="a weight file that every recipe named goes on from")
    parser.add_argument("--only", nargs="+", help="stages, by name; the others are left out")
    parser.add_argument("--halves", action="store_true", help="also from each picture at half its size")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(given.seed)
    begun: list[tuple[Recipe, Start | None]] = []
    for name in given.names:
        try:
            recipe = find(name)
            if given.only:
                names = [stage.name for stage in recipe.stages]
                if not set(given.only) <= set(names):
                    parser.error(f"--only {' '.join(given.only)}: the stages of {name} are {', '.join(names)}")
                if names[0] not in given.only and not given.start:
                    parser.error(f"--only without {names[0]} goes on from weights: give them by --start")
                recipe = replace(recipe, stages=tuple(stage for stage in recipe.stages if stage.name in given.only))
            begun.append((recipe, read_start(given.start, recipe) if given.start else None))
        except ScalewiseError as error:
            parser.error(str(error))
    pictures = Pictures.of(load_pictures(given.pictures, halves=given.halves), device)
    runs = [DeviceTraining(recipe, pictures, recipe.network.build(), start) for recipe, start in begun]
    train(runs, given.seconds, given.out)


if __name__ == "__main__":
    main()
