"""A network as a value: constructors with their arguments, checked where they are written, saved as JSON.

    Pair(spec(EDSR, channels=64, blocks=16), tail(LIIF, hidden=(256, 256)))

A type checker sees the constructor's own signature, and a wrong argument raises TypeError when the value is made. The
weight file names the constructors as `build` does; only opening a file goes from names to classes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from torch import nn

from scalewise.checkpoints import native
from scalewise.checkpoints.build import BUILDERS, ENCODERS, UPSAMPLERS, Colour, Constructors
from scalewise.models.super_resolver import Base, SuperResolver

P = ParamSpec("P")
Made = TypeVar("Made", bound=nn.Module, covariant=True)


@dataclass(frozen=True)
class Spec(Generic[Made]):
    """A constructor and its arguments. Make it by `spec` or `tail`."""

    make: Callable[..., Made]
    arguments: Mapping[str, Any]

    def build(self, *first: Any) -> Made:
        return self.make(*first, **self.arguments)

    def as_dict(self, constructors: Constructors) -> dict[str, Any]:
        """The spec as a weight file has it."""
        return {"name": name_of(self.make, constructors), "arguments": dict(self.arguments)}


def spec(make: Callable[P, Made], *args: P.args, **arguments: P.kwargs) -> Spec[Made]:
    """A constructor with its arguments. Raises TypeError for arguments that it does not take."""
    return Spec(make, inspect.signature(make).bind(*args, **arguments).arguments)


def tail(make: Callable[Concatenate[int, P], Made], *args: P.args, **arguments: P.kwargs) -> Spec[Made]:
    """An upsampler without its first argument, the number of channels, which its encoder gives."""
    bound = inspect.signature(make).bind(0, *args, **arguments).arguments
    return Spec(make, dict(list(bound.items())[1:]))


def name_of(make: Callable[..., Any], constructors: Constructors) -> str:
    """What a weight file calls a constructor. Raises LookupError for one that no file can name."""
    for name in constructors:
        if constructors[name] is make:
            return name
    raise LookupError(f"{make.__qualname__} has no name in checkpoints/build.py, so no weight file can name it")


@dataclass(frozen=True)
class Network:
    """A network that one builder of `build.BUILDERS` makes whole: `Network(spec(patch_exits, channels=64, …))`."""

    whole: Spec[nn.Module]

    def build(self) -> nn.Module:
        """A new one, with first weights."""
        return self.whole.build()

    def save(self, model: nn.Module, path: Path, about: Mapping[str, Any]) -> None:
        """Write a weight file that `zoo.load` reads; `about` is its card."""
        described = self.whole.as_dict(BUILDERS)
        native.write(path, model.state_dict(), described["name"], described["arguments"], about, overwrite=True)


@dataclass(frozen=True)
class Pair:
    """An encoder and an upsampler as a SuperResolver; they see (rgb - mean) / std. `base`: what the network's output is
    added to (`SuperResolver`)."""

    encoder: Spec[nn.Module]
    upsampler: Spec[nn.Module]
    mean: Colour = (0.5, 0.5, 0.5)
    std: Colour = (0.5, 0.5, 0.5)
    base: Base | None = None

    def build(self) -> SuperResolver:
        """A new one, with first weights."""
        encoder: Any = self.encoder.build()
        upsampler: Any = self.upsampler.build(encoder.channels)
        scales = getattr(upsampler, "scales", None)
        return SuperResolver(encoder, upsampler, mean=self.mean, std=self.std, scales=scales, base=self.base)

    @property
    def arguments(self) -> dict[str, Any]:
        """What a weight file says of it. The base is named only where there is one, as in files written before."""
        parts = {"encoder": self.encoder.as_dict(ENCODERS), "upsampler": self.upsampler.as_dict(UPSAMPLERS)}
        colours = {"mean": list(self.mean), "std": list(self.std)}
        return parts | colours | ({} if self.base is None else {"base": self.base})

    def save(self, model: nn.Module, path: Path, about: Mapping[str, Any]) -> None:
        """Write a weight file that `zoo.load` reads; `about` is its card."""
        native.write(path, model.state_dict(), "super_resolver", self.arguments, about, overwrite=True)
