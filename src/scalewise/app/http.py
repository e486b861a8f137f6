"""The routes: pictures and jobs under /v1, the page, health and metrics, and the description of it all."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import time
import urllib.parse
import zipfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from scalewise.app.problems import MEDIA_TYPE, Refused
from scalewise.app.worker import Job, Limits, Picture, Worker
from scalewise.errors import InvalidRequest
from scalewise.version import __version__

try:
    import python_multipart  # noqa: F401 (FastAPI reads forms with it)
    from fastapi import Depends, FastAPI, Form, Query, Request, Response, UploadFile
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import FileResponse, StreamingResponse
    from starlette.exceptions import HTTPException
except ImportError as missing:
    raise InvalidRequest(f"the web page needs {missing.name}: install it with pip install 'scalewise[app]'") from None

from scalewise.app.forms import (
    ForecastAbout,
    ForecastForm,
    JobAbout,
    JobForm,
    Part,
    PictureAbout,
    PictureForm,
    UpscaleForm,
    asked_of,
    clean_name,
    result_name,
)
from scalewise.app.guard import Access, Guard

if TYPE_CHECKING:
    from scalewise.app.forecast import Speeds

POLL_SECONDS = 0.05  # between two looks at a job
EVENT_SECONDS = 0.2  # between two events of a job, at least
PING_SECONDS = 10.0  # an empty event, so that a client that left is noticed
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
TYPES |= {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


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


ONE_FORM = [Depends(whole_form)]


class Server:
    """What the routes share: the worker, a thread for short work beside it, and what it learned of this machine."""

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
            self._speeds = Speeds()
        return self._speeds

    def _get_ready(self) -> None:
        import pyvips

        from scalewise.app.forecast import get_ready

        pyvips.cache_set_max(0)  # the pictures of those who left would stay in memory
        get_ready("fast", self.speeds)

    async def shortly(self, call: Callable[..., Any], *given: Any) -> Any:
        """Work of a moment, beside the event loop and the worker."""
        return await asyncio.get_running_loop().run_in_executor(self.short, partial(call, *given))

    async def received(self, owner: str, file: UploadFile) -> Picture:
        from scalewise.app import tasks

        if file.size == 0:
            raise Refused(422, "the file is empty (0 bytes)", "file")
        if (file.size or 0) > self.limits.max_bytes:
            raise Refused(413, f"an upload may have at most {self.limits.max_bytes / 2**20:.4g} MiB", "file")

        def write(path: Path) -> None:
            with path.open("xb") as out:
                shutil.copyfileobj(file.file, out, 1 << 20)

        name = clean_name(file.filename)
        return await self.shortly(self.worker.receive, owner, name, write, partial(tasks.look, limits=self.limits))

    async def picture_of(self, owner: str, form: JobForm | ForecastForm) -> tuple[Picture, bool]:
        """The picture that is meant, and whether it came with this request."""
        if (form.file is None) == (form.picture is None):
            raise Refused(422, "send a file, or name a stored picture: one of the two", "file")
        if form.file is not None:
            return await self.received(owner, form.file), True
        return self.worker.picture(form.picture or "", owner), False

    def submit(self, owner: str, picture: Picture, form: JobForm | UpscaleForm, keep: bool) -> Job:
        """Checked and foreseen, then queued."""
        from scalewise.app import forecast, tasks

        asked = asked_of(form)
        ahead = forecast.forecast(picture.facts, asked, self.limits, self.speeds)
        suffix = f".{ahead.format}"
        facts, limits, speeds = picture.facts, self.limits, self.speeds

        def run(job: Job) -> Any:
            result = tasks.enlarge(job.folder / "input", facts, asked, job.folder, limits, job.progress)
            if asked.budget == "100%":
                speeds.learn(asked.model, result.report.macs, result.report.seconds)
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

    def metrics(self) -> str:
        worker = self.worker
        states = [job.state for job in list(worker.jobs.values())]
        ended = [(f'{{state="{state}"}}', count) for state, count in worker.counts.items()]
        answers = [(f'{{status="{status}"}}', count) for status, count in sorted(self.requests.items())]
        table = (
            ("jobs_total", "counter", "Jobs that ended, or were refused for want of room.", ended),
            ("jobs_waiting", "gauge", "Jobs that wait.", [("", states.count("waiting"))]),
            ("jobs_running", "gauge", "Jobs that run.", [("", states.count("running"))]),
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


def attached(name: str) -> dict[str, str]:
    plain = re.sub(r"[^\w. -]", "_", name.encode("ascii", "replace").decode())
    told = f"attachment; filename=\"{plain}\"; filename*=UTF-8''{urllib.parse.quote(name)}"
    return {"Content-Disposition": told, "Cache-Control": "private, no-store"}


def build(limits: Limits | None = None, access: Access | None = None, parent: Path | None = None) -> FastAPI:
    """The server, guarded: page and interface, with a worker of its own. `parent`: where it keeps files."""
    server = Server(limits or Limits(), access or Access(), parent)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        server.worker.start()
        yield
        server.short.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(server.worker.close)

    app = FastAPI(
        title="scalewise",
        version=__version__,
        summary="Enlarge pictures by any factor; compute only where the picture needs it.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        lifespan=life,
        responses=told(422),  # or FastAPI would describe an answer of its own
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.server = server
    _problems(app)
    _jobs(app, server)
    _pictures(app, server)
    _others(app, server)
    _files(app)
    app.add_middleware(Guard, access=server.access, limits=server.limits, counts=server.requests)  # type: ignore[arg-type]
    return app


def _problems(app: FastAPI) -> None:
    def answer(problem: Refused) -> Response:
        headers = {name.decode(): value.decode() for name, value in problem.headers()}
        return Response(problem.body(), problem.status, headers)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return answer(error)

    @app.exception_handler(HTTPException)
    async def plain(_: Request, error: HTTPException) -> Response:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, Refused):  # raised while the body was read
                return answer(cause)
            cause = cause.__cause__ or cause.__context__
        told = {404: "there is nothing here", 405: "this cannot be done here", 400: "the form cannot be read"}
        said = answer(Refused(error.status_code, told.get(error.status_code, str(error.detail))))
        for name, value in (error.headers or {}).items():
            said.headers[name] = value
        return said

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = str(first["loc"][-1])[:60] if len(first["loc"]) > 1 else None
        if first["type"] == "extra_forbidden":
            return answer(Refused(422, f"there is no field {field!r} here: /docs lists them", field))
        if first["type"] == "missing":
            return answer(Refused(422, f"the field {field} is missing", field))
        reason = str(first["msg"])[:1].lower() + str(first["msg"])[1:200]
        return answer(Refused(422, f"{field}: {reason}" if field else reason, field))


def owner_of(request: Request) -> str:
    return request.state.owner


Owner = Annotated[str, Depends(owner_of)]


def _jobs(app: FastAPI, server: Server) -> None:
    worker = server.worker
    wrong = told(401, 403, 413, 415, 422, 429, 503)

    @app.post("/v1/jobs", status_code=202, tags=["jobs"], responses=wrong, dependencies=ONE_FORM, summary="Start a job")
    async def start(form: Annotated[JobForm, Form(media_type="multipart/form-data")], owner: Owner) -> JobAbout:
        """Takes a picture, answers at once with the job's id. Follow it by `GET /v1/jobs/{id}` or its events; a job
        that nobody looks at for half a minute is cancelled, unless `keep` is true."""
        picture, came = await server.picture_of(owner, form)
        try:
            job = await server.shortly(server.submit, owner, picture, form, form.keep)
        finally:
            if came:
                worker.drop_picture(picture.id, owner)
        return JobAbout(**server.job_about(job))

    @app.get("/v1/jobs/{id}", tags=["jobs"], responses=told(404), summary="How far a job is")
    async def look(id: str, owner: Owner) -> JobAbout:
        return JobAbout(**server.job_about(worker.job(id, owner)))

    events_told = {
        200: {"description": "one event `job` whenever something changed", "content": {"text/event-stream": {}}}
    }

    @app.get(
        "/v1/jobs/{id}/events", tags=["jobs"], responses={**events_told, **told(404)}, summary="The same, as it changes"
    )
    async def events(id: str, owner: Owner) -> Response:
        """Server-sent events; the last one has the state done, failed or cancelled."""
        job = worker.job(id, owner)

        async def stream() -> AsyncIterator[str]:
            said, at = "", 0.0
            job.watchers += 1
            try:
                while True:
                    ended = job.done.is_set() or worker.closing.is_set()
                    now, text = time.monotonic(), json.dumps(server.job_about(job))
                    if text != said:
                        yield f"event: job\ndata: {text}\n\n"
                        said, at = text, now
                    elif now - at > PING_SECONDS:
                        yield ": \n\n"
                        at = now
                    if ended:
                        return
                    await _wait(job, EVENT_SECONDS)
            finally:
                job.watchers -= 1
                job.touch()

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    gone = told(404, 409, 410, 422, 504)

    @app.get(
        "/v1/jobs/{id}/result",
        tags=["jobs"],
        summary="The enlarged picture",
        responses={**binary("the picture", "image/*"), **gone},
    )
    async def result(id: str, owner: Owner) -> Response:
        """The enlarged picture, with the metadata that are still true of it."""
        from scalewise.app.tasks import media_type

        job, done = server.result_of(id, owner)
        return FileResponse(done.picture, media_type=media_type(done.picture), headers=attached(job.about["name"]))

    @app.get(
        "/v1/jobs/{id}/effort-map",
        tags=["jobs"],
        summary="Where the work went",
        responses={**binary("the map", "image/png"), **gone},
    )
    async def effort_map(id: str, owner: Owner, cells: bool = False) -> Response:
        """Over the gray picture, if the job was asked for `effort_map`; or, with `cells`, one pixel for each unit of
        work. Dark blue is the least, yellow the most."""
        _, done = server.result_of(id, owner)
        if not cells and done.drawn is None:
            raise Refused(404, "this job drew no effort map: start it with effort_map=true, or ask for cells=true")
        path = done.cells if cells else done.drawn
        return FileResponse(path, media_type="image/png", headers={"Cache-Control": "private, no-store"})

    @app.get(
        "/v1/jobs/{id}/preview",
        tags=["pictures of pictures"],
        summary="A result, smaller",
        responses={**binary("the picture", "image/*"), **gone},
    )
    async def preview(id: str, owner: Owner) -> Response:
        """The first page of the result, smaller if it is large, as a browser can show it."""
        from scalewise.app import tasks

        _, done = server.result_of(id, owner)
        return await _shown(server, tasks.preview, done.picture)

    @app.get(
        "/v1/jobs/{id}/view",
        tags=["pictures of pictures"],
        summary="A part of a result",
        responses={**binary("the part", "image/png"), **gone},
    )
    async def view(id: str, owner: Owner, part: Annotated[Part, Query()]) -> Response:
        """A part of the result, pixel by pixel."""
        _, done = server.result_of(id, owner)
        return await _part(server, done.picture, part)

    @app.delete("/v1/jobs/{id}", status_code=204, tags=["jobs"], responses=told(404), summary="Cancel and forget a job")
    async def drop(id: str, owner: Owner) -> None:
        worker.drop_job(id, owner)

    @app.get(
        "/v1/archive",
        tags=["jobs"],
        summary="Several results",
        responses={**binary("the results", "application/zip"), **gone},
    )
    async def archive(owner: Owner, job: Annotated[list[str], Query(max_length=500)]) -> Response:
        """The results of several jobs as one zip."""
        chosen = [server.result_of(id, owner)[0] for id in job]

        def zipped() -> Path:
            path, names = chosen[0].folder / "all.zip", set[str]()
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
                for one in chosen:
                    stem, dot, suffix = one.about["name"].rpartition(".")
                    name, number = one.about["name"], 2
                    while name in names:
                        name, number = f"{stem}_{number}{dot}{suffix}", number + 1
                    names.add(name)
                    file.write(one.result.picture, name)
            return path

        path = await server.shortly(zipped)
        return FileResponse(path, media_type="application/zip", headers=attached("scalewise.zip"))

    @app.post(
        "/v1/upscale",
        tags=["jobs"],
        responses={**binary("the picture", "image/*"), **wrong, **told(504)},
        dependencies=ONE_FORM,
        summary="A picture for a picture, in one request",
    )
    async def upscale(
        form: Annotated[UpscaleForm, Form(media_type="multipart/form-data")], request: Request, owner: Owner
    ) -> Response:
        """Waits for the result; hanging up cancels. The header `X-Scalewise-Report` says what it took, as JSON."""
        from scalewise.app.tasks import media_type

        picture = await server.received(owner, form.file)
        try:
            job = await server.shortly(server.submit, owner, picture, form, True)
        finally:
            worker.drop_picture(picture.id, owner)
        try:
            while not job.done.is_set():
                if worker.closing.is_set():
                    raise Refused(503, "the server is ending")
                if await request.is_disconnected():
                    raise Refused(410, "the client left")
                await _wait(job, POLL_SECONDS)
            _, done = server.result_of(job.id, owner)
            headers = {"X-Scalewise-Report": json.dumps(done.report.as_dict()), **attached(job.about["name"])}
            # an open file outlives its name, so nothing is left behind however the client ends
            file = done.picture.open("rb")
            headers["Content-Length"] = str(os.fstat(file.fileno()).st_size)
            return StreamingResponse(_pieces(file), media_type=media_type(done.picture), headers=headers)
        finally:
            worker.drop_job(job.id, owner)

    @app.post("/v1/forecast", tags=["jobs"], responses=wrong, dependencies=ONE_FORM, summary="What a job would take")
    async def foresee(
        form: Annotated[ForecastForm, Form(media_type="multipart/form-data")], owner: Owner
    ) -> ForecastAbout:
        """Size, seconds, and how much is given away against full effort; or the refusal that the job would get."""
        from scalewise.app import forecast

        picture, came = await server.picture_of(owner, form)
        try:
            named = (picture.facts, asked_of(form), server.limits, server.speeds)
            found = await server.shortly(forecast.forecast, *named)
        finally:
            if came:
                worker.drop_picture(picture.id, owner)
        return ForecastAbout(**found.as_dict())


async def _wait(job: Job, seconds: float) -> None:
    """Until the job is done, or for so long."""
    end = time.monotonic() + seconds
    while not job.done.is_set() and time.monotonic() < end:
        await asyncio.sleep(min(0.02, seconds))


async def _pieces(file: Any) -> AsyncIterator[bytes]:
    with file:
        while piece := await asyncio.to_thread(file.read, 1 << 18):
            yield piece


async def _shown(server: Server, make: Callable[[Path], tuple[bytes, str]], path: Path) -> Response:
    data, kind = await server.shortly(make, path)
    return Response(data, media_type=kind, headers={"Cache-Control": "private, max-age=1800"})


async def _part(server: Server, path: Path, part: Part) -> Response:
    from scalewise.app import tasks

    data = await server.shortly(tasks.view, path, (part.x, part.y, part.w, part.h), part.width)
    return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=1800"})


def _pictures(app: FastAPI, server: Server) -> None:
    worker, tag = server.worker, "pictures"

    @app.post(
        "/v1/pictures",
        status_code=201,
        tags=[tag],
        responses=told(401, 403, 413, 415, 422, 429, 503),
        dependencies=ONE_FORM,
        summary="Store a picture for several jobs",
    )
    async def store(form: Annotated[PictureForm, Form(media_type="multipart/form-data")], owner: Owner) -> PictureAbout:
        """It is kept for half an hour after it was last asked for."""
        return about(await server.received(owner, form.file))

    @app.get("/v1/pictures/{id}", tags=[tag], responses=told(404), summary="What a stored picture is")
    async def look(id: str, owner: Owner) -> PictureAbout:
        return about(worker.picture(id, owner))

    shown = {**binary("the picture", "image/*"), **told(404, 422)}

    @app.get(
        "/v1/pictures/{id}/thumbnail", tags=["pictures of pictures"], summary="A stored picture, tiny", responses=shown
    )
    async def thumbnail(id: str, owner: Owner) -> Response:
        """At most 320 pixels a side, as a browser can show it."""
        from scalewise.app import tasks

        path = worker.picture(id, owner).path
        return await _shown(server, lambda path: (tasks.thumbnail(path), "image/png"), path)

    @app.get(
        "/v1/pictures/{id}/preview", tags=["pictures of pictures"], summary="A stored picture, smaller", responses=shown
    )
    async def preview(id: str, owner: Owner) -> Response:
        """The first page, smaller if it is large, as a browser can show it."""
        from scalewise.app import tasks

        return await _shown(server, tasks.preview, worker.picture(id, owner).path)

    @app.get(
        "/v1/pictures/{id}/view", tags=["pictures of pictures"], summary="A part of a stored picture", responses=shown
    )
    async def view(id: str, owner: Owner, part: Annotated[Part, Query()]) -> Response:
        """A part of the picture, pixel by pixel."""
        return await _part(server, worker.picture(id, owner).path, part)

    @app.delete("/v1/pictures/{id}", status_code=204, tags=[tag], responses=told(404), summary="Forget a picture")
    async def drop(id: str, owner: Owner) -> None:
        worker.drop_picture(id, owner)

    def about(picture: Picture) -> PictureAbout:
        return PictureAbout(id=picture.id, name=picture.name, **picture.facts.as_dict())


def _others(app: FastAPI, server: Server) -> None:
    limits = server.limits

    @app.get("/v1/models", tags=["about the server"], summary="What can be asked for", responses=told(401))
    async def models() -> dict[str, Any]:
        """The models that can be named, what else this server can do, and its limits."""
        from scalewise.app import tasks

        found = await server.shortly(tasks.models)
        granted = {"max_bytes": limits.max_bytes, "max_pixels": limits.max_pixels, "seconds": limits.seconds}
        return {"models": found, "formats": list(tasks.FORMATS), "mask": False, "limits": granted}

    @app.get("/health", tags=["about the server"], summary="Whether it lives")
    async def health() -> dict[str, Any]:
        """Answers while the server lives, also when it is busy."""
        return {"status": "ending" if server.worker.closing.is_set() else "ok", "version": __version__}

    @app.get(
        "/metrics",
        tags=["about the server"],
        summary="Counters",
        responses={200: {"content": {"text/plain": {}}}, **told(401)},
    )
    async def metrics() -> Response:
        """Counters and gauges, as Prometheus reads them."""
        return Response(server.metrics(), media_type="text/plain; version=0.0.4")

    @app.post(
        "/v1/session", status_code=204, tags=["about the server"], summary="Come in with the token", responses=told(401)
    )
    async def session() -> None:
        """With the server's token: sets the cookie that the page goes on with."""


def _files(app: FastAPI) -> None:
    """The page, and what it is made of: these files and no other, read once."""
    folder = resources.files("scalewise.app") / "static"
    files = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}

    def served(name: str) -> Response:
        kind = TYPES[name.rpartition(".")[2]]
        return Response(files[name], media_type=kind, headers={"Cache-Control": "no-cache"})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return served("index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return served("docs.html")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return served("icon.svg")

    @app.get("/static/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in files:
            raise Refused(404, "there is nothing here")
        return served(name)


__all__ = ["Server", "build"]
