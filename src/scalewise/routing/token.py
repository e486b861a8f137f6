"""Tokens: who leaves when, in AdaFormer (Luo et al., AAAI 2024): confidence adds up to a halting score (Eq. 18).

`Confidence` is Eq. 15 before its sigmoid, `uncertainty_loss` Eq. 17. `below` are the masks of Eq. 19 and 22; `lowest`
those of a budget: as many as it grants, the lowest scores first. Scores only rise and masks only shrink from layer to
layer, and what happens to one image does not depend on another of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Size
from scalewise.layers import conv3
from scalewise.routing.window import top

SMALL = 1e-8  # ε of Eq. 17
GOLDEN = (5**0.5 - 1) / 2


class Confidence(nn.Sequential):
    """Features (b, c, h, w) → logits (b, 1, h, w) of how well each token is restored; one estimator for all layers."""

    def __init__(self, channels: int) -> None:
        super().__init__(conv3(channels, channels // 2), nn.Tanh(), conv3(channels // 2, 1))
        self.channels = channels

    def macs(self, size: Size) -> Macs:
        half = self.channels // 2
        return (cost.conv2d(self.channels, half, 3, *size) + cost.conv2d(half, 1, 3, *size)).as_router()


@dataclass(frozen=True)
class Kept:
    """What has not left before a layer: `windows` (b, gy, gx) and `tokens` (b, gy, gx, pixels of a window), bool."""

    windows: Tensor
    tokens: Tensor

    @staticmethod
    def all(batch: int, grid: Size, pixels: int, device: torch.device) -> Kept:
        windows = torch.ones(batch, *grid, dtype=torch.bool, device=device)
        return Kept(windows, windows.unsqueeze(-1).expand(-1, -1, -1, pixels))

    @staticmethod
    def of_windows(windows: Tensor, pixels: int) -> Kept:
        """Tokens leave with their window."""
        return Kept(windows, windows.unsqueeze(-1).expand(-1, -1, -1, pixels))


def below(score: Tensor, epsilon: float) -> Kept:
    """Score (b, gy, gx, n) → what stays: tokens below 1 - ε, and windows whose mean is (Eq. 19, 22)."""
    return Kept(score.mean(-1) < 1 - epsilon, score < 1 - epsilon)


def lowest(score: Tensor, windows: int, tokens: int, before: Kept) -> Kept:
    """The `windows` and `tokens` of each image with the lowest score, of those that stayed before; ties by index."""
    return Kept(_lowest(score.mean(-1), windows, before.windows), _lowest(score, tokens, before.tokens))


def numbers(like: Tensor, *, random: bool) -> Tensor:
    """A number in (0, 1] for each token of (b, gy, gx, n), the same in every layer and picture of a batch: evenly over
    the picture in steps of the golden ratio, or at random, always the same; the lowest stay longest."""
    count = like[0].numel()
    if random:
        drawn = torch.rand(count, generator=torch.Generator().manual_seed(0))
    else:
        drawn = (torch.arange(1, count + 1, dtype=torch.float64) * GOLDEN % 1).float()
    return (1 - drawn).to(like.device).view_as(like[0]).expand_as(like)


def left(number: Tensor, share: float) -> Kept:
    """What stays once this share has left: of tokens those of the lowest numbers, of windows as many, by the number of
    their first token."""
    return Kept(_stays(number[..., 0], share), _stays(number.flatten(1), share).view_as(number))


def _stays(number: Tensor, share: float) -> Tensor:
    keep = torch.full((len(number),), round((1 - share) * number[0].numel()), device=number.device)
    return top(-number.flatten(1), keep).view_as(number)


def _lowest(score: Tensor, count: int, before: Tensor) -> Tensor:
    candidates = score.masked_fill(~before, torch.inf).flatten(1)
    keep = torch.full((len(score),), count, device=score.device)
    return top(-candidates, keep).view_as(before) & before


def uncertainty_loss(
    logits: Iterable[Tensor], sr: Tensor, hr: Tensor, *, scale: int, value_range: float = 255
) -> Tensor:
    """Σ over layers of mean(C↑·|hr - sr|) + mean(log 1 / (C + ε)), C = sigmoid(logits), C↑ bilinear (Eq. 17).

    `logits` (b, h, w) of each layer, as the evidence of AdaFormer's decisions has them; sr, hr (b, 3, H, W) in [0, 1].
    The error counts in `value_range`: C tends to 1 / error, so with errors in [0, 1] all tokens would leave at once.
    `sr` is detached: this loss trains the confidence alone.
    """
    height, width = hr.shape[-2:]
    error = (hr - sr.detach()).abs().mean(1, keepdim=True) * value_range
    total = error.new_zeros(())
    for layer in logits:
        confidence = layer[:, None, : height // scale, : width // scale].sigmoid()  # without the padding
        raised = F.interpolate(confidence, size=(height, width), mode="bilinear", align_corners=False)
        total = total + (raised * error).mean() - (confidence + SMALL).log().mean()
    return total
