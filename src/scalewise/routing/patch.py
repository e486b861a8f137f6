"""PatchRouter: who decides per patch. One look at the LR patch and the scale; the gain of each exit over the last."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Size

CELL = 4  # LR pixels a side that one vector of the estimator sees, as in ENAF's


class PatchRouter(nn.Module):
    """Predicts, per patch, the root of the drop in mean squared error that each exit brings over the exit before.

    After ENAF's estimator (Nguyen et al., WACV 2025, section 3.1.2): a 4×4 convolution of stride 4 and 1×1 ones,
    so a patch's evidence depends on that patch alone and tiles cut along patches change nothing. Ours predicts gains,
    not PSNR, pools mean and maximum, and knows the scale.
    """

    def __init__(self, exits: int, *, patch: int = 32, channels: int = 48) -> None:
        super().__init__()
        self.exits, self.patch, self.channels = exits, patch, channels
        self.cells = nn.Sequential(
            nn.Conv2d(3, channels, CELL, CELL),
            nn.GELU(),
            nn.Conv2d(channels, channels, 1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 1),
            nn.GELU(),
        )
        self.judge = nn.Sequential(nn.Linear(2 * channels + 2, 64), nn.GELU(), nn.Linear(64, exits))

    def forward(self, lr: Tensor, scale: Tensor) -> Tensor:
        """lr (b, 3, h, w) in [0, 1] cut along patches, scale (b, 2) → (b, exits, gy, gx) ≥ 0."""
        patch = self.patch
        lr = F.pad(lr, (0, -lr.shape[-1] % patch, 0, -lr.shape[-2] % patch), mode="replicate")
        # differences from the patch's own mean: brightness says nothing about detail
        mean = F.avg_pool2d(lr, patch)
        centred = lr - mean.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        cells = self.cells(centred * 4)
        pooled = torch.cat((F.avg_pool2d(cells, patch // CELL), F.max_pool2d(cells, patch // CELL)), 1)
        zoom = scale.to(pooled).log()[:, :, None, None].expand(-1, -1, *pooled.shape[-2:])
        return F.softplus(self.judge(torch.cat((pooled, zoom), 1).movedim(1, -1)).movedim(-1, 1) - 3) * 0.1

    def macs(self, size: Size) -> Macs:
        """MACs of one image of `size`."""
        gy, gx = (-(-n // self.patch) for n in size)
        side = self.patch // CELL
        h, w, c = gy * side, gx * side, self.channels
        work = cost.conv2d(3, c, CELL, h, w) + cost.conv2d(c, c, 1, h, w) * 2
        work += cost.linear(2 * c + 2, 64, gy * gx) + cost.linear(64, self.exits, gy * gx)
        return work.as_router()
