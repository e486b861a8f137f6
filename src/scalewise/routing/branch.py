"""Branches: which attention branches of a whole network run for an image and a scale. TADT's routing controller.

Xu et al., ECAI 2024. `TaskController` is TARC: an image branch and a scale branch; `probabilities` is Eq. 3,
`straight_through` Eq. 4, `intensity_loss` Eq. 6 and 7; Eq. 5 adds λ times it to the L1 error. The paper draws routes at
inference too; we take the expectation (`expected`, or `likely`); `straight_through` draws with the caller's numbers.

The scale branch of the paper's figure sees s itself. So does ours by default; `scale_input="log"` shows it log₂ s
centred between ×1 and ×4. A ReLU network answers a step taken at s by one in proportion to about s·s' at s', so with s
itself the price of Eq. 6 pulls β down most at large scales; with the logarithm it does not (`tests/routing`).

The paper leaves open, and ours are: widths and ReLUs; a sigmoid after the scale branch, which starts at β = .98, and an
image branch that starts at e = 0, so that fine-tuning starts with nearly all branches on. Images are looked at in
cells, each with zeros around it: a training patch of the paper is one cell, so what the controller sees of an image is
the mean of what it was trained on, and pieces of an image equal the whole.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.errors import InvalidRequest
from scalewise.geometry.grid import Size
from scalewise.layers import conv3

PENALTY = 2e-4  # λ of Eq. 5
THRESHOLD = (0.25, 0.25, 0.5)  # α of Eq. 6
START = 4.0  # sigmoid(4) = .98
ScaleInput = Literal["raw", "log"]


class TaskController(nn.Module):
    """TARC: image and scale → the probability of each of `branches`. `cell` is the side that one look takes in.

    `scale_input`: "raw", the scale itself, or "log", log₂ s / 2 - ½. `fixed_beta` (a, b): instead of a scale branch
    β = a + b·s, at most 1, as in the paper's Table 4."""

    def __init__(
        self,
        branches: int,
        *,
        cell: int = 48,
        channels: int = 32,
        hidden: int = 16,
        scale_input: ScaleInput = "raw",
        fixed_beta: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        if scale_input not in get_args(ScaleInput):
            raise InvalidRequest(f"scale_input is {scale_input!r}: allowed are {' and '.join(get_args(ScaleInput))}")
        if fixed_beta is not None and not 0 < fixed_beta[0] + fixed_beta[1] <= 1:
            raise InvalidRequest(f"fixed_beta {fixed_beta} is {sum(fixed_beta):g} at ×1: it must be above 0, at most 1")
        self.branches, self.cell = branches, cell
        self.scale_input, self.fixed_beta = scale_input, fixed_beta
        self.convs = nn.Sequential(conv3(3, channels), nn.ReLU(), conv3(channels, channels), nn.ReLU())
        self.judge = nn.Linear(channels, branches)
        self.scale = nn.Sequential()
        if fixed_beta is None:
            last = nn.Linear(hidden, 1)
            self.scale.extend((nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last))
            nn.init.constant_(last.bias, START)
        nn.init.zeros_(self.judge.weight)
        nn.init.zeros_(self.judge.bias)

    def look(self, lr: Tensor) -> Tensor:
        """lr (b, 3, h, w), sides multiples of `cell` → (b, channels, gy, gx): the mean over each cell."""
        b, gy, gx = len(lr), lr.shape[-2] // self.cell, lr.shape[-1] // self.cell
        cells = lr.unflatten(-1, (gx, -1)).unflatten(-3, (gy, -1)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
        return self.convs(cells).mean((-2, -1)).unflatten(0, (b, gy, gx)).permute(0, 3, 1, 2)

    def intensity(self, scale: Tensor) -> Tensor:
        """scale (b, 2) → β (b,) in (0, 1); of two factors the geometric mean."""
        s = scale.prod(-1, keepdim=True).sqrt()
        if self.fixed_beta is not None:
            first, slope = self.fixed_beta
            return (first + slope * s).clamp(max=1).squeeze(-1)
        return self.scale(s if self.scale_input == "raw" else s.log2() / 2 - 0.5).squeeze(-1).sigmoid()

    def forward(self, seen: Tensor, beta: Tensor) -> Tensor:
        """What `look` gave, (b, …, channels), and β (b,) → p (b, …, branches)."""
        return probabilities(self.judge(seen), beta.view(-1, *(1 for _ in seen.shape[1:])))

    def macs(self, size: Size, units: int) -> Macs:
        """An image of `size` whose branches are routed in as many units."""
        width = self.judge.in_features
        total = cost.conv2d(3, width, 3, *size) + cost.conv2d(width, width, 3, *size)
        for layer in self.scale:
            if isinstance(layer, nn.Linear):
                total += cost.linear(layer.in_features, layer.out_features, 1)
        return (total + cost.linear(width, self.branches, units)).as_router()


def probabilities(e: Tensor, beta: Tensor) -> Tensor:
    """Eq. 3: e (…, 4N) and β that broadcasts → p; their sum is 4N·β where none is clipped at 1."""
    return unclipped(e, beta).clamp(max=1)


def unclipped(e: Tensor, beta: Tensor) -> Tensor:
    share = e.sigmoid()
    return beta * e.shape[-1] * share / share.sum(-1, keepdim=True)


def straight_through(p: Tensor, uniform: Tensor) -> Tensor:
    """Eq. 4: r of 0 and 1, drawn with numbers `uniform` in [0, 1) of the same shape; its gradient is that of p."""
    return (uniform < p).to(p) + (p - p.detach())


def expected(p: Tensor, costs: Tensor) -> Tensor:
    """As many as a draw takes on average: the round(Σp) most probable of p (…, 4N), of equals the cheaper."""
    cheapest = costs.argsort(stable=True)
    order = cheapest[p[..., cheapest].argsort(dim=-1, descending=True, stable=True)]
    rank = torch.empty_like(order).scatter_(-1, order, torch.arange(p.shape[-1], device=p.device).expand_as(order))
    return rank < p.sum(-1, keepdim=True).round()


def likely(p: Tensor) -> Tensor:
    """The branches that a draw takes more often than not."""
    return p > 0.5


def intensity_loss(beta: Tensor, scale: Tensor, threshold: tuple[float, float, float] | None = THRESHOLD) -> Tensor:
    """Eq. 6 and 7: β where it is at least α₁ + α₂·s^α₃, else 0; the mean over the batch. The mask has no gradient.
    Without a threshold, β itself (the paper's Table 6)."""
    if threshold is None:
        return beta.mean()
    first, second, power = threshold
    s = scale.prod(-1).sqrt()
    return (beta * (beta.detach() >= first + second * s**power)).mean()
