"""What a network gains over bicubic in a cell of a picture, by the free score of the cell: measured on photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BINS = 24  # of equally many cells
FLAT = 1e-5  # scores up to this are rounding


@dataclass(frozen=True)
class GainCurve:
    """`points` (score, drop in squared error of a pixel), both rising: linear between them, from 0 at score 0, and like
    the square of the score beyond the last."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        """Raises ValueError for points that are no such curve."""
        points = np.array([(0.0, 0.0), *self.points])
        if not self.points or not np.isfinite(points).all() or points[1, 0] <= 0 or (np.diff(points, axis=0) < 0).any():
            raise ValueError("no curve of gains")

    def at(self, score: Tensor) -> Tensor:
        """The gain to expect of cells with such scores, in their shape, float64."""
        scores, gains = (np.array([0.0, *column]) for column in zip(*self.points, strict=True))
        seen = score.detach().double().cpu().numpy()
        found = np.interp(seen, scores, gains) * np.maximum(1.0, seen / scores[-1]) ** 2
        return torch.from_numpy(found)

    @classmethod
    def fit(cls, scores: Tensor, gains: Tensor) -> GainCurve | None:
        """From scores (n,) and gains (n,) of cells: means of bins; neighbours that fall are joined, and losses
        count as no gain. None if all cells are flat."""
        order = scores.argsort()
        parts = zip(scores[order].double().tensor_split(BINS), gains[order].double().tensor_split(BINS), strict=True)
        points: list[tuple[float, float, int]] = []
        for score, gain in parts:
            if not len(score):
                continue
            points.append((float(score.mean()), float(gain.mean()), len(score)))
            while len(points) > 1 and points[-1][1] <= points[-2][1]:
                points[-2:] = [_joined(points[-2:])]
        found = tuple((score, max(0.0, gain)) for score, gain, _ in points if score > FLAT)
        return cls(found) if found else None


def _joined(points: Sequence[tuple[float, float, int]]) -> tuple[float, float, int]:
    count = sum(n for *_, n in points)
    return sum(s * n for s, _, n in points) / count, sum(g * n for _, g, n in points) / count, count
