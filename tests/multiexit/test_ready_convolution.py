"""A convolution without padding and what follows it, as oneDNN does them at once and as plain operators do them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from scalewise.budget.meter import listening
from scalewise.layers import ready_convolution
from scalewise.models.patch_buffers import BlockMemory

onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
bf16 = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="no bf16 on this processor",
)


def features(layout: str) -> Tensor:
    """(2, 8, 15, 13): of a buffer with channels last, its whole, or part of its rows and columns; or planes."""
    buffer = torch.randn(2, 8, 19, 18, generator=torch.Generator().manual_seed(0))
    if layout == "planes":
        return buffer[..., 2:17, 3:16].contiguous()
    part = buffer.contiguous(memory_format=torch.channels_last)[..., 2:17, 3:16]
    return part if layout == "part" else part.contiguous(memory_format=torch.channels_last)


def layer(bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(1)
    return nn.Conv2d(8, 8, 3, bias=bias)


def plain(x: Tensor, conv: nn.Conv2d, slope: float | None, plus: Tensor | None) -> Tensor:
    y = F.conv2d(x, conv.weight, conv.bias)
    y = y if plus is None else y + plus
    return y if slope is None else F.leaky_relu(y, slope)


@pytest.mark.parametrize("layout", ["whole", "part", "planes"])
@pytest.mark.parametrize(("slope", "adds"), [(None, False), (0.0, False), (0.1, False), (None, True)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_convolution_and_what_follows(layout: str, slope: float | None, adds: bool, bias: bool) -> None:
    x, conv = features(layout), layer(bias)
    plus, before = (x[..., 1:-1, 1:-1] if adds else None), x.clone()
    with torch.inference_mode():
        found = ready_convolution(conv.weight, conv.bias, x.dtype, slope=slope)(x, plus)
        torch.testing.assert_close(found, plain(x, conv, slope, plus))
    assert torch.equal(x, before)  # the sum is not written into what is added


@onednn
def test_the_sum_is_written_into_the_memory_that_is_asked_for() -> None:
    x, conv = features("part"), layer()
    memory = BlockMemory(x[:1], 1000)
    memory.take([(0, 0, 10, 10)]).fill_(7)  # of another
    with torch.inference_mode():
        run = ready_convolution(conv.weight, conv.bias, x.dtype)
        found = run(x, x[..., 1:-1, 1:-1], lambda: memory.take([(0, 0, 13, 11), (0, 20, 13, 31)]))
        torch.testing.assert_close(found, plain(x, conv, None, x[..., 1:-1, 1:-1]))
    memory.clear()
    assert bool((memory.take([(0, 0, 10, 10)]) == 7).all())
    assert torch.equal(memory.take([(0, 0, 13, 11), (0, 20, 13, 31)]), found)


@bf16
@pytest.mark.parametrize("adds", [True, False])
def test_in_bf16_the_sum_is_rounded_once(adds: bool) -> None:
    x, conv = features("part").bfloat16(), layer()
    plus = x[..., 1:-1, 1:-1] if adds else None
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = ready_convolution(conv.weight, conv.bias, torch.bfloat16)(x, plus)
    assert found.dtype == torch.bfloat16
    rounded = nn.Conv2d(8, 8, 3)
    rounded.load_state_dict({name: value.bfloat16().float() for name, value in conv.state_dict().items()})
    exact = plain(x.float(), rounded, None, None if plus is None else plus.float())
    assert (found.float() - exact).abs().max() <= exact.abs().max() * 2**-8


def test_while_products_are_counted_plain_operators_run() -> None:
    x, conv = features("whole"), layer()
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        ready_convolution(conv.weight, conv.bias, x.dtype, slope=0.1)(x)
    assert counted.get_total_flops() == 2 * 2 * 13 * 11 * 8 * 8 * 9


def test_whoever_listens_hears_its_macs() -> None:
    x, conv, heard = features("whole"), layer(), list[int]()
    with torch.inference_mode(), listening(heard.append):
        ready_convolution(conv.weight, conv.bias, x.dtype, slope=0.0)(x)
    assert sum(heard) == 2 * 13 * 11 * 8 * 8 * 9
