"""Windows: who decides which of an image's windows are hard, by CAMixerSR's predictor (Wang et al., CVPR 2024,
arXiv:2402.19289, Eq. 2), and how the chosen ones are found.

The mask of a layer is top-K by priority in inference, per image; in training it is drawn, with a straight-through
gradient (Gumbel-softmax: Jang et al., ICLR 2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.errors import InvalidRequest
from scalewise.geometry.grid import Size
from scalewise.layers import partition, product, size_table

WINDOW = 16
AREA = WINDOW * WINDOW
REACH = 8.0  # pixels that an offset can span, half a window
EPS = 1e-6
REPAIRED = "repaired"
PREDICTORS = ("published", REPAIRED)
STEP = 1e-4  # margins closer than this are equal


@dataclass(frozen=True)
class Hints:
    """What a predictor says: `logits` (b, n, 2) of hard and simple, `features` f, the factors `pixels` and `channels`.

    f is (b, h, w, r) from `Predictor.forward`, (b, r, h·w) from `Predictor.quick`."""

    logits: Tensor
    features: Tensor
    pixels: Tensor
    channels: Tensor


@size_table
def window_coordinates(shift: int) -> Tensor:
    """(16, 16, 2): row and column of a pixel in its window, in [-1, 1], when windows start at `shift`."""
    line = torch.linspace(-1, 1, WINDOW)
    return torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).roll((shift, shift), (0, 1))


class Predictor(nn.Module):
    """Eq. 2: from values, a condition of the image and the place in the window to `Hints`, and offsets from f.

    `kind`: `published`, or `repaired`, which scores windows by what the normalisation would remove: how far each pixel
    lies from the mean of its window, over all channels, which are centred. It hands logits, not probabilities, to the
    draw. The published score, a mean over normalised channels, is nearly the same everywhere.
    `normalise`: f is normalised; `bounded`: offsets stay within 8 pixels. The omnidirectional network has neither.
    """

    def __init__(
        self,
        channels: int,
        condition: int,
        *,
        kind: str = "published",
        slope: float = 0.1,
        normalise: bool = True,
        bounded: bool = True,
        weighs: bool = True,
    ) -> None:
        super().__init__()
        if kind not in PREDICTORS:
            raise InvalidRequest(f"predictor is {kind!r}: allowed are {' and '.join(PREDICTORS)}")
        width = channels + condition + 2
        inner, narrow = width // 4, width // 8
        self.kind, self.slope, self.bounded, self.weighs = kind, slope, bounded, weighs
        self.project = nn.Linear(width, inner)
        self.norm = nn.LayerNorm(inner, EPS) if normalise else nn.Identity()
        self.offset = nn.Sequential(nn.Linear(inner, narrow), nn.LeakyReLU(slope), nn.Linear(narrow, 2))
        self.score = nn.Sequential(nn.Linear(AREA, WINDOW), nn.LeakyReLU(slope), nn.Linear(WINDOW, 2))
        self.channels = channels
        if weighs:
            self.channel = nn.Linear(inner, channels)
            self.pixel = nn.Conv2d(inner, 1, 3, padding=1)

    def forward(self, v: Tensor, condition: Tensor, place: Tensor, shift: int) -> Hints:
        """v (b, h, w, c), condition (b, ·, h, w), place (16, 16, 2), which repeats."""
        b, h, w, _ = v.shape
        place = place.to(v).repeat(h // WINDOW, w // WINDOW, 1).expand(b, -1, -1, -1)
        z = self.project(torch.cat((v, condition.permute(0, 2, 3, 1), place), -1))
        f = F.leaky_relu(self.norm(z), self.slope)
        seen = z - z.mean(-1, keepdim=True) if self.kind == REPAIRED else f.mean(-1, keepdim=True)
        windows = partition(seen.roll((-shift, -shift), (1, 2)), (WINDOW, WINDOW)).flatten(1, 2)  # (b, n, 256, ·)
        look = contrast(windows, 2, 3) if self.kind == REPAIRED else windows.squeeze(-1)
        logits = self.score(look).float()
        if not self.weighs:
            return Hints(logits, f, v.new_ones(b, h, w, 1), v.new_ones(b, self.channels))
        pixels = self.pixel(f.permute(0, 3, 1, 2)).sigmoid().permute(0, 2, 3, 1)
        return Hints(logits, f, pixels, self.channel(f.mean((1, 2))).sigmoid())

    def quick(self, tokens: Tensor, value: nn.Linear, condition: Tensor, size: Size, shift: int) -> Hints:
        """The same from x (b, h·w, c) and condition (b, ·, h, w): `value` and `project` as one product, centred if f is
        normalised, the place in the window as a bias, in float32 from there on."""
        (h, w), b = size, len(tokens)
        with torch.autocast(tokens.device.type, enabled=False):
            parts = value.out_features, condition.shape[1], 2
            weight, bias = self.project.weight, self.project.bias
            normalised = isinstance(self.norm, nn.LayerNorm)
            if normalised:
                weight, bias = weight - weight.mean(0), bias - bias.mean()
            from_v, from_condition, from_place = weight.split(parts, 1)
            merged = from_v @ value.weight
            bias = from_v @ value.bias + bias
            place = window_coordinates(shift).to(bias) @ from_place.T + bias  # (16, 16, r)
        z = product(tokens, merged).transpose(1, 2).float()  # (b, r, h·w)
        with torch.autocast(tokens.device.type, enabled=False):
            z = torch.baddbmm(z, from_condition.expand(b, -1, -1), condition.float().flatten(2))
            tiled = z.view(b, -1, h // WINDOW, WINDOW, w // WINDOW, WINDOW)
            tiled += place.permute(2, 0, 1).reshape(1, -1, 1, WINDOW, 1, WINDOW)
            of = window_pixels(size, WINDOW, shift).to(z.device)
            look = None
            if self.kind == REPAIRED:
                look = contrast((z if normalised else z - z.mean(1, keepdim=True))[:, :, of], 3, 1)
            if isinstance(self.norm, nn.LayerNorm):
                z.div_(z.square().mean(1, keepdim=True).add_(EPS).sqrt_())
                z.mul_(self.norm.weight.unsqueeze(1)).add_(self.norm.bias.unsqueeze(1))
            f = F.leaky_relu_(z, self.slope)
            if look is None:
                look = f.mean(1)[:, of]
            logits = self.score(look)
            if not self.weighs:
                return Hints(logits, f, f.new_ones(b, 1, h, w), f.new_ones(b, self.channels))
            pixels = self.pixel(f.view(b, -1, h, w)).sigmoid_()
            return Hints(logits, f, pixels, self.channel(f.mean(2)).sigmoid())

    def offsets(self, f: Tensor) -> Tensor:
        """f (…, r) → displacements (…, 2) in pixels: columns, rows."""
        found = self.offset(f)
        return REACH * found.tanh() if self.bounded else found

    def quick_offsets(self, f: Tensor) -> Tensor:
        """f (r, m) → (2, m)."""
        first, _, last = self.offset
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        with torch.autocast(f.device.type, enabled=False):
            hidden = F.leaky_relu(torch.addmm(first.bias.unsqueeze(1), first.weight, f), self.slope)
            found = torch.addmm(last.bias.unsqueeze(1), last.weight, hidden)
            return found.tanh_().mul_(REACH) if self.bounded else found

    def draw_logits(self, logits: Tensor) -> Tensor:
        """What the Gumbel draw sees: published, the probabilities once more as logits."""
        return logits if self.kind == REPAIRED else logits.softmax(-1)

    def share(self, logits: Tensor) -> Tensor:
        """(b,) float64: the expected share of hard windows of a draw."""
        return self.draw_logits(logits.double()).softmax(-1)[..., 0].mean(1)

    @property
    def largest_share(self) -> float:
        return 1.0 if self.kind == REPAIRED else 1 / (1 + math.exp(-1))

    def macs(self, size: Size) -> Macs:
        """MACs without the offsets, which only hard windows have; scoring a window counts as the router's."""
        pixels, inner = size[0] * size[1], self.project.out_features
        router = cost.linear(self.project.in_features, inner, pixels)
        router += cost.linear(AREA, WINDOW, pixels // AREA) + cost.linear(WINDOW, 2, pixels // AREA)
        total = router.as_router()
        return total + cost.conv2d(inner, 1, 3, *size) + cost.linear(inner, self.channels, 1) if self.weighs else total

    def offset_macs(self) -> Macs:
        """The MACs of the offsets of one window."""
        inner, narrow = self.project.out_features, self.project.in_features // 8
        return cost.linear(inner, narrow, AREA) + cost.linear(narrow, 2, AREA)


def contrast(windows: Tensor, pixels: int, channels: int) -> Tensor:
    """How far each pixel lies from the mean of its window: the root of the mean square over the dimension `channels`,
    which goes; `pixels` is the dimension of a window's pixels."""
    away = windows - windows.mean(pixels, keepdim=True)
    return (away.square().mean(channels) + EPS).sqrt()


@size_table
def window_pixels(size: Size, window: int, shift: int) -> Tensor:
    """(windows, window²) int64: the pixels, row-major, that each window of an image rolled by -shift holds."""
    height, width = size
    index = torch.arange(height * width).view(height, width).roll((-shift, -shift), (0, 1))
    return index.unfold(0, window, window).unfold(1, window, window).reshape(-1, window * window)


def priority(logits: Tensor) -> Tensor:
    """(b, n, 2) → (b, n): the margin of "hard", in steps of 1e-4.

    It orders windows as the probability does, and goes on where that is 1 to the last bit, as in 8 of the 20 layers of
    the published CAMixerSR_S. Windows closer than a step are equal, so that the rounding of a sum,
    which may differ with the size of a batch, does not choose between the windows of a flat picture.
    """
    return ((logits[..., 0] - logits[..., 1]) / STEP).round() * STEP


def top(score: Tensor, keep: Tensor) -> Tensor:
    """The `keep` (b,) highest of `score` (b, n), the first of equals first: a mask (b, n)."""
    order = score.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return rank < keep.unsqueeze(1)


class Allowance:
    """How many hard windows every image of a batch has left for the layers to come; all of them are given out.

    A layer gets a part in proportion to its own expected share, against what the layers so far expected on average (at
    first a half, which the paper trains for). Even parts cost the published Small 0.01 to 0.05 dB at equal MACs.
    """

    def __init__(self, total: int, layers: int, images: int, device: torch.device) -> None:
        self.left = torch.full((images,), total, dtype=torch.float64, device=device)
        self.layers = layers
        self.expected, self.seen = 0.5, 1

    def grant(self, share: Tensor, windows: int) -> Tensor:
        """share (b,) float64 that the next layer expects of its `windows` → how many it gets (b,)."""
        self.layers -= 1
        self.expected, self.seen = self.expected + share, self.seen + 1
        part = share / (share + self.layers * self.expected / self.seen)
        least = (self.left - windows * self.layers).clamp(min=0)
        keep = torch.minimum((self.left * part).round(), self.left.clamp(max=windows)).maximum(least)
        self.left = self.left - keep
        return keep.long()


def gumbel(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Standard Gumbel noise; without a generator, from torch's global one."""
    where = generator.device if generator is not None else device
    return -torch.empty(shape, device=where).exponential_(generator=generator).log().to(device)


def straight_through(logits: Tensor, noise: Tensor) -> Tensor:
    """(b, n, 2) and noise of that shape → a mask (b, n) of 0 and 1 with the gradient of the softmax."""
    soft = (logits + noise).softmax(-1)[..., 0]
    return (soft >= 0.5).to(soft) - soft.detach() + soft
