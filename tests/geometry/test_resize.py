"""Bicubic resizing: MATLAB's and Pillow's, to the last digit that they publish."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from scalewise.errors import UnsupportedScale
from scalewise.geometry.resize import axis_taps, imresize, pillow_bicubic, resample


def golden(shared: Path, name: str) -> tuple[list[dict], dict[str, torch.Tensor]]:
    folder = shared / "golden" / name
    return json.loads((folder / "meta.json").read_text())["cases"], load_file(folder / "cases.safetensors")


def test_imresize_equals_matlab(shared: Path) -> None:
    cases, tensors = golden(shared, "ref_matlab_imresize")
    for case in cases:
        name = case["id"]
        out = imresize(tensors[f"{name}.in.img"], scale=case["factor"], antialias=case["antialiasing"])
        atol = case["output_info"]["out"]["suggested_atol"]
        torch.testing.assert_close(out, tensors[f"{name}.out.out"], atol=atol, rtol=0, msg=name)
        eight_bit = (out * 255).round().clamp(0, 255).to(torch.uint8)
        assert torch.equal(eight_bit, tensors[f"{name}.out.out_uint8"]), name


def test_pillow_bicubic_equals_pillow(shared: Path) -> None:
    cases, tensors = golden(shared, "ref_pil_bicubic")
    for case in cases:
        out = pillow_bicubic(tensors[f"{case['id']}.in.rgb_u8"].numpy(), tuple(case["out_size"]))
        assert np.array_equal(out, tensors[f"{case['id']}.out.out"].numpy()), case["id"]


def test_size_and_scale_agree_when_the_scale_divides() -> None:
    image = torch.rand(2, 3, 24, 36, generator=torch.Generator().manual_seed(0))
    assert torch.equal(imresize(image, (8, 12)), imresize(image, scale=1 / 3))
    assert imresize(image, scale=(1.3, 0.4)).shape == (2, 3, 32, 15)  # ceil, as MATLAB


def test_scale_one_is_the_identity() -> None:
    image = torch.rand(3, 7, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(imresize(image, (7, 5)), image)


@pytest.mark.parametrize("size", [(23, 31), (5, 40), (40, 6)])
def test_a_rectangle_of_the_output_equals_the_cut_whole(size: tuple[int, int]) -> None:
    image = torch.rand(3, 14, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = imresize(image, size)
    assert whole.dtype == torch.float64
    rows, columns = axis_taps(14, size[0]), axis_taps(17, size[1])
    part = resample(image, (rows[0][2:4], rows[1][2:4]), (columns[0][1:5], columns[1][1:5]))
    torch.testing.assert_close(part, whole[:, 2:4, 1:5])


def test_weights_sum_to_one_and_a_single_pixel_can_be_resized() -> None:
    for lengths in ((1, 5), (5, 1), (7, 100), (100, 7)):
        indices, weights = axis_taps(*lengths)
        torch.testing.assert_close(weights.sum(1), torch.ones(lengths[1], dtype=torch.float64))
        assert int(indices.min()) >= 0 and int(indices.max()) < lengths[0]


def test_gradients_flow() -> None:
    image = torch.rand(1, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: imresize(x, (6, 3)), (image,))


def test_a_request_without_a_size_says_so() -> None:
    image = torch.zeros(3, 4, 4)
    wrong: list[dict[str, Any]] = [{}, {"size": (2, 2), "scale": 2.0}, {"scale": 0.0}, {"size": (0, 3)}]
    for arguments in wrong:
        with pytest.raises(UnsupportedScale):
            imresize(image, **arguments)
