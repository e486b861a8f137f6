"""The models by name, and any weight file by path. A name leads to a function, the function to the arithmetic."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open

from scalewise import compat
from scalewise.budget.quality import kept
from scalewise.checkpoints.build import BUILDERS
from scalewise.compat import convert as convert
from scalewise.compat import describe as describe
from scalewise.encoders.edsr import EDSR
from scalewise.encoders.identity import Pixels
from scalewise.errors import CheckpointError, UnknownModel
from scalewise.machine.device import for_inference, pick_device, torch_defaults
from scalewise.models.model import Model
from scalewise.models.multi_exit import MultiExitModel
from scalewise.models.super_resolver import SuperResolver
from scalewise.multiexit.anyscale import AnyScaleExits
from scalewise.routing.patch import PatchRouter
from scalewise.upsamplers.fixed import Bicubic
from scalewise.upsamplers.liif import LIIF


def exits(channels: int, exit_after: tuple[int, ...], kernels: tuple[int, ...]) -> MultiExitModel:
    """Our multi-exit any-scale network (`multiexit/anyscale.py`) with a router of patches of 32 LR pixels."""
    network = AnyScaleExits(channels, exit_after=exit_after, kernels=kernels)
    return MultiExitModel(PatchRouter(network.exits, patch=32), network, patch=32)


def fast() -> MultiExitModel:
    """64 channels, exits after 1, 3, 6 and 10 blocks; 0.89 M parameters with the router."""
    return exits(64, (1, 3, 6, 10), (4, 4, 4, 5))


def quality() -> MultiExitModel:
    """96 channels, exits after 2, 5, 10 and 16 blocks; 2.92 M parameters. `photo` and `pano` are the same network."""
    return exits(96, (2, 5, 10, 16), (4, 4, 5, 6))


def bicubic() -> SuperResolver:
    """Bicubic interpolation: the floor that every model is measured against."""
    return SuperResolver(Pixels(), Bicubic(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def edsr_liif() -> SuperResolver:
    """EDSR-baseline with LIIF, as published (Chen et al., CVPR 2021); 1.57 M parameters."""
    encoder = EDSR(channels=64, blocks=16)
    return SuperResolver(encoder, LIIF(encoder.channels))


def tiny(name: str) -> Callable[[], Any]:
    """What builds a small sibling of a paper's system, as its shipped file describes it; its recipe has that name."""

    def build() -> Any:
        with resources.as_file(_shipped(f"{name}.safetensors")) as path:
            if not path.exists():
                raise CheckpointError(f"the weights of {name} are missing here: install scalewise again")
            with safe_open(path, "pt") as file:
                about = file.metadata()
        return BUILDERS[about["builder"]](**json.loads(about["arguments"]))

    return build


def _shipped(file: str) -> Traversable:
    return resources.files("scalewise") / "weights" / file


@dataclass(frozen=True)
class Entry:
    """A name of the zoo. `weights` is a file inside the package; a model without one needs yours, by path."""

    summary: str
    build: Callable[[], Any]
    weights: str | None = None
    licence: str = "Apache-2.0"
    needs_weights: bool = True


MODELS: Mapping[str, Entry] = {
    "fast": Entry("multi-exit, any scale, any budget: the default", fast, "fast.safetensors"),
    "quality": Entry("the same, wider and deeper", quality, "quality.safetensors"),
    "photo": Entry("quality for compressed and noisy pictures", quality, "photo.safetensors"),
    "pano": Entry("quality for 360° panoramas", quality, "pano.safetensors"),
    "bicubic": Entry("bicubic interpolation, the floor", bicubic, needs_weights=False),
    "edsr-liif": Entry("EDSR-baseline with LIIF; give your weights with -n FILE", edsr_liif),
    **{
        name: Entry(summary, tiny(name), f"{name}.safetensors")
        for name, summary in {
            "edsr-ciaosr-tiny": "a small CiaoSR: attention as upsampler",
            "tadt-liif-tiny": "a small TADT: picture and scale choose branches",
            "adaformer-x2-tiny": "a small AdaFormer: tokens leave early",
            "camixer-x2-tiny": "a small CAMixerSR: attention where it is hard",
            "enaf-srresnet-tiny": "a small ENAF: patches take the exit worth its cost",
        }.items()
    },
}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, and what its file says: `card` holds licence, data, calibration."""

    name: str
    model: Model
    card: Mapping[str, Any] = field(default_factory=dict)


def load(name: str | Path, *, device: str | None = None) -> LoadedModel:
    """A model by name (`scalewise models` lists them) or weight file, ready to run on `device`; loaded once.

    `FILE:res_scale=1,…` sets what a file leaves open. Raises UnknownModel, CheckpointError.
    """
    text = str(name)
    if text not in MODELS and not Path(text).exists():
        path, _, overrides = text.rpartition(":")
        if "=" not in overrides or not Path(path).exists():
            raise UnknownModel(f"no model and no file is called {text!r}: the models are {', '.join(MODELS)}")
    found = pick_device(device)
    with torch_defaults(found):
        return _load(text, str(found))


@lru_cache(maxsize=4)
def _load(text: str, device: str) -> LoadedModel:
    entry = MODELS.get(text)
    if entry is not None and not entry.needs_weights:
        return LoadedModel(text, for_inference(entry.build(), torch.device(device)))
    if entry is not None:
        if entry.weights is None:
            raise CheckpointError(f"{text} ships without weights: give a weight file by -n FILE")
        with resources.as_file(_shipped(entry.weights)) as path:
            return _from_file(text, path, {}, device)
    path, overrides = file_and_settings(text)
    return _from_file(path.name, path, overrides, device)


def _from_file(name: str, path: Path, overrides: Mapping[str, Any], device: str) -> LoadedModel:
    loaded = compat.load(path, **overrides)
    model = for_inference(cast(Model, loaded.super_resolver), torch.device(device))
    card: dict[str, Any] = {}
    for key, value in loaded.description.about.items():
        try:
            card[key] = json.loads(value)
        except (TypeError, ValueError):
            card[key] = value
    if curves := kept(path):
        card["calibration"] = [curve.as_dict() for curve in curves]
    return LoadedModel(name, model, card)


def file_and_settings(text: str) -> tuple[Path, dict[str, Any]]:
    """`FILE` or `FILE:key=value,…` → the file, and what was set."""
    stem, _, settings = text.rpartition(":")
    if Path(text).exists() or "=" not in settings:
        return Path(text), {}
    return Path(stem), parse_overrides(settings)


def parse_overrides(text: str) -> dict[str, Any]:
    """`res_scale=1,chunk=144` → values as JSON where they are, else text."""
    settings: dict[str, Any] = {}
    for item in text.split(","):
        key, _, value = item.partition("=")
        try:
            settings[key.strip()] = json.loads(value)
        except ValueError:
            settings[key.strip()] = value
    return settings
