"""From a name and plain arguments to a network: what a self-describing file says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from scalewise.encoders.adaformer import AdaFormer
from scalewise.encoders.camixer import CAMixer
from scalewise.encoders.camixer_odi import CAMixerODI
from scalewise.encoders.carn import CARN
from scalewise.encoders.cat import CAT
from scalewise.encoders.edsr import EDSR
from scalewise.encoders.elan import ELAN
from scalewise.encoders.fsrcnn import FSRCNN
from scalewise.encoders.nlsa import NLSA
from scalewise.encoders.rcan import RCAN
from scalewise.encoders.rdn import RDN
from scalewise.encoders.srresnet import SRResNet
from scalewise.encoders.swinir import SwinIR
from scalewise.encoders.tadt import TADT, MultiScaleTransformer
from scalewise.errors import CheckpointError
from scalewise.models.early_exit import EarlyExitModel
from scalewise.models.multi_exit import MultiExitModel
from scalewise.models.patchwise import PatchwiseModel
from scalewise.models.super_resolver import Base, SuperResolver
from scalewise.multiexit.anyscale import AnyScaleExits
from scalewise.multiexit.ape import APE
from scalewise.multiexit.arm import ARM
from scalewise.multiexit.camixer_paths import CAMixerPaths
from scalewise.multiexit.classsr import ClassSR
from scalewise.multiexit.enaf import CARNExits, FSRCNNExits, SRResNetExits
from scalewise.multiexit.paths import Backbone
from scalewise.routing.estimator import ClassRouter, EdgeRouter, ENAFRouter, PatchEstimator
from scalewise.routing.patch import PatchRouter
from scalewise.upsamplers.ciaosr import CiaoSR
from scalewise.upsamplers.fixed import (
    Bicubic,
    CascadeTail,
    Deconvolution,
    DirectShuffle,
    PixelShuffle,
    Residual,
    ResNetTail,
)
from scalewise.upsamplers.itsrn import ITSRN
from scalewise.upsamplers.liif import LIIF
from scalewise.upsamplers.lte import LTE
from scalewise.upsamplers.metasr import MetaSR

Colour = tuple[float, float, float]
Constructors = Mapping[str, Callable[..., nn.Module]]

ENCODERS: Constructors = {
    "adaformer": AdaFormer,
    "camixer": CAMixer,
    "camixer_odi": CAMixerODI,
    "carn": CARN,
    "cat": CAT,
    "edsr": EDSR,
    "elan": ELAN,
    "fsrcnn": FSRCNN,
    "nlsa": NLSA,
    "rcan": RCAN,
    "rdn": RDN,
    "srresnet": SRResNet,
    "swinir": SwinIR,
    "tadt": TADT,
    "tadt_baseline": MultiScaleTransformer,
}

UPSAMPLERS: Constructors = {
    "bicubic": lambda channels: Bicubic(),
    "cascade_tail": CascadeTail,
    "ciaosr": CiaoSR,
    "deconvolution": Deconvolution,
    "direct_shuffle": DirectShuffle,
    "itsrn": ITSRN,
    "liif": LIIF,
    "lte": LTE,
    "metasr": MetaSR,
    "pixel_shuffle": PixelShuffle,
    "residual": Residual,
    "resnet_tail": ResNetTail,
}


EXITS: Constructors = {"carn": CARNExits, "fsrcnn": FSRCNNExits, "srresnet": SRResNetExits}


@dataclass(frozen=True)
class Part:
    """A constructor's name and its arguments (an upsampler's first one, `channels`, is its encoder's)."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Design:
    """An encoder, and an upsampler unless the file has none; they see (rgb - mean) / std with rgb in [0, 1]."""

    encoder: Part
    upsampler: Part | None
    mean: Colour = (0.5, 0.5, 0.5)
    std: Colour = (0.5, 0.5, 0.5)

    def as_dict(self) -> dict[str, Any]:
        def part(it: Part | None) -> dict[str, Any] | None:
            return None if it is None else {"name": it.name, "arguments": dict(it.arguments)}

        return {
            "encoder": part(self.encoder),
            "upsampler": part(self.upsampler),
            "mean": list(self.mean),
            "std": list(self.std),
        }


def super_resolver(
    encoder: Mapping[str, Any],
    upsampler: Mapping[str, Any] | None,
    mean: Colour,
    std: Colour,
    base: Base | None = None,
    *,
    encoders: Constructors = ENCODERS,
    upsamplers: Constructors = UPSAMPLERS,
    resolver: type[SuperResolver] = SuperResolver,
) -> nn.Module:
    """The network of a design; the encoder itself if there is no upsampler."""
    trunk = _construct(encoders, encoder)
    if upsampler is None:
        return trunk
    tail = _construct(upsamplers, upsampler, trunk.channels)
    scales = getattr(tail, "scales", None)
    return resolver(trunk, tail, mean=tuple(mean), std=tuple(std), scales=scales, base=base)  # type: ignore[arg-type]


def patch_routed(
    channels: int,
    exit_after: Sequence[int],
    kernels: Sequence[int],
    patch: int = 32,
    router_channels: int = 48,
    silu: bool = False,
) -> MultiExitModel:
    """Our multi-exit any-scale network with its router."""
    network = AnyScaleExits(channels, exit_after=tuple(exit_after), kernels=tuple(kernels), silu=silu)
    return MultiExitModel(PatchRouter(network.exits, patch=patch, channels=router_channels), network, patch=patch)


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
    network = _construct(EXITS, {"name": backbone, "arguments": sizes})
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


def classsr_camixer(channels: tuple[int, ...], keep: tuple[float, ...], scale: int, predictor: str) -> PatchwiseModel:
    """ClassSR with CAMixerSR networks; costs are ours, as none were published for its own dial."""
    network = CAMixerPaths(tuple(channels), tuple(keep), scale=scale, predictor=predictor)
    costs = tuple(float(network.path_macs(path, (32, 32)).total) for path in range(network.paths))
    return PatchwiseModel(ClassRouter(costs), network)


def _backbone(given: Mapping[str, Any]) -> Backbone:
    return Backbone(**{name: _tuples(value) for name, value in given.items()})


def patch_exits(
    channels: int, blocks: int, interval: int, scale: int, res_scale: float, patch: int = 48, step: int = 46
) -> EarlyExitModel:
    """APE on its patches."""
    return EarlyExitModel(
        APE(channels, blocks, interval=interval, scale=scale, res_scale=res_scale), patch=patch, step=step
    )


# What the metadata of a converted file calls `builder`; its `arguments` are the function's.
BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    "super_resolver": super_resolver,
    "patch_routed": patch_routed,
    "patch_exits": patch_exits,
    "enaf": enaf,
    "arm": arm,
    "classsr": classsr,
    "classsr_camixer": classsr_camixer,
}


def _construct(constructors: Constructors, part: Mapping[str, Any], *first: Any) -> nn.Module:
    if part["name"] not in constructors:
        raise CheckpointError(f"no network part is called {part['name']!r}; known are {', '.join(constructors)}")
    arguments = {name: _tuples(value) for name, value in part["arguments"].items()}
    return constructors[part["name"]](*first, **arguments)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def empty(build: Callable[[], nn.Module]) -> nn.Module:
    """The network without memory for its weights: names and shapes only."""
    with torch.device("meta"):
        return build()
