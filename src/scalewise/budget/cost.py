"""What a run costs: multiply-accumulates by kind from shapes and kept counts, seconds, memory.

One function per kind of layer. Kinds `conv`, `linear` and `matmul` are what `torch.utils.flop_counter` counts (÷ 2) on
the plain path; the router's MACs are counted apart, as `router`. Bicubic taps and other sampling are outside `total`:
they are a small part of the time, and published tables leave them out. Transposed convolution is counted at its input
rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from scalewise.budget.budget import Effort


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates by kind. `total` leaves out `sampling` (interpolation taps)."""

    conv: int = 0
    linear: int = 0
    matmul: int = 0
    router: int = 0
    sampling: int = 0

    @property
    def total(self) -> int:
        return self.conv + self.linear + self.matmul + self.router

    def __add__(self, other: Macs) -> Macs:
        return Macs(
            self.conv + other.conv,
            self.linear + other.linear,
            self.matmul + other.matmul,
            self.router + other.router,
            self.sampling + other.sampling,
        )

    def __mul__(self, times: int) -> Macs:
        return Macs(*(value * times for value in self.as_dict().values()))

    def summed(self, counts: Tensor) -> Macs:
        """Of Macs whose fields are numbers or (n,) tensors: each taken as often as `counts` (n,) says, summed."""
        total = int(counts.sum())
        return Macs(
            *(value * total if isinstance(value, int) else int((value * counts).sum()) for value in vars(self).values())
        )

    def as_router(self) -> Macs:
        """The same work, counted as the router's."""
        return Macs(router=self.total, sampling=self.sampling)

    def as_dict(self) -> dict[str, int]:
        return dict(vars(self))


def conv2d(inputs: int, outputs: int, kernel: int, height: int, width: int, groups: int = 1) -> Macs:
    """A convolution whose output is height × width."""
    return Macs(conv=kernel * kernel * (inputs // groups) * outputs * height * width)


def deconv2d(inputs: int, outputs: int, kernel: int, height: int, width: int, groups: int = 1) -> Macs:
    """A transposed convolution whose *input* is height × width."""
    return Macs(conv=kernel * kernel * (inputs // groups) * outputs * height * width)


def linear(inputs: int, outputs: int, rows: int) -> Macs:
    """A linear layer on `rows` vectors."""
    return Macs(linear=inputs * outputs * rows)


def matmul(m: int, k: int, n: int, batch: int = 1) -> Macs:
    """`batch` products of (m, k) by (k, n)."""
    return Macs(matmul=m * k * n * batch)


def attention(queries: int, keys: int, channels: int, batch: int = 1) -> Macs:
    """Scores and weighted sum: 2·n_q·n_k·c, for `batch` windows (all heads together: channels = heads × head dim)."""
    return Macs(matmul=2 * queries * keys * channels * batch)


@dataclass(frozen=True)
class CostReport:
    """What one image cost.

    `macs` ran; `macs_full` is the same model on the same image with every unit at its highest level. `size` is that of
    the output, (rows, columns). `effort_map` is (gy, gx) float32, MACs each unit spent over the most it could; a unit
    is `effort_unit` LR pixels wide; of a batch it is (n, gy, gx). `rim` is the
    share of the MACs spent on pixels computed more than once: context of tiles and rims of patches. `notes` are plain
    sentences.
    """

    macs: int
    macs_full: int
    by_kind: dict[str, int]
    seconds: float
    peak_bytes: int
    size: tuple[int, int]
    effort: Effort
    effort_map: Tensor
    effort_unit: int
    rim: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """MACs spent over MACs of the full model."""
        return self.macs / self.macs_full if self.macs_full else 1.0

    def as_dict(self) -> dict[str, object]:
        """For JSON: plain numbers, no tensors. `size` is (rows, columns) as in the report itself; `width` and `height`
        say the same by name."""
        return {
            "macs": self.macs,
            "macs_full": self.macs_full,
            "by_kind": self.by_kind,
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "size": list(self.size),
            "width": self.size[1],
            "height": self.size[0],
            "effort": self.effort.as_dict(),
            "share": self.share,
            "rim": self.rim,
            "notes": list(self.notes),
        }
