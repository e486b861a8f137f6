"""Upsamplers without gradients run merged and in oneDNN's products: the same numbers as with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scalewise.geometry.grid import Frame, Query, rectangle
from scalewise.upsamplers.ciaosr import CiaoSR
from scalewise.upsamplers.liif import LIIF

HIDDEN = (24, 16)
CASES: dict[str, nn.Module] = {
    "liif": LIIF(8, HIDDEN),
    "liif, nearest": LIIF(8, HIDDEN, local_ensemble=False, cell_decode=False),
    "ciaosr": CiaoSR(8, HIDDEN),
    "ciaosr, one corner": CiaoSR(8, HIDDEN, local_size=1, non_local=False),
    "ciaosr, nine corners": CiaoSR(8, HIDDEN, local_size=3, multi_scale=(2, 3)),
}


def queries() -> dict[str, Query]:
    points = torch.rand(2, 50), torch.rand(2, 50)
    cell = torch.tensor([[0.3, 0.2], [0.5, 0.9]])
    return {
        "rectangle": rectangle(Frame((9, 12)), (31, 40)),
        "points": Query(points[0] * 9, points[1] * 12, cell),
    }


@pytest.mark.parametrize("form", ["rectangle", "points"])
@pytest.mark.parametrize("name", CASES)
def test_with_and_without_gradients_the_numbers_are_the_same(name: str, form: str) -> None:
    upsampler, query = CASES[name], queries()[form]
    features, lr = torch.randn(2, 8, 9, 12), torch.rand(2, 3, 9, 12)

    def run() -> torch.Tensor:
        field = upsampler.prepare(features, lr, Frame((9, 12)))  # type: ignore[operator]
        return upsampler.sample(field, query)  # type: ignore[operator]

    plain = run().detach()
    with torch.no_grad():
        quick = run()
        with torch.autocast("cpu", torch.bfloat16):
            half = run()
    torch.testing.assert_close(quick, plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(half, plain, rtol=0.1, atol=0.05)
