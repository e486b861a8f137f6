"""Budgets in seconds: what they become, how they are corrected, and that what they became repeats the picture."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import torch
from budget.test_speed import SPEED

from scalewise import images
from scalewise.budget.budget import Budget
from scalewise.errors import BudgetInfeasible
from scalewise.execution import deadline
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import RunOptions
from scalewise.execution.planner import plan_run
from scalewise.geometry.grid import Frame
from scalewise.models.multi_exit import MultiExitModel
from scalewise.multiexit.anyscale import AnyScaleExits
from scalewise.routing.patch import PatchRouter


@pytest.fixture
def model() -> MultiExitModel:
    torch.manual_seed(0)
    network = AnyScaleExits(8, exit_after=(1, 2), kernels=(3, 3))
    return MultiExitModel(PatchRouter(2, patch=16, channels=4), network, patch=16).eval()


@pytest.fixture
def picture() -> np.ndarray:
    return (np.random.default_rng(0).random((128, 192, 3)) * 255).astype(np.uint8)


def test_seconds_are_parsed() -> None:
    assert Budget.parse("2s") == Budget.seconds(2)
    assert Budget.parse(" 1500 ms ") == Budget.seconds(1.5)
    assert Budget.parse("0.4317,0.4@3") == Budget("fraction", 0.4317, later=((3, 0.4),))
    for wrong in ("0s", "-1s", "nans", "2 h", "1s,0.4@3", "0.4,0.5", "0.4,1.5@2"):
        with pytest.raises(BudgetInfeasible):
            Budget.parse(wrong)


class Clock:
    """A time.perf_counter that tiles move on."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def run_paced(
    model: MultiExitModel, picture: np.ndarray, budget: Budget, monkeypatch: pytest.MonkeyPatch, slowness: float = 1.0
) -> tuple[Any, Any]:
    """In tiles of 64, each of which takes `slowness` times what SPEED says of it."""
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr("scalewise.execution.deadline.speed_of", lambda *_: SPEED)
    monkeypatch.setattr("scalewise.execution.enlarge.learn_speed", lambda *_: None)
    render = model.render_rows

    def slow(lr: Any, frame: Any, core: Any, out: Any, plan: Any, ready: Any) -> Any:
        size = (lr.shape[-2], lr.shape[-1])
        work = model.full_macs(frame, size, core, out)
        share = model.planned_macs(frame, size, core, out, plan) / work
        clock.now += slowness * SPEED.seconds(share, work, whole=False)
        return render(lr, frame, core, out, plan, ready)

    source = images.open(picture)
    out, options = (256, 384), RunOptions(tile=64, dtype="fp32")
    run_plan = plan_run(source, out, model, budget, options)
    monkeypatch.setattr(model, "render_rows", slow)
    result, report = enlarge(source, images.create(None, out, source), model, budget, options, run_plan=run_plan)
    monkeypatch.undo()
    return result, report


@pytest.mark.parametrize("slowness", [0.7, 1.0, 1.4])
def test_tiles_that_take_longer_get_less(
    model: MultiExitModel, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch, slowness: float
) -> None:
    whole = (128, 192)
    work = 1.3 * model.full_macs(Frame(whole), whole, (0, 0, *whole), (256, 384))  # with context, about
    wanted = SPEED.seconds(0.5, work)
    result, report = run_paced(model, picture, Budget.seconds(wanted), monkeypatch, slowness)
    assert report.seconds == pytest.approx(wanted, rel=0.15)
    assert ("@" in report.effort.budget) or slowness == 1.0
    again, repeated = run_paced(model, picture, Budget.parse(report.effort.budget), monkeypatch)
    assert np.array_equal(result, again)
    assert repeated.macs == report.macs and torch.equal(repeated.effort_map, report.effort_map)


def test_too_little_time_says_how_much_it_takes(
    model: MultiExitModel, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BudgetInfeasible, match=r"budget 0\.001 s is below .* about [0-9.]+ s"):
        run_paced(model, picture, Budget.seconds(0.001), monkeypatch)


def test_more_time_than_needed_is_everything(
    model: MultiExitModel, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, report = run_paced(model, picture, Budget.seconds(1000), monkeypatch)
    assert report.share == 1.0 and report.effort.budget == "1"


def test_other_tiles_than_were_foreseen_teach_nothing(model: MultiExitModel, picture: np.ndarray) -> None:
    """As when memory ran out on the way."""
    run_plan = plan_run(images.open(picture), (256, 384), model, Budget.full(), RunOptions(tile=64, dtype="fp32"))
    works = (1,) * len(run_plan.tiles)
    unfinished = deadline.DeadlineController(
        run_plan,
        lambda budget: pytest.fail("the run is decided anew"),
        Budget.full(),
        SPEED,
        works,
        done=len(works) - 1,
    )
    assert unfinished.took() is None


def test_words_are_read_back() -> None:
    budget = Budget("fraction", 0.4317, later=((3, 0.4002), (5, 1.0)))
    assert Budget.parse(deadline.words(budget)) == budget


def test_encoding_is_foreseen_for_files_alone(tmp_path: Path, picture: np.ndarray) -> None:
    source = images.open(picture)
    sample = torch.rand(3, 40, 50)
    assert images.create(None, (100, 100), source).encoding_seconds(sample) == 0
    for name in ("a.png", "a.jpg"):
        assert images.create(tmp_path / name, (100, 100), source).encoding_seconds(sample) > 0


def test_encoding_of_an_animation_is_foreseen_for_all_frames(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 8, 3)).astype(np.uint8)
    frames = pyvips.Image.new_from_array(noise).copy(interpretation="srgb")
    frames.set_type(pyvips.GValue.gint_type, "page-height", 8)
    frames.webpsave(str(tmp_path / "in.webp"))
    frames.tiffsave(str(tmp_path / "in.tif"))
    sample = torch.rand(3, 40, 50)
    for name, together in (("in.webp", True), ("in.tif", False)):
        source = images.open(tmp_path / name)
        with images.create_pages(tmp_path / f"out-{name}", source, lambda size: (16, 16)) as album:
            assert (album.encoding_seconds(sample) > 0) == together
            assert all((sink.encoding_seconds(sample) > 0) != together for _, sink in album)
