"""Frames one after another: what does not change keeps its output, and a budget goes where the rest gains most.

A window of frames is looked at before it is computed: which patches change, how often, and for how long what is
computed will be seen. With that the exit of each patch is decided once for the window (`exits.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scalewise import images
from scalewise.budget.budget import Budget
from scalewise.budget.cost import Macs
from scalewise.budget.route import effort_map
from scalewise.errors import BudgetInfeasible, InvalidRequest
from scalewise.execution.decide import decide
from scalewise.execution.plan import RunOptions, RunPlan, area
from scalewise.execution.planner import plan_run
from scalewise.execution.tiles import ALPHA_CONTEXT, TileRunner
from scalewise.geometry.grid import Size
from scalewise.machine.device import torch_defaults
from scalewise.models.model import Model, RoutePlan
from scalewise.models.multi_exit import MultiExitModel
from scalewise.video.boxes import boxes_of
from scalewise.video.canvas import FrameCanvas, same_in_boxes
from scalewise.video.exits import ExitPlanner, WindowPlan
from scalewise.video.still import StillPatches, is_cut, noise_of

if TYPE_CHECKING:
    from scalewise.zoo import LoadedModel

WINDOW_FRAMES = 24  # that are looked at together, at most ...
WINDOW_BYTES = 64 << 20  # ... and bytes of LR pixels
PLAIN_PATCH = 32  # LR pixels a side of what is kept or computed, of a model without patches
REFRESH_FRAMES = 250  # after which a patch is computed anew, if it differs at all from what its output was made of


@dataclass
class Spent:
    """What frames cost so far. `patches` and `reused` count patches of frames, `exits` those computed, by exit.

    `seconds` are those of the network, `seconds_in_all` also those of reading and encoding."""

    frames: int = 0
    patches: int = 0
    reused: int = 0
    scenes: int = 0
    macs: int = 0
    macs_full: int = 0
    seconds: float = 0.0
    seconds_in_all: float = 0.0
    exits: dict[int, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def add(self, other: Spent) -> None:
        """Count another part of the same clip."""
        for name in SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for level, count in other.exits.items():
            self.exits[level] = self.exits.get(level, 0) + count
        self.notes = tuple(dict.fromkeys((*self.notes, *other.notes)))

    def copy(self) -> Spent:
        return replace(self, exits=dict(self.exits))

    def since(self, earlier: Spent) -> Spent:
        """What was spent after `earlier`."""
        sums: Any = {name: getattr(self, name) - getattr(earlier, name) for name in SUMS}
        exits = {level: count - earlier.exits.get(level, 0) for level, count in self.exits.items()}
        return Spent(**sums, exits={level: count for level, count in exits.items() if count}, notes=self.notes)


SUMS = ("frames", "patches", "reused", "scenes", "macs", "macs_full", "seconds", "seconds_in_all")


@dataclass(frozen=True)
class Window:
    """Consecutive frames (h, w, c) that are planned together; `cut`: a new scene begins with the first."""

    frames: list[np.ndarray]
    cut: bool


@dataclass(frozen=True)
class Enlarged:
    """An enlarged frame: `pixels` (H, W, c) of the input's dtype, valid until the next frame is asked for.

    `effort` (gy, gx) float32 in [0, 1] are the MACs that each patch took of the most it could, 0 where its output was
    kept; a patch is `unit` LR pixels wide."""

    pixels: np.ndarray
    effort: np.ndarray
    unit: int


def windows(frames: Iterable[np.ndarray], most: int) -> Iterator[Window]:
    """Frames in windows of at most `most`; a scene begins a window."""
    held: list[np.ndarray] = []
    last: np.ndarray | None = None
    cut = True
    for frame in frames:
        here = last is not None and is_cut(last, frame)
        if held and (here or len(held) >= most):
            yield Window(held, cut)
            held, cut = [], False
        cut = cut or here
        held.append(frame)
        last = frame
    if held:
        yield Window(held, cut)


class FrameUpscaler:
    """Enlarges the frames of one clip, window after window. `spent` grows with every frame.

    All frames have the size, the channels and the dtype of `like`, the first one: (h, w, 3 or 4), uint8 or uint16.
    `still` is in levels of 8 bits; below 0 nothing is kept, and every frame is computed in full. `exact`, with a
    `still` of 0: the result is to the bit that of frame by frame with the same exits, rounding of the machine included.
    A budget is a share of what all frames cost in full; what a window leaves of it is spent later.
    """

    def __init__(
        self,
        model: Model,
        like: np.ndarray,
        out: Size,
        *,
        budget: Budget | None = None,
        still: float = 0.0,
        exact: bool = False,
        refresh: int = REFRESH_FRAMES,
        options: RunOptions | None = None,
    ) -> None:
        budget, options = budget or Budget.full(), options or RunOptions()
        if budget.kind not in ("fraction", "native"):
            raise InvalidRequest("frames take a budget as a share of the MACs, as 50%")
        if not math.isfinite(still) or refresh < 0:
            raise InvalidRequest(f"still {still:g}, refresh {refresh}: levels of 8 bits, and frames (0: never)")
        full = budget == Budget.full()
        self._free = options.dtype == "auto"  # to compute in fp32
        if exact and not full and options.dtype == "auto":
            options = replace(options, dtype="fp32")  # patches in bf16 are rounded otherwise in other company
        self.still, self.exact, self.refresh, self.out, self.spent = still, exact, refresh, out, Spent()
        self.budget, self._purse, self._strict = budget, 0.0, True
        source = images.open(like)
        plan = plan_run(source, out, model, Budget.full(), replace(options, projection="flat", crop=None))
        self.spent.notes = plan.notes
        self.model = plan.model
        grid, unit = plan.model.limits.patch_stride, plan.model.limits.window_multiple
        self.patch = grid if grid > 1 else -(-PLAIN_PATCH // unit) * unit
        self._reach = plan.context + (ALPHA_CONTEXT if source.alpha else 0)
        self._run_plan = plan
        self._canvas = FrameCanvas(out, source, self.patch)
        self._exits: ExitPlanner | None = None
        if isinstance(self.model, MultiExitModel) and budget.kind == "fraction":
            self._exits = ExitPlanner(self.model, source.size, out)
        self._checked = not exact
        if self.model.limits.context is None or self.patch % unit:
            self._keep_whole_frames()
        else:
            self._patches = self._new_patches()

    @property
    def window_frames(self) -> int:
        """Frames that are looked at together."""
        source = self._run_plan.source
        size = math.prod(source.size) * (3 + source.alpha) * (2 if source.dtype == "uint16" else 1)
        return max(1, min(WINDOW_FRAMES, WINDOW_BYTES // size))

    @cached_property
    def macs_full(self) -> int:
        """MACs of one frame with everything on, the router included."""
        tiles = replace(self._run_plan, parts=None).tiles
        router = self._exits.base.overhead.total if self._exits is not None else 0
        return sum(self._run_plan.full_macs(tile) for tile in tiles) + router

    def changes(self, frames: Sequence[np.ndarray], still: float, refresh: int) -> list[float]:
        """The share of the pixels of each frame that would be read, context included; nothing is computed."""
        if still < 0 or self._whole:
            return [1.0] * len(frames)
        size = self._run_plan.source.size
        patches = StillPatches(size, self.patch, self._reach, still, refresh)
        shares = []
        for frame in frames:
            plan = self._plan_of(frame, patches.changed(frame))
            shares.append(sum(area(tile.source) for tile in plan.tiles) / math.prod(size))
        return shares

    def grant(self, share: float) -> None:
        """The frames that follow may take this share of the MACs; what is left of the former budget goes."""
        self.budget, self._purse, self._strict = Budget.fraction(min(1.0, share)), 0.0, False

    def render(self, window: Window) -> Iterator[Enlarged]:
        """The frames of a window, enlarged."""
        began = time.perf_counter()
        if window.cut:
            self.spent.scenes += 1
            if not self._whole:
                self._patches = self._new_patches()
            if self._exits is not None:
                self._exits.start_anew()
        with torch_defaults(self._run_plan.device), torch.no_grad():
            if not self._checked:
                self._check(window.frames[0])
            changed = [self._changed(pixels) for pixels in window.frames]
            run_plans = [self._plan_of(*pair) for pair in zip(window.frames, changed, strict=True)]
            planned = self._planned(run_plans, changed)
            for k, (run_plan, mask) in enumerate(zip(run_plans, changed, strict=True)):
                effort = self._render(run_plan, mask, planned, k)
                self.spent.seconds += time.perf_counter() - began
                yield Enlarged(self._canvas.pixels, effort, self.patch)
                began = time.perf_counter()

    # --- a window -----------------------------------------------------------------------------------------------------

    def _new_patches(self) -> StillPatches:
        self._whole = False
        return StillPatches(self._run_plan.source.size, self.patch, self._reach, self.still, self.refresh)

    def _keep_whole_frames(self) -> None:
        """Nothing smaller than a frame can be kept."""
        self._whole = True
        size = self._run_plan.source.size
        self._patches = StillPatches(size, max(size), 0, self.still, self.refresh)

    def _changed(self, pixels: np.ndarray) -> np.ndarray:
        """(gy, gx) bool: the patches to compute."""
        mask = np.ones(self._canvas.shape, bool)
        if self.still < 0:
            return mask
        changed = self._patches.changed(pixels)
        return mask & changed[0, 0] if self._whole else changed

    def _plan_of(self, pixels: np.ndarray, changed: np.ndarray) -> RunPlan:
        plan = self._run_plan
        boxes = boxes_of(changed, self.patch, self._reach, plan.source.size)
        whole = boxes == [(0, 0, *plan.source.size)]
        return replace(plan, source=images.open(pixels), parts=None if whole else tuple(boxes))

    def _planned(self, run_plans: Sequence[RunPlan], changed: Sequence[np.ndarray]) -> WindowPlan | None:
        """The exits of the window, where there is a budget and the model has exits."""
        if self._exits is None or self.budget == Budget.full():
            return None
        self._purse += self.budget.value * self.macs_full * len(run_plans)
        planned = self._exits.plan(run_plans, changed, self._purse)
        if planned.over:
            if self.spent.frames == 0 and self._strict:
                floor = planned.macs / (self.macs_full * len(run_plans))
                raise BudgetInfeasible(
                    f"budget {self.budget.value:.3%} is below the floor of this model on the first frames, "
                    f"{floor:.2%}: ask for more",
                    floor,
                )
            if self._strict:
                self._note("the budget was exceeded where even the cheapest exits took more")
        self._purse -= planned.router.total
        self.spent.macs += planned.router.total
        return planned

    def _render(self, run_plan: RunPlan, changed: np.ndarray, planned: WindowPlan | None, k: int) -> np.ndarray:
        """Compute the patches of frame `k` that changed; their effort."""
        route, choice = None, None
        if self._exits is not None:
            held = self._exits.held
            if planned is None:
                choice = np.full(held.shape, self.model.network.exits, np.int64)  # type: ignore[attr-defined]
            else:
                choice = np.where(planned.first <= k, planned.choice, held)
                flipped = (choice != held) & (held >= 0)
                if self.exact and flipped.any():  # their neighbours see other features of them
                    changed = changed | _grown(flipped, -(-self._reach // self.patch))
                    run_plan = self._plan_of(self._pixels_of(run_plan), changed)
            self._exits.held = choice
            route = self._exits.route(np.maximum(choice, 0))
        elif changed.any():
            route = decide(replace(run_plan, parts=None, budget=self.budget), self.budget)
        spent = self.spent
        macs = 0
        if changed.any():
            assert route is not None
            macs = self._computed(run_plan, route, changed)
            levels = np.zeros(int(changed.sum()), int) if choice is None else choice[changed]
            for level, count in zip(*np.unique(levels, return_counts=True), strict=True):
                spent.exits[int(level)] = spent.exits.get(int(level), 0) + int(count)
        self._purse -= macs
        spent.frames += 1
        spent.macs += macs
        spent.macs_full += self.macs_full
        spent.patches += changed.size
        spent.reused += int((~changed).sum())
        effort = changed.astype(np.float32)
        if choice is not None and route is not None:
            effort *= effort_map(route.route).numpy()
        return effort

    def _computed(self, run_plan: RunPlan, route: RoutePlan, changed: np.ndarray) -> int:
        """Render the boxes of a frame onto the canvas; the MACs that ran."""
        runner = TileRunner.of(run_plan, route)
        self._canvas.mask = None if changed.all() else changed
        runner.render(self._canvas)
        for note in runner.tally.notes:
            self._note(note)
        return runner.tally.ran.total

    @staticmethod
    def _pixels_of(run_plan: RunPlan) -> np.ndarray:
        return run_plan.source.fetch((0, 0, *run_plan.source.size))

    def _check(self, pixels: np.ndarray) -> None:
        """Nothing may differ: look at the first frame whether this machine computes boxes as it does the whole."""
        self._checked = True
        if self._whole:
            return
        for dtype in dict.fromkeys((self._run_plan.dtype, torch.float32 if self._free else self._run_plan.dtype)):
            plan = replace(self._run_plan, source=images.open(pixels), parts=None, dtype=dtype)
            route = decide(plan, Budget.full())
            if same_in_boxes(plan, replace(route, overhead=Macs()), self.patch):
                if dtype != self._run_plan.dtype:
                    self._note("computed in fp32: in bf16 this machine rounds otherwise in boxes than in whole frames")
                self._run_plan = replace(self._run_plan, dtype=dtype)
                return
        self._keep_whole_frames()
        self._note("this machine rounds otherwise in boxes than in whole frames: only whole frames were kept")

    def _note(self, note: str) -> None:
        self.spent.notes = tuple(dict.fromkeys((*self.spent.notes, note)))


def _grown(mask: np.ndarray, by: int) -> np.ndarray:
    """(gy, gx) bool, and the patches within `by` of those."""
    padded = np.pad(mask, by)
    rows, columns = mask.shape
    return np.logical_or.reduce(
        [padded[y : y + rows, x : x + columns] for y in range(2 * by + 1) for x in range(2 * by + 1)]
    )


def upscale_frames(
    frames: Iterable[np.ndarray],
    scale: float | tuple[float, float] | None = None,
    *,
    size: Size | None = None,
    budget: str | float | Budget | None = None,
    model: str | Path | LoadedModel | Model = "fast",
    still: float | None = None,
    refresh: int = REFRESH_FRAMES,
    options: RunOptions | None = None,
) -> Iterator[np.ndarray]:
    """Enlarge frames, (h, w, 3 or 4) uint8 or uint16 of one size, one after another, by one of `scale` and `size`
    (rows, columns).

    `still`: levels of 8 bits within which a patch keeps its output; by default what the noise of the first frames
    makes. 0 changes nothing in the result, and below 0 nothing is kept. `budget` is a share of the MACs of all frames.
    Frames are held in windows of at most 24. Raises InvalidRequest, BudgetInfeasible.
    """
    from scalewise.geometry.sizes import wanted_size
    from scalewise.pipeline import resolve_model

    options = options or RunOptions()
    found = iter(frames)
    head = [frame for frame, _ in zip(found, range(WINDOW_FRAMES), strict=False)]
    if not head:
        return
    rows, columns = head[0].shape[:2]
    upscaler = FrameUpscaler(
        resolve_model(model, options.device).model,
        head[0],
        wanted_size((rows, columns), scale, size),
        budget=Budget.parse(budget),
        still=noise_of(head) if still is None else still,
        exact=still == 0,
        refresh=refresh,
        options=options,
    )
    for window in windows(chain(head, found), upscaler.window_frames):
        for enlarged in upscaler.render(window):
            yield enlarged.pixels.copy()
