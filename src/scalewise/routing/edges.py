"""How busy a patch is, as ARM (Chen et al., ECCV 2022) and ENAF (Nguyen et al., WACV 2025) measure it by OpenCV."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gray(levels: Tensor) -> Tensor:
    """OpenCV's 8-bit RGB to gray, in its fixed point: uint8 (..., 3, h, w) → int32 (..., h, w)."""
    red, green, blue = levels.to(torch.int32).unbind(-3)
    return (9798 * red + 19235 * green + 3735 * blue + (1 << 14)) >> 15


def edge_map(levels: Tensor) -> Tensor:
    """|Laplacian| of the gray picture, saturated at 255: kernel [[2,0,2],[0,-8,0],[2,0,2]], border mirrored.

    uint8 (..., 3, h, w) → float32 (..., h, w).
    """
    plane = gray(levels).float()
    h, w = plane.shape[-2:]
    padded = plane.reshape(-1, 1, h, w)
    padded = F.pad(padded, (1, 1, 0, 0), mode="reflect" if w > 1 else "replicate")
    padded = F.pad(padded, (0, 0, 1, 1), mode="reflect" if h > 1 else "replicate")
    padded = padded.reshape(*plane.shape[:-2], h + 2, w + 2)
    corners = padded[..., :-2, :-2] + padded[..., :-2, 2:] + padded[..., 2:, :-2] + padded[..., 2:, 2:]
    return (2 * corners - 8 * plane).abs().clamp(max=255)


def edge_score(image: Tensor, *, truncate: bool = False) -> Tensor:
    """The mean of `edge_map`: how busy a patch is (ARM, ENAF). One number per picture of the batch, float64.

    ARM rounds to 8 bits first; ENAF truncates, which loses a level for some k / 255.
    """
    levels = image.clamp(0, 1) * 255
    levels = (levels if truncate else levels.round()).to(torch.uint8)
    return edge_map(levels).double().mean((-2, -1))
