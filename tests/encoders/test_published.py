"""CAMixerSR and SwinIR in the published order, which benchmarks/kernels.py times, are held to ours and to numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from encoders import published

from scalewise import compat
from scalewise.budget.budget import Effort
from scalewise.encoders.camixer import CAMixer
from scalewise.encoders.camixer_block import attend_windows
from scalewise.encoders.swinir import SwinIR


@pytest.mark.parametrize("gamma", [1.0, 0.25])
def test_camixer_with_and_without_gradients_equals_the_published_order(gamma: float) -> None:
    network, lr, effort = CAMixer(12, (2, 1)).eval(), torch.rand(1, 3, 48, 64), Effort(native={"gamma": gamma})
    plain = network(lr, effort).detach()
    with torch.no_grad():
        torch.testing.assert_close(published.camixer(network, lr, gamma), plain, rtol=0, atol=1e-5)
        torch.testing.assert_close(network(lr, effort), plain, rtol=0, atol=1e-5)


def test_swinir_with_and_without_gradients_equals_the_published_order() -> None:
    network, lr = SwinIR(12, (2, 2), heads=(3, 3), window=4, features=None).eval(), torch.rand(2, 3, 12, 16)
    plain = network(lr).detach()
    with torch.no_grad():
        torch.testing.assert_close(published.swinir(network, lr), plain, rtol=0, atol=1e-5)
        torch.testing.assert_close(network(lr), plain, rtol=0, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(lr)
    torch.testing.assert_close(half.float(), plain, rtol=0.1, atol=0.1)


@torch.no_grad()
def test_the_published_order_gives_the_official_numbers(shared: Path) -> None:
    """The picture's first value, spec of CAMixerSR_S at 32 × 32."""
    model = compat.load(shared / "weights/CAMixerSR_S.pth", parity=True).super_resolver
    i, j, c = torch.meshgrid(torch.arange(32), torch.arange(32), torch.arange(3), indexing="ij")
    lr = (((7 * i + 13 * j + 29 * c) % 64) / 63).permute(2, 0, 1).unsqueeze(0)
    features = published.camixer(model.encoder, lr, 1.0)  # type: ignore[arg-type]
    picture = model.upsampler.upscale(features, lr, 4)  # type: ignore[union-attr, attr-defined]
    found = (
        picture.mean(),
        picture.std(correction=0),
        picture[0, 0, 0, 0],
        picture[0, 1, 17, 23],
        picture[0, 2, -1, -1],
    )
    expected = torch.tensor((0.503142, 0.364539, 0.109003, 0.771214, 0.626550))
    torch.testing.assert_close(torch.stack(found), expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_attention_in_pieces_is_attention() -> None:
    q, k, v = (torch.randn(37, 256, 12) for _ in range(3))
    mask = torch.rand(256, 256) > 0.5
    for one in (None, mask):
        whole = attend_windows(q, k, v, one)
        pieces = attend_windows(q.bfloat16(), k.bfloat16(), v.bfloat16(), one)
        torch.testing.assert_close(pieces.float(), whole, rtol=0.1, atol=0.1)
