"""A video to read: what its streams say, and its frames one after another."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scalewise.budget.meter import tick
from scalewise.errors import InvalidRequest, MissingDependency, UnreadableImage
from scalewise.geometry.grid import Size
from scalewise.images.source import MAX_PIXELS
from scalewise.video.colour import Colour, Layout, decoded

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

DEFAULT_RATE = Fraction(25)  # frames per second of a file that names none
FIELD_ORDERS = {0: "unknown", 1: "progressive", 2: "tt", 3: "bb", 4: "tb", 5: "bt"}  # FFmpeg's AVFieldOrder
# Files that hold their streams, and no playlists: these would make FFmpeg open what they name, here or elsewhere.
CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,mxf,ivf,gif,yuv4mpegpipe,h264,hevc,obu,m4v,mpegvideo,dv"
OPENING = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
MAX_GROWTH = 4  # pixels of any frame over those that the file names, from which on it is not decoded
MAX_DAMAGED = 100  # packets in a row that cannot be decoded: then the file is given up


@dataclass(frozen=True)
class Clip:
    """What is known of a video before its frames are decoded.

    `size` is (rows, columns) as it is shown, after turning by `rotation` degrees (a multiple of 90, anticlockwise).
    `pixel_aspect` is the width of a pixel over its height. Times are in units of `time_base`. `frames` is the number of
    frames that the file names, or that its length makes likely; where it does not say how long it is, they are counted.
    """

    path: Path
    index: int
    size: Size
    rotation: int
    layout: Layout
    colour: Colour
    time_base: Fraction
    rate: Fraction
    start: int
    frames: int
    seconds: float
    pixel_aspect: Fraction | None
    interlaced: bool
    codec: str
    hdr: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def ticks(self, seconds: float) -> int:
        """A time from the start of the clip in its own units."""
        return self.start + round(Fraction(seconds).limit_denominator(10**6) / self.time_base)


@dataclass(frozen=True)
class Picture:
    """One frame: `pixels` (h, w, 3 or 4), uint8 or uint16, upright; when it is shown, in units of the time base."""

    pixels: np.ndarray
    time: int


@dataclass
class Damage:
    """What could not be decoded: packets, and fields of frames that are interlaced."""

    packets: int = 0
    interlaced: int = 0


def open_clip(path: Path, *, max_pixels: int = MAX_PIXELS) -> Clip:
    """Look at a video, and decode its first frame. Raises UnreadableImage in one line for what is no video, and before
    that for frames of more than `max_pixels`."""
    with opened(path) as container:
        stream = video_stream(path, container)
        if stream.width * stream.height > max_pixels:
            raise UnreadableImage(
                f"{str(path)!r} has frames of {stream.width}x{stream.height}, "
                f"{stream.width * stream.height / 1e6:.1f} megapixels; at most {max_pixels / 1e6:.1f} are read"
            )
        frame = next(_decoded(path, container, stream, Damage()), None)
        if frame is None:
            raise UnreadableImage(f"{str(path)!r} has a video stream without a frame that can be decoded")
        base = stream.time_base or Fraction(1, 90000)
        rate = stream.average_rate or stream.guessed_rate or DEFAULT_RATE
        frames, seconds = stream.frames, _seconds(container, stream, base)
        if seconds <= 0:
            frames, seconds = _counted(path, rate)
        rotation = round(frame.rotation) % 360
        if rotation % 90:
            raise UnreadableImage(f"{str(path)!r} is turned by {rotation} degrees: only multiples of 90 can be kept")
        size = (frame.height, frame.width) if rotation % 180 == 0 else (frame.width, frame.height)
        aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
        if aspect is not None and (aspect <= 0 or aspect == 1):
            aspect = None
        if aspect is not None and rotation % 180:
            aspect = 1 / aspect
        order = FIELD_ORDERS.get(stream.codec_context.field_order, "unknown")
        start = frame.pts if frame.pts is not None else stream.start_time or 0
        return Clip(
            path,
            stream.index,
            size,
            rotation,
            Layout.of(frame.format),
            Colour.of(stream.codec_context, frame),
            base,
            rate,
            start,
            frames or round(seconds * float(rate)),
            seconds,
            aspect,
            bool(frame.interlaced_frame) or order in ("tt", "bb", "tb", "bt"),
            stream.codec_context.name,
            _hdr(frame),
        )


def opened(path: Path) -> InputContainer:
    """The container of a file, to be used in a `with`. Raises UnreadableImage, MissingDependency."""
    try:
        import av
    except ModuleNotFoundError:
        raise MissingDependency("video is read and written by PyAV: pip install 'scalewise[video]'") from None
    from av import error as errors

    if not path.is_file():
        reason = "is a folder" if path.is_dir() else "does not exist"
        raise UnreadableImage(f"{str(path)!r} {reason}: name a video file")
    if path.stat().st_size == 0:
        raise UnreadableImage(f"{str(path)!r} is empty (0 bytes)")
    try:
        return av.open(str(path), metadata_errors="replace", options=OPENING)
    except errors.ArgumentError:  # not in CONTAINERS
        reason = "it is of another kind, as a playlist or a picture"
    except errors.EOFError:
        reason = "it ends before the first frame"
    except (errors.FFmpegError, ValueError) as error:
        reason = _reason(error)
    raise UnreadableImage(f"{str(path)!r} cannot be read as a video: {reason}")


def video_stream(path: Path, container: InputContainer) -> VideoStream:
    """The first video stream that is no cover picture. Raises UnreadableImage."""
    from av.stream import Disposition

    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        kinds = sorted({s.type for s in container.streams if s.type != "video"}) or ["no streams"]
        raise UnreadableImage(f"{str(path)!r} has no video stream (it has {', '.join(kinds)}): nothing to enlarge")
    if streams[0].codec_context is None:
        raise UnreadableImage(f"{str(path)!r} has a video stream in a codec that FFmpeg does not know")
    return streams[0]


def pictures(
    clip: Clip,
    *,
    first: int | None = None,
    stop: int | None = None,
    deinterlace: bool = False,
    damage: Damage | None = None,
) -> Iterator[Picture]:
    """The frames of a clip, upright and as RGB, whose times lie in [`first`, `stop`).

    Times rise strictly: a frame that says otherwise, or nothing, follows the one before it. Raises UnreadableImage for
    a frame of another size, and for a file in which nothing can be decoded any more.
    """
    damage = Damage() if damage is None else damage
    with opened(clip.path) as container:
        stream = video_stream(clip.path, container)
        if first is not None and first > clip.start:
            container.seek(first, stream=stream, backward=True)
        frames = _decoded(clip.path, container, stream, damage)
        if deinterlace:
            frames = _deinterlaced(frames, stream)
        step = max(1, round(1 / (clip.rate * clip.time_base)))
        last: int | None = None
        for frame in frames:
            time = frame.pts
            if time is None:
                time = clip.start if last is None else last + step
            if last is not None and time <= last:
                time = last + 1
            last = time
            if stop is not None and time >= stop:
                return
            if first is not None and time < first:
                continue
            damage.interlaced += bool(frame.interlaced_frame) and not deinterlace
            yield Picture(_upright(clip, frame), time)


def _upright(clip: Clip, frame: VideoFrame) -> np.ndarray:
    height, width = (frame.width, frame.height) if clip.rotation % 180 else (frame.height, frame.width)
    if (height, width) != clip.size:
        raise UnreadableImage(
            f"{str(clip.path)!r} changes from {clip.size[1]}x{clip.size[0]} to {width}x{height} at "
            f"{frame.time or 0:.2f} s: cut it there, and enlarge the parts"
        )
    pixels = decoded(frame, clip.layout, clip.colour)
    return np.ascontiguousarray(np.rot90(pixels, clip.rotation // 90)) if clip.rotation else pixels


def _decoded(path: Path, container: InputContainer, stream: VideoStream, damage: Damage) -> Iterator[VideoFrame]:
    """Frame by frame; packets that cannot be decoded are counted and left out, as players do. A run may end, by
    `meter.tick`, between two packets: a file can hold many before the next frame that is wanted."""
    from av import error as errors

    stream.thread_type = "AUTO"  # pyright: ignore[reportAttributeAccessIssue]
    # A frame may be larger than the file says; one that is much larger would fill the memory.
    most = MAX_GROWTH * max(stream.width * stream.height, 1 << 20)
    stream.codec_context.options = {"max_pixels": str(min(most, MAX_PIXELS))}
    in_a_row = 0
    packets = container.demux(stream)
    while True:
        tick()
        try:
            packet = next(packets, None)
        except errors.FFmpegError as error:  # the file ends in the middle of something
            damage.packets += 1
            if damage.packets == 1 and container.size == 0:
                raise UnreadableImage(f"{str(path)!r} cannot be read: {_reason(error)}") from None
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except errors.FFmpegError as error:
            damage.packets, in_a_row = damage.packets + 1, in_a_row + 1
            if in_a_row > MAX_DAMAGED:
                raise UnreadableImage(f"{str(path)!r} cannot be decoded: {_reason(error)}") from None
            continue
        in_a_row = 0 if frames else in_a_row
        yield from frames


def _deinterlaced(frames: Iterator[VideoFrame], stream: VideoStream) -> Iterator[VideoFrame]:
    """One frame for each, its missing lines interpolated by FFmpeg's bwdif."""
    from av.filter import Graph

    graph: Any = None
    for frame in frames:
        if graph is None:
            graph = Graph()
            source = graph.add_buffer(template=stream)
            graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=all"), graph.add("buffersink"))
            graph.configure()
        graph.push(frame)
        yield from _pulled(graph)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph)


def _pulled(graph: Any) -> Iterator[VideoFrame]:
    from av import error as errors

    while True:
        try:
            yield graph.vpull()
        except (errors.BlockingIOError, errors.EOFError):
            return


def check_progressive(clip: Clip, deinterlace: bool) -> None:
    """Raises InvalidRequest for an interlaced clip: its lines are of two moments, and would be mixed."""
    if clip.interlaced and not deinterlace:
        raise InvalidRequest(
            f"{str(clip.path)!r} is interlaced: ask for deinterlacing, or convert it to progressive frames first"
        )


def _seconds(container: InputContainer, stream: VideoStream, base: Fraction) -> float:
    if stream.duration is not None:
        return float(stream.duration * base)
    return (container.duration or 0) / 1e6


def _counted(path: Path, rate: Fraction) -> tuple[int, float]:
    """Frames and seconds of a file that does not say how long it is, as of one that was recorded while it was sent:
    its packets are counted."""
    from av import error as errors

    count, first, last = 0, math.inf, -math.inf
    with opened(path) as container:
        stream = video_stream(path, container)
        try:
            for packet in container.demux(stream):
                tick()
                count += packet.size > 0
                if packet.pts is not None:
                    first, last = min(first, packet.pts), max(last, packet.pts)
        except errors.FFmpegError:  # the file ends in the middle of something
            pass
        if last <= first or stream.time_base is None:
            return count, float(count / rate)
        return count, (last - first) * float(stream.time_base) + float(1 / rate)


def _hdr(frame: VideoFrame) -> dict[str, tuple[float, ...]]:
    """Mastering display and light levels, as far as the first frame has them."""
    from scalewise.video.hdr import light_of

    return light_of(frame)


def _reason(error: Exception) -> str:
    """FFmpeg's word for an error, without the name of the file."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__
