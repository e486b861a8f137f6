"""What the jobs of clips do: looking at an upload, checking what is asked, a preview of three frames, enlarging."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalewise import images, zoo
from scalewise.app.models import OwnModel, known
from scalewise.app.problems import Refused, said_of, unnamed
from scalewise.app.store import Held
from scalewise.app.worker import Limits
from scalewise.budget.budget import Budget
from scalewise.budget.meter import listening
from scalewise.errors import InvalidRequest, MissingDependency, UnreadableImage
from scalewise.execution.plan import RunOptions
from scalewise.geometry.grid import Size
from scalewise.geometry.sizes import Sides, parse_size
from scalewise.video.clip import Clip, open_clip, pictures
from scalewise.video.convert import VideoJob, frame_size, plan_video
from scalewise.video.formats import coding_for
from scalewise.video.frames import FrameUpscaler, Window
from scalewise.video.report import Forecast, Progress
from scalewise.video.request import VideoRequest
from scalewise.video.seconds import parse_budget

FORMATS = ("mp4", "mkv", "mov", "webm")
SHOWN_AT = (1 / 6, 1 / 2, 5 / 6)  # of the length: the frames of a preview
LATE = 1.2  # expected over allowed seconds, from which on a job is refused before it begins


@dataclass(frozen=True)
class ClipFacts:
    """What an upload is, as far as the file tells."""

    clip: Clip
    bytes: int

    @property
    def seconds(self) -> float:
        return self.clip.seconds

    @property
    def interlaced(self) -> bool:
        return self.clip.interlaced

    def as_dict(self) -> dict[str, Any]:
        clip = self.clip
        named = {"width": clip.size[1], "height": clip.size[0], "frames": clip.frames, "seconds": clip.seconds}
        return named | {"rate": float(clip.rate), "codec": clip.codec, "bytes": self.bytes}


@dataclass(frozen=True)
class ClipRequest:
    """What is asked for: `scale` or `size`, a text as `3840x2160`; by default twice as large."""

    scale: float | None = None
    size: str | None = None
    budget: str = "100%"
    model: str = "fast"
    format: str = "mp4"
    crf: int | None = None
    own: OwnModel | None = None  # instead of a model of the zoo

    @property
    def factor(self) -> float | None:
        """None where a size is asked for."""
        return self.scale if self.size else self.scale or 2.0

    @property
    def sides(self) -> Sides | None:
        return parse_size(self.size) if self.size else None

    def model_on(self, device: str | None) -> zoo.LoadedModel:
        """The model, ready to run. Raises Refused."""
        return self.own.loaded if self.own is not None else zoo.load(known(self.model), device=device)


@dataclass(frozen=True)
class PreviewReport:
    """What a clip would take, and when the frames are shown, in seconds from its start."""

    size: Size
    forecast: Forecast
    times: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        told = self.forecast
        named = {"frames": told.frames, "seconds": round(told.seconds, 1), "bytes": round(told.bytes)}
        return named | {"share": told.share, "times": [round(time, 3) for time in self.times]}


@dataclass(frozen=True)
class ClipResult:
    """As `tasks.Result`: the file that was made, and the report. Of a preview `frames` are pairs of PNG files, before
    and after, and the first one enlarged is the file."""

    picture: Path
    report: Any
    frames: tuple[tuple[Path, Path], ...] = ()
    cells: None = field(default=None, init=False)
    extent: None = field(default=None, init=False)


def look(path: Path, limits: Limits) -> ClipFacts:
    """The facts of an upload, by what it holds. Raises Refused: 415 for what is no clip of a kind that can be read, 413
    for what is too large or too long, 501 where video cannot be read at all."""
    with said_of("file"):
        try:
            clip = open_clip(path, max_pixels=limits.clip_pixels)
        except MissingDependency as error:
            raise Refused(501, str(error)) from None
        except UnreadableImage as error:
            text = unnamed(str(error))
            if "cannot be read as a video" in text:
                where = "; the tab Pictures takes pictures and animated WebP" if "another kind" in text else ""
                raise Refused(415, text + where, "file") from None
            raise Refused(413 if "at most" in text else 422, text, "file") from None
    if clip.seconds > limits.clip_seconds:
        raise Refused(
            413, f"the clip is {clip.seconds:.0f} s long; at most {limits.clip_seconds:g} s are taken here", "file"
        )
    return ClipFacts(clip, path.stat().st_size)


def check(facts: ClipFacts, request: ClipRequest, limits: Limits) -> Size:
    """The size (H, W) of the frames that are made; raises Refused for what this server will not do."""
    if request.scale is not None and request.size:
        raise Refused(422, "say how large by one of scale and size, not by both", "size")
    if request.format not in FORMATS:
        raise Refused(422, f"format {request.format!r} cannot be written: allowed are {', '.join(FORMATS)}", "format")
    with said_of("crf"):
        coding = coding_for(facts.clip, facts.clip.path.with_name(f"result.{request.format}"), crf=request.crf)
    if request.own is None:
        known(request.model)
    try:
        out = frame_size(facts.clip, coding, request.factor, request.sides)
    except InvalidRequest as error:  # without the codecs that no visitor can choose
        told = str(error).partition(", or for codec")[0]
        raise Refused(422, told, "size" if request.size else "scale") from None
    with said_of("budget"):
        parse_budget(request.budget, facts.seconds)
    if out[0] * out[1] > limits.clip_pixels:
        raise Refused(
            422,
            f"frames of {out[1]}x{out[0]} are {out[0] * out[1] / 1e6:.1f} megapixels, and at most "
            f"{limits.clip_pixels / 1e6:.1f} are made here",
            "size" if request.size else "scale",
        )
    return out


def enlarge(
    upload: Path,
    facts: ClipFacts,
    request: ClipRequest,
    folder: Path,
    limits: Limits,
    progress: Callable[[float], None],
    seconds: float,
) -> ClipResult:
    """Enlarge the clip into `folder`. Raises Refused: at once where it would take much longer than `seconds`, later
    where the clip is longer than its file says and the server takes, or the result takes more room than one visitor
    has. Raises what `progress` raises."""
    done = 0.0
    held = Held("", "", folder)

    def heard(frames: Progress) -> None:
        nonlocal done
        done = 0.98 * frames.done / max(frames.done, frames.frames)
        progress(done)
        if frames.shown > limits.clip_seconds:
            raise Refused(
                413,
                f"stopped: the file says that the clip is {facts.seconds:.0f} s long, but it is longer, and at most "
                f"{limits.clip_seconds:g} s are taken here",
                "file",
            )
        if held.bytes() > limits.visitor_bytes:
            raise Refused(
                422,
                f"stopped at {limits.visitor_bytes / 2**20:.4g} MiB, the room that one visitor has here: ask for a "
                "larger crf, which takes less, or for a smaller size",
                "crf",
            )

    with said_of(), listening(lambda macs: progress(done)):
        job = _planned(upload, facts, request, folder, limits)
        if job.forecast.seconds > LATE * seconds:
            job.parts.discard()
            raise Refused(
                422,
                f"this would take about {job.forecast.seconds:.0f} s, and a job may take {seconds:g} s here: ask for "
                "less effort, for a time, or for a smaller size",
                "budget",
            )
        report = job.run(heard)
    progress(1.0)
    return ClipResult(job.output, report)


def preview(
    upload: Path,
    facts: ClipFacts,
    request: ClipRequest,
    folder: Path,
    limits: Limits,
    progress: Callable[[float], None],
) -> ClipResult:
    """Three frames of the clip, each enlarged on its own at the share of the work that its frames may take, and what
    the whole clip would take. Raises Refused, and what `progress` raises."""
    done = 0.0
    with said_of(), listening(lambda macs: progress(done)):
        job = _planned(upload, facts, request, folder, limits)
        job.parts.discard()
        share = job.budget if job.clock is None else Budget.fraction(job.clock.share())
        made: list[tuple[Path, Path]] = []
        times: list[float] = []
        picture = next(pictures(job.clip, deinterlace=facts.interlaced))
        for number, at in enumerate(SHOWN_AT, 1):
            found = pictures(job.clip, first=job.clip.ticks(at * facts.seconds), deinterlace=facts.interlaced)
            picture = next(found, picture)  # the one before, if none begins so late
            how = RunOptions(device=limits.device)
            upscaler = FrameUpscaler(job.model, picture.pixels, job.out, still=-1, options=how)
            upscaler.grant(share.value)
            enlarged = next(upscaler.render(Window([picture.pixels], True)))
            pair = folder / f"before-{number}.png", folder / f"after-{number}.png"
            for path, pixels in zip(pair, (picture.pixels, enlarged.pixels), strict=True):
                images.save(path, pixels)
            made.append(pair)
            times.append(float((picture.time - job.clip.start) * job.clip.time_base))
            done = number / len(SHOWN_AT)
            progress(done)
    return ClipResult(made[0][1], PreviewReport(job.out, job.forecast, tuple(times)), tuple(made))


def _planned(upload: Path, facts: ClipFacts, request: ClipRequest, folder: Path, limits: Limits) -> VideoJob:
    asked = VideoRequest(
        scale=request.factor,
        size=request.sides,
        budget=request.budget,
        crf=request.crf,
        deinterlace=facts.interlaced,
        options=RunOptions(device=limits.device),
    )
    return plan_video(upload, folder / f"result.{request.format}", asked, model=request.model_on(limits.device))


__all__ = ["ClipFacts", "ClipRequest", "ClipResult", "check", "enlarge", "look", "preview"]
