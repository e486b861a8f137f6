"""CiaoSR's attention across scales equals pasting patches; its short cuts change no number."""

from __future__ import annotations

import pytest
import torch
from upsamplers import literal

from scalewise.errors import InvalidRequest
from scalewise.geometry.grid import Frame, rectangle
from scalewise.upsamplers import ciaosr, corners
from scalewise.upsamplers.ciaosr import CiaoSR, CrossScaleAttention


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (13, 11), (4, 5)])
@pytest.mark.parametrize("scale", [2, 3, 4])
@torch.no_grad()
def test_streamed_attention_equals_pasted_patches(size: tuple[int, int], scale: int) -> None:
    attention, features = CrossScaleAttention(6, (scale,)), torch.randn(2, 6, *size)
    assert torch.allclose(attention(features), literal.cross_scale(attention, features), atol=1e-5)


@torch.no_grad()
def test_attention_in_runs_equals_attention_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    attention, features = CrossScaleAttention(4), torch.randn(1, 4, 5, 38)
    whole = attention(features)
    monkeypatch.setattr(ciaosr, "MAX_SCORES", 16)
    assert torch.allclose(attention(features), whole, atol=1e-6)


@torch.no_grad()
def test_an_empty_map_is_not_divided_by_zero() -> None:
    attention, features = CrossScaleAttention(4), torch.zeros(1, 4, 6, 6)
    for layer in (attention.match[0], attention.match_small[0]):
        assert isinstance(layer.bias, torch.Tensor)
        torch.nn.init.zeros_(layer.bias)
    result = attention(features)
    assert bool(result.isfinite().all())
    assert torch.allclose(result, literal.cross_scale(attention, features), atol=1e-6)


@pytest.mark.parametrize("local_size", [2, 3])
@torch.no_grad()
def test_pairs_of_pixels_equal_keys_of_points(local_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    upsampler = CiaoSR(4, (8, 8), non_local=False, local_size=local_size)
    frame = Frame((5, 6))
    field = upsampler.prepare(torch.randn(2, 4, 5, 6), torch.randn(2, 3, 5, 6), frame)
    query = rectangle(frame, (23, 31))
    monkeypatch.setattr(corners, "BAND_POINTS", 60)
    assert upsampler._pairs_pay(query, upsampler._nearest(query, field.axes)[0], 6)
    quick = upsampler.sample(field, query)
    monkeypatch.setattr(CiaoSR, "_pairs_pay", lambda *_: False)
    assert torch.allclose(quick, upsampler.sample(field, query), atol=1e-5)


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="local_size 4"):
        CiaoSR(4, local_size=4)
    with pytest.raises(InvalidRequest, match="multi_scale"):
        CiaoSR(4, multi_scale=(1,))
