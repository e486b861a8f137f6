"""The routes of clips: store one, look at three of its frames enlarged, enlarge it."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any

from fastapi import FastAPI, Form, Query, Response
from fastapi.responses import FileResponse

from scalewise.app.forms import ClipAbout, ClipFields, ClipForm, JobAbout, result_name
from scalewise.app.problems import Refused
from scalewise.app.server import ONE_FORM, Owner, Server, binary, told
from scalewise.app.worker import Job, Limits, Picture

Asked = Annotated[ClipFields, Form(media_type="multipart/form-data")]
MISSING = "video is read and written by PyAV: pip install 'scalewise[video]', and start the server again"


def clips_granted(limits: Limits) -> dict[str, Any]:
    """For the description of the server: whether it takes clips, or why not, and how large ones."""
    if find_spec("av") is None:
        return {"missing": MISSING}
    return {"missing": None, "seconds": limits.clip_seconds, "pixels": limits.clip_pixels}


def add_clips(app: FastAPI, server: Server) -> None:
    worker, tag = server.worker, "clips"
    wrong = told(401, 403, 404, 422, 429, 501, 503)

    @app.post(
        "/v1/clips",
        status_code=201,
        tags=[tag],
        responses=told(401, 403, 413, 415, 422, 429, 501, 503),
        dependencies=ONE_FORM,
        summary="Store a clip",
    )
    async def store(form: Annotated[ClipForm, Form(media_type="multipart/form-data")], owner: Owner) -> ClipAbout:
        """A video file; needs the extra `video` on the server. It is kept for half an hour after it was last asked
        for."""
        if find_spec("av") is None:
            raise Refused(501, MISSING)
        return about(await server.received(owner, form.file, "clip"))

    @app.get("/v1/clips/{id}", tags=[tag], responses=told(404), summary="What a stored clip is")
    async def look(id: str, owner: Owner) -> ClipAbout:
        return about(worker.picture(id, owner, "clip"))

    @app.delete("/v1/clips/{id}", status_code=204, tags=[tag], responses=told(404), summary="Forget a clip")
    async def drop(id: str, owner: Owner) -> None:
        worker.drop_picture(id, owner, "clip")

    starting = partial(app.post, status_code=202, tags=[tag], responses=wrong, dependencies=ONE_FORM)

    @starting("/v1/clip-jobs", summary="Enlarge a stored clip")
    async def start(form: Asked, owner: Owner) -> JobAbout:
        """A job as of a picture: followed, cancelled and fetched by the same routes; its result is a video."""
        return await submitted(owner, form, preview=False)

    @starting("/v1/clip-previews", summary="Three frames of a stored clip, enlarged")
    async def show(form: Asked, owner: Owner) -> JobAbout:
        """A job that enlarges three frames, each on its own, as they would be in the clip; its report says what the
        whole clip would take."""
        return await submitted(owner, form, preview=True)

    @app.get(
        "/v1/jobs/{id}/frames/{number}",
        tags=[tag],
        summary="A frame of a preview",
        responses={**binary("the frame", "image/png"), **told(404, 409, 410, 422, 503, 504)},
    )
    async def frame(id: str, number: int, owner: Owner, before: Annotated[bool, Query()] = False) -> Response:
        """The first, second or third frame, enlarged; or, with `before`, as it is in the clip."""
        frames = getattr(server.result_of(id, owner)[1], "frames", ())
        if not 1 <= number <= len(frames):
            raise Refused(404, f"there is no frame {number} here: a preview has frames 1 to 3")
        path = frames[number - 1][0 if before else 1]
        return FileResponse(path, media_type="image/png", headers={"Cache-Control": "private, no-store"})

    async def submitted(owner: str, form: ClipFields, *, preview: bool) -> JobAbout:
        clip = worker.picture(form.clip, owner, "clip")
        job = await server.shortly(_submit, server, owner, clip, form, preview)
        return JobAbout(**server.job_about(job))

    def about(clip: Picture) -> ClipAbout:
        return ClipAbout(id=clip.id, name=clip.name, **clip.facts.as_dict())


def _submit(server: Server, owner: str, clip: Picture, form: ClipFields, preview: bool) -> Job:
    """Checked, then queued."""
    from scalewise.app import clip_tasks

    named = form.model_dump(include={"scale", "size", "budget", "model", "format", "crf"})
    asked = clip_tasks.ClipRequest(**named, own=server.own_model(owner, form.model))
    limits = server.limits
    out = clip_tasks.check(clip.facts, asked, limits)

    def run(job: Job) -> Any:
        given = job.folder / "input", clip.facts, asked, job.folder, limits, job.progress
        return clip_tasks.preview(*given) if preview else clip_tasks.enlarge(*given, job.limit)

    suffix = "png" if preview else asked.format
    name = result_name(clip.name, form, out, f".{suffix}")
    told = {"name": name, "format": suffix, "width": out[1], "height": out[0]}
    return server.worker.submit(owner, clip, run, about=told, keep=form.keep, limit=form.timeout)
