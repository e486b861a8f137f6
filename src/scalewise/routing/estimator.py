"""Who decides per patch before anything runs: ENAF's PSNR estimator, ARM's table, ClassSR's classifier.

ENAF: Nguyen et al., WACV 2025, section 3.1.2 and Eq. 9. ARM: Chen et al., ECCV 2022, section 3.3. ClassSR: Kong et al.,
CVPR 2021, section 3.2. All three look at each patch alone. At the papers' own dials a path costs what their code says,
so that their tables come out; budgets use the MACs that we count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Size
from scalewise.routing.edges import edge_score

CELL = 4  # LR pixels a side that one vector sees
WIDTH, LAST = 128, 32
PATCHES_AT_ONCE = 256  # looked at together

# MFLOP per path and 32×32 patch, as ENAF's code has them: bicubic is free, a deconvolution of stride 4 counts 16 times.
ENAF_COSTS = {
    "fsrcnn": (0.0, 146.42, 315.45, 468.2),
    "carn": (0.0, 778.55, 868.86, 1161.72),
    "srresnet": (0.0, 2046.98, 3662.64, 5194.0),
}
# MFLOP per class as ClassSR prints them.
CLASSSR_COSTS = {
    "fsrcnn": (141.0, 304.0, 468.0),
    "carn": (380.0, 770.0, 1150.0),
    "srresnet": (1660.0, 3440.0, 5200.0),
}


class PatchEstimator(nn.Module):
    """A convolution of stride 4, four 1×1 ones, the mean over the patch, a linear layer: 60 068 weights for four
    outputs. ENAF's gives minus the PSNR of each path in dB, ClassSR's a logit per class."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, CELL, CELL), nn.LeakyReLU(0.1)]
        for _ in range(3):
            layers += [nn.Conv2d(WIDTH, WIDTH, 1), nn.LeakyReLU(0.1)]
        self.cells = nn.Sequential(*layers, nn.Conv2d(WIDTH, LAST, 1))
        self.last = nn.Linear(LAST, outputs)

    def forward(self, patches: Tensor) -> Tensor:
        """(n, 3, h, w) in [0, 1] → (n, outputs). Patches smaller than a cell continue with their edge."""
        bottom, right = (max(0, CELL - n) for n in patches.shape[-2:])
        if bottom or right:
            patches = F.pad(patches, (0, right, 0, bottom), mode="replicate")
        return self.last(self.pool(self.cells(patches)))

    def pool(self, cells: Tensor) -> Tensor:
        return cells.mean((2, 3))

    def on_image(self, lr: Tensor, rows: Sequence[int], columns: Sequence[int], side: Size) -> Tensor:
        """lr (1, 3, h, w) → (outputs, ny, nx) of the patches of `side` at `rows` and `columns`.

        All share one look at the image: each is a mean of its cells. A patch that does not start on a whole cell, at
        the right or bottom border, is judged by the cells up to 3 pixels before its own. Sides that are not whole cells
        (images smaller than a patch) are looked at patch by patch.
        """
        with torch.autocast(lr.device.type, enabled=False):
            if side[0] % CELL or side[1] % CELL:
                places = [(y, x) for y in rows for x in columns]
                parts = [
                    self(torch.stack([_patch(lr, y, x, side) for y, x in places[start : start + PATCHES_AT_ONCE]]))
                    for start in range(0, len(places), PATCHES_AT_ONCE)
                ]
                return torch.cat(parts).T.unflatten(1, (len(rows), len(columns)))
            height, width = (n // CELL * CELL for n in lr.shape[-2:])
            cells = self.cells(lr[..., :height, :width].float())
            means = F.avg_pool2d(cells, (side[0] // CELL, side[1] // CELL), 1)[0]  # (32, ·, ·)
            y, x = (torch.tensor([n // CELL for n in axis], device=lr.device) for axis in (rows, columns))
            return self.last(means[:, y][:, :, x].movedim(0, -1)).movedim(-1, 0)

    def macs(self, size: Size) -> Macs:
        """One look at an image of `size`."""
        h, w = size[0] // CELL, size[1] // CELL
        work = cost.conv2d(3, WIDTH, CELL, h, w) + cost.conv2d(WIDTH, WIDTH, 1, h, w) * 3
        return (work + cost.conv2d(WIDTH, LAST, 1, h, w)).as_router()


class ENAFRouter(nn.Module):
    """Evidence: the PSNR that each path is expected to reach, in dB; bicubic gets `bonus` where a patch is blank."""

    dials: tuple[str, ...] = ("eta",)

    def __init__(
        self,
        costs: tuple[float, ...],
        *,
        bonus: float = 1.0,
        blank: float = 10.0,
        estimator: type[PatchEstimator] = PatchEstimator,
    ) -> None:
        super().__init__()
        self.estimator = estimator(len(costs))
        self.costs, self.bonus, self.blank = tuple(costs), bonus, blank

    def evidence(self, lr: Tensor, rows: Sequence[int], columns: Sequence[int], side: Size) -> Tensor:
        expected = self.estimates(lr, rows, columns, side)
        scores = edges_of(lr, rows, columns, side, truncate=True)
        expected[0] += self.bonus * (scores <= self.blank)
        return expected

    def estimates(self, lr: Tensor, rows: Sequence[int], columns: Sequence[int], side: Size) -> Tensor:
        """The PSNR that each path is expected to reach, in dB, without the bonus."""
        return -self.estimator.on_image(lr, rows, columns, side).double()

    def gain(self, evidence: Tensor) -> Tensor:
        return -(10 ** (-evidence / 10))

    def native(self, evidence: Tensor, value: float) -> Tensor:
        """Eq. 9: the path with the greatest PSNR - η·cost, cost as a share of the whole network's."""
        return (evidence - value * _shares(self.costs)).argmax(0)

    def macs(self, size: Size) -> Macs:
        return self.estimator.macs(size)


class EdgeRouter(nn.Module):
    """ARM's table: the mean PSNR of each width on patches of one edge score, from the nearest of its bins."""

    dials: tuple[str, ...] = ("k",)
    centres: Tensor
    expected: Tensor

    def __init__(self, paths: int = 4, bins: int = 30, *, costs: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0)) -> None:
        super().__init__()
        self.costs = tuple(costs)
        self.register_buffer("centres", torch.zeros(paths, bins, dtype=torch.float64))
        self.register_buffer("expected", torch.zeros(paths, bins, dtype=torch.float64))

    def evidence(self, lr: Tensor, rows: Sequence[int], columns: Sequence[int], side: Size) -> Tensor:
        scores = edges_of(lr, rows, columns, side, truncate=False)
        nearest = (self.centres.view(*self.centres.shape, 1, 1) - scores).abs().argmin(1)  # (paths, ny, nx)
        return self.expected.gather(1, nearest.flatten(1)).view_as(nearest)

    def estimates(self, lr: Tensor, rows: Sequence[int], columns: Sequence[int], side: Size) -> Tensor:
        """The evidence, which is the PSNR expected of each path, in dB."""
        return self.evidence(lr, rows, columns, side)

    def gain(self, evidence: Tensor) -> Tensor:
        return -(10 ** (-evidence / 10))

    def native(self, evidence: Tensor, value: float) -> Tensor:
        """The width with the greatest k·PSNR - cost, cost as a share of the widest: ENAF's η is 1 / k."""
        return (value * evidence - _shares(self.costs)).argmax(0)

    def macs(self, size: Size) -> Macs:
        """The edge score is a few additions per pixel: no products are counted."""
        return Macs()


class ClassRouter(nn.Module):
    """ClassSR: a logit per network; λ = 0 is the paper's argmax, a greater one prefers the cheaper networks."""

    dials: tuple[str, ...] = ("lambda",)

    def __init__(self, costs: tuple[float, ...], *, estimator: type[PatchEstimator] = PatchEstimator) -> None:
        super().__init__()
        self.estimator = estimator(len(costs))
        self.costs = tuple(costs)

    def evidence(self, lr: Tensor, rows: Sequence[int], columns: Sequence[int], side: Size) -> Tensor:
        return self.estimator.on_image(lr, rows, columns, side).double()

    def gain(self, evidence: Tensor) -> Tensor:
        return evidence

    def native(self, evidence: Tensor, value: float) -> Tensor:
        return (evidence - value * _shares(self.costs)).argmax(0)

    def macs(self, size: Size) -> Macs:
        return self.estimator.macs(size)


def edges_of(lr: Tensor, rows: Sequence[int], columns: Sequence[int], side: Size, *, truncate: bool) -> Tensor:
    """(ny, nx) float64: the edge score of every patch, its border mirrored at its own edge."""
    places = [(y, x) for y in rows for x in columns]
    score: Callable[[Tensor], Tensor] = lambda patches: edge_score(patches, truncate=truncate)  # noqa: E731
    parts = [
        score(torch.stack([_patch(lr, y, x, side) for y, x in places[start : start + PATCHES_AT_ONCE]]))
        for start in range(0, len(places), PATCHES_AT_ONCE)
    ]
    return torch.cat(parts).view(len(rows), len(columns))


def _patch(lr: Tensor, row: int, column: int, side: Size) -> Tensor:
    return lr[0, :, row : row + side[0], column : column + side[1]].float()


def _shares(costs: Sequence[float]) -> Tensor:
    table = torch.tensor(costs, dtype=torch.float64)
    return (table / table[-1]).view(-1, 1, 1)
