"""The rows of the papers' ablation tables by name: `RECIPE@VARIANT`, as `tadt-liif@no-gsa` or `tadt-liif-tiny@no-gsa`.

A variant changes arguments of a recipe's network or loss, and nothing else. It is for all recipes of its paper, tiny
ones too; the paper's name alone, as in `tadt@no-gsa`, is the recipe that the paper's own ablation starts from
(`STARTS`). What a table calls a variant, and why some rows cannot be built, stands with each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from scalewise.checkpoints.spec import Network, Pair, Spec, spec
from scalewise.data import AnyScaleCrops
from scalewise.encoders.adaformer import AdaFormer
from scalewise.encoders.camixer import CAMixer
from scalewise.encoders.tadt import TADT, MultiScaleTransformer
from scalewise.errors import InvalidRequest
from scalewise.recipes.pairs import one_scale
from scalewise.training.losses.adaptive import RoutedL1, WindowedL1, halting_l1, ponder_l1
from scalewise.training.losses.pixel import l1
from scalewise.training.recipe import Recipe
from scalewise.training.stage import Loss, Stage
from scalewise.upsamplers.ciaosr import CiaoSR

Change = Callable[[Recipe], Recipe]


@dataclass(frozen=True)
class Variant:
    """What becomes of a recipe, and the row of the paper that it is."""

    change: Change
    row: str


def encoder(**arguments: object) -> Change:
    """Other arguments of the encoder. Raises InvalidRequest for an encoder that has none of that name."""
    return partial(_with_part, "encoder", arguments)


def upsampler(**arguments: object) -> Change:
    """Other arguments of the upsampler. Raises InvalidRequest for one that has none of that name."""
    return partial(_with_part, "upsampler", arguments)


def _with_part(part: str, arguments: Mapping[str, object], recipe: Recipe) -> Recipe:
    network = recipe.network
    if not isinstance(network, Pair):
        raise InvalidRequest(f"{recipe.name} has no {part} of its own, so {', '.join(arguments)} cannot be set")
    old: Spec[nn.Module] = getattr(network, part)
    try:
        if part == "encoder":
            spec(old.make, **{**old.arguments, **arguments})
        else:
            spec(old.make, 1, **{**old.arguments, **arguments})
    except TypeError:
        raise InvalidRequest(f"{recipe.name}: {old.make.__name__} does not take {', '.join(arguments)}") from None
    return replace(recipe, network=replace(network, **{part: replace(old, arguments={**old.arguments, **arguments})}))


def loss(changed: Callable[[Loss], Loss | None]) -> Change:
    """Another loss in the stages for whose loss `changed` gives one."""

    def change(recipe: Recipe) -> Recipe:
        new = [changed(stage.loss) for stage in recipe.stages]
        if not any(new):
            raise InvalidRequest(f"{recipe.name} has no stage with the loss that this variant changes")
        stages = tuple(
            stage if other is None else replace(stage, loss=other)
            for stage, other in zip(recipe.stages, new, strict=True)
        )
        return replace(recipe, stages=stages)

    return change


def both(*changes: Change) -> Change:
    """One after the other."""

    def change(recipe: Recipe) -> Recipe:
        for one in changes:
            recipe = one(recipe)
        return recipe

    return change


def fixed_beta(first: float, slope: float) -> Change:
    """β is no longer learnt, so it has no price and no start."""

    def unprepared(recipe: Recipe) -> Recipe:
        return replace(recipe, stages=tuple(replace(stage, prepare=None) for stage in recipe.stages))

    return both(encoder(fixed_beta=(first, slope)), priced(0.0), unprepared)


def priced(penalty: float) -> Change:
    return loss(lambda old: replace(old, penalty=penalty) if isinstance(old, RoutedL1) else None)


def threshold(alpha: tuple[float, float, float] | None) -> Change:
    return loss(lambda old: replace(old, threshold=alpha) if isinstance(old, RoutedL1) else None)


def without_halting_loss(recipe: Recipe) -> Recipe:
    """No estimator is trained: L1 alone, and no stage for the estimator."""
    stages = tuple(replace(stage, loss=l1) for stage in recipe.stages if stage.name != "estimator")
    return replace(recipe, stages=stages)


ponder = loss(lambda old: ponder_l1 if old == halting_l1 else None)


def gamma(share: float) -> Change:
    return loss(lambda old: replace(old, gamma=share) if isinstance(old, WindowedL1) else None)


def no_blank(recipe: Recipe) -> Recipe:
    network = recipe.network
    assert isinstance(network, Network)
    return replace(recipe, network=Network(replace(network.whole, arguments={**network.whole.arguments, "bonus": 0.0})))


def scales(*factors: int) -> Change:
    """Training at these whole scales alone, one for both axes."""

    def stage_at(stage: Stage) -> Stage:
        samples = stage.samples
        assert isinstance(samples, AnyScaleCrops)
        span = (float(min(factors)), float(max(factors)))
        return replace(one_scale(stage), samples=replace(samples, scales=span, unequal=0.0, whole=1.0))

    return lambda recipe: replace(recipe, stages=tuple(map(stage_at, recipe.stages)))


def refused(why: str) -> Change:
    def change(recipe: Recipe) -> Recipe:
        raise InvalidRequest(why)

    return change


ADAFORMER: Mapping[str, Variant] = {
    "local-only": Variant(
        both(encoder(global_attention=False, halting="none"), without_halting_loss), "table 3, case 1: local branch"
    ),
    "no-halting": Variant(both(encoder(halting="none"), without_halting_loss), "table 3, case 2: both branches"),
    "local-mask": Variant(encoder(halting="local"), "table 3, case 3: windows leave the local branch, no token leaves"),
    # Nothing is said of these but FLOPs: the share of attention that makes their 671.78 G and 653.67 G out of 696.08 G.
    "uniform": Variant(both(encoder(rule="uniform", leaving=0.31), without_halting_loss), "table 4: uniform exit"),
    "random": Variant(both(encoder(rule="random", leaving=0.54), without_halting_loss), "table 4: random exit"),
    "a-vit": Variant(ponder, "table 4: A-ViT's ponder and distribution losses instead of Eq. 17"),
    "ape-signal": Variant(
        refused(
            "adaformer@ape-signal cannot be built: the paper exits by the dB that a layer adds, as APE, but a layer of "
            "AdaFormer makes no picture, and neither paper nor code says which one is scored"
        ),
        "table 4: APE's incremental capacity",
    ),
    "unshared-estimator": Variant(encoder(shared_estimator=False), "table 4: an estimator for each layer"),
}
TADT_VARIANTS: Mapping[str, Variant] = {
    "no-gsa": Variant(encoder(global_attention=False), "table 7: without global attention"),
    "average-pooling": Variant(encoder(reduction="average"), "table 8: average pooling"),
    "random-reduction": Variant(encoder(reduction="random"), "table 8: random matrix"),
    "fixed-beta": Variant(fixed_beta(0.5, 0.0), "table 4: β = 0.5"),
    "beta-0.25s": Variant(fixed_beta(0.0, 0.25), "table 4: β = 0.25 s, 1 from ×4 on"),
    "no-lbeta": Variant(priced(0.0), "table 5: without the intensity loss"),
    "lbeta-without-mask": Variant(threshold(None), "table 6: the intensity loss is β"),
    "alpha-0-0.25-1": Variant(threshold((0.0, 0.25, 1.0)), "table 9: α = 0, 0.25, 1"),
    "alpha-0-0.25-0.5": Variant(threshold((0.0, 0.25, 0.5)), "table 9: α = 0, 0.25, 0.5"),
    "alpha-0.25-0.5-0.5": Variant(threshold((0.25, 0.5, 0.5)), "table 9: α = 0.25, 0.5, 0.5"),
    "raw-scale": Variant(encoder(scale_input="raw"), "the controller sees s itself, as the paper draws it"),
}
CAMIXER_VARIANTS: Mapping[str, Variant] = {
    "no-conv-attention": Variant(encoder(conv_attention=False), "figure 5: without convolutional attention"),
    "gamma-1": Variant(gamma(1.0), "tables 2 and 3: γ = 1"),
    "gamma-0.5": Variant(gamma(0.5), "tables 2 and 3: γ = 0.5"),
    "gamma-0.25": Variant(gamma(0.25), "tables 2 and 3: γ = 0.25"),
    "gamma-0": Variant(gamma(0.0), "table 2: γ = 0"),
}
ENAF_VARIANTS: Mapping[str, Variant] = {"no-blank": Variant(no_blank, "table 2: without the blank vector")}
CIAOSR_VARIANTS: Mapping[str, Variant] = {
    "mlp-weights": Variant(upsampler(weights="mlp", non_local=False), "table 4: an MLP says the weights, no non-local"),
    "no-nonlocal": Variant(upsampler(non_local=False), "table 4: without non-local attention"),
    "scales-2": Variant(scales(2), "table 5: trained on ×2"),
    "scales-3": Variant(scales(3), "table 5: trained on ×3"),
    "scales-4": Variant(scales(4), "table 5: trained on ×4"),
    "scales-2-3-4": Variant(scales(2, 3, 4), "table 5: trained on ×2, ×3, ×4"),
}
VARIANTS: Mapping[str, Mapping[str, Variant]] = {
    "tadt": TADT_VARIANTS,
    "adaformer": ADAFORMER,
    "camixer": CAMIXER_VARIANTS,
    "enaf": ENAF_VARIANTS,
    "ciaosr": CIAOSR_VARIANTS,
}
# The recipe that a paper's own ablation starts from.
STARTS = {
    "tadt": "tadt-liif",
    "adaformer": "adaformer-x4",
    "camixer": "camixer-x4-printed",
    "enaf": "enaf-fsrcnn",
    "ciaosr": "rdn-ciaosr",
}


def paper_of(recipe: Recipe) -> str | None:
    """Whose variants a recipe has."""
    network = recipe.network
    if isinstance(network, Network):
        return "enaf" if recipe.name.startswith("enaf-") else None
    if not isinstance(network, Pair):
        return None
    made: Mapping[object, str] = {
        TADT: "tadt", MultiScaleTransformer: "tadt", AdaFormer: "adaformer", CAMixer: "camixer",
    }  # fmt: skip
    if network.encoder.make in made:
        return made[network.encoder.make]
    return (
        "ciaosr" if network.upsampler.make is CiaoSR and isinstance(recipe.stages[0].samples, AnyScaleCrops) else None
    )


def ablated(recipe: Recipe, variant: str) -> Recipe:
    """A recipe as one row of its paper's ablation tables has it, called `RECIPE@VARIANT`. Raises InvalidRequest."""
    paper = paper_of(recipe)
    known = {} if paper is None else VARIANTS[paper]
    if variant not in known:
        has = f"it has {', '.join(known)}" if known else f"variants are of {', '.join(VARIANTS)}"
        raise InvalidRequest(f"{recipe.name} has no variant {variant!r}: {has}")
    found = known[variant]
    changed = found.change(recipe)
    return replace(
        changed, name=f"{recipe.name}@{variant}", summary=f"{recipe.summary}; {found.row}", expects={},
    )  # fmt: skip
