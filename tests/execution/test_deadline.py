"""Budgets in seconds: what they become, how they are corrected, and that what they became repeats the picture."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import torch

from scalewise import images, pipeline
from scalewise.budget import quality
from scalewise.budget.budget import Budget
from scalewise.budget.quality import FRESH, Level, Speed, Tried, measure_speed
from scalewise.errors import BudgetInfeasible
from scalewise.execution import deadline
from scalewise.geometry.grid import Frame
from scalewise.models.multi_exit import PatchRouted
from scalewise.multiexit.anyscale import AnyScaleExits
from scalewise.pipeline import Job, enlarge, look_ahead
from scalewise.routing.patch import PatchRouter

SPEED = Speed((Level(0.02, 10, 1000), Level(0.5, 20, 6000), Level(1.0, 5, 10000)))


@pytest.fixture
def model() -> PatchRouted:
    torch.manual_seed(0)
    network = AnyScaleExits(8, exit_after=(1, 2), kernels=(3, 3))
    return PatchRouted(PatchRouter(2, patch=16, channels=4), network, patch=16).eval()


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


def test_the_share_is_the_greatest_that_fits() -> None:
    for seconds in (0.3, 0.6, 2.0, 5.0):
        share = SPEED.share(seconds, 3e8)
        assert share == SPEED.floor or SPEED.seconds(share, 3e8) <= seconds
        assert share == 1 or SPEED.seconds(share + 0.001, 3e8) > seconds
    assert SPEED.share(0.001, 3e8) == SPEED.floor
    assert SPEED.seconds(1.0, 1e9) == pytest.approx(10.005)
    assert SPEED.seconds(1.0, 1e9, whole=False) == pytest.approx(10.0)


def test_a_speed_is_kept_and_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = quality.speed_file(("a model", "bf16", 2))
    assert tmp_path in file.parents and file != quality.speed_file(("a model", "bf16", 4))
    assert quality.kept_speed(file) is None
    quality.keep_speed(file, SPEED, ("a model", "bf16", 2))
    assert quality.kept_speed(file) == SPEED
    slower = SPEED.learned(0.5, 1.44)
    quality.keep_speed(file, slower, ())
    assert quality.kept_speed(file) == slower
    file.write_text("{}")
    assert quality.kept_speed(file) is None


def test_what_is_old_or_makes_no_sense_is_measured_again(tmp_path: Path) -> None:
    file, now = tmp_path / "speed.json", time.time()
    quality.keep_speed(file, SPEED, (), measured=now - 2 * FRESH)
    assert quality.kept_speed(file) is None
    quality.keep_speed(file, SPEED, ())  # what is learned does not make it younger
    assert quality.kept_speed(file) is None
    quality.keep_speed(file, SPEED, (), measured=now)
    assert quality.kept_speed(file) == SPEED
    quality.keep_speed(file, Speed((Level(0.5, 1, 1, factor=1e9),)), (), measured=now)
    assert quality.kept_speed(file) is None


def test_a_run_teaches_most_about_what_it_ran() -> None:
    slower = SPEED.learned(0.5, 1.44)
    low, middle, high = (slower.seconds(share, 1e9) / SPEED.seconds(share, 1e9) for share in (0.02, 0.5, 1.0))
    assert middle == pytest.approx(1.2) and low == pytest.approx(high) and 1 < low < 1.1


def test_what_was_learned_is_forgotten_as_other_runs_come() -> None:
    speed = SPEED
    for _ in range(3):
        speed = speed.learned(0.3, 1.5)  # a busy machine
    for _ in range(8):
        speed = speed.learned(0.3, SPEED.seconds(0.3, 1e9) / speed.seconds(0.3, 1e9))  # and a quiet one again
    assert speed.seconds(0.3, 1e9) == pytest.approx(SPEED.seconds(0.3, 1e9), rel=0.02)


def test_measuring_finds_the_floor_and_the_start() -> None:
    def run(budget: Budget, side: int) -> Tried:
        if budget.value < 0.3:
            raise BudgetInfeasible("too little", 0.3)
        work = 1e5 * (side + 8) ** 2  # patches that overlap
        return Tried(budget.value, work, 0.001 + 1e-12 * budget.value * work)

    speed = measure_speed(run, seconds=0.5)
    assert 0.3 < speed.floor < 0.33
    assert speed.seconds(0.6, 1e10) == pytest.approx(0.001 + 0.006, rel=0.01)


def test_measuring_a_model_with_one_level() -> None:
    def run(budget: Budget, side: int) -> Tried:
        if budget.value < 1:
            raise BudgetInfeasible("too little", 1.0)
        return Tried(1.0, side**2, 1e-8 * side**2)

    assert measure_speed(run, seconds=0.5).floor == 1.0


class Clock:
    """A time.perf_counter that tiles move on."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def run_paced(
    model: PatchRouted, picture: np.ndarray, budget: Budget, monkeypatch: pytest.MonkeyPatch, slowness: float = 1.0
) -> tuple[Any, Any]:
    """In tiles of 64, each of which takes `slowness` times what SPEED says of it."""
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr(pipeline, "speed_of", lambda *_: SPEED)
    monkeypatch.setattr(pipeline, "learn_speed", lambda *_: None)
    render = model.render_rows

    def slow(lr: Any, frame: Any, core: Any, out: Any, plan: Any, ready: Any) -> Any:
        size = (lr.shape[-2], lr.shape[-1])
        work = model.full_macs(frame, size, core, out)
        share = model.planned_macs(frame, size, core, out, plan) / work
        clock.now += slowness * SPEED.seconds(share, work, whole=False)
        return render(lr, frame, core, out, plan, ready)

    source = images.open(picture)
    out, job = (256, 384), Job(tile=64, dtype="fp32")
    ahead = look_ahead(source, out, model, budget, job)
    monkeypatch.setattr(model, "render_rows", slow)
    result, report = enlarge(source, images.create(None, out, source), model, budget, job, ahead=ahead)
    monkeypatch.undo()
    return result, report


@pytest.mark.parametrize("slowness", [0.7, 1.0, 1.4])
def test_tiles_that_take_longer_get_less(
    model: PatchRouted, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch, slowness: float
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
    model: PatchRouted, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BudgetInfeasible, match=r"budget 0\.001 s is below .* about [0-9.]+ s"):
        run_paced(model, picture, Budget.seconds(0.001), monkeypatch)


def test_more_time_than_needed_is_everything(
    model: PatchRouted, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, report = run_paced(model, picture, Budget.seconds(1000), monkeypatch)
    assert report.share == 1.0 and report.effort.budget == "1"


def test_other_tiles_than_were_foreseen_teach_nothing(model: PatchRouted, picture: np.ndarray) -> None:
    """As when memory ran out on the way."""
    ahead = look_ahead(images.open(picture), (256, 384), model, Budget.full(), Job(tile=64, dtype="fp32"))
    works = (1,) * len(ahead.tiles)
    unfinished = deadline.Pace(ahead, lambda budget: pytest.fail(), Budget.full(), SPEED, works, done=len(works) - 1)
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
