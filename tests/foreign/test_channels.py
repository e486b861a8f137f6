"""Networks of one channel and of four, on gray pictures, colours and transparent ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import scalewise
from scalewise.geometry.resize import imresize
from scalewise.layers import luma
from scalewise.models.whole_network import Measured, Needs, WholeNetwork

SIZE = (20, 28)


class Inverted(nn.Module):
    """What it sees, each colour by its complement, by nearest neighbours twice as large."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, picture: Tensor) -> Tensor:
        assert picture.shape[1] == self.channels
        assert self.channels < 4 or bool((picture[:, 3] == 1).all()), "opaque"
        return 1 - picture.repeat_interleave(2, 2).repeat_interleave(2, 3)


def model(channels: int) -> WholeNetwork:
    return WholeNetwork(Inverted(channels), 2, Needs(channels), Measured(4, 0.0, 1e3, 0.0, 100.0)).eval()


def picture(channels: int) -> np.ndarray:
    return np.random.default_rng(0).random((*SIZE, channels) if channels > 1 else SIZE, np.float32)


def twice(image: np.ndarray) -> np.ndarray:
    return image.repeat(2, 0).repeat(2, 1)


@pytest.mark.parametrize("options", [{}, {"tile": 8}])
def test_a_network_of_four_channels_enlarges_the_colours(options: dict[str, Any]) -> None:
    seen = picture(3)
    result = scalewise.upscale(seen, 2, model=model(4), dtype="fp32", **options).image
    assert np.abs(result - (1 - twice(seen))).max() < 1e-6


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_transparency_is_enlarged_as_with_every_model(channels: int) -> None:
    seen = picture(4)
    result = scalewise.upscale(seen, 2, model=model(channels), dtype="fp32").image
    ours = scalewise.upscale(seen, 2, model="bicubic", dtype="fp32").image
    assert result.shape == (40, 56, 4)
    assert np.abs(result[..., 3] - ours[..., 3]).max() < 1e-5


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_gray_picture_stays_gray(channels: int) -> None:
    seen = picture(1)
    result = scalewise.upscale(seen, 2, model=model(channels), dtype="fp32").image
    assert result.shape == (40, 56)
    assert np.abs(result - (1 - twice(seen))).max() < 1e-5


@pytest.mark.parametrize("options", [{}, {"tile": 8}])
def test_a_gray_network_changes_the_luma_of_colours_alone(options: dict[str, Any]) -> None:
    seen = 0.4 + 0.2 * picture(3)
    result = scalewise.upscale(seen, 2, model=model(1), dtype="fp32", **options).image
    lr, sr = (torch.from_numpy(image).permute(2, 0, 1)[None] for image in (seen, result))
    bicubic = imresize(lr, scale=2.0)
    torch.testing.assert_close(luma(sr), 1 - luma(lr).repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(sr - luma(sr), bicubic - luma(bicubic))


def test_a_gray_network_takes_a_budget() -> None:
    """On rectangles whose margin is less than what bicubic sees: there and nowhere else the luma is inverted."""
    seen = 0.5 + 0.1 * (np.random.default_rng(0).random((64, 96, 3), np.float32) - 0.5)
    seen[:, 48:] = 0.5
    whole, part = (scalewise.upscale(seen, 2, model=model(1), budget=b, dtype="fp32").image for b in (1.0, 0.4))
    bicubic = scalewise.upscale(seen, 2, model="bicubic", dtype="fp32").image
    assert np.abs(part[:, 100:] - bicubic[:, 100:]).max() < 1e-5
    changed = np.abs(part - bicubic).max(-1) > 0.01
    assert 0.1 < changed.mean() < 0.5
    assert np.abs(part - whole)[8:-8, 8:80].mean() < np.abs(bicubic - whole)[8:-8, 8:80].mean()
