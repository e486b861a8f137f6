"""`make parity`: our networks, loaded through the public loader, against what the published code computed.

    python tests/parity/run.py [FOLDER]      a case folder, or a folder of case folders

Prints one line per case: network, case, largest difference, tolerance, ok or FAIL (of several outputs, the one that is
closest to its tolerance). Ends with exit code 1 if a case fails.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script, `parity` is not a package yet

from parity import adaformer, camixer, meta_sr, multipath

from scalewise import compat
from scalewise.budget.budget import Effort
from scalewise.errors import ScalewiseError
from scalewise.geometry.grid import Frame, Query, rectangle
from scalewise.layers import pad_to_grid
from scalewise.models.super_resolver import SuperResolver

Case = Mapping[str, Any]
Outputs = dict[str, Tensor]


@dataclass(frozen=True)
class Line:
    network: str
    case: str
    difference: float
    tolerance: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.difference <= self.tolerance

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "FAIL"
        numbers = f"{self.difference:>10.3g} {self.tolerance:>10.3g}"
        return f"{self.network:<24} {self.case:<22} {numbers}  {verdict}{self.note}"


def case_folders(folder: Path) -> list[Path]:
    """Folders with a network's weights: `folder` itself, or those in it."""
    candidates = [folder] if (folder / "meta.json").is_file() else sorted(folder.iterdir())
    if (folder / "published").is_dir():
        candidates += sorted((folder / "published").iterdir())
    found = [one for one in candidates if (one / "meta.json").is_file()]
    return [one for one in found if {"weights", "checkpoint"} & _meta(one).keys()]


def run(folder: Path) -> Iterator[Line]:
    """The lines of one case folder."""
    meta = _meta(folder)
    if folder.name.startswith("camixer"):
        yield from camixer_lines(folder, meta)
        return
    if folder.name.startswith(("enaf", "arm", "classsr")):
        yield from multipath_lines(folder, meta)
        return
    tensors = load_file(folder / "cases.safetensors")
    loaded = compat.load(folder / meta["weights"]["file"], parity=True, **overrides(meta))
    for case in meta["cases"]:
        inputs = {name: tensors[key] for name, key in case["inputs"].items()}
        try:
            with torch.inference_mode():
                outputs = compute(loaded, meta, case, inputs)
            yield compare(folder.name, case, outputs, tensors)
        except (ScalewiseError, NotImplementedError) as error:
            yield Line(folder.name, case["id"], float("nan"), 0.0, f" ({error})")


def camixer_lines(folder: Path, meta: Mapping[str, Any]) -> Iterator[Line]:
    """CAMixerSR, with golden or published weights."""
    tensors = load_file(folder / "cases.safetensors")
    for case in meta["cases"]:
        loaded = compat.load(camixer.weights_of(folder, meta), parity=True)
        inputs = {name: tensors[key] for name, key in case["inputs"].items()}
        with torch.inference_mode():
            outputs = camixer.outputs(loaded, meta, case, inputs)
        if "checkpoint" in meta:
            noise = camixer.noise(outputs["out"], tensors[case["outputs"]["out"]])
            yield Line(folder.name, case["id"], noise, camixer.published_noise(meta), " (root mean square)")
        else:
            yield compare(folder.name, case, outputs, tensors)


def multipath_lines(folder: Path, meta: Mapping[str, Any]) -> Iterator[Line]:
    """ENAF, ARM and ClassSR, with golden or published weights."""
    tensors = load_file(folder / "cases.safetensors")
    for case in meta["cases"]:
        inputs = {name: tensors[key] for name, key in case["inputs"].items()}
        model = multipath.load(folder, meta, inputs)
        with torch.inference_mode():
            yield compare(folder.name, case, multipath.outputs(model, case, inputs), tensors)


def overrides(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What the constructor says and the weight file leaves open."""
    constructor = meta["constructor"]
    kind = constructor.get("type", "")
    if "threshold_eps" in constructor:
        return {"epsilon": constructor["threshold_eps"]}
    if "window_sizes" in constructor:
        return {"windows": constructor["window_sizes"]}
    if "img_size" in constructor:
        return {"value_range": constructor["img_range"]}
    if "img_range" in constructor:
        known = {"value_range": constructor["img_range"], "mean": constructor["rgb_mean"]}
        return known | {"res_scale": constructor["res_scale"]}
    if kind == "NLSN":
        names = {"chunk": "chunk_size", "hashes": "n_hashes", "res_scale": "res_scale"}
        return {ours: constructor[theirs] for ours, theirs in names.items()}
    if kind in ("EDSR", "metaedsr"):
        return {"res_scale": constructor["res_scale"]}
    if kind.startswith("LocalImplicitSR"):
        return {name: constructor[name] for name in ("feat_unfold", "local_size") if name in constructor}
    return {}


def compute(loaded: compat.Loaded, meta: Mapping[str, Any], case: Case, inputs: Mapping[str, Tensor]) -> Outputs:
    """All outputs of a case, by the kind of its family."""
    model = loaded.model.train(case.get("mode") == "train")
    if not isinstance(model, SuperResolver):
        return {"out": encode(model, inputs["inp"])}
    kind = case.get("kind", "")
    if meta["family"] == "adaformer":
        return adaformer.outputs(loaded, case, inputs)
    if meta["family"] == "ciaosr":
        return ciaosr(model, case, inputs)
    if kind == "encoder":  # the picture in the network's own range
        return {"out": whole(model, inputs["inp"] * model.std + model.mean, normalised=True)}
    if kind == "demo":
        image = inputs["img"]
        return {"out": model_rectangle(model, image, case["target"]).clamp(0, 1)[0]}
    if kind == "eval_window":
        return flipped_evaluation(model, case, inputs["inp"])
    if "inp" in inputs:
        return queried(model, case, inputs)
    if meta["constructor"].get("type", "").startswith("meta"):
        return meta_sr.meta_sr(model, inputs["x"], case["scale"])
    return fixed_scale(model, meta, case, inputs)


def fixed_scale(model: SuperResolver, meta: Mapping[str, Any], case: Case, inputs: Mapping[str, Tensor]) -> Outputs:
    """Networks with their own tail, on pictures in [0, 1] or [0, 255]."""
    constructor = meta["constructor"]
    top = float(constructor.get("rgb_range", 1))
    x = inputs["x"] / top
    if case.get("kind") == "eval_pad":
        side = max(model.limits.patch_stride, case.get("window_size", 0))
        height, width = x.shape[-2:]
        always = "window_size" in case  # SwinIR's script adds a window even where none is needed; CAT's does not
        out = whole(model, flip_pad(x, side, always=always))
        scale = case["scale"]
        return {"out": out[..., : height * scale, : width * scale] * top}
    rotations = [inputs[name] for name in sorted(inputs) if name.startswith("rotation")]
    normal = pad_to_grid((x - model.mean) / model.std, model.limits.patch_stride)
    feat = model.encoder(normal, rotations) if rotations else model.encoder(normal)  # type: ignore[operator]
    if not rotations:
        return {"out": whole(model, x) * top, "feat": feat}
    scale = model.limits.scales[0]  # type: ignore[index]
    tail = model.upsampler.upscale(feat, normal, scale)  # type: ignore[union-attr, attr-defined]
    return {"out": (tail * model.std + model.mean) * top, "feat": feat}


def queried(model: SuperResolver, case: Case, inputs: Mapping[str, Tensor]) -> Outputs:
    """LIIF and its followers: normalised input, coordinates in [-1, 1] → normalised RGB at the points."""
    lr = inputs["inp"] * model.std + model.mean
    multiplier = float(case.get("cell_multiplier") or 1.0)
    query = as_query(inputs["coord"], case, multiplier)
    scale = torch.tensor([case["scale"]] * len(lr))
    rgb = model(lr, query, scale).rgb
    rgb = (rgb - model.mean) / model.std if query.rectangle else (rgb - model.mean.view(3)) / model.std.view(3)
    outputs = {"feat": encode(model.encoder, inputs["inp"])}
    if inputs["coord"].dim() == 4:  # LTE+ gives a picture
        if not query.rectangle:
            rgb = rgb.transpose(1, 2).unflatten(2, inputs["coord"].shape[1:3])
        return outputs | {"out": rgb}
    return outputs | {"out": rgb.flatten(2).transpose(1, 2) if query.rectangle else rgb}


def ciaosr(model: SuperResolver, case: Case, inputs: Mapping[str, Tensor]) -> Outputs:
    """mmediting: inputs with the mean subtracted; `restorer` cases take and give pictures in [0, 1]."""
    if case["kind"] == "nonlocal":
        return {"out": model.upsampler.attention(inputs["x"])}  # type: ignore[union-attr, operator]
    if case["kind"] == "restorer":
        lr = inputs["lq"]
        tiling = case["test_cfg"]
        if "tile" in tiling:
            return {"out": averaged_tiles(model, lr, tiling["tile"], tiling["tile_overlap"], tiling["scale"])}
        return {"out": model_rectangle(model, lr, case["target"]).clamp(0, 1)}
    renamed = {"inp": inputs["x"], "coord": inputs["coord"], "cell": inputs["cell"]}
    outputs = queried(model, case, renamed)
    height, width = inputs["x"].shape[-2:]
    return outputs | {"feat": outputs["feat"][..., :height, :width]}  # its SwinIR crops the padding, unlike LTE's


def averaged_tiles(model: SuperResolver, lr: Tensor, tile: int, overlap: int, scale: int) -> Tensor:
    """CiaoSR's test: overlapping tiles, each a picture of its own, averaged where they overlap."""
    height, width = lr.shape[-2:]
    total = torch.zeros(len(lr), 3, height * scale, width * scale)
    weight = torch.zeros_like(total)
    side = min(tile, height, width)
    step = side - overlap
    for y in [*range(0, height - side, step), height - side]:
        for x in [*range(0, width - side, step), width - side]:
            part = lr[..., y : y + side, x : x + side]
            box = (..., slice(y * scale, (y + side) * scale), slice(x * scale, (x + side) * scale))
            total[box] += model_rectangle(model, part, (side * scale, side * scale))
            weight[box] += 1
    return (total / weight).clamp(0, 1)


def flipped_evaluation(model: SuperResolver, case: Case, normal: Tensor) -> Outputs:
    """LTE's test with windows: a flipped border to the next window, always, and the cell of ×4 beyond it."""
    scale = case["scale"]
    height, width = normal.shape[-2:]
    padded = flip_pad(normal, case["window_size"], always=True)
    target = (padded.shape[-2] * scale, padded.shape[-1] * scale)
    multiplier = max(scale / case["scale_max"], 1.0)
    query = grid_query([published_centres(n) for n in target], (padded.shape[-2], padded.shape[-1]), target, multiplier)
    lr = padded * model.std + model.mean
    rgb = model(lr, query, torch.full((len(lr), 2), float(scale))).rgb
    rgb = (rgb - model.mean) / model.std
    return {"padded_inp": padded, "out": rgb[..., : height * scale, : width * scale]}


def flip_pad(x: Tensor, side: int, *, always: bool) -> Tensor:
    """Right and bottom filled with the picture mirrored, edge included; `always`: at least one pixel more."""
    for axis in (-2, -1):
        length = x.shape[axis]
        target = (length // side + 1) * side if always else -(-length // side) * side
        x = torch.cat((x, x.flip(axis)), axis).narrow(axis, 0, target)
    return x


def encode(encoder: Any, normal: Tensor) -> Tensor:
    """Features on the padded size, as the published encoders give them."""
    return encoder(pad_to_grid(normal, encoder.grid))


def whole(model: SuperResolver, lr: Tensor, *, normalised: bool = False) -> Tensor:
    """The picture at the network's own scale."""
    scale = int(model.limits.scales[0])  # type: ignore[index]
    out = model_rectangle(model, lr, (lr.shape[-2] * scale, lr.shape[-1] * scale))
    return (out - model.mean) / model.std if normalised else out


def model_rectangle(model: SuperResolver, lr: Tensor, target: tuple[int, int] | list[int]) -> Tensor:
    """The picture at any size, asked for at the coordinates that the published code uses."""
    size = (lr.shape[-2], lr.shape[-1])
    if model.limits.scales is not None:
        query = rectangle(Frame(size), (target[0], target[1]))
    else:
        query = grid_query([published_centres(n) for n in target], size, (target[0], target[1]), 1.0)
    scale = torch.tensor([[target[0] / size[0], target[1] / size[1]]] * len(lr))
    return model(lr, query, scale, Effort()).rgb


def published_centres(n: int) -> Tensor:
    """Coordinates of n pixel centres in [-1, 1] with the rounding of the published code (float32)."""
    return (-1 + 1 / n) + (2 / n) * torch.arange(n).float()


def grid_query(coordinates: list[Tensor], size: tuple[int, int], target: tuple[int, int], multiplier: float) -> Query:
    """Rows and columns in [-1, 1] → a rectangle. float64 keeps the last bit of the published coordinates."""
    y, x = ((c.double() + 1) * n / 2 for c, n in zip(coordinates, size, strict=True))
    cell = torch.tensor([[size[0] / target[0], size[1] / target[1]]]) * multiplier
    return Query(y.view(1, -1, 1), x.view(1, 1, -1), cell)


def as_query(coord: Tensor, case: Case, multiplier: float) -> Query:
    """Published coordinates → our query: a rectangle if they are the whole grid, else points."""
    size, target = case["size"][1:], case["target"]
    points = coord.flatten(1, -2)  # (b, q, 2)
    if points.shape[1] == target[0] * target[1]:
        grid = points[0].view(*target, 2)
        return grid_query([grid[:, 0, 0], grid[0, :, 1]], size, target, multiplier)
    y, x = ((points[..., axis].double() + 1) * size[axis] / 2 for axis in (0, 1))
    cell = torch.tensor([[size[0] / target[0], size[1] / target[1]]] * len(coord)) * multiplier
    return Query(y, x, cell)


def compare(network: str, case: Case, outputs: Outputs, tensors: Mapping[str, Tensor]) -> Line:
    """The output that is closest to its tolerance, or beyond it."""
    worst: Line | None = None
    for name, key in case["outputs"].items():
        info = case["output_info"][name]
        if name not in outputs:
            return Line(network, case["id"], float("nan"), 0.0, f" (no output {name})")
        expected, got = tensors[key].double(), outputs[name].double()
        if expected.shape != got.shape:
            return Line(network, case["id"], float("nan"), 0.0, f" ({name}: {tuple(got.shape)})")
        difference = (expected - got).abs()
        if mask := info.get("stable_mask"):
            difference = difference[tensors[mask].bool()]
        tolerance = float(info.get("suggested_atol", 3e-5 * info["abs_max"]) or 0.0)
        largest = float(difference.nan_to_num(float("inf")).max())
        line = Line(network, case["id"], largest, tolerance, "" if name == "out" else f" ({name})")
        if worst is None or _excess(line) > _excess(worst):
            worst = line
    assert worst is not None
    return worst


def _excess(line: Line) -> float:
    return line.difference / line.tolerance if line.tolerance else float(line.difference > 0)


def _meta(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "meta.json").read_text())


def main(folder: Path, show: Callable[[str], None] = print) -> int:
    """The exit code."""
    folders = case_folders(folder)
    if not folders:
        show(f"{folder}: no case folders (with meta.json and weights)")
        return 1
    failed = cases = 0
    for one in folders:
        try:
            lines = list(run(one))
        except ScalewiseError as error:
            lines = [Line(one.name, "load", float("nan"), 0.0, f" ({error})")]
        for line in lines:
            show(str(line))
            cases += 1
            failed += not line.ok
    show(f"{cases} cases, {failed} failed")
    return 1 if failed or not cases else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    default = Path(__file__).resolve().parents[3] / "shared" / "golden"
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else default))
