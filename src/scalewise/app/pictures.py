"""The routes of stored pictures: one upload for several jobs, and smaller pictures of it for the page."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import FastAPI, Form, Query, Response

from scalewise.app.forms import Part, PictureAbout, PictureForm
from scalewise.app.server import ONE_FORM, Owner, Server, binary, shown, shown_part, told
from scalewise.app.worker import Picture


def add_pictures(app: FastAPI, server: Server) -> None:
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

    described = {**binary("the picture", "image/*"), **told(404, 422)}
    seen = partial(app.get, tags=["pictures of pictures"], responses=described)

    @seen("/v1/pictures/{id}/thumbnail", summary="A stored picture, tiny")
    async def thumbnail(id: str, owner: Owner) -> Response:
        """At most 320 pixels a side, as a browser can show it."""
        from scalewise.app import previews

        path = worker.picture(id, owner).path
        return await shown(server, lambda path: (previews.thumbnail(path), "image/png"), path)

    @seen("/v1/pictures/{id}/preview", summary="A stored picture, smaller")
    async def preview(id: str, owner: Owner) -> Response:
        """The first page, smaller if it is large, as a browser can show it."""
        from scalewise.app import previews

        return await shown(server, previews.preview, worker.picture(id, owner).path)

    @seen("/v1/pictures/{id}/view", summary="A part of a stored picture")
    async def view(id: str, owner: Owner, part: Annotated[Part, Query()]) -> Response:
        """A part of the picture, pixel by pixel."""
        return await shown_part(server, worker.picture(id, owner).path, part)

    @app.delete("/v1/pictures/{id}", status_code=204, tags=[tag], responses=told(404), summary="Forget a picture")
    async def drop(id: str, owner: Owner) -> None:
        worker.drop_picture(id, owner)

    def about(picture: Picture) -> PictureAbout:
        return PictureAbout(id=picture.id, name=picture.name, **picture.facts.as_dict())
