"""Budgets in seconds: what they become, and how they are corrected after each row of tiles."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import torch

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.budget.speed import Speed
from scalewise.errors import BudgetInfeasible
from scalewise.execution.deadline import AIM, DeadlineController
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import RunOptions, RunPlan
from scalewise.execution.planner import plan_run
from scalewise.execution.probe import Probe
from scalewise.geometry.grid import Frame
from scalewise.models.multi_exit import MultiExitModel
from scalewise.multiexit.anyscale import AnyScaleExits
from scalewise.pipeline import upscale
from scalewise.routing.patch import PatchRouter

SPEED = Speed(per_pixel=1e-6, per_mac=1e-8)  # of a slow machine, so that nothing else counts


@pytest.fixture
def model() -> MultiExitModel:
    torch.manual_seed(0)
    network = AnyScaleExits(8, exit_after=(1, 2), kernels=(3, 3))
    return MultiExitModel(PatchRouter(2, patch=16, channels=4), network, patch=16).eval()


@pytest.fixture
def picture() -> np.ndarray:
    return (np.random.default_rng(0).random((192, 128, 3)) * 255).astype(np.uint8)


def test_seconds_are_parsed() -> None:
    assert Budget.parse("2s") == Budget.seconds(2)
    assert Budget.parse(" 1500 ms ") == Budget.seconds(1.5)
    for wrong in ("0s", "-1s", "nans", "2 h", "1s,0.4@3", "0.4,0.4@3"):
        with pytest.raises(BudgetInfeasible):
            Budget.parse(wrong)


class Clock:
    """A time.perf_counter that only tiles move on."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def run_timed(
    model: MultiExitModel, picture: np.ndarray, seconds: float, slowness: float = 1.0, tile: int | None = 64
) -> tuple[Any, Any, float, RunPlan]:
    """In tiles each of which takes `slowness` times what SPEED says; the seconds that went by."""
    clock, source = Clock(), images.open(picture)
    out = (source.size[0] * 2, source.size[1] * 2)
    render = model.render_rows

    def slow(lr: Any, frame: Any, core: Any, out: Any, plan: Any, on_rows: Any) -> Any:
        rendered = render(lr, frame, core, out, plan, on_rows)
        clock.now += slowness * SPEED.seconds(lr.shape[-2] * lr.shape[-1], rendered.macs.total)
        return rendered

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", clock)
        patch.setattr("scalewise.execution.planner.probe", lambda *_: Probe(2000.0, SPEED, 0))
        options = RunOptions(tile=tile, dtype="fp32")
        run_plan = plan_run(source, out, model, Budget.seconds(seconds), options)
        run_plan = RunPlan(**{**_fields(run_plan), "started": clock.now})
        patch.setattr(model, "render_rows", slow)
        result, report = enlarge(run_plan, images.create(None, out, source))
    return result, report, clock.now - 100, run_plan


def _fields(run_plan: RunPlan) -> dict[str, Any]:
    return {name: getattr(run_plan, name) for name in RunPlan.__dataclass_fields__}


def seconds_of(model: MultiExitModel, share: float) -> float:
    """For the whole picture with about the context of its tiles."""
    size = (192, 128)
    return 1.3 * SPEED.seconds(192 * 128, share * model.full_macs(Frame(size), size, (0, 0, *size), (384, 256)))


@pytest.mark.parametrize("slowness", [0.7, 1.0, 1.4])
def test_rows_that_take_longer_leave_less_for_the_rest(
    model: MultiExitModel, picture: np.ndarray, slowness: float
) -> None:
    wanted = seconds_of(model, 0.5)
    _, report, took, _ = run_timed(model, picture, wanted, slowness)
    assert took == pytest.approx(wanted, rel=0.15)
    note = next(note for note in report.notes if "became a budget of" in note)
    first, *later = [float(share) for share in re.findall(r"([0-9.]+)%", note)]
    if slowness > 1:
        assert later and later[-1] < first
    if slowness < 1:
        assert later and later[-1] > first


def test_what_was_rendered_keeps_its_decisions(model: MultiExitModel, picture: np.ndarray) -> None:
    """The first row of tiles is that of a run which is not corrected."""
    wanted = seconds_of(model, 0.5)
    slow, _, _, run_plan = run_timed(model, picture, wanted, slowness=1.4)
    steady, _, _, _ = run_timed(model, picture, wanted, slowness=1.0)
    rows = 2 * run_plan.side
    assert np.array_equal(slow[:rows], steady[:rows]) and not np.array_equal(slow[rows:], steady[rows:])


def test_too_little_time_says_how_much_it_takes(model: MultiExitModel, picture: np.ndarray) -> None:
    with pytest.raises(BudgetInfeasible, match=r"budget 0\.001 s is below .* about [0-9.]+ s"):
        run_timed(model, picture, 0.001)


def test_more_time_than_needed_is_everything(model: MultiExitModel, picture: np.ndarray) -> None:
    _, report, _, _ = run_timed(model, picture, 1e6)
    assert report.share == 1.0 and any("became a budget of 100.0%" in note for note in report.notes)


def test_a_picture_of_some_size_is_cut_up_to_be_corrected(model: MultiExitModel) -> None:
    large = np.zeros((640, 320, 3), np.uint8)
    run_plan = run_timed(model, large, 1e6, tile=None)[3]
    rows = {tile.core[0] for tile in run_plan.tiles}
    assert len(rows) > 1 and run_plan.recomputed <= 0.12
    small = run_timed(model, large[:160], 1e6, tile=None)[3]
    assert len(small.tiles) == 1


def test_the_time_left_and_the_rows_so_far_say_what_is_affordable(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    controller = DeadlineController(Speed(0.0, 1e-3), 10.0, 110.0, 1.0, [10] * 4, [4000] * 4)
    assert controller.share() == pytest.approx(AIM * 9 / 16)
    controller.accept(0.5, refuse=False)
    clock.now += 4.0  # for 2000 MACs, which were to take 2 seconds
    assert controller.affordable(1, 2000) == pytest.approx(AIM * 2500)  # 5 seconds are left, at 2 ms each
    clock.now += 100.0
    assert controller.affordable(2, 4000) == 0.0


def test_a_real_run_in_seconds_ends_with_a_report() -> None:
    report = upscale(np.zeros((40, 40, 3), np.uint8), 2.0, budget="1000s").report
    assert report.share == 1.0 and any("1000 s became" in note for note in report.notes)


def test_a_model_with_one_level_runs_or_is_refused() -> None:
    model = zoo.bicubic()
    assert upscale(np.zeros((40, 40, 3), np.uint8), 2.0, budget="1000s", model=model).report.share == 1.0
    with pytest.raises(BudgetInfeasible, match="is below what this model needs"):
        upscale(np.zeros((400, 400, 3), np.uint8), 2.0, budget="0.00001s", model=model)


def test_encoding_is_predicted_for_files_alone(tmp_path: Path, picture: np.ndarray) -> None:
    source = images.open(picture)
    sample = torch.rand(3, 40, 50)
    assert images.create(None, (100, 100), source).encoding_seconds(sample) == 0
    for name in ("a.png", "a.jpg"):
        assert images.create(tmp_path / name, (100, 100), source).encoding_seconds(sample) > 0


def test_encoding_of_an_animation_is_predicted_for_all_frames(tmp_path: Path) -> None:
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
