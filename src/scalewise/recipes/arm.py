"""ARM on FSRCNN at ×4: one super-network, then the table that says which width a patch takes; a tiny sibling.

Chen et al., ECCV 2022, arXiv:2203.10812: L1, 2 M steps of 16 patches of 128 HR pixels, Adam from 1e-3 along a cosine to
1e-7, one width a step with odds of its cost squared. The table is the mean PSNR of each width on
patches of one edge score, in 30 bins; the paper measures it on DIV2K's validation patches of 128 at steps of 112.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from scalewise.checkpoints.patch_networks import arm
from scalewise.checkpoints.spec import Network, spec
from scalewise.data import FixedScaleCrops
from scalewise.training.edge_table import EdgeTable
from scalewise.training.losses.exits import one_width_l1
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage, cosine, cosine_to


def network(model: nn.Module) -> Iterable[nn.Parameter]:
    return model.get_submodule("network").parameters()


PATCHES = FixedScaleCrops(scale=4, lr_side=32)
WIDTHS = Stage("widths", 2_000_000, PATCHES, one_width_l1, learning_rate=1e-3, schedule=cosine_to(1e-4), trains=network)
TABLE = replace(WIDTHS, name="table", steps=1_000, task=EdgeTable, exact=True)
COSTS = (0.0, 141.26, 304.57, 467.88)  # MFLOP of ARM's code, bicubic free

ARM_FSRCNN = Recipe(
    "arm-fsrcnn",
    Network(spec(arm, backbone={"name": "fsrcnn", "channels": 56}, widths=(16, 36, 56), bins=30, costs=COSTS)),
    (WIDTHS, TABLE),
    source="ARM (arXiv:2203.10812), section 4.1, and its code",
    summary="ARM on FSRCNN: ×4, each patch takes bicubic or one of three widths",
    expects={"arm F2K x4": 27.98, "arm Test2K x4": 25.64, "arm Test4K x4": 26.93, "arm Test8K x4": 32.75},
    validate_at=(4.0,),
)
ARM_FSRCNN_TINY = replace(
    ARM_FSRCNN,
    name="arm-fsrcnn-tiny",
    stages=(
        replace(
            WIDTHS, steps=2_000, samples=FixedScaleCrops(scale=4, lr_side=24, tries=3), batch=8, learning_rate=2e-3,
            schedule=cosine, warmup=50, ema=0.99,
        ),
        replace(TABLE, steps=150),
    ),
    summary="the same, of the published size, in minutes on two cores",
    expects={},
)  # fmt: skip
