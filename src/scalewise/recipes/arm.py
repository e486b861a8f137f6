"""ARM on FSRCNN, CARN-M and SRResNet at ×4: one super-network, then the table that says which width a patch takes; tiny
siblings.

Chen et al., ECCV 2022, arXiv:2203.10812: L1, 2 M steps of 16 patches of 128 HR pixels, Adam from 1e-3 (2e-4 on
CARN-M and SRResNet) along a cosine to 1e-7, one width a step with odds of its cost squared. The table is the mean PSNR
of each width on patches of one edge score, in 30 bins; the paper measures it on DIV2K's validation patches of 128 at
steps of 112.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import nn

from scalewise.checkpoints.patch_networks import arm
from scalewise.checkpoints.spec import Network, spec
from scalewise.data import FixedScaleCrops
from scalewise.training.edge_table import EdgeTable
from scalewise.training.losses.exits import one_width_l1
from scalewise.training.recipe import Buildable, Recipe
from scalewise.training.stage import Stage, cosine, cosine_to


def network(model: nn.Module) -> Iterable[nn.Parameter]:
    return model.get_submodule("network").parameters()


PATCHES = FixedScaleCrops(scale=4, lr_side=32)
WIDTHS = Stage("widths", 2_000_000, PATCHES, one_width_l1, learning_rate=1e-3, schedule=cosine_to(1e-4), trains=network)
SLOWER = replace(WIDTHS, learning_rate=2e-4, schedule=cosine_to(5e-4))
TABLE = replace(WIDTHS, name="table", steps=1_000, task=EdgeTable, exact=True)
# MFLOP of ARM's code, bicubic free
COSTS = {
    "fsrcnn": (0.0, 141.26, 304.57, 467.88),
    "carn": (0.0, 380.2, 771.6, 1154.9),
    "srresnet": (0.0, 1658.2, 3438.0, 5194.0),
}
TITLES = {"fsrcnn": "FSRCNN", "carn": "CARN-M", "srresnet": "SRResNet"}
EXPECTS = {
    "fsrcnn": {"arm F2K x4": 27.98, "arm Test2K x4": 25.64, "arm Test4K x4": 26.93, "arm Test8K x4": 32.75},
    "carn": {"arm F2K x4": 28.76, "arm Test2K x4": 26.04, "arm Test4K x4": 27.45, "arm Test8K x4": 33.31},
    "srresnet": {"arm F2K x4": 29.03, "arm Test2K x4": 26.21, "arm Test4K x4": 27.66, "arm Test8K x4": 33.52},
}


def network_of(backbone: Mapping[str, object], widths: tuple[int, ...], costs: tuple[float, ...]) -> Network:
    return Network(spec(arm, backbone=backbone, widths=widths, bins=30, costs=costs))


def arm_recipe(name: str, channels: int, widths: tuple[int, ...], stage: Stage) -> Recipe:
    """ARM on a backbone of `paths.Backbone`."""
    return Recipe(
        f"arm-{name}",
        network_of({"name": name, "channels": channels}, widths, COSTS[name]),
        (stage, TABLE),
        source="ARM (arXiv:2203.10812), section 4.1, and its code",
        summary=f"ARM on {TITLES[name]}: ×4, each patch takes bicubic or one of three widths",
        expects=EXPECTS[name],
        validate_at=(4.0,),
    )


TINY = replace(
    WIDTHS, steps=2_000, samples=FixedScaleCrops(scale=4, lr_side=24, tries=3), batch=8, learning_rate=2e-3,
    schedule=cosine, warmup=50, ema=0.99,
)  # fmt: skip


def tiny(paper: Recipe, of: Buildable | None = None) -> Recipe:
    """The same in minutes; of the published size unless another network is given."""
    size = "the same" if of is not None else "the same, of the published size,"
    return replace(
        paper, name=f"{paper.name}-tiny", network=of or paper.network, stages=(TINY, replace(TABLE, steps=150)),
        summary=f"{size} in minutes on two cores", expects={},
    )  # fmt: skip


ARM_FSRCNN = arm_recipe("fsrcnn", 56, (16, 36, 56), WIDTHS)
ARM_CARN = arm_recipe("carn", 64, (36, 52, 64), SLOWER)
ARM_SRRESNET = arm_recipe("srresnet", 64, (36, 52, 64), SLOWER)
SMALL_CARN = network_of({"name": "carn", "channels": 32}, (16, 24, 32), COSTS["carn"])
SMALL_SRRESNET = network_of({"name": "srresnet", "channels": 16, "blocks": 12}, (8, 12, 16), COSTS["srresnet"])
ARM_FSRCNN_TINY = tiny(ARM_FSRCNN)
ARM = (
    ARM_FSRCNN,
    ARM_FSRCNN_TINY,
    ARM_CARN,
    tiny(ARM_CARN, SMALL_CARN),
    ARM_SRRESNET,
    tiny(ARM_SRRESNET, SMALL_SRRESNET),
)
