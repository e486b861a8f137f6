"""Recipes by name: one value for each model. A new one is a file like `edsr.py`, and its names here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from scalewise.errors import InvalidRequest
from scalewise.recipes.ablations import STARTS, ablated
from scalewise.recipes.adaformer import ADAFORMER_X2, ADAFORMER_X2_TINY, ADAFORMER_X4, ADAFORMER_X4_TINY
from scalewise.recipes.ape import APE
from scalewise.recipes.arm import ARM
from scalewise.recipes.camixer import (
    CAMIXER,
    CAMIXER_AT_FOUR,
    CAMIXER_CODED,
    CAMIXER_CODED_TINY,
    CAMIXER_ODI,
    CAMIXER_ODI_TINY,
    CAMIXER_PRINTED,
    CAMIXER_PRINTED_TINY,
    CAMIXER_TINY,
)
from scalewise.recipes.ciaosr_real import CIAOSR_REAL, CIAOSR_REAL_TINY
from scalewise.recipes.classsr import CLASSSR
from scalewise.recipes.edsr import EDSR_LIIF, EDSR_LIIF_TINY, EDSR_X4, EDSR_X4_TINY
from scalewise.recipes.enaf import (
    ENAF_CARN,
    ENAF_CARN_TINY,
    ENAF_FSRCNN,
    ENAF_FSRCNN_TINY,
    ENAF_SRRESNET,
    ENAF_SRRESNET_TINY,
)
from scalewise.recipes.fast import (
    BEST,
    BEST_TINY,
    FAST,
    FAST_TINY,
    LEAN,
    LEAN_TINY,
    PHOTO,
    PHOTO_TINY,
    QUALITY,
    QUALITY_TINY,
)
from scalewise.recipes.fixed import FIXED
from scalewise.recipes.own_tails import OWN_TAILS
from scalewise.recipes.pairs import PAIRS, TINY_PAIRS
from scalewise.recipes.tadt import TADT_PAIRS
from scalewise.training.gan import Adversarial
from scalewise.training.recipe import CustomModel, Recipe
from scalewise.training.stage import Stage

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        FAST,
        FAST_TINY,
        QUALITY,
        QUALITY_TINY,
        PHOTO,
        PHOTO_TINY,
        LEAN,
        LEAN_TINY,
        BEST,
        BEST_TINY,
        EDSR_LIIF,
        EDSR_LIIF_TINY,
        EDSR_X4,
        EDSR_X4_TINY,
        ADAFORMER_X2,
        ADAFORMER_X2_TINY,
        ADAFORMER_X4,
        ADAFORMER_X4_TINY,
        *TADT_PAIRS,
        CAMIXER,
        CAMIXER_TINY,
        CAMIXER_PRINTED,
        CAMIXER_PRINTED_TINY,
        CAMIXER_CODED,
        CAMIXER_CODED_TINY,
        CAMIXER_ODI,
        CAMIXER_ODI_TINY,
        *CAMIXER_AT_FOUR,
        ENAF_FSRCNN,
        ENAF_FSRCNN_TINY,
        ENAF_CARN,
        ENAF_CARN_TINY,
        ENAF_SRRESNET,
        ENAF_SRRESNET_TINY,
        *ARM,
        *CLASSSR,
        *APE,
        *FIXED,
        *OWN_TAILS,
        CIAOSR_REAL,
        CIAOSR_REAL_TINY,
        *PAIRS,
        *TINY_PAIRS,
    )
}


def find(
    name: str,
    *,
    model: str | None = None,
    stage: str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    vgg: Path | None = None,
) -> Recipe:
    """A recipe by name, or a variant of it (`tadt-liif@no-gsa`, see `ablations.py`), with another model
    (`theirs:build`), first stage, number of steps or seed, and with VGG19's weights for its perceptual loss. Raises
    InvalidRequest."""
    stem, _, variant = name.partition("@")
    start = STARTS.get(stem, stem) if variant else stem
    if start not in RECIPES:
        raise InvalidRequest(f"no recipe is called {stem!r}: there are {', '.join(RECIPES)}")
    recipe = ablated(RECIPES[start], variant) if variant else RECIPES[start]
    if model is not None:
        recipe = replace(recipe, name=f"{name}-theirs", network=CustomModel(model), expects={})
    if stage is not None:
        recipe = recipe.begun_at(stage)
    if steps is not None:
        recipe = recipe.shortened(steps)
    if vgg is not None:
        if not vgg.is_file():
            raise InvalidRequest(f"vgg {vgg}: there is no such file")
        recipe = replace(recipe, stages=seen_through(recipe, vgg))
    return recipe if seed is None else replace(recipe, seed=seed)


def seen_through(recipe: Recipe, vgg: Path) -> tuple[Stage, ...]:
    """The stages, their perceptual losses with VGG19's weights of this file."""
    if not any(isinstance(stage.task, Adversarial) for stage in recipe.stages):
        raise InvalidRequest(f"{recipe.name} has no perceptual loss: leave vgg out")
    return tuple(
        replace(stage, task=replace(stage.task, vgg=vgg)) if isinstance(stage.task, Adversarial) else stage
        for stage in recipe.stages
    )
