"""Samples made on the device are those of `AnyScaleCrops`: the same arithmetic, and points that lie where they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from scalewise.data import AnyScaleCrops
from scalewise.data.degradations import Photo, real_world
from scalewise.data.resident import DeviceCrops, Pictures
from scalewise.errors import DataError
from scalewise.geometry.grid import axis_positions
from scalewise.geometry.resize import imresize

CROPS = AnyScaleCrops(lr_side=16, points=16, layout="rows", base=True)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    random = np.random.default_rng(0)
    noise = [torch.from_numpy(random.integers(0, 256, (3, h, 90)).astype(np.uint8)) for h in (70, 80)]
    return Pictures.of(noise, torch.device("cpu"))


def test_reduction_is_matlabs(pictures: Pictures) -> None:
    torch.manual_seed(0)
    device = DeviceCrops(pictures, CROPS)
    sizes = torch.tensor([[64, 64], [16, 50], [33, 20]])
    hr = device._cut(sizes) / 255
    rows, columns = (device._reduction(sizes[:, axis].float(), 64) for axis in (0, 1))
    lr = rows @ hr @ columns.transpose(2, 3)
    for k, (h, w) in enumerate(sizes.tolist()):
        assert torch.allclose(lr[k], imresize(hr[k, :, :h, :w], (16, 16)), atol=1e-5)


def test_points_and_base_lie_where_they_say(pictures: Pictures) -> None:
    torch.manual_seed(1)
    batch = DeviceCrops(pictures, CROPS).batch(5)
    for k in range(5):
        size = [round(16 * float(factor)) for factor in batch["scale"][k]]
        lines = []
        for axis, n in zip(("y", "x"), size, strict=True):
            distance = (batch[axis][k].unsqueeze(1) - axis_positions(0, n, 16, n)).abs()
            assert float(distance.min(1).values.max()) < 1e-5
            lines.append(distance.argmin(1))
            assert len(lines[-1].unique()) == min(16, n)  # none twice while there are enough
        large = imresize(batch["lr"][k], (size[0], size[1]))
        assert torch.allclose(batch["base"][k], large[:, lines[0]][:, :, lines[1]], atol=1e-5)
    levels = batch["lr"] * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)


def test_whole_scales_and_whole_crops(pictures: Pictures) -> None:
    """At one whole scale, with as many points as lines, a batch holds whole crops, their lines in order."""
    torch.manual_seed(4)
    drawn = DeviceCrops(pictures, replace(CROPS, whole=1.0))._factors(30)
    assert torch.equal(drawn.unique(), torch.tensor([2.0, 3.0, 4.0])) and torch.equal(drawn[:, 0], drawn[:, 1])
    batch = DeviceCrops(pictures, replace(CROPS, scales=(4.0, 4.0), points=64)).batch(2)
    for k in range(2):
        assert torch.allclose(batch["y"][k], axis_positions(0, 64, 16, 64))
        lr = imresize(batch["hr"][k], (16, 16)).clamp(0, 1)
        assert torch.allclose(lr, batch["lr"][k], atol=0.5 / 255 + 1e-5)


def test_crops_come_from_pictures_that_have_room_for_them() -> None:
    both = [torch.full((3, side, side), level, dtype=torch.uint8) for side, level in ((40, 0), (100, 255), (40, 0))]
    device = DeviceCrops(Pictures.of(both, torch.device("cpu")), CROPS)
    assert bool((device.batch(16)["hr"] == 1).all())


def test_at_scale_1_the_crop_is_its_own_lr(pictures: Pictures) -> None:
    """Flips, turns and rows are drawn; what the points hold is the picture's pixels."""
    torch.manual_seed(2)
    batch = DeviceCrops(pictures, replace(CROPS, scales=(1.0, 1.0))).batch(4)
    rows, columns = ((batch[axis] - 0.5).round().long() for axis in ("y", "x"))
    for k in range(4):
        assert torch.allclose(batch["hr"][k], batch["lr"][k][:, rows[k]][:, :, columns[k]], atol=1e-5)


def test_photo_degradation_hurts_unless_clean(pictures: Pictures) -> None:
    def off(photo: Photo) -> float:
        """How far LR is from the reduced crop, which the points hold where the scale is 1."""
        torch.manual_seed(3)
        batch = DeviceCrops(pictures, replace(CROPS, scales=(1.0, 1.0), reduce=photo)).batch(4)
        rows, columns = ((batch[axis] - 0.5).round().long() for axis in ("y", "x"))
        seen = [lr[:, y][:, :, x] for lr, y, x in zip(batch["lr"], rows, columns, strict=True)]
        return float((torch.stack(seen) - batch["hr"]).abs().max())

    assert off(Photo(clean=1.0)) < 1e-5
    for skip in ((0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0)):  # blur, noise, JPEG alone
        assert off(Photo(without=skip)) > 2 / 255


def test_what_it_does_not_know_is_refused(pictures: Pictures) -> None:
    with pytest.raises(DataError, match="bicubic_8bit or Photo"):
        DeviceCrops(pictures, replace(CROPS, reduce=real_world))
    with pytest.raises(DataError, match="400 pixels"):
        DeviceCrops(pictures, replace(CROPS, lr_side=100))
