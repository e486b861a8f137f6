"""MetaSR takes one factor for both axes, give or take the rounding of the output's size."""

from __future__ import annotations

import pytest
import torch

from scalewise.errors import UnsupportedScale
from scalewise.geometry.grid import Frame, output_size, rectangle
from scalewise.upsamplers.metasr import MetaSR


def upsample(size: tuple[int, int], out: tuple[int, int]) -> torch.Tensor:
    upsampler = MetaSR(3, 4)
    field = upsampler.prepare(torch.randn(1, 3, *size), torch.randn(1, 3, *size), Frame(size))
    return upsampler.sample(field, rectangle(Frame(size), out))


def test_unequal_factors_are_refused_with_both_named() -> None:
    with pytest.raises(UnsupportedScale, match=r"metasr upsamples both axes by one factor; got 1\.5x2:"):
        upsample((10, 12), (20, 18))


@pytest.mark.parametrize("scale", [1.0, 1.3, 2.3, 3.7, 30.0])
@pytest.mark.parametrize("size", [(3, 4), (17, 23), (5, 31)])
def test_one_factor_is_accepted_at_any_size(size: tuple[int, int], scale: float) -> None:
    out = output_size(size, scale)
    assert upsample(size, out).shape[-2:] == out
