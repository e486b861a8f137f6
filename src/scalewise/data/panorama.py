"""Samples for 360° images from ordinary photos: crops of an equirectangular (ERP) picture in which a photo hangs.

The photo is what a lens saw that looks at the crop's centre, so the ERP crop stretches it towards the poles as it
stretches the world. HR and LR are two ERP pictures of the photo, at its own size and reduced: a lens projects before a
sensor samples, which is what the fisheye down-sampling of OSRT (Yu et al., CVPR 2023) imitates on whole panoramas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from scalewise.data.crops import Random, Reduce, Sample, bicubic_8bit, flipped, random_crop
from scalewise.geometry.projection import FISHEYE_DENSITY, tangent_positions


@dataclass(frozen=True)
class PanoramaCrops:
    """Crops of an ERP picture `height` HR rows high: `lr` (3, n, n), `hr` (3, n·scale, n·scale), `scale` (2,), and
    `top`, the HR row where a crop starts, a multiple of the scale."""

    scale: int = 2
    lr_side: int = 64
    height: int = 1024
    tries: int = 1
    reduce: Reduce = bicubic_8bit

    @property
    def needs(self) -> int:
        """Pixels of the photo that a crop at the equator shows, the widest, in whole LR pixels."""
        side, focal = self.lr_side * self.scale, self.focal
        half = math.pi * side / self.height / 2
        return 2 * self.scale * (math.ceil(focal * math.tan(half) / math.cos(half) / self.scale) + 2)

    @property
    def focal(self) -> float:
        """Photo pixels per radian at the lens's axis: as dense as the plane of the fisheye down-sampling."""
        return FISHEYE_DENSITY * self.height / math.pi

    def sample(self, pictures: Sequence[Tensor], random: Random) -> Sample:
        n, s, photo = self.lr_side, self.scale, self.needs
        seen = flipped(random_crop(pictures, (photo, photo), random, self.tries), random).float() / 255
        top = s * int(random.integers(self.height // s - n + 1))
        hr = self.hung(seen, top, n * s, self.height, self.focal)
        small = self.reduce(seen, (photo // s, photo // s), random)
        lr = self.hung(small, top // s, n, self.height // s, self.focal / s)
        scale = torch.tensor([float(s)] * 2)
        return {"lr": lr, "hr": hr, "scale": scale, "top": torch.tensor(float(top))}

    @staticmethod
    def hung(photo: Tensor, top: int, side: int, height: int, focal: float) -> Tensor:
        """photo (3, p, p) as the ERP crop (3, side, side) whose first row is `top` of `height` shows it, bilinearly."""
        grid = torch.stack(tangent_positions(height, top, side), -1) * (2 * focal / photo.shape[-1])
        return F.grid_sample(photo[None], grid[None].float(), "bilinear", "border", align_corners=False)[0]
