"""Which patches of a frame are as they were: their output is kept, and only the rest is computed.

A patch is compared with the pixels that its output was computed from, context included, and not with the frame before:
so what is kept never differs from the input by more than `still`, however slowly a picture changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scalewise.geometry.grid import Size

BLOCK = 4  # patches a side that are refreshed together: alone, each would cost its whole context
CUT_LEVELS = 20.0  # mean difference of two frames, in levels of 8 bits, from which on a new scene begins
CUT_STEP = 4  # every so many rows and columns are looked at for that
QUIET = 6.0  # levels of 8 bits: a patch in which no pixel differs by more has changed by the codec's noise alone
NOISY_SHARE = 0.05  # of the patches that have to be so: what is rarer may as well be computed
NOISE_SHARE = 0.999  # of the pixels of quiet patches, that differ by no more than the noise of the codec
MAX_NOISE = 2.0  # levels of 8 bits: more than that can be seen when it is left out


@dataclass
class StillPatches:
    """Patches of `patch` LR pixels a side whose output depends on `context` more around them.

    `still`: levels of 8 bits by which a pixel may differ. `refresh`: frames after which a patch that is not exactly as
    it was is computed all the same, 0 for never; blocks of patches take turns.
    """

    size: Size
    patch: int
    context: int
    still: float
    refresh: int

    def __post_init__(self) -> None:
        self.shape = (-(-self.size[0] // self.patch), -(-self.size[1] // self.patch))
        self._frame: np.ndarray | None = None  # the last one
        self._basis: np.ndarray | None = None  # (gy, gx, side, side, c): what each output was computed from
        self._differs = np.zeros(self.shape, bool)  # within `still`, but not the same as the basis
        rows, columns = np.indices(self.shape) // BLOCK
        self._turn = rows * -(-self.shape[1] // BLOCK) + columns
        self._count = 0

    def changed(self, pixels: np.ndarray) -> np.ndarray:
        """(gy, gx) bool: patches of the next frame, (h, w, c), that have to be computed; they are taken as computed."""
        windows = self._windows(pixels)
        if self._frame is None or self._basis is None:
            self._basis = windows.copy()
            self._frame = pixels
            return np.ones(self.shape, bool)
        changed = np.zeros(self.shape, bool)
        touched = self._touched(pixels)
        rows, columns = touched.nonzero()
        level = self.still * (257 if pixels.dtype == np.uint16 else 1)
        for first in range(0, len(rows), 256):  # so that a frame of many patches takes little memory
            y, x = rows[first : first + 256], columns[first : first + 256]
            now, then = windows[y, x], self._basis[y, x]
            most = (np.maximum(now, then) - np.minimum(now, then)).max((1, 2, 3))
            changed[y, x], self._differs[y, x] = most > level, most > 0
        self._count += 1
        if self.refresh:
            blocks = int(self._turn.max()) + 1
            # Every block once in `refresh` frames, spread evenly over them.
            due = self._turn * self.refresh // blocks == self._count % self.refresh
            changed |= due & self._differs
        self.take(windows, changed)
        self._frame = pixels
        return changed

    def take(self, windows: np.ndarray, mask: np.ndarray) -> None:
        """The output of these patches is computed from this frame."""
        assert self._basis is not None
        y, x = mask.nonzero()
        self._basis[y, x] = windows[y, x]
        self._differs[y, x] = False

    def _touched(self, pixels: np.ndarray) -> np.ndarray:
        """(gy, gx) bool: patches whose pixels or context differ from the frame before at all."""
        assert self._frame is not None
        differs = (pixels != self._frame).any(-1)
        if not differs.any():
            return np.zeros(self.shape, bool)
        margin = self._padded_by
        padded = np.pad(differs, (margin[0], margin[1]))
        total = np.zeros((padded.shape[0] + 1, padded.shape[1] + 1), np.int32)
        total[1:, 1:] = padded.cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32)
        side = self.patch + 2 * self.context
        y, x = np.arange(self.shape[0]) * self.patch, np.arange(self.shape[1]) * self.patch
        box = total[y + side][:, x + side] - total[y][:, x + side] - total[y + side][:, x] + total[y][:, x]
        return box > 0

    @property
    def _padded_by(self) -> tuple[tuple[int, int], tuple[int, int]]:
        fill = [g * self.patch - n for g, n in zip(self.shape, self.size, strict=True)]
        return (self.context, self.context + fill[0]), (self.context, self.context + fill[1])

    def _windows(self, pixels: np.ndarray) -> np.ndarray:
        """(gy, gx, side, side, c): a view of each patch with its context, the border repeated."""
        padded = np.pad(pixels, (*self._padded_by, (0, 0)), mode="edge")
        side = self.patch + 2 * self.context
        rows, columns, channel = padded.strides
        return np.lib.stride_tricks.as_strided(
            padded,
            (*self.shape, side, side, padded.shape[2]),
            (rows * self.patch, columns * self.patch, rows, columns, channel),
            writeable=False,
        )


def is_cut(before: np.ndarray, after: np.ndarray) -> bool:
    """True if a new scene begins with the second of two frames (h, w, c)."""
    a, b = (frame[::CUT_STEP, ::CUT_STEP].astype(np.int32) for frame in (before, after))
    unit = 257 if after.dtype == np.uint16 else 1
    return float(np.abs(a - b).mean()) >= CUT_LEVELS * unit


def noise_of(frames: Sequence[np.ndarray], patch: int = 32) -> float:
    """What the codec's noise makes of a picture that does not change, in levels of 8 bits: at most MAX_NOISE.

    Differences of consecutive frames (h, w, c), in patches that change so little that nothing moved there; the level
    that NOISE_SHARE of their pixels keep to. 0 where fewer than NOISY_SHARE of all patches are so.
    """
    counts, noisy, patches = np.zeros(256, np.int64), 0, 0
    for before, after in itertools.pairwise(frames):
        unit = 257.0 if after.dtype == np.uint16 else 1.0
        worst = np.abs(after.astype(np.int32) - before.astype(np.int32)).max(-1)
        rows, columns = (n // patch * patch for n in worst.shape)
        if not rows or not columns:
            continue
        cut = worst[:rows, :columns].reshape(rows // patch, patch, columns // patch, patch).swapaxes(1, 2)
        most = cut.max((2, 3))
        quiet = cut[(most <= QUIET * unit) & (most > 0)]
        noisy, patches = noisy + len(quiet), patches + most.size
        counts += np.bincount(np.rint(quiet / unit).astype(np.int64).ravel(), minlength=256)[:256]
    if not counts.any() or noisy < NOISY_SHARE * patches:
        return 0.0
    share = counts.cumsum() / counts.sum()
    return min(float(np.searchsorted(share, NOISE_SHARE)), MAX_NOISE)
