"""What JPEG does to a picture (ITU-T T.81 with JFIF colours), without writing a file: it works where libvips is not.

Only quantisation loses anything in JPEG, so coding is left out: colours to YCbCr, chroma halved, DCT of 8×8 blocks,
coefficients rounded to the tables of Annex K at a quality, and back. Differs from libjpeg in roundings of chroma.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from scalewise.errors import DataError

LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """(3, h, w) RGB in [0, 1] → the same after JPEG of `quality` 1-100 with 4:2:0 chroma, at 8-bit levels."""
    if not 1 <= quality <= 100:
        raise DataError(f"JPEG quality {quality} is out of range: 1 to 100")
    return compressed(image.unsqueeze(0), torch.tensor([quality], device=image.device))[0]


def compressed(images: Tensor, quality: Tensor) -> Tensor:
    """The same for a batch (b, 3, h, w), with a quality for each (b,) int64."""
    height, width = images.shape[-2:]
    levels = (images.clamp(0, 1) * 255).round()
    padded = F.pad(levels, (0, -width % 16, 0, -height % 16), mode="replicate")
    red, green, blue = padded.unbind(1)
    luma = (0.299 * red + 0.587 * green + 0.114 * blue).round()
    chroma = torch.stack(
        [
            128 - 0.168736 * red - 0.331264 * green + 0.5 * blue,
            128 + 0.5 * red - 0.418688 * green - 0.081312 * blue,
        ],
        1,
    ).round()
    small = F.avg_pool2d(chroma, 2).round()
    luma = quantised(luma.unsqueeze(1), table(LUMA, quality))[:, 0]
    small = quantised(small, table(CHROMA, quality))
    wide = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False).round() - 128
    cb, cr = wide.unbind(1)
    rgb = torch.stack([luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb], 1)
    return rgb.round().clamp(0, 255)[..., :height, :width] / 255


def quantised(planes: Tensor, steps: Tensor) -> Tensor:
    """(b, n, h, w) levels, sides multiples of 8, steps (b, 8, 8) → every DCT coefficient a multiple of its step."""
    b, n, height, width = planes.shape
    dct, steps = basis(planes.device), steps.view(b, 1, 1, 1, 8, 8)
    blocks = (planes - 128).view(b, n, height // 8, 8, width // 8, 8).transpose(3, 4)  # (…, rows, columns, 8, 8)
    coefficients = ((dct @ blocks @ dct.T) / steps).round() * steps
    return (dct.T @ coefficients @ dct).transpose(3, 4).reshape(b, n, height, width).add(128).round().clamp(0, 255)


@lru_cache(maxsize=4)
def basis(device: torch.device) -> Tensor:
    """The orthonormal DCT-II of 8 points: row k is the k-th cosine."""
    place, wave = torch.arange(8) + 0.5, torch.arange(8).unsqueeze(1)
    rows = torch.cos(math.pi / 8 * place * wave) / 2
    return torch.cat([rows[:1] * math.sqrt(0.5), rows[1:]]).to(device)


@lru_cache(maxsize=8)
def _annex_k(base: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    return torch.tensor(base, device=device)


def table(base: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """Annex K's table at each quality (b,), as the Independent JPEG Group scales it: (b, 8, 8)."""
    percent = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality).view(-1, 1, 1)
    return ((_annex_k(base, quality.device) * percent + 50) // 100).clamp(1, 255).float()
