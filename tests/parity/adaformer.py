"""AdaFormer's golden cases; `run.py` sends them here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scalewise import compat
from scalewise.budget.budget import Effort
from scalewise.budget.route import Route
from scalewise.checkpoints.files import read
from scalewise.geometry.grid import Frame
from scalewise.layers import merge, pad_to_grid, partition

RANGE = 255.0
OURS = {
    "head.0.weight": "encoder.head.weight",
    "body.var.0.weight": "encoder.confidence.0.weight",
    "body.blocks.0.attn.qkv_local.weight": "encoder.blocks.0.local.qkv.weight",
    "body.blocks.0.attn.prototype": "encoder.blocks.0.prototype.prototypes",
}


@torch.inference_mode(False)
def outputs(loaded: compat.Loaded, case: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All outputs of a case under their golden names."""
    model: Any = loaded.model.train(case["mode"] == "train")
    x = inputs["x"].clone().requires_grad_()
    with torch.set_grad_enabled(case["mode"] == "train"):
        picture, route = run(model, x / RANGE)
    logits = [decision.evidence.unsqueeze(1) for decision in route if decision.evidence is not None]
    found: Any = (
        {"out": picture} | {f"confidence{i}": one for i, one in enumerate(logits)} | masks(model, route, logits)
    )
    if case["mode"] == "train":
        objective = 0.1 * picture.mean() + torch.stack([one.sigmoid().mean() for one in logits]).sum()
        objective.backward()
        found |= {"objective": objective.view(1), "grad_x": x.grad}
        for theirs in case["grad_params"]:
            found[f"grad:{theirs}"] = model.get_parameter(OURS[theirs]).grad
        # ours is theirs times the matrix of the mean shift; their prototypes have a batch axis
        shift = read(loaded.description.path).data["sub_mean.weight"].flatten(1)
        found["grad:head.0.weight"] = torch.einsum("ojyx,ij->oiyx", found["grad:head.0.weight"], shift)
        found["grad:body.blocks.0.attn.prototype"].unsqueeze_(0)
    return {name: value.detach() for name, value in found.items()}


def run(model: Any, lr: Tensor) -> tuple[Tensor, Route]:
    """The published order: pad, the whole network, crop the picture; in 0..255."""
    (height, width), scale = lr.shape[-2:], int(model.limits.scales[0])
    normal = pad_to_grid((lr - model.mean) / model.std, model.limits.patch_stride)
    frame, factors = Frame((normal.shape[-2], normal.shape[-1])), torch.full((len(lr), 2), float(scale))
    encoded = model.encoder.encode(normal, frame, factors, Effort(), ())
    picture = model.upsampler.upscale(encoded.features, normal, scale) * model.std + model.mean
    return picture[..., : height * scale, : width * scale] * RANGE, encoded.route


def masks(model: Any, route: Route, logits: list[Tensor]) -> dict[str, Tensor]:
    """What is still active behind every block: what the next one kept, and behind the last what it would have."""
    window, found = (model.limits.patch_stride, model.limits.patch_stride), {}
    kept = {unit: [one.choice.float() for one in route if one.unit == unit] for unit in ("window", "token")}
    score = torch.stack([one.detach().sigmoid() for one in logits]).sum(0)
    threshold = 1 - model.encoder.epsilon
    mean = partition(score.permute(0, 2, 3, 1), window).mean((-1, -2))
    kept["window"].append((mean < threshold).float())
    kept["token"].append((score[:, 0] < threshold).float())
    pixels = window[0] * window[1]
    for i, (windows, tokens) in enumerate(zip(kept["window"][1:], kept["token"][1:], strict=True)):
        spread = merge(windows[..., None, None].expand(-1, -1, -1, pixels, 1), window)
        found[f"local_mask{i}"] = spread.permute(0, 3, 1, 2)
        found[f"global_mask{i}"] = tokens.unsqueeze(1)
    return found
