"""ENAF (.t7), ClassSR, and ARM with its table: bare state dicts of FSRCNN, CARN-M or SRResNet, and what chooses.

ARM's weights are those of a plain network, and load as one; with its `.state` file of the same name beside them, whose
`hmap` holds the table, they load as ARM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scalewise.checkpoints.files import Content
from scalewise.checkpoints.files import read as read_file
from scalewise.compat.networks import BARE_NETWORKS, BASICSR_NETWORKS
from scalewise.compat.translate import Choices, Translated, count, translate
from scalewise.errors import CheckpointError
from scalewise.geometry.grid import Size
from scalewise.routing.estimator import CLASSSR_COSTS, ENAF_COSTS, PatchEstimator

TITLE = "bare state dict of a network with several paths"
BACKBONES = {"fsrcnn", "carn", "srresnet"}
SIZES = {"fsrcnn": ("channels", "shrink", "maps"), "carn": ("channels", "groups"), "srresnet": ("channels", "blocks")}
PUBLISHED_WIDTHS = {56: (16, 36, 56), 64: (36, 52, 64)}


def accepts(content: Content) -> bool:
    data = content.data
    if not (isinstance(data, Mapping) and data and all(isinstance(value, Tensor) for value in data.values())):
        return False
    starts = {str(key).removeprefix("module.").split(".")[0] for key in data}
    return bool(starts & {"estimator", "classifier"}) or _table_file(content.path).is_file()


def read(content: Content, overrides: Mapping[str, Any]) -> Translated:
    state = {str(key).removeprefix("module."): value for key, value in content.data.items()}
    starts, choices = {key.split(".")[0] for key in state}, Choices(overrides)
    if "estimator" in starts:
        return _enaf(content.path, state, choices)
    if "classifier" in starts:
        return _classsr(content.path, state, choices)
    plain = translate(content.path, state, (*BARE_NETWORKS, *BASICSR_NETWORKS), choices)
    if plain.design.encoder.name not in BACKBONES or plain.design.upsampler is None:
        return plain  # any network with any training state beside it
    table = read_file(_table_file(content.path)).data
    return _arm(content.path, plain, table["hmap"]) if isinstance(table, Mapping) and "hmap" in table else plain


def _enaf(path: Path, state: dict[str, Tensor], choices: Choices) -> Translated:
    backbone = _plain(path, _without(state, "estimator", "predictors"), choices)
    name = backbone.design.encoder.name
    sizes = {size: backbone.design.encoder.arguments[size] for size in SIZES[name]}
    heads = {key.replace("predictors.", "network.heads.", 1): v for key, v in state.items() if key[:5] == "predi"}
    if name == "fsrcnn":
        sizes["widths"] = [state[f"predictors.{k}.0.weight"].shape[0] for k in (0, 1)]
    if name == "carn":
        sizes["widths"] = [state[f"predictors.{k}.0.weight"].shape[0] // 4 for k in (0, 1)]
        sizes["mean"] = list(backbone.design.mean)
    arguments = {
        "backbone": name,
        "sizes": sizes,
        "costs": choices.value("costs", list(ENAF_COSTS[name])),
        "bonus": choices.value("bonus", 1.0),
        "blank": choices.value("blank", 10.0),
    }
    tensors = _network(backbone.tensors, "network.backbone.") | heads | _estimator(state, "estimator")
    title = f"ENAF on {backbone.title}"
    return Translated(title, backbone.design, tensors, choices, backbone.dropped, "enaf", arguments)


def _classsr(path: Path, state: dict[str, Tensor], choices: Choices) -> Translated:
    tensors, channels, dropped = _estimator(state, "classifier"), [], []
    networks = count(state, r"net(\d+)\.")
    if not networks:
        raise CheckpointError(f"{path}: a ClassSR classifier without its networks net1, net2, …")
    parts = []
    for k in range(1, networks + 1):
        inside = {key.removeprefix(f"net{k}."): v for key, v in state.items() if key.startswith(f"net{k}.")}
        one = _plain(path, inside, choices)
        parts.append(one)
        channels.append(one.design.encoder.arguments["channels"])
        tensors |= _network(one.tensors, f"network.networks.{k - 1}.")
        dropped += one.dropped
    one = parts[-1]
    name = one.design.encoder.name
    published = list(CLASSSR_COSTS[name])
    costs = choices.value("costs", published if networks == len(published) else [float(c**2) for c in channels])
    arguments = {"backbone": _backbone(one, max(channels)), "channels": channels, "costs": costs}
    known = {"classifier", *(f"net{k}" for k in range(1, networks + 1))}
    if extra := [key for key in state if key.split(".")[0] not in known]:
        raise CheckpointError(f"{path}: looks like ClassSR, but {extra[0]} does not belong to it")
    return Translated(f"ClassSR on {one.title}", one.design, tensors, choices, tuple(dropped), "classsr", arguments)


def _arm(path: Path, plain: Translated, table: Any) -> Translated:
    try:
        centres, expected = (torch.tensor(np.asarray(table[f"hmap_{axis}"], dtype=np.float64)) for axis in AXES)
        costs = [float(value) / 1e6 for value in table["cost_list"]]
    except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{_table_file(path)}: its hmap is not ARM's table ({error})") from None
    channels = plain.design.encoder.arguments["channels"]
    widths = PUBLISHED_WIDTHS.get(channels, tuple(channels * w // 64 for w in PUBLISHED_WIDTHS[64]))
    arguments = {
        "backbone": _backbone(plain, channels),
        "widths": plain.choices.value("widths", list(widths)),
        "bins": centres.shape[1],
        "costs": costs,
    }
    tensors = _network(plain.tensors, "network.network.")
    tensors |= {"router.centres": centres, "router.expected": expected}
    return Translated(f"ARM on {plain.title}", plain.design, tensors, plain.choices, plain.dropped, "arm", arguments)


AXES = ("x_list", "y_mean_list")


def _plain(path: Path, state: dict[str, Tensor], choices: Choices) -> Translated:
    found = translate(path, state, BARE_NETWORKS, choices)
    if found.design.encoder.name not in BACKBONES or found.design.upsampler is None:
        raise CheckpointError(f"{path}: paths through {found.title} are not known: FSRCNN, CARN-M and SRResNet are")
    return found


def _backbone(found: Translated, channels: int) -> dict[str, Any]:
    name, arguments = found.design.encoder.name, found.design.encoder.arguments
    rest = {size: arguments[size] for size in SIZES[name] if size != "channels"}
    return {"name": name, "channels": channels, "mean": list(found.design.mean), **rest}


def _network(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key.replace("upsampler.", "tail.", 1): value for key, value in tensors.items()}


def _estimator(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    found = {key: value for key, value in state.items() if key.startswith(f"{name}.")}
    renamed = {key.replace("CondNet", "cells").replace("lastOut", "last"): value for key, value in found.items()}
    return {f"router.estimator.{key.removeprefix(name + '.')}": value for key, value in renamed.items()}


def _without(state: Mapping[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key.split(".")[0] not in names}


def _table_file(path: Path) -> Path:
    return path.with_suffix(".state")


class OfficialEstimator(PatchEstimator):
    """Looks at every patch by itself, wherever it starts, and pools over a square of its height: of a wider patch, what
    lies beyond does not count."""

    def pool(self, cells: Tensor) -> Tensor:
        return super().pool(cells[..., : cells.shape[-2]])

    def on_image(self, lr: Tensor, rows: Sequence[int], columns: Sequence[int], side: Size) -> Tensor:
        patches = [lr[0, :, y : y + side[0], x : x + side[1]].float() for y in rows for x in columns]
        return self(torch.stack(patches)).T.unflatten(1, (len(rows), len(columns)))
