"""Frames in time: what is kept, what it costs, and that nothing differs where nothing may."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from models.exits import toy_exits
from video.clips import pan, screen, texture

from scalewise.budget.budget import Budget
from scalewise.errors import BudgetInfeasible, InvalidRequest
from scalewise.execution.plan import RunOptions
from scalewise.geometry.grid import Frame
from scalewise.models.multi_exit import MultiExitModel
from scalewise.video.boxes import boxes_of
from scalewise.video.frames import FrameUpscaler, Spent, upscale_frames, windows
from scalewise.video.still import StillPatches, is_cut, noise_of

SIZE, OUT = (64, 96), (128, 192)


@pytest.fixture(scope="module")
def model() -> MultiExitModel:
    return toy_exits(16, (1, 2, 3), (3, 3, 4))  # of fewer channels, boxes are rounded otherwise on some CPUs


def run(
    model: MultiExitModel,
    frames: list[np.ndarray],
    still: float,
    budget: float = 1.0,
    refresh: int = 250,
    *,
    exact: bool = False,
) -> tuple[np.ndarray, FrameUpscaler]:
    options = RunOptions(dtype="fp32") if exact else None
    upscaler = FrameUpscaler(
        model,
        frames[0],
        OUT,
        budget=Budget.fraction(budget),
        still=still,
        refresh=refresh,
        exact=exact,
        options=options,
    )
    made = [
        enlarged.pixels.copy()
        for window in windows(frames, upscaler.window_frames)
        for enlarged in upscaler.render(window)
    ]
    return np.stack(made), upscaler


@pytest.mark.parametrize("budget", [1.0, 0.4])
@pytest.mark.parametrize("kind", ["screen", "pan", "cut"])
def test_nothing_differs_at_still_0(model: MultiExitModel, kind: str, budget: float) -> None:
    frames = {"screen": screen(8), "pan": pan(6), "cut": screen(4) + pan(4)}[kind]
    kept, upscaler = run(model, frames, 0, budget, exact=True)
    one_by_one = np.stack(
        [_whole(model, frame, exits) for frame, exits in zip(frames, _exits(model, frames, budget), strict=True)]
    )
    assert not upscaler._whole
    assert (kept == one_by_one).all()


def _exits(model: MultiExitModel, frames: list[np.ndarray], budget: float) -> list[np.ndarray]:
    """The exits of each frame, as the run decides them."""
    upscaler = FrameUpscaler(model, frames[0], OUT, budget=Budget.fraction(budget), still=0, exact=True)
    found = []
    for window in windows(frames, upscaler.window_frames):
        for _ in upscaler.render(window):
            assert upscaler._exits is not None
            found.append(np.maximum(upscaler._exits.held, 0).copy())
    return found


def _whole(model: MultiExitModel, frame: np.ndarray, exits: np.ndarray) -> np.ndarray:
    """A frame rendered as a picture of its own, with these exits."""
    lr = torch.from_numpy(frame.astype(np.float32) / 255).permute(2, 0, 1)[None]
    lr = lr.contiguous(memory_format=torch.channels_last)
    plan = model.plan(model.score(lr, (2.0, 2.0)), SIZE, OUT, Budget.full())
    route = (replace(plan.route[0], choice=torch.from_numpy(exits)[None]),)
    rgb = model.render(lr, Frame(SIZE), (0, 0, *SIZE), OUT, replace(plan, route=route)).rgb
    return (rgb.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def test_a_screen_takes_a_fraction_and_its_still_part_does_not_flicker(model: MultiExitModel) -> None:
    frames = screen(12)
    kept, upscaler = run(model, frames, 0)
    full, plain = run(model, frames, -1)
    assert upscaler.spent.macs < 0.5 * plain.spent.macs
    assert plain.spent.reused == 0
    same = (np.stack(frames[1:]) == np.stack(frames[:-1])).all(-1)
    far = ~_near(~same, 16)  # what no moving pixel can reach
    flicker = np.abs(kept[1:].astype(int) - kept[:-1]).max(-1)
    assert flicker[far.repeat(2, 1).repeat(2, 2)].max() == 0
    assert np.abs(kept.astype(int) - full).max() <= 1


def _near(mask: np.ndarray, by: int) -> np.ndarray:
    tensor = torch.from_numpy(mask.astype(np.float32))[:, None]
    return torch.nn.functional.max_pool2d(tensor, 2 * by + 1, 1, by)[:, 0].numpy() > 0


@pytest.mark.parametrize("budget", [0.25, 0.5, 0.8])
def test_a_budget_is_kept_over_the_clip(model: MultiExitModel, budget: float) -> None:
    _, upscaler = run(model, pan(30), 0, budget)
    assert 0.7 * budget < upscaler.spent.macs / upscaler.spent.macs_full <= budget


def test_what_stays_gets_the_budget_of_what_moves_later(model: MultiExitModel) -> None:
    """A still clip at a share that a single frame could not be computed in full with."""
    frames = [texture(*SIZE)] * 24
    kept, upscaler = run(model, frames, 0, 0.3)
    full, _ = run(model, frames[:1], -1)
    assert upscaler.spent.macs <= 0.1 * upscaler.spent.macs_full
    assert np.abs(kept.astype(int) - full).max() <= 1
    assert set(upscaler.spent.exits) == {3}


def test_a_budget_below_the_floor_is_refused(model: MultiExitModel) -> None:
    with pytest.raises(BudgetInfeasible, match="floor"):
        run(model, pan(4), 0, 0.001)


def test_exits_are_held_without_cause(model: MultiExitModel) -> None:
    """Noise of a level decides no exit anew: over some windows patches keep theirs."""
    generator = np.random.default_rng(0)
    base = texture(*SIZE).astype(int)
    frames = [(base + generator.integers(-1, 2, base.shape)).clip(0, 255).astype(np.uint8) for _ in range(72)]
    upscaler = FrameUpscaler(model, frames[0], OUT, budget=Budget.fraction(0.4), still=0)
    choices = []
    for window in windows(frames, 24):
        for _ in upscaler.render(window):
            assert upscaler._exits is not None
            choices.append(upscaler._exits.held.copy())
    changes = np.stack([a != b for a, b in itertools.pairwise(choices)])
    assert changes.mean() < 0.02


def test_a_cut_starts_anew_and_begins_a_window() -> None:
    frames = screen(3) + [255 - frame for frame in pan(3)]
    assert is_cut(frames[2], frames[3])
    found = list(windows(frames, 24))
    assert [(len(window.frames), window.cut) for window in found] == [(3, True), (3, True)]
    assert [len(window.frames) for window in windows(screen(5), 2)] == [2, 2, 1]


def test_what_is_kept_never_differs_by_more_than_still() -> None:
    """A picture that brightens by a level in each frame is computed again every other frame, not never."""
    patches = StillPatches((32, 32), 16, 4, still=2, refresh=0)
    frames = [np.full((32, 32, 3), 50 + k, np.uint8) for k in range(7)]
    assert [bool(patches.changed(frame).any()) for frame in frames] == [True, False, False, True, False, False, True]


def test_a_patch_sees_changes_within_its_context_alone() -> None:
    patches = StillPatches((64, 64), 16, 5, still=0, refresh=0)
    frame = np.zeros((64, 64, 3), np.uint8)
    patches.changed(frame)
    other = frame.copy()
    other[20, 36] = 9  # in patch (1, 2), and within 5 pixels of (0, 2), (1, 1) and (0, 1)
    assert set(zip(*patches.changed(other).nonzero(), strict=True)) == {(1, 2), (0, 2), (1, 1), (0, 1)}


def test_every_patch_that_differs_is_refreshed_in_turn() -> None:
    patches = StillPatches((256, 256), 16, 2, still=3, refresh=40)
    frame = np.full((256, 256, 3), 100, np.uint8)
    patches.changed(frame)
    counts = np.stack([patches.changed(frame + 1) for _ in range(40)])
    assert (counts.sum(0) == 1).all()
    assert counts.reshape(40, -1).sum(1).max() <= 2 * 16  # two blocks of 4×4 patches at most in one frame
    assert not any(patches.changed(frame + 1).any() for _ in range(40))  # they are now as they were computed


@pytest.mark.parametrize("seed", range(5))
def test_boxes_cover_what_changed_and_read_less_than_the_frame(seed: int) -> None:
    changed = np.random.default_rng(seed).random((9, 13)) < (0.02, 0.1, 0.3, 0.6, 0.9)[seed]
    size = (9 * 16 - 5, 13 * 16 - 9)
    boxes = boxes_of(changed, 16, 7, size)
    covered = np.zeros(size, bool)
    read = 0
    for y0, x0, y1, x1 in boxes:
        covered[y0:y1, x0:x1] = True
        read += (min(y1 + 7, size[0]) - max(y0 - 7, 0)) * (min(x1 + 7, size[1]) - max(x0 - 7, 0))
    wanted = changed.repeat(16, 0).repeat(16, 1)[: size[0], : size[1]]
    assert (covered >= wanted).all()
    assert read <= size[0] * size[1]


def test_the_noise_of_a_codec_is_measured_and_motion_is_not() -> None:
    generator = np.random.default_rng(0)
    base = texture(64, 96).astype(int)
    noisy = [(base + generator.integers(0, 2, base.shape)).clip(0, 255).astype(np.uint8) for _ in range(4)]
    assert noise_of(noisy) == 1
    assert noise_of(screen(6)) == 0
    assert noise_of([frame.astype(np.uint16) * 257 for frame in noisy]) == 1


def test_frames_of_ones_own(model: MultiExitModel) -> None:
    frames = screen(3)
    made = list(upscale_frames(iter(frames), 1.5, model=model, still=0))
    assert [frame.shape for frame in made] == [(96, 144, 3)] * 3
    assert list(upscale_frames([], 2, model=model)) == []
    deep = list(upscale_frames([frame.astype(np.uint16) * 257 for frame in frames], 1.5, model=model))
    assert deep[0].dtype == np.uint16
    assert np.abs(deep[0] / 257 - made[0]).max() <= 0.51
    with pytest.raises(InvalidRequest, match="exactly one"):
        list(upscale_frames(frames, model=model))


def test_costs_of_parts_add_up() -> None:
    whole = Spent(frames=5, macs=10, exits={1: 2, 3: 1}, notes=("a",))
    part = whole.since(Spent(frames=2, macs=4, exits={1: 2}))
    assert (part.frames, part.macs, part.exits) == (3, 6, {3: 1})
    again = Spent(frames=2, macs=4, exits={1: 2})
    again.add(part)
    assert (again.frames, again.macs, again.exits, again.notes) == (5, 10, {1: 2, 3: 1}, ("a",))
