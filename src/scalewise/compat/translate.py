"""A flat state dict → our network: which layout fits, its tensors under our keys, what it leaves open."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

from torch import Tensor

from scalewise.checkpoints.build import Colour, Design, Part
from scalewise.checkpoints.load import few
from scalewise.errors import InvalidRequest, UnknownNetwork

Tensors = Mapping[str, Tensor]


class Choices:
    """What shapes leave open: the caller's value, else the file's, else the published one, which is *assumed*."""

    def __init__(self, overrides: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> None:
        self.overrides, self.given = dict(overrides), dict(given or {})
        self.channels = 0  # of the encoder's features, for its upsampler
        self.assumed: dict[str, Any] = {}
        self.asked: set[str] = set()
        self.revealed: set[str] = set()

    def value(self, name: str, published: Any) -> Any:
        self.asked.add(name)
        if name in self.overrides:
            return _like(name, self.overrides[name], published)
        if name in self.given:
            return self.given[name]
        self.assumed[name] = published
        return published

    def read(self, name: str, value: Any) -> Any:
        """What the shapes say. Raises InvalidRequest if the caller says something else."""
        self.revealed.add(name)
        if self.overrides.get(name, value) != value:
            raise InvalidRequest(f"{name}={self.overrides[name]!r} contradicts the weights, which say {value!r}")
        return value


def _like(name: str, value: Any, published: Any) -> Any:
    """The caller's value if it is of the published one's kind (a whole number is a float too)."""
    kinds: tuple[type, ...] = (list, tuple) if isinstance(published, list) else (type(published),)
    fits = isinstance(value, kinds) and not (isinstance(value, bool) and not isinstance(published, bool))
    if not fits and not (isinstance(published, float) and type(value) is int):
        raise InvalidRequest(f"{name}={value!r} is not a value for it; the published one is {published!r}")
    return value


Arguments = Callable[[Tensors, Choices], dict[str, Any]]
Normal = Callable[[Tensors, Choices], tuple[Colour, Colour]]


@dataclass(frozen=True)
class Layout:
    """One part of a network in one spelling.

    `table`: (start of their key, start of ours), a regular expression and its replacement; None drops what we compute
    ourselves. The first `marks` rows must all be there, and `suits` must like the shapes, for the layout to be known.
    `arguments` reads shapes under *our* keys, `tells` what values under *their* keys say; `adapt` finishes keys and
    reorders values that are kept in another order.
    """

    name: str
    title: str
    table: tuple[tuple[str, str | None], ...]
    arguments: Arguments
    tells: Callable[[Tensors], dict[str, Any]] = lambda state: {}
    adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda tensors: tensors
    marks: int = 1
    suits: Callable[[Tensors], bool] = lambda tensors: True


@dataclass(frozen=True)
class Network:
    """An encoder with an upsampler (or None) as some project publishes them, and the value range they see."""

    title: str
    encoder: Layout
    upsampler: Layout | None
    normal: Normal


@dataclass(frozen=True)
class Translated:
    """A recognised file: `tensors` under our keys, what they are, and what was left out.

    A network that is not an encoder with an upsampler names its `builder` and that function's `arguments`."""

    title: str
    design: Design
    tensors: dict[str, Tensor]
    choices: Choices
    dropped: tuple[str, ...] = ()
    builder: str = "super_resolver"
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Match:
    """How well a state dict fits a network."""

    network: Network
    encoder: dict[str, Tensor] = field(default_factory=dict)
    upsampler: dict[str, Tensor] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return bool(self.encoder) and not self.extra and not self.missing


def translate(path: object, state: Tensors, networks: Iterable[Network], choices: Choices) -> Translated:
    """A flat state dict → our network. Raises CheckpointError naming the nearest network and what does not fit."""
    state = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    matches = [fit(state, network) for network in networks]
    match = next((one for one in matches if one.complete), None)
    if match is None:
        nearest = min(matches, key=lambda one: (len(one.extra) + len(one.missing), one.network.title))
        raise UnknownNetwork(f"{path}: not a network that scalewise knows; {describe_misfit(nearest, len(state))}")
    network = match.network
    try:
        choices.given = network.encoder.tells(state) | choices.given
        encoder = Part(network.encoder.name, network.encoder.arguments(match.encoder, choices))
        sizes = encoder.arguments
        choices.channels = sizes.get("features") or sizes.get("channels") or sizes.get("embed") or 0
        upsampler = None
        if network.upsampler and match.upsampler:
            upsampler = Part(network.upsampler.name, network.upsampler.arguments(match.upsampler, choices))
        mean, std = network.normal(state, choices)
    except InvalidRequest:
        raise
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise UnknownNetwork(f"{path}: looks like {network.title}, but {error} is missing or misshapen") from None
    tensors = {f"encoder.{name}" if upsampler else name: value for name, value in match.encoder.items()}
    tensors |= {f"upsampler.{name}": value for name, value in match.upsampler.items()}
    title = network.title if upsampler else f"{network.encoder.title} encoder"
    return Translated(title, Design(encoder, upsampler, mean, std), tensors, choices, match.dropped)


def fit(state: Tensors, network: Network) -> Match:
    """Rename what the network's tables know; the rest is extra. An encoder alone fits too."""
    nested = any(key.startswith("encoder.") for key in state)
    encoder: dict[str, Tensor] = {}
    upsampler: dict[str, Tensor] = {}
    dropped, extra = [], []
    hits: set[str] = set()
    rows = [(encoder, row) for row in network.encoder.table]
    rows += [(upsampler, row) for row in network.upsampler.table] if network.upsampler else []
    compiled = [(part, re.compile(pattern), new) for part, (pattern, new) in rows]
    for key, value in state.items():
        short = key.removeprefix("encoder.") if nested else key
        for part, pattern, new in compiled:
            found = pattern.match(short)
            if not found:
                continue
            hits.add(pattern.pattern)
            if new is None:
                dropped.append(key)
            else:
                part[found.expand(new) + short[found.end() :]] = value
            break
        else:
            extra.append(key)
    present = [network.encoder, *([network.upsampler] if network.upsampler and upsampler else [])]
    marks = [row[0] for layout in present for row in layout.table[: layout.marks]]
    missing = [readable(mark) for mark in marks if mark not in hits]
    if network.upsampler and upsampler and not missing and not network.upsampler.suits(upsampler):
        missing.append(f"other shapes of {few(upsampler)}")
    if not missing and not extra:
        encoder = network.encoder.adapt(encoder)
        upsampler = network.upsampler.adapt(upsampler) if network.upsampler and upsampler else upsampler
    return Match(network, encoder, upsampler, tuple(dropped), tuple(extra), tuple(missing))


def readable(pattern: str) -> str:
    """A row's pattern as a reader would write the key."""
    return re.sub(r"\(\\d\+\)", "N", pattern).replace("\\", "").replace("(?=.)", "")


def describe_misfit(match: Match, keys: int) -> str:
    words = f"nearest is {match.network.title}, which has no {few(match.extra)}" if match.extra else ""
    if len(match.extra) == keys:
        words = f"none of its {keys} keys is known ({few(match.extra)})"
    if match.missing:
        words += f"{' and' if words else f'nearest is {match.network.title}, which'} needs {few(match.missing)}"
    return words


def count(tensors: Tensors, pattern: str) -> int:
    """How many different numbers the group of a pattern takes."""
    return len({found[1] for key in tensors if (found := re.match(pattern, key))})


def root_of(value: int, what: str) -> int:
    root = isqrt(value)
    if root * root != value or not root:
        raise ValueError(what)
    return root
