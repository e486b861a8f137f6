"""Pictures on which the border of a tile or a patch would show."""

from __future__ import annotations

import numpy as np

TEXTURES = ("flat", "ramp", "checkerboard", "noise")


def texture(kind: str, height: int, width: int, slope: float) -> np.ndarray:
    """Gray as RGB, (height, width, 3) float32 in [0, 1]; `slope`: by how much a ramp rises from pixel to pixel."""
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    values = {
        "flat": np.full((height, width), 0.5),
        "ramp": 0.1 + (x + y) * slope,
        "checkerboard": ((x + y) % 2) * 0.6 + 0.2,
        "noise": np.random.default_rng(0).random((height, width)),
    }
    return np.repeat(values[kind].astype(np.float32)[..., None], 3, -1)
