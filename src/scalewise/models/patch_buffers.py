"""Features of a tile with their edge repeated: patches gathered and put back, and rows on their way through blocks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scalewise.geometry.grid import Box, Size
from scalewise.layers import fill_edge

CHUNK = 16  # patches computed together: their features stay in the cache
CHUNK_PIXELS = CHUNK * 32 * 32  # of runs of patches computed together: as many as CHUNK patches of 32 × 32 have


class Padded:
    """Features of a tile (1, c, h, w) kept with their edge repeated `margin` times on every side."""

    def __init__(self, features: Tensor, margin: int) -> None:
        m = self.margin = margin
        b, c, h, w = features.shape
        self.buffer = torch.empty(
            (b, c, h + 2 * m, w + 2 * m),
            dtype=features.dtype,
            device=features.device,
            memory_format=torch.channels_last,
        )
        self.buffer[..., m:-m, m:-m] = features
        self.refresh()

    def refresh(self) -> None:
        """Repeat the edge into the margin again."""
        fill_edge(self.buffer, self.margin)

    def gather(self, boxes: Sequence[Box]) -> Tensor:
        """Boxes of one shape with their margin: (boxes, c, h + 2m, w + 2m); of a single one a view."""
        m, (h, w) = 2 * self.margin, shape_of(boxes[0])
        if len(boxes) == 1:
            y0, x0, y1, x1 = boxes[0]
            return self.buffer[..., y0 : y1 + m, x0 : x1 + m]
        width = self.buffer.shape[-1]
        corner = torch.tensor([y0 * width + x0 for y0, x0, _, _ in boxes]).view(-1, 1, 1)
        index = corner + torch.arange(h + m).view(-1, 1) * width + torch.arange(w + m)
        pixels = self.buffer[0].permute(1, 2, 0).flatten(0, 1)  # one row each, all channels
        picked = pixels.index_select(0, index.flatten().to(pixels.device))
        return picked.view(len(boxes), h + m, w + m, -1).permute(0, 3, 1, 2)

    def scatter(self, boxes: Sequence[Box], features: Tensor) -> None:
        m = self.margin
        for (y0, x0, y1, x1), piece in zip(boxes, features, strict=True):
            self.buffer[0, :, y0 + m : y1 + m, x0 + m : x1 + m] = piece


class BlockMemory:
    """Memory for what a block renews of a tile (1, c, h, w), at most `pixels`, used again by the next block, as fresh
    memory costs page faults; none if nothing is taken."""

    def __init__(self, features: Tensor, pixels: int) -> None:
        self._channels, self._pixels, self._taken = features.shape[1], pixels, 0
        self._memory = features.new_empty(0)

    def clear(self) -> None:
        self._taken = 0

    def take(self, boxes: Sequence[Box]) -> Tensor:
        """For boxes of one shape, which do not overlap those of earlier calls: (boxes, c, h, w), channels last."""
        if not len(self._memory):
            self._memory = self._memory.new_empty(self._pixels * self._channels)
        shape = (len(boxes), *shape_of(boxes[0]), self._channels)
        start, self._taken = self._taken, self._taken + math.prod(shape)
        return self._memory[start : self._taken].view(shape).permute(0, 3, 1, 2)


class Slope:
    """Features of a tile (1, c, h, w) on their way through `depth` blocks, each of which sees `margin` pixels further.

    A block can go as far down as the one before it, less the margin. Each stores its rows `margin` higher than that
    one: over rows of it that no one will ask for any more, so one buffer holds them all, and behind the last block it
    is what `Padded` holds.
    """

    def __init__(self, features: Tensor, margin: int, depth: int) -> None:
        self.margin, self.depth = margin, depth
        b, c, h, w = features.shape
        self.height = h
        shape = (b, c, h + margin * (depth + 2), w + 2 * margin)
        self.buffer = torch.empty(
            shape, dtype=features.dtype, device=features.device, memory_format=torch.channels_last
        )
        self._done = [0] * (depth + 1)  # rows behind each block; 0: those of the stem
        self.put(0, features)

    @property
    def done(self) -> int:
        """Rows behind the last block."""
        return self._done[-1]

    @property
    def field(self) -> Padded:
        """What is behind the last block."""
        field = object.__new__(Padded)
        field.margin, field.buffer = self.margin, self.buffer[..., : self.height + 2 * self.margin, :]
        return field

    def above(self, block: int, end: int) -> Tensor:
        """What `block` (1-based) sees for its next rows, in the band of the stem's rows that stops at `end`."""
        start, stop = self._done[block], end if end == self.height else end - self.margin * block
        at = self._row(block, start)
        return self.buffer[..., at : at + stop - start + 2 * self.margin, :]

    def put(self, block: int, rows: Tensor) -> None:
        """The next rows behind `block`, and their edges."""
        m, start = self.margin, self._done[block]
        stop = self._done[block] = start + rows.shape[-2]
        first, last = self._row(block, start), self._row(block, stop)
        here = self.buffer[..., first:last, :]
        here[..., m:-m] = rows
        here[..., :m], here[..., -m:] = here[..., m : m + 1], here[..., -m - 1 : -m]
        if start == 0:
            self.buffer[..., first - m : first, :] = here[..., :1, :]
        if stop == self.height:
            self.buffer[..., last : last + m, :] = here[..., -1:, :]

    def _row(self, block: int, row: int) -> int:
        """Where in the buffer `row` behind `block` lies, and above it the margin: where the margin of what that block
        sees for it begins."""
        return row + self.margin * (self.depth - block + 1)


def grouped(patches: list[Any], kind: Any, most: Callable[[Any], int] = lambda kind: CHUNK) -> list[list[Any]]:
    """Patches of one kind together, at most so many at a time as `most` says of a kind."""
    by_kind: dict[Any, list[Any]] = defaultdict(list)
    for patch in patches:
        by_kind[kind(patch)].append(patch)
    steps = {one: most(one) for one in by_kind}
    return [group[k : k + steps[one]] for one, group in by_kind.items() for k in range(0, len(group), steps[one])]


def joined(boxes: Tensor) -> Tensor:
    """Boxes (n, 4) in reading order → (m, 4): those that touch left and right as one."""
    if not len(boxes):
        return boxes
    touch = (boxes[1:, 0::2] == boxes[:-1, 0::2]).all(1) & (boxes[1:, 1] == boxes[:-1, 3])
    apart = torch.cat((touch.new_zeros(1), touch, touch.new_zeros(1))).logical_not()
    return torch.cat((boxes[apart[:-1], :3], boxes[apart[1:], 3:]), 1)


def run_groups(boxes: list[Box]) -> list[list[Box]]:
    """Boxes of one shape together, with as many pixels at a time as CHUNK patches have."""
    return grouped(boxes, shape_of, lambda shape: max(1, CHUNK_PIXELS // math.prod(shape)))


def runs(boxes: Sequence[Box], places: Sequence[Sequence[int]]) -> list[tuple[Box, Sequence[int]]]:
    """Boxes in reading order, those that touch left and right joined, and the place (row, column) of each one's start.

    Boxes that touch in the tile must touch in what their places point to."""
    together: list[tuple[Box, Sequence[int]]] = []
    for box, place in zip(boxes, places, strict=True):
        if together:
            (y0, x0, y1, x1), start = together[-1]
            if (y0, x1, y1) == box[:3] and place[0] == start[0]:
                together[-1] = ((y0, x0, y1, box[3]), start)
                continue
        together.append((box, place))
    return together


def shape_of(box: Box) -> Size:
    return box[2] - box[0], box[3] - box[1]
