"""WholeNetwork: any network from pixels to pixels at one whole scale, of which nothing but that is known.

Files that people own are run so: what spandrel builds from their weights, or an ONNX session. How far such a network
sees and what it costs is measured once (`foreign/measure.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import lcm

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget.budget import Budget
from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Box, Frame, Size, output_box
from scalewise.geometry.resize import BASE_REACH, bicubic_base
from scalewise.layers import luma
from scalewise.models.model import BYTES_PER_OUTPUT_PIXEL, Model, ModelLimits, Rendered, RoutePlan, one_level

CHANNELS = {1: (1,), 3: (3, 4), 4: (3, 4)}  # that a network sees → that it may give


@dataclass(frozen=True)
class Needs:
    """What a network asks of its input: sides of at least `minimum` and multiples of `multiple` LR pixels, equal if
    `square`; `channels` 1, 3 or 4. `bf16` and `fp16`: it may be computed in these numbers, else it is in fp32."""

    channels: int = 3
    minimum: int = 1
    multiple: int = 1
    square: bool = False
    bf16: bool = True
    fp16: bool = True

    def padded(self, size: Size) -> Size:
        """The size that a picture is padded to."""
        height, width = (-(-max(n, self.minimum) // self.multiple) * self.multiple for n in size)
        longest = max(height, width)
        return (longest, longest) if self.square else (height, width)


@dataclass(frozen=True)
class Measured:
    """What was measured of a network: `context` in LR pixels, None if it sees the whole picture; the largest
    `difference` that a cut at that distance makes, in [0, 1], or at UNBOUNDED_CONTEXT; MACs and working memory of an LR
    pixel; up to how many LR pixels from a `border` a flat picture comes out otherwise than in its middle; and the side
    of the `window` that it works in: tiles must start at multiples of it."""

    context: int | None
    difference: float
    conv_macs: float
    matmul_macs: float
    bytes: float
    border: int = 0
    window: int = 1

    @property
    def words(self) -> str:
        """The context and the difference, for a reader."""
        seen = "the whole picture" if self.context is None else f"{self.context} pixels"
        return f"{seen} (measured; tiles differ from the whole by at most {255 * self.difference:.2g} levels)"


class WholeNetwork(nn.Module, Model):
    """`network` maps (1, channels, h, w) in [0, 1] to (1, channels or 3, h·scale, w·scale).

    A network of one channel enlarges the luma; the colours are bicubic. One of four channels sees opaque pixels: what
    lies under transparent ones is found and opacity enlarged as for every model (`images/alpha.py`).
    """

    def __init__(self, network: nn.Module, scale: int, needs: Needs, measured: Measured) -> None:
        super().__init__()
        self.network = network
        self.scale = scale
        self.needs = needs
        self.measured = measured

    def extra_repr(self) -> str:
        return f"scale={self.scale}, {self.needs}"

    @property
    def limits(self) -> ModelLimits:
        context = self.measured.context
        if context is not None and self.needs.channels == 1:
            context = max(context, BASE_REACH)
        return ModelLimits(
            (float(self.scale),),
            context,
            window_multiple=lcm(self.needs.multiple, self.measured.window),
            levels="one",
            border=self.measured.border,
            notes=(f"the network sees {self.measured.words}",),
        )

    def bytes_per_pixel(self, scale: tuple[float, float]) -> float:
        return self.measured.bytes + BYTES_PER_OUTPUT_PIXEL * scale[0] * scale[1]

    def score(self, lr: Tensor, scale: tuple[float, float]) -> Tensor | None:
        return None

    def plan(self, evidence: Tensor | None, size: Size, out: Size, budget: Budget) -> RoutePlan:
        return one_level(budget, self.macs(size).total)

    def macs(self, size: Size) -> Macs:
        """The cost of a picture or a tile, with its padding."""
        height, width = self.needs.padded(size)
        area = height * width
        return Macs(conv=round(self.measured.conv_macs * area), matmul=round(self.measured.matmul_macs * area))

    def full_macs(self, frame: Frame, tile: Size, core: Box, out: Size) -> int:
        return self.macs(tile).total

    def planned_macs(self, frame: Frame, tile: Size, core: Box, out: Size, plan: RoutePlan) -> int:
        return self.macs(tile).total

    @torch.no_grad()
    def render(self, lr: Tensor, frame: Frame, core: Box, out: Size, plan: RoutePlan) -> Rendered:
        """Render the output pixels of `core` from a tile `lr` (1, 3, h, w) that lies at `frame`."""
        target, (oy, ox), s = output_box(core, frame.size, out), frame.origin, self.scale
        place = slice(target[0] - oy * s, target[2] - oy * s), slice(target[1] - ox * s, target[3] - ox * s)
        if self.needs.channels == 1:
            seen = luma(lr)
            sr = self._run(seen)[0, :1, place[0], place[1]].float()
            # A part of a picture may end closer to the core than the taps of bicubic reach: there its edge is repeated.
            colours = F.pad(lr - seen, (BASE_REACH,) * 4, "replicate")
            around = replace(frame, origin=(oy - BASE_REACH, ox - BASE_REACH))
            rgb = sr + bicubic_base(colours, around, out, target)[0]
        else:
            seen = lr if self.needs.channels == 3 else torch.cat((lr, torch.ones_like(lr[:, :1])), 1)
            rgb = self._run(seen)[0, :3, place[0], place[1]].float().expand(3, -1, -1)
        macs, kept = self.macs((lr.shape[-2], lr.shape[-1])), (core[2] - core[0], core[3] - core[1])
        return Rendered(rgb, macs, min(macs.total, self.macs(kept).total))

    def _run(self, picture: Tensor) -> Tensor:
        """The network on a picture padded as it needs: mirrored, and repeated where it is too small for that."""
        height, width = picture.shape[-2:]
        rows, columns = (n - m for n, m in zip(self.needs.padded((height, width)), (height, width), strict=True))
        mirrored = min(rows, height - 1), min(columns, width - 1)
        picture = F.pad(picture, (0, mirrored[1], 0, mirrored[0]), "reflect")
        picture = F.pad(picture, (0, columns - mirrored[1], 0, rows - mirrored[0]), "replicate")
        kind = picture.device.type
        allowed = {torch.bfloat16: self.needs.bf16, torch.float16: self.needs.fp16}.get(torch.get_autocast_dtype(kind))
        with torch.autocast(kind, enabled=bool(allowed) and torch.is_autocast_enabled(kind)):
            return self.network(picture)[..., : height * self.scale, : width * self.scale]
