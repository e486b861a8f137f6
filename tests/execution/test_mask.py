"""An effort mask: what is white gets the work first, what is black the least, and the budget holds all the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from scalewise.errors import InvalidRequest
from scalewise.execution.mask import patch_means, read_mask
from scalewise.pipeline import upscale

PICTURE = np.random.default_rng(0).integers(0, 256, (128, 160, 3), np.uint8)
PICTURE[:, 64:] = 90  # nothing to see but at the left


def test_the_work_goes_where_the_mask_is_white() -> None:
    mask = np.full((64, 80), 128, np.uint8)
    mask[:, 64:] = 255  # the last column of patches, where the picture is flat
    mask[:32, 32:64] = 0
    plain, masked = (upscale(PICTURE, 2, budget=0.4, effort_mask=one, dtype="fp32").report for one in (None, mask))
    assert plain.effort_map[:, -1].max() < 0.2 and masked.effort_map[:, -1].min() > 0.9
    assert masked.effort_map[0, 2] < 0.03  # black: the base alone
    assert masked.share <= 0.4 and plain.share <= 0.4
    again = upscale(PICTURE, 2, budget=0.4, effort_mask=Image.fromarray(mask), tile=96, dtype="fp32").report
    assert again.effort_map[:, -1].min() > 0.9 and again.share <= 0.4


def test_a_white_mask_changes_nothing_and_a_black_one_leaves_the_base() -> None:
    black, white = np.zeros((3, 3), np.uint8), np.full((3, 3), 255, np.uint8)
    plain = upscale(PICTURE, 1.5, dtype="fp32")
    assert np.array_equal(upscale(PICTURE, 1.5, effort_mask=white, dtype="fp32").image, plain.image)
    base = upscale(PICTURE, 1.5, model="bicubic").image
    found = upscale(PICTURE, 1.5, effort_mask=black, dtype="fp32").image
    assert np.abs(found.astype(int) - base.astype(int)).max() <= 1  # one rounds at the end of other sums


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (100, 130), (400, 500)])
def test_a_patch_gets_the_mean_of_the_mask_under_it(size: tuple[int, int]) -> None:
    mask = read_mask(torch.full((1, *size), 0.25), (100, 130))
    assert mask.shape == (100, 130)
    torch.testing.assert_close(patch_means(mask, 32, (4, 5)), torch.full((4, 5), 0.25))
    clear = read_mask(np.dstack([np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.uint8)]), (100, 130))
    assert not clear.any()  # white, but transparent


@pytest.mark.parametrize("model", ["bicubic", "tadt-liif-tiny"])
def test_a_model_without_patches_to_steer_is_refused(model: str) -> None:
    with pytest.raises(InvalidRequest, match="no patches"):
        upscale(PICTURE[:40, :40], 2, model=model, effort_mask=np.zeros((3, 3), np.uint8))
