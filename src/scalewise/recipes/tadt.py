"""TADT with LIIF in the paper's two stages: the network with all branches, then with its controller; a tiny sibling.

Xu et al., ECAI 2024, arXiv:2408.08736: scales U(1, 4), LR crops of 48×48, 2304 points of each, L1; the controller is
fine-tuned with the network on L1 plus 2e-4 times the intensity loss (Eq. 5-7). Optimizer and steps are those of LIIF's
recipe (arXiv:2012.09161), which the paper points to; the second stage has "the same settings" as the first.
"""

from __future__ import annotations

from dataclasses import replace

from scalewise.checkpoints.spec import Network
from scalewise.data import AnyScaleCrops
from scalewise.recipes import start
from scalewise.recipes.pairs import printed
from scalewise.training.losses.adaptive import RoutedL1, all_branches_l1, without_controller
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage, cosine, halved

BASELINE = Stage(
    "baseline", 1_000_000, AnyScaleCrops(lr_side=48, points=48), all_branches_l1, schedule=halved(0.2, 0.4, 0.6, 0.8),
    trains=without_controller,
)  # fmt: skip
ROUTED = replace(BASELINE, name="routed", loss=RoutedL1(), trains=None)

TADT_LIIF = Recipe(
    "tadt-liif",
    Network.pair("tadt", "liif"),
    (BASELINE, ROUTED),
    source="TADT (arXiv:2408.08736), section 4.1, with LIIF's schedule",
    summary="TADT with LIIF: any scale, branches by image and scale",
    expects=printed("tadt-liif", "DIV2K", {"tadt": "TADT table 1"}),
)

SMALL = AnyScaleCrops(lr_side=32, points=24, whole=0.3)
TINY = replace(
    BASELINE, steps=800, samples=SMALL, batch=4, learning_rate=1e-3, schedule=cosine, warmup=50, ema=0.99,
    prepare=start.tadt_liif,
)  # fmt: skip
# twice the paper's λ of 2e-4, for there are few steps
TINY_ROUTED = replace(
    TINY, name="routed", steps=450, loss=RoutedL1(4e-4), batch=8, learning_rate=1e-3, betas=(0.9, 0.99), trains=None,
    prepare=start.tadt_controller,
)  # fmt: skip
TADT_LIIF_TINY = replace(
    TADT_LIIF,
    name="tadt-liif-tiny",
    network=Network.pair(
        "tadt",
        "liif",
        of_encoder={
            "channels": 32, "groups": 2, "windows": [4, 8, 16], "global_window": 32, "pooled": 8, "features": 32,
        },
        of_upsampler={"hidden": [64, 64]},
    ),
    stages=(TINY, TINY_ROUTED),
    summary="the same in minutes on two cores",
    expects={},
)  # fmt: skip
