"""The bake-off: networks of the library on equal terms. Same photos, same seconds of the same device, same protocols.

    python benchmarks/bakeoff.py train --pictures DIR --seconds 20 --out DIR     (a GPU, or patience)
    python benchmarks/bakeoff.py measure --weights DIR --shared DIR

`train` gives every network the same time alone on the device, from its first weights, by `training/resident.py`.
"""

from __future__ import annotations

from dataclasses import replace

from scalewise.data import AnyScaleCrops
from scalewise.recipes.fast import EXITS, exits_of
from scalewise.training.exits import ExitLoss
from scalewise.training.losses import l1
from scalewise.training.recipe import Recipe, Stage, cosine
from scalewise.zoo import Network

ANY = AnyScaleCrops(lr_side=48, points=64, layout="rows")
FIXED = replace(ANY, scales=(4.0, 4.0), unequal=0.0)
PLAIN = Stage("l1", 1, ANY, l1, batch=16, learning_rate=5e-4, schedule=cosine, warmup=200, clip=0.5, ema=0.995)
RGB_MEAN = {"mean": (0.5, 0.5, 0.5), "std": (1.0, 1.0, 1.0)}


def exits(name: str, channels: int, exit_after: list[int], kernels: list[int]) -> Recipe:
    samples = replace(ANY, base=True)
    weights = (0.2, 0.3, 0.5, 1.0)[-len(exit_after) :]
    stage = replace(EXITS, samples=samples, batch=16, loss=ExitLoss(weights), ema=0.995, warmup=200, steps=1)
    return Recipe(name, exits_of(channels, exit_after, kernels), (stage,), source="ours")


def pair(name: str, encoder: str, upsampler: str, samples: AnyScaleCrops = ANY, **parts: dict) -> Recipe:  # type: ignore[type-arg]
    return Recipe(name, Network.pair(encoder, upsampler, **parts), (replace(PLAIN, samples=samples),), source="papers")


ENTRANTS = [
    exits("exits-S", 48, [1, 3, 6], [4, 4, 5]),
    exits("exits-M", 64, [1, 3, 6, 10], [4, 4, 4, 5]),
    exits("exits-L", 96, [2, 5, 10, 16], [4, 4, 5, 6]),
    exits("single-M", 64, [10], [5]),
    pair("edsr-metasr", "edsr", "metasr"),
    pair("edsr-liif", "edsr", "liif"),
    pair("edsr-lte", "edsr", "lte"),
    pair("edsr-x4", "edsr", "pixel_shuffle", FIXED, of_upsampler={"scale": 4}),
    pair("srresnet-x4", "srresnet", "resnet_tail", FIXED, of_upsampler={"scale": 4}),
    pair("carn-m-x4", "carn", "cascade_tail", FIXED),
    pair("edsr-itsrn", "edsr", "itsrn"),
    pair("edsr-ciaosr", "edsr", "ciaosr"),
]
