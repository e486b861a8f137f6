"""What `PatchwiseModel` is made of: MultiPath, the network, and PathRouter, which sends each patch along a path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Size


class MultiPath(Protocol):
    """Paths through one network or several, cheapest first; `patchwise.PatchwiseModel` sends each patch along one."""

    paths: int
    scale: int

    def run(self, patches: Tensor, choice: Tensor) -> Tensor:
        """patches (n, 3, h, w) in [0, 1], choice (n,) on the CPU → (n, 3, h·scale, w·scale), not clamped. A patch's
        pixels do not depend on the others."""
        ...

    def path_macs(self, path: int, side: Size) -> Macs:
        """The cost of one patch of `side`; it rises with `path`."""
        ...


class PathRouter(Protocol):
    """Who decides per patch, from what a look at each patch alone says (`evidence`), before anything runs."""

    dials: tuple[str, ...]  # the paper's own, as in budget.DIALS

    def evidence(self, lr: Tensor, rows: Sequence[int], columns: Sequence[int], side: Size) -> Tensor:
        """lr (1, 3, h, w) → (paths, ny, nx), of patches of `side` that start at `rows` and `columns`: the greater, the
        better is the path, in the paper's unit (dB, logits)."""
        ...

    def gain(self, evidence: Tensor) -> Tensor:
        """The same as what a budget adds up over patches: less squared error, where the evidence says so."""
        ...

    def native(self, evidence: Tensor, value: float) -> Tensor:
        """The paper's rule at its dial: (ny, nx) int64, a path for each patch."""
        ...

    def macs(self, size: Size) -> Macs:
        """What looking at an image of `size` costs."""
        ...
