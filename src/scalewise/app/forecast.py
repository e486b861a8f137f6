"""What a job will take and give away, before it runs: seconds from the engine's probe, corrected by each job; the loss
from the model's own calibration."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import torch

from scalewise import images
from scalewise.app.tasks import Facts, JobRequest, box_of, check, out_size, pages_made, suffix_of
from scalewise.app.worker import Limits
from scalewise.budget.budget import Budget
from scalewise.budget.quality import Calibration
from scalewise.budget.speed import Speed
from scalewise.execution.probe import model_at, probe, probe_size
from scalewise.geometry.grid import Frame, Size
from scalewise.machine.device import pick_device, pick_dtype, torch_defaults

PROBE_SIDE = 128  # LR pixels of the picture that is probed, at ×2
LESS = Budget.fraction(0.5)  # the probe then tells the seconds of pixels from those of MACs
SECONDS_PER_PIXEL = 1.2e-7  # writing and previewing an output pixel
LEARNED = 0.4  # of the way that one job moves the ratio of its model ...
MAX_RATIO = 20.0  # ... which stays within this, whatever a busy machine does


@dataclass(frozen=True)
class Forecast:
    """`size` (H, W) of a page; `loss` in dB below full effort, None where that was never measured; `words` says it."""

    size: Size
    pages: int
    seconds: float
    loss: float | None
    format: str

    def as_dict(self) -> dict[str, Any]:
        named = {"width": self.size[1], "height": self.size[0], "pages": self.pages, "seconds": round(self.seconds, 2)}
        loss = None if self.loss is None else round(self.loss, 3)
        return {**named, "loss_db": loss, "loss": words(self.loss), "format": self.format}


class Speeds:
    """How quick each model is on this machine: the engine's own probe, and how much longer or shorter jobs took."""

    def __init__(self, device: str | None = None) -> None:
        self._device = device
        self._ratios: dict[str, float] = {}
        self._lock = threading.Lock()

    def of(self, request: JobRequest) -> Speed:
        """Of the probe of a small picture, which is made once for each model."""
        device = pick_device(self._device)
        with self._lock, torch_defaults(device):  # two at once would measure each other
            loaded = request.model_on(self._device).model
            small = probe_size(loaded, (PROBE_SIDE, PROBE_SIDE), (2 * PROBE_SIDE, 2 * PROBE_SIDE), math.inf)
            return probe(loaded, *small, LESS, device, pick_dtype("auto", device)).speed

    def ratio(self, request: JobRequest) -> float:
        """What jobs of a model took, over what was expected of them."""
        return self._ratios.get(request.model, 1.0)

    def learn(self, request: JobRequest, expected: float, seconds: float) -> None:
        """A job took so many seconds."""
        if expected > 0:
            with self._lock:
                ratio = self.ratio(request) * (1 + LEARNED * (seconds / expected - 1))
                self._ratios[request.model] = min(max(ratio, 1 / MAX_RATIO), MAX_RATIO)


def forecast(facts: Facts, request: JobRequest, limits: Limits, speeds: Speeds) -> Forecast:
    """Raises Refused for what the job would be refused for."""
    out, budget, box = check(facts, request, limits), Budget.parse(request.budget), box_of(request, facts.size)
    loaded, suffix = request.model_on(limits.device), suffix_of(facts, request)
    pages = pages_made(facts, box, suffix)
    speed, ratio = speeds.of(request), speeds.ratio(request)

    def page(size: Size) -> tuple[float, float]:
        """Seconds of a page, and the share of its work that is done in them."""
        made, read = out_size(size, request), size[0] * size[1]
        whole = model_at(loaded.model, size, made).full_macs(Frame(size), size, (0, 0, *size), made)
        area = made[0] * made[1]
        if box is not None:
            part = (box[2] - box[0]) * (box[3] - box[1]) / read
            whole, area, read = round(whole * part), round(area * part), round(read * part)
        writing = area * SECONDS_PER_PIXEL
        if budget.kind == "seconds":  # as much as fits, and no more than there is
            work = speed.macs(max(0.0, budget.value / len(pages) / ratio - writing), read)
        else:
            work = budget.allowed(whole)
        share = min(1.0, work / max(whole, 1))
        return ratio * (speed.seconds(read, share * whole) + writing), share

    told = {size: page(size) for size in {facts.size, *pages}}
    seconds = sum(told[size][0] for size in pages)
    loss = loss_of(loaded.card, max(out[0] / facts.size[0], out[1] / facts.size[1]), told[facts.size][1])
    return Forecast(out, len(pages), seconds, loss, suffix[1:])


def loss_of(card: Any, scale: float, share: float) -> float | None:
    """dB below full effort at a share of the work, from the calibration of the nearest scale."""
    curves = [Calibration.from_dict(curve) for curve in card.get("calibration", ())]
    if not curves:
        return None
    return max(0.0, min(curves, key=lambda curve: abs(curve.scale - scale)).loss_at(share))


def words(loss: float | None) -> str:
    """A loss in dB, for people."""
    if loss is None:
        return "loss not measured"
    if loss < 0.005:
        return "full quality"
    if loss < 0.1:
        return "no difference to see"
    if loss < 0.3:
        return "hardly a difference to see"
    return "a little softer" if loss < 0.8 else "softer"


def get_ready(speeds: Speeds) -> None:
    """Load and run the usual model once, so that the first visitor need not wait for it."""
    speeds.of(JobRequest())
    images.open(torch.zeros(3, 8, 8, dtype=torch.uint8))


__all__ = ["Forecast", "Speeds", "forecast", "get_ready", "loss_of", "words"]
