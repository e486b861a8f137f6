"""Many pictures over a pool of Ray actors: every outcome once, errors named, lost actors replaced."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scalewise.batch.ray_pool import spread
from scalewise.errors import InvalidRequest, MissingDependency, UnreadableImage


def test_without_ray_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency, match=r"scalewise\[ray\]"):
        next(spread([1], lambda: str))


def test_nothing_to_do_needs_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert list(spread([], lambda: str)) == []


@pytest.mark.slow
def test_two_actors_share_the_work_and_one_may_die(tmp_path: Path) -> None:
    """200 files by two actors, one of which is killed midway: all are there, every outcome came once."""
    pytest.importorskip("ray")

    def make() -> Callable[[int], str]:
        (tmp_path / f"loaded-{os.getpid()}").touch(exist_ok=False)  # once in every actor

        def work(number: int) -> str:
            if number == 13:
                raise UnreadableImage("no picture")
            if number == 14:
                raise ZeroDivisionError
            (tmp_path / f"{number}.txt").write_text(str(number))
            return str(number)

        return work

    outcomes, killed = [], False
    for outcome in spread(range(200), make, actors=2):
        outcomes.append(outcome)
        if len(outcomes) >= 60 and not killed:
            killed = True
            os.kill(outcome.worker, signal.SIGKILL)
    assert sorted(outcome.index for outcome in outcomes) == list(range(200))
    by_index = {outcome.index: outcome for outcome in outcomes}
    assert by_index[13].error == "no picture" and by_index[13].expected
    assert "ZeroDivisionError" in str(by_index[14].error) and not by_index[14].expected
    assert all(by_index[k].value == str(k) for k in range(200) if k not in (13, 14))
    assert len(list(tmp_path.glob("*.txt"))) == 198
    assert len(list(tmp_path.glob("loaded-*"))) == 3


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_named() -> None:
    pytest.importorskip("ray")
    with pytest.raises(InvalidRequest, match=r"127\.0\.0\.1:1"):
        next(spread([1], lambda: str, address="ray://127.0.0.1:1"))
