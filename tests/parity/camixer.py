"""CAMixerSR's golden cases, published weights included; `run.py` sends them here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalewise import compat
from scalewise.budget.budget import Effort
from scalewise.contracts import Encoded
from scalewise.encoders.camixer_odi import LatitudeConvolution
from scalewise.geometry.grid import Frame
from scalewise.layers import pad_to_grid
from scalewise.models.super_resolver import SuperResolver

Case = Mapping[str, Any]
Outputs = dict[str, Tensor]


def outputs(loaded: compat.Loaded, meta: Mapping[str, Any], case: Case, inputs: Mapping[str, Tensor]) -> Outputs:
    """All outputs of a case under their golden names."""
    model: Any = loaded.model.train(case.get("mode") == "train")
    if side := meta["constructor"].get("tile"):
        return {"out": averaged_tiles(model, inputs["x"], side)}
    draws = [inputs[name] for name in sorted(inputs) if name.startswith("gumbel")]
    if case.get("mode") == "train":
        return trained(model, meta, case, inputs, draws)
    if draws:
        model.encoder.draws = iter(draws)
    effort = Effort(native={"gamma": float(meta["constructor"]["ratio"])})
    picture, encoded = run(model, inputs["x"], effort, condition=inputs.get("condition"))
    return {"out": picture} | kept(encoded)


def run(model: SuperResolver, rgb: Tensor, effort: Effort, **given: Any) -> tuple[Tensor, Encoded]:
    """The published order: pad, the whole network, crop the picture."""
    height, width = rgb.shape[-2:]
    scale = int(model.limits.scales[0])  # type: ignore[index]
    normal = pad_to_grid((rgb - model.mean) / model.std, model.limits.patch_stride)
    frame = Frame((normal.shape[-2], normal.shape[-1]))
    encoded = model.encoder.run(normal, frame, effort, **given)  # type: ignore[union-attr, attr-defined]
    picture = model.upsampler.upscale(encoded.features, normal, scale)  # type: ignore[union-attr, attr-defined]
    return (picture * model.std + model.mean)[..., : height * scale, : width * scale], encoded


def kept(encoded: Encoded) -> Outputs:
    """The hard windows of every block, highest priority first, and how many they are in an image."""
    found: Outputs = {}
    for layer, decision in enumerate(encoded.route):
        assert decision.evidence is not None
        order = decision.evidence.flatten(1).argsort(dim=1, descending=True, stable=True)
        found[f"kept_windows{layer}"] = order[:, : int(decision.choice[0].sum())]
    found["num_keep"] = torch.tensor([int(decision.choice[0].sum()) for decision in encoded.route])
    return found


def averaged_tiles(model: SuperResolver, rgb: Tensor, side: int) -> Tensor:
    """The published test on large pictures: tiles with side // 16 pixels of overlap, averaged where they overlap."""
    height, width = rgb.shape[-2:]
    scale = int(model.limits.scales[0])  # type: ignore[index]
    side = min(side, height, width)
    step = side - side // 16
    total = torch.zeros(len(rgb), 3, height * scale, width * scale)
    times = torch.zeros_like(total)
    for y in [*range(0, height - side, step), height - side]:
        for x in [*range(0, width - side, step), width - side]:
            box = (..., slice(y * scale, (y + side) * scale), slice(x * scale, (x + side) * scale))
            total[box] += run(model, rgb[..., y : y + side, x : x + side], Effort())[0]
            times[box] += 1
    return total / times


@torch.inference_mode(False)
@torch.enable_grad()
def trained(model: Any, meta: Mapping[str, Any], case: Case, inputs: Mapping[str, Tensor], draws: list[Tensor]) -> Any:
    """Masks from the given noise, the ratio loss, and gradients of 10 · mean(out) + loss."""
    for module in model.modules():  # the golden vectors' deformable kernel was called without its gradient
        if isinstance(module, LatitudeConvolution):
            module.register_forward_hook(lambda module, given, found: found.detach())
    x = inputs["x"].clone().requires_grad_()
    given: dict[str, Any] = {"noise": [one.clone() for one in draws]}
    if "condition" in inputs:
        given["condition"] = inputs["condition"].clone()
    picture, encoded = run(model, x, Effort(), **given)
    masks = [decision.evidence.flatten(1).unsqueeze(-1) for decision in encoded.route]  # type: ignore[union-attr]
    weight = 1.0 if meta["constructor"]["type"] == "CAMixerOSR" else 2 * meta["constructor"]["ratio"]
    loss = weight * (torch.stack([mask.mean() for mask in masks]).mean() - 0.5) ** 2
    objective = 10 * picture.mean() + loss
    objective.backward()
    found = {"out": picture, "ratio_loss": loss.view(1), "objective": objective.view(1), "grad_x": x.grad}
    found |= {f"mask{layer}": mask for layer, mask in enumerate(masks)}
    for theirs in case["grad_params"]:
        parameter = model.get_parameter(OURS[theirs])
        convolution = "out_offsets" in theirs  # 1×1, where ours is linear
        found[f"grad:{theirs}"] = parameter.grad[..., None, None] if convolution else parameter.grad
    return {name: value.detach() for name, value in found.items()}


MIXER = "encoder.groups.0.blocks.0.mixer."
OURS = {
    "head.weight": "encoder.head.weight",
    "body.0.body.0.mixer.route.out_mask.0.weight": MIXER + "predictor.score.0.weight",
    "body.0.body.0.mixer.project_q.weight": MIXER + "query.weight",
    "body.0.body.0.mixer.route.out_offsets.2.weight": MIXER + "predictor.offset.2.weight",
    "tail.0.bias": "upsampler.conv.bias",
}


def noise(a: Tensor, b: Tensor) -> float:
    """Root mean square of a difference: 0.01 is 40 dB."""
    return float((a.double() - b.double()).square().mean().sqrt())


def published_noise(meta: Mapping[str, Any]) -> float:
    """Below γ = 1 the published weights leave windows exactly tied, and pictures agree by PSNR only: 40 dB."""
    return 1e-5 if meta["constructor"]["ratio"] == 1 else 0.01


def weights_of(folder: Path, meta: Mapping[str, Any]) -> Path:
    """A case folder's own weights, or the published file it names."""
    if "weights" in meta:
        return folder / meta["weights"]["file"]
    return folder.parents[2] / meta["checkpoint"]
