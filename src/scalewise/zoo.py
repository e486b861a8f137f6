"""The models by name, and any weight file by path. A name leads to a function, the function to the arithmetic."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import safe_open

from scalewise.budget.quality import read_sidecar
from scalewise.checkpoints import files, native
from scalewise.checkpoints.build import BUILDERS
from scalewise.checkpoints.load import Description, Loaded, load_native
from scalewise.errors import CheckpointError, MissingDependency, UnknownModel, UnknownNetwork, shown
from scalewise.machine.device import for_inference, pick_device, torch_defaults
from scalewise.models.model import Model
from scalewise.models.super_resolver import SuperResolver

if TYPE_CHECKING:
    from torch import nn


def bicubic() -> SuperResolver:
    """Bicubic interpolation: the floor that every model is measured against."""
    from scalewise.encoders.identity import Pixels
    from scalewise.upsamplers.fixed import Bicubic

    return SuperResolver(Pixels(), Bicubic(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def edsr_liif() -> SuperResolver:
    """EDSR-baseline with LIIF, as published (Chen et al., CVPR 2021); 1.57 M parameters."""
    from scalewise.encoders.edsr import EDSR
    from scalewise.upsamplers.liif import LIIF

    encoder = EDSR(channels=64, blocks=16)
    return SuperResolver(encoder, LIIF(encoder.channels))


def shipped(name: str) -> nn.Module:
    """A model with new weights, as its shipped file describes it. The recipe of that name says how it was trained."""
    with resources.as_file(_shipped_file(f"{name}.safetensors")) as path:
        if not path.exists():
            raise CheckpointError(f"the weights of {name} are missing here: install scalewise again")
        with safe_open(path, "pt") as file:
            about = file.metadata()
    return BUILDERS[about["builder"]](**json.loads(about["arguments"]))


def _shipped_file(file: str) -> Traversable:
    return resources.files("scalewise") / "weights" / file


WEIGHT_ENDINGS = (".pth", ".safetensors", ".pt", ".ckpt", ".onnx", ".t7")


@dataclass(frozen=True)
class Entry:
    """A name of the zoo. `weights` is a file inside the package; a model without one needs yours, by path."""

    summary: str
    build: Callable[[], Any]
    weights: str | None = None
    licence: str = "Apache-2.0"
    needs_weights: bool = True


def with_weights(summaries: Mapping[str, str]) -> dict[str, Entry]:
    """Models whose file lies in the package, by name."""
    return {name: Entry(summary, partial(shipped, name), f"{name}.safetensors") for name, summary in summaries.items()}


MODELS: Mapping[str, Entry] = {
    **with_weights(
        {
            "fast": "multi-exit, any scale, any budget: the default",
            "quality": "the same, wider and deeper",
            "photo": "quality for compressed and noisy pictures",
        }
    ),
    "bicubic": Entry("bicubic interpolation, the floor", bicubic, needs_weights=False),
    "edsr-liif": Entry("EDSR-baseline with LIIF; give your weights with -n FILE", edsr_liif),
    **with_weights(
        {
            "edsr-ciaosr-tiny": "a small CiaoSR: attention as upsampler",
            "tadt-liif-tiny": "a small TADT: picture and scale choose branches",
            "adaformer-x2-tiny": "a small AdaFormer: tokens leave early",
            "camixer-x2-tiny": "a small CAMixerSR: attention where it is hard",
            "enaf-srresnet-tiny": "a small ENAF: patches take the exit worth its cost",
        }
    ),
}

# Names that were models once, and what is said to who still asks for them.
REMOVED: Mapping[str, str] = {
    "pano": "the model pano was removed: use quality with projection erp (to measure it: with wrap), which is as good "
    "on 360° pictures",
}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, and what its file says: `card` holds network, licence, data, calibration."""

    name: str
    model: Model
    card: Mapping[str, Any] = field(default_factory=dict)


def load(name: str | Path, *, device: str | None = None) -> LoadedModel:
    """A model by name (`scalewise models` lists them) or weight file, ready to run on `device`; loaded once.

    `FILE:res_scale=1,…` sets what a file leaves open. Raises UnknownModel, CheckpointError.
    """
    text = str(name)
    if text not in MODELS:
        path, settings = file_and_settings(text)
        _check_exists(path, text)
        text = f"{path}:{text.rpartition(':')[2]}" if settings else str(path)
    found = pick_device(device)
    with torch_defaults(found):
        return _load(text, str(found))


@contextmanager
def weight_file(name: str) -> Iterator[Path]:
    """The file with the weights of a model, by its name or path; it is there while the block runs. Raises UnknownModel
    for a name that nothing has, and CheckpointError."""
    entry = MODELS.get(name)
    if entry is None:
        path = _located(name)
        if path.name == name:  # a path in some folder is looked at by who reads it
            _check_exists(path, name)
        yield path
        return
    if entry.weights is None:
        raise CheckpointError(f"{name} ships without weights: name its weight file instead")
    with resources.as_file(_shipped_file(entry.weights)) as path:
        yield path


def _check_exists(path: Path, text: str) -> None:
    if not _exists(path):
        if text in REMOVED:
            raise UnknownModel(REMOVED[text])
        searched = ", ".join(map(str, model_folders()))
        raise UnknownModel(
            f"no model and no file is called {shown(text)}: the models are {', '.join(MODELS)}; files are also looked "
            f"for in {searched}"
        )


def _exists(path: str | Path) -> bool:
    """True if there is such a file; False too for what is too long to be a name."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


@lru_cache(maxsize=4)
def _load(text: str, device: str) -> LoadedModel:
    entry = MODELS.get(text)
    if entry is not None and not entry.needs_weights:
        return LoadedModel(text, for_inference(entry.build(), torch.device(device)))
    if entry is not None:
        with weight_file(text) as path:
            return _from_file(text, path, {}, device)
    path, overrides = file_and_settings(text)
    return _from_file(path.name, path, overrides, device)


def load_file(path: Path, name: str, *, device: str | None = None) -> LoadedModel:
    """A weight file under another name, loaded again at each call. Raises CheckpointError."""
    found = pick_device(device)
    with torch_defaults(found):
        return _from_file(name, path, {}, str(found))


def _from_file(name: str, path: Path, overrides: Mapping[str, Any], device: str) -> LoadedModel:
    loaded = open_file(path, **overrides)
    model = for_inference(cast(Model, loaded.super_resolver), torch.device(device))
    card: dict[str, Any] = {"network": loaded.description.network}
    for key, value in loaded.description.about.items():
        try:
            card[key] = json.loads(value)
        except (TypeError, ValueError):
            card[key] = value
    if curves := read_sidecar(path):
        card["calibration"] = [curve.as_dict() for curve in curves]
        model.gains = next((curve.gains for curve in curves if curve.gains is not None), None)
    return LoadedModel(name, model, card)


def open_file(path: str | os.PathLike[str], **overrides: Any) -> Loaded:
    """The network of a weight file, on the CPU. The readers of published formats are imported only for other files than
    ours.

    Ours come first, then the published ones that we have a network for, then those that spandrel knows; ONNX files by
    their ending. Raises CheckpointError for what none of them knows, MissingDependency for an ONNX file without
    onnxruntime.
    """
    if Path(path).suffix.lower() == ".onnx":
        from scalewise.foreign import onnx_network

        return onnx_network.load(Path(path), overrides)
    content = files.read(path)
    if native.accepts(content):
        return load_native(content, overrides)
    from scalewise import compat

    try:
        return compat.load_content(content, overrides)
    except UnknownNetwork as unknown:
        from scalewise.foreign import spandrel_network

        try:
            return spandrel_network.load(content, overrides)
        except UnknownNetwork:
            raise CheckpointError(f"{unknown}; spandrel does not know it either") from None
        except MissingDependency as error:
            raise CheckpointError(f"{unknown}; more networks are read with spandrel: {error.install}") from None


def describe(path: str | os.PathLike[str]) -> Description:
    """What a weight file is; loads it, so that the description holds."""
    return open_file(path).description


def convert(
    path: str | os.PathLike[str], out: str | os.PathLike[str], *, overwrite: bool = False, **overrides: Any
) -> Description:
    """As `compat.convert`, which is imported for it alone."""
    from scalewise import compat

    return compat.convert(path, out, overwrite=overwrite, **overrides)


def file_and_settings(text: str) -> tuple[Path, dict[str, Any]]:
    """`FILE` or `FILE:key=value,…` → the file, and what was set. A name without a folder that is not here is looked for
    in `model_folders`, with any ending that weights have."""
    stem, _, settings = text.rpartition(":")
    if _exists(text) or "=" not in settings:
        return _located(text), {}
    return _located(stem), parse_overrides(settings)


def model_folders() -> list[Path]:
    """Where weight files are looked for by name: the folders of SCALEWISE_MODELS, then the user's own."""
    given = [Path(folder) for folder in os.environ.get("SCALEWISE_MODELS", "").split(os.pathsep) if folder]
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return [*given, Path(data) / "scalewise" / "models"]


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a folder, by their endings, in order of their names."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in WEIGHT_ENDINGS and path.is_file())


def _located(name: str) -> Path:
    path = Path(name)
    if _exists(path) or path.name != name:
        return path
    candidates = (folder / f"{name}{ending}" for folder in model_folders() for ending in ("", *WEIGHT_ENDINGS))
    return next((candidate for candidate in candidates if _exists(candidate) and candidate.is_file()), path)


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
