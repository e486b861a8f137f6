"""Bicubic resizing, exact in two senses: as MATLAB's `imresize` does it, and as Pillow does it.

The cubic kernel is Keys' (IEEE TASSP 1981) with a = -0.5. MATLAB widens it when it shrinks (antialiasing), repeats
the border symmetrically and places the centre of pixel i at i + 0.5, as this project does everywhere.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scalewise.budget.meter import tick
from scalewise.errors import UnsupportedScale
from scalewise.geometry.grid import Box, Frame, Size

if TYPE_CHECKING:
    from PIL import Image

Taps = tuple[Tensor, Tensor]  # indices (out, taps) int64, weights (out, taps)

BASE_REACH = 3  # LR pixels under the taps of `bicubic_base`
BAND = 32  # output pixels per small dense matrix; measured from 4 to 128, at factors from 0.1 to 4


def imresize(
    image: Tensor,
    size: tuple[int, int] | None = None,
    scale: float | tuple[float, float] | None = None,
    *,
    antialias: bool = True,
) -> Tensor:
    """MATLAB's bicubic imresize in floating point, (..., h, w) → (..., H, W): nothing is clipped, nothing is rounded.

    By `scale` the size is ceil(n * scale) and the kernel uses that scale; by `size` the scale of each axis is out / in.
    """
    h, w = image.shape[-2:]
    if (size is None) == (scale is None):
        raise UnsupportedScale("imresize needs a size or a scale, and not both")
    if size is not None:
        scales: tuple[float | None, float | None] = (None, None)
    else:
        scales = scale if isinstance(scale, tuple) else (scale, scale)
        size = (output_length(h, scales[0]), output_length(w, scales[1]))
    rows = axis_taps(h, size[0], scales[0], antialias)
    columns = axis_taps(w, size[1], scales[1], antialias)
    return resample(image, rows, columns)


def output_length(length: int, scale: float | None) -> int:
    """MATLAB's output length by factor: ceil(n * scale)."""
    if scale is None or not (math.isfinite(scale) and scale > 0):
        raise UnsupportedScale(f"a scale is a positive number; got {scale}")
    return math.ceil(length * scale)


@lru_cache(maxsize=256)
def axis_taps(
    length_in: int,
    length_out: int,
    scale: float | None = None,
    antialias: bool = True,
    goes_on: tuple[bool, bool] = (False, False),
) -> Taps:
    """Which input pixels make an output pixel of one axis, and how much each counts: (out, taps) twice.

    The scale is length_out / length_in unless given. Weights are float64 and sum to 1. Where the image `goes_on`
    (before its first pixel, after its last) indices count on; elsewhere they are mirrored. The tensors are shared by
    all callers: slice them, never write to them.
    """
    if length_in < 1 or length_out < 1:
        raise UnsupportedScale(f"cannot resize {length_in} pixels to {length_out}: both must be at least 1")
    scale = length_out / length_in if scale is None else scale
    stretch = min(scale, 1.0) if antialias else 1.0
    support = 4.0 / stretch
    centre = (torch.arange(length_out, dtype=torch.float64) + 0.5) / scale - 0.5
    first = torch.floor(centre - support / 2)
    offsets = torch.arange(math.ceil(support) + 2, dtype=torch.float64)
    position = first[:, None] + offsets  # (out, taps)
    weights = stretch * cubic(stretch * (centre[:, None] - position))
    weights = weights / weights.sum(1, keepdim=True)
    used = (weights != 0).any(0)
    position = position[:, used].to(torch.int64)
    folded = position % (2 * length_in)
    folded = torch.where(folded < length_in, folded, 2 * length_in - 1 - folded)  # symmetric border
    beyond = (position < 0) & goes_on[0] | (position >= length_in) & goes_on[1]
    return torch.where(beyond, position, folded).contiguous(), weights[:, used].contiguous()


def cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel, a = -0.5."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, torch.zeros_like(x)))


def resample(image: Tensor, rows: Taps, columns: Taps, *, rows_first: bool | None = None) -> Tensor:
    """Apply the taps of both axes to (..., h, w): slices of `axis_taps` give any rectangle of the output.

    Indices count from the first row and column of `image`. float64 stays float64, all else is computed in float32. The
    axis that leaves less to do comes first, unless `rows_first` says which.
    """
    with torch.autocast(image.device.type, enabled=False):  # half a level of error at 0.9 otherwise
        return _resample(image if image.dtype == torch.float64 else image.float(), rows, columns, rows_first)


def _resample(image: Tensor, rows: Taps, columns: Taps, rows_first: bool | None) -> Tensor:
    rows, top, bottom = _narrow(rows)
    columns, left, right = _narrow(columns)
    image = image[..., top:bottom, left:right]
    if rows_first is None:
        rows_first = len(rows[0]) * (right - left) <= (bottom - top) * len(columns[0])
    if rows_first:
        return _apply(_apply(image, rows, -2), columns, -1)
    return _apply(_apply(image, columns, -1), rows, -2)


def resample_macs(rows: Taps, columns: Taps, channels: int = 3, *, rows_first: bool | None = None) -> int:
    """Multiply-accumulates of the matrix products that `resample` runs for these taps."""
    rows, top, bottom = _narrow(rows)
    columns, left, right = _narrow(columns)
    height, width, out_height, out_width = bottom - top, right - left, len(rows[0]), len(columns[0])
    if rows_first is None:
        rows_first = out_height * width <= height * out_width
    if rows_first:
        return channels * (_band_area(rows) * width + _band_area(columns) * out_height)
    return channels * (_band_area(columns) * height + _band_area(rows) * out_width)


def _band_area(taps: Taps) -> int:
    """Summed sizes of the banded matrices of one axis."""
    bands = taps[0].split(BAND)
    return sum(len(index) * (int(index.max()) - int(index.min()) + 1) for index in bands if len(index))


def _narrow(taps: Taps) -> tuple[Taps, int, int]:
    """The same taps on the range of pixels that they touch: taps, first, last + 1."""
    indices, weights = taps
    if indices.numel() == 0:
        return taps, 0, 0
    first, last = int(indices.min()), int(indices.max())
    return (indices - first, weights), first, last + 1


def _apply(image: Tensor, taps: Taps, axis: int) -> Tensor:
    """One axis. Neighbouring outputs share inputs, so a band of them is one small matrix product.

    At 4000x2700x3 on one core: 0.12 to 0.3 seconds, where gathering tap by tap takes 2.5 to 3.
    """
    indices, weights = taps
    shape = list(image.shape)
    shape[axis] = len(indices)
    result = image.new_empty(shape)
    for start in range(0, len(indices), BAND):
        tick()  # a picture of many pixels takes seconds, and no layer with weights runs
        index, weight = indices[start : start + BAND], weights[start : start + BAND]
        first = int(index.min())
        matrix = weight.new_zeros(len(index), int(index.max()) - first + 1)
        matrix.scatter_add_(1, index - first, weight)
        matrix = matrix.to(image)
        source = image.narrow(axis, first, matrix.shape[1])
        # Put in its place at once: bands that are joined afterwards take twice the new memory, which is slow.
        result.narrow(axis, start, len(index)).copy_(matrix @ source if axis == -2 else source @ matrix.T)
    return result


def bicubic_base(lr: Tensor, frame: Frame, out: Size, target: Box) -> Tensor:
    """Bicubic enlargement (MATLAB's kernel and border) of the output box `target`, from a tile at `frame`."""
    return resample(lr, *_base_taps(frame, out, target), rows_first=_rows_first(frame, out))


@lru_cache(maxsize=256)
def base_macs(frame: Frame, out: Size, target: Box) -> int:
    """Multiply-accumulates of the matrix products of `bicubic_base`."""
    return resample_macs(*_base_taps(frame, out, target), rows_first=_rows_first(frame, out))


def _rows_first(frame: Frame, out: Size) -> bool:
    """The order of the axes for the whole picture, which its tiles take too: so they round as it does.

    Rows come first only where that leaves at least 2% less to do, so not at equal factors: what is computed last is
    then rows of the output, which lie in one piece. At ×4 that takes two thirds of the time."""
    return 102 * out[0] * frame.size[1] < 100 * frame.size[0] * out[1]


def _base_taps(frame: Frame, out: Size, target: Box) -> tuple[Taps, Taps]:
    (h, w), (oy, ox) = frame.size, frame.origin
    rows_go_on, columns_go_on = frame.goes_on
    row_index, row_weight = axis_taps(h, out[0], goes_on=rows_go_on)
    column_index, column_weight = axis_taps(w, out[1], goes_on=columns_go_on)
    return (
        (row_index[target[0] : target[2]] - oy, row_weight[target[0] : target[2]]),
        (column_index[target[1] : target[3]] - ox, column_weight[target[1] : target[3]]),
    )


def pillow_bicubic(image: np.ndarray | Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Pillow's bicubic of an 8-bit picture to (H, W): what LIIF and its followers make LR images with.

    It rounds to 8 bits after each axis, so the order of the axes shows in the last bit. Pillow resized rows of pixels
    first until version 13, which starts with the columns where the height shrinks by more than twice what the width
    does; we do so with every version, in two steps that are exact.
    """
    from PIL import Image  # here, so that training from a pack does not need it

    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    height, width = size
    columns_first = height < picture.height and picture.height - height > 2 * (picture.width - width)
    between = (picture.width, height) if columns_first else (width, picture.height)
    halfway = picture.resize(between, Image.Resampling.BICUBIC)
    return np.asarray(halfway.resize((width, height), Image.Resampling.BICUBIC))
