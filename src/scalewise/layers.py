"""Blocks that two files share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache, wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.budget.meter import tick
from scalewise.geometry.grid import Size

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)  # RGB in [0, 1] over DIV2K's training images, which many networks subtract
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: BT.601, what networks of one channel see

ROWS = 16  # of an image, or of its windows' pixels, computed at a time: they stay in a processor's cache
Convolution = Callable[..., Tensor]  # what `ready_convolution` returns


def size_table(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Cache a pure function of sizes that builds a tensor on the CPU; users move it with `.to(device)`.

    The tensor is built outside inference mode and on the CPU whoever asks first, so that a table first needed in
    inference can be used in training, and one first needed under `torch.device("meta")` or while a graph is recorded
    holds numbers.
    """

    @lru_cache(maxsize=64)
    @wraps(function)
    def table(*sizes: object) -> Tensor:
        with torch.inference_mode(False), torch.device("cpu"), _disable_current_modes():
            return function(*sizes)

    return table


def luma(rgb: Tensor) -> Tensor:
    """(b, 3, h, w) → (b, 1, h, w)."""
    return (rgb * rgb.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def conv3(inputs: int, outputs: int, *, bias: bool = True) -> nn.Conv2d:
    """3×3 convolution that keeps the size (zero padding)."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def repeat_edge(x: Tensor, margin: int) -> Tensor:
    """Repeat the edge `margin` times on every side: what valid convolutions of a whole image start from."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _RepeatEdge.apply(x, margin)  # type: ignore[no-any-return]
    return F.pad(x, (margin, margin, margin, margin), mode="replicate")


class _RepeatEdge(torch.autograd.Function):
    """The same for training, in copies of slices: torch's own leaves channels last there, and is slow backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, margin: int) -> Tensor:
        m = ctx.margin = margin
        b, c, h, w = x.shape
        size = (b, c, h + 2 * m, w + 2 * m)
        out = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        out[..., m:-m, m:-m] = x
        fill_edge(out, m)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,), m = grads, ctx.margin
        inner = grad[..., m:-m].clone(memory_format=torch.channels_last)
        inner[..., :1] += grad[..., :m].sum(3, keepdim=True)
        inner[..., -1:] += grad[..., -m:].sum(3, keepdim=True)
        whole = inner[..., m:-m, :].clone(memory_format=torch.channels_last)
        whole[..., :1, :] += inner[..., :m, :].sum(2, keepdim=True)
        whole[..., -1:, :] += inner[..., -m:, :].sum(2, keepdim=True)
        return whole, None


def fill_edge(buffer: Tensor, margin: int) -> None:
    """Repeat the edge of what lies inside a margin (…, h + 2m, w + 2m) into the margin, in place."""
    m = margin
    buffer[..., :m, m:-m] = buffer[..., m : m + 1, m:-m]
    buffer[..., -m:, m:-m] = buffer[..., -m - 1 : -m, m:-m]
    buffer[..., :m] = buffer[..., m : m + 1]
    buffer[..., -m:] = buffer[..., -m - 1 : -m]


def working_dtype(x: Tensor) -> torch.dtype:
    """What products of x are computed in: autocast's number type where that is on, else x's own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def ready_linear(
    weight: Tensor, bias: Tensor | None, dtype: torch.dtype, *, after: str = "none"
) -> Callable[[Tensor], Tensor]:
    """A linear layer, and `after` it "relu" or "gelu", for calls without gradients; its weights are cast once.

    On a CPU it is oneDNN's product: in fp32 PyTorch's own goes to MKL, which was less than half as fast on an AMD
    processor with AVX512, and oneDNN's activation takes no time of its own.
    """
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    if not _onednn(weight.device, dtype, "_linear_pointwise"):
        activation = {"none": lambda x: x, "relu": F.relu_, "gelu": F.gelu}[after]
        return lambda x: activation(F.linear(x, weight, bias))
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    algorithm = "none" if after == "gelu" else ""
    return lambda x: torch.ops.mkldnn._linear_pointwise(x.to(dtype), packed, bias, after, [], algorithm)


def _onednn(device: torch.device, dtype: torch.dtype, operator: str) -> bool:
    """True if oneDNN's `operator` can be called, which has no public name: without it, or while a graph is recorded or
    products are counted, plain ones run."""
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing() or _get_current_dispatch_mode() is not None  # pyright: ignore[reportPrivateImportUsage]
    there = device.type == "cpu" and not recorded and hasattr(torch.ops.mkldnn, operator)
    return there and (dtype == torch.float32 or (dtype == torch.bfloat16 and _has_bf16()))


@lru_cache(maxsize=1)
def _has_bf16() -> bool:
    """True if oneDNN multiplies in bf16 here; asking takes as long as a small convolution."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def ready_convolution(
    weight: Tensor, bias: Tensor | None, dtype: torch.dtype, *, slope: float | None = None
) -> Convolution:
    """A plain convolution without padding for calls without gradients, after it a leaky ReLU of `slope` (0: a ReLU);
    its weights are cast once. Without a slope, a second tensor is added, and by oneDNN the sum is written into the
    memory that `into`, if any, then gives (channels last).

    On a CPU oneDNN does what comes after while it writes the sums: a pass over memory and a rounding less. Weights are
    not laid out before: laid out for one size, they made others up to 20 times slower (96 channels, AMX).
    """
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    outputs, inputs, side, _ = weight.shape

    def count(x: Tensor) -> None:
        tick(len(x) * cost.conv2d(inputs, outputs, side, x.shape[-2] - side + 1, x.shape[-1] - side + 1).total)

    if not _onednn(weight.device, dtype, "_convolution_pointwise"):

        def plain(x: Tensor, plus: Tensor | None = None, into: Callable[[], Tensor] | None = None) -> Tensor:
            assert plus is None or slope is None
            count(x)
            y = F.conv2d(x, weight, bias)
            return y.add_(plus) if plus is not None else y if slope is None else F.leaky_relu_(y, slope)

        return plain
    geometry = [0, 0], [1, 1], [1, 1], 1  # padding, stride, dilation, groups
    convolve, add = torch.ops.mkldnn._convolution_pointwise, torch.ops.mkldnn._convolution_pointwise_.binary
    after = "none" if slope is None else "leaky_relu" if slope else "relu"
    slopes = [slope] if slope else []

    def run(x: Tensor, plus: Tensor | None = None, into: Callable[[], Tensor] | None = None) -> Tensor:
        assert plus is None or slope is None
        count(x)
        if plus is None:
            return convolve(x.to(dtype), weight, bias, *geometry, after, slopes, "")
        total = torch.empty_like(plus, dtype=dtype, memory_format=torch.channels_last) if into is None else into()
        add(total.copy_(plus), x.to(dtype), weight, bias, *geometry, "add", 1.0, None, [], None)
        return total

    return run


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, after: str = "none") -> Tensor:
    """`ready_linear` for one call: x (…, inputs) → (…, outputs)."""
    return ready_linear(weight, bias, working_dtype(x), after=after)(x)


def normalise(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """`norm` of x (b, h, w, c). bf16 on a CPU goes through fp32 some rows at a time: PyTorch's own is slower."""
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype != torch.bfloat16:
        return norm(x)
    out = torch.empty_like(x)
    for here, there in zip(x.split(ROWS, 1), out.split(ROWS, 1), strict=True):
        there.copy_(F.layer_norm(here.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps))
    return out


class ResidualBlock(nn.Module):
    """x + res_scale · conv(ReLU(conv(x))): EDSR, Lim et al., CVPRW 2017, Fig. 2c."""

    def __init__(self, channels: int, res_scale: float = 1.0) -> None:
        super().__init__()
        self.conv1 = conv3(channels, channels)
        self.conv2 = conv3(channels, channels)
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.conv2(self.conv1(x).relu_()), alpha=self.res_scale)


class Mlp(nn.Module):
    """Linear, GELU, Linear on the last axis."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.fc2(nn.functional.gelu(self.fc1(x)))
        hidden = product(x, self.fc1.weight, self.fc1.bias, after="gelu")
        return product(hidden, self.fc2.weight, self.fc2.bias)

    def macs(self, rows: int) -> Macs:
        channels, hidden = self.fc1.in_features, self.fc1.out_features
        return cost.linear(channels, hidden, rows) + cost.linear(hidden, channels, rows)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., ECCV 2016): training leaves a residual branch out with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        kept = x.new_empty(len(x), *([1] * (x.dim() - 1))).bernoulli_(keep)
        return x * kept / keep


def init_transformer(network: nn.Module) -> None:
    """Swin's initialisation (Liu et al., ICCV 2021): linear weights trunc_normal(0.02), biases 0; LayerNorm 1 and 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def partition(x: Tensor, window: Size) -> Tensor:
    """(b, h, w, c) → (b, rows, columns, window pixels, c); sides are multiples of the window. `merge` undoes it."""
    b, h, w, c = x.shape
    rows, columns = h // window[0], w // window[1]
    return x.view(b, rows, window[0], columns, window[1], c).transpose(2, 3).flatten(3, 4)


def merge(x: Tensor, window: Size) -> Tensor:
    """(b, rows, columns, window pixels, c) → (b, h, w, c)."""
    b, rows, columns, _, c = x.shape
    return x.unflatten(3, window).transpose(2, 3).reshape(b, rows * window[0], columns * window[1], c)


@size_table
def relative_position_index(window: Size) -> Tensor:
    """(n, n) int64, n window pixels: row of `relative_offsets` that holds pixel i minus pixel j."""
    y, x = torch.meshgrid(torch.arange(window[0]), torch.arange(window[1]), indexing="ij")
    y, x = y.flatten(), x.flatten()
    rows = y.unsqueeze(1) - y + window[0] - 1
    columns = x.unsqueeze(1) - x + window[1] - 1
    return rows * (2 * window[1] - 1) + columns


@size_table
def relative_offsets(window: Size) -> Tensor:
    """((2h - 1)(2w - 1), 2) float32: every (rows, columns) offset between two pixels of a window, row-major."""
    rows = torch.arange(1 - window[0], window[0], dtype=torch.float32)
    columns = torch.arange(1 - window[1], window[1], dtype=torch.float32)
    return torch.cartesian_prod(rows, columns)


@size_table
def shift_mask(window: Size, shift: Size) -> Tensor:
    """(2, 2, n, n) float32, 0 or -100: the mask of a window after the image was rolled by -shift.

    Indexed by "in the last row of windows", "in the last column": elsewhere a window holds no wrapped pixels, and its
    mask is 0. In those, pixels from opposite edges of the image may not attend to each other. It does not depend on
    the size of the image.
    """
    wrapped_y = torch.arange(window[0]) >= window[0] - shift[0]
    wrapped_x = torch.arange(window[1]) >= window[1] - shift[1]
    masks = []
    for last_row in (0, 1):
        for last_column in (0, 1):
            side = 2 * last_row * wrapped_y.long().unsqueeze(1) + last_column * wrapped_x.long()
            side = side.flatten()
            masks.append((side.unsqueeze(1) != side).float() * -100)
    return torch.stack(masks).unflatten(0, (2, 2))


def window_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q·kᵀ/√d + bias + mask)·v: q, k, v (b, rows, columns, heads, n, d), bias (heads, n, n), a `shift_mask`."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
    if mask is not None and torch.compiler.is_compiling():  # slices of a picture of any size cannot be exported
        scores = scores + mask_of_windows(scores, mask)
    elif mask is not None:
        mask_edges(scores, mask)
    return scores.softmax(-1) @ v


def mask_of_windows(scores: Tensor, mask: Tensor) -> Tensor:
    """What `mask_edges` adds, for every window: (rows, columns, 1, n, n)."""
    mask = mask.to(scores)
    row, column = (
        (torch.arange(n, device=scores.device) == n - 1).to(scores.dtype).view(*shape)
        for n, shape in ((scores.shape[1], (-1, 1, 1, 1, 1)), (scores.shape[2], (-1, 1, 1, 1)))
    )
    both = row * column
    return (column - both) * mask[0, 1] + (row - both) * mask[1, 0] + both * mask[1, 1]


def mask_edges(scores: Tensor, mask: Tensor, *, last_row: bool = True) -> None:
    """Add a `shift_mask` to scores (b, rows, columns, heads, n, n) in place. Windows inside the image are not masked.
    `last_row`: the last row of these is the image's."""
    mask = mask.to(scores)
    inside = scores[:, :-1] if last_row else scores
    inside[:, :, -1] += mask[0, 1]
    if last_row:
        scores[:, -1, :-1] += mask[1, 0]
        scores[:, -1, -1] += mask[1, 1]


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """(…, n, parts · heads · d) → `parts` tensors (…, heads, n, d)."""
    return x.unflatten(-1, (parts, heads, -1)).movedim(-3, 0).transpose(-3, -2).unbind(0)


class LocalAttention(nn.Module):
    """Multi-head attention inside windows with a bias per relative position, without a projection after it."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, (window, window)
        self.bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(channels, 3 * channels)
        nn.init.trunc_normal_(self.bias_table, std=0.02)

    def forward(self, u: Tensor) -> Tensor:
        """(…, n, c) → (…, n, c), windows of n pixels."""
        q, k, v = split_heads(self.qkv(u), 3, self.heads)
        index = relative_position_index(self.window).to(u.device)
        return window_attention(q, k, v, self.bias_table[index].permute(2, 0, 1)).transpose(-3, -2).flatten(-2)

    def macs(self, windows: int) -> Macs:
        channels, n = self.qkv.in_features, self.window[0] * self.window[1]
        return cost.linear(channels, 3 * channels, windows * n) + cost.attention(n, n, channels, windows)


def window_context(steps: Iterable[tuple[int, tuple[tuple[int, int], ...]]]) -> int:
    """Pixels beyond any region that can change it, along one axis of a network of convolutions and masked windows.

    `steps` go from the output to the input; each is (margin, ((window, shift), ...)): what it needs is the farthest of
    `margin` pixels more and of the edges of the windows that the region touches. Edges lie at multiples of the window
    plus shift, so the reach depends on where the region ends; this is the largest over all positions.
    """
    steps = list(steps)
    period = math.lcm(*(window for _, windows in steps for window, _ in windows))
    worst = 0
    for direction in (1, -1):
        for start in range(period):
            edge = start
            for margin, windows in steps:
                # the first multiple of the window, plus shift, at or beyond the edge
                ends = (edge + (direction * shift - edge) % window for window, shift in windows)
                edge = max(edge + margin, *ends) if windows else edge + margin
            worst = max(worst, edge - start)
    return worst


class TransformerBlock(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x)), on (b, h, w, c). `attention` has `macs(height, width)`."""

    def __init__(self, channels: int, attention: nn.Module, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = attention
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, hidden)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(normalise(x, self.norm1)))
        return x + self.drop_path(self.mlp(normalise(x, self.norm2)))

    def macs(self, height: int, width: int) -> Macs:
        return self.attention.macs(height, width) + self.mlp.macs(height * width)  # type: ignore[operator]


def pad_to_grid(maps: Tensor, grid: int) -> Tensor:
    """Pad right and bottom to multiples of `grid`: mirrored, or the edge repeated where the image is too small."""
    height, width = maps.shape[-2:]
    bottom, right = -height % grid, -width % grid
    if not (bottom or right):
        return maps
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(maps, (0, right, 0, bottom), mode=mode)
