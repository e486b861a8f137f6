"""ENAF on FSRCNN, CARN-M and SRResNet in the paper's three phases, at ×4; tiny siblings.

Nguyen et al., WACV 2025, section 4.1.2: the backbone alone (L1, 30 epochs of 16 patches), then the two early exits (30
epochs of 128), then the PSNR estimator (as long), Adam and a cosine from 1e-3 to 1e-8 each; the code's estimator has
2e-4 on FSRCNN, 5e-4 on CARN-M, 5e-5 on SRResNet. Patches are 128 HR pixels of DIV2K at five sizes, 1.59 M of them. The
backbone is frozen in the second phase, where the paper trains it at 1e-8.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from scalewise.checkpoints.patch_networks import enaf
from scalewise.checkpoints.spec import Network, spec
from scalewise.data import FixedScaleCrops
from scalewise.routing.estimator import ENAF_COSTS
from scalewise.training.losses.exits import backbone_l1, early_exits_l1, psnr_estimate
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage, cosine, cosine_to


def backbone(model: nn.Module) -> Iterable[nn.Parameter]:
    return model.get_submodule("network.backbone").parameters()


def heads(model: nn.Module) -> Iterable[nn.Parameter]:
    return model.get_submodule("network.heads").parameters()


def estimator(model: nn.Module) -> Iterable[nn.Parameter]:
    return model.get_submodule("router.estimator").parameters()


def expect_30_db(model: nn.Module) -> None:
    """The estimator starts at 30 dB for every path: hundreds of steps are too few to come there from 0."""
    last = model.get_submodule("router.estimator.last")
    assert isinstance(last, nn.Linear)
    nn.init.constant_(last.bias, -30.0)


def at_rate(stage: Stage, rate: float) -> Stage:
    """A stage whose learning rate falls from `rate` to 1e-8."""
    return replace(stage, learning_rate=rate, schedule=cosine_to(1e-8 / rate))


PATCHES = FixedScaleCrops(scale=4, lr_side=32)
EPOCHS = 30 * 1_590_000  # patches of a phase
BACKBONE = Stage(
    "backbone", EPOCHS // 16, PATCHES, backbone_l1, learning_rate=1e-3, schedule=cosine_to(1e-5), trains=backbone
)
EXITS = replace(BACKBONE, name="exits", steps=EPOCHS // 128, loss=early_exits_l1, batch=128, trains=heads)
ESTIMATOR = replace(EXITS, name="estimator", loss=psnr_estimate, trains=estimator)


def network(name: str, **sizes: object) -> Network:
    """`sizes`: another size than the published one."""
    return Network(spec(enaf, backbone=name, sizes=sizes, costs=ENAF_COSTS[name], bonus=1.0, blank=10.0))


ENAF_FSRCNN = Recipe(
    "enaf-fsrcnn",
    network("fsrcnn"),
    (BACKBONE, EXITS, at_rate(ESTIMATOR, 2e-4)),
    source="ENAF (WACV 2025), section 4.1.2, and its code",
    summary="ENAF on FSRCNN: ×4, each patch takes bicubic or one of three exits",
    expects={"enaf F2K x4": 27.98, "enaf Test2K x4": 25.64, "enaf Test4K x4": 26.93, "enaf Test8K x4": 32.75},
    validate_at=(4.0,),
)
ENAF_CARN = replace(
    ENAF_FSRCNN,
    name="enaf-carn",
    network=network("carn"),
    stages=(BACKBONE, EXITS, at_rate(ESTIMATOR, 5e-4)),
    summary="ENAF on CARN-M: ×4",
    expects={"enaf F2K x4": 28.76, "enaf Test2K x4": 26.04, "enaf Test4K x4": 27.45, "enaf Test8K x4": 33.31},
)
ENAF_SRRESNET = replace(
    ENAF_FSRCNN,
    name="enaf-srresnet",
    network=network("srresnet"),
    stages=(BACKBONE, at_rate(EXITS, 1e-5), at_rate(ESTIMATOR, 5e-5)),
    summary="ENAF on SRResNet: ×4",
    expects={"enaf F2K x4": 29.03, "enaf Test2K x4": 26.21, "enaf Test4K x4": 27.66, "enaf Test8K x4": 33.52},
)

SMALL = replace(
    BACKBONE, steps=1_200, samples=FixedScaleCrops(scale=4, lr_side=24, tries=3), batch=8, learning_rate=2e-3,
    schedule=cosine, warmup=50, ema=0.99,
)  # fmt: skip
SMALL_EXITS = replace(SMALL, name="exits", steps=500, loss=early_exits_l1, trains=heads)
SMALL_ESTIMATOR = replace(
    SMALL_EXITS, name="estimator", steps=400, samples=PATCHES, batch=16, loss=psnr_estimate, trains=estimator,
    prepare=expect_30_db,
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
    stages=(SMALL, SMALL_EXITS, SMALL_ESTIMATOR),
    summary="the same in minutes on two cores",
    expects={},
)
ENAF_SRRESNET_TINY = replace(
    ENAF_SRRESNET,
    name="enaf-srresnet-tiny",
    network=network("srresnet", channels=16, blocks=12),
    stages=(SMALL, SMALL_EXITS, SMALL_ESTIMATOR),
    summary="the same in minutes on two cores",
    expects={},
)
