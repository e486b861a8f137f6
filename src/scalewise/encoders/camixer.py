"""CAMixerSR: content-aware mixing, attention in some windows and convolution in the rest. Wang et al., CVPR 2024,
arXiv:2402.19289.

`CAMixer` is the network of the supplement's section 1.1 (Eq. 1-5) without its tail; blocks are in `camixer_block.py`.
Which windows are hard is decided layer by layer, per image and without chance: as many as the budget pays for,
or, at the paper's γ, as many as its random rule expects. `MixerTrunk` holds what the omnidirectional
network (`camixer_odi.py`) shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.budget import Effort
from scalewise.budget.cost import Macs
from scalewise.budget.route import Decision, Route
from scalewise.contracts import Allocation, Encoded, Scale
from scalewise.encoders.camixer_block import Block, GatedConvolution, Mixed, Mixer
from scalewise.errors import BudgetInfeasible
from scalewise.geometry.grid import Frame, Size
from scalewise.layers import conv3, product
from scalewise.routing.window import WINDOW, Allowance, Predictor, gumbel, priority, straight_through, top

SMALL, MEDIUM, BASE = 36, 48, 60  # channels of the published sizes


class Group(nn.Module):
    """Blocks, then a layer `tail`; the trunk adds the group's input."""

    def __init__(self, blocks: Sequence[Block], tail: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.tail = tail


class MixerTrunk(nn.Module):
    """Groups of blocks whose windows are routed; a network gives `condition`, `enter`, `leave` and their MACs.

    With gradients the definition runs, without them only what is kept; the numbers agree to rounding. In training mode
    masks are drawn with noise from `generator` (None: torch's global one), at the odds of the effort's `keep` if that
    is below 1.
    """

    dials = ("gamma",)
    grid = WINDOW
    context = None  # channels are weighed by their mean over the image

    def __init__(self, channels: int, groups: Sequence[Group]) -> None:
        super().__init__()
        self.channels = channels
        self.generator: torch.Generator | None = None
        self.head = conv3(3, channels)
        self.groups = nn.ModuleList(groups)
        self.conv_after_body = conv3(channels, channels)

    @property
    def blocks(self) -> list[Block]:
        return [block for group in self.groups for block in group.blocks]  # type: ignore[union-attr]

    def condition(self, shallow: Tensor, frame: Frame) -> Tensor:
        """What every predictor gets about the whole image: (b, ·, h, w)."""
        raise NotImplementedError

    def enter(self, tokens: Tensor) -> Tensor:
        return tokens

    def leave_group(self, group: Group, tokens: Tensor, condition: Tensor) -> Tensor:
        tail = group.tail
        return tail(tokens) if torch.is_grad_enabled() else product(tokens, tail.weight, tail.bias)  # type: ignore[arg-type]

    def leave(self, features: Tensor, condition: Tensor) -> Tensor:
        return self.conv_after_body(features)

    # --- the sockets of contracts.RoutedEncoder

    def route(self, lr: Tensor, scale: Tensor, effort: Effort) -> Route:
        return ()

    def encode(self, lr: Tensor, frame: Frame, scale: Tensor, effort: Effort, plan: Route) -> Encoded:
        """lr (b, 3, h, w) → features (b, channels, h, w), and a Decision per block.

        Its evidence (b, gy, gx) is the margin of "hard"; in training the mask itself, 0 or 1 with a straight-through
        gradient: what the paper's ratio loss averages.
        """
        noise = self.noise(lr, effort.keep) if self.training else None
        return self.run(lr, frame, effort, noise)

    def forward(self, lr: Tensor, effort: Effort | None = None) -> Tensor:
        """(b, 3, h, w) → (b, channels, h, w)."""
        return self.run(lr, Frame((lr.shape[-2], lr.shape[-1])), effort or Effort()).features

    def score(self, lr: Tensor, scale: Scale) -> None:
        return None

    def allocate(
        self, evidence: Tensor | None, size: Size, scale: Scale, limit: float, native: float | None
    ) -> Allocation:
        """A share of windows to keep that spends `limit` MACs to one window; or the published rule at γ = `native`."""
        least, unit, windows = self.kept_macs(size, 0).total, self._hard_macs().total, self._windows(size)
        if native is not None:
            if not 0 <= native <= 1:
                raise BudgetInfeasible(f"gamma={native:g} is out of range: it is a share of windows, 0 to 1")
            most = [
                windows if native == 1 else min(windows, math.floor(windows * 2 * native * share))
                for share in (block.mixer.predictor.largest_share for block in self.blocks)
            ]
            return Allocation(Effort(native={"gamma": native}), (), least + sum(most) * unit)
        total = windows * len(self.blocks)
        kept = min(max(math.floor((limit - least) / unit), 0), total)
        return Allocation(Effort(keep=kept / total), (), least + kept * unit)

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        """Exact from the route of one image; without one, all windows hard."""
        windows = self._windows(size)
        kept = sum(int(decision.choice[0].sum()) for decision in route) if route else windows * len(self.blocks)
        return self.kept_macs(size, kept)

    # --- how it runs

    def noise(self, lr: Tensor, keep: float = 1.0) -> list[Tensor]:
        """Gumbel noise (b, n, 2) of every block; below 1, `keep` is the share that windows of equal logits get."""
        shape = (len(lr), self._windows((lr.shape[-2], lr.shape[-1])), 2)
        odds = torch.tensor([math.log(max(keep, 1e-6) / (1 - keep)) if keep < 1 else 0.0, 0.0], device=lr.device)
        return [gumbel(shape, self.generator, lr.device) + odds for _ in self.blocks]

    def run(
        self,
        lr: Tensor,
        frame: Frame,
        effort: Effort,
        noise: Sequence[Tensor] | None = None,
        condition: Tensor | None = None,
    ) -> Encoded:
        """With `noise` masks are drawn, else decided by `effort`. `condition`: another than the network's own."""
        size = (lr.shape[-2], lr.shape[-1])
        wrap = frame.wrap and size[1] == frame.size[1]
        shallow = self.head(lr)
        condition = self.condition(shallow, frame) if condition is None else condition
        x = self.enter(shallow.permute(0, 2, 3, 1).contiguous())
        allowance = Allowance(self.kept(effort.keep, size), len(self.blocks), len(lr), lr.device)
        route: list[Decision] = []
        for group in self.groups:
            start = x
            for block in group.blocks:  # type: ignore[union-attr]
                layer = len(route)
                if noise is not None:
                    select = partial(self.drawn, block.mixer.predictor, noise[layer])
                elif "gamma" in effort.native:
                    select = partial(self.expected, block.mixer.predictor, effort.native["gamma"])
                else:
                    select = partial(self.granted, block.mixer.predictor, allowance)
                mixed: Mixed = block(x, condition, select, wrap)
                x = mixed.tokens
                route.append(self._decision(block, mixed, size))
            x = start + self.leave_group(group, x, condition)  # type: ignore[arg-type]
        return Encoded(shallow + self.leave(x.permute(0, 3, 1, 2), condition), tuple(route))

    def kept(self, keep: float, size: Size) -> int:
        """Hard windows of all blocks together: a share `keep`, never more."""
        return math.floor(keep * self._windows(size) * len(self.blocks) + 1e-6)

    def drawn(self, predictor: Predictor, noise: Tensor, logits: Tensor) -> Tensor:
        """Training: the mask of a Gumbel draw."""
        return straight_through(predictor.draw_logits(logits), noise)

    def expected(self, predictor: Predictor, gamma: float, logits: Tensor) -> Tensor:
        """The published rule at γ, its random share replaced by the expectation; per image. All windows at γ = 1."""
        windows = logits.shape[1]
        keep = (windows * 2 * gamma * self.shares(predictor, logits)).long().clamp(max=windows)
        return top(self.order(logits), keep if gamma < 1 else torch.full_like(keep, windows))

    def granted(self, predictor: Predictor, allowance: Allowance, logits: Tensor) -> Tensor:
        """By budget: as many windows as the layer is given of those left."""
        return top(self.order(logits), allowance.grant(self.shares(predictor, logits), logits.shape[1]))

    def order(self, logits: Tensor) -> Tensor:
        """(b, n): hard windows first."""
        return priority(logits)

    def shares(self, predictor: Predictor, logits: Tensor) -> Tensor:
        """(b,) expected shares of hard windows."""
        return predictor.share(logits)

    def _decision(self, block: Block, mixed: Mixed, size: Size) -> Decision:
        grid = (size[0] // WINDOW, size[1] // WINDOW)
        simple = block.macs(size).total / self._windows(size)
        options = torch.tensor([simple, simple + block.mixer.hard_macs().total], dtype=torch.float64)
        evidence = mixed.mask if mixed.mask.requires_grad else self.order(mixed.logits)
        choice = (mixed.mask.detach() > 0.5).long().unflatten(1, grid)
        return Decision("window", WINDOW, choice, options, evidence.unflatten(1, grid))

    def _windows(self, size: Size) -> int:
        return (size[0] // WINDOW) * (size[1] // WINDOW)

    def _hard_macs(self) -> Macs:
        """The extra MACs of one hard window, the same in every block."""
        return self.blocks[0].mixer.hard_macs()

    def kept_macs(self, size: Size, kept: int) -> Macs:
        """MACs of one image with `kept` hard windows in all blocks together."""
        c = self.channels
        total = cost.conv2d(3, c, 3, *size) + cost.conv2d(c, c, 3, *size) + self.own_macs(size)
        return sum((block.macs(size) for block in self.blocks), total + self._hard_macs() * kept)

    def own_macs(self, size: Size) -> Macs:
        """MACs of `condition`, `enter`, `leave_group` and what `leave` adds."""
        raise NotImplementedError


class CAMixer(MixerTrunk):
    """Defaults: the published Base; `SMALL` and `MEDIUM` have 36 and 48 channels. `predictor`: see `Predictor`. Without
    `conv_attention` neither pixels of simple windows nor channels are weighed (supplement, Figure 5)."""

    mixer: type[Mixer] = Mixer

    def __init__(
        self,
        channels: int = BASE,
        depths: Sequence[int] = (4, 4, 6, 6),
        *,
        predictor: str = "published",
        conv_attention: bool = True,
    ) -> None:
        groups = []
        for depth in depths:
            blocks = [
                Block(
                    self.mixer(
                        channels,
                        Predictor(channels, 2, kind=predictor, weighs=conv_attention),
                        depthwise_pair(channels),
                    ),
                    GatedConvolution(channels),
                )
                for _ in range(depth)
            ]
            groups.append(Group(blocks, nn.Linear(channels, channels)))
        super().__init__(channels, groups)
        self.global_predictor = nn.Sequential(
            nn.Conv2d(channels, 8, 1), nn.LeakyReLU(0.1), conv3(8, 2), nn.LeakyReLU(0.1)
        )

    def condition(self, shallow: Tensor, frame: Frame) -> Tensor:
        return self.global_predictor(shallow)

    def own_macs(self, size: Size) -> Macs:
        c = self.channels
        condition = cost.conv2d(c, 8, 1, *size) + cost.conv2d(8, 2, 3, *size)
        return condition.as_router() + cost.linear(c, c, size[0] * size[1]) * len(self.groups)


def depthwise_pair(channels: int) -> nn.Sequential:
    """3×3, and 3×3 with dilation 2: the convolution of both kinds of windows."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
        nn.Conv2d(channels, channels, 3, padding=2, dilation=2, groups=channels),
    )
