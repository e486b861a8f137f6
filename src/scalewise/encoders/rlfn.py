"""RLFN: residual local feature network. Kong et al., CVPR workshops 2022, arXiv:2205.07514.

Blocks of three convolutions with a skip, then ESA, an attention by position that looks at a reduced picture. That one
is enlarged to the size of the whole picture, so what a pixel becomes depends on all of it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget.cost import Macs, conv2d
from scalewise.budget.route import Route
from scalewise.contracts import PlainEncoder, Scale
from scalewise.geometry.grid import Size
from scalewise.layers import conv3

SLOPE = 0.05  # slope of the leaky ReLU below 0
POOL, POOL_STEP = 7, 3
LEAST_SIDE = 2 * (POOL - 1) + 3  # LR pixels that the reduced picture needs


class SpatialAttention(nn.Module):
    """ESA: x times a map that a convolution of step 2 and a maximum over windows make of it."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1)
        self.conv_f = nn.Conv2d(width, width, 1)
        self.conv2 = nn.Conv2d(width, width, 3, stride=2)
        self.conv3 = conv3(width, width)
        self.conv4 = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.conv1(x)
        small = self.conv3(F.max_pool2d(self.conv2(narrow), POOL, POOL_STEP))
        spread = F.interpolate(small, x.shape[-2:], mode="bilinear", align_corners=False)
        return x * self.conv4(spread + self.conv_f(narrow)).sigmoid()


class LocalBlock(nn.Module):
    """RLFB: three convolutions, plus the input, a 1×1 convolution and ESA."""

    def __init__(self, channels: int, middle: int, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv3(channels, middle), conv3(middle, middle), conv3(middle, channels)
        self.mix = nn.Conv2d(channels, channels, 1)
        self.attention = SpatialAttention(channels, width)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for conv in (self.conv1, self.conv2, self.conv3):
            y = F.leaky_relu(conv(y), SLOPE)
        return self.attention(self.mix(y + x))


class RLFN(PlainEncoder):
    """Convolution, `blocks` blocks, a convolution, plus the output of the first. `middle`: channels inside of a block;
    `width`: those of its attention."""

    context = None

    def __init__(self, channels: int = 52, blocks: int = 6, *, middle: int | None = None, width: int = 16) -> None:
        super().__init__()
        self.channels, self.middle, self.width = channels, middle or channels, width
        self.head = conv3(3, channels)
        self.blocks = nn.Sequential(*(LocalBlock(channels, self.middle, width) for _ in range(blocks)))
        self.body_end = conv3(channels, channels)

    def forward(self, lr: Tensor) -> Tensor:
        """(b, 3, h, w) → (b, channels, h, w); what is smaller than the attention needs is padded by its edge."""
        height, width = lr.shape[-2:]
        padding = (0, max(0, LEAST_SIDE - width), 0, max(0, LEAST_SIDE - height))
        shallow = self.head(F.pad(lr, padding, "replicate") if any(padding) else lr)
        return (self.body_end(self.blocks(shallow)) + shallow)[..., :height, :width]

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        c, m, f = self.channels, self.middle, self.width
        height, width = (max(n, LEAST_SIDE) for n in size)
        halved = (height - 3) // 2 + 1, (width - 3) // 2 + 1
        pooled = (halved[0] - POOL) // POOL_STEP + 1, (halved[1] - POOL) // POOL_STEP + 1
        block = conv2d(c, m, 3, height, width) + conv2d(m, m, 3, height, width) + conv2d(m, c, 3, height, width)
        block += conv2d(c, c, 1, height, width) + conv2d(c, f, 1, height, width) * 2 + conv2d(f, f, 1, height, width)
        block += conv2d(f, f, 3, *halved) + conv2d(f, f, 3, *pooled)
        return conv2d(3, c, 3, height, width) + block * len(self.blocks) + conv2d(c, c, 3, height, width)
