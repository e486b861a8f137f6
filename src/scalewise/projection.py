"""360° images: equirectangular (ERP) latitudes, and the fisheye down-sampling that makes their LR.

An ERP row at latitude φ shows cos φ as much of the sphere as a row at the equator; WS-PSNR weights it so (Sun et al.,
IEEE SPL 2017). The fisheye down-sampling is OSRT's (Yu et al., CVPR 2023): a lens projects before a sensor samples.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from scalewise.errors import UnsupportedScale
from scalewise.resize import pillow_bicubic

FISHEYE_EXPAND = 1.25  # each hemisphere reaches 112.5° from its pole, so that the equator lies well inside both
FISHEYE_DENSITY = 1.5  # fisheye side per ERP height, which keeps the mean pixel density


@lru_cache(maxsize=64)
def row_latitudes(height: int) -> Float[Tensor, "h"]:
    """Latitude of each row's centre in radians, float64, as the papers count it: from -π/2 at the top row on."""
    return (torch.arange(height, dtype=torch.float64) + 0.5 - height / 2) * (math.pi / height)


def latitude_weights(height: int) -> Float[Tensor, "h"]:
    """cos(latitude) of each row: how much of the sphere it covers. float64, symmetric."""
    return torch.cos(row_latitudes(height))


def fisheye_shrink(image: Float[Tensor, "3 H W"], scale: int) -> Float[Tensor, "3 h w"]:
    """The LR of an ERP image, (H // scale, W // scale), 8-bit levels in the fisheye plane, in [0, 1].

    Two polar hemispheres in equidistant projection, expanded by 1.25, side round(1.5 * 1.25 * H): bilinear ERP to
    fisheye, Pillow's bicubic on 8 bits, bilinear back. Longitude wraps and 8-bit values are rounded here; OSRT blends
    the outermost half pixels with black and truncates.
    """
    height, width = image.shape[-2:]
    h, w = height // scale, width // scale
    if scale != int(scale) or scale < 1 or h < 2 or w < 2:
        raise UnsupportedScale(f"fisheye down-sampling takes whole factors; got {scale} for {width}x{height}")
    image = image[..., : h * scale, : w * scale].float()
    side = round(height * FISHEYE_DENSITY * FISHEYE_EXPAND)
    centres = (2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1
    y, x = centres[:, None] * FISHEYE_EXPAND, centres[None, :] * FISHEYE_EXPAND
    colatitude = torch.hypot(y, x)  # 1 is the equator
    longitude = torch.atan2(y, x) / math.pi  # [-1, 1]
    inside = colatitude <= FISHEYE_EXPAND

    lr_row = (2 * torch.arange(h, dtype=torch.float64) + 1) / h - 1
    lr_column = (2 * torch.arange(w, dtype=torch.float64) + 1) / w - 1
    halves = []
    for pole, rows in ((-1, lr_row[: h // 2]), (1, lr_row[h // 2 :])):  # top, bottom
        fisheye = _sample(_wrap(image), pole * (1 - colatitude), longitude * width / (width + 2)) * inside
        levels = (fisheye * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        shrunk = torch.from_numpy(pillow_bicubic(levels, (side // scale, side // scale)).copy())
        shrunk = shrunk.permute(2, 0, 1).float() / 255
        radius = (1 - pole * rows[:, None]) / FISHEYE_EXPAND
        angle = lr_column[None, :] * math.pi
        halves.append(_sample(shrunk, radius * torch.sin(angle), radius * torch.cos(angle)))
    return torch.cat(halves, 1).clamp(0, 1)


def _wrap(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w+2"]:
    """One column of the other side on each side, so that bilinear sampling crosses the seam."""
    return torch.cat([image[..., -1:], image, image[..., :1]], -1)


def _sample(image: Float[Tensor, "3 h w"], y: Tensor, x: Tensor) -> Float[Tensor, "3 *q"]:
    """Bilinear at y, x in [-1, 1] (borders are pixel edges)."""
    grid = torch.stack(torch.broadcast_tensors(x, y), -1).to(image)
    return F.grid_sample(image[None], grid[None], "bilinear", "border", align_corners=False)[0]
