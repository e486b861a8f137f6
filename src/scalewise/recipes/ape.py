"""APE on EDSR at ×4: the backbone, then an exit after every few blocks with its capacity; a tiny sibling.

Wang et al., ECCV 2022, arXiv:2203.11589: from a trained EDSR, 300 epochs of 1000 steps of 16 crops of 192 HR pixels,
Adam 1e-4 halved at 200, L1 of every exit plus the squared error of every capacity. The backbone is
EDSR's recipe (arXiv:1707.02921, section 4.2): as many steps, as many crops, L1, 1e-4 halved at 200 000.
"""

from __future__ import annotations

from dataclasses import replace

from scalewise.checkpoints.patch_networks import patch_exits
from scalewise.checkpoints.spec import Network, spec
from scalewise.data import FixedScaleCrops
from scalewise.training.losses.exits import capacities, last_exit_l1
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage, cosine, halved

BACKBONE = Stage("backbone", 300_000, FixedScaleCrops(scale=4, lr_side=48), last_exit_l1, schedule=halved(2 / 3))
EXITS = replace(BACKBONE, name="exits", loss=capacities)

APE_EDSR = Recipe(
    "ape-edsr",
    Network(spec(patch_exits, channels=256, blocks=32, interval=4, scale=4, res_scale=0.1)),
    (BACKBONE, EXITS),
    source="APE (arXiv:2203.11589), section 4.1, and its code",
    summary="APE on EDSR: ×4, a patch leaves where going on would bring little",
    validate_at=(4.0,),
)
TINY = replace(
    BACKBONE, steps=900, samples=FixedScaleCrops(scale=4, lr_side=24, tries=3), batch=8, learning_rate=2e-3,
    schedule=cosine, warmup=50, ema=0.99,
)  # fmt: skip
APE_EDSR_TINY = replace(
    APE_EDSR,
    name="ape-edsr-tiny",
    network=Network(spec(patch_exits, channels=32, blocks=8, interval=2, scale=4, res_scale=1.0)),
    stages=(TINY, replace(TINY, name="exits", steps=500, loss=capacities, learning_rate=1e-3)),
    summary="the same in minutes on two cores",
)
