"""ClassSR on FSRCNN at ×4: three networks on easy, medium and hard patches, then the classifier; a tiny sibling.

Kong et al., CVPR 2021, arXiv:2103.04039: the networks by L1, 500 000 steps of 16 patches, Adam (0.9, 0.99) from 1e-3
along a cosine; then the classifier, 200 000 steps of 96 from 2e-4, the networks frozen, on 1000 times the L1 of the
mixed picture, half the class loss and three times the average loss. The paper sorts its patches
into thirds once, by the dB of a trained network; `divided_l1` sorts each batch, by bicubic's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from scalewise.checkpoints.patch_networks import classsr
from scalewise.checkpoints.spec import Network, spec
from scalewise.data import FixedScaleCrops
from scalewise.routing.estimator import CLASSSR_COSTS
from scalewise.training.losses.exits import ClassLoss, divided_l1
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage, cosine


def networks(model: nn.Module) -> Iterable[nn.Parameter]:
    return model.get_submodule("network").parameters()


def classifier(model: nn.Module) -> Iterable[nn.Parameter]:
    return model.get_submodule("router").parameters()


PATCHES = FixedScaleCrops(scale=4, lr_side=32)
NETWORKS = Stage(
    "networks", 500_000, PATCHES, divided_l1, batch=48, learning_rate=1e-3, schedule=cosine, betas=(0.9, 0.99),
    trains=networks,
)  # fmt: skip
CLASSIFIER = replace(
    NETWORKS, name="classifier", steps=200_000, loss=ClassLoss(), batch=96, learning_rate=2e-4, trains=classifier
)

CLASSSR_FSRCNN = Recipe(
    "classsr-fsrcnn",
    Network(
        spec(
            classsr,
            backbone={"name": "fsrcnn", "channels": 56},
            channels=(16, 36, 56),
            costs=CLASSSR_COSTS["fsrcnn"],
        )
    ),
    (NETWORKS, CLASSIFIER),
    source="ClassSR (arXiv:2103.04039), section 4.1, and its code",
    summary="ClassSR on FSRCNN: ×4, each patch takes one of three networks",
    expects={
        "classsr F2K x4": 27.93,
        "classsr Test2K x4": 25.61,
        "classsr Test4K x4": 26.91,
        "classsr Test8K x4": 32.73,
    },
    validate_at=(4.0,),
)
CLASSSR_FSRCNN_TINY = replace(
    CLASSSR_FSRCNN,
    name="classsr-fsrcnn-tiny",
    stages=(
        replace(
            NETWORKS, steps=1_000, samples=replace(PATCHES, lr_side=24, tries=3), batch=18, learning_rate=2e-3,
            warmup=50, ema=0.99,
        ),
        replace(CLASSIFIER, steps=300, batch=24, learning_rate=1e-3),
    ),
    summary="the same, of the published size, in minutes on two cores",
    expects={},
)  # fmt: skip
