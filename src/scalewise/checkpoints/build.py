"""From a name and plain arguments to a network: what a self-describing file says of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import nn

from scalewise.errors import CheckpointError
from scalewise.models.multi_exit import MultiExitModel
from scalewise.models.super_resolver import Base, SuperResolver
from scalewise.multiexit.anyscale import AnyScaleExits
from scalewise.routing.patch import PatchRouter

Colour = tuple[float, float, float]
Constructors = Mapping[str, Callable[..., nn.Module]]


class LazyConstructors(Constructors):
    """Constructors by name, each from its "module:name" under `scalewise`, imported when it is asked for: a weight file
    opens without the networks that are not in it."""

    def __init__(self, **homes: str) -> None:
        self.homes = homes

    def __getitem__(self, name: str) -> Callable[..., nn.Module]:
        module, _, constructor = self.homes[name].partition(":")
        return getattr(import_module(f"scalewise.{module}"), constructor)

    def __iter__(self) -> Iterator[str]:
        return iter(self.homes)

    def __len__(self) -> int:
        return len(self.homes)

    def __contains__(self, name: object) -> bool:
        return name in self.homes


ENCODERS: Constructors = LazyConstructors(
    adaformer="encoders.adaformer:AdaFormer",
    camixer="encoders.camixer:CAMixer",
    camixer_odi="encoders.camixer_odi:CAMixerODI",
    carn="encoders.carn:CARN",
    cat="encoders.cat:CAT",
    disp="encoders.plain_stack:DISP",
    ecbsr="encoders.plain_stack:ECBSR",
    edsr="encoders.edsr:EDSR",
    elan="encoders.elan:ELAN",
    etds="encoders.plain_stack:ETDS",
    fsrcnn="encoders.fsrcnn:FSRCNN",
    nlsa="encoders.nlsa:NLSA",
    rcan="encoders.rcan:RCAN",
    rdn="encoders.rdn:RDN",
    rlfn="encoders.rlfn:RLFN",
    span="encoders.plain_stack:SPAN",
    srresnet="encoders.srresnet:SRResNet",
    swinir="encoders.swinir:SwinIR",
    tadt="encoders.tadt:TADT",
    tadt_baseline="encoders.tadt:MultiScaleTransformer",
)

UPSAMPLERS: Constructors = LazyConstructors(
    cascade_tail="upsamplers.fixed:CascadeTail",
    ciaosr="upsamplers.ciaosr:CiaoSR",
    deconvolution="upsamplers.fixed:Deconvolution",
    direct_shuffle="upsamplers.fixed:DirectShuffle",
    itsrn="upsamplers.itsrn:ITSRN",
    liif="upsamplers.liif:LIIF",
    lte="upsamplers.lte:LTE",
    metasr="upsamplers.metasr:MetaSR",
    pixel_shuffle="upsamplers.fixed:PixelShuffle",
    rectified_shuffle="upsamplers.fixed:RectifiedShuffle",
    repeated_shuffle="upsamplers.fixed:RepeatedShuffle",
    residual="upsamplers.fixed:Residual",
    resnet_tail="upsamplers.fixed:ResNetTail",
)

# What the metadata of a converted file calls `builder`; its `arguments` are the function's.
BUILDERS: Constructors = LazyConstructors(
    super_resolver="checkpoints.build:super_resolver",
    patch_routed="checkpoints.build:patch_routed",
    patch_exits="checkpoints.patch_networks:patch_exits",
    enaf="checkpoints.patch_networks:enaf",
    arm="checkpoints.patch_networks:arm",
    classsr="checkpoints.patch_networks:classsr",
    classsr_camixer="checkpoints.patch_networks:classsr_camixer",
    ape="checkpoints.patch_networks:ape",
)


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
    trunk = construct(encoders, encoder)
    if upsampler is None:
        return trunk
    tail = construct(upsamplers, upsampler, trunk.channels)
    scales = getattr(tail, "scales", None)
    return resolver(trunk, tail, mean=tuple(mean), std=tuple(std), scales=scales, base=base)  # type: ignore[arg-type]


def patch_routed(
    channels: int,
    exit_after: Sequence[int],
    kernels: Sequence[int],
    patch: int = 32,
    router_channels: int = 48,
    slope: float = 0.0,
) -> MultiExitModel:
    """Our multi-exit any-scale network with its router."""
    network = AnyScaleExits(channels, exit_after=tuple(exit_after), kernels=tuple(kernels), slope=slope)
    return MultiExitModel(PatchRouter(network.exits, patch=patch, channels=router_channels), network, patch=patch)


def construct(constructors: Constructors, part: Mapping[str, Any], *first: Any) -> nn.Module:
    if part["name"] not in constructors:
        raise CheckpointError(f"no network part is called {part['name']!r}; known are {', '.join(constructors)}")
    arguments = {name: tuples(value) for name, value in part["arguments"].items()}
    return constructors[part["name"]](*first, **arguments)


def tuples(value: Any) -> Any:
    return tuple(tuples(item) for item in value) if isinstance(value, list | tuple) else value


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def empty(build: Callable[[], nn.Module]) -> nn.Module:
    """The network without memory for its weights: names and shapes only."""
    with torch.device("meta"):
        return build()
