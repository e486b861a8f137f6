"""Flat, ramp, checkerboard and noise pictures at fractional scales: tiles and patches leave no trace that shows."""

from __future__ import annotations

import numpy as np
import pytest
from textures import TEXTURES, texture

from scalewise.geometry.grid import first_output
from scalewise.pipeline import upscale

SCALES = (1.1, 1.25, 1.37, 1.5, 1.73, 2.2, 2.5, 2.71, 3.14, 3.3, 3.7, 4.6)
HEIGHT, WIDTH, SIDE, PATCH = 160, 192, 64, 32
RAMP_SLOPE = 0.0022
ALIKE = 12  # lines that each one at a border is compared with
A_HUNDREDTH_OF_A_LEVEL = 0.01  # of 255; a flat picture has nothing to compare with
A_TWENTIETH_OF_A_LEVEL = 0.05  # between patches that leave at different exits (docs/limits.md)


def bends(result: np.ndarray, axis: int, n: int) -> tuple[float, float]:
    """Mean absolute second difference over the borders of patches and tiles, and over other lines that are alike.

    At a border are the last output pixels of one patch and the first of the next. What a line bends depends on its
    place within an LR pixel, so each is compared with those inside whose places are nearest to its own.
    """
    out = result.shape[axis]
    bend = np.abs(np.diff(result, 2, axis)).mean(tuple(k for k in (0, 1, 2) if k != axis))
    middle = np.arange(1, out - 1)  # the middle one of the three pixels
    phase = (middle + 0.5) * n / out % 1
    starts = [first_output(start, n, out) for start in range(0, n, PATCH)]
    at_border = np.isin(middle, [line for start in starts for line in (start - 1, start)])
    inside = (middle > out * 16 // n) & (middle < out - out * 16 // n)  # away from the picture's own border
    others = np.flatnonzero(inside & ~at_border)
    border, elsewhere = [], []
    for line in np.flatnonzero(inside & at_border):
        apart = np.abs(phase[others] - phase[line])
        near = others[np.argsort(np.minimum(apart, 1 - apart), kind="stable")[:ALIKE]]
        border.append(bend[line])
        elsewhere.append(bend[near].mean())
    return float(np.mean(border)), float(np.mean(elsewhere))


def check(kind: str, scale: float, budget: float) -> None:
    result = upscale(texture(kind, HEIGHT, WIDTH, RAMP_SLOPE), scale, budget=budget, tile=SIDE, dtype="fp32").image
    result = result.astype(np.float64) * 255
    found = [bends(result, axis, n) for axis, n in ((0, HEIGHT), (1, WIDTH))]
    border, elsewhere = np.mean(found, axis=0)
    slack = A_HUNDREDTH_OF_A_LEVEL if budget == 1 else A_TWENTIETH_OF_A_LEVEL
    assert border <= 1.05 * elsewhere + slack, (kind, scale, border, elsewhere)


@pytest.mark.parametrize("scale", [2.71])
@pytest.mark.parametrize("kind", TEXTURES)
def test_borders_do_not_show(kind: str, scale: float) -> None:
    check(kind, scale, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", TEXTURES)
@pytest.mark.parametrize("budget", [1.0, 0.5])
def test_borders_do_not_show_at_any_scale(
    request: pytest.FixtureRequest, kind: str, scale: float, budget: float
) -> None:
    if (scale, budget) == (4.6, 0.5) and kind in ("ramp", "checkerboard"):
        request.applymarker(pytest.mark.xfail(reason="1.94 and 1.14 times as much, see docs/limits.md"))
    check(kind, scale, budget)
