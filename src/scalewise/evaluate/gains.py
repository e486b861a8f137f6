"""What a network gains over bicubic, cell by cell, on a folder of photos: how a budget weighs its cells."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from scalewise.budget.gains import GainCurve
from scalewise.errors import DataError, ImageError
from scalewise.evaluate.pairs import Picture, find_pairs, load_pair
from scalewise.evaluate.protocols import find_protocol
from scalewise.evaluate.upscalers import bicubic, upscaler_of
from scalewise.execution.plan import RunOptions
from scalewise.geometry.grid import axis_positions
from scalewise.models.model import Model
from scalewise.models.partial import CELL, PartialModel


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
        gains.append(_cell_means(errors[0] - errors[1], lr).flatten())
    if not scores:
        raise DataError(f"no picture of {str(data)!r} could be read")
    return GainCurve.fit(torch.cat(scores), torch.cat(gains))


def _cell_means(values: Tensor, lr: Picture) -> Tensor:
    """(H, W) of output pixels → (gy, gx), the means over the cells that they lie in."""
    for axis in (0, 1):
        length, out = lr.shape[axis + 1], values.shape[axis]
        cell = (axis_positions(0, out, length, out) // CELL).long()
        cells = -(-length // CELL)
        shape = (cells, values.shape[1]) if axis == 0 else (values.shape[0], cells)
        sums = values.new_zeros(shape).index_add_(axis, cell, values)
        values = sums / cell.bincount(minlength=cells).clamp_min(1).view(*((-1, 1) if axis == 0 else (1, -1)))
    return values
