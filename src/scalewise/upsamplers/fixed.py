"""Upsamplers of fixed-scale networks (pixel shuffle, deconvolution), and bicubic interpolation at any scale.

A fixed-scale network is `SuperResolver(encoder, tail, scales=tail.scales)`. Pixel shuffle: Shi et al., CVPR 2016,
arXiv:1609.05158. A tail's field is the upscaled image; a query at one of its own scales picks whole pixels from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget.cost import Macs, conv2d, deconv2d
from scalewise.errors import UnsupportedScale
from scalewise.geometry.grid import Frame, Query, Size
from scalewise.geometry.resize import Taps, cubic, resample
from scalewise.layers import conv3, luma


@dataclass(frozen=True)
class TailField:
    """A tile's features and LR image; `images` remembers the upscaled image by scale, made when first asked for."""

    features: Tensor
    lr: Tensor
    images: dict[int, Tensor] = field(default_factory=dict)


class FixedTail(nn.Module):
    """Base of tails: they give `upscale(features, lr, scale)`, `upscale_macs` and `context`."""

    scales: tuple[int, ...]
    context: int

    def upscale(self, features: Tensor, lr: Tensor, scale: int) -> Tensor:
        """(b, channels, h, w) and (b, 3, h, w) → (b, 3, h·scale, w·scale)."""
        raise NotImplementedError

    def upscale_macs(self, size: Size, scale: int) -> Macs:
        raise NotImplementedError

    def prepare(self, features: Tensor, lr: Tensor, frame: Frame) -> TailField:
        return TailField(features, lr)

    def sample(self, field: TailField, query: Query) -> Tensor:
        rows, columns = (1 / cell for cell in query.cell[0].tolist())
        scale = self._own(rows, columns)
        if scale not in field.images:
            field.images[scale] = self.upscale(field.features, field.lr, scale)
        return pick(field.images[scale], query, scale)

    def macs(self, size: Size, out: Size) -> Macs:
        return self.upscale_macs(size, self._own(out[0] / size[0], out[1] / size[1]))

    def _own(self, rows: float, columns: float) -> int:
        """The network's own scale that is asked for; raises UnsupportedScale for any other."""
        scale = round(rows)
        if scale not in self.scales or abs(rows - scale) > 1e-3 or abs(columns - scale) > 1e-3:
            own = " or ".join(f"×{s}" for s in self.scales)
            raise UnsupportedScale(f"this network upsamples by {own}, not by {rows:g} x {columns:g} (rows x columns)")
        return scale


def pick(image: Tensor, query: Query, scale: int) -> Tensor:
    """The pixels of an upscaled tile that hold the query's points: row floor(y·scale), column floor(x·scale)."""
    height, width = image.shape[-2:]
    y = (query.y * scale).long().clamp(0, height - 1)
    x = (query.x * scale).long().clamp(0, width - 1)
    if query.rectangle and y.shape[0] == x.shape[0] == 1:
        rows, columns = y.flatten(), x.flatten()
        # A GPU would have to be waited for, and a recorded graph has no numbers to look at.
        recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        if rows.device.type != "cpu" or recorded:
            return image.index_select(2, rows).index_select(3, columns)
        return _along(_along(image, rows, 2), columns, 3)
    batch = torch.arange(len(image), device=image.device).view(-1, *(1 for _ in y.shape[1:]))
    rgb = image.permute(0, 2, 3, 1)[batch, y, x]  # (b, hq, wq, 3) or (b, q, 3)
    return rgb.permute(0, 3, 1, 2) if query.rectangle else rgb


def _along(image: Tensor, index: Tensor, axis: int) -> Tensor:
    """The rows or columns `index`, rising, of an image: a view where they follow one another, as those of a tile do."""
    first, count = int(index[0]), len(index)
    if int(index[-1]) - first == count - 1 and bool((index.diff() == 1).all()):
        return image.narrow(axis, first, count)
    return image.index_select(axis, index)


def stages(scale: int) -> tuple[int, ...]:
    """Pixel shuffles that make a scale: a power of two in steps of 2, or one step of 3."""
    steps = scale.bit_length() - 1
    if scale == 2**steps and scale > 1:
        return (2,) * steps
    if scale == 3:
        return (3,)
    raise UnsupportedScale(f"a pixel shuffle tail upsamples by 3 or a power of two, not by {scale}")


class PixelShuffle(FixedTail):
    """Convolution and pixel shuffle per stage, then a convolution to RGB: the tail of EDSR, RCAN, NLSA, RDN, SwinIR.

    `width` is the number of channels between the stages (RDN: its growth); by default that of the features.
    """

    def __init__(self, channels: int, scale: int, *, width: int | None = None) -> None:
        super().__init__()
        width = width or channels
        self.scales, self.steps = (scale,), stages(scale)
        self.convs = nn.ModuleList(
            conv3(width if i else channels, width * step**2) for i, step in enumerate(self.steps)
        )
        self.last = conv3(width, 3)
        self.context = _reach(self.steps)

    def upscale(self, features: Tensor, lr: Tensor, scale: int) -> Tensor:
        for conv, step in zip(self.convs, self.steps, strict=True):
            features = F.pixel_shuffle(conv(features), step)
        return self.last(features)

    def upscale_macs(self, size: Size, scale: int) -> Macs:
        return _stage_macs(self.convs, self.steps, size) + _conv_macs(self.last, size, scale)


class DirectShuffle(FixedTail):
    """One convolution to 3·scale² channels and a pixel shuffle: the tail of ELAN and of lightweight SwinIR."""

    context = 1

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__()
        self.scales = (scale,)
        self.conv = conv3(channels, 3 * scale**2)

    def upscale(self, features: Tensor, lr: Tensor, scale: int) -> Tensor:
        return F.pixel_shuffle(self.conv(features), scale)

    def upscale_macs(self, size: Size, scale: int) -> Macs:
        return _conv_macs(self.conv, size, 1)


class RectifiedShuffle(FixedTail):
    """ETDS's: a 3×3 and a 1×1 convolution, each with ReLU, and a pixel shuffle; colours are clamped at 0.

    `width` is the number of channels between the two; by default that of the output, 3·scale²."""

    context = 1

    def __init__(self, channels: int, scale: int = 4, *, width: int | None = None) -> None:
        super().__init__()
        self.scales = (scale,)
        self.conv = conv3(channels, width or 3 * scale**2)
        self.clip = nn.Conv2d(self.conv.out_channels, 3 * scale**2, 1)

    def upscale(self, features: Tensor, lr: Tensor, scale: int) -> Tensor:
        return F.pixel_shuffle(self.clip(self.conv(features).relu_()).relu_(), scale)

    def upscale_macs(self, size: Size, scale: int) -> Macs:
        return _conv_macs(self.conv, size, 1) + _conv_macs(self.clip, size, 1)


class RepeatedShuffle(FixedTail):
    """ECBSR's: one convolution, plus each colour of the LR image as often as the pixel shuffle takes it apart.

    With one of `colours` that is the luma; its difference from bicubic is added to the bicubic image.
    """

    def __init__(self, channels: int, scale: int, *, colours: int = 3) -> None:
        super().__init__()
        self.scales, self.colours = (scale,), colours
        self.context = 2 if colours == 1 else 1  # of bicubic
        self.conv = conv3(channels, colours * scale**2)

    def upscale(self, features: Tensor, lr: Tensor, scale: int) -> Tensor:
        seen = luma(lr) if self.colours == 1 else lr
        sr = F.pixel_shuffle(self.conv(features) + seen.repeat_interleave(scale**2, 1), scale)
        if self.colours > 1:
            return sr
        base = F.interpolate(lr, scale_factor=scale, mode="bicubic", align_corners=False)
        return base + sr - luma(base)

    def upscale_macs(self, size: Size, scale: int) -> Macs:
        return _conv_macs(self.conv, size, 1)


class Residual(FixedTail):
    """The LR image plus a convolution of the features: networks that restore at scale 1 (CAT, SwinIR without tail)."""

    context = 1
    scales = (1,)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3(channels, 3)

    def upscale(self, features: Tensor, lr: Tensor, scale: int) -> Tensor:
        return lr + self.conv(features)

    def upscale_macs(self, size: Size, scale: int) -> Macs:
        return _conv_macs(self.conv, size, 1)


class ResNetTail(FixedTail):
    """SRResNet's: stages with LeakyReLU(0.1), two more convolutions, plus the bilinear image."""

    def __init__(self, channels: int, scale: int = 4) -> None:
        super().__init__()
        self.scales, self.steps = (scale,), stages(scale)
        self.convs = nn.ModuleList(conv3(channels, channels * step**2) for step in self.steps)
        self.refine = conv3(channels, channels)
        self.last = conv3(channels, 3)
        self.context = _reach(self.steps, last=2)

    def upscale(self, features: Tensor, lr: Tensor, scale: int) -> Tensor:
        for conv, step in zip(self.convs, self.steps, strict=True):
            features = F.pixel_shuffle(F.leaky_relu_(conv(features), 0.1), step)
        detail = self.last(F.leaky_relu_(self.refine(features), 0.1))
        return detail + F.interpolate(lr, scale_factor=scale, mode="bilinear", align_corners=False)

    def upscale_macs(self, size: Size, scale: int) -> Macs:
        ends = _conv_macs(self.refine, size, scale) + _conv_macs(self.last, size, scale)
        return _stage_macs(self.convs, self.steps, size) + ends


class CascadeTail(FixedTail):
    """CARN's: grouped convolutions with ReLU before each pixel shuffle, then one convolution for all scales."""

    def __init__(self, channels: int, scales: tuple[int, ...] = (2, 3, 4), *, groups: int = 4) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.stages = nn.ModuleDict(
            {
                str(scale): nn.ModuleList(
                    nn.Conv2d(channels, channels * step**2, 3, padding=1, groups=groups) for step in stages(scale)
                )
                for scale in self.scales
            }
        )
        self.last = conv3(channels, 3)
        self.context = max(_reach(stages(scale)) for scale in self.scales)

    def upscale(self, features: Tensor, lr: Tensor, scale: int) -> Tensor:
        for conv, step in zip(self.stages[str(scale)], stages(scale), strict=True):  # type: ignore[arg-type]
            features = F.pixel_shuffle(conv(features).relu_(), step)
        return self.last(features)

    def upscale_macs(self, size: Size, scale: int) -> Macs:
        convs = self.stages[str(scale)]
        return _stage_macs(convs, stages(scale), size) + _conv_macs(self.last, size, scale)  # type: ignore[arg-type]


class Deconvolution(FixedTail):
    """FSRCNN's: one 9×9 transposed convolution whose stride is the scale."""

    KERNEL = 9

    def __init__(self, channels: int, scale: int = 4) -> None:
        super().__init__()
        self.scales = (scale,)
        padding = (self.KERNEL + 1 - scale) // 2
        self.deconv = nn.ConvTranspose2d(
            channels, 3, self.KERNEL, scale, padding, output_padding=2 * padding + scale - self.KERNEL
        )
        self.context = math.ceil(self.KERNEL / 2 / scale)

    def upscale(self, features: Tensor, lr: Tensor, scale: int) -> Tensor:
        return deconvolve(features, self.deconv)

    def upscale_macs(self, size: Size, scale: int) -> Macs:
        return deconv2d(self.deconv.in_channels, 3, self.KERNEL, *size)


def deconvolve(features: Tensor, deconv: nn.ConvTranspose2d) -> Tensor:
    """A transposed convolution whose output is `stride` times the input, and the same as one convolution to all phases
    of an output pixel and a pixel shuffle: that multiplies by zeros too, and is several times faster on a CPU. With
    gradients the layer itself runs, which is what costs are counted by."""
    if torch.is_grad_enabled():
        return deconv(features)
    (stride, _), (padding, _) = deconv.stride, deconv.padding
    assert isinstance(padding, int)
    inputs, colours, kernel, _ = deconv.weight.shape
    reach = max((kernel - 1 - padding) // stride + 1, (stride - 1 + padding) // stride)
    # output stride·q + r takes input q + d through tap r + padding - stride·d
    taps = torch.arange(stride).unsqueeze(1) + padding - stride * (torch.arange(2 * reach + 1) - reach)
    inside = ((taps >= 0) & (taps < kernel)).to(deconv.weight)
    taps = taps.clamp(0, kernel - 1)
    weight = deconv.weight[:, :, taps][..., taps]  # (inputs, colours, phase, d, phase, d)
    weight = weight * inside.view(stride, -1, 1, 1) * inside
    weight = weight.permute(1, 2, 4, 0, 3, 5).reshape(colours * stride**2, inputs, *(2 * reach + 1,) * 2)
    bias = None if deconv.bias is None else deconv.bias.repeat_interleave(stride**2)
    return F.pixel_shuffle(F.conv2d(features, weight, bias, padding=reach), stride)


def _reach(steps: tuple[int, ...], last: int = 1) -> int:
    """LR pixels that a 3×3 convolution before each shuffle and `last` after them can see beyond a tile."""
    reach, scale = 0.0, 1
    for step in steps:
        reach += 1 / scale
        scale *= step
    return math.ceil(reach + last / scale)


def _conv_macs(conv: nn.Conv2d, size: Size, scale: int) -> Macs:
    height, width = size[0] * scale, size[1] * scale
    return conv2d(conv.in_channels, conv.out_channels, conv.kernel_size[0], height, width, conv.groups)


def _stage_macs(convs: nn.ModuleList, steps: tuple[int, ...], size: Size) -> Macs:
    total, scale = Macs(), 1
    for conv, step in zip(convs, steps, strict=True):
        total += _conv_macs(conv, size, scale)  # type: ignore[arg-type]
        scale *= step
    return total


@dataclass(frozen=True)
class Picture:
    """The LR tile and where it lies: bicubic's field."""

    lr: Tensor
    frame: Frame


class Bicubic(nn.Module):
    """Keys' bicubic interpolation (a = -0.5) of the LR image at any scale; it has no weights and reads no features."""

    context = 2

    def prepare(self, features: Tensor, lr: Tensor, frame: Frame) -> Picture:
        return Picture(lr, frame)

    def sample(self, field: Picture, query: Query) -> Tensor:
        lr, frame = field.lr, field.frame
        height, width = lr.shape[-2:]
        rows_go_on, columns_go_on = frame.goes_on
        rows = _taps(query.y, frame.size[0], frame.origin[0], height, rows_go_on)
        columns = _taps(query.x, frame.size[1], frame.origin[1], width, columns_go_on, turn=frame.wrap)
        if query.rectangle and query.y.shape[0] == query.x.shape[0] == 1:
            return resample(lr, _flat(rows), _flat(columns))
        batch = torch.arange(len(lr), device=lr.device).view(-1, *(1 for _ in range(query.y.dim() + 1)))
        pixels = lr.permute(0, 2, 3, 1)[batch, rows[0].unsqueeze(-1), columns[0].unsqueeze(-2)]  # (b, …, 4, 4, 3)
        weights = rows[1].unsqueeze(-1) * columns[1].unsqueeze(-2)
        rgb = (pixels * weights.to(lr.dtype).unsqueeze(-1)).sum((-3, -2))
        return rgb.permute(0, 3, 1, 2) if query.rectangle else rgb

    def macs(self, size: Size, out: Size) -> Macs:
        return Macs(sampling=3 * 4 * (out[0] * size[1] + out[0] * out[1]))


def _taps(
    position: Tensor, length: int, origin: int, tile: int, goes_on: tuple[bool, bool], turn: bool = False
) -> Taps:
    """Indices into the tile and weights of the 4 pixels around each position (…, 4); the image's border is mirrored
    where it does not go on. `turn`: a tile as long as the whole axis goes round, and needs no context."""
    position = position.double()
    first = torch.floor(position - 0.5) - 1
    near = first.unsqueeze(-1) + torch.arange(4, dtype=torch.float64, device=position.device)
    weights = cubic(position.unsqueeze(-1) - near - 0.5)
    index = near.long() + origin
    if turn and tile == length:
        return (index - origin) % tile, weights
    folded = index % (2 * length)
    folded = torch.where(folded < length, folded, 2 * length - 1 - folded)
    kept = (index < 0) & goes_on[0] | (index >= length) & goes_on[1]
    return (torch.where(kept, index, folded) - origin).clamp(0, tile - 1), weights


def _flat(taps: Taps) -> Taps:
    return taps[0].reshape(-1, 4), taps[1].reshape(-1, 4)
