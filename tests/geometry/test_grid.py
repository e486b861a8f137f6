"""The two grids: sizes, and boxes of LR pixels that partition the output."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scalewise.errors import UnsupportedScale
from scalewise.geometry.grid import axis_positions, first_output, output_box, output_size
from scalewise.geometry.tiling import plan_tiles as plan

sides = st.integers(1, 400)
factors = st.floats(1, 8)


@settings(max_examples=200)
@given(sides, sides, factors, factors)
def test_the_size_rule(h: int, w: int, sy: float, sx: float) -> None:
    assert output_size((h, w), (sy, sx)) == (max(1, round(h * sy)), max(1, round(w * sx)))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e9, 0.99])
def test_scales_out_of_range_are_refused(scale: float) -> None:
    with pytest.raises(UnsupportedScale):
        output_size((10, 10), scale)


@given(st.integers(1, 300), st.floats(1, 6), st.integers(1, 64))
def test_first_output_agrees_with_the_positions(n: int, factor: float, patch: int) -> None:
    out = max(1, round(n * factor))
    position = axis_positions(0, out, n, out)
    for i in range(0, n + patch, patch):
        assert first_output(min(i, n), n, out) == int((position < min(i, n)).sum())


@given(sides, sides, factors, factors, st.integers(1, 5))
def test_tiles_partition_the_output(h: int, w: int, sy: float, sx: float, side: int) -> None:
    size, out = (h, w), output_size((h, w), (sy, sx))
    covered = torch.zeros(out, dtype=torch.int32)
    for tile in plan(size, out, side=32 * side, grid=32, context=7):
        y0, x0, y1, x1 = tile.target
        covered[y0:y1, x0:x1] += 1
        assert tile.target == output_box(tile.core, size, out)
        assert all(s <= c for s, c in zip(tile.source[:2], tile.core[:2], strict=True))
    assert bool((covered == 1).all())
