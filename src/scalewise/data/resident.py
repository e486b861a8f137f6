"""Samples made where the pictures are: all photos in the memory of one device, a batch at a time, without a loop.

What `crops.AnyScaleCrops` draws one by one on the CPU, drawn by the device: crops, flips, MATLAB's bicubic (a matrix
per sample and axis), the rows and columns to learn, the bicubic base. No step of it waits for the host, so it can be
captured in a CUDA graph together with the network's step. Random numbers are the device's own generator's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from scalewise.data.crops import AnyScaleCrops, Sample, bicubic_8bit, large_enough
from scalewise.data.degradations import Photo
from scalewise.data.jpeg import compressed
from scalewise.errors import DataError
from scalewise.geometry.grid import Size
from scalewise.geometry.resize import cubic

CELL = 32  # HR pixels a side of the map of detail


@dataclass(frozen=True)
class Pictures:
    """Photos one after the other: `pixels` (n, 3) uint8; of each its height, width, where it starts; `detail`
    (pictures, rows, columns) is the mean absolute gradient of its cells."""

    pixels: Tensor
    height: Tensor
    width: Tensor
    start: Tensor
    detail: Tensor
    sizes: list[Size]

    @classmethod
    def of(cls, pictures: Sequence[Tensor], device: torch.device) -> Pictures:
        """The photos of pictures (3, h, w) uint8."""
        sizes = torch.tensor([picture.shape[-2:] for picture in pictures])
        maps = [_detail(picture) for picture in pictures]
        rows, columns = (max(m.shape[axis] for m in maps) for axis in (0, 1))
        detail = torch.stack([F.pad(m, (0, columns - m.shape[1], 0, rows - m.shape[0])) for m in maps])
        areas = sizes.prod(1)
        pixels = torch.cat([picture.flatten(1).T for picture in pictures]).to(device)
        start = (areas.cumsum(0) - areas).to(device)
        return cls(
            pixels,
            sizes[:, 0].to(device),
            sizes[:, 1].to(device),
            start,
            detail.to(device),
            [(h, w) for h, w in sizes.tolist()],
        )


def _detail(picture: Tensor) -> Tensor:
    green = picture[1].float()
    gradient = green.diff(dim=0).abs()[:, :-1] + green.diff(dim=1).abs()[:-1]
    return F.avg_pool2d(gradient[None], CELL, ceil_mode=True)[0]


class DeviceCrops:
    """`batch(n)`: n samples of `crops` from `pictures`, all on their device; the keys of `AnyScaleCrops` with layout
    "rows" and base. Reductions that it knows: `bicubic_8bit` and `degradations.Photo`. Raises DataError for others."""

    def __init__(self, pictures: Pictures, crops: AnyScaleCrops) -> None:
        if crops.layout != "rows" or (not isinstance(crops.reduce, Photo) and crops.reduce is not bicubic_8bit):
            raise DataError("samples are made on the device for rows and columns, by bicubic_8bit or Photo only")
        if crops.hr_side is not None:
            raise DataError("samples with an hr_side are not made on the device: train them by the engine")
        if crops.target is not None:
            raise DataError("samples with a target of their own are not made on the device: train them by the engine")
        large_enough([torch.empty(size, device="meta") for size in pictures.sizes], crops)
        room = [number for number, size in enumerate(pictures.sizes) if min(size) >= crops.needs]
        self.large = torch.tensor(room, device=pictures.pixels.device)
        self.pictures, self.crops = pictures, crops
        self.device = pictures.pixels.device

    def batch(self, n: int) -> Sample:
        crops, side = self.crops, self.crops.lr_side
        factors = self._factors(n)
        sizes = (factors * side).round()  # (n, 2) HR rows and columns of each crop
        factors = sizes / side
        hr = self._cut(sizes.long()) / 255  # (n, 3, most, most), right only within its size
        rows_of, columns_of = (self._reduction(sizes[:, axis], hr.shape[-1]) for axis in (0, 1))
        if isinstance(crops.reduce, Photo):
            lr = self._degraded(hr, sizes, rows_of, columns_of, crops.reduce)
        else:
            lr = _eight_bits(rows_of @ hr @ columns_of.transpose(2, 3))
        rows, columns = (self._lines(sizes[:, axis]) for axis in (0, 1))
        y, x = (
            (line.double() + 0.5) * side / size.unsqueeze(1)
            for line, size in ((rows, sizes[:, 0]), (columns, sizes[:, 1]))
        )
        picked = hr.gather(2, rows.view(n, 1, -1, 1).expand(-1, 3, -1, hr.shape[-1]))
        picked = picked.gather(3, columns.view(n, 1, 1, -1).expand(-1, 3, picked.shape[2], -1))
        sample = {"lr": lr, "hr": picked, "y": y, "x": x, "scale": factors, "cell": 1 / factors}
        if crops.base:
            up, across = (taps_matrix(line - 0.5, 1.0, side, side)[:, None].float() for line in (y, x))
            sample["base"] = up @ lr @ across.transpose(2, 3)
        return sample

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(*shape, device=self.device)

    def _factors(self, n: int) -> Tensor:
        low, high = self.crops.scales
        both = low + (high - low) * self._rand(n, 2)
        equal = self._rand(n, 1) >= self.crops.unequal
        factors = torch.where(equal, both[:, :1], both)
        if self.crops.whole:
            scales = self.crops.whole_scales
            drawn = scales[0] + (self._rand(n, 1) * len(scales)).floor()
            factors = torch.where(self._rand(n, 1) < self.crops.whole, drawn, factors)
        return factors

    def _cut(self, sizes: Tensor) -> Tensor:
        """Flipped and transposed crops, in half of the cases the most detailed of `tries`: (n, 3, most, most)."""
        pictures, n, tries = self.pictures, len(sizes), self.crops.tries
        turned = self._rand(n, 1) < 0.5
        taken = torch.where(turned, sizes.flip(1), sizes)  # rows and columns in the picture
        which = self.large[(self._rand(n, tries) * len(self.large)).long()]
        room = torch.stack((pictures.height[which], pictures.width[which]), 2) - taken.unsqueeze(1)
        corner = (self._rand(n, tries, 2) * (room + 1)).long()  # (n, tries, 2)
        middle = (corner + taken.unsqueeze(1) // 2) // CELL
        score = pictures.detail[which, middle[..., 0], middle[..., 1]]
        best = torch.where(self._rand(n) < 0.5, score.argmax(1), torch.zeros_like(which[:, 0])).unsqueeze(1)
        which = which.gather(1, best)[:, 0]
        corner = corner.gather(1, best.unsqueeze(2).expand(-1, -1, 2))[:, 0]
        most = round(self.crops.lr_side * self.crops.scales[1])
        line = torch.arange(most, device=self.device)
        rows, columns = (torch.minimum(line, size.unsqueeze(1) - 1) for size in sizes.unbind(1))  # (n, most)
        rows = torch.where(self._rand(n, 1) < 0.5, sizes[:, :1] - 1 - rows, rows)
        columns = torch.where(self._rand(n, 1) < 0.5, sizes[:, 1:] - 1 - columns, columns)
        turned = turned.view(n, 1, 1)
        row = torch.where(turned, columns.unsqueeze(1), rows.unsqueeze(2)) + corner[:, 0].view(n, 1, 1)
        column = torch.where(turned, rows.unsqueeze(2), columns.unsqueeze(1)) + corner[:, 1].view(n, 1, 1)
        index = pictures.start[which].view(n, 1, 1) + row * pictures.width[which].view(n, 1, 1) + column
        return pictures.pixels[index].movedim(3, 1).float()

    def _reduction(self, length: Tensor, columns: int) -> Tensor:
        """(n, 1, lr_side, columns): MATLAB's bicubic from `length` (n,) pixels to lr_side."""
        side = self.crops.lr_side
        factor = length.double().unsqueeze(1) / side
        centre = (torch.arange(side, device=self.device) + 0.5) * factor - 0.5
        reach = math.ceil(2 * self.crops.scales[1]) + 2
        return taps_matrix(centre, 1 / factor, length, columns, reach)[:, None].float()

    def _degraded(self, hr: Tensor, sizes: Tensor, rows: Tensor, columns: Tensor, photo: Photo) -> Tensor:
        n = len(hr)
        dirty = self._rand(n) >= photo.clean
        blurred, noised, packed = ((self._rand(n) >= share) & dirty for share in photo.without)
        step = (sizes.prod(1) / self.crops.lr_side**2).sqrt()
        sigma = self._within(n, photo.blur) * step
        line = torch.arange(hr.shape[-1], device=self.device)
        gauss = torch.exp(-((line.unsqueeze(1) - line) ** 2) / (2 * sigma.view(n, 1, 1) ** 2))
        gauss = torch.where(blurred.view(n, 1, 1), gauss, torch.eye(len(line), device=self.device))
        soft = []
        for axis in (0, 1):
            inside = line < sizes[:, axis].view(n, 1, 1)
            matrix = gauss * inside
            soft.append((matrix / matrix.sum(2, keepdim=True).clamp_min(1e-6))[:, None])
        hr = (soft[0] @ hr @ soft[1].transpose(2, 3)).clamp(0, 1)
        lr = _eight_bits(rows @ hr @ columns.transpose(2, 3))
        gray = (self._rand(n, 1, 1, 1) < 0.4).float()
        noise = torch.randn(lr.shape, device=self.device)
        noise = gray * noise[:, :1] + (1 - gray) * noise
        amount = self._within(n, photo.noise) / 255 * noised
        lr = (lr + amount.view(n, 1, 1, 1) * noise).clamp(0, 1)
        low, high = photo.quality
        quality = low + (self._rand(n) * (high - low + 1)).long()
        return _eight_bits(torch.where(packed.view(n, 1, 1, 1), compressed(lr, quality), lr))

    def _within(self, n: int, span: tuple[float, float]) -> Tensor:
        return span[0] + (span[1] - span[0]) * self._rand(n)

    def _lines(self, length: Tensor) -> Tensor:
        """(n, points) of the first `length` (n,) lines in order, without repeating any while there are enough."""
        points, most = self.crops.points, round(self.crops.lr_side * self.crops.scales[1])
        ticket = self._rand(len(length), most) + 2.0 * (torch.arange(most, device=self.device) >= length.unsqueeze(1))
        chosen = ticket.topk(points, dim=1, largest=False).indices
        again = (self._rand(*chosen.shape) * length.unsqueeze(1)).long()
        return torch.where(chosen < length.unsqueeze(1), chosen, again).sort(1).values


def taps_matrix(centre: Tensor, stretch: Tensor | float, length: Tensor | int, columns: int, reach: int = 3) -> Tensor:
    """`resize.axis_taps` for a batch, as matrices: centres (n, out) in input pixels, kernel widened by 1 / stretch,
    input lengths (n,) mirrored at their ends; (n, out, columns) float64."""
    position = torch.arange(-reach, columns + reach, device=centre.device)
    distance = centre.unsqueeze(2) - position
    weights = cubic(distance * (stretch.unsqueeze(2) if isinstance(stretch, Tensor) else stretch))
    weights = weights / weights.sum(2, keepdim=True)
    lengths = (
        length.long().view(-1, 1) if isinstance(length, Tensor) else torch.full((1, 1), length, device=centre.device)
    )
    folded = position % (2 * lengths)
    folded = torch.where(folded < lengths, folded, 2 * lengths - 1 - folded).clamp_max(columns - 1)
    matrix = weights.new_zeros(*centre.shape, columns)
    return matrix.scatter_add_(2, folded.unsqueeze(1).expand_as(weights), weights)


def _eight_bits(image: Tensor) -> Tensor:
    return (image.clamp(0, 1) * 255).round() / 255
