"""What `build` calls for networks of patches: ENAF, ARM, ClassSR, ClassSR with CAMixerSR, APE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalewise.checkpoints.build import Constructors, LazyConstructors, construct, tuples
from scalewise.models.early_exit import EarlyExitModel
from scalewise.models.patchwise import PatchwiseModel
from scalewise.multiexit.ape import APE
from scalewise.multiexit.ape_backbones import BackboneAPE
from scalewise.multiexit.arm import ARM
from scalewise.multiexit.camixer_paths import CAMixerPaths
from scalewise.multiexit.classsr import ClassSR
from scalewise.multiexit.paths import Backbone
from scalewise.routing.estimator import ClassRouter, EdgeRouter, ENAFRouter, PatchEstimator

EXITS: Constructors = LazyConstructors(
    carn="multiexit.enaf:CARNExits", fsrcnn="multiexit.enaf:FSRCNNExits", srresnet="multiexit.enaf:SRResNetExits"
)


def enaf(
    backbone: str,
    sizes: Mapping[str, Any],
    costs: tuple[float, ...],
    bonus: float,
    blank: float,
    *,
    estimator: type[PatchEstimator] = PatchEstimator,
) -> PatchwiseModel:
    """ENAF on FSRCNN, CARN-M or SRResNet; `sizes` are the constructor's."""
    network = construct(EXITS, {"name": backbone, "arguments": sizes})
    return PatchwiseModel(ENAFRouter(tuple(costs), bonus=bonus, blank=blank, estimator=estimator), network)  # type: ignore[arg-type]


def arm(backbone: Mapping[str, Any], widths: tuple[int, ...], bins: int, costs: tuple[float, ...]) -> PatchwiseModel:
    """ARM: a super-network and the table that chooses its width."""
    network = ARM(_backbone(backbone), tuple(widths))
    return PatchwiseModel(EdgeRouter(network.paths, bins, costs=tuple(costs)), network)


def classsr(
    backbone: Mapping[str, Any],
    channels: tuple[int, ...],
    costs: tuple[float, ...],
    *,
    estimator: type[PatchEstimator] = PatchEstimator,
) -> PatchwiseModel:
    """ClassSR: networks of rising width, and the classifier."""
    return PatchwiseModel(ClassRouter(tuple(costs), estimator=estimator), ClassSR(_backbone(backbone), tuple(channels)))


def classsr_camixer(
    channels: tuple[int, ...],
    keep: tuple[float, ...],
    scale: int,
    predictor: str,
    depths: tuple[int, ...] = (4, 4, 6, 6),
) -> PatchwiseModel:
    """ClassSR with CAMixerSR networks; costs are ours, as none were published for its own dial."""
    network = CAMixerPaths(tuple(channels), tuple(keep), scale=scale, depths=tuple(depths), predictor=predictor)
    costs = tuple(float(network.path_macs(path, (32, 32)).total) for path in range(network.paths))
    return PatchwiseModel(ClassRouter(costs), network)


def _backbone(given: Mapping[str, Any]) -> Backbone:
    return Backbone(**{name: tuples(value) for name, value in given.items()})


def patch_exits(
    channels: int, blocks: int, interval: int, scale: int, res_scale: float, patch: int = 48, step: int = 46
) -> EarlyExitModel:
    """APE on EDSR and its patches."""
    return EarlyExitModel(
        APE(channels, blocks, interval=interval, scale=scale, res_scale=res_scale), patch=patch, step=step
    )


def ape(backbone: Mapping[str, Any], interval: int, patch: int = 48, step: int = 46) -> EarlyExitModel:
    """APE on FSRCNN, CARN-M or SRResNet, on its patches."""
    return EarlyExitModel(BackboneAPE(_backbone(backbone), interval), patch=patch, step=step)
