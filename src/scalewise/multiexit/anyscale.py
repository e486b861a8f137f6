"""AnyScaleExits: our multi-exit any-scale network, the one behind `fast`.

A trunk of residual blocks with valid convolutions; exit k leaves after `exit_after[k - 1]` blocks with its own light
head (`upsamplers/separable.py`), and every exit predicts a residual on the same bicubic base, so exits meet without a
step; exit 0 is that base alone. At whole factors a head is one convolution and a pixel shuffle. The idea of patches
that take the exit worth its cost is ENAF's (Nguyen et al., WACV 2025); any scale, and blocks that see what their
neighbours last computed, are ours.

Definition (training and inference): after every block each patch keeps the new features if its choice reaches that
block's level, else the ones it had. `dense` computes exactly that; `models/multi_exit.py` computes only what changes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalewise.budget import cost
from scalewise.budget.cost import Macs
from scalewise.geometry.grid import Query, Size, axis_positions
from scalewise.layers import ready_convolution, repeat_edge
from scalewise.multiexit.eight_bits import EightBitBlock, span
from scalewise.upsamplers.separable import SeparableKernels, blend, blend_macs, convolution_macs

STEM_MARGIN, BLOCK_MARGIN, HEAD_MARGIN = 1, 2, 2  # the last: coefficients' 3×3, and the ring that the kernels reach
MAX_SHUFFLE = 16  # output pixels per LR pixel up to which one convolution is cheaper than coefficients and their blend
Block = Callable[..., Tensor]  # x (b, c, h + 4, w + 4), and who is asked for memory for the answer → (b, c, h, w)


class ValidResidualBlock(nn.Module):
    """x + conv(ReLU(conv(x))) without padding: (h + 4, w + 4) → (h, w).

    With a `slope` the ReLU is a leaky one: in narrow networks plain ones die while they learn."""

    def __init__(self, channels: int, slope: float = 0.0) -> None:
        super().__init__()
        self.slope = slope
        self.conv1 = nn.Conv2d(channels, channels, 3)
        self.conv2 = nn.Conv2d(channels, channels, 3)
        with torch.no_grad():
            self.conv2.weight.mul_(0.1)  # close to the identity, so that deep stacks learn from the first step

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weight and bias of both convolutions, as `masked_block` takes them."""
        assert self.conv1.bias is not None and self.conv2.bias is not None
        return self.conv1.weight, self.conv1.bias, self.conv2.weight, self.conv2.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.leaky_relu_(self.conv1(x), self.slope)).add_(x[..., 2:-2, 2:-2])

    def ready(self, dtype: torch.dtype) -> Block:
        """The same in numbers of `dtype` without gradients, its weights cast once for many calls."""
        weight1, bias1, weight2, bias2 = self.tensors()
        first = ready_convolution(weight1, bias1, dtype, slope=self.slope)
        second = ready_convolution(weight2, bias2, dtype)
        return lambda x, into=None: second(first(x), x[..., 2:-2, 2:-2], into)


def masked_block(
    x: Tensor, keep: Tensor | None, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, slope: float = 0.0
) -> Tensor:
    """A ValidResidualBlock of a whole image (b, c, h, w), new features where `keep` (b, 1, h, w) says so, or all.

    On plain tensors, so that compiled once it serves all blocks."""
    inner = F.conv2d(repeat_edge(x, BLOCK_MARGIN), weight1, bias1)
    new = x + F.conv2d(F.leaky_relu(inner, slope), weight2, bias2)
    return new if keep is None else torch.where(keep, new, x)


class AnyScaleExits(nn.Module):
    """`channels` features; exit k after `exit_after[k-1]` blocks, with `kernels[k-1]` kernels per axis in its head."""

    def __init__(
        self,
        channels: int = 48,
        *,
        exit_after: tuple[int, ...] = (1, 3, 6),
        kernels: tuple[int, ...] = (4, 4, 5),
        slope: float = 0.0,
    ) -> None:
        super().__init__()
        self.channels, self.slope = channels, slope
        self.exit_after = exit_after
        self.kernels = kernels
        self.exits = len(exit_after)
        self.depth = exit_after[-1]
        self.stem = nn.Conv2d(3, channels, 3)
        self.blocks = nn.ModuleList(ValidResidualBlock(channels, slope) for _ in range(self.depth))
        self.heads = nn.ModuleList(SeparableKernels(channels, m) for m in kernels)
        self.stem_margin, self.block_margin = STEM_MARGIN, BLOCK_MARGIN
        self.masked_block = masked_block
        self.context = STEM_MARGIN + BLOCK_MARGIN * self.depth + HEAD_MARGIN

    def level(self, block: int) -> int:
        """The first exit that needs block `block` (1-based)."""
        return next(k for k, after in enumerate(self.exit_after, 1) if after >= block)

    def enter(self, lr: Tensor) -> Tensor:
        """lr (b, 3, h + 2, w + 2) in [0, 1] → features (b, c, h, w)."""
        return self.stem((lr - 0.5).contiguous(memory_format=torch.channels_last))

    def block(self, index: int, features: Tensor) -> Tensor:
        """Block `index` (1-based): (b, c, h + 4, w + 4) → (b, c, h, w)."""
        return self.blocks[index - 1](features)

    def ready_blocks(self, dtype: torch.dtype, count: int) -> list[Block]:
        """The first `count` blocks in numbers of `dtype`, for many calls without gradients."""
        return [block.ready(dtype) for block in self.blocks[:count]]  # type: ignore[operator, union-attr]

    def head(self, level: int) -> SeparableKernels:
        head = self.heads[level - 1]
        assert isinstance(head, SeparableKernels)
        return head

    def coefficients(self, level: int, features: Tensor) -> Tensor:
        """Exit `level` (1-based): features (b, c, h + 4, w + 4) → coefficients (b, 3·M·M, h + 2, w + 2)."""
        return self.head(level)(features)

    def kernels_at(self, level: int, first: int, last: int, n: int, out: int) -> tuple[Tensor, Tensor]:
        """`KernelTable.at` for the output pixels first..last-1 of an axis of n LR and `out` output pixels."""
        device = self.head(level).coefficients.weight.device
        position = axis_positions(first, last, n, out).unsqueeze(0).to(device)
        return self.head(level).table.at(position, torch.tensor([n / out], device=device))

    def table(self, level: int, behind: Tensor, weight: Tensor, start: int, count: int) -> Tensor:
        """(q, count · M): the kernels of q output pixels over LR pixels start..start+count-1."""
        return self.head(level).table.scattered(behind, weight, start, count)[0]

    @staticmethod
    def factors(size: Size, out: Size) -> tuple[int, int] | None:
        """The factors of rows and columns where a head is rendered as one convolution: whole ones, not too large."""
        fy, fx = (target // n for n, target in zip(size, out, strict=True))
        whole = out == (size[0] * fy, size[1] * fx)
        return (fy, fx) if whole and fy * fx <= MAX_SHUFFLE else None

    def as_convolution(self, level: int, factors: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Weight and bias that take features (b, c, h + 4, w + 4) to the residual (b, 3·fy·fx, h, w) of exit `level`,
        colour by colour, rows of output pixels first."""
        return self.head(level).as_convolution(factors)

    def render(self, level: int, coefficients: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Residual RGB (b, 3, hq, wq)."""
        return blend(coefficients, rows, columns, self.kernels[level - 1])

    @torch.no_grad()
    def spans(self, lr: Tensor) -> Tensor:
        """(depth, 4): what the 8 bits of each block should span, as `EightBitBlock` takes it, measured on crops of
        photos lr (b, 3, h, w). Raises ValueError where features are not finite."""
        features, each = self.enter(repeat_edge(lr, STEM_MARGIN)), []
        for block in self.blocks:
            assert isinstance(block, ValidResidualBlock)
            inner = F.leaky_relu_(block.conv1(repeat_edge(features, BLOCK_MARGIN)), self.slope)
            each.append((*span(features), *span(inner)))
            features = block.conv2(inner).add_(features)
        return torch.tensor(each)

    def in_eight_bits(self, spans: Tensor) -> Self:
        """A copy for inference whose blocks compute in 8 bits."""
        own = copy.deepcopy(self)
        for index, (block, limits) in enumerate(zip(self.blocks, spans, strict=True)):
            assert isinstance(block, ValidResidualBlock)
            own.blocks[index] = EightBitBlock(block.conv1, block.conv2, self.slope, limits)
        return own

    def dense(self, lr: Tensor, query: Query, choice: Tensor) -> list[Tensor]:
        """Residual RGB (b, 3, hq, wq) of every exit; `choice` (b, 1, h, w) is each LR pixel's exit.

        Exit k's residual means something only where choice ≥ k.
        """
        features = self.enter(repeat_edge(lr, STEM_MARGIN))
        residuals = []
        for index in range(1, self.depth + 1):
            level = self.level(index)
            block = self.blocks[index - 1]
            assert isinstance(block, ValidResidualBlock)
            features = self.masked_block(features, choice >= level, *block.tensors(), slope=self.slope)
            if index == self.exit_after[level - 1]:
                residuals.append(self.at(level, features, query))
        return residuals

    def full(self, lr: Tensor, query: Query) -> Tensor:
        """Residual RGB (b, 3, hq, wq) of the last exit alone, every pixel through all blocks."""
        features = self.enter(repeat_edge(lr, STEM_MARGIN))
        for block in self.blocks:
            assert isinstance(block, ValidResidualBlock)
            features = self.masked_block(features, None, *block.tensors(), slope=self.slope)
        return self.at(self.exits, features, query)

    def at(self, level: int, features: Tensor, query: Query) -> Tensor:
        """Residual RGB (b, 3, hq, wq) of exit `level` from features (b, c, h, w) of a whole image."""
        height, width = features.shape[-2:]
        head = self.head(level)
        coefficients = head(repeat_edge(features, HEAD_MARGIN))
        rows = head.table(query.y.flatten(1), query.cell[:, 0], -1, height + 2)
        columns = head.table(query.x.flatten(1), query.cell[:, 1], -1, width + 2)
        return blend(coefficients, rows, columns, head.kernels)

    def stem_macs(self, height: int, width: int) -> Macs:
        return cost.conv2d(3, self.channels, 3, height, width)

    def block_macs(self, height: Any, width: Any) -> Macs:
        """One block whose output is height × width: the first convolution computes a ring of one more pixel."""
        return cost.conv2d(self.channels, self.channels, 3, height + 2, width + 2) + cost.conv2d(
            self.channels, self.channels, 3, height, width
        )

    def lean_block_macs(self, height: Any, width: Any) -> Macs:
        """One block without that ring."""
        return cost.conv2d(self.channels, self.channels, 3, height, width) * 2

    def exit_macs(self, level: int, size: Any, out: Any, factors: tuple[int, int] | None) -> Macs:
        """Head and blend of exit `level` for a patch of `size`, which renders `out` pixels."""
        if factors is not None:
            return convolution_macs(self.channels, factors, *size)
        return self._coefficient_macs(level, size[0] + 2, size[1] + 2) + self._blend_macs(level, size, out)

    def lean_exit_macs(self, level: int, size: Any, out: Any, factors: tuple[int, int] | None) -> Macs:
        """The same without the ring of coefficients around the patch."""
        if factors is not None:
            return self.exit_macs(level, size, out, factors)
        return self._coefficient_macs(level, *size) + self._blend_macs(level, size, out)

    def table_macs(self, level: int, positions: int, factors: tuple[int, int] | None) -> Macs:
        """What exit `level` computes once for a tile: kernels at so many positions, or their convolution."""
        head = self.head(level)
        if factors is not None:
            return head.composing_macs(factors)
        return head.table.macs(2 * positions)

    def _coefficient_macs(self, level: int, height: Any, width: Any) -> Macs:
        return cost.conv2d(self.channels, 3 * self.kernels[level - 1] ** 2, 3, height, width)

    def _blend_macs(self, level: int, size: Any, out: Any) -> Macs:
        """Blend of a patch of `size` (and its ring) to `out` pixels."""
        return blend_macs(self.kernels[level - 1], (size[0] + 2, size[1] + 2), out)
