"""What is measured: an upscaler, any function of an LR picture, a size and a scale; here made of models."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scalewise import images
from scalewise.budget.budget import Budget
from scalewise.errors import ProtocolMismatch
from scalewise.evaluate.metrics import eight_bit
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run
from scalewise.geometry.grid import Frame, Size, rectangle
from scalewise.geometry.resize import imresize
from scalewise.machine.device import pick_device
from scalewise.models.model import Model
from scalewise.models.patchwise import PatchwiseModel
from scalewise.models.super_resolver import SuperResolver

Picture = Tensor  # float (3, h, w)


@dataclass(frozen=True)
class Prediction:
    """One enlarged picture: `sr` (3, H, W), neither clamped nor rounded, and what it cost.

    `paths`: how many patches took each path, where a network that routes patches ran under a protocol of patches."""

    sr: Picture
    macs: int = 0
    macs_full: int = 0
    seconds: float = 0.0
    paths: tuple[int, ...] = ()


# (lr (3, h, w) in [0, 1], output size (H, W), the scale that the network is shown) → Prediction. That scale is
# H / h, but for protocols with `cell_clip`; geometry always follows the size.
Upscaler = Callable[[Picture, Size, float], Prediction]


def bicubic(lr: Picture, size: Size, scale: float) -> Prediction:
    """MATLAB's bicubic: the floor of every table. Its taps are sampling, so its MACs are 0."""
    start = time.perf_counter()
    return Prediction(imresize(lr, size), seconds=time.perf_counter() - start)


class _Pixels:
    """Keeps what the model gave, neither clamped nor rounded: a protocol decides about both."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.sr = torch.empty(3, *size)

    def __enter__(self) -> _Pixels:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def write(self, y0: int, x0: int, rgb: Tensor, alpha: Tensor | None = None) -> None:
        self.sr[:, y0 : y0 + rgb.shape[-2], x0 : x0 + rgb.shape[-1]] = rgb

    def finish(self) -> Picture:
        return self.sr


@dataclass(frozen=True)
class ModelUpscaler:
    """A model as it runs in `execution.enlarge`, within a budget per picture (per tile where a protocol has tiles).

    Published numbers are of networks that see zeros beyond a picture, so here pictures are never mirrored.
    """

    model: Model
    budget: Budget
    options: RunOptions

    def __call__(self, lr: Picture, size: Size, scale: float) -> Prediction:
        if any(target - n * scale > 1.5 for n, target in zip(lr.shape[-2:], size, strict=True)):
            return _run_told(self.model, lr, size, scale, self.options)
        options = dataclasses.replace(self.options, mirror=False)
        run_plan = plan_run(images.open(lr), size, self.model, self.budget, options)
        sr, report = enlarge(run_plan, _Pixels(size))
        return Prediction(sr, report.macs, report.macs_full, report.seconds)


@dataclass(frozen=True)
class PatchUpscaler(ModelUpscaler):
    """A model that routes patches: under a protocol of such patches its budget holds per picture too."""

    model: PatchwiseModel


def upscaler_of(model: Model, budget: Budget | None = None, options: RunOptions | None = None) -> ModelUpscaler:
    """A model to measure; the whole of it by default."""
    budget, options = budget or Budget.full(), options or RunOptions()
    if isinstance(model, PatchwiseModel):
        return PatchUpscaler(model.as_published(), budget, options)
    return ModelUpscaler(model, budget, options)


def _run_told(model: Model, lr: Picture, size: Size, scale: float, options: RunOptions) -> Prediction:
    """The whole picture at once, with cells as large as `scale` would make them, whatever the size."""
    if not isinstance(model, SuperResolver) or model.limits.scales is not None:
        raise ProtocolMismatch(f"cell_clip tells the network x{scale:g}; only any-scale upsamplers listen to that")
    device = pick_device(options.device)
    low = (lr.shape[-2], lr.shape[-1])
    start = time.perf_counter()
    cell = torch.full((1, 2), 1 / scale, device=device)
    query = dataclasses.replace(rectangle(Frame(low), size, device=device), cell=cell)
    sr = model(lr[None].to(device), query, 1 / cell).rgb[0].cpu()
    macs = model.macs(low, size).total
    return Prediction(sr, macs, macs, time.perf_counter() - start)


def self_ensemble(upscaler: Upscaler) -> Upscaler:
    """The mean over the 8 flips and turns of the input ("+" in the papers); costs add up."""

    def ensemble(lr: Picture, size: Size, scale: float) -> Prediction:
        parts = []
        for turns in range(4):
            for mirrored in (False, True):
                turned = torch.rot90(lr.flip(-1) if mirrored else lr, turns, (-2, -1))
                part = upscaler(turned.contiguous(), size if turns % 2 == 0 else (size[1], size[0]), scale)
                sr = torch.rot90(part.sr, -turns, (-2, -1))
                parts.append(dataclasses.replace(part, sr=sr.flip(-1) if mirrored else sr))
        return joined_costs(torch.stack([part.sr for part in parts]).mean(0), parts)

    return ensemble


def wrapped(upscaler: Upscaler, pixels: int = 16) -> Upscaler:
    """For 360° pictures, without a seam. A model that can is run as for `--projection erp`, poles included; any other
    upscaler sees `pixels` LR columns of the other side."""
    if isinstance(upscaler, ModelUpscaler) and upscaler.model.limits.wraps:
        return dataclasses.replace(upscaler, options=dataclasses.replace(upscaler.options, projection="erp"))

    def wrap(lr: Picture, size: Size, scale: float) -> Prediction:
        w = lr.shape[-1]
        unit = w // math.gcd(w, size[1])  # the output columns of so many LR columns are whole
        margin = min(-(-pixels // unit) * unit, w)
        more = margin * size[1] // w
        ring = torch.cat([lr[..., w - margin :], lr, lr[..., :margin]], -1)
        part = upscaler(ring, (size[0], size[1] + 2 * more), scale)
        return dataclasses.replace(part, sr=part.sr[..., more : more + size[1]])

    return wrap


def in_steps(upscaler: Upscaler, through: Sequence[float]) -> Upscaler:
    """Enlarged to each of these rising factors of the input and then to the whole scale, rounded to 8 bits between."""

    def enlarge_again(lr: Picture, size: Size, scale: float) -> Prediction:
        if any(target - n * scale > 1.5 for n, target in zip(lr.shape[-2:], size, strict=True)):
            raise ProtocolMismatch("with cell_clip there are no steps: the network is not told how far it enlarges")
        if list(through) != sorted({1.0, *through, scale})[1:-1]:
            steps = ", ".join(f"×{factor:g}" for factor in through)
            raise ProtocolMismatch(f"steps to {steps} do not lead to ×{scale:g}: give rising factors between 1 and it")
        parts, before = [], 1.0
        for factor in (*through, scale):
            seen = eight_bit(parts[-1].sr) if parts else lr
            target = size if factor == scale else (round(lr.shape[-2] * factor), round(lr.shape[-1] * factor))
            parts.append(upscaler(seen, target, factor / before))
            before = factor
        return joined_costs(parts[-1].sr, parts)

    return enlarge_again


def joined_costs(sr: Picture, parts: Sequence[Prediction]) -> Prediction:
    """The picture that several runs gave, at their total cost."""
    return Prediction(
        sr,
        sum(part.macs for part in parts),
        sum(part.macs_full for part in parts),
        sum(part.seconds for part in parts),
        tuple(map(sum, zip(*(part.paths for part in parts), strict=True))),
    )
