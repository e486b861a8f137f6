"""What a job will take and give away, before it runs: seconds from the speed of this machine, learned from each job;
the loss from the model's own calibration."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch

from scalewise import images, pipeline, zoo
from scalewise.app.tasks import Facts, JobRequest, box_of, check, pages_made, suffix_of
from scalewise.app.worker import Limits
from scalewise.budget.budget import Budget
from scalewise.budget.quality import Calibration
from scalewise.geometry.grid import Frame, Size

PROBE = 128  # pixels a side of the picture that the machine's speed is first read from
SECONDS_PER_PIXEL = 1.2e-7  # writing and previewing an output pixel
LEARNED = 0.4  # of the way that one job moves the speed of its model


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
    """Seconds a MAC of each model on this machine."""

    def __init__(self) -> None:
        self._known: dict[str, float] = {}
        self._lock = threading.Lock()

    def of(self, model: str) -> float:
        """Read off a small picture at first; of no MACs at all: 0."""
        with self._lock:
            if model not in self._known:
                noise = torch.rand(3, PROBE, PROBE, generator=torch.Generator().manual_seed(0))
                picture = (noise * 255).to(torch.uint8)
                pipeline.upscale(picture, 2.0, model=model)  # the first run gets ready
                report = pipeline.upscale(picture, 2.0, model=model).report
                self._known[model] = report.seconds / report.macs if report.macs else 0.0
            return self._known[model]

    def learn(self, model: str, macs: int, seconds: float) -> None:
        if macs and seconds > 0:
            before = self.of(model)
            with self._lock:
                self._known[model] = before + LEARNED * (seconds / macs - before)


def forecast(facts: Facts, request: JobRequest, limits: Limits, speeds: Speeds) -> Forecast:
    """Raises Refused for what the job would be refused for."""
    out, budget, box = check(facts, request, limits), Budget.parse(request.budget), box_of(request, facts.size)
    loaded, size = zoo.load(request.model), facts.size
    whole = loaded.model.full_macs(Frame(size), size, (0, 0, *size), out)
    area = out[0] * out[1]
    if box is not None:
        part = (box[2] - box[0]) * (box[3] - box[1]) / (size[0] * size[1])
        whole, area = round(whole * part), round(area * part)
    suffix = suffix_of(facts, request)
    pages = pages_made(facts, box, suffix)
    rate, writing = speeds.of(request.model), area * SECONDS_PER_PIXEL
    if budget.kind == "seconds":  # as much as fits, and no more than there is
        share = min(1.0, max(0.0, budget.value / pages - writing) / max(whole * rate, 1e-12))
    else:
        share = min(1.0, budget.allowed(whole) / max(whole, 1))
    seconds = pages * (share * whole * rate + writing)
    loss = loss_of(loaded.card, max(out[0] / size[0], out[1] / size[1]), share)
    return Forecast(out, pages, seconds, loss, suffix[1:])


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


def get_ready(model: str, speeds: Speeds) -> None:
    """Load and run a model once, so that the first visitor need not wait for it."""
    speeds.of(model)
    images.open(torch.zeros(3, 8, 8, dtype=torch.uint8))


__all__ = ["Forecast", "Speeds", "forecast", "get_ready", "loss_of", "words"]
