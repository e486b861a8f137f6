"""Train recipes side by side on one device by the clock (`training/device_loop.py`), from a folder of pictures:

python -m scalewise.recipes.resident fast quality --pictures DIR --seconds 400 --out DIR
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from scalewise.data.resident import Pictures
from scalewise.recipes import find
from scalewise.training.device_loop import DeviceTraining, load_pictures, train


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
    asked = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(asked.seed)
    pictures = Pictures.of(load_pictures(asked.pictures, halves=asked.halves), device)
    runs = []
    for name in asked.names:
        recipe = find(name)
        if asked.only:
            names = [stage.name for stage in recipe.stages]
            if not set(asked.only) <= set(names):
                parser.error(f"--only {' '.join(asked.only)}: the stages of {name} are {', '.join(names)}")
            if names[0] not in asked.only and not asked.start:
                parser.error(f"--only without {names[0]} goes on from weights: give them by --start")
            recipe = replace(recipe, stages=tuple(stage for stage in recipe.stages if stage.name in asked.only))
        model = recipe.network.build()
        if asked.start:
            model.load_state_dict(load_file(asked.start))
        runs.append(DeviceTraining(recipe, pictures, model, start=asked.start.name if asked.start else ""))
    train(runs, asked.seconds, asked.out)


if __name__ == "__main__":
    main()
