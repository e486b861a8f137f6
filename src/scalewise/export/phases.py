"""Upsamplers of any scale at one whole factor s, as convolutions and a pixel shuffle that look nothing up.

Output pixel s·i + r lies d_r = (r + 0.5) / s - 0.5 LR pixels from the centre of LR pixel i, whatever i is. So what an
upsampler computes from distances is a table with a row for each of the s phases of an axis, made once, and the LR
pixels around a point are the taps of a convolution. This is what can be written to a file for other programs
(`onnx_file.py`). ITSRN and CiaoSR are not here: which pixels they ask depends on the size of the image too.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.contracts import Upsampler
from scalewise.errors import InvalidRequest, UnsupportedScale
from scalewise.geometry.grid import phase_distances
from scalewise.geometry.resize import cubic
from scalewise.upsamplers.corners import EXACT, MLP, as_convolution
from scalewise.upsamplers.fixed import Bicubic, FixedTail
from scalewise.upsamplers.liif import LIIF
from scalewise.upsamplers.lte import LTE
from scalewise.upsamplers.metasr import MetaSR

MAX_PHASES = 16  # per axis


def at_scale(upsampler: Upsampler, scale: float) -> nn.Module:
    """What `upsampler` is at one factor: a module of features (1, c, h, w) and lr (1, 3, h, w) → (1, 3, h·s, w·s).

    Raises UnsupportedScale for a factor that is not the network's own, or not whole from 1 to 16; InvalidRequest for
    upsamplers that cannot be written so."""
    if isinstance(upsampler, FixedTail):
        if scale not in upsampler.scales:
            own = " or ".join(f"×{s}" for s in upsampler.scales)
            raise UnsupportedScale(f"this network upsamples by {own}, not by {scale:g}: export it at its own scale")
        return Tail(upsampler, round(scale))
    phases = whole(scale)
    if getattr(upsampler, "geometry", EXACT) is not EXACT:
        raise InvalidRequest("an upsampler with the published rounding of coordinates is not exported: load it plainly")
    if isinstance(upsampler, Bicubic):
        return BicubicPhases(phases)
    if isinstance(upsampler, LIIF):
        return LIIFPhases(upsampler, phases)
    if isinstance(upsampler, LTE):
        return LTEPhases(upsampler, phases)
    if isinstance(upsampler, MetaSR):
        return MetaSRPhases(upsampler, phases)
    raise InvalidRequest(
        f"{type(upsampler).__name__} asks LR pixels that depend on the size of the image, which a file for all sizes "
        "cannot hold: exported are LIIF, LTE, MetaSR, bicubic and tails of fixed scales"
    )


def whole(scale: float) -> int:
    """The factor as a number of phases. Raises UnsupportedScale."""
    if scale != round(scale) or not 1 <= scale <= MAX_PHASES:
        raise UnsupportedScale(
            f"networks of any scale are exported at one whole factor from 1 to {MAX_PHASES}, not at {scale:g}"
        )
    return round(scale)


class Tail(nn.Module):
    """A tail of fixed scales at one of them."""

    def __init__(self, tail: FixedTail, scale: int) -> None:
        super().__init__()
        self.tail, self.scale = tail, scale

    def forward(self, features: Tensor, lr: Tensor) -> Tensor:
        return self.tail.upscale(features, lr, self.scale)


class BicubicPhases(nn.Module):
    """Keys' bicubic, the border mirrored; it reads no features. Both sides of the image have at least 2 pixels."""

    weight: Tensor

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        axis = cubic(phase_distances(scale, 5))  # (s, 5)
        weight = torch.einsum("rd,qe->rqde", axis, axis).flatten(0, 1).unsqueeze(1).float()  # (s², 1, 5, 5)
        self.register_buffer("weight", weight, persistent=False)

    def phases(self, lr: Tensor) -> Tensor:
        """(1, 3, h, w) → (3, s², h, w)."""
        for axis in (2, 3):
            ends = [lr.narrow(axis, at, 1) for at in (1, 0, -1, -2)]  # -1 is the last pixel
            lr = torch.cat((*ends[:2], lr, *ends[2:]), axis)
        return F.conv2d(lr.transpose(0, 1), self.weight)

    def forward(self, features: Tensor, lr: Tensor) -> Tensor:
        return shuffled(self.phases(lr), self.scale)


class Blend(nn.Module):
    """Answers of LR pixels to the output pixels around them, blended by area as LIIF and LTE do.

    An LR pixel is asked at n distances per axis, less than a pixel from its centre, 2/n apart. With `single` only the
    nearest pixel is asked, s distances."""

    across: Tensor
    offsets: Tensor

    def __init__(self, scale: int, *, single: bool = False) -> None:
        super().__init__()
        count = scale if single else 2 * scale - scale % 2
        self.scale = scale
        offsets = (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) / scale
        share = torch.ones_like(offsets) if single else 1 - offsets.abs()
        same = (phase_distances(scale, 3).unsqueeze(1) - offsets.view(1, -1, 1)).abs() < 1e-9  # (s, n, 3)
        self.register_buffer("across", (same * share.view(1, -1, 1)).float(), persistent=False)
        self.register_buffer("offsets", offsets.float(), persistent=False)

    def forward(self, rows: list[Tensor]) -> Tensor:
        """For each distance along y the answers (n, 3, h, w) to those along x → (1, 3, h·s, w·s)."""
        right = torch.stack([self._along(row.transpose(0, 1), 3) for row in rows], 2)  # (3, s, n, h, w)
        both = self._along(right.flatten(0, 1), 2).unflatten(0, (3, -1))  # (3, s along x, s along y, h, w)
        # at the border of the image the one pixel there is answers alone
        ones = torch.ones_like(rows[0][:, :1]).transpose(0, 1)  # (1, n, h, w)
        asked = self._along(ones, 3).unsqueeze(2) * self._along(ones, 2).unsqueeze(1)
        return shuffled((both / asked).transpose(1, 2).flatten(1, 2), self.scale)

    def _along(self, answers: Tensor, axis: int) -> Tensor:
        """(b, n, h, w) → (b, s, h, w): each phase takes its share of what the pixels around it answer."""
        if axis == 3:
            return F.conv2d(answers, self.across.unsqueeze(2), padding=(0, 1))
        return F.conv2d(answers, self.across.unsqueeze(3), padding=(1, 0))


class LIIFPhases(nn.Module):
    """LIIF with the points of one distance along y, and all along x, in one batch."""

    def __init__(self, upsampler: LIIF, scale: int) -> None:
        super().__init__()
        self.upsampler = upsampler
        self.cell = 2 / scale  # in LIIF's unit, as the distances: an LR pixel is 2
        self.blend = Blend(scale, single=not upsampler.local_ensemble)

    def forward(self, features: Tensor, lr: Tensor) -> Tensor:
        upsampler, layer = self.upsampler, self.upsampler.mlp.first
        weight, place = layer.weight[:, : upsampler.features], layer.weight[:, upsampler.features :]
        first = as_convolution(weight, features, layer.bias, upsampler.feat_unfold)  # (1, hidden, h, w)
        down, right, *cell = (column.view(1, -1, 1, 1) for column in place.unbind(1))
        for column in cell:
            first = first + self.cell * column
        first = first + 2 * self.blend.offsets.view(-1, 1, 1, 1) * right  # (n, hidden, h, w)
        rows = [after_first(upsampler.mlp, first + 2 * y * down) for y in self.blend.offsets.tolist()]
        return self.blend(rows)


class LTEPhases(nn.Module):
    """LTE likewise; the bilinear image is added."""

    def __init__(self, upsampler: LTE, scale: int) -> None:
        super().__init__()
        self.upsampler, self.scale = upsampler, scale
        self.blend = Blend(scale)

    def forward(self, features: Tensor, lr: Tensor) -> Tensor:
        upsampler = self.upsampler
        amplitude = upsampler.coef(features)
        down, right = upsampler.freq(features).chunk(2, 1)  # (1, hidden_dim / 2, h, w)
        cell = upsampler.condition(torch.full((1, 2), 1 / self.scale, device=features.device))
        phase = F.linear(2 * cell, upsampler.phase.weight).view(1, -1, 1, 1)
        right = right * (2 * self.blend.offsets.view(-1, 1, 1, 1)) + phase  # (n, hidden_dim / 2, h, w)
        rows = []
        for y in self.blend.offsets.tolist():
            angle = math.pi * (right + down * (2 * y))
            waves = torch.cat((angle.cos(), angle.sin()), 1)
            rows.append(after_first(upsampler.mlp, pointwise(upsampler.mlp.first, amplitude * waves)))
        return self.blend(rows) + F.interpolate(lr, scale_factor=self.scale, mode="bilinear", align_corners=False)


class MetaSRPhases(nn.Module):
    """MetaSR: one 3×3 convolution, with the filters that its network gives each phase."""

    weight: Tensor

    def __init__(self, upsampler: MetaSR, scale: int) -> None:
        super().__init__()
        self.scale = scale
        corner = torch.arange(scale) / scale  # from the LR pixel's edge to the output pixel's
        place = torch.stack(torch.meshgrid(corner, corner, indexing="ij"), -1).view(-1, 2)
        place = F.pad(place, (0, 1), value=1 / scale)  # (s², 3): rows, columns, cell
        filters = upsampler.mlp(place.to(upsampler.mlp.first.weight))  # (s², 9·c·3)
        weight = filters.view(len(place), upsampler.channels, 3, 3, 3).movedim(-1, 0).flatten(0, 1)
        self.register_buffer("weight", weight.detach(), persistent=False)

    def forward(self, features: Tensor, lr: Tensor) -> Tensor:
        return F.pixel_shuffle(F.conv2d(features, self.weight, padding=1), self.scale)


def shuffled(phases: Tensor, scale: int) -> Tensor:
    """(3, s², h, w), a colour in each, rows of phases first → (1, 3, h·s, w·s)."""
    return F.pixel_shuffle(phases, scale).transpose(0, 1)


def pointwise(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer on the channels of (b, c, h, w)."""
    return F.conv2d(x, layer.weight[:, :, None, None], layer.bias)


def after_first(mlp: MLP, x: Tensor) -> Tensor:
    """`MLP.after_first` on the channels of (b, hidden, h, w)."""
    for layer in mlp.linears[1:]:
        x = pointwise(layer, mlp.activation(x))
    return x
