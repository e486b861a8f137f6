"""Degradations: kernels are what they say, steps are pure and seeded, JPEG is libjpeg's to rounding."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from scalewise.data import degradations as d
from scalewise.data.degradations import gaussian_kernel, sinc_kernel
from scalewise.data.jpeg import jpeg
from scalewise.errors import DataError


@pytest.fixture(scope="module")
def photo() -> Tensor:
    """Smooth, with an edge and some noise."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:75, :90] / 20
    planes = np.stack([np.sin(y + x), np.cos(y * x / 3), np.sin(x) * np.cos(y)]) * 0.3 + 0.5
    planes[:, 20:40, 30:60] = [[[0.9]], [[0.2]], [[0.1]]]
    return torch.from_numpy((planes + random.normal(0, 0.02, planes.shape)).clip(0, 1).astype(np.float32))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_kernels_have_their_moments() -> None:
    kernel = gaussian_kernel(41, (3.0, 1.5), math.pi / 6).double()
    axis = torch.arange(41).double() - 20
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    assert kernel.sum().item() == pytest.approx(1, abs=1e-6)
    along = (math.cos(math.pi / 6) * x + math.sin(math.pi / 6) * y).square()
    assert (kernel * along).sum().sqrt().item() == pytest.approx(3, rel=1e-2)
    assert (kernel * (x**2 + y**2 - along)).sum().sqrt().item() == pytest.approx(1.5, rel=1e-2)


def test_shapes_of_kernels() -> None:
    """β < 1 has longer tails, a plateau a flatter top; a low cutoff blurs more, and sinc has negative lobes."""
    plain, tailed = gaussian_kernel(21, (2, 2)), gaussian_kernel(21, (2, 2), beta=0.5)
    flat = gaussian_kernel(21, (2, 2), beta=2.0, plateau=True)
    assert tailed[10, 0] > plain[10, 0]
    assert flat[10, 11] / flat[10, 10] > plain[10, 11] / plain[10, 10]
    low, high = sinc_kernel(21, math.pi / 3), sinc_kernel(21, math.pi)
    assert low[10, 10] < high[10, 10] and bool((low < 0).any())
    assert low.sum().item() == pytest.approx(1, abs=1e-5)


def test_a_blur_keeps_flat_pictures_and_mirrors_borders(photo: Tensor) -> None:
    kernel = gaussian_kernel(7, (1.5, 1.5))
    assert torch.allclose(d.blur(torch.full((3, 9, 9), 0.3), kernel), torch.full((3, 9, 9), 0.3), atol=1e-6)
    wide = torch.cat([photo[..., 1:4].flip(-1), photo], -1)
    assert torch.allclose(d.blur(wide, kernel)[..., 6:20], d.blur(photo, kernel)[..., 3:17], atol=1e-6)
    small = torch.rand(3, 3, 3)
    assert d.blur(small, kernel).shape == small.shape


def test_unsharp_raises_contrast_at_edges_alone(photo: Tensor) -> None:
    step = torch.cat([torch.full((3, 60, 30), 0.3), torch.full((3, 60, 30), 0.7)], -1)
    sharp = d.unsharp(step)
    assert sharp[0, 30, 29] < 0.3 < 0.7 < sharp[0, 30, 30]
    flat = torch.full((3, 60, 60), 0.4)
    assert torch.allclose(d.unsharp(flat), flat, atol=1e-6)
    assert d.unsharp(photo).shape == photo.shape


def test_resizing_keeps_the_mean_and_area_is_exact() -> None:
    image = torch.rand(3, 12, 18)
    assert torch.allclose(d.resize(image, (4, 6), "area"), torch.nn.functional.avg_pool2d(image, 3), atol=1e-6)
    odd = d.resize(image, (5, 7), "area")
    assert torch.allclose(odd.mean((1, 2)), image.mean((1, 2)), atol=1e-6)
    assert torch.allclose(d.cover(7, 3).sum(1), torch.ones(3))
    ramp = torch.linspace(0, 1, 10).expand(3, 10, 10)
    for way in d.INTERPOLATIONS:
        up = d.resize(ramp, (20, 20), way)
        assert up.shape == (3, 20, 20) and bool((up.diff(dim=-1) > -1e-6).all())


def test_noise_has_its_size_and_colour() -> None:
    gray = torch.full((3, 64, 64), 0.5)
    noisy = d.gaussian_noise(gray, 0.05, rng()) - 0.5
    assert noisy.std().item() == pytest.approx(0.05, rel=0.05) and not torch.equal(noisy[0], noisy[1])
    same = d.gaussian_noise(gray, 0.05, rng(), gray=True)
    assert torch.equal(same[0], same[1])
    levels = (
        (torch.arange(256.0) / 255).view(1, 16, 16).repeat_interleave(8, 1).repeat_interleave(8, 2).expand(3, -1, -1)
    )
    shot = d.poisson_noise(levels, 1.0, rng()) - levels
    dark, bright = shot[:, 8:24, :].std(), shot[:, 64:80, :].std()
    assert bright > 1.5 * dark
    middle = levels[:, 64:72, 64:72].mean().item()
    assert shot[:, 64:72, 64:72].std().item() == pytest.approx(math.sqrt(middle / 256), rel=0.3)


@pytest.mark.parametrize("quality", [10, 30, 60, 90])
def test_jpeg_is_libjpegs_to_rounding(photo: Tensor, quality: int) -> None:
    levels = (photo * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    theirs = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1).float()
    ours = jpeg(photo, quality) * 255
    assert (ours - theirs).abs().mean() <= 1  # chroma is rounded elsewhere; luma below
    assert (ours - theirs).square().mean() < 0.1 * (theirs - photo * 255).square().mean() + 1
    gray = photo[:1].expand(3, -1, -1)
    file = io.BytesIO()
    Image.fromarray((gray[0] * 255).round().to(torch.uint8).numpy()).save(file, "JPEG", quality=quality)
    theirs = torch.from_numpy(np.asarray(Image.open(file)).copy()).float()
    assert (jpeg(gray, quality)[0] * 255 - theirs).abs().mean() <= 0.5
    with pytest.raises(DataError, match="quality 0"):
        jpeg(photo, 0)


@pytest.mark.parametrize("reduce", [d.real_world, d.photo])
def test_an_order_is_seeded_and_gives_8_bits(photo: Tensor, reduce: Callable[..., Tensor]) -> None:
    before = photo.clone()
    for seed in range(12):
        one, again = (reduce(photo, (25, 30), rng(seed)) for _ in range(2))
        assert torch.equal(one, again) and one.shape == (3, 25, 30)
        assert bool((one >= 0).all()) and bool((one <= 1).all())
        assert torch.allclose(one * 255, (one * 255).round(), atol=1e-3)
        assert (one.mean() - photo.mean()).abs() < 0.1
    assert torch.equal(before, photo)
    assert not torch.equal(reduce(photo, (25, 30), rng(1)), reduce(photo, (25, 30), rng(2)))


def test_all_kinds_of_kernels_are_drawn() -> None:
    random = rng()
    kernels = [d.random_kernel(random, (0.2, 3.0)) for _ in range(300)]
    assert {len(kernel) for kernel in kernels} == set(range(7, 22, 2))
    assert all(kernel.sum().item() == pytest.approx(1, abs=1e-4) for kernel in kernels)
    ringing = sum(bool((kernel < 0).any()) for kernel in kernels) / 300
    assert 0.05 < ringing < 0.16
