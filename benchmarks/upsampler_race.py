"""Five any-scale upsamplers on one frozen trunk, in equal steps: CiaoSR's comparison, at a small size.

    python benchmarks/upsampler_race.py --data DIR --val DIR --out DIR [--first 2000] [--steps 1000] [--seeds 2]

The trunk, EDSR with 32 channels and four blocks, learns at ×4 with a pixel shuffle of its own, which none of the five
has. Then it is frozen, and Meta-SR, LIIF, ITSRN, LTE and CiaoSR at the size of their tiny recipes learn from it at ×1
to ×4, each with every seed, crops of the same kind and one colour range; those without a picture of their own to add to
add to the bilinear one. A quarter of the crops has two unequal scales, but for Meta-SR, which knows one. dB over
bicubic: protocol default on the centres of the photos in --val. A second call goes on where the first was stopped.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from adaptive_training import centre, pictures_for
from common import trained
from torch import nn

from scalewise import zoo
from scalewise.checkpoints import files
from scalewise.checkpoints.spec import Pair, tail
from scalewise.data import FixedScaleCrops, decode_folder, open_pictures
from scalewise.evaluate import bicubic, upscaler_of
from scalewise.recipes.pairs import ENCODERS, TINY, UPSAMPLERS, one_scale, tiny_base
from scalewise.training.recipe import Recipe
from scalewise.upsamplers.fixed import PixelShuffle

SCALES = (2.0, 3.0, 4.0, 6.0, 8.0)
TRUNK = ENCODERS["edsr"].tiny


@dataclass(frozen=True)
class FromTrunk:
    """Starts from the trunk's weights, which then stay as they are."""

    weights: Path

    def __call__(self, model: nn.Module) -> None:
        encoder = "encoder."
        tensors = files.read(self.weights).data
        own = {name.removeprefix(encoder): one for name, one in tensors.items() if name.startswith(encoder)}
        model.get_submodule("encoder").load_state_dict(own)


def upsampler_alone(model: nn.Module) -> list[nn.Parameter]:
    return list(model.get_submodule("upsampler").parameters())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=2000, help="steps of the trunk")
    parser.add_argument("--steps", type=int, default=1000, help="steps of each upsampler")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--side", type=int, default=320, help="HR pixels of the centres")
    given = parser.parse_args()
    photos = open_pictures(given.data)
    centres = [centre(picture, given.side) for picture in decode_folder(given.val)]
    measured = [pictures_for(None, scale, centres, None) for scale in SCALES]
    floor = [one.score(bicubic)[0] for one in measured]

    first = replace(TINY, steps=given.first, samples=FixedScaleCrops(scale=4, lr_side=32, tries=3))
    network = Pair(TRUNK, tail(PixelShuffle, scale=4), base="bicubic")
    trunk = trained(Recipe("trunk", network, (first,), source="EDSR (arXiv:1707.02921)"), photos, given.out)
    gains: dict[str, list[list[float]]] = {name: [] for name in UPSAMPLERS}
    for seed in range(1, given.seeds + 1):
        for name, upsampler in UPSAMPLERS.items():
            stage = replace(TINY, steps=given.steps, trains=upsampler_alone, prepare=FromTrunk(trunk))
            stage = one_scale(stage) if name == "metasr" else stage
            pair = Pair(TRUNK, upsampler.tiny, base=tiny_base(name))
            recipe = Recipe(f"{name}-{seed}", pair, (stage,), source="CiaoSR (arXiv:2212.04362)", seed=seed)
            run = upscaler_of(zoo.load(trained(recipe, photos, given.out)).model)
            gains[name].append([one.score(run)[0] - low for one, low in zip(measured, floor, strict=True)])
            values = "  ".join(f"{gain:+.3f}" for gain in gains[name][-1])
            print(f"{upsampler.title:8} seed {seed}  {values}", flush=True)
    print("means over seeds at " + ", ".join(f"×{scale:g}" for scale in SCALES))
    for name, found in sorted(gains.items(), key=lambda item: -float(np.mean(item[1]))):
        print(f"{UPSAMPLERS[name].title:8} " + "  ".join(f"{gain:+.3f}" for gain in np.mean(found, 0)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
