"""Published checkpoints → our networks: `load`, `describe`, `convert`. One file per checkpoint format."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
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
from scalewise.checkpoints.files import read as read_file
from scalewise.compat import adaformer, bare, basicsr, elan, liif, mmediting, multipath, pcsr
from scalewise.compat.official import OFFICIAL_BUILDERS
from scalewise.compat.translate import Translated, few
from scalewise.errors import CheckpointError, InvalidRequest, ScalewiseError
from scalewise.models.super_resolver import SuperResolver

FORMATS = (adaformer, multipath, pcsr, liif, basicsr, elan, mmediting, bare)  # the first that accepts a file reads it


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
        """For a terminal."""
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
        return [*lines, f"sha256      {self.sha256}"]


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


def load(path: str | os.PathLike[str], *, parity: bool = False, **overrides: Any) -> Loaded:
    """The network of a weight file, on the CPU, in eval mode.

    `parity` gives the published behaviour where ours differs (docs/quirks.md). `overrides` set what the file leaves
    open (`res_scale=1`); `describe` lists it. Raises CheckpointError for files that are damaged, hostile or unknown.
    """
    content = read_file(path)
    if native.accepts(content):
        return _load_native(content, overrides)
    translated, form = _translate(content, overrides)
    build = (OFFICIAL_BUILDERS if parity else BUILDERS)[translated.builder]
    arguments = dict(translated.arguments) or translated.design.as_dict()
    model = _fill(content.path, partial(build, **arguments), translated.tensors)
    lacks = ""
    if translated.builder == "super_resolver" and translated.design.upsampler is None:
        name, channels = translated.design.encoder.name, model.channels
        lacks = f"an upsampler: it holds the encoder {name} ({channels} channels) alone; train or add one"
    return Loaded(
        model,
        Description(
            path=content.path,
            format=form,
            network=translated.title,
            builder=translated.builder,
            arguments=arguments,
            scales=getattr(model, "scales", None),
            parameters=parameter_count(model),
            assumed=translated.choices.assumed,
            settable=tuple(sorted(translated.choices.asked)),
            dropped=len(translated.dropped),
            lacks=lacks,
            sha256=sha256(content.path),
            about={},
        ),
    )


def describe(path: str | os.PathLike[str]) -> Description:
    """What a weight file is; loads it, so that what is said holds."""
    return load(path).description


def convert(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, overwrite: bool = False, **overrides: Any
) -> Description:
    """Write a self-describing safetensors file that loads to the same pixels; returns its description."""
    loaded = load(path, **overrides)
    it = loaded.description
    out = Path(out)
    if out.suffix != ".safetensors":
        raise InvalidRequest(f"{out}: converted files are safetensors; name it {out.stem}.safetensors")
    about = {
        "network": it.network,
        "source": it.path.name,
        "source_format": it.format,
        "source_sha256": it.sha256,
        "assumed": dict(it.assumed),
    }
    native.write(out, loaded.model.state_dict(), it.builder, it.arguments, about | dict(it.about), overwrite=overwrite)
    return describe(out)


def _translate(content: Content, overrides: Mapping[str, Any]) -> tuple[Translated, str]:
    form = next((one for one in FORMATS if one.accepts(content)), None)
    if form is None:
        keys = few(map(str, content.data)) if isinstance(content.data, Mapping) else type(content.data).__name__
        known = ", ".join(one.TITLE for one in FORMATS)
        raise CheckpointError(f"{content.path}: no weights in a known wrapper (it holds {keys}); known are {known}")
    with _malformed(content.path):
        translated = form.read(content, overrides)
    _check_overrides(content.path, overrides, translated.choices.asked)
    return translated, form.TITLE


@contextmanager
def _malformed(path: Path) -> Iterator[None]:
    """Whatever a strange file makes our reading stumble over is the file's fault."""
    try:
        yield
    except ScalewiseError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        words = (str(error).strip().splitlines() or [""])[0][:200]
        raise CheckpointError(f"{path}: malformed weights ({type(error).__name__}: {words})") from None


def _check_overrides(path: Path, overrides: Mapping[str, Any], settable: set[str]) -> None:
    unknown = sorted(set(overrides) - settable)
    if unknown:
        allowed = f"can be set: {', '.join(sorted(settable))}" if settable else "leaves nothing open"
        raise InvalidRequest(f"{path}: {few(unknown)} cannot be set; this file {allowed}")


def _load_native(content: Content, overrides: Mapping[str, Any]) -> Loaded:
    _check_overrides(content.path, overrides, set())
    with _malformed(content.path):
        it = native.read(content)
    if it.builder not in BUILDERS:
        raise CheckpointError(f"{content.path} wants the builder {it.builder!r}; known are {', '.join(BUILDERS)}")
    model = _fill(content.path, partial(BUILDERS[it.builder], **it.arguments), it.tensors)
    lacks = "" if hasattr(model, "render") else "an upsampler: it holds an encoder alone; train or add one"
    return Loaded(
        model,
        Description(
            path=content.path,
            format=native.TITLE,
            network=it.about.get("network", it.builder),
            builder=it.builder,
            arguments=it.arguments,
            scales=getattr(model, "scales", None),
            parameters=parameter_count(model),
            assumed={},
            settable=(),
            dropped=0,
            lacks=lacks,
            sha256=sha256(content.path),
            about={name: value for name, value in it.about.items() if name not in ("format", "network")},
        ),
    )


def _fill(path: Path, build: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Build the network and give it the weights; names, shapes and values are checked before memory is taken."""
    with _malformed(path):
        expected = empty(build).state_dict()
    _check_names(path, expected, tensors)
    weights = {name: _checked(path, name, tensors[name], like) for name, like in expected.items()}
    with torch.random.fork_rng(devices=[]):  # first values are overwritten, and nobody's random numbers change
        model = build()
    model.load_state_dict(weights)
    return model.eval()


def _check_names(path: Path, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
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
        raise CheckpointError(f"{path}: its weights do not fit the network ({'; '.join(words)})")


def _checked(path: Path, name: str, value: Tensor, like: Tensor) -> Tensor:
    if value.is_floating_point() != like.is_floating_point() or value.is_complex():
        raise CheckpointError(f"{path}: {name} is {value.dtype}; expected {like.dtype}")
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise CheckpointError(f"{path}: {name} holds NaN or infinite weights; the file is damaged or badly trained")
    return value


def _round(values: Any) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"
