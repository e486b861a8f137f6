"""TADT with LIIF in the paper's two stages: the network with all branches, then with its controller; a tiny sibling.

Xu et al., ECAI 2024, arXiv:2408.08736: scales U(1, 4), LR crops of 48×48, 2304 points of each, L1; the controller is
fine-tuned with the network on L1 plus 2e-4 times the intensity loss (Eq. 5-7). Optimizer and steps are those of LIIF's
recipe (arXiv:2012.09161), which the paper points to; the second stage has "the same settings" as the first.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from scalewise.checkpoints.spec import Pair, spec, tail
from scalewise.data import AnyScaleCrops
from scalewise.encoders.tadt import TADT
from scalewise.recipes.pairs import printed
from scalewise.routing.branch import TaskController
from scalewise.training.losses.adaptive import RoutedL1, all_branches_l1, without_controller
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage, cosine, halved
from scalewise.upsamplers.liif import LIIF

BASELINE = Stage(
    "baseline", 1_000_000, AnyScaleCrops(lr_side=48, points=48), all_branches_l1, schedule=halved(0.2, 0.4, 0.6, 0.8),
    trains=without_controller,
)  # fmt: skip
ROUTED = replace(BASELINE, name="routed", loss=RoutedL1(), trains=None)

TADT_LIIF = Recipe(
    "tadt-liif",
    Pair(spec(TADT), tail(LIIF)),
    (BASELINE, ROUTED),
    source="TADT (arXiv:2408.08736), section 4.1, with LIIF's schedule",
    summary="TADT with LIIF: any scale, branches by image and scale",
    expects=printed("tadt-liif", "DIV2K", {"tadt": "TADT table 1"}),
)


def start_at_three_quarters(model: nn.Module) -> None:
    """The controller starts at β = 0.75 for all scales, not 0.98, from which hundreds of steps do not come down."""
    controller = model.get_submodule("encoder.controller")
    assert isinstance(controller, TaskController)
    last = controller.scale[-1]
    assert isinstance(last, nn.Linear)
    nn.init.constant_(last.bias, 1.1)


SMALL = AnyScaleCrops(lr_side=32, points=24, whole=0.3, tries=3)
TINY = replace(
    BASELINE, steps=800, samples=SMALL, batch=4, learning_rate=1e-3, schedule=cosine, warmup=50, ema=0.99,
)  # fmt: skip
# twice the paper's λ of 2e-4, for there are few steps
TINY_ROUTED = replace(
    TINY, name="routed", steps=450, loss=RoutedL1(4e-4), batch=8, learning_rate=1e-3, betas=(0.9, 0.99), trains=None,
    prepare=start_at_three_quarters,
)  # fmt: skip
TADT_LIIF_TINY = replace(
    TADT_LIIF,
    name="tadt-liif-tiny",
    network=Pair(
        spec(TADT, channels=32, groups=2, windows=(4, 8, 16), global_window=32, pooled=8, features=32),
        tail(LIIF, hidden=(64, 64)),
        base="bilinear",
    ),
    stages=(TINY, TINY_ROUTED),
    summary="the same in minutes on two cores",
    expects={},
)  # fmt: skip
