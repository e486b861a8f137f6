"""Opacity weighs colour: what is not seen must not come out as a fringe around what is.

A network sees colours in which pixels of little opacity have taken that of the visible ones near them (`bleed`). Its
result is then weighed (`Weighing`): any model gives what premultiplied bicubic gives, and its own detail on top where
opacity hardly changes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

REACH_PIXELS = 16  # beyond what bicubic or the first layers see; the colour further in is left as the file has it
MARGIN_PIXELS = REACH_PIXELS + 1  # around a box: these decide what its colours are
LOW_OPACITY_SHARE = 0.25  # of the highest opacity near a pixel: below it, colour is mixed with the neighbours'
LEAST_OPACITY = 1 / 255  # the least that weighted colour is divided by
LOCAL = 3  # pixels around one, within which a change of opacity counts
MOST_SPAN = 1 / 8  # change of opacity at which nothing of a model's own detail is left


def bleed(colour: Tensor, weight: Tensor, reach: int = REACH_PIXELS) -> Tensor:
    """`colour` (c, h, w) with pixels of `weight` 0 (1, h, w) filled from their neighbours of weight above 0.

    Each ring is the mean of the 3x3 around it, weighted in the first ring; pixels further than `reach` from any of
    weight above 0 stay. Pixels of a weight that is little among its neighbours are mixed with their mean. All must be
    finite. A pixel depends on nothing beyond `reach` + 1, in each axis, so a box that was read with that margin gives
    the same numbers as the whole picture.
    """
    known, mass = weight > 0, weight.float()
    if not bool(known.any()):
        return colour
    hidden = _mixed(colour, mass, known)
    if bool(known.all()):
        return hidden
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


def _mixed(colour: Tensor, mass: Tensor, known: Tensor) -> Tensor:
    """Known pixels of little opacity, mixed with the weighted mean of the 3x3 around them."""
    highest = max_pool2d(mass, 3, 1, 1)
    own = (mass / (LOW_OPACITY_SHARE * highest).clamp_min(torch.finfo(mass.dtype).tiny)).clamp(0, 1)
    if not bool((known & (own < 1)).any()):
        return colour
    mean = _around(colour * mass) / _around(mass).clamp_min(torch.finfo(mass.dtype).tiny)
    return torch.where(known & (own < 1), mean + own * (colour - mean), colour)


class Weighing:
    """What makes a colour that a model gave for bled pixels one that opacity has weighed, in output pixels.

    Premultiplied interpolation, and what the model adds to plain interpolation where opacity hardly changes. Where it
    does change, sharper colours under an opacity that stays soft would be a fringe.
    """

    def __init__(self, colour: Tensor, bled: Tensor, alpha: Tensor, enlarge: Callable[[Tensor, slice], Tensor]) -> None:
        """`colour` and `bled` (3, h, w) as they are and as the model saw them, `alpha` (1, h, w) in [0, 1]; `enlarge`
        interpolates (n, h, w) to some rows of the output by a kernel. Pixels depend on LOCAL more around than the
        kernel's. What is kept has the size of the input."""
        self.enlarge, self.planes = enlarge, None
        if bool((alpha == 1).all()):
            return
        side = 2 * LOCAL + 1
        span = max_pool2d(alpha, side, 1, LOCAL) + max_pool2d(-alpha, side, 1, LOCAL)
        self.planes = torch.cat([colour * alpha, bled, span, alpha])

    def __call__(self, rgb: Tensor, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """A part of an output, (3, h, w), and its opacity (1, h, w)."""
        part = rgb[:, rows, columns]
        if self.planes is None:
            return part, torch.ones_like(part[:1], dtype=torch.float32)
        planes = self.enlarge(self.planes, rows)[..., columns]
        base, opacity = planes[3:6], planes[7:]
        weighed = base + (planes[:3] - opacity * base) / opacity.clamp_min(LEAST_OPACITY)
        detail = (1 - planes[6:7] / MOST_SPAN).clamp(0, 1)
        return weighed + detail * (part.float() - base), opacity.clamp(0, 1)


def _around(values: Tensor) -> Tensor:
    """The sum over 3x3; single additions in a fixed order, so that a tile and the whole agree to the bit."""
    rows = pad(values, (0, 0, 1, 1))
    rows = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    both = pad(rows, (1, 1))
    return both[:, :, :-2] + both[:, :, 1:-1] + both[:, :, 2:]
