"""The speed of a model on this machine: what it says of seconds and shares, how it learns, how it is kept."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from scalewise.budget.budget import Budget
from scalewise.budget.speed import FRESH, Level, Speed, Tried, measure_speed, read_speed, speed_file, write_speed
from scalewise.errors import BudgetInfeasible

SPEED = Speed((Level(0.02, 10, 1000), Level(0.5, 20, 6000), Level(1.0, 5, 10000)))


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
    file = speed_file(("a model", "bf16", 2))
    assert tmp_path in file.parents and file != speed_file(("a model", "bf16", 4))
    assert read_speed(file) is None
    write_speed(file, SPEED, ("a model", "bf16", 2))
    assert read_speed(file) == SPEED
    slower = SPEED.learned(0.5, 1.44)
    write_speed(file, slower, ())
    assert read_speed(file) == slower
    file.write_text("{}")
    assert read_speed(file) is None


def test_what_is_old_or_makes_no_sense_is_measured_again(tmp_path: Path) -> None:
    file, now = tmp_path / "speed.json", time.time()
    write_speed(file, SPEED, (), measured=now - 2 * FRESH)
    assert read_speed(file) is None
    write_speed(file, SPEED, ())  # what is learned does not make it younger
    assert read_speed(file) is None
    write_speed(file, SPEED, (), measured=now)
    assert read_speed(file) == SPEED
    write_speed(file, Speed((Level(0.5, 1, 1, factor=1e9),)), (), measured=now)
    assert read_speed(file) is None


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
