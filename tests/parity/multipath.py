"""ENAF's, ARM's and ClassSR's golden cases, published weights included; `run.py` sends them here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalewise import compat
from scalewise.evaluate.metrics import eight_bit
from scalewise.evaluate.patchwise import fuse
from scalewise.models.patchwise import PatchwiseModel
from scalewise.multiexit.arm import ARM
from scalewise.multiexit.classsr import average_loss, class_loss
from scalewise.multiexit.enaf import estimator_loss, exit_loss, patch_psnr
from scalewise.multiexit.paths import Backbone
from scalewise.routing.estimator import EdgeRouter, edges_of

Case = Mapping[str, Any]
Outputs = dict[str, Tensor]


def load(folder: Path, meta: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> Any:
    """The network of a case. ARM's golden files are plain networks; their widths are in `meta`, their table, if there
    is one, among the inputs."""
    path = folder.parents[2] / meta["checkpoint"] if "checkpoint" in meta else folder / meta["weights"]["file"]
    loaded = compat.load(path, parity=True)
    if meta.get("family") != "arm":
        return loaded.model
    plain: Any = loaded.model
    encoder = loaded.description.arguments["encoder"]
    sizes = {name: value for name, value in encoder["arguments"].items() if name in ("shrink", "groups", "blocks")}
    mean = tuple(loaded.description.arguments["mean"])
    network = ARM(
        Backbone(encoder["name"], plain.encoder.channels, mean=mean, **sizes),
        tuple(meta["constructor"]["width_list"][1:]),
    )
    network.network.encoder.load_state_dict(plain.encoder.state_dict())
    network.network.tail.load_state_dict(plain.upsampler.state_dict())
    costs = inputs.get("cost_list", torch.arange(4.0))
    bins = inputs["hmap_x"].shape[1] if "hmap_x" in inputs else 1
    router = EdgeRouter(network.paths, bins, costs=tuple(costs.tolist()))
    if "hmap_x" in inputs:
        router.centres.copy_(inputs["hmap_x"])
        router.expected.copy_(inputs["hmap_y_mean"])
    return PatchwiseModel(router, network).eval()


def outputs(model: Any, case: Case, inputs: Mapping[str, Tensor]) -> Outputs:
    """All outputs of a case under their golden names."""
    kind, network, router = case["kind"], model.network, model.router
    if kind == "all_exits":
        pictures = {f"exit{k}": picture for k, picture in enumerate(network.every_exit(inputs["x"]))}
        return pictures | {"estimator": router.estimator(inputs["x"])}
    if kind == "infer":
        return inferred(model, case, inputs)
    if kind == "loss":
        return losses(model, inputs)
    if kind == "subnets":
        return {f"width{width}": network.take(k, inputs["x"]) for k, width in enumerate(network.widths, 1)}
    if kind == "classifier":
        return {"logits": router.estimator(inputs["x"])}
    if kind == "forward":
        return classified(model, case, inputs)
    return pictured(model, case, inputs)


def inferred(model: Any, case: Case, inputs: Mapping[str, Tensor]) -> Outputs:
    """Decisions of patches with given edge scores; the published CARN-M returns the last exit for all but bicubic."""
    x, router = inputs["x"], model.router
    estimate = router.estimator(x)
    found = {"estimator": estimate}
    evidence = -estimate.double().T
    evidence[0] += router.bonus * (inputs["imscore"].flatten() <= router.blank)
    for eta in case["etas"]:
        choice = router.native(evidence.unsqueeze(-1), eta)[:, 0]
        found[f"decision_eta{eta}"] = choice
        if eta in case["out_etas"]:
            if type(model.network).__name__ == "CARNExits":
                choice = choice.clamp(max=1) * (model.network.paths - 1)
            found[f"out_eta{eta}"] = model.network.run(x, choice)
    return found


def losses(model: Any, inputs: Mapping[str, Tensor]) -> Outputs:
    pictures = model.network.every_exit(inputs["x"])
    psnr = patch_psnr(pictures, inputs["target"])
    estimate = model.router.estimator(inputs["x"])
    return {
        "loss_stage0_l1": exit_loss(pictures, inputs["target"]).view(1),
        "loss_stage1_psnr": estimator_loss(estimate, psnr).view(1),
        "psnr": psnr,
    }


def classified(model: Any, case: Case, inputs: Mapping[str, Tensor]) -> Outputs:
    x = inputs["x"]
    logits = model.router.estimator(x)
    probability, choice = logits.softmax(1), logits.argmax(1)
    found = {"prob": probability, "choice": choice}
    if not case["is_train"]:
        return found | {"out": model.network.run(x, choice)}
    return found | {
        "out": model.network.mixed(x, probability),
        "class_loss": class_loss(probability).view(1),
        "average_loss": average_loss(probability).view(1),
    }


def pictured(model: Any, case: Case, inputs: Mapping[str, Tensor]) -> Outputs:
    """Whole pictures in the papers' patches: the remainder dropped, overlaps averaged. ARM: 8 bits, BGR."""
    arm = isinstance(model.router, EdgeRouter)
    image = inputs["img_u8"].flip(-1).permute(2, 0, 1)[None] / 255 if arm else inputs["img"]
    side, step, scale = case["patch_size"], case["step"], model.network.scale
    rows, columns = ([*range(0, n - side + 1, step)] for n in image.shape[-2:])
    area = (rows[-1] + side, columns[-1] + side)
    places = [(y, x) for y in rows for x in columns]
    evidence = model.router.evidence(image, rows, columns, (side, side))
    found = {
        "imscore": edges_of(image, rows, columns, (side, side), truncate=not arm).flatten(),
        "grid": torch.tensor([len(rows), len(columns), *area]),
    }
    for eta in case["etas"]:
        if eta == "best":
            choice = evidence.argmax(0)
        elif arm and eta < 100:
            choice = torch.full(evidence.shape[1:], int(eta))
        else:
            choice = model.router.native(evidence, eta / model.router.costs[-1] if arm else eta)
        runs = model.run(image, places, (side, side), choice.flatten())
        pieces = ((places[k][0] * scale, places[k][1] * scale, eight_bit(sr) if arm else sr) for k, sr in runs)
        picture = fuse(pieces, (area[0] * scale, area[1] * scale))
        found[f"choice_eta{eta}" if arm else f"decision_eta{eta}"] = choice.flatten()
        found[f"image_eta{eta}" if arm else f"fused_eta{eta}"] = (
            (picture * 255).flip(0).permute(1, 2, 0) if arm else picture[None]
        )
    return found
