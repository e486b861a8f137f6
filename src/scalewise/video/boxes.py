"""Patches that changed, as few boxes as are cheap to compute: each box reads its context too."""

from __future__ import annotations

import numpy as np

from scalewise.geometry.grid import Box, Size

MOST_CHANGED = 0.7  # of the patches, from which on the whole frame is one box


def boxes_of(changed: np.ndarray, patch: int, context: int, size: Size) -> list[Box]:
    """Boxes of LR pixels that cover the patches `changed` (gy, gx) of a frame of `size`, cut along patches.

    A box holds a whole patch at least: operators round otherwise in the few pixels that a border may leave of one. Two
    boxes become one where that reads fewer pixels, best pair first. All boxes together read fewer pixels than the
    whole frame, or there is one box, the frame.
    """
    boxes = _runs(changed)
    if not len(boxes):
        return []
    whole = np.array([[0, 0, *changed.shape]])
    boxes[:, :2] = np.minimum(boxes[:, :2], [max(0, n // patch - 1) for n in size])
    if changed.mean() >= MOST_CHANGED:
        boxes = whole

    def cost(boxes: np.ndarray) -> np.ndarray:
        """Pixels that each box (…, 4) reads."""
        height, width = (
            np.minimum(boxes[..., axis + 2] * patch + context, size[axis])
            - np.maximum(boxes[..., axis] * patch - context, 0)
            for axis in (0, 1)
        )
        return height * width

    while len(boxes) > 1:
        own = cost(boxes)
        joined = np.concatenate(
            [np.minimum(boxes[:, None, :2], boxes[None, :, :2]), np.maximum(boxes[:, None, 2:], boxes[None, :, 2:])], -1
        )
        saved = own[:, None] + own[None] - cost(joined)
        np.fill_diagonal(saved, -1)
        i, j = divmod(int(saved.argmax()), len(boxes))
        if saved[i, j] < 0:
            break
        boxes[i] = joined[i, j]
        boxes = np.delete(boxes, j, 0)
    if cost(boxes).sum() >= cost(whole).sum():
        boxes = whole
    found = sorted(tuple(int(n) for n in box) for box in boxes)
    return [(y0 * patch, x0 * patch, min(y1 * patch, size[0]), min(x1 * patch, size[1])) for y0, x0, y1, x1 in found]


def _runs(changed: np.ndarray) -> np.ndarray:
    """(n, 4): patches of each row that lie side by side, and equal spans of rows below each other, as boxes."""
    done: list[list[int]] = []
    open_: dict[tuple[int, int], list[int]] = {}  # the boxes that end in the row above, by their columns
    for y, row in enumerate(np.pad(changed, ((0, 0), (1, 1))).astype(np.int8)):
        step = np.diff(row)
        spans = list(zip((step == 1).nonzero()[0].tolist(), (step == -1).nonzero()[0].tolist(), strict=True))
        below: dict[tuple[int, int], list[int]] = {}
        for span in spans:
            box = open_.get(span)
            if box is None:
                box = [y, span[0], y, span[1]]
                done.append(box)
            box[2] = y + 1
            below[span] = box
        open_ = below
    return np.array(done, np.int64).reshape(-1, 4)
