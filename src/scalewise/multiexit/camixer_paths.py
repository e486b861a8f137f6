"""ClassSR with CAMixerSR (Wang et al., CVPR 2024, arXiv:2402.19289, Tables 2 and 3): each patch takes one of several
CAMixerSR networks, or one network at one of several shares of attention.

The paper's two: Small, Medium and Base at γ = 0.5 (1711K with the classifier), and one Base for all three classes
(820K). The published code draws a new number of hard windows for every patch, and with four windows to a patch it
mostly draws none; here each path keeps its share of all windows of all layers, so that its cost is known before.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget.budget import Effort
from scalewise.budget.cost import Macs
from scalewise.encoders.camixer import BASE, MEDIUM, SMALL, CAMixer
from scalewise.errors import InvalidRequest
from scalewise.geometry.grid import Size
from scalewise.multiexit.classsr import mix
from scalewise.upsamplers.fixed import DirectShuffle


class CAMixerPaths(nn.Module):
    """A path per value of `keep`, cheapest first; one network per path, or one for all if `channels` has one value."""

    def __init__(
        self,
        channels: tuple[int, ...] = (SMALL, MEDIUM, BASE),
        keep: tuple[float, ...] = (0.5, 0.5, 0.5),
        *,
        scale: int = 4,
        depths: tuple[int, ...] = (4, 4, 6, 6),
        predictor: str = "published",
    ) -> None:
        super().__init__()
        if len(channels) not in (1, len(keep)):
            raise InvalidRequest(f"{len(channels)} networks for {len(keep)} paths: give one, or one per path")
        self.keep, self.paths, self.scale = keep, len(keep), scale
        self.encoders = nn.ModuleList(CAMixer(c, depths, predictor=predictor) for c in channels)
        self.tails = nn.ModuleList(DirectShuffle(c, scale) for c in channels)

    def run(self, patches: Tensor, choice: Tensor) -> Tensor:
        """patches (n, 3, h, w) in [0, 1], choice (n,) → (n, 3, h·scale, w·scale); patches of one path together."""
        height, width = patches.shape[-2:]
        out = patches.new_zeros(len(patches), 3, height * self.scale, width * self.scale)
        for path in choice.unique().tolist():
            of = (choice == path).nonzero().squeeze(1).to(patches.device)
            out = out.index_copy(0, of, self.take(path, patches[of]).to(out.dtype))
        return out

    def take(self, path: int, patches: Tensor) -> Tensor:
        """One path for all patches."""
        encoder, tail = self._network(path)
        height, width = patches.shape[-2:]
        bottom, right = -height % encoder.grid, -width % encoder.grid
        features = encoder(F.pad(patches, (0, right, 0, bottom), mode="replicate"), Effort(keep=self.keep[path]))
        return tail.upscale(features[..., :height, :width], patches, self.scale)

    def mixed(self, patches: Tensor, probability: Tensor) -> Tensor:
        """As in ClassSR: the sum of all paths' pictures, weighted by the classes' probabilities (n, paths)."""
        return mix([self.take(path, patches) for path in range(self.paths)], probability)

    def path_macs(self, path: int, side: Size) -> Macs:
        """MACs of one patch of `side`."""
        encoder, tail = self._network(path)
        size = (-(-side[0] // encoder.grid) * encoder.grid, -(-side[1] // encoder.grid) * encoder.grid)
        return encoder.kept_macs(size, encoder.kept(self.keep[path], size)) + tail.upscale_macs(side, self.scale)

    def _network(self, path: int) -> tuple[CAMixer, DirectShuffle]:
        index = path if len(self.encoders) > 1 else 0
        return self.encoders[index], self.tails[index]  # type: ignore[return-value]
