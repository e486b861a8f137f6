"""ClassSR on FSRCNN, CARN-M, SRResNet and CAMixerSR at ×4: three networks on easy, medium and hard patches, then the
classifier; tiny siblings.

Kong et al., CVPR 2021, arXiv:2103.04039: the networks by L1, 500 000 steps of 16 patches, Adam (0.9, 0.99) from 1e-3
(2e-4 on CARN-M and SRResNet) along a cosine; then the classifier, 200 000 steps of 96 from 2e-4, the networks frozen,
on 1000 times the L1 of the mixed picture, half the class loss and three times the average loss. The paper sorts its
patches into thirds once, by the dB of a trained network; `divided_l1` sorts each batch, by bicubic's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import nn

from scalewise.checkpoints.patch_networks import classsr, classsr_camixer
from scalewise.checkpoints.spec import Network, spec
from scalewise.data import FixedScaleCrops
from scalewise.encoders.camixer import BASE, MEDIUM, SMALL
from scalewise.recipes.expected import printed_at
from scalewise.routing.estimator import CLASSSR_COSTS
from scalewise.training.losses.exits import ClassLoss, divided_l1
from scalewise.training.recipe import Buildable, Recipe
from scalewise.training.stage import Stage, cosine, halved


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

SLOWER = replace(NETWORKS, learning_rate=2e-4)
TITLES = {"fsrcnn": "FSRCNN", "carn": "CARN-M", "srresnet": "SRResNet"}
EXPECTS = {
    "fsrcnn": {
        "classsr F2K x4": 27.93, "classsr Test2K x4": 25.61, "classsr Test4K x4": 26.91, "classsr Test8K x4": 32.73,
    },
    "carn": {
        "classsr F2K x4": 28.67, "classsr Test2K x4": 26.01, "classsr Test4K x4": 27.42, "classsr Test8K x4": 33.24,
    },
    "srresnet": {
        "classsr F2K x4": 29.02, "classsr Test2K x4": 26.20, "classsr Test4K x4": 27.66, "classsr Test8K x4": 33.50,
    },
}  # fmt: skip


def network_of(backbone: Mapping[str, object], channels: tuple[int, ...]) -> Network:
    return Network(spec(classsr, backbone=backbone, channels=channels, costs=CLASSSR_COSTS[str(backbone["name"])]))


def classsr_recipe(name: str, channels: tuple[int, ...], stage: Stage) -> Recipe:
    """ClassSR on a backbone of `paths.Backbone`."""
    return Recipe(
        f"classsr-{name}",
        network_of({"name": name, "channels": channels[-1]}, channels),
        (stage, CLASSIFIER),
        source="ClassSR (arXiv:2103.04039), section 4.1, and its code",
        summary=f"ClassSR on {TITLES[name]}: ×4, each patch takes one of three networks",
        expects=EXPECTS[name],
        validate_at=(4.0,),
    )


TINY = (
    replace(
        NETWORKS, steps=1_000, samples=replace(PATCHES, lr_side=24, tries=3), batch=18, learning_rate=2e-3,
        warmup=50, ema=0.99,
    ),
    replace(CLASSIFIER, steps=300, batch=24, learning_rate=1e-3),
)  # fmt: skip


def tiny(paper: Recipe, of: Buildable | None = None, stages: tuple[Stage, ...] = TINY) -> Recipe:
    """The same in minutes; of the published size unless another network is given."""
    size = "the same" if of is not None else "the same, of the published size,"
    return replace(
        paper, name=f"{paper.name}-tiny", network=of or paper.network, stages=stages,
        summary=f"{size} in minutes on two cores", expects={},
    )  # fmt: skip


CLASSSR_FSRCNN = classsr_recipe("fsrcnn", (16, 36, 56), NETWORKS)
CLASSSR_CARN = classsr_recipe("carn", (36, 52, 64), SLOWER)
CLASSSR_SRRESNET = classsr_recipe("srresnet", (36, 52, 64), SLOWER)
SMALL_CARN = network_of({"name": "carn", "channels": 32}, (16, 24, 32))
SMALL_SRRESNET = network_of({"name": "srresnet", "channels": 16, "blocks": 12}, (8, 12, 16))
CLASSSR_FSRCNN_TINY = tiny(CLASSSR_FSRCNN)


def mixers(channels: tuple[int, ...], keep: tuple[float, ...], depths: tuple[int, ...] = (4, 4, 6, 6)) -> Network:
    return Network(spec(classsr_camixer, channels=channels, keep=keep, scale=4, predictor="published", depths=depths))


# CAMixerSR (Wang et al., CVPR 2024, arXiv:2402.19289), main table: Small, Medium and Base, or one Base at three shares.
# Optimizer and crops are CAMixerSR's, patches are divided as ClassSR divides them; windows are drawn at a path's share.
MIXERS = Stage(
    "networks", 500_000, PATCHES, divided_l1, batch=64, learning_rate=5e-4, schedule=halved(0.5, 0.8, 0.9, 0.95),
    betas=(0.9, 0.99), decay=1e-4, ema=0.999, trains=networks,
)  # fmt: skip
CLASSSR_CAMIXER = Recipe(
    "classsr-camixer",
    mixers((SMALL, MEDIUM, BASE), (0.5, 0.5, 0.5)),
    (MIXERS, CLASSIFIER),
    source="CAMixerSR (arXiv:2402.19289), main table; ClassSR (arXiv:2103.04039), section 4.1",
    summary="ClassSR with three CAMixerSR networks: ×4",
    expects=printed_at("classsr-camixer", "camixer", "classsr", "lambda=0", 4),
    validate_at=(4.0,),
)
CLASSSR_CAMIXER_SHARED = replace(
    CLASSSR_CAMIXER,
    name="classsr-camixer-shared",
    network=mixers((BASE,), (0.25, 0.3, 0.5)),
    summary="ClassSR with one CAMixerSR network at three shares of attention: ×4",
    expects=printed_at("classsr-camixer-shared", "camixer", "classsr", "lambda=0", 4),
)
TINY_MIXERS = (
    replace(
        MIXERS, steps=400, batch=6, learning_rate=2e-3, schedule=cosine, warmup=30, decay=0.0, ema=0.99, exact=True
    ),
    replace(TINY[1], steps=100, batch=6, exact=True),
)
CLASSSR = (
    CLASSSR_FSRCNN,
    CLASSSR_FSRCNN_TINY,
    CLASSSR_CARN,
    tiny(CLASSSR_CARN, SMALL_CARN),
    CLASSSR_SRRESNET,
    tiny(CLASSSR_SRRESNET, SMALL_SRRESNET),
    CLASSSR_CAMIXER,
    tiny(CLASSSR_CAMIXER, mixers((12, 16, 20), (0.5, 0.5, 0.5), (2, 2)), TINY_MIXERS),
    CLASSSR_CAMIXER_SHARED,
    tiny(CLASSSR_CAMIXER_SHARED, mixers((16,), (0.25, 0.5, 0.75), (2, 2)), TINY_MIXERS),
)
