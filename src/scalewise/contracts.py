"""What fits the sockets: Encoder, Upsampler. Any object that fits will do; nothing is registered.

Networks with several paths for a patch fit `models/patch_contracts.py`.
Tensors are NCHW float; images are RGB in the model's own value range (`SuperResolver` normalises). A class fits by its
methods; `PlainEncoder` has the empty methods of encoders that route nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from scalewise.budget.budget import Effort
from scalewise.budget.cost import Macs
from scalewise.budget.route import Route
from scalewise.geometry.grid import Frame, Query, Size

Scale = tuple[float, float]  # rows, columns


@dataclass(frozen=True)
class Encoded:
    """`features` (b, channels, h, w), and the decisions taken on the way."""

    features: Tensor
    route: Route = ()


@dataclass(frozen=True)
class Sampled:
    """`rgb` (b, 3, hq, wq) for a rectangle or (b, q, 3) for points, and the decisions taken on the way."""

    rgb: Tensor
    route: Route = ()


@runtime_checkable
class Encoder(Protocol):
    """LR image → features at LR resolution.

    `grid`: sides and tile origins are multiples of it (padding is `models/super_resolver.py`'s). `context`: LR
    pixels beyond a tile that can change its features; None: the whole image.
    """

    @property
    def channels(self) -> int: ...

    @property
    def grid(self) -> int: ...

    @property
    def context(self) -> int | None: ...

    def route(self, lr: Tensor, scale: Tensor, effort: Effort) -> Route:
        """Decisions that are known before the trunk runs, on the whole image; scale (b, 2) rows, columns."""
        ...

    def encode(self, lr: Tensor, frame: Frame, scale: Tensor, effort: Effort, plan: Route) -> Encoded:
        """lr (b, 3, h, w) with h, w multiples of `grid` → features (b, channels, h, w)."""
        ...

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        """The cost of one image of `size` (a multiple of `grid`)."""
        ...


@dataclass(frozen=True)
class Allocation:
    """What a routed encoder makes of a limit: its `effort`, decisions known before, and the MACs that they will take.

    With a native dial whose decisions fall layer by layer, `macs` is an upper bound."""

    effort: Effort
    route: Route
    macs: int


@runtime_checkable
class RoutedEncoder(Encoder, Protocol):
    """An encoder that spends what it is granted: windows, tokens or branches that it leaves out."""

    dials: tuple[str, ...]  # the paper's own, as in budget.DIALS

    def score(self, lr: Tensor, scale: Scale) -> Tensor | None:
        """Evidence (·, gy, gx) of a piece lr (1, 3, h, w); None where decisions fall layer by layer."""
        ...

    def allocate(
        self, evidence: Tensor | None, size: Size, scale: Scale, limit: float, native: float | None
    ) -> Allocation:
        """The greatest effort within `limit` MACs on an image of `size` (a multiple of `grid`), or the paper's rule at
        `native`. Where even the least effort is above the limit, that least."""
        ...


@runtime_checkable
class Upsampler(Protocol):
    """Features → RGB at any points. `context`: LR pixels of features beyond a tile that can change its output."""

    @property
    def context(self) -> int | None: ...

    def prepare(self, features: Tensor, lr: Tensor, frame: Frame) -> Any:
        """What is computed once per tile; the value is the upsampler's own (its Field)."""
        ...

    def sample(self, field: Any, query: Query) -> Tensor:
        """RGB at the query's points: (b, 3, hq, wq) for a rectangle, (b, q, 3) for points."""
        ...

    def macs(self, size: Size, out: Size) -> Macs:
        """The cost of one image: `prepare` on LR `size` and `sample` of a rectangle of `out` pixels."""
        ...


class PlainEncoder(nn.Module):
    """Base of encoders that route nothing: they give `forward(lr) -> features` and `macs`."""

    channels: int
    grid: int = 1
    context: int | None

    def route(self, lr: Tensor, scale: Tensor, effort: Effort) -> Route:
        return ()

    def encode(self, lr: Tensor, frame: Frame, scale: Tensor, effort: Effort, plan: Route) -> Encoded:
        return Encoded(self(lr))

    def macs(self, size: Size, scale: Scale, route: Route = ()) -> Macs:
        raise NotImplementedError
