"""What the routes share: the worker with what it learned of this machine, who asks, and how answers are described."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request, Response, UploadFile

from scalewise.app.forms import (
    ForecastForm,
    JobForm,
    Part,
    UpscaleFields,
    UpscaleForm,
    asked_of,
    clean_name,
    result_name,
)
from scalewise.app.guard import Access
from scalewise.app.problems import MEDIA_TYPE, Refused
from scalewise.app.worker import Job, Limits, Picture, Worker

if TYPE_CHECKING:
    from scalewise.app.forecast import Speeds


def told(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems of a route, for its description."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": Refused(status, "").as_dict()["title"], "content": content} for status in statuses}


def binary(description: str, kind: str = "application/octet-stream") -> dict[int | str, dict[str, Any]]:
    schema = {"schema": {"type": "string", "format": "binary"}}
    return {200: {"description": description, "content": {kind: schema}}}


async def whole_form(request: Request) -> None:
    """Every field once: of two, one would be ignored."""
    form = await request.form()
    names = [name for name, _ in form.multi_items()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise Refused(422, f"the field {twice[:40]} came more than once", twice[:40])


MASK_BYTES = 16 << 20
ONE_FORM = [Depends(whole_form)]


class Server:
    """One for each running server: the worker, threads for short work, and what it learned of this machine."""

    def __init__(self, limits: Limits, access: Access, parent: Path | None = None) -> None:
        self.limits, self.access = limits, access
        self.worker = Worker(limits, parent, self._get_ready)
        self.short = ThreadPoolExecutor(2, thread_name_prefix="scalewise-short")
        self.started = time.time()
        self.requests: dict[int, int] = {}
        self._speeds: Speeds | None = None

    @property
    def speeds(self) -> Speeds:
        from scalewise.app.forecast import Speeds

        if self._speeds is None:
            self._speeds = Speeds(self.limits.device)
        return self._speeds

    def _get_ready(self) -> None:
        import pyvips

        from scalewise.app.forecast import get_ready

        pyvips.cache_set_max(0)  # the pictures of those who left would stay in memory
        get_ready(self.speeds)

    async def shortly(self, call: Callable[..., Any], *given: Any) -> Any:
        """Work of a moment, beside the event loop and the worker."""
        return await asyncio.get_running_loop().run_in_executor(self.short, partial(call, *given))

    async def received(self, owner: str, file: UploadFile, kind: str = "picture") -> Picture:
        """Store an upload of a `kind`: a picture, or a clip."""
        if kind == "clip":
            from scalewise.app.clip_tasks import look
        else:
            from scalewise.app.tasks import look

        write, name = stored(file, self.limits.max_bytes, "an upload may have"), clean_name(file.filename)
        return await self.shortly(self.worker.receive, owner, name, write, partial(look, limits=self.limits), kind)

    async def picture_of(self, owner: str, form: JobForm | ForecastForm) -> tuple[Picture, bool]:
        """The picture that is meant, and whether it came with this request."""
        if (form.file is None) == (form.picture is None):
            raise Refused(422, "send a file, or name a stored picture: one of the two", "file")
        if form.file is not None:
            return await self.received(owner, form.file), True
        return self.worker.picture(form.picture or "", owner), False

    async def asked(self, owner: str, form: UpscaleFields, mask: UploadFile | None = None) -> Any:
        """The form's fields as `tasks.JobRequest`, with the visitor's own model and the mask. Raises Refused."""
        from scalewise.app import tasks

        asked = replace(asked_of(form), own=self.own_model(owner, form.model))
        if mask is not None:
            if (mask.size or 0) > MASK_BYTES:
                raise Refused(413, f"a mask may have at most {MASK_BYTES >> 20} MiB", "mask")
            asked = replace(asked, mask=await self.shortly(tasks.mask_of, await mask.read()))
        return asked

    def own_model(self, owner: str, model: str) -> Any:
        """The visitor's weight file that a form names, if it names one. Raises Refused."""
        if not model.startswith("own:"):
            return None
        try:
            return self.worker.model(model.removeprefix("own:"), owner).facts
        except Refused:
            raise Refused(422, "your weight file is not here any more: send it again", "model") from None

    def submit(self, owner: str, picture: Picture, form: JobForm | UpscaleForm, asked: Any, keep: bool) -> Job:
        """Checked and foreseen, then queued."""
        from scalewise.app import forecast, tasks
        from scalewise.budget.budget import Budget

        ahead = forecast.forecast(picture.facts, asked, self.limits, self.speeds)
        suffix = f".{ahead.format}"
        facts, limits, speeds = picture.facts, self.limits, self.speeds

        def run(job: Job) -> Any:
            result = tasks.enlarge(job.folder / "input", facts, asked, job.folder, limits, job.progress)
            if Budget.parse(asked.budget).kind != "seconds":  # these are kept to, and say nothing of the speed
                speeds.learn(asked, ahead.seconds, result.report.seconds)
            return result

        about = {"name": result_name(picture.name, form, ahead.size, suffix), "format": ahead.format}
        about |= {"width": ahead.size[1], "height": ahead.size[0]}
        named = {"about": about, "keep": keep, "limit": form.timeout, "expected": ahead.seconds}
        return self.worker.submit(owner, picture, run, **named)

    def job_about(self, job: Job) -> dict[str, Any]:
        share, left = job.outlook()
        done = job.result if job.state == "done" else None
        size = done.report.size if done is not None else (job.about["height"], job.about["width"])
        return {
            "id": job.id,
            "state": job.state,
            "progress": round(share, 4),
            "seconds_left": None if left is None else round(left, 1),
            "before": self.worker.ahead_of(job),
            **job.about,
            "width": size[1],
            "height": size[0],
            "bytes": done.picture.stat().st_size if done is not None else None,
            "report": done.report.as_dict() if done is not None else None,
            "effort_extent": done.extent if done is not None else None,
            "problem": None if job.problem is None else job.problem.as_dict(),
        }

    def result_of(self, id: str, owner: str) -> tuple[Job, Any]:
        """A finished job. Raises Refused: 409 while it is not, else with what ended it."""
        job = self.worker.job(id, owner)
        if job.problem is not None and job.done.is_set():
            raise job.problem
        if job.state != "done":
            raise Refused(409, f"the job is {job.state}: its result is not there yet", None, 1)
        return job, job.result

    def picture_result_of(self, id: str, owner: str) -> Any:
        """The result of a finished job that made a picture. Raises Refused, also for a job that made a clip."""
        done = self.result_of(id, owner)[1]
        if done.cells is None:
            raise Refused(404, "this job made a clip: ask for its result, or for its frames if it is a preview")
        return done

    def metrics(self) -> str:
        worker = self.worker
        states = [job.state for job in list(worker.jobs.values())]
        ended = [(f'{{state="{state}"}}', count) for state, count in worker.counts.items()]
        answers = [(f'{{status="{status}"}}', count) for status, count in sorted(self.requests.items())]
        table = (
            ("jobs_total", "counter", "Jobs that ended, or were refused for want of room.", ended),
            ("jobs_waiting", "gauge", "Jobs that wait.", [("", states.count("waiting"))]),
            ("jobs_running", "gauge", "Jobs that run.", [("", int(worker.current is not None))]),
            ("busy_seconds_total", "counter", "Seconds of computing.", [("", round(worker.busy_seconds, 3))]),
            ("pictures", "gauge", "Uploads that are kept.", [("", len(worker.pictures))]),
            ("responses_total", "counter", "Answers.", answers),
            ("uptime_seconds", "gauge", "Since the start.", [("", round(time.time() - self.started, 1))]),
        )
        lines = []
        for name, kind, what, values in table:
            lines += [f"# HELP scalewise_{name} {what}", f"# TYPE scalewise_{name} {kind}"]
            lines += [f"scalewise_{name}{labels} {value}" for labels, value in values]
        return "\n".join(lines) + "\n"


def stored(file: UploadFile, most_bytes: int, may_have: str) -> Callable[[Path], None]:
    """What writes an upload into a file that is not there yet. Raises Refused if it is empty or too large."""
    if not file.size:
        raise Refused(422, "the file is empty (0 bytes)", "file")
    if file.size > most_bytes:
        raise Refused(413, f"{may_have} at most {most_bytes / 2**20:.4g} MiB", "file")

    def write(path: Path) -> None:
        with path.open("xb") as out:
            shutil.copyfileobj(file.file, out, 1 << 20)

    return write


def attached(name: str) -> dict[str, str]:
    plain = re.sub(r"[^\w. -]", "_", name.encode("ascii", "replace").decode())
    told = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{urllib.parse.quote(name)}"
    return {"Content-Disposition": told, "Cache-Control": "private, no-store"}


def owner_of(request: Request) -> str:
    return request.state.owner


Owner = Annotated[str, Depends(owner_of)]


async def shown(server: Server, make: Callable[[Path], tuple[bytes, str]], path: Path) -> Response:
    data, kind = await server.shortly(make, path)
    return Response(data, media_type=kind, headers={"Cache-Control": "private, max-age=1800"})


async def shown_part(server: Server, path: Path, part: Part) -> Response:
    from scalewise.app import previews

    data = await server.shortly(previews.view, path, (part.x, part.y, part.w, part.h), part.width)
    return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=1800"})
