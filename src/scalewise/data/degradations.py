"""Degradations of real pictures: blur, resizing, noise, JPEG, and two orders of them that make LR from HR crops.

`real_world` follows CiaoSR's real-world configuration (Cao et al., CVPR 2023), which is Real-ESRGAN's second order
degradation (Wang et al., ICCV workshops 2021, arXiv:2107.10833) at any scale, with its mistakes corrected: the
shapes β are drawn as they are listed; the HR crop is cut before, so LR and HR stay aligned; JPEG sees RGB, not BGR.
`photo` is milder: what phones and the web do to a picture. Each step is a pure function of its picture and numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalewise.data.crops import Random, bicubic_8bit
from scalewise.data.jpeg import jpeg
from scalewise.geometry.grid import Size

Interpolation = Literal["bilinear", "bicubic", "area"]
INTERPOLATIONS: tuple[Interpolation, ...] = ("bilinear", "bicubic", "area")
KINDS = ("iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso", "sinc")
SHARES = (0.405, 0.225, 0.108, 0.027, 0.108, 0.027, 0.1)


def gaussian_kernel(
    side: int, sigma: tuple[float, float], angle: float = 0.0, *, beta: float = 1.0, plateau: bool = False
) -> Tensor:
    """(side, side), sum 1. With Q = xᵀ Σ⁻¹ x, Σ turned by `angle`: exp(-Q^β / 2), or 1 / (Q^β + 1) if `plateau`."""
    axis = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    along = (math.cos(angle) * x + math.sin(angle) * y) / sigma[0]
    across = (math.cos(angle) * y - math.sin(angle) * x) / sigma[1]
    q = (along.square() + across.square()) ** beta
    kernel = 1 / (q + 1) if plateau else torch.exp(-q / 2)
    return (kernel / kernel.sum()).float()


def sinc_kernel(side: int, cutoff: float) -> Tensor:
    """(side, side), sum 1: the circular low pass of `cutoff` radians, ω J₁(ω r) / (2π r); it rings."""
    axis = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    radius = torch.hypot(*torch.meshgrid(axis, axis, indexing="ij"))
    safe = radius.clamp_min(1e-9)
    kernel = cutoff * torch.special.bessel_j1(cutoff * safe) / (2 * math.pi * safe)
    kernel = torch.where(radius == 0, cutoff**2 / (4 * math.pi), kernel)
    return (kernel / kernel.sum()).float()


def blur(image: Tensor, kernel: Tensor) -> Tensor:
    """(3, h, w) filtered by an odd kernel, the border mirrored without its edge; not clamped."""
    margin = kernel.shape[-1] // 2
    padded = F.pad(image.unsqueeze(0), (margin,) * 4, mode="reflect" if margin < min(image.shape[-2:]) else "replicate")
    return F.conv2d(padded.transpose(0, 1), kernel.view(1, 1, *kernel.shape).to(image)).squeeze(1)


def unsharp(image: Tensor, amount: float = 0.5, *, side: int = 51, threshold: float = 10 / 255) -> Tensor:
    """Sharpened where it differs from its blur by more than `threshold`, softly; the targets of Real-ESRGAN.

    σ follows OpenCV's rule for a side: 0.3 · ((side - 1) / 2 - 1) + 0.8. Both blurs are separable."""
    sigma = 0.3 * ((side - 1) / 2 - 1) + 0.8
    line = gaussian_kernel(side, (sigma, sigma))[side // 2]
    line = (line / line.sum()).to(image)

    def soft(picture: Tensor) -> Tensor:
        margin = side // 2
        mode = "reflect" if margin < min(image.shape[-2:]) else "replicate"
        padded = F.pad(picture.unsqueeze(0), (margin,) * 4, mode=mode).transpose(0, 1)
        return F.conv2d(F.conv2d(padded, line.view(1, 1, 1, -1)), line.view(1, 1, -1, 1)).squeeze(1)

    residue = image - soft(image)
    mask = soft((residue.abs() > threshold).to(image))
    return mask * (image + amount * residue).clamp(0, 1) + (1 - mask) * image


def resize(image: Tensor, size: Size, by: Interpolation) -> Tensor:
    """As OpenCV resizes: no antialiasing but by "area", which averages what a pixel covers; not clamped.

    Where "area" would enlarge an axis, both are bilinear."""
    height, width = image.shape[-2:]
    if by == "area" and size[0] <= height and size[1] <= width:
        return cover(height, size[0]).to(image) @ image @ cover(width, size[1]).to(image).T
    mode = "bicubic" if by == "bicubic" else "bilinear"
    return F.interpolate(image.unsqueeze(0), size, mode=mode, align_corners=False)[0]


def cover(length: int, out: int) -> Tensor:
    """(out, length): the share of output pixel j that lies on input pixel i; rows sum to 1."""
    step = length / out
    start = torch.arange(out, dtype=torch.float64).unsqueeze(1) * step
    pixel = torch.arange(length, dtype=torch.float64)
    overlap = torch.minimum(start + step, pixel + 1) - torch.maximum(start, pixel)
    return (overlap.clamp_min(0) / step).float()


def gaussian_noise(image: Tensor, sigma: float, random: Random, *, gray: bool = False) -> Tensor:
    """The picture plus normal noise of `sigma` on the scale of [0, 1], the same in all colours if `gray`; clamped."""
    shape = (1 if gray else 3, *image.shape[-2:])
    noise = torch.from_numpy(random.standard_normal(shape, dtype=np.float32))
    return (image + sigma * noise.to(image)).clamp(0, 1)


def poisson_noise(image: Tensor, scale: float, random: Random, *, gray: bool = False) -> Tensor:
    """The picture plus `scale` times shot noise, whose photons per level follow from how many levels the picture has;
    clamped.

    v: the 8-bit picture, or its luma if `gray`; u = 2^⌈log₂ levels⌉; noise = Poisson(v·u) / u - v."""
    levels = (image.clamp(0, 1) * 255).round() / 255
    if gray:
        weights = torch.tensor([0.299, 0.587, 0.114]).to(image).view(3, 1, 1)
        levels = ((levels * weights).sum(0, keepdim=True) * 255).round() / 255
    photons = 2.0 ** math.ceil(math.log2(max(2, len(levels.unique()))))
    drawn = torch.from_numpy(random.poisson(levels.double().numpy() * photons)).to(image) / photons
    return (image + scale * (drawn - levels)).clamp(0, 1)


def random_kernel(
    random: Random,
    sigma: tuple[float, float],
    beta: tuple[float, float] = (0.5, 4),
    plateau: tuple[float, float] = (1, 2),
) -> Tensor:
    """One of KINDS by SHARES, side odd in 7 … 21; `sigma`, `beta` and `plateau` are ranges."""
    side = 2 * int(random.integers(3, 11)) + 1
    kind = str(random.choice(KINDS, p=SHARES))
    if kind == "sinc":
        return sinc_kernel(side, random.uniform(math.pi / 3 if side < 13 else math.pi / 5, math.pi))
    first = random.uniform(*sigma)
    widths = (first, first if kind.endswith("_iso") or kind == "iso" else random.uniform(*sigma))
    shape = random.uniform(*(plateau if "plateau" in kind else beta)) if "_" in kind else 1.0
    angle = random.uniform(-math.pi, math.pi)
    return gaussian_kernel(side, widths, angle, beta=shape, plateau="plateau" in kind)


@dataclass(frozen=True)
class Round:
    """One round of blur, resize, noise (and JPEG) with its ranges: chances of enlarging and shrinking, largest and
    smallest factor, normal σ in levels, scale of shot noise."""

    blur: float
    sigma: tuple[float, float]
    up: float
    down: float
    factors: tuple[float, float]
    normal: tuple[float, float]
    shot: tuple[float, float]

    def __call__(self, image: Tensor, random: Random) -> Tensor:
        if random.random() < self.blur:
            image = blur(image, random_kernel(random, self.sigma))
        draw = random.random()
        factor = 1.0
        if draw < self.up:
            factor = random.uniform(1, self.factors[1])
        elif draw < self.up + self.down:
            factor = random.uniform(self.factors[0], 1)
        size = tuple(max(1, round(n * factor)) for n in image.shape[-2:])
        image = resize(image, (size[0], size[1]), INTERPOLATIONS[random.integers(3)]).clamp(0, 1)
        gray = bool(random.random() < 0.4)
        if random.random() < 0.5:
            return gaussian_noise(image, random.uniform(*self.normal) / 255, random, gray=gray)
        return poisson_noise(image, random.uniform(*self.shot), random, gray=gray)


FIRST = Round(1.0, (0.2, 3.0), 0.2, 0.7, (0.15, 1.5), (1, 30), (0.05, 3.0))
SECOND = Round(0.8, (0.2, 1.5), 0.3, 0.4, (0.3, 1.2), (1, 25), (0.05, 2.5))


def real_world(hr: Tensor, size: Size, random: Random) -> Tensor:
    """HR crop (3, H, W) → LR (3, *size) in 8 bits, by CiaoSR's order: sharpen, FIRST, JPEG 30-95, SECOND, and then JPEG
    5-50 and resizing with a sinc filter, whichever comes first."""
    image = FIRST(unsharp(hr), random)
    image = jpeg(image, int(random.integers(30, 96)))
    image = SECOND(image, random)

    def shrink(image: Tensor) -> Tensor:
        image = resize(image, size, INTERPOLATIONS[random.integers(3)]).clamp(0, 1)
        if random.random() < 0.8:
            side = 2 * int(random.integers(3, 11)) + 1
            image = blur(image, sinc_kernel(side, random.uniform(math.pi / 3, math.pi))).clamp(0, 1)
        return image

    last = int(random.integers(5, 51))
    image = shrink(jpeg(image, last)) if random.random() < 0.5 else jpeg(shrink(image), last)
    return (image * 255).round() / 255


@dataclass(frozen=True)
class Photo:
    """Blur, bicubic, noise, JPEG, each left out with its chance: ranges of σ in LR pixels, σ in levels, quality. With a
    chance of `clean` all but the bicubic are left out together."""

    blur: tuple[float, float] = (0.1, 1.0)
    noise: tuple[float, float] = (1.0, 15.0)
    quality: tuple[int, int] = (30, 90)
    without: tuple[float, float, float] = (0.3, 0.3, 0.2)
    clean: float = 0.0

    def __call__(self, hr: Tensor, size: Size, random: Random) -> Tensor:
        """HR crop (3, H, W) → LR (3, *size) in 8 bits."""
        skip = random.random(3) < self.without
        if self.clean and random.random() < self.clean:
            skip[:] = True
        if not skip[0]:
            step = math.sqrt(hr.shape[-2] * hr.shape[-1] / (size[0] * size[1]))
            sigma = random.uniform(*self.blur) * step
            side = 2 * math.ceil(3 * sigma) + 1
            hr = blur(hr, gaussian_kernel(side, (sigma, sigma))).clamp(0, 1)
        lr = bicubic_8bit(hr, size, random)
        if not skip[1]:
            lr = gaussian_noise(lr, random.uniform(*self.noise) / 255, random, gray=bool(random.random() < 0.4))
        if not skip[2]:
            lr = jpeg(lr, int(random.integers(self.quality[0], self.quality[1] + 1)))
        return (lr * 255).round() / 255


photo = Photo()
