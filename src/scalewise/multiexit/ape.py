"""APE: adaptive patch exiting for scalable single image super-resolution. Wang et al., ECCV 2022, arXiv:2203.11589.

EDSR with an exit behind every few blocks. Exits share the trunk's last convolution, the tail and a regressor of the
incremental capacity, as the published code counts it: 1 - tanh(dB that the stretch before the exit brought), so near 1
where going on brings little. A patch leaves at the first exit where it is at least a threshold; at 1 none does before
the last. `models/early_exit.py` runs it on patches of 48.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.encoders.edsr import EDSR
from scalewise.errors import InvalidRequest
from scalewise.geometry.grid import Size
from scalewise.layers import DIV2K_MEAN
from scalewise.upsamplers.fixed import PixelShuffle

RANGE = 255.0


class APE(nn.Module):
    """Defaults as published: 32 blocks of 256 channels, an exit every 4. RGB in [0, 1]; inside 0..255 less the mean."""

    mean: Tensor

    def __init__(
        self, channels: int = 256, blocks: int = 32, *, interval: int = 4, scale: int = 4, res_scale: float = 0.1
    ) -> None:
        super().__init__()
        if blocks % interval:
            raise InvalidRequest(f"{blocks} blocks do not end with an exit every {interval}; choose a divisor")
        self.channels, self.interval, self.scale = channels, interval, scale
        self.paths = blocks // interval
        self.trunk = EDSR(channels, blocks, res_scale=res_scale)
        self.tail = PixelShuffle(channels, scale)
        self.regressor = nn.Linear(channels, 1)
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1), persistent=False)

    def forward(self, lr: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """lr (b, 3, h, w) → the picture (b, 3, h·scale, w·scale) and the capacity (b,) at every exit; for training."""
        shallow = x = self.enter(lr)
        pictures, capacities = [], []
        for path in range(self.paths):
            x = self.stretch(path, x)
            pictures.append(self.leave(shallow, x))
            capacities.append(self.capacity(x))
        return pictures, capacities

    def run_while(
        self, patches: Tensor, stays: Callable[[int, Tensor], Tensor], *, chunk: int = 32
    ) -> tuple[Tensor, Tensor]:
        """Patches (n, 3, h, w) → pictures (n, 3, h·scale, w·scale) and the exit (n,) where each has left, on the CPU.

        `stays(exit, capacity)` says which of the patches still in the network go on, (k,) → bool (k,); the last exit is
        everyone's. Only those are computed, `chunk` at a time. The regressor is asked at all exits but the last.
        """
        shallow = x = _in_chunks(self.enter, chunk, patches)
        exits = torch.full((len(patches),), self.paths - 1)
        index, left, features = torch.arange(len(patches)), [], []
        for path in range(self.paths):
            x = _in_chunks(lambda some, path=path: self.stretch(path, some), chunk, x)
            if path < self.paths - 1:
                on = stays(path, self.capacity(x).float()).cpu()
                out, staying = ~on, on.to(x.device)
                exits[index[out]] = path
                left, features, index, x = (
                    [*left, index[out]],
                    [*features, self.leaving(x[~staying])],
                    index[on],
                    x[staying],
                )
                if not len(index):
                    break
        left, features = torch.cat([*left, index]), torch.cat([*features, self.leaving(x)])
        back = left.argsort()
        return _in_chunks(self.leave, chunk, shallow, features[back.to(features.device)]), exits

    def enter(self, lr: Tensor) -> Tensor:
        return self.trunk.head((lr - self.mean) * RANGE)

    def stretch(self, path: int, x: Tensor) -> Tensor:
        """The blocks between exit `path` and the one before."""
        return self.trunk.blocks[path * self.interval : (path + 1) * self.interval](x)

    def leaving(self, x: Tensor) -> Tensor:
        """What `leave` needs of the features at an exit."""
        return x

    def capacity(self, x: Tensor) -> Tensor:
        """(n, c, h, w) → (n,) in (-1, 1): near 1 where the last blocks brought nothing."""
        return self.regressor(x.mean((-2, -1))).squeeze(-1).tanh()

    def leave(self, shallow: Tensor, x: Tensor) -> Tensor:
        features = shallow + self.trunk.body_end(x)
        return self.tail.upscale(features, x, self.scale) / RANGE + self.mean

    def path_macs(self, path: int, side: Size) -> Macs:
        """MACs of one patch of `side` that leaves at exit `path`, with the regressor at the exits that it passed."""
        c, blocks = self.channels, self.interval * (path + 1)
        asked = cost.linear(c, 1, min(path + 1, self.paths - 1)).as_router()
        trunk = cost.conv2d(3, c, 3, *side) + cost.conv2d(c, c, 3, *side) * (2 * blocks + 1)
        return trunk + asked + self.tail.upscale_macs(side, self.scale)


def _in_chunks(function: Callable[..., Tensor], chunk: int, *inputs: Tensor) -> Tensor:
    if len(inputs[0]) <= chunk:
        return function(*inputs)
    return torch.cat([function(*some) for some in zip(*(one.split(chunk) for one in inputs), strict=True)])


def capacity_loss(pictures: Sequence[Tensor], capacities: Sequence[Tensor], hr: Tensor, *, shave: int) -> Tensor:
    """Sum over exits of L1 and of the squared error of the capacity; `shave` pixels of each side do not count in dB.

    The target is 1 - tanh(dB over the exit before); the first exit's dB count from 0.
    """
    total = hr.new_zeros(())
    for (before, _), (picture, capacity) in pairwise([(None, None), *zip(pictures, capacities, strict=True)]):
        assert picture is not None and capacity is not None
        gain = _psnr(picture, hr, shave) - (0.0 if before is None else _psnr(before, hr, shave))
        total = total + (picture - hr).abs().mean() + (capacity - (1 - gain.tanh())).square().mean()
    return total


def _psnr(picture: Tensor, hr: Tensor, shave: int) -> Tensor:
    """(b,) dB of pictures in [0, 1], all colours, not clamped; a target, so without gradient."""
    inside = slice(shave, -shave or None)
    error = (picture.detach() - hr)[..., inside, inside].square().mean((1, 2, 3))
    return -10 * error.clamp_min(1e-12).log10()
