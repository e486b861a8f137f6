"""360° images: how an equirectangular (ERP) picture goes on beyond its borders, latitudes, fisheye down-sampling.

An ERP row at latitude φ shows cos φ as much of the sphere as a row at the equator; WS-PSNR weights it so (Sun et al.,
IEEE SPL 2017). The fisheye down-sampling is OSRT's (Yu et al., CVPR 2023): a lens projects before a sensor samples.

Beyond its right border an ERP picture goes on at its left; beyond a pole it comes down on the other side of the sphere:
rows in reverse order, columns half a turn further (of an odd width, the half is rounded down). The picture thus becomes
an endless plane, and a tile is a box of that plane. `read_beyond` reads one; `Frame` tells the networks which borders
are none. Beyond real borders, of flat pictures too, the plane is the picture's reflection (`Frame.mirrored`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from scalewise.errors import InvalidRequest, UnsupportedScale
from scalewise.geometry.grid import Box, Frame, Size
from scalewise.geometry.resize import pillow_bicubic

FISHEYE_EXPAND = 1.25  # each hemisphere reaches 112.5° from its pole, so that the equator lies well inside both
FISHEYE_DENSITY = 1.5  # fisheye side per ERP height, which keeps the mean pixel density

Projection = Literal["auto", "flat", "erp"]

BEYOND_ANY_CONTEXT = 1 << 40  # LR pixels
RATIO_TOLERANCE = 0.01  # relative: stitching or shrinking a panorama can cost a pixel or two


def frame_of(size: Size, projection: Projection = "auto", gpano: Mapping[str, str] | None = None) -> Frame:
    """Which borders a picture has: all for "flat", and for "auto" unless its metadata say that it is a panorama.

    `gpano`: the fields of Google's Photo Sphere XMP. A part of a panorama wraps if it has all 360°, and then goes on
    over the poles that it reaches. "erp" without metadata: 2:1 is the whole sphere, a wider picture a strip of 360°
    that reaches no pole. Raises InvalidRequest for a narrower one.
    """
    if projection not in get_args(Projection):
        raise InvalidRequest(f"projection {projection!r} is not known: allowed are {', '.join(get_args(Projection))}")
    if projection == "flat":
        return Frame(size)
    described = _described(size, gpano or {})
    if described is not None or projection == "auto":
        return described or Frame(size)
    height, width = size
    if width < 2 * height * (1 - RATIO_TOLERANCE):
        raise InvalidRequest(
            f"{width}x{height} is no equirectangular picture of 360°, which is at least twice as wide as high: use "
            "projection flat"
        )
    whole = width <= 2 * height * (1 + RATIO_TOLERANCE)
    return Frame(size, wrap=True, poles=(whole, whole))


def _described(size: Size, gpano: Mapping[str, str]) -> Frame | None:
    """What the metadata of a panorama say, in their own pixels; None if they say nothing, or not of this picture."""
    if gpano.get("ProjectionType", "").strip().lower() != "equirectangular":
        return None
    least = 1 - RATIO_TOLERANCE
    names = ("FullPanoWidthPixels", "FullPanoHeightPixels", "CroppedAreaImageWidthPixels")
    names += ("CroppedAreaImageHeightPixels", "CroppedAreaTopPixels")
    try:
        full_width, full_height, width, height, top = (float(gpano[name]) for name in names)
    except KeyError:  # some cameras write the projection alone
        whole = least < size[1] / (2 * size[0]) < 1 / least
        return Frame(size, wrap=True, poles=(True, True)) if whole else None
    except ValueError:
        return None
    sound = min(full_width, full_height, width, height) > 0 and math.isfinite(full_width + full_height + top)
    if not (sound and least < (size[1] * height) / (size[0] * width) < 1 / least):
        return None  # cut or stretched by a program that does not know of panoramas
    if width < full_width * least:
        return Frame(size)
    slack = RATIO_TOLERANCE * full_height / 2
    return Frame(size, wrap=True, poles=(top <= slack, top + height >= full_height - slack))


def reach(frame: Frame) -> Box:
    """The box in which tiles may read: the image, what lies beyond the borders that are none, and the reflection
    beyond the others."""
    height, width = frame.size
    top, bottom = frame.poles
    both = BEYOND_ANY_CONTEXT if top and bottom else height  # over one pole, down to the border on the other side
    side = BEYOND_ANY_CONTEXT if frame.wrap else frame.mirrored
    above, below = (both if pole else frame.mirrored for pole in (top, bottom))
    return -above, -side, height + below, width + side


def read_beyond(read: Callable[[Box], Tensor], frame: Frame, box: Box) -> Tensor:
    """A box (·, h, w) of the plane that an image continues to, from what `read` gives for boxes inside."""
    (height, width), (y0, x0, y1, x1) = frame.size, box
    if min(y0, x0) >= 0 and y1 <= height and x1 <= width:
        return read(box)
    rows = reflected(y0, y1, height, frame.poles)
    columns = reflected(x0, x1, width, (frame.wrap, frame.wrap))
    y0, y1, x0, x1 = int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1
    return _plane(read, frame, (y0, x0, y1, x1)).index_select(-2, rows - y0).index_select(-1, columns - x0)


def reflected(start: int, stop: int, n: int, goes_on: tuple[bool, bool]) -> Tensor:
    """Positions start..stop-1 of an axis of n pixels, those beyond a border reflected there (…, 1, 0 | 0, 1, …), as
    often as it takes."""
    position = torch.arange(start, stop)
    if not any(goes_on):
        position = position % (2 * n)
        return torch.minimum(position, 2 * n - 1 - position)
    if not goes_on[0]:
        return torch.where(position < 0, -1 - position, position)
    return position if goes_on[1] else torch.where(position < n, position, 2 * n - 1 - position)


def _plane(read: Callable[[Box], Tensor], frame: Frame, box: Box) -> Tensor:
    """A box of the plane that a 360° image continues to."""
    (height, width), (y0, x0, y1, x1) = frame.size, box
    if min(y0, x0) >= 0 and y1 <= height and x1 <= width:
        return read(box)
    bands = []
    while y0 < y1:
        over = y0 // height  # how often a pole was crossed
        stop = min(y1, (over + 1) * height)
        top, bottom = y0 - over * height, stop - over * height
        if over % 2:
            band = _around(read, width, height - bottom, height - top, x0 + width // 2, x1 + width // 2).flip(-2)
        else:
            band = _around(read, width, top, bottom, x0, x1)
        bands.append(band)
        y0 = stop
    return torch.cat(bands, -2)


def units(frame: Frame, tile: Size, side: int) -> tuple[Tensor, Tensor]:
    """Which square of `side` pixels of the whole image each one of a tile is, or is a copy of: rows and columns
    (gy, gx), by its first pixel."""
    (height, width), (top, left) = frame.size, frame.origin
    y = torch.arange(top, top + tile[0], side).unsqueeze(1)
    x = torch.arange(left, left + tile[1], side).unsqueeze(0)
    if frame.wrap:
        over = torch.div(y, height, rounding_mode="floor") % 2 * torch.tensor(frame.poles).any()
        y, x = torch.where(over == 1, (-1 - y) % height, y % height), (x + over * (width // 2)) % width
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)  # a reflection has the units of the border
    rows, columns = torch.broadcast_tensors(y, x)
    return rows // side, columns // side


def _around(read: Callable[[Box], Tensor], width: int, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Rows of the image, columns of the plane."""
    parts = []
    while left < right:
        start = left % width
        stop = min(width, start + right - left)
        parts.append(read((top, start, bottom, stop)))
        left += stop - start
    return torch.cat(parts, -1)


@lru_cache(maxsize=64)
def row_latitudes(height: int) -> Tensor:
    """Latitude (height,) of each row's centre in radians, float64. As in the papers, -π/2 is at the top."""
    return (torch.arange(height, dtype=torch.float64) + 0.5 - height / 2) * (math.pi / height)


def latitude_weights(height: int) -> Tensor:
    """cos(latitude) of each row: how much of the sphere it covers. float64, symmetric."""
    return torch.cos(row_latitudes(height))


def tangent_positions(height: int, top: int, side: int) -> tuple[Tensor, Tensor]:
    """Where a lens that looks at the centre of an ERP crop sees its pixels: columns and rows (side, side), float64, in
    focal lengths from the lens's axis (gnomonic projection); the crop's first row is `top` of `height`."""
    latitude = row_latitudes(height)[top : top + side].unsqueeze(1)
    centre = (top + side / 2 - height / 2) * (math.pi / height)
    turn = (torch.arange(side, dtype=torch.float64) + 0.5 - side / 2) * (math.pi / height)
    forward = math.sin(centre) * latitude.sin() + math.cos(centre) * latitude.cos() * turn.cos()
    down = math.cos(centre) * latitude.sin() - math.sin(centre) * latitude.cos() * turn.cos()
    return latitude.cos() * turn.sin() / forward, down / forward


def fisheye_shrink(image: Tensor, scale: int) -> Tensor:
    """The LR of an ERP image (3, H, W), (3, H // scale, W // scale): 8-bit levels in the fisheye plane, in [0, 1].

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


def _wrap(image: Tensor) -> Tensor:
    """One column of the other side on each side, so that bilinear sampling crosses the seam."""
    return torch.cat([image[..., -1:], image, image[..., :1]], -1)


def _sample(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear at y, x in [-1, 1] (borders are pixel edges)."""
    grid = torch.stack(torch.broadcast_tensors(x, y), -1).to(image)
    return F.grid_sample(image[None], grid[None], "bilinear", "border", align_corners=False)[0]
