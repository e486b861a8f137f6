"""APE (Wang et al., ECCV 2022, arXiv:2203.11589) on the backbones of ClassSR, ARM and ENAF.

The paper has EDSR alone (`ape.py`). Here an exit lies behind every few residual blocks of SRResNet, mapping layers of
FSRCNN or cascading blocks of CARN-M; what follows these in the backbone is shared by all exits, as EDSR's tail is. The
regressor looks at the features that leave. Networks see RGB in [0, 1] less the backbone's mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.encoders.carn import CARN
from scalewise.encoders.fsrcnn import FSRCNN
from scalewise.encoders.srresnet import SRResNet
from scalewise.errors import InvalidRequest
from scalewise.geometry.grid import Size
from scalewise.multiexit.ape import APE
from scalewise.multiexit.paths import Backbone


class BackboneAPE(APE):
    """Exits every `interval` layers of a backbone. What goes from exit to exit is features and the normalised patch,
    which SRResNet's tail adds to."""

    mean: Tensor

    def __init__(self, backbone: Backbone, interval: int = 1) -> None:
        nn.Module.__init__(self)
        self.network = backbone.build(backbone.channels)
        layers = len(self.layers)
        if interval < 1 or layers % interval:
            raise InvalidRequest(f"{layers} layers do not end with an exit every {interval}; choose a divisor")
        self.interval, self.paths, self.scale = interval, layers // interval, backbone.scale
        encoder = self.network.encoder
        self.channels = encoder.shrunk if isinstance(encoder, FSRCNN) else encoder.channels
        self.regressor = nn.Linear(self.channels, 1)
        self.register_buffer("mean", self.network.mean, persistent=False)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """What exits lie between."""
        encoder = self.network.encoder
        if isinstance(encoder, FSRCNN):
            return list(encoder.maps)
        assert isinstance(encoder, CARN | SRResNet)
        return list(encoder.blocks)

    def enter(self, lr: Tensor) -> Tensor:
        normal, encoder = lr - self.mean, self.network.encoder
        if isinstance(encoder, FSRCNN):
            features = encoder.shrink(encoder.extract(normal))
        elif isinstance(encoder, CARN):
            features = encoder.entry(normal)
        else:
            assert isinstance(encoder, SRResNet)
            features = F.leaky_relu_(encoder.head(normal), 0.1)
        return torch.cat((features, normal), 1)

    def stretch(self, path: int, x: Tensor) -> Tensor:
        """Features to leave with, then what later layers want too: CARN's outputs so far, the normalised patch."""
        encoder, c = self.network.encoder, self.channels
        features, rest = x[:, :c], x[:, c:]
        for index in range(path * self.interval, (path + 1) * self.interval):
            if isinstance(encoder, CARN):
                known = torch.cat((features if index == 0 else rest[:, :-3], self.layers[index](features)), 1)
                features, rest = encoder.fusions[index](known).relu_(), torch.cat((known, rest[:, -3:]), 1)
            else:
                features = self.layers[index](features)
        return torch.cat((features, rest), 1)

    def leaving(self, x: Tensor) -> Tensor:
        return torch.cat((x[:, : self.channels], x[:, -3:]), 1)

    def capacity(self, x: Tensor) -> Tensor:
        return super().capacity(x[:, : self.channels])

    def leave(self, shallow: Tensor, x: Tensor) -> Tensor:
        encoder, features = self.network.encoder, x[:, : self.channels].contiguous()
        if isinstance(encoder, FSRCNN):
            features = encoder.expand(encoder.activation(features))
        return self.network.tail.upscale(features, x[:, -3:], self.scale) + self.mean

    def path_macs(self, path: int, side: Size) -> Macs:
        c, encoder, layers = self.channels, self.network.encoder, self.interval * (path + 1)
        asked = cost.linear(c, 1, min(path + 1, self.paths - 1)).as_router()
        tail = self.network.tail.upscale_macs(side, self.scale)
        if isinstance(encoder, FSRCNN):
            d = encoder.channels
            ends = cost.conv2d(3, d, 5, *side) + cost.conv2d(d, c, 1, *side) * 2
            return ends + cost.conv2d(c, c, 3, *side) * layers + asked + tail
        trunk = cost.conv2d(3, c, 3, *side)
        if isinstance(encoder, CARN):
            return trunk + encoder.cascade_macs(side, layers) + asked + tail
        return trunk + cost.conv2d(c, c, 3, *side) * (2 * layers) + asked + tail
