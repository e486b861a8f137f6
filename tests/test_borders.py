"""Flat, ramp, checkerboard and noise pictures at fractional scales: neither tiles nor patches leave a trace."""

from __future__ import annotations

import numpy as np
import pytest

from scalewise.grid import first_output
from scalewise.pipeline import upscale

SCALES = (1.1, 1.25, 1.37, 1.5, 1.73, 2.2, 2.5, 2.71, 3.14, 3.3, 3.7, 4.6)
HEIGHT, WIDTH, SIDE, PATCH = 160, 192, 64, 32
KINDS = ("flat", "ramp", "checkerboard", "noise")
A_HUNDREDTH_OF_A_LEVEL = 0.01  # of 255; a flat picture has nothing to compare with


def picture(kind: str) -> np.ndarray:
    y, x = np.meshgrid(np.arange(HEIGHT), np.arange(WIDTH), indexing="ij")
    values = {
        "flat": np.full((HEIGHT, WIDTH), 0.5),
        "ramp": 0.1 + (x + y) * 0.0022,
        "checkerboard": ((x + y) % 2) * 0.6 + 0.2,
        "noise": np.random.default_rng(0).random((HEIGHT, WIDTH)),
    }
    return np.repeat(values[kind].astype(np.float32)[..., None], 3, -1)


def bends(result: np.ndarray, axis: int, n: int) -> tuple[float, float]:
    """Mean absolute second difference over the borders of patches and tiles, and over lines inside that are alike.

    A border lies between the last output pixel of one patch and the first of the next; alike are the lines between two
    output pixels of the same phase: their places within an LR pixel are as near to those at a border as can be.
    """
    out = result.shape[axis]
    bend = np.abs(np.diff(result, 2, axis)).mean(tuple(k for k in (0, 1, 2) if k != axis))
    middle = np.arange(len(bend)) + 1  # the middle one of the three pixels
    first = np.array([first_output(start, n, out) for start in range(n + 1)])
    starts, ends = first[:-1], first[1:] - 1  # of each LR pixel: the first output pixel in it, and the last
    patch = np.arange(n) % PATCH
    at = np.union1d(starts[patch == 0], ends[patch == PATCH - 1])
    alike = np.setdiff1d(np.union1d(starts, ends), at)
    inside = (middle > out * 16 // n) & (middle < out - out * 16 // n)  # away from the picture's own border
    return bend[inside & np.isin(middle, at)].mean(), bend[inside & np.isin(middle, alike)].mean()


def check(kind: str, scale: float, model: str, budget: float | None) -> None:
    result = upscale(picture(kind), scale, model=model, budget=budget, tile=SIDE, dtype="fp32").image
    result = result.astype(np.float64) * 255
    found = [bends(result, axis, n) for axis, n in ((0, HEIGHT), (1, WIDTH))]
    border, elsewhere = np.mean(found, axis=0)
    assert border <= 1.05 * elsewhere + A_HUNDREDTH_OF_A_LEVEL, (kind, scale, border, elsewhere)


@pytest.mark.parametrize("scale", [1.37, 2.71])
@pytest.mark.parametrize("kind", KINDS)
def test_borders_do_not_show(kind: str, scale: float) -> None:
    check(kind, scale, "fast", 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("model", "budget"), [("fast", None), ("fast", 0.5), ("bicubic", None)])
def test_borders_do_not_show_at_any_scale(kind: str, scale: float, model: str, budget: float | None) -> None:
    check(kind, scale, model, budget)
