"""What a network gains over bicubic, cell by cell, on a folder of photos: how a budget weighs its cells."""

from __future__ import annotations

from pathlib import Path

import torch

from scalewise.budget.gains import GainCurve
from scalewise.errors import DataError, ImageError
from scalewise.evaluate.pairs import find_pairs, load_pair
from scalewise.evaluate.protocols import find_protocol
from scalewise.evaluate.upscalers import bicubic, upscaler_of
from scalewise.execution.plan import RunOptions
from scalewise.models.blend import cell_means
from scalewise.models.model import Model
from scalewise.models.partial import PartialModel


def measure_gains(model: Model, data: Path | str, scale: float, protocol: str, options: RunOptions) -> GainCurve | None:
    """The gains of `model`, which has one level of effort; None if all pictures are flat. Pictures that cannot be read
    are left out; raises DataError if none can."""
    upscaler, rules = upscaler_of(model, None, options), find_protocol(protocol)
    scores, gains = [], []
    for pair in find_pairs(data, scale):
        try:
            lr, hr = load_pair(pair, scale, rules)
        except ImageError:
            continue
        out = hr.shape[-2], hr.shape[-1]
        with torch.inference_mode():
            errors = [(one(lr, out, scale).sr.clamp(0, 1) - hr).square().mean(0) for one in (bicubic, upscaler)]
            scores.append(PartialModel(model).score(lr[None], (scale, scale)).flatten())
        size = lr.shape[-2], lr.shape[-1]
        gains.append(cell_means((errors[0] - errors[1])[None], (0, 0, *size), size, out).flatten())
    if not scores:
        raise DataError(f"no picture of {str(data)!r} could be read")
    return GainCurve.fit(torch.cat(scores), torch.cat(gains))
