"""Samples: numbered, shared by processes, and what they say of themselves is true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scalewise import images
from scalewise.data import AnyScaleCrops, FixedScaleCrops, Numbered, decode_folder, open_pictures
from scalewise.data.crops import Samples, detail, random_crop
from scalewise.errors import DataError
from scalewise.geometry.grid import Frame
from scalewise.geometry.resize import bicubic_base, imresize

CROPS = AnyScaleCrops(lr_side=16, points=8)


def area(hr: torch.Tensor, size: tuple[int, int], random: np.random.Generator) -> torch.Tensor:
    """Exact for linear pictures, at borders too."""
    return F.interpolate(F.interpolate(hr[None], scale_factor=8, mode="nearest"), size, mode="area")[0]


@pytest.fixture(scope="module")
def photos() -> list[torch.Tensor]:
    random = np.random.default_rng(0)
    return [torch.from_numpy(random.integers(0, 256, (3, 70, 80)).astype(np.uint8)) for _ in range(2)]


def numbered(samples: Samples, photos: list[torch.Tensor], **settings: int) -> Numbered:
    return Numbered(samples, photos, **{"batch": 4, "stop": 3} | settings, seed=(3,))  # type: ignore[arg-type]


def test_samples_are_numbered(photos: list[torch.Tensor]) -> None:
    """A later start and several processes give the samples of one process from the start."""
    whole = numbered(CROPS, photos)
    assert len(whole) == 12
    later = numbered(CROPS, photos, first=1)
    halves = [numbered(CROPS, photos, first=1, rank=rank, world=2) for rank in (0, 1)]
    assert len(later) == 8 and len(halves[0]) == 4
    for name, value in whole[4 + 3].items():
        assert torch.equal(value, later[3][name])
        assert torch.equal(value, halves[1][1][name])
    scales = torch.stack([whole[i]["scale"] for i in range(12)])
    assert bool((scales >= 0.9).all()) and bool((scales <= 4.1).all()) and len(scales[:, 0].unique()) > 6
    assert 0 < int((scales[:, 0] != scales[:, 1]).sum()) < 12
    with pytest.raises(DataError, match="batch of 4 cannot be shared by 3"):
        numbered(CROPS, photos, world=3)


def test_a_share_of_the_samples_is_at_whole_scales(photos: list[torch.Tensor]) -> None:
    samples = replace(CROPS, whole=0.5, unequal=0.0)
    drawn = torch.stack([numbered(samples, photos, stop=20)[i]["scale"] for i in range(60)])[:, 0]
    whole = torch.isin(drawn, torch.tensor([2.0, 3.0, 4.0]))
    assert 15 < int(whole.sum()) < 45 and len(drawn[whole].unique()) == 3
    assert replace(CROPS, scales=(1.5, 2.5)).whole_scales == [2]
    with pytest.raises(DataError, match="no whole scale"):
        replace(samples, scales=(1.0, 1.5))


@pytest.mark.parametrize("layout", ["scattered", "window"])
def test_a_crop_of_one_hr_size_is_learnt_in_part(
    photos: list[torch.Tensor], layout: Literal["scattered", "window"]
) -> None:
    """The points of a linear picture are where its LR says, and samples of all scales fit into one batch."""
    ramp = torch.arange(64).expand(3, 64, 64) * 2 + torch.arange(64)[:, None]
    samples = replace(CROPS, hr_side=64, unequal=0.5, layout=layout, reduce=area)
    assert samples.needs == 64
    for number in range(6):
        one = numbered(samples, [ramp.to(torch.uint8)])[number]
        assert one["lr"].shape == (3, 16, 16)
        y, x = (one["y"], one["x"]) if layout == "scattered" else torch.meshgrid(one["y"], one["x"], indexing="ij")
        hr = one["hr"].T[0] if layout == "scattered" else one["hr"][0]
        inner = (y > 1) & (y < 15) & (x > 1) & (x < 15)
        assert bool(inner.any()) and float(y.min()) >= 0 and float(y.max()) <= 16
        there = torch.stack((x / 8 - 1, y / 8 - 1), -1).float().view(1, 1, -1, 2)
        seen = F.grid_sample(one["lr"][None, :1], there, align_corners=False)[0, 0, 0].view(hr.shape)
        torch.testing.assert_close(seen[inner], hr[inner], atol=0.6 / 255, rtol=0)
    with pytest.raises(DataError, match="40 HR pixels have 10 LR pixels at ×4"):
        replace(CROPS, hr_side=40)


@pytest.mark.parametrize("layout", ["scattered", "rows", "window"])
def test_points_lie_where_they_say(photos: list[torch.Tensor], layout: str) -> None:
    """The crop is found again in its picture, and its points in the crop: HR pixel j has its centre at (j + ½) / s."""
    samples = replace(CROPS, layout=layout, scales=(2.0, 2.0), unequal=0.0, reduce=keep_corner)
    sample = numbered(samples, photos)[5]
    hr = sample["lr"]  # all of the crop, by `keep_corner`
    rows, columns = ((sample[axis] * 2 - 0.5).round().long() for axis in ("y", "x"))
    if layout == "scattered":
        assert sample["hr"].shape == (64, 3) and torch.equal(sample["hr"], hr[:, rows, columns].T)
    else:
        assert torch.equal(sample["hr"], hr[:, rows][:, :, columns])
    assert bool((rows.diff() == 1).all()) == (layout == "window")
    assert torch.equal(sample["cell"], torch.tensor([0.5, 0.5]))


def keep_corner(hr: torch.Tensor, size: tuple[int, int], random: object) -> torch.Tensor:
    return hr


def test_the_base_of_a_sample_is_the_bicubic_of_its_lr(photos: list[torch.Tensor]) -> None:
    sample = numbered(replace(CROPS, layout="rows", base=True), photos)[2]
    out = tuple(round(16 * s) for s in sample["scale"].tolist())
    whole = bicubic_base(sample["lr"].unsqueeze(0), Frame((16, 16)), out, (0, 0, *out))[0]  # type: ignore[arg-type]
    rows, columns = ((v * n / 16 - 0.5).round().long() for v, n in zip((sample["y"], sample["x"]), out, strict=True))
    assert torch.allclose(whole[:, rows][:, :, columns], sample["base"], atol=1e-5)


def test_fixed_crops_are_whole(photos: list[torch.Tensor]) -> None:
    sample = numbered(FixedScaleCrops(scale=3, lr_side=8), photos)[0]
    assert sample["lr"].shape == (3, 8, 8) and sample["hr"].shape == (3, 24, 24)
    assert (sample["lr"] - imresize(sample["hr"], (8, 8)).clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6


def test_detailed_crops_are_preferred() -> None:
    flat, busy = torch.zeros(3, 20, 40, dtype=torch.uint8), torch.zeros(3, 20, 40, dtype=torch.uint8)
    busy[:, :, ::2] = 200
    assert detail(busy) > detail(flat) == 0
    random = np.random.default_rng(0)
    shares = [
        sum(detail(random_crop([flat, busy], (8, 8), random, tries)) > 0 for _ in range(200)) / 200 for tries in (1, 3)
    ]
    assert 0.4 < shares[0] < 0.6 < shares[1]


def test_folders_are_decoded_once(tmp_path: Path) -> None:
    folder, cache = tmp_path / "photos", tmp_path / "cache"
    folder.mkdir()
    with pytest.raises(DataError, match="no pictures"):
        decode_folder(folder)
    random = np.random.default_rng(0)
    for name, size in (("a.png", (8, 9, 3)), ("b.png", (5, 6, 3))):
        images.save(folder / name, random.integers(0, 256, size).astype(np.uint8))
    seen: list[str] = []
    plain = decode_folder(folder)
    for _ in range(2):
        mapped = open_pictures(folder, cache=cache, progress=seen.append)
        assert all(torch.equal(one, other) for one, other in zip(plain, mapped, strict=True))
    assert seen == ["a.png", "b.png"] and len(list(cache.iterdir())) == 2
    (folder / "c.png").write_text("no picture")
    with pytest.raises(DataError, match=r"c\.png"):
        open_pictures(folder, cache=cache)
    assert len(list(cache.iterdir())) == 2
