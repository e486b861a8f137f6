"""The worker and its files without HTTP: leaving clients, sweeping, leftovers of killed servers, estimates of time."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the page needs the extra `app`")

from scalewise.app.problems import Refused, sentence
from scalewise.app.store import Store, sweep
from scalewise.app.worker import Job, Limits, Picture, Worker


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = Worker(Limits(grace_seconds=30), tmp_path / "store").start()
    yield made
    made.close()
    assert not (tmp_path / "store").exists(), "nothing is left"


def picture_of(worker: Worker, owner: str = "me") -> Picture:
    return worker.receive(owner, "x", lambda path: path.write_bytes(b"x"), lambda path: "facts")


def endless(job: Job) -> None:
    while True:
        job.progress(0.3)


def test_a_job_that_nobody_watches_is_cancelled(worker: Worker) -> None:
    picture = picture_of(worker)
    left, kept, watched = (worker.submit("me", picture, endless, keep=keep) for keep in (False, True, False))
    watched.watchers = 1
    worker.sweep()
    assert not any(job.cancelled.is_set() for job in (left, kept, watched)), "within the grace time"
    for job in (left, kept, watched):
        job.touched -= 31
    worker.sweep()
    assert left.done.wait(30) and left.state == "cancelled"
    assert not kept.cancelled.is_set() and not watched.cancelled.is_set()


def test_results_nobody_asks_for_go_away(worker: Worker) -> None:
    picture = picture_of(worker)
    job = worker.submit("me", picture, lambda job: 7)
    assert job.done.wait(30) and job.result == 7
    for held in (job, picture):
        held.touched -= 1801
    worker.sweep()
    assert not worker.jobs and not worker.pictures and not job.folder.exists() and not picture.folder.exists()


def test_an_upload_that_is_refused_leaves_nothing(worker: Worker) -> None:
    def refuse(path: Path) -> None:
        raise Refused(415, "no picture")

    before = sorted(worker.store.root.iterdir())
    with pytest.raises(Refused):
        worker.receive("me", "x", lambda path: path.write_bytes(b"x"), refuse)
    assert sorted(worker.store.root.iterdir()) == before


def test_the_room_of_a_visitor_is_limited(tmp_path: Path) -> None:
    worker = Worker(Limits(visitor_bytes=10, store_bytes=100), tmp_path / "store").start()
    try:

        def store(owner: str) -> Picture:
            return worker.receive(owner, "x", lambda path: path.write_bytes(b"0" * 50), lambda path: None)

        store("me")
        with pytest.raises(Refused, match="one visitor") as caught:
            store("me")
        assert caught.value.status == 429
        store("you")
        store("they")
        with pytest.raises(Refused, match="full") as caught:
            store("somebody")
        assert caught.value.status == 503
    finally:
        worker.close()


def test_the_worker_survives_what_a_job_raises(worker: Worker) -> None:
    def broken(job: Job) -> None:
        raise ZeroDivisionError("in /srv/secret")

    job = worker.submit("me", picture_of(worker), broken)
    assert job.done.wait(30) and job.problem is not None and job.problem.status == 500
    assert "secret" not in job.problem.detail
    after = worker.submit("me", picture_of(worker), lambda job: 7)
    assert after.done.wait(30) and after.result == 7


def test_a_job_forgotten_while_it_runs_leaves_nothing(worker: Worker) -> None:
    begun = threading.Event()

    def run(job: Job) -> None:
        begun.set()
        (job.folder / "half").write_bytes(b"x")
        endless(job)

    job = worker.submit("me", picture_of(worker), run)
    assert begun.wait(30)
    worker.drop_job(job.id, "me")
    assert job.done.wait(30)
    worker.submit("me", picture_of(worker), lambda job: None).done.wait(30)  # behind it, all is tidied up
    assert not job.folder.exists()


def test_closing_cancels_and_refuses(tmp_path: Path) -> None:
    worker = Worker(Limits(), tmp_path / "store").start()
    picture = picture_of(worker)
    jobs = [worker.submit("me", picture, endless) for _ in range(3)]
    worker.close()
    assert all(job.done.is_set() and job.state == "cancelled" for job in jobs)
    assert all(job.problem is not None and job.problem.status == 503 for job in jobs)
    with pytest.raises(Refused, match="ending"):
        worker.submit("me", picture, endless)
    assert not (tmp_path / "store").exists()


def test_time_left_never_rises_while_nothing_is_heard() -> None:
    job: Any = Job("id", "me", Path(), expected=10.0)
    assert job.outlook() == (0.0, 10.0)
    now = time.monotonic()
    job.started, job.told = now - 4, now - 4
    share, left = job.outlook()
    assert 0.39 < share < 0.45 and 5.5 < left < 6.01
    job.share, job.told = 0.5, now - 2  # half of it in two seconds: four in all, and those are over
    share, left = job.outlook()
    assert share == 0.97 and left == 0.0
    job.share, job.told = 0.5, now
    share, left = job.outlook()
    assert 0.5 <= share < 0.55 and 3.5 < left <= 4


def test_what_killed_servers_left_is_swept(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from scalewise.app.store import Store;"
        "store = Store(Path(sys.argv[1]));"
        "(store.folder('x') / 'input').write_bytes(b'x'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    (left,) = tmp_path.glob("server-*")
    outside = tmp_path.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "thesis.txt").write_text("x")
    (tmp_path / "server-link").symlink_to(outside)
    store = Store(tmp_path)
    assert not left.exists() and store.root.exists()
    assert sweep(tmp_path) == [] and store.root.exists(), "a running server is no leftover"
    assert (outside / "thesis.txt").exists(), "links are not followed"
    (tmp_path / "server-link").unlink()
    store.close()


def test_folders_of_the_server_are_named_without_their_place() -> None:
    assert sentence("cannot open '/tmp/x/y/photo.png': no\nsuch") == "cannot open 'photo.png': no"


def test_the_server_starts_before_torch_is_loaded() -> None:
    code = "import sys, scalewise.app.http; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
