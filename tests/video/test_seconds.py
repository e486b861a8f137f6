"""A budget in seconds: the share of each window, on a clock that stands still but for what the frames take."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scalewise.budget.speed import Speed
from scalewise.video import seconds
from scalewise.video.seconds import Clock

FRAMES, WINDOW, MACS = 500, 24, 10**9  # of a clip, of a window; of a frame in full
PER_MAC, OTHER = 1e-10, 0.02  # seconds: 0.1 for the MACs of a frame, and what reading and encoding it take


class Time:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


def run(
    monkeypatch: pytest.MonkeyPatch,
    budget: float,
    *,
    probed: float = 1.0,
    slower: Callable[[int], float] = lambda done: 1.0,
    moves: Callable[[int], float] = lambda done: 1.0,
) -> tuple[float, list[float]]:
    """(seconds that the clip took, the share of each window). The probe says `probed` times what a MAC takes; after
    `done` frames the machine is `slower` than that, and of its full MACs a frame can take the part that `moves`."""
    time = Time()
    monkeypatch.setattr(seconds, "time", time)
    clock = Clock.of(budget, FRAMES, MACS, Speed(0.0, probed * PER_MAC), 1, OTHER)
    began, shares, done = time.now, [], 0
    while done < FRAMES:
        count = min(WINDOW, FRAMES - done)
        shares.append(clock.share())
        macs = round(min(shares[-1], moves(done)) * MACS * count)
        network, other = macs * PER_MAC * slower(done), count * OTHER * slower(done)
        time.now += network + other
        done += count
        clock.learn(count, macs, network, network + other)
    return time.now - began, shares


@pytest.mark.parametrize("probed", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("budget", [15.0, 30.0, 50.0])
def test_the_time_is_kept_whatever_the_probe_said(
    monkeypatch: pytest.MonkeyPatch, budget: float, probed: float
) -> None:
    took, _ = run(monkeypatch, budget, probed=probed)
    assert 0.95 * budget <= took <= 1.02 * budget


def test_a_machine_that_becomes_busy_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    took, shares = run(monkeypatch, 35, slower=lambda done: 1.5 if 200 <= done < 300 else 1.0)
    assert 0.95 * 35 <= took <= 1.02 * 35
    assert min(shares) < 0.8 * shares[0]


def test_what_a_still_part_leaves_is_spent_later(monkeypatch: pytest.MonkeyPatch) -> None:
    took, shares = run(monkeypatch, 30, moves=lambda done: 0.01 if done < 250 else 1.0)
    assert took <= 1.02 * 30
    assert shares[-5] > 2 * shares[0]


def test_with_more_time_than_it_takes_all_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    took, shares = run(monkeypatch, 200)
    assert set(shares) == {1.0} and took == pytest.approx(FRAMES * (MACS * PER_MAC + OTHER))
