"""Golden vectors read for one upsampler alone: the encoders are spelled out here from the state dict."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from scalewise.compat.geometry import PublishedGeometry as PublishedGeometry
from scalewise.geometry.grid import Frame, Query
from scalewise.upsamplers.corners import Geometry

State = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One published run. `stable` marks outputs that do not hang on the last bit of a coordinate."""

    name: str
    meta: dict
    tensors: State
    stable: Tensor | None
    atol: float

    def tensor(self, kind: str, name: str) -> Tensor:
        return self.tensors[f"{self.name}.{kind}.{name}"]


def golden(folder: Path) -> tuple[State, dict, list[Case]]:
    """State dict without wrapper, meta, and the cases with an output `out`."""
    meta = json.loads((folder / "meta.json").read_text())
    loaded = torch.load(folder / meta["weights"]["file"], weights_only=True)
    if "model" in loaded:
        state = loaded["model"]["sd"]
    elif "state_dict" in loaded:
        state = {key.removeprefix("generator."): value for key, value in loaded["state_dict"].items()}
    else:
        state = loaded
    tensors = load_file(folder / "cases.safetensors")
    cases = []
    for item in meta["cases"]:
        info = item["output_info"]["out"]
        mask = tensors[info["stable_mask"]].bool() if "stable_mask" in info else None
        cases.append(Case(item["id"], item, tensors, mask, info["suggested_atol"]))
    return state, meta, cases


def part(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def mlp(state: State, prefix: str, ours: str = "mlp") -> State:
    """Published `prefix.layers.{0, 2, 4}` → our `ours.layers.{0, 1, 2}`; 1×1 convolutions become matrices."""
    found = {}
    for key, value in part(state, f"{prefix}layers.").items():
        number, _, name = key.partition(".")
        found[f"{ours}.layers.{int(number) // 2}.{name}"] = value.flatten(1) if value.dim() == 4 else value
    return found


def edsr(state: State, image: Tensor) -> Tensor:
    def conv(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    head = x = conv(image, "head.0")
    blocks = len({key.split(".")[1] for key in state if key.startswith("body.")}) - 1
    for i in range(blocks):
        x = x + conv(conv(x, f"body.{i}.body.0").relu(), f"body.{i}.body.2")
    return conv(x, f"body.{blocks}") + head


def edsr_mmedit(state: State, image: Tensor) -> Tensor:
    names = {"conv_first": "head.0"}
    blocks = len({key.split(".")[1] for key in state if key.startswith("body.")})
    for i in range(blocks):
        names |= {f"body.{i}.conv1": f"body.{i}.body.0", f"body.{i}.conv2": f"body.{i}.body.2"}
    names["conv_after_body"] = f"body.{blocks}"
    renamed = {f"{new}.{kind}": state[f"{old}.{kind}"] for old, new in names.items() for kind in ("weight", "bias")}
    return edsr(renamed, image)


def rdn(state: State, image: Tensor) -> Tensor:
    def conv(x: Tensor, name: str) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    shallow = conv(image, "SFENet1")
    x = conv(shallow, "SFENet2")
    outputs = []
    for i in range(len({key.split(".")[1] for key in state if key.startswith("RDBs.")})):
        dense = x
        for c in range(len({key.split(".")[3] for key in state if key.startswith(f"RDBs.{i}.convs.")})):
            dense = torch.cat((dense, conv(dense, f"RDBs.{i}.convs.{c}.conv.0").relu()), 1)
        x = conv(dense, f"RDBs.{i}.LFF") + x
        outputs.append(x)
    return conv(conv(torch.cat(outputs, 1), "GFF.0"), "GFF.1") + shallow


def rdn_mmedit(state: State, image: Tensor) -> Tensor:
    renamed = {}
    for key, value in state.items():
        key = key.replace("sfe1", "SFENet1").replace("sfe2", "SFENet2").replace("rdbs", "RDBs").replace("gff", "GFF")
        if ".layers." in key and key.startswith("RDBs."):
            _, block, _, layer, _, kind = key.split(".")
            key = f"RDBs.{block}.convs.{layer}.conv.0.{kind}"
        renamed[key.replace(".lff.", ".LFF.")] = value
    return rdn(renamed, image)


def encode(state: State, image: Tensor, prefix: str = "encoder.") -> Tensor:
    own = part(state, prefix)
    return rdn(own, image) if any(key.startswith("SFENet1") for key in own) else edsr(own, image)


def queries(case: Case, cell_name: str = "cell", cell_unit: float = 2.0) -> tuple[Query, Query]:
    """The case's points for the published geometry (float64 keeps its coordinates) and for ours (float32)."""
    coordinates = case.tensor("in", "coord").double()
    coordinates = coordinates.flatten(1, -2)
    cells = case.tensor("in", cell_name)
    cells = (cells if cells.dim() == 2 else cells[:, 0]).double()
    name = "x" if f"{case.name}.in.x" in case.tensors else "inp"
    size = torch.tensor(case.tensor("in", name).shape[-2:], dtype=torch.float64)
    points = (coordinates + 1) * size / 2
    cell = (cells * size / cell_unit).float()
    y, x = points[..., 0], points[..., 1]
    return Query(y, x, cell), Query(y.float(), x.float(), cell)


def largest_difference(
    upsampler: Any, case: Case, features: Tensor, lr: Tensor, query: Query, geometry: Geometry | None = None
) -> Tensor:
    """|ours - published|, in the shape of the published output of points."""
    if geometry is not None:
        upsampler.geometry = geometry
    field = upsampler.prepare(features, lr, Frame((lr.shape[2], lr.shape[3])))
    rgb = upsampler.sample(field, query)
    expected = case.tensor("out", "out")
    if expected.dim() == 4:
        rgb = rgb.transpose(1, 2).reshape(expected.shape)
    return (rgb - expected).abs()


def off_borders(query: Query, like: Tensor) -> Tensor:
    """Points (b, q) that lie on no LR pixel's border, as a mask in the shape of `like` (b, q, 3)."""
    clear = [(position - position.round()).abs() > 1e-3 for position in (query.y, query.x)]
    return (clear[0] & clear[1]).unsqueeze(-1).expand_as(like)
