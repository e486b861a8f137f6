"""One image in, one number out: PSNR, SSIM, WS-PSNR, WS-SSIM, consistency, and what pyiqa adds.

Images are float (3, h, w), RGB, 1.0 is white. Nothing is rounded or clamped here but by `eight_bit`: which images are
compared is the protocol's business (`evaluate/`). Sums are float64, in bands of rows, so large images fit.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from scalewise.errors import InvalidRequest, MissingDependency, ProtocolMismatch
from scalewise.geometry.projection import latitude_weights
from scalewise.geometry.resize import imresize
from scalewise.training.recipe import named_function

Image = Tensor  # float (3, h, w), RGB, 1.0 is white
Channel = Literal["rgb", "y", "y-liif"]

BT601 = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # MATLAB's rgb2ycbcr, studio range 16-235
LIIF_LUMA = (65.738 / 256, 129.057 / 256, 25.064 / 256)  # EDSR's and LIIF's test code; equal to about 1e-6

BAND = 128  # rows per step; small enough for the cache, where SSIM is twice as fast
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2

NO_REFERENCE = ("niqe", "brisque", "piqe")  # these look at a picture alone
PYIQA_METRICS = ("lpips", *NO_REFERENCE)
Measure = Callable[..., float]  # of (sr, hr), where hr is None if there is none


def eight_bit(image: Tensor) -> Tensor:
    """What an 8-bit file keeps: clamped, rounded to k / 255."""
    return (image.clamp(0, 1) * 255).round() / 255


def luma(image: Tensor, weights: tuple[float, float, float] = BT601) -> Tensor:
    """The Y of MATLAB's rgb2ycbcr on the 0..1 scale: 16/255 is black, 235/255 white. (..., 3, h, w) →
    (..., 1, h, w), float64."""
    red, green, blue = image.double().unbind(-3)
    return (weights[0] * red + weights[1] * green + weights[2] * blue + 16 / 255).unsqueeze(-3)


def psnr(sr: Image, hr: Image, *, channel: Channel = "rgb", shave: int = 0) -> float:
    """Peak signal-to-noise ratio in dB over the picture without `shave` pixels on each side; inf if equal."""
    return _decibel(_mean_square(sr, hr, channel, shave, spherical=False))


def ws_psnr(sr: Image, hr: Image, *, channel: Channel = "rgb", shave: int = 0) -> float:
    """PSNR with each ERP row weighted by its share of the sphere (Sun et al., IEEE SPL 2017)."""
    return _decibel(_mean_square(sr, hr, channel, shave, spherical=True))


def ssim(sr: Image, hr: Image, *, channel: Channel = "rgb", shave: int = 0) -> float:
    """Structural similarity as MATLAB computes it (Wang et al., IEEE TIP 2004): gaussian 11x11, sigma 1.5, no border.

    RGB is the mean of its channels.
    """
    return _ssim(sr, hr, channel, shave, spherical=False)


def ws_ssim(sr: Image, hr: Image, *, channel: Channel = "rgb", shave: int = 0) -> float:
    """SSIM with the rows of its map weighted by their share of the sphere."""
    return _ssim(sr, hr, channel, shave, spherical=True)


def consistency(lr: Tensor, sr: Tensor) -> float:
    """dB between the LR input (3, h, w) and the output (3, H, W) shrunk back by MATLAB's bicubic.

    A low value says that the enlarged picture does not keep what was given.

    An LR of 8-bit levels cannot be met better than about 59 dB by anything that does not know its rounding.
    """
    return psnr(imresize(sr, (lr.shape[-2], lr.shape[-1])), lr)


def perceptual(name: str) -> Measure:
    """LPIPS, NIQE, BRISQUE or PIQE through pyiqa, if it is installed, or a function of one's own as
    `package.module:function` or `file.py:function`, which takes (sr, hr) and gives a number.

    pyiqa is no dependency of this project: it needs torchvision and its licence is non-commercial. NIQE, BRISQUE and
    PIQE look at `sr` only.
    """
    if ":" in name:
        own = named_function(name, f"metric {name}")

        def number(sr: Image, hr: Image | None) -> float:
            value = own(sr, hr)
            try:
                return float(value)
            except (TypeError, ValueError, RuntimeError):  # torch's, of a tensor with several numbers
                raise InvalidRequest(f"metric {name} gave {type(value).__name__}: it must give a number") from None

        return number
    if name not in PYIQA_METRICS:
        allowed = f"{', '.join(PYIQA_METRICS)}, and MODULE:FUNCTION or FILE.py:FUNCTION"
        raise InvalidRequest(f"unknown metric {name!r}: allowed are {allowed}")
    try:
        pyiqa = importlib.import_module("pyiqa")
    except ImportError:
        raise MissingDependency(f"{name} is measured by pyiqa, which is not installed: pip install pyiqa") from None
    metric = pyiqa.create_metric(name)

    def measure(sr: Image, hr: Image | None) -> float:
        if name == "lpips" and hr is None:
            raise ProtocolMismatch(
                f"lpips compares with an HR picture, and there is none: {', '.join(NO_REFERENCE)} do"
            )
        pictures = [sr] if name in NO_REFERENCE or hr is None else [sr, hr]
        with torch.inference_mode():
            return float(metric(*(picture.clamp(0, 1).float()[None] for picture in pictures)))

    return measure


def _decibel(mean_square: float) -> float:
    return -10 * math.log10(mean_square) if mean_square > 0 else math.inf


def _planes(image: Image, channel: Channel) -> Tensor:
    """float64 (c, h, w): three planes of RGB, or one of luma."""
    if channel == "rgb":
        return image.double()
    return luma(image, BT601 if channel == "y" else LIIF_LUMA)


def _shaved(sr: Image, hr: Image, shave: int, least: int) -> tuple[Image, Image]:
    """Both pictures without the border; `least` is the smallest side that the metric can measure."""
    if sr.shape != hr.shape:
        sizes = " and ".join(f"{image.shape[-1]}x{image.shape[-2]}" for image in (sr, hr))
        raise ProtocolMismatch(f"only pictures of one size can be compared; got {sizes}")
    height, width = (n - 2 * shave for n in sr.shape[-2:])
    if min(height, width) < least:
        raise ProtocolMismatch(
            f"{sr.shape[-1]}x{sr.shape[-2]} leaves {width}x{height} without a border of {shave}; at least {least} "
            "pixels a side are needed"
        )
    inner = (..., slice(shave, shave + height), slice(shave, shave + width))
    return sr[inner], hr[inner]


def _bands(rows: int) -> Iterator[tuple[int, int]]:
    for start in range(0, rows, BAND):
        yield start, min(start + BAND, rows)


def _mean_square(sr: Image, hr: Image, channel: Channel, shave: int, *, spherical: bool) -> float:
    sr, hr = _shaved(sr, hr, shave, 1)
    rows = sr.shape[-2]
    weights = latitude_weights(rows) if spherical else torch.ones(rows, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for start, stop in _bands(rows):
        error = _planes(sr[:, start:stop], channel) - _planes(hr[:, start:stop], channel)
        total += (error.square().mean((0, 2)).cpu() * weights[start:stop]).sum()
    return float(total / weights.sum())


def _ssim(sr: Image, hr: Image, channel: Channel, shave: int, *, spherical: bool) -> float:
    sr, hr = _shaved(sr, hr, shave, SSIM_WINDOW)
    rows = sr.shape[-2] - SSIM_WINDOW + 1
    weights = latitude_weights(rows) if spherical else torch.ones(rows, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for start, stop in _bands(rows):
        reach = slice(start, stop + SSIM_WINDOW - 1)
        similarity = _ssim_map(_planes(sr[:, reach], channel), _planes(hr[:, reach], channel))
        total += (similarity.mean((0, 2)).cpu() * weights[start:stop]).sum()
    return float(total / weights.sum())


def _ssim_map(a: Tensor, b: Tensor) -> Tensor:
    """(c, h, w) twice → (c, h - 10, w - 10)."""
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a = _blur(a * a) - mean_a * mean_a
    variance_b = _blur(b * b) - mean_b * mean_b
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a * mean_a + mean_b * mean_b + C1)
    return luminance * (2 * covariance + C2) / (variance_a + variance_b + C2)


def _blur(image: Tensor) -> Tensor:
    """The 11-tap gaussian along both axes, inner part: shifted sums, as float64 convolution is slow on CPUs."""
    taps = [math.exp(-((k - SSIM_WINDOW // 2) ** 2) / (2 * SSIM_SIGMA**2)) for k in range(SSIM_WINDOW)]
    taps = [tap / sum(taps) for tap in taps]
    for axis in (-2, -1):
        length = image.shape[axis] - SSIM_WINDOW + 1
        blurred = image.narrow(axis, 0, length) * taps[0]
        for k in range(1, SSIM_WINDOW):
            blurred.add_(image.narrow(axis, k, length), alpha=taps[k])
        image = blurred
    return image
