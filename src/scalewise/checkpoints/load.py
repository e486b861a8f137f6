"""A network from its tensors, checked before memory is taken; and our own weight files, which say what they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scalewise.checkpoints import native
from scalewise.checkpoints.build import BUILDERS, empty, parameter_count
from scalewise.checkpoints.files import Content, sha256
from scalewise.errors import CheckpointError, InvalidRequest, ScalewiseError
from scalewise.models.super_resolver import SuperResolver


@dataclass(frozen=True)
class Description:
    """What a weight file is, as `scalewise inspect` prints it."""

    path: Path
    format: str
    network: str
    builder: str
    arguments: Mapping[str, Any]
    scales: tuple[float, ...] | None  # None: any
    parameters: int
    assumed: Mapping[str, Any]  # values that the file leaves open, as published; each can be given to `load`
    settable: tuple[str, ...]
    dropped: int  # tensors that we compute ourselves
    lacks: str  # what it needs before it can upscale; empty if nothing
    sha256: str
    about: Mapping[str, str]

    def as_dict(self) -> dict[str, Any]:
        return {name: str(value) if name == "path" else value for name, value in vars(self).items()}

    def lines(self) -> list[str]:
        """The lines for a terminal."""
        scales = "any" if self.scales is None else ", ".join(f"×{scale:g}" for scale in self.scales)
        lines = [
            f"{self.path}: {self.network}, {self.format}",
            f"parameters  {self.parameters:,}",
            f"scales      {scales}" if not self.lacks else f"lacks       {self.lacks}",
        ]
        for name in ("encoder", "upsampler"):
            if part := self.arguments.get(name):
                inside = ", ".join(f"{key}={value}" for key, value in part["arguments"].items())
                lines.append(f"{name:<12}{part['name']}({inside})")
        if "mean" in self.arguments:
            lines.append(f"sees        (rgb - {_round(self.arguments['mean'])}) / {_round(self.arguments['std'])}")
        lines += [f"assumed     {name}={value} (not in the file)" for name, value in self.assumed.items()]
        lines += [f"{name:<11} {value}" for name, value in self.about.items()]
        return [printable(line) for line in (*lines, f"sha256      {self.sha256}")]


@dataclass(frozen=True)
class Loaded:
    """A network in eval mode, and what it is. `model` is an encoder alone if the file holds no more."""

    model: nn.Module
    description: Description

    @property
    def super_resolver(self) -> SuperResolver:
        """The model, if it can upscale; raises CheckpointError naming what is missing."""
        if self.description.lacks:
            raise CheckpointError(f"{self.description.path} lacks {self.description.lacks}")
        return self.model  # type: ignore[return-value]


def load_native(content: Content, overrides: Mapping[str, Any]) -> Loaded:
    check_overrides(content.path, overrides, set())
    with malformed(content.path):
        it = native.read(content)
    if it.builder not in BUILDERS:
        raise CheckpointError(f"{content.path} wants the builder {it.builder!r}; known are {', '.join(BUILDERS)}")
    try:
        model = fill(content.path, partial(BUILDERS[it.builder], **it.arguments), it.tensors)
    except InvalidRequest as error:  # nobody asked for this but the file
        raise CheckpointError(f"{content.path}: {error}") from None
    lacks = "" if hasattr(model, "render") else "an upsampler: it holds an encoder alone; train or add one"
    return Loaded(
        model,
        Description(
            path=content.path,
            format=native.TITLE,
            network=it.about.get("network", it.builder),
            builder=it.builder,
            arguments=it.arguments,
            scales=scales_of(model),
            parameters=parameter_count(model),
            assumed={},
            settable=(),
            dropped=0,
            lacks=lacks,
            sha256=sha256(content.path),
            about={name: value for name, value in it.about.items() if name not in ("format", "network")},
        ),
    )


def fill(path: Path, build: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Build the network and load the weights; names, shapes and values are checked before memory is taken."""
    with malformed(path):
        expected = empty(build).state_dict()
    weights = fitting(path, expected, tensors)
    with torch.random.fork_rng(devices=[]):  # first values are overwritten, and nobody's random numbers change
        model = build()
    model.load_state_dict(weights)
    return model.eval()


def fitting(
    path: Path, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], network: str = "the network"
) -> dict[str, Tensor]:
    """The weights for a network that has those of `expected`, and no others. Raises CheckpointError for other names,
    shapes and kinds of numbers, and for what is not finite."""
    _check_names(path, expected, tensors, network)
    return {name: _checked(path, name, tensors[name], like) for name, like in expected.items()}


def _check_names(path: Path, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], network: str) -> None:
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in expected]
    wrong = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(like.shape)}"
        for name, like in expected.items()
        if name in tensors and tensors[name].shape != like.shape
    ]
    words = [
        f"{what}: {few(names)}" for what, names in (("missing", missing), ("extra", extra), ("shape", wrong)) if names
    ]
    if words:
        raise CheckpointError(f"{path}: its weights do not fit {network} ({'; '.join(words)})")


def _checked(path: Path, name: str, value: Tensor, like: Tensor) -> Tensor:
    if value.is_floating_point() != like.is_floating_point() or value.is_complex():
        raise CheckpointError(f"{path}: {name} is {value.dtype}; expected {like.dtype}")
    check_finite(path, name, value)
    return value


def check_finite(path: Path, name: str, value: Tensor) -> None:
    """Raise CheckpointError for weights that are not finite in float32, in which networks are: torch does not ask this
    of 8-bit numbers, and large float64 ones are infinite there."""
    if value.is_floating_point() and not bool(value.float().isfinite().all()):
        raise CheckpointError(f"{path}: {name} holds NaN or infinite weights; the file is damaged or badly trained")


@contextmanager
def malformed(path: Path) -> Iterator[None]:
    """Errors of any kind while a strange file is read are reported as the file's fault."""
    try:
        yield
    except ScalewiseError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        words = (str(error).strip().splitlines() or [""])[0][:200]
        raise CheckpointError(f"{path}: malformed weights ({type(error).__name__}: {words})") from None


def check_overrides(
    path: Path, overrides: Mapping[str, Any], settable: set[str], revealed: Set[str] = frozenset()
) -> None:
    """`revealed`: settings that follow from the weights; naming them as well does no harm."""
    unknown = sorted(set(overrides) - settable - revealed)
    if unknown:
        allowed = f"can be set: {', '.join(sorted(settable))}" if settable else "leaves nothing open"
        raise InvalidRequest(f"{path}: {few(unknown)} cannot be set; this file {allowed}")


def printable(text: str) -> str:
    """What a file says as one line that no terminal obeys: control characters and line breaks are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def few(names: Iterable[str], most: int = 4) -> str:
    """The first of some names that a file holds, for a message."""
    names = [printable(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _round(values: Any) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def scales_of(model: nn.Module) -> tuple[float, ...] | None:
    """The factors that a model has, None for any; also None of an encoder alone."""
    limits = getattr(model, "limits", None)
    return None if limits is None else limits.scales
