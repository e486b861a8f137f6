"""A clip from file to file: plan it, say what it will take, then decode → enlarge → encode, and join.

job = plan_video("talk.mp4", "talk_x2.mp4", VideoRequest(scale=2, budget="realtime"))
print(job.forecast)
report = job.run()
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scalewise.budget.budget import Budget
from scalewise.budget.route import paint
from scalewise.errors import Cancelled, InvalidRequest, UnreadableImage, UnwritableOutput
from scalewise.geometry.grid import Size
from scalewise.geometry.sizes import Sides, wanted_size
from scalewise.pipeline import provenance, resolve_model
from scalewise.storage import check_writable
from scalewise.video.clip import Clip, Damage, check_progressive, open_clip
from scalewise.video.colour import LIMITED, MATRIX_601, UNSPECIFIED, Colour, Layout
from scalewise.video.formats import CODECS, FOLDER, Coding, coding_for, fitted, pixel_aspect
from scalewise.video.frames import Enlarged, FrameUpscaler, Spent, windows
from scalewise.video.join import Copied, copied_streams, join
from scalewise.video.measure import Measured
from scalewise.video.parts import Part, Parts, open_parts, whole_frames
from scalewise.video.report import Forecast, Progress, VideoReport
from scalewise.video.request import VideoRequest, asked_of, check_span, span
from scalewise.video.seconds import Clock, parse_budget
from scalewise.video.still import noise_of
from scalewise.video.writer import FolderWriter, PartWriter, Timing, Writer

if TYPE_CHECKING:
    from scalewise.models.model import Model
    from scalewise.zoo import LoadedModel

HEAD_FRAMES = 24  # at the start of a clip, that noise, change and encoding are measured on
MAP_CODING = Coding(
    "h264",
    "yuv420p",
    Layout("420", 8, False),
    Colour(LIMITED, UNSPECIFIED, UNSPECIFIED, MATRIX_601),
    20,
    "veryfast",
    intra=True,
)


@dataclass
class VideoJob:
    """A clip that is ready to run: everything that can be refused has been. Run it once, or `close` it."""

    clip: Clip
    output: Path
    effort_map: Path | None
    request: VideoRequest
    coding: Coding
    copied: Copied
    model: Model
    name: str
    out: Size
    budget: Budget
    still: float
    parts: Parts
    forecast: Forecast
    clock: Clock | None

    def close(self) -> None:
        self.parts.close()

    def run(self, progress: Callable[[Progress], bool | None] | None = None) -> VideoReport:
        """Make the output. What was finished when it ends early stays in `OUT.parts/`.

        `progress` is called after each frame; returning False cancels. Raises Cancelled, UnwritableOutput,
        UnreadableImage."""
        try:
            return self._run(progress)
        except BaseException as error:
            if count := self.parts.frames:
                error.add_note(
                    f"{count} frames are in {str(self.parts.folder)!r}, which players open: resuming goes on with them"
                )
            else:  # nothing that a later run could go on with
                self.parts.discard()
            raise
        finally:
            self.parts.close()

    def _run(self, progress: Callable[[Progress], bool | None] | None) -> VideoReport:
        began, damage, spent = time.perf_counter(), Damage(), self.parts.spent
        before = spent.frames
        self._encode(damage, spent, began, progress)
        if not self.parts.frames:
            raise UnreadableImage(f"{str(self.clip.path)!r} has no frame in the span that was asked for")
        self._deliver()
        notes = [*spent.notes, *self.coding.notes, *self.copied.notes, *self.forecast.notes]
        if damage.packets:
            notes.append(f"{damage.packets} packets of the input could not be decoded and were left out")
        if damage.interlaced:
            notes.append(f"{damage.interlaced} frames say that they are interlaced: deinterlacing treats all")
        if self.clip.frames > 1.05 * spent.frames and self.request.start is None and self.request.stop is None:
            notes.append(f"the input says {self.clip.frames} frames, and {spent.frames} could be decoded")
        if before:
            notes.append(f"{before} frames are of earlier runs")
        self.parts.discard()
        return VideoReport(
            spent.frames,
            self.out,
            spent.macs,
            spent.macs_full,
            spent.reused / max(1, spent.patches),
            spent.scenes,
            self.still,
            spent.exits,
            spent.seconds_in_all,
            spent.seconds,
            tuple(dict.fromkeys(notes)),
        )

    def _encode(
        self, damage: Damage, spent: Spent, began: float, progress: Callable[[Progress], bool | None] | None
    ) -> None:
        """Decode, enlarge and encode what earlier runs left to do."""
        parts, clip = self.parts, self.clip
        left = span(clip, self.request, parts.last_time, damage)
        times: list[int] = []

        def pixels() -> Iterator[np.ndarray]:
            for picture in left:
                times.append(picture.time)
                yield picture.pixels

        frames = pixels()
        head = list(islice(frames, 1))
        if not head:
            return
        upscaler = FrameUpscaler(
            self.model,
            head[0],
            self.out,
            budget=self.budget if self.clock is None else Budget.fraction(0.5),
            still=self.still,
            exact=self.request.still == 0,
            refresh=self.request.refresh,
            options=self.request.options,
        )
        before, done = parts.frames, 0
        part = Part(parts.begin(CODECS[self.coding.codec].part_suffix), [])
        writers = self._writers(part.path, upscaler.patch)
        window_began, recorded = began, upscaler.spent.copy()

        def record() -> Spent:
            """Write down what was spent since the last time."""
            nonlocal window_began, recorded
            used, now = upscaler.spent.since(recorded), time.perf_counter()
            used.seconds_in_all, window_began, recorded = now - window_began, now, upscaler.spent.copy()
            parts.record(used)
            spent.add(used)
            return used

        try:
            for window in windows(chain(head, frames), upscaler.window_frames):
                own, times[:] = times[: len(window.frames)], times[len(window.frames) :]
                parts.announce(own, self.still)
                part.times += own
                if self.clock is not None:
                    upscaler.grant(self.clock.share())
                for enlarged, shown, frame in zip(upscaler.render(window), own, window.frames, strict=True):
                    if len(writers) > 1:
                        writers[1].write(_painted(enlarged, frame), shown)
                    writers[0].write(enlarged.pixels, shown)
                    done += 1
                    if progress is not None:
                        rate = done / max(1e-9, time.perf_counter() - began)
                        total = self.forecast.frames
                        ahead = max(0, total - before - done) / rate
                        at = float((shown - clip.start) * clip.time_base)
                        if progress(Progress(before + done, total, rate, ahead, at)) is False:
                            raise Cancelled(f"cancelled after {before + done} frames")
                used = record()
                if self.clock is not None:
                    self.clock.learn(len(own), used.macs, used.seconds, used.seconds_in_all)
        except BaseException:
            for writer in writers:
                with suppress(UnwritableOutput):  # the error that came first is the one to tell
                    writer.close()
            raise
        else:
            for writer in writers:
                writer.close()
        finally:
            parts.closed()
            part.count = min(len(part.times), writers[0].frames)
            if part.count:
                parts.done.append(part)
            if upscaler.spent.frames > recorded.frames:
                record()

    def _writers(self, path: Path, patch: int) -> list[Writer]:
        clip, timing = self.clip, Timing(self.clip.time_base, self.clip.rate)
        if self.coding.codec == FOLDER:
            self.output.mkdir(exist_ok=True)
            writers: list[Writer] = [FolderWriter(self.output, self.parts.frames)]
        else:
            aspect = pixel_aspect(clip, self.out)
            writers = [PartWriter(path, self.coding, self.out, timing, aspect)]
        if self.effort_map is not None:
            size = _even(clip.size)
            writers.append(PartWriter(self.parts.path("map", "mp4"), MAP_CODING, size, timing, None))
        return writers

    def _deliver(self) -> None:
        request, clip, done = self.request, self.clip, self.parts.done
        budget = Budget.full() if self.budget.kind == "seconds" else self.budget
        note = provenance(self.name, clip.size, self.out, budget)
        first = None if request.start is None else clip.ticks(request.start)
        stop = None if request.stop is None else clip.ticks(request.stop)
        if self.coding.codec == FOLDER:
            lines = [
                f"{float((when - (first or 0)) * clip.time_base * 1000):.3f}" for part in done for when in part.shown
            ]
            (self.output / "timestamps.txt").write_text("\n".join(["# timestamp format v2", *lines, ""]))
        else:
            within: Any = {"first": first, "stop": stop, "overwrite": request.overwrite}
            join(done, self.output, clip, self.copied, note=note, **within)
        if self.effort_map is not None:
            maps = []
            for part in done:
                path = part.path.with_name(part.path.name.replace("part-", "map-")).with_suffix(".mp4")
                maps.append(Part(path, part.times, min(part.count, whole_frames(path, True))))
            join(maps, self.effort_map, clip, None, note=note, first=first, overwrite=request.overwrite)


def plan_video(
    path: str | Path,
    output: str | Path,
    request: VideoRequest,
    *,
    model: str | Path | LoadedModel | Model = "fast",
    effort_map: str | Path | None = None,
) -> VideoJob:
    """Look at a clip and refuse what cannot be, in one line; the job that makes `output`, with its forecast.

    Raises UnreadableImage, InvalidRequest, UnwritableOutput, BudgetInfeasible.
    """
    path, output = Path(path), Path(output)
    clip = open_clip(path)
    check_progressive(clip, request.deinterlace)
    if request.deinterlace:
        clip = replace(clip, interlaced=False)
    check_span(clip, request)
    coding = coding_for(clip, output, request.codec, request.crf, request.preset)
    out = frame_size(clip, coding, request.scale, request.size)
    if coding.codec != FOLDER:
        check_writable(output, overwrite=request.overwrite)
    elif not request.resume and output.is_dir() and any(output.iterdir()) and not request.overwrite:
        raise UnwritableOutput(f"{str(output)!r} is not empty: let its frames be overwritten, or name another folder")
    if output.exists() and output.samefile(path):
        raise UnwritableOutput(f"{str(output)!r} is the input itself: choose another name")
    if effort_map is not None:
        effort_map = Path(effort_map)
        if effort_map.suffix.lower() not in (".mp4", ".mkv", ".mov"):
            raise InvalidRequest(f"effort map {str(effort_map)!r}: name a video, as map.mp4")
        check_writable(effort_map, overwrite=request.overwrite)
    copied = copied_streams(clip, output)
    name = model if isinstance(model, str | Path) else getattr(model, "name", type(model).__name__)
    ready = resolve_model(model, request.options.device).model
    seconds = clip.seconds
    if request.start is not None or request.stop is not None:
        seconds = min(seconds or math.inf, request.stop or math.inf) - (request.start or 0.0)
    budget = parse_budget(request.budget, seconds if math.isfinite(seconds) else 0.0)
    asked = asked_of(clip, request, coding, ready, out, budget)
    suffix = CODECS[coding.codec].part_suffix
    parts = open_parts(output, asked, suffix, resume=request.resume, restart=request.restart)
    try:
        began = time.perf_counter()
        head = list(islice(span(clip, request, None, Damage()), HEAD_FRAMES))
        reading = (time.perf_counter() - began) / max(1, len(head))
        if not head:
            raise UnreadableImage(f"{str(path)!r} has no frame in the span that was asked for")
        frames = [picture.pixels for picture in head]
        still = request.still if request.still is not None else parts.still
        still = noise_of(frames) if still is None else still
        whole = round(seconds * float(clip.rate)) if request.start or request.stop else clip.frames
        measured = Measured.of(ready, frames, out, budget, still, request, coding, clip, reading)
        forecast, clock = measured.forecast(whole, parts.frames, out, budget, still, clip, coding)
    except BaseException:
        if parts.frames:
            parts.close()
        else:  # nothing that a later run could go on with
            parts.discard()
        raise
    return VideoJob(
        clip, output, effort_map, request, coding, copied, ready, str(name), out, budget, still, parts, forecast, clock
    )


def frame_size(clip: Clip, coding: Coding, scale: object, size: Sides | None) -> Size:
    """The size (rows, columns) of the frames, in sides that the codec holds. Raises InvalidRequest."""
    exactly = size is not None and None not in size
    return wanted_size(clip.size, None, fitted(wanted_size(clip.size, scale, size), coding, asked=exactly))


def upscale_video(
    path: str | Path,
    output: str | Path,
    scale: float | tuple[float, float] | None = None,
    *,
    model: str | Path | LoadedModel | Model = "fast",
    effort_map: str | Path | None = None,
    progress: Callable[[Progress], bool | None] | None = None,
    **asked: Any,
) -> VideoReport:
    """Enlarge a video file by `scale` (a factor, or rows × columns), or to a `size` (rows, columns).

    Every field of `VideoRequest` is an argument: `budget`, `codec`, `still`, `resume`, … Raises what `plan_video` and
    `VideoJob.run` raise, all children of ScalewiseError.
    """
    request = VideoRequest(scale=scale, **asked)
    return plan_video(path, output, request, model=model, effort_map=effort_map).run(progress)


def _painted(enlarged: Enlarged, frame: np.ndarray) -> np.ndarray:
    """The effort map of a frame over its gray input, with even sides."""
    gray = torch.from_numpy(frame[..., :3].astype(np.float32).mean(-1) / (65535 if frame.dtype == np.uint16 else 255))
    picture = paint(torch.from_numpy(enlarged.effort), enlarged.unit, gray).numpy()
    rows, columns = _even(frame.shape[:2])
    return np.pad(picture, ((0, rows - picture.shape[0]), (0, columns - picture.shape[1]), (0, 0)), mode="edge")


def _even(size: tuple[int, ...]) -> Size:
    return size[0] + size[0] % 2, size[1] + size[1] % 2
