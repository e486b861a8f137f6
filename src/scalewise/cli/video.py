"""`scalewise video`: a clip, larger."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalewise.cli.format import amount, duration, format_line, memory, progress_bar
from scalewise.cli.options import (
    FILES,
    RUNNING,
    Device,
    Fp32,
    Number,
    Overwrite,
    Quiet,
    Threads,
    TileSide,
    check_files,
    run_options,
    use_threads,
    write_json,
)
from scalewise.cli.upscale_options import MaxMemory, Model, Scale, Size
from scalewise.errors import InvalidRequest

if TYPE_CHECKING:
    from scalewise.video.report import Forecast, Progress, VideoReport

ENCODING, TIME = "How it is encoded", "In time"
LINE_SECONDS = 30.0  # between two lines of progress where there is no terminal

Input = Annotated[Path, typer.Argument(metavar="IN", help="A video file.")]
Output = Annotated[
    Path, typer.Argument(metavar="OUT", help="A file: .mp4 .mkv .mov .webm; or a folder, for PNG files.")
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="SHARE|SECONDS|realtime",
        help="A share of what all frames cost in full: 40%; or a time for the whole clip: realtime, 90s, 2min, 1h. "
        "Default: 100%.",
    ),
]
Codec = Annotated[
    str | None,
    typer.Option(
        "--codec",
        metavar="NAME",
        help="h264, hevc, av1, ffv1, prores, png-folder. Default: h264, hevc for more than 8 bits.",
        rich_help_panel=ENCODING,
    ),
]
Crf = Annotated[
    int | None,
    typer.Option(
        "--crf",
        metavar="N",
        help="Quality of h264, hevc (0 to 51) and av1 (0 to 63); less is better. Default: 18, 20, 26.",
        rich_help_panel=ENCODING,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset", metavar="NAME", help="The encoder's own: veryfast, slow; 0 to 13 for av1.", rich_help_panel=ENCODING
    ),
]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="TIME", help="Begin here: 00:01:30, 1:30 or 90.", rich_help_panel=TIME),
]
To = Annotated[str | None, typer.Option("--to", metavar="TIME", help="End here.", rich_help_panel=TIME)]
Still = Annotated[
    float | None,
    typer.Option(
        "--still",
        metavar="LEVELS",
        help="A patch whose pixels differ by no more keeps its output. 0: the result is that of frame by frame; -1: "
        "nothing is kept. Default: the noise of the codec, measured, at most 2.",
        rich_help_panel=TIME,
    ),
]
Refresh = Annotated[
    int,
    typer.Option(
        "--refresh",
        metavar="N",
        help="Compute a patch that differs at all again after N frames; 0: never.",
        rich_help_panel=TIME,
    ),
]
Deinterlace = Annotated[
    bool, typer.Option("--deinterlace", help="Make whole frames of an interlaced clip (bwdif).", rich_help_panel=TIME)
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on where an earlier run of the same command ended.", rich_help_panel=RUNNING),
]
Restart = Annotated[
    bool, typer.Option("--restart", help="Drop what an unfinished run left, and begin.", rich_help_panel=RUNNING)
]
EffortMap = Annotated[
    Path | None,
    typer.Option("--effort-map", metavar="MP4", help="A second video: where the work went.", rich_help_panel=FILES),
]
Report = Annotated[
    Path | None, typer.Option("--report", metavar="JSON", help="Write the costs as JSON.", rich_help_panel=FILES)
]


def video(
    input: Input,
    output: Output,
    scale: Scale = None,
    size: Size = None,
    name: Model = "fast",
    budget: Budget = None,
    codec: Codec = None,
    crf: Crf = None,
    preset: Preset = None,
    start: From = None,
    stop: To = None,
    still: Still = None,
    refresh: Refresh = 250,
    deinterlace: Deinterlace = False,
    resume: Resume = False,
    restart: Restart = False,
    effort_map: EffortMap = None,
    report: Report = None,
    overwrite: Overwrite = False,
    tile: TileSide = 0,
    device: Device = None,
    dtype: Number = "auto",
    fp32: Fp32 = False,
    threads: Threads = None,
    max_memory: MaxMemory = None,
    quiet: Quiet = False,
) -> None:
    """Enlarge a video: what does not change is kept, and the budget goes where picture and moment need it.

    scalewise video talk.mp4 talk_x2.mp4 -s 2 --budget 40%
    """
    if (scale is None) == (size is None):
        raise InvalidRequest("say how large, by one of these: -s 2, --size 3840x2160")
    if resume and restart:
        raise InvalidRequest("--resume and --restart contradict each other: leave one out")
    if refresh < 0:
        raise InvalidRequest(f"--refresh {refresh} is out of range: frames, or 0 for never")
    use_threads(threads)
    check_files([report], overwrite=overwrite)

    from scalewise.geometry.sizes import parse_scale, parse_size
    from scalewise.video.convert import plan_video
    from scalewise.video.request import VideoRequest

    request = VideoRequest(
        scale=None if scale is None else parse_scale(scale),
        size=None if size is None else parse_size(size),
        budget=budget,
        codec=codec,
        crf=crf,
        preset=preset,
        start=parse_time("--from", start),
        stop=parse_time("--to", stop),
        still=still,
        refresh=refresh,
        deinterlace=deinterlace,
        resume=resume,
        restart=restart,
        overwrite=overwrite,
        options=run_options(tile, device, dtype, fp32, max_memory=max_memory),
    )
    job = plan_video(input, output, request, model=name, effort_map=effort_map)
    if not quiet:
        typer.echo(f"scalewise: {announcement(output, job.forecast, job.parts.frames)}", err=True)
    with progress_bar(quiet) as bar:
        found = job.run(_Shown(output.name, bar, quiet))
    if report is not None:
        value = {"input": str(input), "output": str(output), "model": job.name, **found.as_dict()}
        write_json(report, value, overwrite=overwrite)
    if not quiet:
        typer.echo(summary(job.name, found, str(output)))


class _Shown:
    """Progress as a bar with the time left, or as a line every half minute where there is no terminal."""

    def __init__(self, name: str, bar: Any, quiet: bool) -> None:
        import sys

        self.name, self.bar = name, bar
        self.lines = not quiet and not sys.stderr.isatty()
        self.next = time.monotonic() + LINE_SECONDS

    def __call__(self, progress: Progress) -> None:
        of = f" of {progress.frames}" if progress.frames else ""
        text = f"{self.name} {progress.done}{of} frames, {progress.rate:.2f} a second"
        self.bar(text, min(1.0, progress.done / max(progress.frames, progress.done, 1)))
        if self.lines and time.monotonic() >= self.next:
            self.next = time.monotonic() + LINE_SECONDS
            left = f", {duration(progress.left)} left" if progress.frames else ""
            typer.echo(f"scalewise: {format_line(text)}{left}", err=True)


def parse_time(option: str, text: str | None) -> float | None:
    """`90`, `1:30`, `00:01:30.5` → seconds. Raises InvalidRequest."""
    if text is None:
        return None
    parts = text.strip().split(":")
    try:
        if not 1 <= len(parts) <= 3 or not all(part.isdecimal() for part in parts[:-1]):
            raise ValueError
        numbers = [float(part) for part in parts]
        if not all(0 <= number < 1e7 for number in numbers) or any(number >= 60 for number in numbers[1:]):
            raise ValueError
    except ValueError:
        raise InvalidRequest(f"{option} {text[:40]!r} is not a time: write 00:01:30, 1:30 or 90") from None
    return sum(number * 60**power for power, number in enumerate(reversed(numbers)))


def announcement(output: Path, forecast: Forecast, done: int) -> str:
    """What a clip will take, in one line."""
    rows, columns = forecast.size
    parts = [
        f"{output.name}: {forecast.frames or 'an unknown number of'} frames of {columns}x{rows}",
        f"about {duration(forecast.seconds)} if all moves as the first frames do",
        f"up to {memory(forecast.bytes)} of disk",
        f"still {forecast.still:g}",
    ]
    if done:
        parts.append(f"{done} frames are there")
    return format_line(", ".join(parts))


def summary(model: str, report: VideoReport, output: str) -> str:
    """One line about one clip."""
    rows, columns = report.size
    parts = [
        f"{report.frames} frames of {columns}x{rows}",
        model,
        f"{amount(report.macs)}MACs ({report.share:.1%} of full), {report.reused:.1%} of the patches kept",
        f"{report.seconds:.1f} s, {report.seconds / max(1, report.frames):.2f} s a frame",
        format_line(output),
    ]
    return "  ".join(parts) + "".join(f"; {note}" for note in report.notes)
