"""The papers' figures of their routers: what is spent by scale, by layer and by place, and crops side by side.

- `draw_scales`: β and MACs by scale (TADT, Figures 2, 7 and 8)
- `draw_layers`: what stays in each layer (AdaFormer, Figure 4); `draw_masks`: where, and with what confidence
  (AdaFormer, Figure 6; CAMixerSR, Figure 4)
- `draw_maps`: the work of several models on one picture; `draw_crops`: their pictures, beside bicubic and the original

Quality against cost and a dial against cost are in `curve.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scalewise.budget.budget import Budget, Effort
from scalewise.budget.cost import CostReport
from scalewise.budget.route import Decision, Route, paint
from scalewise.encoders.tadt import TADT
from scalewise.errors import InvalidRequest, MissingDependency, UnsupportedScale
from scalewise.evaluate.metrics import eight_bit, psnr
from scalewise.evaluate.upscalers import Picture, Upscaler
from scalewise.geometry.grid import Box, Frame, output_size
from scalewise.models.model import Model
from scalewise.models.super_resolver import SuperResolver, pad_to_grid
from scalewise.routing.branch import THRESHOLD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCALES = tuple(torch.linspace(1, 4, 25).tolist())
DOTS = 110  # per inch


def new_figure(width: float, height: float) -> Figure:
    """Inches. Raises MissingDependency without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency("figures are drawn by matplotlib: pip install matplotlib", "matplotlib") from None
    return Figure(figsize=(width, height), dpi=DOTS, layout="constrained")


def routes(model: Model, lr: Picture, scale: float, budget: Budget) -> Route:
    """All decisions of one picture, run as a whole."""
    size, lr = (lr.shape[-2], lr.shape[-1]), lr.to(next(model.parameters()).device)  # type: ignore[attr-defined]
    out = output_size(size, scale)
    scales = model.limits.scales
    if scales is not None and scale not in scales:
        raise UnsupportedScale(f"this model is for ×{', ×'.join(f'{known:g}' for known in scales)}, not ×{scale:g}")
    with torch.no_grad():
        plan = model.plan(model.score(lr[None], (scale, scale)), size, out, budget)
        found = plan.route + model.render(lr[None], Frame(size), (0, 0, *size), out, plan).route
    return tuple(replace(one, choice=one.choice.cpu(), evidence=_on_cpu(one.evidence)) for one in found)


def _on_cpu(evidence: Tensor | None) -> Tensor | None:
    return None if evidence is None else evidence.detach().float().cpu()


# --- by scale ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Intensity:
    """At each of `SCALES`: β, and the encoder's MACs over those with all branches, of all pictures together."""

    beta: list[float]
    share: list[float]


@torch.no_grad()
def intensities(model: Model, pictures: Sequence[Picture]) -> Intensity:
    """TADT's, of the same LR pictures at every scale, so that the scale alone changes. Raises InvalidRequest for
    other networks."""
    trunk = model.encoder if isinstance(model, SuperResolver) else None
    if not isinstance(model, SuperResolver) or not isinstance(trunk, TADT):
        raise InvalidRequest("β is TADT's: this model has no controller")
    device = model.mean.device
    lrs = [pad_to_grid((lr[None].to(device) - model.mean) / model.std, model.limits.patch_stride) for lr in pictures]
    share = []
    for scale in SCALES:
        spent = full = 0
        for lr in lrs:
            size = (lr.shape[-2], lr.shape[-1])
            route = trunk.route(lr, torch.full((1, 2), scale, device=device), Effort(native={"beta": 0.0}))
            spent += trunk.macs(size, (scale, scale), route).total
            full += trunk.macs(size, (scale, scale)).total
        share.append(spent / full)
    scales = torch.tensor(SCALES, device=device)[:, None].expand(-1, 2)
    return Intensity(trunk.controller.intensity(scales).tolist(), share)


def draw_scales(found: Mapping[str, Intensity]) -> Figure:
    """β and MACs by scale, one line for each network, and where the price on β begins (Eq. 6)."""
    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2, sharex=True)
    for name, one in found.items():
        left.plot(SCALES, one.beta, label=name)
        right.plot(SCALES, one.share, label=name, drawstyle="steps-mid")
    first, second, power = THRESHOLD
    left.plot(SCALES, [first + second * scale**power for scale in SCALES], ":", color="gray", label="price begins")
    left.set(xlabel="scale", ylabel="β", ylim=(0, 1.02), xlim=(1, 4))
    lowest = min(0.75, *(min(one.share) for one in found.values()))
    right.set(xlabel="scale", ylabel="MACs of the encoder over all branches on", ylim=(lowest - 0.05, 1.02))
    left.legend(loc="lower right", fontsize=8)
    for panel in (left, right):
        panel.grid(alpha=0.3)
    return figure


# --- by layer ---------------------------------------------------------------------------------------------------------


def layers(route: Route) -> dict[str, list[Decision]]:
    """The decisions about windows and tokens, in the order of the layers. Raises InvalidRequest if there are none."""
    found = {unit: [one for one in route if one.unit == unit] for unit in ("window", "token")}
    found = {unit: decisions for unit, decisions in found.items() if decisions}
    if not found:
        raise InvalidRequest("this model does not decide about windows or tokens layer by layer")
    return found


def kept_shares(found: Sequence[Route]) -> dict[str, list[float]]:
    """By unit, the share that stays in each layer, the mean over pictures."""
    each = [layers(route) for route in found]
    return {
        unit: [
            sum(float((one[unit][k].choice > 0).float().mean()) for one in each) / len(each)
            for k in range(len(each[0][unit]))
        ]
        for unit in each[0]
    }


def draw_layers(found: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """What stays in each layer: model → unit → shares."""
    figure = new_figure(6, 3.6)
    panel = figure.subplots()
    for name, units in found.items():
        for unit, shares in units.items():
            panel.plot(range(1, len(shares) + 1), shares, marker="o", label=f"{name}: {unit}s")
    depth = max(len(shares) for units in found.values() for shares in units.values())
    panel.set(xlabel="layer", ylabel="share that stays", ylim=(0, 1.02), xticks=range(1, depth + 1))
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    return figure


def draw_masks(lr: Picture, route: Route) -> Figure:
    """The picture, and below it in black what stays in each layer, of CAMixerSR what gets attention; above the masks
    the confidence that they come from, where the network says one (AdaFormer: light is confident)."""
    units = layers(route)
    confidence = [one.evidence for one in units.get("token", []) if one.evidence is not None]
    rows = {f"{unit}s": [one.choice[0].float() for one in decisions] for unit, decisions in units.items()}
    if confidence:
        rows = {"confidence": [one[0].sigmoid() for one in confidence]} | rows
    columns = max(map(len, rows.values()))
    per_row = min(columns, 10)
    strips = [
        (name, start, maps[start : start + per_row])
        for name, maps in rows.items()
        for start in range(0, len(maps), per_row)
    ]
    height, width = lr.shape[-2:]
    side = 1.5
    figure = new_figure(side * (per_row + 1), side * height / width * (len(strips) + 1) + 0.3)
    panels = figure.subplots(len(strips) + 1, per_row, squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    _show(panels[0][0], lr)
    for line, (name, start, maps) in zip(panels[1:], strips, strict=True):
        for k, (panel, one) in enumerate(zip(line, maps, strict=False)):
            light = one if name == "confidence" else 1 - one
            panel.imshow(light.numpy(), vmin=0, vmax=1, cmap="gray", interpolation="nearest")
            panel.set_title(f"{name} {start + k + 1}" if k == 0 else f"{start + k + 1}", fontsize=7)
    return figure


# --- by place ---------------------------------------------------------------------------------------------------------


def draw_maps(lr: Picture, found: Mapping[str, CostReport]) -> Figure:
    """The picture and, for each model, the work that each unit got of what it could get, as `upscale` reports it: dark
    blue none, yellow all; above it the share of the model's MACs."""
    height, width = lr.shape[-2:]
    figure = new_figure(3 * (len(found) + 1), 3 * height / width + 0.4)
    first, *others = figure.subplots(1, len(found) + 1, squeeze=False)[0]
    _show(first, lr)
    for panel, (name, report) in zip(others, found.items(), strict=True):
        panel.imshow(paint(report.effort_map, report.effort_unit, lr.mean(0)).numpy())
        panel.set_title(f"{name}: {report.share:.0%}", fontsize=8)
    for panel in (first, *others):
        panel.axis("off")
    return figure


def draw_crops(
    lr: Picture, scale: float, box: Box, upscalers: Mapping[str, Upscaler], hr: Picture | None = None
) -> Figure:
    """The picture with the box (of the output: top, left, bottom, right) and what each upscaler makes of it; with the
    original the crop of that too, and the dB of each crop, of RGB at 8 bits."""
    top, left, bottom, right = box
    size = output_size((lr.shape[-2], lr.shape[-1]), scale)
    if not (0 <= top < bottom <= size[0] and 0 <= left < right <= size[1]):
        raise InvalidRequest(f"the crop does not lie in the output of {size[1]}x{size[0]}")
    crops = {name: upscaler(lr, size, scale).sr[:, top:bottom, left:right] for name, upscaler in upscalers.items()}
    original = None if hr is None else hr[:, top:bottom, left:right]
    titles = {
        name: name if original is None else f"{name}\n{psnr(eight_bit(crop), original):.2f} dB"
        for name, crop in crops.items()
    }
    if original is not None:
        crops, titles = crops | {"original": original}, titles | {"original": "original\n "}
    shape = (bottom - top) / (right - left)
    figure = new_figure(2.4 * (len(crops) + 1), 2.4 * max(shape, lr.shape[-2] / lr.shape[-1]) + 0.5)
    first, *others = figure.subplots(1, len(crops) + 1, squeeze=False)[0]
    _show(first, lr)
    low = [n / scale for n in box]
    first.plot(
        [low[1], low[3], low[3], low[1], low[1]], [low[0], low[0], low[2], low[2], low[0]], color="red", linewidth=1
    )
    first.set_title(f"×{scale:g}\n ", fontsize=8)
    for panel, (name, crop) in zip(others, crops.items(), strict=True):
        _show(panel, crop)
        panel.set_title(titles[name], fontsize=8)
    for panel in (first, *others):
        panel.axis("off")
    return figure


def _show(panel: Any, picture: Picture) -> None:
    panel.imshow(picture.detach().clamp(0, 1).permute(1, 2, 0).float().numpy(), interpolation="nearest")


def save(figure: Figure, path: Path) -> None:
    """To a PNG."""
    figure.savefig(path, format="png")
