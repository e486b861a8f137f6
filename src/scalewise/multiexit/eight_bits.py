"""Blocks of our multi-exit network in 8 bits, by oneDNN's convolutions, which torch brings.

What goes into each convolution is rounded to 256 steps of a span that was measured once, on crops of photos, and each
output channel's weights to 255 of their own. Products are summed exactly in 32 bits, so a pixel is the same whatever
is computed with it. Sums of a block and its input, and the other layers, stay floating-point numbers.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVERTED = 1 << 21  # numbers in 32 bits at once, on their way to 8: larger fresh memory is slow


def span(features: Tensor) -> tuple[float, float]:
    """The least and the greatest number of features, and 0. Raises ValueError for numbers that are not finite."""
    low, high = (float(end) for end in features.aminmax())
    if not math.isfinite(high - low):
        raise ValueError("features are not finite")
    return min(low, 0.0), max(high, 0.0)


class Steps:
    """The 256 numbers that a `span` is rounded to: `size` apart, and 0 is number `zero` of them."""

    def __init__(self, low: float, high: float) -> None:
        self.size = max(high - low, 1e-6) / 255
        self.zero = round(-low / self.size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says once that its own kind of 8-bit tensor will go
            self.of(torch.zeros(1, 1, 1, 1))

    def of(self, x: Tensor) -> Tensor:
        """Floating-point (b, c, h, w), channels last → uint8."""
        rows = max(1, CONVERTED // (x.shape[0] * x.shape[1] * x.shape[3]))
        if rows >= x.shape[2]:
            return self._of(x)
        out = torch.empty_like(x, dtype=torch.uint8, memory_format=torch.channels_last)
        for y in range(0, x.shape[2], rows):
            out[:, :, y : y + rows] = self._of(x[:, :, y : y + rows])
        return out

    def _of(self, x: Tensor) -> Tensor:
        # Torch's own kind of 8-bit tensor is made in one pass; its memory is that of a plain one.
        quantized = torch.quantize_per_tensor(x.float(), self.size, self.zero, torch.quint8)
        storage, offset = quantized.untyped_storage(), quantized.storage_offset()
        return torch.empty(0, dtype=torch.uint8).set_(storage, offset, quantized.shape, quantized.stride())  # type: ignore[call-overload]


class EightBitConvolution:
    """A valid convolution of 8-bit numbers: uint8 (b, c, h + 2, w + 2) of `steps` → (b, c', h, w)."""

    def __init__(self, layer: nn.Conv2d, steps: Steps) -> None:
        weight = layer.weight.detach().float()
        self.steps, self.bias = steps, None if layer.bias is None else layer.bias.detach().float()
        self.scale = (weight.abs().amax((1, 2, 3)) / 127).clamp_min(1e-12)
        self.zeros = torch.zeros(len(weight), dtype=torch.int64)
        rounded = (weight / self.scale.view(-1, 1, 1, 1)).round().to(torch.int8)
        self.packed = torch.ops.onednn.qconv_prepack(
            rounded, self.scale, steps.size, steps.zero, [1, 1], [0, 0], [1, 1], 1, None
        )

    def __call__(self, x: Tensor, dtype: torch.dtype, *, into: Steps | None = None) -> Tensor:
        """As numbers of `dtype`; or `into` steps, with ReLU."""
        size, zero, kind = (1.0, 0, dtype) if into is None else (into.size, into.zero, torch.uint8)
        source = (x, self.steps.size, self.steps.zero, self.packed, self.scale, self.zeros, self.bias)
        after: Any = "none" if into is None else "relu"
        return torch.ops.onednn.qconv2d_pointwise(*source, [1, 1], [0, 0], [1, 1], 1, size, zero, kind, after, [], "")


class EightBitBlock(nn.Module):
    """A ValidResidualBlock of these convolutions: (b, c, h + 4, w + 4) → (b, c, h, w), for inference on a CPU.

    `spans` (4,): least and greatest number of its input and of what goes into its second convolution."""

    spans: Tensor

    def __init__(self, conv1: nn.Conv2d, conv2: nn.Conv2d, slope: float, spans: Tensor) -> None:
        super().__init__()
        self.slope = slope
        self.register_buffer("spans", spans.detach().clone())
        first, second = (Steps(*pair) for pair in spans.double().view(2, 2).tolist())
        self.first, self.second = EightBitConvolution(conv1, first), EightBitConvolution(conv2, second)

    def ready(self, dtype: torch.dtype) -> EightBitBlock:
        """Itself: its weights are laid out already, and it answers in the number type of what it is given."""
        return self

    def forward(self, x: Tensor, into: object = None) -> Tensor:
        inner, dtype = self.first.steps.of(x), x.dtype
        if self.slope == 0:
            inner = self.first(inner, dtype, into=self.second.steps)
        else:
            inner = self.second.steps.of(F.leaky_relu_(self.first(inner, dtype), self.slope))
        return self.second(inner, dtype).add_(x[..., 2:-2, 2:-2])
