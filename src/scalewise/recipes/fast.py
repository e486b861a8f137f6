"""How `fast` is made, in three stages; `docs/models/fast.md` has the dB, and how the run behind the weights differed.

Exits: 7 500 steps of 8 crops (48×48 LR, scales U(1, 4), a quarter of them unequal), L1, AdamW 1e-3 with cosine decay,
EMA 0.999. Finish: 700 steps of the same with squared error, 1e-4, EMA 0.99. Router: the network frozen, 1 000 steps of
4 crops of 96×96. On 2 quiet cores of AVX2 that takes about 1.2 h.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from scalewise.data import AnyScaleCrops
from scalewise.training.exits import ExitLoss, router_loss
from scalewise.training.recipe import Recipe, Stage, cosine, one_cycle
from scalewise.zoo import Network


def network(model: nn.Module) -> Iterable[nn.Parameter]:
    return model.get_submodule("network").parameters()


def router(model: nn.Module) -> Iterable[nn.Parameter]:
    return model.get_submodule("router").parameters()


CROPS = AnyScaleCrops(lr_side=48, points=96, layout="rows", base=True)
WIDE = replace(CROPS, lr_side=96, points=192)
EXITS = Stage(
    "exits", 7_500, CROPS, ExitLoss(), batch=8, learning_rate=1e-3, schedule=cosine, warmup=200, betas=(0.9, 0.99),
    decay=1e-5, clip=0.5, ema=0.999, trains=network,
)  # fmt: skip
FINISH = replace(
    EXITS, name="finish", steps=700, loss=ExitLoss(squared=True), learning_rate=1e-4, warmup=50, ema=0.99
)  # fmt: skip
ROUTER = Stage(
    "router", 1_000, WIDE, router_loss, batch=4, learning_rate=1e-3, schedule=one_cycle, decay=1e-4, clip=0.5, ema=None,
    trains=router, exact=True,
)  # fmt: skip

FAST = Recipe(
    "fast",
    Network(
        "patch_routed",
        {"channels": 48, "exit_after": [1, 3, 6], "kernels": [4, 4, 5], "patch": 32, "router_channels": 48},
    ),
    (EXITS, FINISH, ROUTER),
    source="ours; sampling after LIIF (arXiv:2012.09161, section 4), routing after ENAF (WACV 2025)",
    summary="multi-exit, any scale, any budget",
    # protocol default, budget 100%: at least
    expects={"Set5 x2": 35.48, "Set5 x3": 31.91, "Set5 x4": 30.03, "B100 x4": 26.86},
)

SMALL = replace(CROPS, lr_side=32, points=48)
FAST_TINY = replace(
    FAST,
    name="fast-tiny",
    network=Network(
        "patch_routed",
        {"channels": 16, "exit_after": [1, 2, 3], "kernels": [3, 3, 4], "patch": 32, "router_channels": 16},
    ),
    stages=(
        replace(EXITS, steps=1_500, samples=SMALL, learning_rate=2e-3, warmup=50, ema=0.99),
        replace(FINISH, steps=150, samples=SMALL, warmup=10),
        replace(ROUTER, steps=150, samples=replace(SMALL, lr_side=64, points=96)),
    ),
    summary="the same in minutes on two cores",
    expects={},
)
