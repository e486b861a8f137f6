"""How our own networks are made: `fast`, `quality`, `photo`; the model cards have the dB and the hours.

Exits: L1 at every exit, crops of 48×48 LR at scales U(1, 4), a quarter of them unequal, the most detailed of three in
half of the samples, AdamW with cosine decay, EMA. Finish: a tenth as long with squared error. Harder: with SOAP,
more whole scales and small batches, on the harder half of photos. Router: the network frozen, crops of 96×96. For
the shipped weights `exits`, `finish` and `router` were run by `training/device_loop.py`, where the share of the steps
is the share of the time, and `harder` by `scalewise train`; a share of what it changed was added.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from torch import nn

from scalewise.checkpoints.build import patch_routed
from scalewise.checkpoints.spec import Network, spec
from scalewise.data import AnyScaleCrops
from scalewise.data.degradations import Photo
from scalewise.training.losses.exits import ExitLoss, router_loss, trunk_loss
from scalewise.training.recipe import Recipe
from scalewise.training.reparam import bind_stem
from scalewise.training.stage import Stage, constant, cosine, inverse_root, one_cycle


def network(model: nn.Module) -> Iterable[nn.Parameter]:
    return model.get_submodule("network").parameters()


def trunk(model: nn.Module) -> Iterator[nn.Parameter]:
    """What `trunk_loss` uses: several processes cannot share a stage that trains more."""
    heads = model.get_submodule("network.heads")
    early = {id(p) for head in list(heads.children())[:-1] for p in head.parameters()}
    return (p for p in network(model) if id(p) not in early)


def router(model: nn.Module) -> Iterable[nn.Parameter]:
    return model.get_submodule("router").parameters()


SHARES = (0.1, 0.2, 0.3, 1.0)  # of the exits in the loss
CROPS = AnyScaleCrops(lr_side=48, points=96, layout="rows", base=True, tries=3)
WIDE = replace(CROPS, lr_side=96, points=192)
EXITS = Stage(
    "exits", 60_000, CROPS, ExitLoss(SHARES), batch=32, learning_rate=1e-3, schedule=cosine, warmup=500,
    betas=(0.9, 0.99), decay=1e-5, clip=0.5, ema=0.999, trains=network,
)  # fmt: skip
FINISH = replace(
    EXITS, name="finish", steps=6_000, loss=ExitLoss(SHARES, squared=True), learning_rate=2e-4, warmup=50
)  # fmt: skip
ROUTER = Stage(
    "router", 8_000, WIDE, router_loss, batch=8, learning_rate=1e-3, schedule=one_cycle, decay=1e-4, clip=0.5,
    trains=router, exact=True,
)  # fmt: skip
# For weights that the stages before have made: `--start FILE --stage harder`, on tiles of the harder half of photos
# (`recipes/hardest.py`) and on whole pages.
HARDER = replace(
    FINISH, name="harder", steps=4_000, samples=replace(CROPS, whole=0.6, unequal=0.1), batch=8, optimizer="soap",
    learning_rate=4e-4, warmup=100,
)  # fmt: skip
SOURCE = "ours; sampling after LIIF (arXiv:2012.09161, section 4), routing after ENAF (WACV 2025)"


def exits_of(
    channels: int,
    exit_after: tuple[int, ...],
    kernels: tuple[int, ...],
    router_channels: int = 48,
    *,
    slope: float = 0.0,
) -> Network:
    """Our multi-exit any-scale network with a router of patches of 32 LR pixels."""
    return Network(
        spec(
            patch_routed,
            channels=channels,
            exit_after=exit_after,
            kernels=kernels,
            patch=32,
            router_channels=router_channels,
            slope=slope,
        )
    )


FAST = Recipe(
    "fast",
    exits_of(64, (1, 3, 6, 10), (4, 4, 4, 5)),
    (EXITS, FINISH, HARDER, ROUTER),
    source=SOURCE,
    summary="multi-exit, any scale, any budget",
    # protocol default, budget 100%: at least
    expects={"Set5 x2": 35.48, "Set5 x3": 31.91, "Set5 x4": 30.03, "B100 x4": 26.86},
)

QUALITY = replace(
    FAST,
    name="quality",
    network=exits_of(96, (2, 5, 10, 16), (4, 4, 5, 6)),
    stages=(
        replace(EXITS, batch=64, learning_rate=8e-4),
        replace(FINISH, batch=64),
        replace(HARDER, learning_rate=3e-4),
        ROUTER,
    ),
    summary="the same, wider and deeper",
    expects={"Set5 x2": 37.6, "Set5 x3": 34.0, "Set5 x4": 31.9, "Set14 x4": 28.4, "B100 x2": 31.9, "B100 x4": 27.4},
)

SEEN = Photo(clean=0.1)
PHOTO = replace(
    QUALITY,
    name="photo",
    stages=(
        replace(EXITS, steps=10_000, samples=replace(CROPS, reduce=SEEN), learning_rate=4e-4),
        replace(FINISH, steps=2_000, samples=replace(CROPS, reduce=SEEN), learning_rate=1e-4),
        replace(ROUTER, steps=1_000, samples=replace(WIDE, reduce=SEEN)),
    ),
    summary="`quality` gone on with compressed and noisy pictures",
    expects={},
)

SMALL = replace(CROPS, lr_side=32, points=48)
THREE = (0.4, 0.6, 1.0)
FAST_TINY = replace(
    FAST,
    name="fast-tiny",
    network=exits_of(16, (1, 2, 3), (3, 3, 4), 16),
    stages=(
        replace(
            EXITS, steps=1_500, samples=SMALL, batch=8, learning_rate=2e-3, warmup=50, ema=0.99, loss=ExitLoss(THREE)
        ),
        replace(
            FINISH,
            steps=150,
            samples=SMALL,
            batch=8,
            learning_rate=1e-4,
            warmup=10,
            ema=0.99,
            loss=ExitLoss(THREE, squared=True),
        ),
        replace(ROUTER, steps=150, samples=replace(SMALL, lr_side=64, points=96), batch=4),
    ),
    summary="the same in minutes on two cores",
    expects={},
)


def tiny(of: Recipe, samples: AnyScaleCrops) -> Recipe:
    """FAST_TINY with the samples of another recipe, from its own first weights."""
    samples = replace(samples, lr_side=32, points=48)
    learn, finish, route = FAST_TINY.stages
    stages = (
        replace(learn, samples=samples),
        replace(finish, samples=samples),
        replace(route, samples=replace(samples, lr_side=64, points=96)),
    )
    return replace(FAST_TINY, name=f"{of.name}-tiny", stages=stages)


QUALITY_TINY = tiny(QUALITY, CROPS)
PHOTO_TINY = tiny(PHOTO, replace(CROPS, reduce=SEEN))


# Networks of few channels: plain 3×3 convolutions. SOAP reaches in 600 steps what takes AdamW some 1600, each as long.
# The trunk learns first and long, at a rate that falls ever more slowly, so that it can be finished at any time.
LEAN_CROPS = AnyScaleCrops(lr_side=64, points=128, layout="rows", base=True, whole=0.6, unequal=0.1, tries=3)
TRUNK = Stage(
    "trunk", 400_000, LEAN_CROPS, trunk_loss, batch=8, learning_rate=3e-3, schedule=inverse_root(0.005), warmup=300,
    optimizer="soap", betas=(0.9, 0.99), clip=0.5, ema=0.999, trains=trunk, prepare=bind_stem,
)  # fmt: skip
TRUNK_END = replace(TRUNK, name="trunk-end", steps=20_000, learning_rate=1e-3, schedule=cosine, warmup=0)
LEAN_EXITS = replace(
    TRUNK_END, name="exits", steps=20_000, loss=ExitLoss((0.3, 1.0), squared=True), trains=network
)  # fmt: skip
SLOPE = 0.1  # with 0, 16 of 32 channels of the average block answered nowhere after 8000 steps
LEAN = Recipe(
    "lean",
    exits_of(32, (3, 8), (4, 5), 32, slope=SLOPE),
    (TRUNK, TRUNK_END, LEAN_EXITS, ROUTER),
    source=SOURCE,
    summary="16 convolutions of 32 channels, a leaky ReLU inside each pair",
)
BEST = replace(
    LEAN,
    name="best",
    network=exits_of(48, (5, 14), (4, 5), 32, slope=SLOPE),
    summary="28 convolutions of 48 channels, a leaky ReLU inside each pair",
)
LEAN_SMALL = replace(LEAN_CROPS, lr_side=32, points=48)
LEAN_SMALL_STAGES = (
    replace(TRUNK, steps=1_200, samples=LEAN_SMALL, learning_rate=2e-3, schedule=constant, warmup=50, ema=0.99),
    replace(TRUNK_END, steps=300, samples=LEAN_SMALL, learning_rate=2e-3, ema=0.99),
    replace(LEAN_EXITS, steps=300, samples=LEAN_SMALL, ema=0.99),
    replace(ROUTER, steps=150, samples=replace(LEAN_SMALL, lr_side=64, points=96), batch=4),
)


def lean_tiny(of: Recipe, exit_after: tuple[int, int]) -> Recipe:
    network = exits_of(12, exit_after, (3, 4), 16, slope=SLOPE)
    summary = "the same in minutes on two cores"
    return replace(of, name=f"{of.name}-tiny", network=network, stages=LEAN_SMALL_STAGES, summary=summary)


LEAN_TINY = lean_tiny(LEAN, (1, 3))
BEST_TINY = lean_tiny(BEST, (2, 5))
