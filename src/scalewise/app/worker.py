"""One compute worker: jobs one after another, a bounded queue, limits for each visitor, cancelling and sweeping.

A job is cancelled by an exception that its progress callback raises in the engine, so it ends as soon as the engine
next says how far it is.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from scalewise.app.problems import Refused
from scalewise.app.store import Held, Store, new_id
from scalewise.errors import Cancelled, ScalewiseError

State = Literal["waiting", "running", "done", "failed", "cancelled"]
LOG = logging.getLogger(__name__)
TICK_SECONDS = 1.0  # between two looks at who left and what nobody asked for
ENDING = "the server is ending"
UNEXPECTED = "something went wrong that is not your fault; the server's log has the details"


@dataclass(frozen=True)
class Limits:
    """What one server grants.

    `max_bytes` of an upload, `max_weight_bytes` of a weight file, of which `weight_files` are held at once;
    `max_pixels` of a picture that comes in, and of what a job makes, all pages together;
    `max_pages`; `clip_seconds` of a clip, and `clip_pixels` of its frames before and after; jobs that wait: `queue` of
    all visitors, `per_visitor` of one; bytes that the files of one visitor (`visitor_bytes`) and of all (`store_bytes`)
    may have; `seconds` that a job may run; `keep_seconds` that files are kept after they were last asked for;
    `grace_seconds` after which a job that nobody watches is cancelled.
    `body_seconds`, `idle_seconds`: for the body of a request, and for one piece of it, or of the answer, on its way.
    """

    max_bytes: int = 256 << 20
    max_weight_bytes: int = 64 << 20
    weight_files: int = 4
    max_pixels: int = 200_000_000
    max_pages: int = 1000
    clip_seconds: float = 600
    clip_pixels: int = 4096 * 2304
    queue: int = 16
    per_visitor: int = 4
    visitor_bytes: int = 2 << 30
    store_bytes: int = 16 << 30
    seconds: float = 900
    keep_seconds: float = 1800
    grace_seconds: float = 30
    body_seconds: float = 300
    idle_seconds: float = 20
    device: str | None = None


@dataclass
class Picture(Held):
    """An upload, of a `kind`: a picture, or a clip; `facts` is what `tasks.look`, or `clip_tasks.look`, saw in it."""

    name: str = ""
    facts: Any = None
    kind: str = "picture"

    @property
    def path(self) -> Path:
        return self.folder / "input"


@dataclass
class Job(Held):
    """One request on its way. `expected`: seconds it will take, as far as known; `watchers`: open streams of events."""

    run: Callable[[Job], Any] = field(default=lambda job: None, repr=False)
    about: dict[str, Any] = field(default_factory=dict)  # what the client is told beside the state
    keep: bool = False  # also when its client is gone
    limit: float = math.inf  # seconds
    expected: float | None = None
    state: State = "waiting"
    share: float = 0.0
    told: float = 0.0  # when `share` was last heard of
    started: float | None = None
    ended: float | None = None
    result: Any = None
    problem: Refused | None = None
    watchers: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    def progress(self, share: float) -> None:
        """For the engine, with the share done in [0, 1]. Raises Cancelled, and Refused when the time is over."""
        self.share, self.told = max(self.share, share), time.monotonic()
        if self.cancelled.is_set():
            raise Cancelled("cancelled")
        assert self.started is not None
        if self.told - self.started > self.limit:
            raise Refused(
                504,
                f"stopped after {self.limit:g} s, the time that this job was given: ask for a smaller size, or for "
                "less effort",
                "timeout",
            )

    def outlook(self) -> tuple[float, float | None]:
        """(share done in [0, 1], seconds left or None where nothing is known): between two reports of the
        engine both go on with the clock, so that the seconds never rise while nothing is heard."""
        if self.done.is_set():
            return (1.0 if self.state == "done" else self.share), 0.0
        if self.started is None:
            return 0.0, self.expected
        now = time.monotonic()
        if self.share > 0.02:
            whole = (self.told - self.started) / self.share
        elif self.expected is not None:
            whole = self.expected
        else:
            return self.share, None
        ran = now - self.started
        share = max(self.share, min(0.97, ran / max(whole, 1e-3)))
        return share, max(0.0, whole - ran)


class Worker:
    """Runs jobs one after another, in the order they came, and keeps the visitors' files."""

    def __init__(self, limits: Limits, parent: Path | None = None, warm: Callable[[], None] | None = None) -> None:
        self.limits, self.store = limits, Store(parent)
        self.jobs: dict[str, Job] = {}
        self.pictures: dict[str, Picture] = {}
        self.models: dict[str, Picture] = {}  # of visitors' own weight files, whose `facts` is what they hold
        self.current: Job | None = None  # also one that was cancelled and forgotten, until it has ended
        self.counts = {"done": 0, "failed": 0, "cancelled": 0, "refused": 0}
        self.busy_seconds = 0.0
        self.closing = threading.Event()
        self._warm = warm
        self._waiting: queue.Queue[Job | None] = queue.Queue()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._loop, name="scalewise-worker", daemon=True)
        self._sweeper = threading.Thread(target=self._watch, name="scalewise-sweeper", daemon=True)

    def start(self) -> Worker:
        self._thread.start()
        self._sweeper.start()
        return self

    # --- pictures ---

    def receive(
        self,
        owner: str,
        name: str,
        write: Callable[[Path], object],
        look: Callable[[Path], Any],
        kind: str = "picture",
    ) -> Picture:
        """Store an upload that `write` puts at a path, and `look` at it; nothing stays if that raises."""
        self._check_room(owner)
        id = new_id()
        picture = Picture(id, owner, self.store.folder(id), name=name, kind=kind)
        try:
            write(picture.path)
            picture.facts = look(picture.path)
        except BaseException:
            shutil.rmtree(picture.folder, ignore_errors=True)
            raise
        self.pictures[id] = picture
        return picture

    def picture(self, id: str, owner: str, kind: str = "picture") -> Picture:
        """Raises Refused (404), also for another visitor's."""
        found = self.pictures.get(id)
        return _of(found if found is not None and found.kind == kind else None, owner, kind)

    def drop_picture(self, id: str, owner: str, kind: str = "picture") -> None:
        picture = self.picture(id, owner, kind)
        self.pictures.pop(id, None)
        shutil.rmtree(picture.folder, ignore_errors=True)

    def receive_model(
        self, owner: str, name: str, write: Callable[[Path], object], load: Callable[[Path], Any]
    ) -> Picture:
        """What `load` makes of a weight file that `write` puts at a path, instead of an earlier one of this visitor.
        The file itself is gone afterwards. Raises Refused (503), and what `load` raises."""
        self._check_room(owner)
        held = Picture(new_id(), owner, self.store.folder(new_id()), name=name)
        try:
            if sum(one.owner != owner for one in self.models.values()) >= self.limits.weight_files:
                raise Refused(
                    503, "other visitors' weight files fill the room that there is: try again later", "file", 60
                )
            write(held.path)
            held.facts = load(held.path)
        finally:
            shutil.rmtree(held.folder, ignore_errors=True)
        for id in [id for id, one in list(self.models.items()) if one.owner == owner]:
            self.models.pop(id, None)
        self.models[held.id] = held
        return held

    def model(self, id: str, owner: str) -> Picture:
        """Raises Refused (404), also for another visitor's."""
        return _of(self.models.get(id), owner, "weight file")

    def drop_model(self, id: str, owner: str) -> None:
        self.model(id, owner)
        self.models.pop(id, None)

    def _check_room(self, owner: str) -> None:
        held = [*self.pictures.values(), *self.jobs.values()]
        own = sum(one.bytes() for one in held if one.owner == owner)
        if own > self.limits.visitor_bytes:
            raise Refused(429, "your pictures fill the room that one visitor has here: remove some", "file", 60)
        if sum(one.bytes() for one in held) > self.limits.store_bytes:
            raise Refused(503, "the server's room for pictures is full: try again later", "file", 60)

    # --- jobs ---

    def submit(
        self,
        owner: str,
        picture: Picture,
        run: Callable[[Job], Any],
        *,
        about: dict[str, Any] | None = None,
        keep: bool = False,
        limit: float | None = None,
        expected: float | None = None,
    ) -> Job:
        """Queue `run(job)`, with the picture linked into the job's folder. Raises Refused (429, 503)."""
        if self.closing.is_set():
            raise Refused(503, ENDING)
        self._check_room(owner)
        with self._lock:
            waiting = [job for job in self.jobs.values() if not job.done.is_set()]
            mine = sum(job.owner == owner for job in waiting)
            if mine >= self.limits.per_visitor:
                self.counts["refused"] += 1
                raise Refused(429, f"{mine} of your jobs run or wait, as many as one visitor may have", None, 5)
            if len(waiting) > self.limits.queue:
                self.counts["refused"] += 1
                raise Refused(503, f"{len(waiting)} jobs run or wait, which is all this server takes", None, 10)
            id = new_id()
            job = Job(id, owner, self.store.folder(id), run=run, about=about or {}, keep=keep, expected=expected)
            job.limit = self.limits.seconds if limit is None else min(limit, self.limits.seconds)
            os.link(picture.path, job.folder / "input")  # the upload may be removed while the job still needs it
            self.jobs[id] = job
        self._waiting.put(job)
        return job

    def job(self, id: str, owner: str) -> Job:
        """Raises Refused (404), also for another visitor's."""
        return _of(self.jobs.get(id), owner, "job")

    def ahead_of(self, job: Job) -> int:
        """How many jobs come before it."""
        if job.state != "waiting":
            return 0
        others = [one for one in list(self.jobs.values()) if not one.done.is_set() and one is not job]
        return sum(one.state == "running" or one.created <= job.created for one in others)

    def drop_job(self, id: str, owner: str) -> None:
        """Cancel it, and remove everything that belongs to it as soon as nothing writes there."""
        self._forget(self.job(id, owner))

    def _forget(self, job: Job) -> None:
        self.jobs.pop(job.id, None)  # before it ends: the worker removes the files of a job that is not there any more
        job.cancelled.set()
        if job.done.is_set() or job.state == "waiting":
            shutil.rmtree(job.folder, ignore_errors=True)

    def idle(self) -> bool:
        return self.current is None and all(job.done.is_set() for job in list(self.jobs.values()))

    # --- threads ---

    def _loop(self) -> None:
        if self._warm is not None:
            try:
                self._warm()
            except Exception:  # the first job will say what is wrong
                LOG.exception("getting ready failed")
        while (job := self._waiting.get()) is not None:
            self.current = job
            self._run(job)
            self.current = None

    def _run(self, job: Job) -> None:
        job.started = job.told = time.monotonic()
        job.state = "running"
        state: State = "failed"
        try:
            job.progress(0.0)
            job.result = job.run(job)
            state = "done"
        except Cancelled:
            state = "cancelled"
            job.problem = Refused(503, ENDING) if self.closing.is_set() else Refused(410, "the job was cancelled")
        except Refused as error:
            job.problem = Refused(error.status, error.detail, error.field)  # without frames, which hold pictures
        except ScalewiseError as error:
            job.problem = Refused(422, str(error))
        except Exception:  # it belongs to the visitor, the worker goes on
            LOG.exception("a job failed")
            job.problem = Refused(500, UNEXPECTED)
        job.ended = time.monotonic()
        self.busy_seconds += job.ended - job.started
        self.counts[state] += 1
        job.touch()
        job.state = state
        if job.id not in self.jobs:
            shutil.rmtree(job.folder, ignore_errors=True)
        job.done.set()
        if job.id not in self.jobs:  # forgotten at this moment
            shutil.rmtree(job.folder, ignore_errors=True)

    def _watch(self) -> None:
        while not self.closing.wait(TICK_SECONDS):
            try:
                self.sweep()
            except Exception:
                LOG.exception("sweeping failed")

    def sweep(self) -> None:
        """Cancel jobs whose client is gone; remove what nobody asked for in a while."""
        now, limits = time.monotonic(), self.limits
        for job in list(self.jobs.values()):
            age = now - job.touched
            if job.watchers:
                continue
            if job.done.is_set():
                gone = job.state == "cancelled" and age > limits.grace_seconds
                if gone or age > limits.keep_seconds:
                    self._forget(job)
            elif age > limits.grace_seconds and not job.keep:
                job.cancelled.set()
        for picture in list(self.pictures.values()):
            if now - picture.touched > limits.keep_seconds:
                self.pictures.pop(picture.id, None)
                shutil.rmtree(picture.folder, ignore_errors=True)
        for model in list(self.models.values()):
            if now - model.touched > limits.keep_seconds:
                self.models.pop(model.id, None)

    def stop(self) -> None:
        """Take nothing new and cancel what is there: from here on nobody should wait."""
        self.closing.set()
        for job in list(self.jobs.values()):
            job.cancelled.set()

    def close(self, wait: float = 10) -> bool:
        """End, and remove all files. False if a job still computes after `wait` seconds."""
        self.stop()
        self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join(wait)
        self.store.close()
        return not self._thread.is_alive()


def _of(found: Any, owner: str, kind: str) -> Any:
    if found is None or found.owner != owner:
        raise Refused(404, f"there is no such {kind}, or its time is over")
    found.touch()
    return found


__all__ = ["Job", "Limits", "Picture", "Worker"]
