"""AdaFormer: efficient transformer with adaptive token sparsification. Luo et al., AAAI 2024.

`AdaFormer.encode` is Eq. 1-7 without the tail. A block (`adaformer_block.py`: TSAB, Eq. 14 with the residuals of the
published code) adds attention in windows (Eq. 8, 9) to attention through a few prototypes that have seen the whole
image (Eq. 10-13). Windows and tokens that are well restored leave the attention (Eq. 18-24): `routing/token.py`
decides, before every block but the first; a branch returns its input for what has left.

Published AdaFormer can leave out only the attention of all blocks but the first: its floor is 0.887 of its MACs (with
the ×4 tail), for most of them are convolutions. `deep=True` is for networks trained from scratch: what has left, by
windows, skips the MLP and the decoder's convolutions too, and keeps its features: its floor is 0.481.

With masks (training) or gathered (inference) the numbers agree to rounding. Published code computes "global" attention
in chunks of the image at inference, unlike in training; that is `compat.adaformer.OfficialAdaFormer`.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.budget import Effort
from scalewise.budget.cost import Macs
from scalewise.budget.route import Decision, Route
from scalewise.budget.solver import spread
from scalewise.contracts import Allocation, Encoded, Scale
from scalewise.encoders.adaformer_block import Block
from scalewise.errors import BudgetInfeasible, InvalidRequest
from scalewise.geometry.grid import Frame, Size
from scalewise.layers import ResidualBlock, conv3, init_transformer, merge, partition
from scalewise.routing.token import Confidence, Kept, below, left, lowest, numbers

Halting = Literal["both", "local", "none"]  # what leaves which branch; the paper's Table 3
Rule = Literal["confidence", "uniform", "random"]  # who says what leaves; the paper's Table 4


class AdaFormer(nn.Module):
    """AdaFormer without its tail; defaults as published. Sides are multiples of the window.

    `encoder_blocks` and `decoder_blocks` residual blocks lie before and after `blocks` transformer blocks of `embed`
    channels. `epsilon` is ε of the halting threshold in training mode, unless the effort says otherwise. `deep`: what
    has left skips all that follows (module docstring). Published weights see RGB in 0..255 with the mean subtracted.

    For the paper's Table 3: blocks without `global_attention`; `halting` of "both" branches, of the "local" one alone,
    or "none". For its Table 4: `rule` "uniform" or "random" instead of the confidence, with a share `leaving` of the
    windows and tokens of all blocks but the first; and an estimator for each block (`shared_estimator`).
    """

    dials = ("epsilon",)
    context = None  # prototypes see the whole image
    block_type = Block

    def __init__(
        self,
        channels: int = 64,
        blocks: int = 6,
        *,
        embed: int = 64,
        heads: int = 4,
        window: int = 8,
        prototypes: int = 16,
        hidden: int = 128,
        encoder_blocks: int = 8,
        decoder_blocks: int = 8,
        epsilon: float = 0.05,
        deep: bool = False,
        global_attention: bool = True,
        halting: Halting = "both",
        rule: Rule = "confidence",
        leaving: float = 0.5,
        shared_estimator: bool = True,
    ) -> None:
        super().__init__()
        if halting not in get_args(Halting) or rule not in get_args(Rule):
            raise InvalidRequest(
                f"halting {halting!r} by {rule!r} is not known: halting is {', '.join(get_args(Halting))}, the rule "
                f"{', '.join(get_args(Rule))}"
            )
        if deep and halting != "both":
            raise InvalidRequest(f"halting {halting!r} is for branches of attention: with deep=True windows leave both")
        if not 0 <= 2 * leaving * (blocks - 1) <= blocks:
            raise InvalidRequest(f"leaving={leaving:g} is out of range: 0 to {blocks / (2 * (blocks - 1)):.2f}")
        if embed % heads:
            raise InvalidRequest(f"{embed} channels cannot be split over {heads} heads; choose a divisor")
        if blocks < 2:
            raise InvalidRequest(f"{blocks} transformer block: the first keeps everything, so take at least 2")
        self.channels, self.grid = channels, window
        self.epsilon, self.deep = epsilon, deep
        self.halting, self.rule, self.leaving = halting, rule, leaving
        self.head = conv3(3, channels)
        self.encoder = nn.Sequential(*(ResidualBlock(channels) for _ in range(encoder_blocks)))
        self.embed = nn.Linear(channels, embed)
        self.blocks = nn.ModuleList(
            self.block_type(embed, heads, window, prototypes, hidden, deep=deep, global_attention=global_attention)
            for _ in range(blocks)
        )
        self.confidence = (
            Confidence(embed) if shared_estimator else nn.ModuleList(Confidence(embed) for _ in range(blocks))
        )
        self.unembed = nn.Linear(embed, channels)
        self.decoder = nn.ModuleList(ResidualBlock(channels) for _ in range(decoder_blocks))
        init_transformer(self)

    # --- the sockets of contracts.RoutedEncoder -----------------------------------------------------------------------

    def route(self, lr: Tensor, scale: Tensor, effort: Effort) -> Route:
        return ()

    def score(self, lr: Tensor, scale: Scale) -> None:
        return None

    def encode(self, lr: Tensor, frame: Frame, scale: Tensor, effort: Effort, plan: Route) -> Encoded:
        """lr (b, 3, h, w) → features (b, channels, h, w), and of every block what windows and what tokens it kept.

        The evidence of a block's last Decision is the logits (b, h, w) of the confidence in what the block made, with
        gradient to the estimator alone; None where nothing depends on them. With `deep`, tokens have no Decision of
        their own, and the last Decision is the decoder's.
        """
        shallow = self.head(lr)
        x = self.encoder(shallow)
        window = (self.grid, self.grid)
        t = partition(self.embed(x.permute(0, 2, 3, 1)), window)  # (b, gy, gx, n, c)
        b, gy, gx, n, _ = t.shape
        score = torch.zeros(t.shape[:-1], device=t.device)
        kept, counts = Kept.all(b, (gy, gx), n, t.device), self.counts(effort.keep, (gy, gx))
        route: list[Decision] = []
        for index, block in enumerate(self.blocks):
            t = block(t, kept)
            logits = None
            if self.training or self.judges(index):
                logits = self._estimator(index)(merge(t.detach(), window).permute(0, 3, 1, 2))
                score = score + partition(logits.float().sigmoid().permute(0, 2, 3, 1), window).squeeze(-1)
                logits = logits[:, 0]
            route += self._decisions(block, kept, logits)  # type: ignore[arg-type]
            if index < len(counts):
                kept = self.leave(score, kept, effort, *counts[index], done=index + 1)
        x = x + self.unembed(merge(t, window)).permute(0, 3, 1, 2)
        if self.deep:
            route.append(self._decoder_decision(kept.windows))
        return Encoded(self.decode(x, kept.windows if self.deep else None) + shallow, tuple(route))

    def forward(self, lr: Tensor, effort: Effort | None = None) -> Tensor:
        """(b, 3, h, w) → (b, channels, h, w)."""
        frame, scale = Frame((lr.shape[-2], lr.shape[-1])), torch.ones(len(lr), 2)
        return self.encode(lr, frame, scale, effort or Effort(), ()).features

    def allocate(
        self, evidence: Tensor | None, size: Size, scale: Scale, limit: float, native: float | None
    ) -> Allocation:
        """The greatest share of windows and tokens, the same for all layers but the first, within `limit` MACs.

        At ε = `native` the MACs are an upper bound: nothing leaves."""
        if native is not None:
            if native > 1:
                raise BudgetInfeasible(f"epsilon={native:g} is out of range: 1 - epsilon is the score to leave at")
            return Allocation(Effort(native={"epsilon": native}), (), self.macs(size, scale).total)
        grid = (size[0] // self.grid, size[1] // self.grid)
        steps = grid[0] * grid[1] * self.grid**2 * len(self.counts(1.0, grid))

        def spent(step: int) -> int:
            return self._macs(size, [(grid[0] * grid[1], size[0] * size[1]), *self.counts(step / steps, grid)]).total

        fits, over = 0, steps + 1  # the cost never falls from step to step
        while over - fits > 1:
            middle = (fits + over) // 2
            fits, over = (middle, over) if spent(middle) <= limit else (fits, middle)
        return Allocation(Effort(keep=fits / steps), (), spent(fits))

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        """Exact from the route of the first image; without one, nothing has left."""
        grid = (size[0] // self.grid, size[1] // self.grid)
        full = (grid[0] * grid[1], size[0] * size[1])
        if not route:
            return self._macs(size, [full, *self.counts(1.0, grid)])
        kept = {
            unit: [int(decision.choice[0].sum()) for decision in route if decision.unit == unit]
            for unit in ("window", "token")
        }
        tokens = kept["token"] or [count * self.grid**2 for count in kept["window"]]
        return self._macs(size, list(zip(kept["window"], tokens, strict=True)))

    # --- who leaves ---------------------------------------------------------------------------------------------------

    def judges(self, index: int) -> bool:
        """Is the confidence after block `index` needed? After the last it decides only what the decoder does."""
        return self.rule == "confidence" and (self.deep or index < len(self.blocks) - 1)

    def _estimator(self, index: int) -> Confidence:
        one = self.confidence[index] if isinstance(self.confidence, nn.ModuleList) else self.confidence
        assert isinstance(one, Confidence)
        return one

    def counts(self, keep: float, grid: Size) -> list[tuple[int, int]]:
        """Windows and tokens that every block but the first keeps (and the decoder, with `deep`) at a share `keep`."""
        windows, layers = grid[0] * grid[1], len(self.blocks) - (not self.deep)
        if self.halting == "none":
            return [(windows, windows * self.grid**2)] * (layers)
        of_windows = spread(math.floor(keep * windows * layers + 1e-6), layers)
        if self.deep:
            return [(count, count * self.grid**2) for count in of_windows]
        if self.halting == "local":
            return [(count, windows * self.grid**2) for count in of_windows]
        of_tokens = spread(math.floor(keep * windows * self.grid**2 * layers + 1e-6), layers)
        return list(zip(of_windows, of_tokens, strict=True))

    def leave(self, score: Tensor, kept: Kept, effort: Effort, windows: int, tokens: int, *, done: int) -> Kept:
        """Score (b, gy, gx, n) after `done` blocks → what the next block keeps: by ε or by count."""
        epsilon = self.threshold(effort)
        if self.halting == "none":
            return kept
        if self.rule != "confidence":
            score = numbers(score, random=self.rule == "random")
        if epsilon is not None and self.rule != "confidence":
            after = left(score, 2 * self.leaving * done / len(self.blocks))
        elif epsilon is not None:
            after = below(score, epsilon)
        elif effort.keep == 1:
            return kept
        else:
            after = lowest(score, windows, tokens, kept)
        if self.deep:
            return Kept.of_windows(after.windows, score.shape[-1])
        return after if self.halting == "both" else Kept(after.windows, kept.tokens)

    def threshold(self, effort: Effort) -> float | None:
        """ε, if it decides; in training mode it does unless the effort asks for a share."""
        return effort.native.get("epsilon", self.epsilon if self.training and effort.keep == 1 else None)

    def _decisions(self, block: Block, kept: Kept, logits: Tensor | None) -> list[Decision]:
        window, token, n = block.local.macs(1).total, block.token_macs().total, self.grid**2
        if self.deep:
            window += n * token + block.mlp.macs(n).total
            return [Decision("window", self.grid, kept.windows.long(), _costs(window), logits)]
        tokens = merge(kept.tokens.unsqueeze(-1), (self.grid, self.grid)).squeeze(-1)
        return [
            Decision("window", self.grid, kept.windows.long(), _costs(window)),
            Decision("token", 1, tokens.long(), _costs(token), logits),
        ]

    def _decoder_decision(self, live: Tensor) -> Decision:
        windows, size = int(live[0].sum()), (live.shape[1] * self.grid, live.shape[2] * self.grid)
        each = self._decoder_macs(size, windows).total / max(windows, 1)
        return Decision("window", self.grid, live.long(), _costs(each))

    # --- the decoder, where windows may have left ---------------------------------------------------------------------

    def decode(self, x: Tensor, live: Tensor | None) -> Tensor:
        """Residual blocks; a window that is not `live` (b, gy, gx) keeps its features in each."""
        if live is None or bool(live.all()):
            for block in self.decoder:
                x = block(x)
            return x
        most = int(live.flatten(1).sum(1).amax())
        if self.training or most * self._rim_pixels() >= live[0].numel() * 2 * self.grid**2:
            pixels = live.repeat_interleave(self.grid, 1).repeat_interleave(self.grid, 2).unsqueeze(1)
            for block in self.decoder:
                x = torch.where(pixels, block(x), x)
            return x
        x = x.clone()
        inside = with_rim(torch.ones_like(x[:, :1]), live, self.grid, 1)  # convolutions see zeros beyond the image
        for block in self.decoder:
            y = with_rim(x, live, self.grid, 2)
            y = F.conv2d(y, block.conv1.weight, block.conv1.bias).relu() * inside  # type: ignore[union-attr]
            y = F.conv2d(y, block.conv2.weight, block.conv2.bias)  # type: ignore[union-attr]
            own = x.unfold(2, self.grid, self.grid).unfold(3, self.grid, self.grid).permute(0, 2, 3, 1, 4, 5)
            own[live] = own[live] + y.to(x.dtype)
        return x

    def _rim_pixels(self) -> int:
        """Outputs of both convolutions of a residual block on one window alone."""
        return (self.grid + 2) ** 2 + self.grid**2

    # --- what it costs ------------------------------------------------------------------------------------------------

    def _macs(self, size: Size, kept: list[tuple[int, int]]) -> Macs:
        """MACs with `kept` windows and tokens of every block and, if `deep`, what the decoder keeps after them."""
        c, pixels, grid = self.channels, size[0] * size[1], (size[0] // self.grid, size[1] // self.grid)
        total = cost.conv2d(3, c, 3, *size) + cost.conv2d(c, c, 3, *size) * (2 * len(self.encoder))
        total += cost.linear(c, self.embed.out_features, pixels) + cost.linear(self.embed.out_features, c, pixels)
        total += self._estimator(0).macs(size) * sum(map(self.judges, range(len(self.blocks))))
        for block, (windows, tokens) in zip(self.blocks, kept, strict=False):
            total += block.macs(grid, windows, tokens)  # type: ignore[operator]
        return total + self._decoder_macs(size, kept[-1][0] if self.deep else grid[0] * grid[1])

    def _decoder_macs(self, size: Size, windows: int) -> Macs:
        """The cheaper of all pixels and of live windows with their rims."""
        c, pixels = self.channels, min(windows * self._rim_pixels(), 2 * size[0] * size[1])
        return cost.conv2d(c, c, 3, 1, pixels) * len(self.decoder)


def with_rim(x: Tensor, windows: Tensor, side: int, rim: int) -> Tensor:
    """The `windows` (b, gy, gx) of x (b, c, h, w) with `rim` pixels around, zeros beyond the image: (k, c, ·, ·)."""
    padded = F.pad(x, (rim, rim, rim, rim))
    views = padded.unfold(2, side + 2 * rim, side).unfold(3, side + 2 * rim, side)  # (b, c, gy, gx, ·, ·), no copy
    return views.permute(0, 2, 3, 1, 4, 5)[windows]


def _costs(kept: float) -> Tensor:
    """MACs of the options: left, kept."""
    return torch.tensor([0, kept], dtype=torch.float64)
