"""ENAF: every patch takes the exit that a PSNR estimate says is worth its cost. Nguyen et al., WACV 2025.

Path 0 is bicubic, 1 and 2 are early exits, 3 is the whole network, on FSRCNN, CARN-M or SRResNet (section 3.1.1). The
estimator (3.1.2) and the rule of Eq. 9 are in `routing/estimator.py`. Exits are real here: the trunk runs on the
patches that have not left, and stops with them. (The published code computes all of CARN-M for each of its exits.)
"""

from __future__ import annotations

from typing import Generic, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget.cost import Macs, conv2d, deconv2d
from scalewise.contracts import PlainEncoder
from scalewise.encoders.fsrcnn import FSRCNN
from scalewise.encoders.srresnet import SRResNet
from scalewise.errors import InvalidRequest
from scalewise.geometry.grid import Size
from scalewise.layers import DIV2K_MEAN, conv3
from scalewise.multiexit.paths import Backbone, FixedNetwork, bicubic, bicubic_macs
from scalewise.upsamplers.fixed import deconvolve

Trunk = TypeVar("Trunk", bound=PlainEncoder)
SCALE = 4


class ExitNetwork(nn.Module, Generic[Trunk]):
    """Base: a subclass says how features of one exit become those of the next, and how a patch leaves."""

    paths = 4
    scale = SCALE

    def __init__(self, backbone: FixedNetwork, heads: list[nn.Sequential]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(heads)

    @property
    def encoder(self) -> Trunk:
        return cast(Trunk, self.backbone.encoder)

    def advance(self, path: int, features: Tensor) -> Tensor:
        """The features that exit `path` needs, from those of the exit before (of exit 0: the normalised patch)."""
        raise NotImplementedError

    def advance_macs(self, path: int, size: Size) -> Macs:
        raise NotImplementedError

    def head_macs(self, path: int, size: Size) -> Macs:
        raise NotImplementedError

    def leave(self, path: int, features: Tensor, normal: Tensor) -> Tensor:
        """The picture at exit `path`, before the mean is added."""
        if path == self.paths - 1:
            return self.backbone.tail.upscale(features, normal, self.scale)
        return self.heads[path - 1](features)

    def run(self, patches: Tensor, choice: Tensor) -> Tensor:
        """patches (n, 3, h, w) in [0, 1], choice (n,) on the CPU → (n, 3, 4h, 4w), not clamped. The trunk runs once,
        on the patches that go on."""
        height, width = patches.shape[-2:]
        out = patches.new_empty(len(patches), 3, height * self.scale, width * self.scale)
        here = choice.argsort(stable=True)
        staying = int((choice > 0).sum())
        first = here[: len(here) - staying].to(patches.device)
        if len(first):
            out[first] = bicubic(patches[first], self.scale).to(out.dtype)
        here = here[len(here) - staying :]
        normal = patches[here.to(patches.device)] - self.backbone.mean
        features = normal
        for path in range(1, self.paths):
            if not len(here):
                break
            features = self.advance(path, features)
            gone = int((choice[here] == path).sum())  # they are in front
            if gone:
                picture = self.leave(path, features[:gone], normal[:gone]) + self.backbone.mean
                out[here[:gone].to(patches.device)] = picture.to(out.dtype)
                here, features, normal = here[gone:], features[gone:], normal[gone:]
        return out

    def every_exit(self, patches: Tensor) -> list[Tensor]:
        """The pictures of all paths, for training: patches (n, 3, h, w) → four times (n, 3, 4h, 4w)."""
        normal = patches - self.backbone.mean
        pictures, features = [bicubic(patches, self.scale)], normal
        for path in range(1, self.paths):
            features = self.advance(path, features)
            pictures.append(self.leave(path, features, normal) + self.backbone.mean)
        return pictures

    def path_macs(self, path: int, side: Size) -> Macs:
        """MACs of one patch of `side` that leaves at exit `path`."""
        if path == 0:
            return bicubic_macs(side, self.scale)
        trunk = sum((self.advance_macs(k, side) for k in range(1, path + 1)), Macs())
        tail = self.backbone.tail.upscale_macs(side, self.scale)
        return trunk + (tail if path == self.paths - 1 else self.head_macs(path, side))


class DeconvolutionHead(nn.Sequential):
    """An early exit of FSRCNN: convolution, LeakyReLU(0.1), 9×9 transposed convolution of stride 4."""

    def __init__(self, channels: int, width: int) -> None:
        deconv = nn.ConvTranspose2d(width, 3, 9, SCALE, 3, output_padding=1)
        super().__init__(conv3(channels, width), nn.LeakyReLU(0.1), deconv)

    def forward(self, input: Tensor) -> Tensor:
        return deconvolve(self[1](self[0](input)), self[2])  # type: ignore[arg-type]


class FSRCNNExits(ExitNetwork[FSRCNN]):
    """Exits after the second and after the last (the published fourth) mapping layer of FSRCNN."""

    FIRST = 2

    def __init__(self, channels: int = 56, shrink: int = 12, widths: tuple[int, int] = (16, 36), maps: int = 4) -> None:
        if maps <= self.FIRST:
            raise InvalidRequest(f"{maps} mapping layers: the first exit is after {self.FIRST}, and more must follow")
        backbone = Backbone("fsrcnn", channels, shrink=shrink, maps=maps)
        super().__init__(backbone.build(channels), [DeconvolutionHead(shrink, width) for width in widths])
        self.widths = widths

    def advance(self, path: int, features: Tensor) -> Tensor:
        encoder = self.encoder
        if path == 1:
            return encoder.maps[: self.FIRST](encoder.shrink(encoder.extract(features)))
        return encoder.activation(encoder.maps[self.FIRST :](features)) if path == 2 else encoder.expand(features)

    def advance_macs(self, path: int, size: Size) -> Macs:
        d, s = self.encoder.channels, self.encoder.shrunk
        if path == 3:
            return conv2d(s, d, 1, *size)
        layer = conv2d(s, s, 3, *size)
        if path == 2:
            return layer * (len(self.encoder.maps) - self.FIRST)
        return conv2d(3, d, 5, *size) + conv2d(d, s, 1, *size) + layer * self.FIRST

    def head_macs(self, path: int, size: Size) -> Macs:
        width = self.widths[path - 1]
        return conv2d(self.encoder.shrunk, width, 3, *size) + deconv2d(width, 3, 9, *size)


class CARNExits(ExitNetwork[PlainEncoder]):
    """CARN-M: both early exits replace the upsampler only, and all exits share the whole trunk."""

    def __init__(
        self,
        channels: int = 64,
        groups: int = 4,
        widths: tuple[int, int] = (16, 32),
        *,
        mean: tuple[float, float, float] = DIV2K_MEAN,
    ) -> None:
        backbone = Backbone("carn", channels, groups=groups, mean=mean)
        heads = [
            nn.Sequential(
                nn.Conv2d(channels, 4 * width, 3, padding=1, groups=groups),
                nn.LeakyReLU(0.1),
                nn.PixelShuffle(2),
                nn.Conv2d(width, 4 * width, 3, padding=1, groups=groups),
                nn.LeakyReLU(0.1),
                nn.PixelShuffle(2),
                conv3(width, 3),
            )
            for width in widths
        ]
        super().__init__(backbone.build(channels), heads)
        self.groups, self.widths = groups, widths

    def advance(self, path: int, features: Tensor) -> Tensor:
        return self.encoder(features) if path == 1 else features

    def advance_macs(self, path: int, size: Size) -> Macs:
        return self.encoder.macs(size, (SCALE, SCALE)) if path == 1 else Macs()

    def head_macs(self, path: int, size: Size) -> Macs:
        (h, w), width, c = size, self.widths[path - 1], self.encoder.channels
        work = conv2d(c, 4 * width, 3, h, w, groups=self.groups)
        work += conv2d(width, 4 * width, 3, 2 * h, 2 * w, groups=self.groups)
        return work + conv2d(width, 3, 3, 4 * h, 4 * w)


class SRResNetExits(ExitNetwork[SRResNet]):
    """SRResNet: the first exit after nine blocks, the second after all, with a narrower tail."""

    FIRST = 9

    def __init__(self, channels: int = 64, blocks: int = 16) -> None:
        if blocks <= self.FIRST:
            raise InvalidRequest(f"{blocks} blocks: the first exit is behind {self.FIRST} blocks, and more must follow")
        super().__init__(
            Backbone("srresnet", channels, blocks=blocks).build(channels),
            [
                self._head(channels, channels, nn.Conv2d(channels // 4, 3, 1)),
                self._head(channels, 2 * channels, conv3(channels // 2, 3)),
            ],
        )

    @staticmethod
    def _head(channels: int, width: int, last: nn.Conv2d) -> nn.Sequential:
        return nn.Sequential(
            conv3(channels, 4 * channels),
            nn.PixelShuffle(2),
            nn.LeakyReLU(0.1),
            conv3(channels, width),
            nn.PixelShuffle(2),
            nn.LeakyReLU(0.1),
            conv3(width // 4, width // 4),
            nn.LeakyReLU(0.1),
            last,
        )

    def advance(self, path: int, features: Tensor) -> Tensor:
        encoder = self.encoder
        if path == 1:
            return encoder.blocks[: self.FIRST](F.leaky_relu(encoder.head(features), 0.1))
        return encoder.blocks[self.FIRST :](features) if path == 2 else features

    def advance_macs(self, path: int, size: Size) -> Macs:
        c, block = self.encoder.channels, conv2d(self.encoder.channels, self.encoder.channels, 3, *size) * 2
        if path == 1:
            return conv2d(3, c, 3, *size) + block * self.FIRST
        return block * (len(self.encoder.blocks) - self.FIRST) if path == 2 else Macs()

    def leave(self, path: int, features: Tensor, normal: Tensor) -> Tensor:
        picture = super().leave(path, features, normal)
        if path == self.paths - 1:
            return picture  # the tail has added the bilinear picture
        return picture + F.interpolate(normal, scale_factor=self.scale, mode="bilinear", align_corners=False)

    def head_macs(self, path: int, size: Size) -> Macs:
        (h, w), c = size, self.encoder.channels
        width, last = (c, 1) if path == 1 else (2 * c, 3)
        work = conv2d(c, 4 * c, 3, h, w) + conv2d(c, width, 3, 2 * h, 2 * w)
        return work + conv2d(width // 4, width // 4, 3, 4 * h, 4 * w) + conv2d(width // 4, 3, last, 4 * h, 4 * w)


def exit_loss(pictures: list[Tensor], hr: Tensor) -> Tensor:
    """Phase 2 (Eq. 6): the sum of the L1 of all exits but bicubic, equal weights."""
    return torch.stack([F.l1_loss(picture, hr) for picture in pictures[1:]]).sum()


def patch_psnr(pictures: list[Tensor], hr: Tensor, shave: int = SCALE) -> Tensor:
    """(n, paths) in dB: RGB, not clamped, `shave` pixels of border left out; infinite where a patch is exact."""
    inner = (..., slice(shave, -shave), slice(shave, -shave))
    errors = [(picture - hr)[inner].square().flatten(1).mean(1) for picture in pictures]
    return -10 * torch.stack(errors, 1).log10()


def estimator_loss(estimate: Tensor, psnr: Tensor) -> Tensor:
    """Phase 3 (Eq. 7): the mean over paths of |estimate + PSNR|, of patches whose PSNR is finite; both (n, paths)."""
    finite = psnr.isfinite()
    distance = torch.where(finite, (estimate + psnr).abs(), torch.zeros_like(psnr))
    return (distance.sum(0) / finite.sum(0).clamp_min(1)).mean()
