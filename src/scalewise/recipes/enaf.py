"""ENAF on FSRCNN, CARN-M and SRResNet in the paper's three phases, at ×4; tiny siblings.

Tran et al., WACV 2025, section 4.1.2: the backbone alone (L1, 30 epochs of 16 patches), then the two early exits (30
epochs of 128), then the PSNR estimator (as long), Adam and a cosine from 1e-3 each; the code's estimator has 2e-4 on
FSRCNN, 5e-4 on CARN-M, 5e-5 on SRResNet (spec adaptive §4.6). Patches are 128 HR pixels of DIV2K at five sizes, 1.59 M
of them. The backbone rests in the second phase, where the paper lets it creep by 1e-8.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from scalewise.checkpoints.spec import Network
from scalewise.data import FixedScaleCrops
from scalewise.recipes import start
from scalewise.routing.estimator import ENAF_COSTS
from scalewise.training.losses.exits import backbone_l1, early_exits_l1, psnr_estimate
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage, cosine


def backbone(model: nn.Module) -> Iterable[nn.Parameter]:
    return model.get_submodule("network.backbone").parameters()


def heads(model: nn.Module) -> Iterable[nn.Parameter]:
    return model.get_submodule("network.heads").parameters()


def estimator(model: nn.Module) -> Iterable[nn.Parameter]:
    return model.get_submodule("router.estimator").parameters()


PATCHES = FixedScaleCrops(scale=4, lr_side=32, tries=1)
EPOCHS = 30 * 1_590_000  # patches of a phase
BACKBONE = Stage(
    "backbone", EPOCHS // 16, PATCHES, backbone_l1, learning_rate=1e-3, schedule=cosine, ema=None, trains=backbone
)
EXITS = replace(BACKBONE, name="exits", steps=EPOCHS // 128, loss=early_exits_l1, batch=128, trains=heads)
ESTIMATOR = replace(EXITS, name="estimator", loss=psnr_estimate, trains=estimator)


def network(name: str, **sizes: object) -> Network:
    """`sizes`: another size than the published one."""
    return Network("enaf", {"backbone": name, "sizes": sizes, "costs": ENAF_COSTS[name], "bonus": 1.0, "blank": 10.0})


ENAF_FSRCNN = Recipe(
    "enaf-fsrcnn",
    network("fsrcnn"),
    (BACKBONE, EXITS, replace(ESTIMATOR, learning_rate=2e-4)),
    source="ENAF (WACV 2025), section 4.1.2, and its code",
    summary="ENAF on FSRCNN: ×4, each patch takes bicubic or one of three exits",
    expects={"enaf F2K x4": 27.98, "enaf Test2K x4": 25.64, "enaf Test4K x4": 26.93, "enaf Test8K x4": 32.75},
    validate_at=(4.0,),
)
ENAF_CARN = replace(
    ENAF_FSRCNN,
    name="enaf-carn",
    network=network("carn"),
    stages=(BACKBONE, EXITS, replace(ESTIMATOR, learning_rate=5e-4)),
    summary="ENAF on CARN-M: ×4",
    expects={"enaf F2K x4": 28.76, "enaf Test2K x4": 26.04, "enaf Test4K x4": 27.45, "enaf Test8K x4": 33.31},
)
ENAF_SRRESNET = replace(
    ENAF_FSRCNN,
    name="enaf-srresnet",
    network=network("srresnet"),
    stages=(BACKBONE, replace(EXITS, learning_rate=1e-5), replace(ESTIMATOR, learning_rate=5e-5)),
    summary="ENAF on SRResNet: ×4",
    expects={"enaf F2K x4": 29.03, "enaf Test2K x4": 26.21, "enaf Test4K x4": 27.66, "enaf Test8K x4": 33.52},
)

SMALL = replace(
    BACKBONE, steps=1_200, samples=FixedScaleCrops(scale=4, lr_side=24), batch=8, learning_rate=2e-3, warmup=50,
    ema=0.99, prepare=start.fsrcnn_exits,
)  # fmt: skip
SMALL_EXITS = replace(SMALL, name="exits", steps=500, loss=early_exits_l1, trains=heads, prepare=None)
SMALL_ESTIMATOR = replace(
    SMALL_EXITS, name="estimator", steps=400, samples=PATCHES, batch=16, loss=psnr_estimate, trains=estimator,
    prepare=start.psnr_estimator,
)  # fmt: skip
ENAF_FSRCNN_TINY = replace(
    ENAF_FSRCNN,
    name="enaf-fsrcnn-tiny",
    stages=(SMALL, SMALL_EXITS, SMALL_ESTIMATOR),
    summary="the same, of the published size, in minutes on two cores",
    expects={},
)
ENAF_CARN_TINY = replace(
    ENAF_CARN,
    name="enaf-carn-tiny",
    network=network("carn", channels=32, groups=4, widths=(12, 16)),
    stages=(replace(SMALL, prepare=start.carn_exits), SMALL_EXITS, SMALL_ESTIMATOR),
    summary="the same in minutes on two cores",
    expects={},
)
ENAF_SRRESNET_TINY = replace(
    ENAF_SRRESNET,
    name="enaf-srresnet-tiny",
    network=network("srresnet", channels=16, blocks=12),
    stages=(replace(SMALL, prepare=None), SMALL_EXITS, SMALL_ESTIMATOR),
    summary="the same in minutes on two cores",
    expects={},
)
