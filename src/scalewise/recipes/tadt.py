"""TADT in the paper's two stages, the network with all branches, then with its controller, and its Baseline, each with
Meta-SR, LIIF, LTE and CiaoSR; tiny siblings.

Xu et al., ECAI 2024, arXiv:2408.08736: scales U(1, 4), LR crops of 48×48, 2304 points of each, L1; the controller is
fine-tuned with the network on L1 plus 2e-4 times the intensity loss (Eq. 5-7). Optimizer and steps are those of LIIF's
recipe (arXiv:2012.09161), which the paper points to; the second stage has "the same settings" as the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from scalewise.checkpoints.spec import spec
from scalewise.data import AnyScaleCrops
from scalewise.encoders.tadt import TADT, MultiScaleTransformer
from scalewise.recipes.expected import printed
from scalewise.recipes.pairs import UPSAMPLERS, Part, one_scale, pair_of, tiny_base
from scalewise.routing.branch import TaskController
from scalewise.training.losses.adaptive import RoutedL1, all_branches_l1, without_controller
from scalewise.training.losses.pixel import l1
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage, cosine, halved

BASELINE = Stage(
    "baseline", 1_000_000, AnyScaleCrops(lr_side=48, points=48), all_branches_l1, schedule=halved(0.2, 0.4, 0.6, 0.8),
    trains=without_controller,
)  # fmt: skip
ROUTED = replace(BASELINE, name="routed", loss=RoutedL1(), trains=None)
ALONE = replace(BASELINE, loss=l1, trains=None)  # the Baseline as a network of its own


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
TINY_ALONE = replace(TINY, loss=l1, trains=None)

# With the scale itself the price alone lets β fall with the scale; see `routing/branch.py`.
ENCODERS: Mapping[str, Part] = {
    "tadt": Part(
        "TADT",
        spec(TADT, scale_input="log"),
        spec(
            TADT, channels=32, groups=2, windows=(4, 8, 16), global_window=32, pooled=8, features=32, scale_input="log"
        ),
    ),
    "tadt-baseline": Part(
        "TADT's Baseline",
        spec(MultiScaleTransformer),
        spec(MultiScaleTransformer, channels=32, groups=2, windows=(4, 8, 16), global_window=32, pooled=8, features=32),
    ),
}
STAGES: Mapping[str, tuple[Stage, ...]] = {"tadt": (BASELINE, ROUTED), "tadt-baseline": (ALONE,)}
TINY_STAGES: Mapping[str, tuple[Stage, ...]] = {"tadt": (TINY, TINY_ROUTED), "tadt-baseline": (TINY_ALONE,)}


def tadt_recipe(encoder: str, upsampler: str) -> Recipe:
    """`tadt` or `tadt-baseline` with an upsampler of `pairs.UPSAMPLERS`."""
    part = ENCODERS[encoder]
    how = "branches by image and scale" if encoder == "tadt" else "all branches"
    return Recipe(
        f"{encoder}-{upsampler}",
        pair_of(part.paper, UPSAMPLERS[upsampler].paper),
        _stages(STAGES[encoder], upsampler),
        source="TADT (arXiv:2408.08736), section 4.1, with LIIF's schedule",
        summary=f"{part.title} with {UPSAMPLERS[upsampler].title}: any scale, {how}",
        expects=printed(f"{encoder}-{upsampler}", "DIV2K", {"tadt": "TADT table 1"}),
    )


def tiny_tadt(encoder: str, upsampler: str) -> Recipe:
    """The same at a size that trains in minutes on two cores."""
    return replace(
        tadt_recipe(encoder, upsampler),
        name=f"{encoder}-{upsampler}-tiny",
        network=pair_of(ENCODERS[encoder].tiny, UPSAMPLERS[upsampler].tiny, base=tiny_base(upsampler)),
        stages=_stages(TINY_STAGES[encoder], upsampler),
        summary="the same in minutes on two cores",
        expects={},
    )


def _stages(stages: tuple[Stage, ...], upsampler: str) -> tuple[Stage, ...]:
    return tuple(map(one_scale, stages)) if upsampler == "metasr" else stages


# The paper prints Meta-SR, LIIF and LTE; CiaoSR came after it.
PAIRED = [(encoder, upsampler) for encoder in ENCODERS for upsampler in ("metasr", "liif", "lte", "ciaosr")]
TADT_PAIRS = [make(*pair) for pair in PAIRED for make in (tadt_recipe, tiny_tadt)]
TADT_LIIF, TADT_LIIF_TINY = tadt_recipe("tadt", "liif"), tiny_tadt("tadt", "liif")
