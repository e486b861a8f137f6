"""Weight files of visitors: one each, checked as any weight file is, in memory while its owner asks for it."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import FastAPI, Form, UploadFile
from pydantic import BaseModel, ConfigDict, Field

from scalewise.app.forms import clean_name
from scalewise.app.server import ONE_FORM, Owner, Server, stored, told


class WeightsForm(BaseModel):
    model_config = ConfigDict(extra="forbid")

    file: UploadFile = Field(description="a weight file: .safetensors, .pth, .pt, .ckpt")


class ModelAbout(BaseModel):
    name: str = Field(description="to be sent as `model` of a job")
    title: str = Field(description="the file's name")
    summary: str = Field(description="what the file turned out to be")
    least_budget: float = Field(description="the least share of the full work that it can do")
    mask: bool = Field(description="whether jobs with it take a `mask`")


def add_weights(app: FastAPI, server: Server) -> None:
    worker, tag = server.worker, "weight files"

    @app.post(
        "/v1/weights",
        status_code=201,
        tags=[tag],
        responses=told(401, 403, 413, 415, 422, 429, 503),
        dependencies=ONE_FORM,
        summary="Use a weight file of your own",
    )
    async def store(form: Annotated[WeightsForm, Form(media_type="multipart/form-data")], owner: Owner) -> ModelAbout:
        """Of a network that scalewise knows; nothing in the file is run. Each visitor has one at a time, which is kept
        for half an hour after it was last asked for."""
        write = stored(form.file, server.limits.max_weight_bytes, "a weight file may have")
        name = clean_name(form.file.filename)

        from scalewise.app import models as served

        load = partial(served.own_model, name=name, device=server.limits.device)
        held = await server.shortly(worker.receive_model, owner, name, write, load)
        return ModelAbout(**about(held.id, held.name, held.facts))

    @app.delete("/v1/weights/{id}", status_code=204, tags=[tag], responses=told(404), summary="Forget a weight file")
    async def drop(id: str, owner: Owner) -> None:
        worker.drop_model(id.removeprefix("own:"), owner)


def about(id: str, name: str, model: Any) -> dict[str, Any]:
    # Imported here, so that the server starts before torch is loaded.
    from scalewise.execution.mask import takes_mask

    return {
        "name": f"own:{id}",
        "title": name,
        "summary": model.summary,
        "least_budget": model.least,
        "mask": takes_mask(model.loaded.model),
    }
