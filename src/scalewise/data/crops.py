"""Samples: what is cut from the pictures, how its LR is made, and which points of it are learnt.

Sample i is a pure function of (pictures, seed, i): workers, batch size, processes and resuming change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scalewise.errors import DataError
from scalewise.geometry.grid import Size, axis_positions
from scalewise.geometry.resize import axis_taps, imresize, resample

Random = np.random.Generator
# hr (3, H, W) float in [0, 1], LR size → lr (3, h, w) in [0, 1]. Degradations are such functions.
Reduce = Callable[[Tensor, Size, Random], Tensor]
Sample = dict[str, Tensor]


class Samples(Protocol):
    """A way to make samples. `needs`: the shortest side that a picture must have."""

    @property
    def needs(self) -> int: ...

    def sample(self, pictures: Sequence[Tensor], random: Random) -> Sample:
        """One sample of pictures (3, h, w) uint8: at least `lr` (3, n, n) and `hr` in [0, 1], and `scale` (2,)."""
        ...


def bicubic_8bit(hr: Tensor, size: Size, random: Random) -> Tensor:
    """LR as nearly all papers make it: MATLAB's bicubic, rounded to 8 bits."""
    return (imresize(hr, size).clamp(0, 1) * 255).round() / 255


@dataclass(frozen=True)
class AnyScaleCrops:
    """LIIF's sampling (Chen et al., CVPR 2021, section 4): per sample a scale from U(low, high), an HR crop of side
    round(scale · lr_side), its LR, and points² of its pixels.

    `layout`: the pixels are "scattered" (LIIF's), random "rows" times random columns (keeps the whole crop in use and
    kernels separable), or one "window" (what a discriminator can look at). A share `unequal` of the samples draws a
    scale per axis; a share `whole` is at ×2, ×3 and so on, where pixels have centres that other scales do not have. Of
    `tries` crops the one with most detail is taken in half of the samples. `base` adds the bicubic enlargement at rows
    and columns, for networks that learn the residual on it. `target` makes of the crop what is to be learnt (sharpened,
    say); the crop itself is then `plain`. With `hr_side` a crop of that side is reduced as a whole, whatever the scale,
    and `lr_side` pixels of its LR are cut out: samples of all scales fit into one batch. Raises DataError if its LR
    could be smaller than that.

    A sample has `lr` (3, n, n), `y`, `x` float64 LR pixels, `cell` (2,), `scale` (2,), and `hr`: (3, p, p) at rows y
    (p,) and columns x (p,), or (p², 3) at points when scattered.
    """

    lr_side: int = 48
    points: int = 48
    layout: Literal["scattered", "rows", "window"] = "scattered"
    scales: tuple[float, float] = (1.0, 4.0)
    unequal: float = 0.25
    whole: float = 0.0
    tries: int = 1
    base: bool = False
    reduce: Reduce = bicubic_8bit
    target: Callable[[Tensor], Tensor] | None = None
    hr_side: int | None = None

    def __post_init__(self) -> None:
        if self.hr_side is not None and round(self.hr_side / self.scales[1]) < self.lr_side:
            raise DataError(
                f"crops of {self.hr_side} HR pixels have {round(self.hr_side / self.scales[1])} LR pixels at "
                f"×{self.scales[1]:g}, fewer than the {self.lr_side} that are learnt: raise hr_side"
            )
        if self.base and self.hr_side is not None:
            raise DataError("crops with hr_side have no base: the bicubic picture of a part is not a part of it")
        if self.whole and not self.whole_scales:
            raise DataError(f"no whole scale lies in {self.scales[0]:g} to {self.scales[1]:g}: leave `whole` at 0")

    @property
    def needs(self) -> int:
        return self.hr_side or round(self.lr_side * self.scales[1])

    @property
    def whole_scales(self) -> list[int]:
        """2, 3 and so on, as far as the scales reach."""
        return list(range(max(2, math.ceil(self.scales[0])), math.floor(self.scales[1]) + 1))

    def sample(self, pictures: Sequence[Tensor], random: Random) -> Sample:
        low, high = self.scales
        sy = random.uniform(low, high)
        sx = random.uniform(low, high) if random.random() < self.unequal else sy
        if self.whole and random.random() < self.whole:
            sy = sx = float(random.choice(self.whole_scales))
        (n, m), crop = self._sides((sy, sx))
        hr = flipped(random_crop(pictures, crop, random, self.tries), random).float() / 255
        lr = self.reduce(hr, (n, m), random)
        factors = torch.tensor([hr.shape[-2] / n, hr.shape[-1] / m])
        (y, above, top), (x, left, first) = (
            self._window(side, count, random) for side, count in zip(hr.shape[-2:], (n, m), strict=True)
        )
        if self.hr_side is not None:
            hr = hr[:, above : above + len(y), left : left + len(x)]
            lr = lr[:, top : top + self.lr_side, first : first + self.lr_side]
        size = (len(y), len(x))
        sample = {"lr": lr, "scale": factors, "cell": 1 / factors}
        goals = {"hr": hr} if self.target is None else {"hr": self.target(hr), "plain": hr}
        if self.layout == "scattered":
            count = self.points**2
            chosen = torch.from_numpy(random.choice(size[0] * size[1], count, replace=size[0] * size[1] < count))
            rows, columns = chosen // size[1], chosen % size[1]
            points = {name: goal[:, rows, columns].T.contiguous() for name, goal in goals.items()}
            return sample | points | {"y": y[rows], "x": x[columns]}
        rows, columns = (self._lines(side, random) for side in size)
        sample |= {name: goal[:, rows][:, :, columns] for name, goal in goals.items()}
        sample |= {"y": y[rows], "x": x[columns]}
        if self.base:
            (iy, wy), (ix, wx) = axis_taps(n, size[0]), axis_taps(m, size[1])
            sample["base"] = resample(lr, (iy[rows], wy[rows]), (ix[columns], wx[columns]))
        return sample

    def _sides(self, scale: tuple[float, float]) -> tuple[Size, Size]:
        """Rows and columns of the LR at a scale (rows, columns), and of the HR crop that it is made of."""
        if self.hr_side is None:
            crop = (round(self.lr_side * scale[0]), round(self.lr_side * scale[1]))
            return (self.lr_side, self.lr_side), crop
        side = self.hr_side
        return (max(self.lr_side, round(side / scale[0])), max(self.lr_side, round(side / scale[1]))), (side, side)

    def _window(self, hr: int, lr: int, random: Random) -> tuple[Tensor, int, int]:
        """What is learnt of an axis: positions of HR pixels in LR pixels from the window's start, the first of these HR
        pixels, and the window's first LR pixel. All of it unless more was reduced than is learnt."""
        y = axis_positions(0, hr, lr, hr)
        if lr == self.lr_side:
            return y, 0, 0
        start = int(random.integers(lr - self.lr_side + 1))
        inside = ((y >= start) & (y < start + self.lr_side)).nonzero().squeeze(1)
        return y[inside] - start, int(inside[0]), start

    def _lines(self, side: int, random: Random) -> np.ndarray:
        if self.layout == "window":
            if self.points > side:
                raise DataError(f"windows of {self.points} pixels do not fit crops of {side}: raise the lowest scale")
            return np.arange(self.points) + random.integers(side - self.points + 1)
        return np.sort(random.choice(side, self.points, replace=side < self.points))


@dataclass(frozen=True)
class FixedScaleCrops:
    """Whole crops at one scale: `lr` (3, n, n), `hr` (3, n·scale, n·scale), `scale` (2,)."""

    scale: int = 4
    lr_side: int = 48
    tries: int = 1
    reduce: Reduce = bicubic_8bit

    @property
    def needs(self) -> int:
        return self.lr_side * self.scale

    def sample(self, pictures: Sequence[Tensor], random: Random) -> Sample:
        side = self.needs
        hr = flipped(random_crop(pictures, (side, side), random, self.tries), random).float() / 255
        lr = self.reduce(hr, (self.lr_side, self.lr_side), random)
        return {"lr": lr, "hr": hr, "scale": torch.tensor([float(self.scale)] * 2)}


def random_crop(pictures: Sequence[Tensor], size: Size, random: Random, tries: int = 1) -> Tensor:
    """A uniform crop (3, *size); in half of the cases the most detailed of `tries`."""
    crops = []
    for _ in range(tries if tries > 1 and random.random() < 0.5 else 1):
        picture = pictures[int(random.integers(len(pictures)))]
        top = int(random.integers(picture.shape[-2] - size[0] + 1))
        left = int(random.integers(picture.shape[-1] - size[1] + 1))
        crops.append(picture[:, top : top + size[0], left : left + size[1]])
    return max(crops, key=detail) if len(crops) > 1 else crops[0]


def detail(picture: Tensor) -> float:
    """Mean absolute gradient of green, in levels, of a uint8 picture (3, h, w)."""
    green = picture[1].float()
    return float(green.diff(dim=0).abs().mean() + green.diff(dim=1).abs().mean())


def flipped(crop: Tensor, random: Random) -> Tensor:
    """Flips and transpose, each with probability ½."""
    if random.random() < 0.5:
        crop = crop.flip(-1)
    if random.random() < 0.5:
        crop = crop.flip(-2)
    if random.random() < 0.5:
        crop = crop.transpose(-1, -2)
    return crop.contiguous()


def large_enough(pictures: Sequence[Tensor], samples: Samples) -> list[Tensor]:
    """The pictures that have room for a crop. Raises DataError if none has."""
    fitting = [picture for picture in pictures if min(picture.shape[-2:]) >= samples.needs]
    if not fitting:
        largest = max((min(picture.shape[-2:]) for picture in pictures), default=0)
        raise DataError(
            f"no picture has {samples.needs} pixels on both sides, which the crops need (the largest has {largest}): "
            "give larger pictures or another recipe"
        )
    return fitting


class Numbered(Dataset[Sample]):
    """Samples of steps first..stop-1 in their order: step k holds the samples k·batch … (k + 1)·batch - 1, of which
    process `rank` of `world` takes its part, so any number of processes sees the same batches."""

    def __init__(
        self,
        samples: Samples,
        pictures: Sequence[Tensor],
        *,
        seed: tuple[int, ...],
        batch: int,
        stop: int,
        first: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch % world:
            raise DataError(f"a batch of {batch} cannot be shared by {world} processes: use a number that divides it")
        self.samples, self.pictures, self.seed = samples, large_enough(pictures, samples), seed
        self.batch, self.first, self.stop, self.rank, self.part = batch, first, stop, rank, batch // world

    def __len__(self) -> int:
        return (self.stop - self.first) * self.part

    def __getitem__(self, index: int) -> Sample:
        step, place = divmod(index, self.part)
        number = (self.first + step) * self.batch + self.rank * self.part + place
        return self.samples.sample(self.pictures, np.random.default_rng((*self.seed, number)))
