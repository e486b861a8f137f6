"""`python -m scalewise.recipes RECIPE --data PACK --out DIR`: training where there is no command line of ours.

It needs torch, lightning, numpy and safetensors; `scalewise train` has more options, validation among them.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from scalewise.data import open_pictures, read_pack
from scalewise.errors import ScalewiseError
from scalewise.recipes import RECIPES, find
from scalewise.training.engine import TrainOptions, train


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scalewise.recipes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", choices=RECIPES, metavar="RECIPE")
    parser.add_argument("--data", type=Path, required=True, help="a pack, or a folder of photos")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--vgg", type=Path, help="VGG19's weights, for recipes with a perceptual loss")
    parser.add_argument("--max-seconds", type=float, default=math.inf)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--state", type=Path, help="folder of the portable state")
    parser.add_argument("--parts", action="store_true", help="leave the last state in parts of 15 MiB too")
    given = parser.parse_args()
    try:
        pictures, about = read_pack(given.data) if given.data.is_file() else (open_pictures(given.data), {})
        plan = TrainOptions(
            resume=given.resume, seconds=given.max_seconds, devices=given.devices, dtype=given.dtype,
            workers=given.workers, save_every=given.save_every, state=given.state, parts=given.parts,
        )  # fmt: skip
        recipe = find(given.recipe, steps=given.steps, seed=given.seed, vgg=given.vgg)
        done = train(recipe, pictures, given.out, plan, card=about)
    except ScalewiseError as error:
        print(f"scalewise: {error}", file=sys.stderr)
        return 1
    print(f"{done.stage} {done.step}/{done.steps} ({done.reason}): {done.weights}")
    return 0 if done.reason == "done" else 130


if __name__ == "__main__":
    sys.exit(main())
