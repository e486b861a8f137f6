"""APE on EDSR, FSRCNN, CARN-M and SRResNet at ×4: the backbone, then an exit after every few blocks with its capacity;
tiny siblings.

Wang et al., ECCV 2022, arXiv:2203.11589: from a trained EDSR, 300 epochs of 1000 steps of 16 crops of 192 HR pixels,
Adam 1e-4 halved at 200, L1 of every exit plus the squared error of every capacity. The backbone is
EDSR's recipe (arXiv:1707.02921, section 4.2): as many steps, as many crops, L1, 1e-4 halved at 200 000.
"""

from __future__ import annotations

from dataclasses import replace

from scalewise.checkpoints.patch_networks import ape, patch_exits
from scalewise.checkpoints.spec import Network, spec
from scalewise.data import FixedScaleCrops
from scalewise.training.losses.exits import capacities, last_exit_l1
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Stage, cosine, cosine_to, halved

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


# The backbones that ClassSR, ARM and ENAF have, which APE's paper has not: trained as `fixed.py` trains them, on
# patches of their 32 pixels, then as above.
STARTS = {"fsrcnn": (1e-3, 1e-4), "carn": (2e-4, 5e-4), "srresnet": (2e-4, 5e-4)}
TITLES = {"fsrcnn": "FSRCNN", "carn": "CARN-M", "srresnet": "SRResNet"}


def ape_recipe(name: str, channels: int, interval: int) -> Recipe:
    """APE on a backbone of `paths.Backbone`."""
    rate, end = STARTS[name]
    first = replace(
        BACKBONE, steps=500_000, samples=FixedScaleCrops(scale=4, lr_side=32), learning_rate=rate,
        schedule=cosine_to(end), betas=(0.9, 0.99),
    )  # fmt: skip
    return Recipe(
        f"ape-{name}",
        Network(spec(ape, backbone={"name": name, "channels": channels}, interval=interval)),
        (first, EXITS),
        source="APE (arXiv:2203.11589), section 4.1, on a backbone of ClassSR's (arXiv:2103.04039)",
        summary=f"APE on {TITLES[name]}: ×4, a patch leaves where going on would bring little",
        validate_at=(4.0,),
    )


def tiny(paper: Recipe, interval: int, **backbone: object) -> Recipe:
    """The same in minutes, with another backbone."""
    return replace(
        paper,
        name=f"{paper.name}-tiny",
        network=Network(spec(ape, backbone=backbone, interval=interval)),
        stages=APE_EDSR_TINY.stages,
        summary="the same in minutes on two cores",
    )


APE_FSRCNN, APE_CARN, APE_SRRESNET = (
    ape_recipe("fsrcnn", 56, 1), ape_recipe("carn", 64, 1), ape_recipe("srresnet", 64, 4),
)  # fmt: skip
APE = (
    APE_EDSR,
    APE_EDSR_TINY,
    APE_FSRCNN,
    tiny(APE_FSRCNN, 1, name="fsrcnn", channels=56),
    APE_CARN,
    tiny(APE_CARN, 1, name="carn", channels=32),
    APE_SRRESNET,
    tiny(APE_SRRESNET, 2, name="srresnet", channels=16, blocks=8),
)
