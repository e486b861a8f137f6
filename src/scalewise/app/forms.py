"""What a client may send, and what it is told: the fields of the interface, from which /openapi.json is made."""

from __future__ import annotations

import re
from typing import Any

from fastapi import UploadFile
from pydantic import BaseModel, ConfigDict, Field

from scalewise.app.problems import Refused


class UpscaleFields(BaseModel):
    """How large, and how. One of scale, size and long_edge; without any the factor is 2."""

    model_config = ConfigDict(extra="forbid")

    scale: float | None = Field(None, ge=1, le=100, description="factor, 1 to 100; 2 if nothing says how large")
    size: str | None = Field(None, max_length=20, description="`3840x2160`, `3840x` (width) or `x2160` (height)")
    long_edge: int | None = Field(None, ge=1, le=1_000_000, description="pixels of the longer side")
    budget: str = Field("100%", max_length=60, description="share of the full work: `50%`, `0.5`; or seconds: `2s`")
    model: str = Field("fast", max_length=100, description="a name that `GET /v1/models` or `POST /v1/weights` gives")
    format: str | None = Field(None, max_length=20, description="png, jpg, webp, tif, avif, gif; default: the input's")
    quality: int | None = Field(None, ge=1, le=100, description="of jpg, webp and avif; default: 95")
    crop: str | None = Field(
        None, max_length=60, description="`x,y,width,height` in pixels of the input: only this part"
    )
    projection: str = Field(
        "auto", max_length=10, description="`erp`: a 360° picture, `flat`: none, `auto`: as it says"
    )
    effort_map: bool = Field(False, description="also draw where the work went")


class JobForm(UpscaleFields):
    file: UploadFile | None = Field(None, description="the picture")
    picture: str | None = Field(None, max_length=100, description="instead of a file: the id of a stored picture")
    mask: UploadFile | None = Field(
        None, description="a picture stretched over it: the work goes first where it is bright"
    )
    timeout: float | None = Field(None, gt=0, le=86400, description="seconds after which the job ends with status 504")
    keep: bool = Field(False, description="go on when the client is gone")


class UpscaleForm(UpscaleFields):
    file: UploadFile = Field(description="the picture")
    mask: UploadFile | None = Field(
        None, description="a picture stretched over it: the work goes first where it is bright"
    )
    timeout: float | None = Field(None, gt=0, le=86400, description="seconds after which it ends with status 504")


class ForecastForm(UpscaleFields):
    file: UploadFile | None = Field(None, description="the picture")
    picture: str | None = Field(None, max_length=100, description="instead of a file: the id of a stored picture")


class PictureForm(BaseModel):
    model_config = ConfigDict(extra="forbid")

    file: UploadFile = Field(description="the picture")


class ClipFields(BaseModel):
    """How large, and how. One of scale and size; without any the factor is 2."""

    model_config = ConfigDict(extra="forbid")

    clip: str = Field(max_length=100, description="the id of a stored clip")
    scale: float | None = Field(
        None, ge=1, le=100, description="factor, 1 to 100; sides become even; 2 if nothing says how large"
    )
    size: str | None = Field(None, max_length=20, description="`3840x2160`, `3840x` (width) or `x2160` (height)")
    budget: str = Field(
        "100%", max_length=60, description="share of the full work: `50%`; or `realtime`, `90s`, `2min`"
    )
    model: str = Field("fast", max_length=100, description="a name that `GET /v1/models` or `POST /v1/weights` gives")
    format: str = Field("mp4", max_length=20, description="mp4, mkv, mov, webm")
    crf: int | None = Field(
        None, ge=0, le=63, description="quality, less is better: 0 to 51, 63 for webm; default: 18, 26 for webm"
    )
    timeout: float | None = Field(None, gt=0, le=86400, description="seconds after which the job ends with status 504")
    keep: bool = Field(False, description="go on when the client is gone")


class ClipForm(BaseModel):
    model_config = ConfigDict(extra="forbid")

    file: UploadFile = Field(description="the clip")


class Problem(BaseModel):
    """What went wrong, in one sentence (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    field: str | None = None


class PictureAbout(BaseModel):
    id: str
    name: str
    width: int
    height: int
    format: str
    pages: int
    alpha: bool
    gray: bool
    depth: str
    panorama: bool
    bytes: int


class ClipAbout(BaseModel):
    id: str
    name: str
    width: int
    height: int
    frames: int = Field(description="that the file names, or that its length makes likely")
    seconds: float
    rate: float = Field(description="frames per second")
    codec: str
    bytes: int


class JobAbout(BaseModel):
    id: str
    state: str = Field(description="waiting, running, done, failed or cancelled")
    progress: float = Field(description="in [0, 1]; between two reports of the engine it goes on with the clock")
    seconds_left: float | None
    before: int = Field(description="jobs that come first")
    name: str = Field(description="of the file that will be made")
    width: int
    height: int
    format: str
    bytes: int | None
    report: dict[str, Any] | None
    effort_extent: tuple[float, float] | None = Field(
        description="width and height of the effort cells over the picture's"
    )
    problem: Problem | None


class ForecastAbout(BaseModel):
    width: int
    height: int
    pages: int
    seconds: float
    loss_db: float | None
    loss: str
    format: str


class Part(BaseModel):
    """A box in pixels of the picture, and the pixels of width that are needed of it."""

    model_config = ConfigDict(extra="forbid")

    x: int = Field(ge=0, le=1_000_000)
    y: int = Field(ge=0, le=1_000_000)
    w: int = Field(ge=1, le=1_000_000)
    h: int = Field(ge=1, le=1_000_000)
    width: int = Field(4096, ge=1, le=8192)


def asked_of(request: UpscaleFields) -> Any:
    """The form's fields as `tasks.JobRequest`."""
    from scalewise.app.tasks import JobRequest

    crop = None
    if request.crop is not None:
        match = re.fullmatch(r"\s*(\d{1,7})\s*,\s*(\d{1,7})\s*,\s*(\d{1,7})\s*,\s*(\d{1,7})\s*", request.crop)
        if match is None:
            raise Refused(422, f"crop {request.crop[:40]!r} is not a box: write x,y,width,height", "crop")
        x, y, width, height = (int(part) for part in match.groups())
        crop = (x, y, width, height)
    named = request.model_dump(include={"scale", "size", "long_edge", "budget", "model", "quality", "projection"})
    return JobRequest(**named, format=request.format or None, crop=crop, effort_map=request.effort_map)


def clean_name(name: str | None) -> str:
    """What a visitor calls a file: its last part, without what a terminal or a file system takes for more."""
    last = re.split(r"[/\\]", name or "")[-1]
    return re.sub(r"[\x00-\x1f\x7f\"<>|:*?\u202a-\u202e\u2066-\u2069]", "", last).strip(". ")[-120:] or "picture"


def result_name(name: str, request: UpscaleFields | ClipFields, out: tuple[int, int], suffix: str) -> str:
    stem = name.rpartition(".")[0] or name
    by_factor = request.size is None
    if isinstance(request, UpscaleFields):
        by_factor = by_factor and request.long_edge is None and request.crop is None
    return f"{stem}_{f'{request.scale or 2:g}x' if by_factor else f'{out[1]}x{out[0]}'}{suffix}"


__all__ = [
    "ClipAbout",
    "ClipFields",
    "ClipForm",
    "ForecastAbout",
    "ForecastForm",
    "JobAbout",
    "JobForm",
    "Part",
    "PictureAbout",
    "PictureForm",
    "Problem",
    "UpscaleFields",
    "UpscaleForm",
    "asked_of",
    "clean_name",
    "result_name",
]
