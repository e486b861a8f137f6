"""LIIF's blend is exact where a point lies on a pixel's centre: that pixel alone answers."""

from __future__ import annotations

import torch

from scalewise.geometry.grid import Frame, rectangle
from scalewise.upsamplers.liif import LIIF


@torch.no_grad()
def test_a_pixel_centre_hears_its_own_pixel_only() -> None:
    frame, features = Frame((5, 6)), torch.randn(1, 4, 5, 6)
    blended, nearest = LIIF(4, (8,)), LIIF(4, (8,), local_ensemble=False)
    nearest.load_state_dict(blended.state_dict())
    first, second = (
        upsampler.sample(upsampler.prepare(features, features, frame), rectangle(frame, (5, 6)))
        for upsampler in (blended, nearest)
    )
    assert torch.allclose(first, second, atol=1e-6)
