"""Training data: folders of photos decoded once, and seeded random crops at random scales.

Sample i of a dataset is a pure function of (images, seed, i): workers, batch size and resuming change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scalewise import images
from scalewise.errors import DataError, ImageError
from scalewise.grid import axis_positions
from scalewise.resize import axis_taps, imresize, resample

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")


def decode_folder(
    folder: Path | str, *, limit: int | None = None, progress: Callable[[str], None] | None = None
) -> list[Tensor]:
    """Every picture of a folder as (3, h, w) uint8, sorted by name. Raises DataError if there is none or one is bad."""
    paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES) if Path(folder).is_dir() else []
    if not paths:
        raise DataError(f"no pictures in {str(folder)!r}: give a folder that holds {', '.join(SUFFIXES)}")
    decoded = []
    for path in paths[:limit]:
        if progress is not None:
            progress(path.name)
        try:
            decoded.append((images.open(path).read() * 255).round().to(torch.uint8))
        except ImageError as error:
            raise DataError(f"training data: {error}") from error
    return decoded


@dataclass(frozen=True)
class Sample:
    """One training pair: `lr` (3, n, n) and `base`, `hr` (3, p, p) in [0, 1] at rows y and columns x (p,) float64 LR
    pixels; `cell` and `scale` (2,)."""

    lr: Tensor
    hr: Tensor
    base: Tensor
    y: Tensor
    x: Tensor
    cell: Tensor
    scale: Tensor

    def as_dict(self) -> dict[str, Tensor]:
        return dict(self.__dict__)


class AnyScaleCrops(Dataset[dict[str, Tensor]]):
    """LIIF's sampling (Chen et al., CVPR 2021, section 4): per sample a scale from U(low, high), an HR crop of side
    round(scale · lr_side), its bicubic LR in 8 bits, and some of its pixels.

    Differences: the pixels are `points` random rows times `points` random columns, which keeps the whole LR crop in
    use and the kernels separable; a share `unequal` of the samples draws a scale per axis; of `tries` crops the one
    with most detail is taken in half of the samples.
    """

    def __init__(
        self,
        pictures: list[Tensor],
        *,
        length: int,
        lr_side: int = 48,
        points: int = 96,
        scales: tuple[float, float] = (1.0, 4.0),
        unequal: float = 0.25,
        tries: int = 3,
        seed: int = 0,
        first: int = 0,
    ) -> None:
        largest = round(lr_side * scales[1])
        self.pictures = [p for p in pictures if min(p.shape[-2:]) >= largest]
        if not self.pictures:
            raise DataError(f"no picture has {largest} pixels on both sides, which ×{scales[1]:g} crops need")
        self.length, self.first = length, first
        self.lr_side, self.points, self.scales, self.unequal, self.tries = lr_side, points, scales, unequal, tries
        self.seed = seed

    def __len__(self) -> int:
        return self.length - self.first

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        random = np.random.default_rng((self.seed, index + self.first))
        low, high = self.scales
        sy = random.uniform(low, high)
        sx = random.uniform(low, high) if random.random() < self.unequal else sy
        size = (round(self.lr_side * sy), round(self.lr_side * sx))
        hr = self._augment(self._crop(size, random), random).float() / 255
        if hr.shape[-2:] != size:
            size = (hr.shape[-2], hr.shape[-1])
        n = self.lr_side
        lr = (imresize(hr, (n, n)).clamp(0, 1) * 255).round() / 255
        rows, columns = (np.sort(random.choice(side, self.points, replace=side < self.points)) for side in size)
        base = resample(
            lr,
            tuple(t[rows] for t in axis_taps(n, size[0])),  # type: ignore[arg-type]
            tuple(t[columns] for t in axis_taps(n, size[1])),  # type: ignore[arg-type]
        )
        y, x = (axis_positions(0, side, n, side) for side in size)
        factors = (size[0] / n, size[1] / n)
        return Sample(
            lr=lr,
            hr=hr[:, rows][:, :, columns],
            base=base,
            y=y[rows],
            x=x[columns],
            cell=torch.tensor([1 / f for f in factors]),
            scale=torch.tensor(factors),
        ).as_dict()

    def _crop(self, size: tuple[int, int], random: np.random.Generator) -> Tensor:
        """A uniform crop; in half of the samples the most detailed of several."""
        best, most = None, -1.0
        for _ in range(self.tries if random.random() < 0.5 else 1):
            picture = self.pictures[random.integers(len(self.pictures))]
            top = int(random.integers(picture.shape[-2] - size[0] + 1))
            left = int(random.integers(picture.shape[-1] - size[1] + 1))
            crop = picture[:, top : top + size[0], left : left + size[1]]
            luma = crop[1].float()
            detail = float(luma.diff(dim=0).abs().mean() + luma.diff(dim=1).abs().mean())
            if detail > most:
                best, most = crop, detail
        assert best is not None
        return best

    @staticmethod
    def _augment(crop: Tensor, random: np.random.Generator) -> Tensor:
        """Flips and transpose, each with probability ½."""
        if random.random() < 0.5:
            crop = crop.flip(-1)
        if random.random() < 0.5:
            crop = crop.flip(-2)
        if random.random() < 0.5:
            crop = crop.transpose(-1, -2)
        return crop.contiguous()
