"""A mask of priority: what is painted gets the work first, and the budget holds all the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from scalewise import images
from scalewise.errors import InvalidRequest
from scalewise.execution.priority import BOOST, patch_weights
from scalewise.pipeline import upscale

PICTURE = np.random.default_rng(0).integers(0, 256, (128, 160, 3), np.uint8)
PICTURE[:, 64:] = 90  # nothing to see but at the left


def test_the_work_goes_where_it_was_painted() -> None:
    mask = np.zeros((64, 80), np.uint8)
    mask[:, 64:] = 255  # the last column of patches, where the picture is flat
    plain, painted = (upscale(PICTURE, 2, budget=0.4, mask=one, dtype="fp32").report for one in (None, mask))
    assert plain.effort_map[:, -1].max() < 0.2 and painted.effort_map[:, -1].min() > 0.9
    assert painted.effort_map[:, :2].mean() > painted.effort_map[:, 2:4].mean()  # the rest as before: detail first
    assert painted.share <= 0.4 and plain.share <= 0.4
    again = upscale(PICTURE, 2, budget=0.4, mask=Image.fromarray(mask), tile=64, dtype="fp32").report
    assert again.effort_map[:, -1].min() > 0.9 and again.share <= 0.4


def test_an_empty_mask_and_a_full_budget_change_nothing() -> None:
    black, white = np.zeros((3, 3), np.uint8), np.full((3, 3), 255, np.uint8)
    for budget, mask in ((0.4, black), (1.0, white)):
        one, other = (upscale(PICTURE, 1.5, budget=budget, mask=given, dtype="fp32").image for given in (None, mask))
        assert np.array_equal(one, other)


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (100, 130), (400, 500)])
def test_weights_are_the_mean_of_the_mask_under_each_patch(size: tuple[int, int]) -> None:
    mask = images.open(torch.full((1, *size), 0.25))
    weights = patch_weights(mask, (100, 130), 32)
    assert weights.shape == (4, 5)
    torch.testing.assert_close(
        weights, torch.full((4, 5), 1 + (BOOST - 1) * 0.25, dtype=torch.float64), rtol=1e-6, atol=0
    )
    clear = images.open(np.dstack([np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.uint8)]))
    assert (patch_weights(clear, (100, 130), 32) == 1).all()  # white, but transparent


def test_a_model_that_has_no_patches_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="patches"):
        upscale(PICTURE, 2, model="bicubic", mask=np.zeros((3, 3), np.uint8))
