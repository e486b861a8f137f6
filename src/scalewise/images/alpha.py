"""Colour under transparent pixels: it is nobody's picture, but a network would draw it into the visible rim as a halo.

So before enlarging, pixels of opacity 0 take the colour of the visible ones near them, ring by ring.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

REACH = 16  # pixels: beyond what bicubic or the first layers see; the colour further in is left as the file has it


def bleed(colour: Tensor, weight: Tensor, reach: int = REACH) -> Tensor:
    """`colour` (c, h, w) with pixels of `weight` 0 (1, h, w) filled from their neighbours of weight above 0.

    Each ring is the mean of the 3x3 around it, weighted in the first ring; pixels further than `reach` from any of
    weight above 0 stay. All must be finite. A pixel depends on nothing beyond `reach`, in each axis, so a box that
    was read with that margin gives the same numbers as the whole picture.
    """
    known = weight > 0
    if bool(known.all()) or not bool(known.any()):
        return colour
    hidden, mass = colour, weight.float()
    for _ in range(reach):
        near = _around(mass)
        ring = ~known & (near > 0)
        if not bool(ring.any()):
            break
        mean = _around(hidden * mass) / near.clamp_min(torch.finfo(near.dtype).tiny)
        hidden = torch.where(ring, mean, hidden)
        mass = torch.where(ring, mass.new_ones(()), mass)
        known = known | ring
    return hidden


def _around(values: Tensor) -> Tensor:
    """The sum over 3x3; single additions in a fixed order, so that a tile and the whole agree to the bit."""
    rows = pad(values, (0, 0, 1, 1))
    rows = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    both = pad(rows, (1, 1))
    return both[:, :, :-2] + both[:, :, 1:-1] + both[:, :, 2:]
