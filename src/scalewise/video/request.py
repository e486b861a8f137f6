"""What is asked of a clip, and what its frames depend on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scalewise.budget.budget import Budget
from scalewise.errors import InvalidRequest
from scalewise.execution.plan import RunOptions
from scalewise.geometry.grid import Size
from scalewise.geometry.sizes import Sides
from scalewise.models.digest import digest_of_model
from scalewise.storage import stamp
from scalewise.version import __version__
from scalewise.video.clip import Clip, Damage, Picture, pictures
from scalewise.video.formats import Coding
from scalewise.video.frames import REFRESH_FRAMES

if TYPE_CHECKING:
    from scalewise.models.model import Model


@dataclass(frozen=True)
class VideoRequest:
    """What is asked of a clip: one of `scale` and `size` (rows, columns; one may be None), and how.

    `budget` is a share, `realtime`, or seconds for the whole clip. `start` and `stop` are seconds. `still` is in levels
    of 8 bits, None: what the noise of the clip makes, 0: nothing may differ, below 0: every frame in full. `refresh`:
    frames after which a patch is computed anew at the latest.
    """

    scale: float | tuple[float, float] | None = None
    size: Sides | None = None
    budget: str | float | Budget | None = None
    codec: str | None = None
    crf: int | None = None
    preset: str | None = None
    start: float | None = None
    stop: float | None = None
    still: float | None = None
    refresh: int = REFRESH_FRAMES
    deinterlace: bool = False
    resume: bool = False
    restart: bool = False
    overwrite: bool = False
    options: RunOptions = field(default_factory=RunOptions)


def asked_of(
    clip: Clip, request: VideoRequest, coding: Coding, model: Model, out: Size, budget: Budget
) -> dict[str, Any]:
    """What the frames of a run depend on: a run goes on only where all of it is the same."""
    import av

    return {
        "input": [str(clip.path.resolve()), stamp(clip.path)],
        "size": list(out),
        "model": digest_of_model(model),
        "budget": [budget.kind, budget.value],
        "codec": [coding.codec, coding.pixel_format],
        "crf": coding.crf,
        "preset": coding.preset,
        "span": [request.start, request.stop],
        "still": request.still,
        "dtype": request.options.dtype,
        "deinterlace": request.deinterlace,
        "version": [__version__, av.__version__],
    }


def check_span(clip: Clip, request: VideoRequest) -> None:
    """Raises InvalidRequest."""
    start, stop = request.start or 0.0, request.stop
    if start < 0 or (stop is not None and stop <= start):
        raise InvalidRequest(f"from {start:g} s to {stop} s: the end must come after the start")
    if clip.seconds and start >= clip.seconds:
        raise InvalidRequest(f"from {start:g} s: that lies beyond the end of the clip, {clip.seconds:.2f} s")


def span(clip: Clip, request: VideoRequest, after: int | None, damage: Damage) -> Iterator[Picture]:
    """The frames that were asked for, behind the time `after`."""
    first = None if request.start is None else clip.ticks(request.start)
    if after is not None:
        first = after + 1
    stop = None if request.stop is None else clip.ticks(request.stop)
    return pictures(clip, first=first, stop=stop, deinterlace=request.deinterlace, damage=damage)
