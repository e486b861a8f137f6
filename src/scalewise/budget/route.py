"""What was decided, for any mechanism: Decision, Route, and the map of where the work went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Unit = Literal["patch", "window", "token", "branch", "pixel"]


@dataclass(frozen=True)
class Decision:
    """One choice per unit.

    `unit` names the granularity, `extent` its side in LR pixels. `choice` (b, gy, gx) int64 is the option taken,
    `cost` (options, gy, gx) or (options,) float64 the MACs of each option at this scale, `evidence` the router's output
    (logits, gains, scores), with gradient in training.
    """

    unit: Unit
    extent: int
    choice: Tensor
    cost: Tensor
    evidence: Tensor | None = None


Route = tuple[Decision, ...]


def effort_map(route: Route) -> Tensor:
    """(gy, gx) float32 in [0, 1]: MACs each unit of the first image spent over the most it could have spent.

    Several decisions (layers) add up on the grid of the coarsest, whose side is `map_unit`; an empty route gives a
    single 1.
    """
    if not route:
        return torch.ones(1, 1)
    spent = most = None
    unit = map_unit(route)
    for decision in route:
        choice = decision.choice[0].cpu()
        table = decision.cost.cpu()
        table = table if table.dim() == 3 else table.view(-1, 1, 1).expand(-1, *choice.shape)
        here, top = table.gather(0, choice.unsqueeze(0))[0], table.amax(0)
        finer = unit // decision.extent
        if finer > 1:
            here, top = (_summed(x, finer) for x in (here, top))
        spent = here if spent is None else spent + here
        most = top if most is None else most + top
    assert spent is not None and most is not None
    return (spent / most.clamp_min(1e-30)).float()


def map_unit(route: Route) -> int:
    """LR pixels a side of one cell of the effort map."""
    return max((decision.extent for decision in route), default=1)


def _summed(x: Tensor, block: int) -> Tensor:
    """(gy, gx) summed over blocks of cells; what is missing at the end counts as 0."""
    x = F.pad(x, (0, -x.shape[1] % block, 0, -x.shape[0] % block))
    return F.avg_pool2d(x[None, None], block, divisor_override=1)[0, 0]


def levelled(effort: Tensor, share: float) -> Tensor:
    """The map with the work that every unit gets (stem, router, tail) counted in: its mean is `share`, its top 1."""
    mean = float(effort.double().mean())
    if mean >= 1:
        return effort * share
    always = (share - mean) / (1 - mean)
    return effort * (share / max(mean, 1e-30)) if always < 0 else always + (1 - always) * effort


def paint(effort: Tensor, unit: int, gray: Tensor, step: int = 1) -> Tensor:
    """A picture of an effort map over the gray image it belongs to: uint8 (h, w, 3).

    `unit` is the side of a cell of the map in LR pixels; `gray` (h, w) in [0, 1] shows every `step`-th pixel. Dark blue
    is no work, yellow all of it.
    """
    rows, columns = (
        (torch.arange(n) * step // unit).clamp(0, cells - 1) for n, cells in zip(gray.shape, effort.shape, strict=True)
    )
    level = effort.clamp(0, 1)[rows][:, columns]
    stops = torch.tensor(COLOURS, dtype=torch.float32) / 255
    place = level * (len(COLOURS) - 1)
    lower = place.long().clamp(0, len(COLOURS) - 2)
    part = (place - lower).unsqueeze(-1)
    colour = stops[lower] * (1 - part) + stops[lower + 1] * part
    picture = colour * (0.25 + 0.75 * gray.unsqueeze(-1))
    return (picture * 255).round().to(torch.uint8)


# dark blue → violet → orange → yellow; brightness rises with effort, so it reads in gray too
COLOURS = ((30, 32, 110), (122, 40, 150), (214, 72, 104), (250, 146, 60), (255, 232, 120))
