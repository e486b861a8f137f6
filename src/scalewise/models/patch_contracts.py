"""What fits behind a router of patches: MultiExit, MultiPath with its PathRouter, EarlyExits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Query, Size


class MultiExit(Protocol):
    """Exits over one trunk of blocks, cheapest first; exit 0 is the bicubic base alone and costs nothing.

    Blocks are valid (unpadded) convolutions that need `block_margin` pixels on every side of what they return.
    `multi_exit.MultiExitModel` pads, gathers, scatters and selects; the network computes on what it is given. The cost
    functions take ints, or tensors of patch sides.
    """

    channels: int
    exits: int  # exits beyond exit 0
    depth: int  # blocks
    exit_after: tuple[int, ...]  # blocks that exit k (1-based) has behind it
    stem_margin: int
    block_margin: int  # also the margin that `coefficients` takes
    context: int

    def level(self, block: int) -> int:
        """The first exit that needs block `block` (1-based)."""
        ...

    def enter(self, lr: Tensor) -> Tensor:
        """lr (b, 3, h + 2m, w + 2m) in [0, 1], m = stem_margin → features (b, c, h, w)."""
        ...

    def block(self, index: int, features: Tensor) -> Tensor:
        """Block `index` (1-based): (b, c, h + 2m, w + 2m) → (b, c, h, w), m = block_margin."""
        ...

    def dense(self, lr: Tensor, query: Query, choice: Tensor) -> list[Tensor]:
        """The definition: residual RGB (b, 3, hq, wq) of every exit, with `choice` (b, 1, h, w) each pixel's exit."""
        ...

    def coefficients(self, level: int, features: Tensor) -> Tensor:
        """Exit `level` (1-based): features with margin → coefficients (b, k, h + 2, w + 2), a ring of one pixel."""
        ...

    def table(
        self, level: int, first: int, last: int, n: int, out: int, start: int, count: int, goes_on: tuple[bool, bool]
    ) -> Tensor:
        """Kernels for output pixels first..last-1 of an axis over LR pixels start..start+count-1: (last - first, ·).

        The image's first and last pixel are repeated where it does not go on (before them, behind them)."""
        ...

    def render(self, level: int, coefficients: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Residual RGB (b, 3, hq, wq) from coefficients and the tables of both axes, (b, hq, ·) and (b, wq, ·)."""
        ...

    def stem_macs(self, height: int, width: int) -> Macs: ...

    def block_macs(self, height: Any, width: Any) -> Macs: ...

    def lean_block_macs(self, height: Any, width: Any) -> Macs:
        """A block without the ring that its first layers compute for the last."""
        ...

    def head_macs(self, level: int, height: Any, width: Any) -> Macs: ...

    def lean_head_macs(self, level: int, height: Any, width: Any) -> Macs: ...

    def render_macs(self, level: int, size: Any, out: Any) -> Macs: ...

    def table_macs(self, level: int, positions: int) -> Macs: ...


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


class EarlyExits(Protocol):
    """Exits of one network, cheapest first, at which patches leave while it runs, for `EarlyExitModel`."""

    paths: int
    scale: int
    channels: int

    def run_while(self, patches: Tensor, stays: Callable[[int, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """patches (n, 3, h, w) in [0, 1] → (n, 3, h·scale, w·scale), not clamped, and each one's exit (n,), on the CPU.

        `stays(exit, capacity)`, (k,) → bool (k,), says who of those still there goes on; who does not is not computed
        any further. The lower its capacity, the more a patch gains by going on."""
        ...

    def path_macs(self, path: int, side: Size) -> Macs:
        """The cost of one patch of `side` that leaves at exit `path`."""
        ...
