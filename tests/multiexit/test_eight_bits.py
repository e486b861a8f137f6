"""Blocks in 8 bits: what they round, what they clip, and that a pixel does not depend on its company."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scalewise.layers import repeat_edge
from scalewise.machine.device import fast_int8
from scalewise.multiexit.anyscale import AnyScaleExits, ValidResidualBlock
from scalewise.multiexit.eight_bits import CONVERTED, EightBitBlock, Steps, span

needs_vnni = pytest.mark.skipif(not fast_int8(torch.device("cpu")), reason="the processor has no VNNI")


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)


def test_a_span_holds_zero_and_all_numbers() -> None:
    assert span(torch.tensor([0.5, 2.0])) == (0.0, 2.0)
    assert span(torch.tensor([-3.0, -1.0])) == (-3.0, 0.0)
    with pytest.raises(ValueError, match="not finite"):
        span(torch.tensor([1.0, float("nan")]))


@needs_vnni
@pytest.mark.parametrize(("low", "high"), [(0.0, 4.0), (-3.0, 2.0), (0.0, 0.0)])
def test_steps_are_even_and_clip_what_lies_beyond(low: float, high: float) -> None:
    steps, x = Steps(low, high), features(2, 4, 9, 7) * 3
    expected = ((x / steps.size).round() + steps.zero).clamp(0, 255)
    found = steps.of(x)
    assert found.dtype == torch.uint8 and found.is_contiguous(memory_format=torch.channels_last)
    assert (found.float() - expected).abs().max() <= 1  # at ties
    assert (found == expected).float().mean() > 0.99
    assert bool((steps.of(torch.zeros(1, 1, 1, 1)) == steps.zero).all())


@needs_vnni
def test_large_features_are_rounded_as_small_ones() -> None:
    steps, x = Steps(-3.0, 3.0), features(1, 64, 40, CONVERTED // 64 // 16)
    assert torch.equal(steps.of(x)[:, :, 10:14], steps.of(x[:, :, 10:14]))


@needs_vnni
@torch.no_grad()
@pytest.mark.parametrize("slope", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_is_near_the_one_in_floating_point(slope: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    block, x = ValidResidualBlock(16, slope), features(3, 16, 14, 11)
    block.conv2.weight.mul_(10)  # as it is set, the block is nearly the identity
    inner = F.leaky_relu(block.conv1(x), slope)
    own = EightBitBlock(block.conv1, block.conv2, slope, torch.tensor((*span(x), *span(inner))))
    expected, found = block(x), own(x.to(dtype))
    assert found.dtype == dtype and found.shape == expected.shape
    assert (expected - x[..., 2:-2, 2:-2]).abs().max() > 0.5  # the convolutions do something
    assert (found.float() - expected).abs().max() < 0.06


@needs_vnni
@torch.no_grad()
def test_a_pixel_is_the_same_in_any_company() -> None:
    torch.manual_seed(0)
    network = AnyScaleExits(16, exit_after=(1, 2), kernels=(3, 3))
    lr = torch.rand(2, 3, 30, 26, generator=torch.Generator().manual_seed(1))
    own = network.in_eight_bits(network.spans(lr))
    x = repeat_edge(own.enter(lr), 2).contiguous(memory_format=torch.channels_last)
    whole = own.block(1, x)
    assert torch.equal(own.block(1, x[:1, :, 5:20, 3:17]), whole[:1, :, 5:16, 3:13])
    assert torch.equal(own.block(1, x[1:]), whole[1:])
