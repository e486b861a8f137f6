"""A package that darktable (5.6 and later) installs: a zip of one folder with a network at ×2 and ×4, and what it is.

`ID.dtmodel` holds `ID/config.json`, `ID/model_x2.onnx` and `ID/model_x4.onnx`, the layout of
https://github.com/darktable-org/darktable-ai. Both networks take [1, 3, height, width] float32 sRGB from 0 to 1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from scalewise.errors import InvalidRequest
from scalewise.export.onnx_file import CPU, Exported, check_ending, check_installed, one_scale, write
from scalewise.machine.device import for_inference
from scalewise.models.model import Model
from scalewise.storage import atomic_write, check_writable
from scalewise.version import __version__

INPUT_SIDES = {2: 512, 4: 256}  # scale → pixels a side that darktable reads at once: outputs of 1024 both
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
UNKNOWN = "not stated in the weight file"


def export_package(
    model: Model, name: str, about: Mapping[str, Any], path: Path, *, half: bool = False, overwrite: bool = False
) -> dict[int, Exported]:
    """Write `path`; its name without the ending is the package's id. `about` is what the weight file says of itself
    (`LoadedModel.card`): licence, training data, source and recipe go into the package. Each network is compared with
    the model, as `onnx_file.export` does.

    Raises UnsupportedScale, InvalidRequest, MissingDependency, UnwritableOutput."""
    check_ending(path, ".dtmodel")
    if not ID.fullmatch(path.stem):
        raise InvalidRequest(
            f"{path.stem!r} becomes the id of the package: allowed are letters, digits, - and _, as in "
            "scalewise-fast.dtmodel"
        )
    own = for_inference(model, CPU)
    networks = {scale: one_scale(own, scale) for scale in INPUT_SIDES}
    check_installed("onnx", "onnxscript")
    check_writable(path, overwrite=overwrite)
    with TemporaryDirectory() as folder, atomic_write(path, overwrite=overwrite) as temporary:
        done = {}
        with ZipFile(temporary, "w") as package:
            _add(package, path.stem, "config.json", _config_text(path.stem, name, about).encode())
            for scale, network in networks.items():
                file = Path(folder) / f"model_x{scale}.onnx"
                done[scale] = write(own, network, scale, file, half=half)
                _add(package, path.stem, file.name, file.read_bytes())
    return done


def config(identifier: str, name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """What darktable shows of a model and asks about it."""
    said = {key: str(value).strip() for key, value in about.items()}
    licence = said.get("licence") or said.get("license") or UNKNOWN
    card = {
        "long_description": f"scalewise's network {name} at its full budget, at ×2 and ×4",
        "scope": "image upscaling (2x and 4x)",
        "author": said.get("author", ""),
        "source": said.get("source", ""),
        "license": licence,
        "training_data": said.get("training_data") or UNKNOWN,
        "notes": f"training: {said['recipe']}" if said.get("recipe") else "",
    }
    return {
        "id": identifier,
        "name": f"scalewise {name}",
        "description": f"scalewise {name}: 2x and 4x super-resolution",
        "task": "upscale",
        "version": __version__,
        "backend": "onnx",
        "tiling": True,
        "attributes": {f"model_x{scale}": {"input_sizes": [side]} for scale, side in INPUT_SIDES.items()},
        "model_card": {key: value for key, value in card.items() if value},
    }


def _config_text(identifier: str, name: str, about: Mapping[str, Any]) -> str:
    return json.dumps(config(identifier, name, about), indent=4, ensure_ascii=False) + "\n"


def _add(package: ZipFile, folder: str, name: str, content: bytes) -> None:
    entry = ZipInfo(f"{folder}/{name}")  # its time is fixed, so that equal networks make equal packages
    entry.external_attr = 0o644 << 16
    package.writestr(entry, content, ZIP_DEFLATED)
