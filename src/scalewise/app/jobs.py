"""The routes of jobs: start one, follow it, fetch its result; and a picture for a picture in one request."""

from __future__ import annotations

import asyncio
import json
import os
import time
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Form, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from scalewise.app.forms import (
    ForecastAbout,
    ForecastForm,
    JobAbout,
    JobForm,
    Part,
    UpscaleForm,
)
from scalewise.app.problems import Refused
from scalewise.app.server import ONE_FORM, Owner, Server, attached, binary, shown, shown_part, told
from scalewise.app.worker import ENDING, Job

Quality = Annotated[int | None, Query(ge=1, le=100)]
POLL_SECONDS = 0.05  # between two looks at a job
EVENT_SECONDS = 0.2  # between two events of a job, at least
PING_SECONDS = 10.0  # between empty events, by which a client that left is noticed


def add_jobs(app: FastAPI, server: Server) -> None:
    worker = server.worker
    wrong = told(401, 403, 413, 415, 422, 429, 503)

    @app.post("/v1/jobs", status_code=202, tags=["jobs"], responses=wrong, dependencies=ONE_FORM, summary="Start a job")
    async def start(form: Annotated[JobForm, Form(media_type="multipart/form-data")], owner: Owner) -> JobAbout:
        """Takes a picture, answers at once with the job's id. Follow it by `GET /v1/jobs/{id}` or its events; a job
        that nobody looks at for half a minute is cancelled, unless `keep` is true."""
        picture, came = await server.picture_of(owner, form)
        try:
            asked = await server.asked(owner, form, form.mask)
            job = await server.shortly(server.submit, owner, picture, form, asked, form.keep)
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

    gone = told(404, 409, 410, 422, 503, 504)

    @app.get(
        "/v1/jobs/{id}/result",
        tags=["jobs"],
        summary="The enlarged picture",
        responses={**binary("the picture", "image/*"), **gone},
    )
    async def result(
        id: str, owner: Owner, format: Annotated[str | None, Query(max_length=20)] = None, quality: Quality = None
    ) -> Response:
        """The enlarged picture, with the metadata that are still true of it; in another `format` without computing it
        again."""
        from scalewise.app import tasks

        job, done = server.result_of(id, owner)
        path, name = done.picture, job.about["name"]
        if format is not None:
            server.picture_result_of(id, owner)
            path = await server.shortly(tasks.convert, path, format, quality, server.limits.max_pixels)
            name = name.rpartition(".")[0] + path.suffix
        return FileResponse(path, media_type=tasks.media_type(path), headers=attached(name))

    @app.get(
        "/v1/jobs/{id}/effort-map",
        tags=["jobs"],
        summary="Where the work went",
        responses={**binary("the map", "image/png"), **gone},
    )
    async def effort_map(id: str, owner: Owner, cells: bool = False) -> Response:
        """Over the gray picture, if the job was asked for `effort_map`; or, with `cells`, one pixel for each unit of
        work. Dark blue is the least, yellow the most."""
        done = server.picture_result_of(id, owner)
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
        from scalewise.app import previews

        done = server.picture_result_of(id, owner)
        return await shown(server, previews.preview, done.picture)

    @app.get(
        "/v1/jobs/{id}/view",
        tags=["pictures of pictures"],
        summary="A part of a result",
        responses={**binary("the part", "image/png"), **gone},
    )
    async def view(id: str, owner: Owner, part: Annotated[Part, Query()]) -> Response:
        """A part of the result, pixel by pixel."""
        done = server.picture_result_of(id, owner)
        return await shown_part(server, done.picture, part)

    @app.delete("/v1/jobs/{id}", status_code=204, tags=["jobs"], responses=told(404), summary="Cancel and forget a job")
    async def drop(id: str, owner: Owner) -> None:
        worker.drop_job(id, owner)

    @app.get(
        "/v1/archive",
        tags=["jobs"],
        summary="Several results",
        responses={**binary("the results", "application/zip"), **gone},
    )
    async def archive(
        owner: Owner,
        job: Annotated[list[str], Query(max_length=500)],
        format: Annotated[str | None, Query(max_length=20)] = None,
    ) -> Response:
        """The results of several jobs as one zip, converted to `format` if it is given."""
        from scalewise.app import tasks

        chosen = [server.result_of(id, owner)[0] for id in job]

        for one in chosen if format is not None else ():
            server.picture_result_of(one.id, owner)

        def zipped() -> Path:
            path, names = chosen[0].folder / "all.zip", set[str]()
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
                for one in chosen:
                    made = one.result.picture
                    if format is not None:
                        made = tasks.convert(made, format, None, server.limits.max_pixels)
                    stem, dot, suffix = one.about["name"].rpartition(".")
                    suffix = suffix if format is None else made.suffix[1:]
                    name, number = f"{stem}{dot}{suffix}", 2
                    while name in names:
                        name, number = f"{stem}_{number}{dot}{suffix}", number + 1
                    names.add(name)
                    file.write(made, name)
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
            asked = await server.asked(owner, form, form.mask)
            job = await server.shortly(server.submit, owner, picture, form, asked, True)
        finally:
            worker.drop_picture(picture.id, owner)
        try:
            while not job.done.is_set():
                if worker.closing.is_set():
                    raise Refused(503, ENDING)
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
            asked = await server.asked(owner, form)
            found = await server.shortly(forecast.forecast, picture.facts, asked, server.limits, server.speeds)
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
