"""Parts and the streams of the input that are copied, as one file: nothing is encoded again."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from scalewise.errors import UnwritableOutput
from scalewise.storage import atomic_write
from scalewise.video.clip import Clip, opened, video_stream
from scalewise.video.formats import MUXERS
from scalewise.video.parts import Part, packets
from scalewise.video.writer import written


@dataclass(frozen=True)
class Copied:
    """Streams of the input that go to the output as they are, by their numbers; `notes` say what cannot."""

    streams: tuple[int, ...]
    notes: tuple[str, ...] = ()


def copied_streams(clip: Clip, output: Path) -> Copied:
    """What can be copied to a file of this name. Raises UnwritableOutput for sound that it cannot hold."""
    import av

    with opened(clip.path) as source:
        own = video_stream(clip.path, source).index
        others = [stream for stream in source.streams if stream.index != own]
        if not MUXERS.get(output.suffix.lower()):
            kinds = sorted({stream.type for stream in others})
            return Copied((), (f"a folder of pictures holds no {', no '.join(kinds)}",) if kinds else ())
        with av.open("/dev/null" if Path("/dev/null").exists() else "NUL", "w", format=_muxer(output)) as target:
            known = target.supported_codecs
        chosen, notes = [], []
        for stream in others:
            name = stream.codec_context.name if getattr(stream, "codec_context", None) is not None else stream.type
            canonical = {"srt": "subrip"}.get(name, name)
            if stream.type in ("audio", "subtitle") and (canonical in known or name in known):
                chosen.append(stream.index)
            elif stream.type == "audio":
                raise UnwritableOutput(
                    f"{str(output)!r} cannot hold the sound of the input ({name}): write to a name that ends with .mkv"
                )
            elif stream.type == "attachment" and output.suffix.lower() == ".mkv":
                chosen.append(stream.index)
            else:
                hint = ": .mkv holds it" if stream.type == "subtitle" and output.suffix.lower() != ".mkv" else ""
                notes.append(f"stream {stream.index} ({stream.type}, {name}) was left out{hint}")
    return Copied(tuple(chosen), tuple(notes))


def _muxer(output: Path) -> str:
    return MUXERS[output.suffix.lower()]


def join(
    parts: Sequence[Part],
    output: Path,
    clip: Clip,
    copied: Copied | None,
    *,
    note: str,
    first: int | None = None,
    stop: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write `parts`, and the streams of the clip that are `copied`, to `output`; atomic.

    What lies before the time `first` and from `stop` on is left out, in units of the clip's time base; with `first` the
    output begins at 0. Raises UnwritableOutput.
    """
    import av

    shift = 0 if first is None else first
    options = {"movflags": "+faststart+use_metadata_tags"} if _muxer(output) in ("mp4", "mov") else {}
    with (
        atomic_write(output, overwrite=overwrite) as temporary,
        opened(clip.path) as source,
        written(output),
        av.open(str(parts[0].path)) as template,
        av.open(str(temporary), "w", format=_muxer(output), options=options) as target,
    ):
        own = video_stream(clip.path, source)
        made: Any = target.add_stream_from_template(template.streams.video[0], opaque=True)
        made.time_base = clip.time_base
        made.codec_context.framerate = clip.rate  # or that of the encoder's clock, which ticks as the time base does
        made.metadata.update(
            {key: value for key, value in own.metadata.items() if key.lower() in ("language", "title")}
        )
        others: dict[int, Any] = {}
        if copied is not None:
            for index in copied.streams:
                stream: Any = source.streams[index]
                if stream.type == "attachment":
                    target.add_attachment(stream.name or "file", stream.mimetype or "", stream.data)
                    continue
                others[index] = target.add_stream_from_template(stream)
                others[index].metadata.update(stream.metadata)
                others[index].disposition = stream.disposition
            target.metadata.update(source.metadata)
            chapters = _chapters(source, shift * clip.time_base, None if stop is None else stop * clip.time_base)
            if chapters:
                target.set_chapters(chapters)
        target.metadata.pop("encoder", None)
        target.metadata["comment"] = "; ".join([*filter(None, [target.metadata.get("comment")]), note])
        end = None if own.duration is None else (own.start_time or 0) + own.duration
        video = _video(parts, made, clip, shift, end)
        rest = _copied(source, others, first, stop, clip) if others else iter(())
        count = 0
        for _, packet in heapq.merge(video, rest, key=lambda pair: pair[0]):
            count += packet.stream is made
            target.mux_one(packet)
        if count != (wanted := sum(part.count for part in parts)):
            raise UnwritableOutput(
                f"{str(output)!r}: {count} of {wanted} frames could be read from {str(parts[0].path)!r}"
            )


def _video(parts: Sequence[Part], made: Any, clip: Clip, shift: int, end: int | None) -> Iterator[tuple[Fraction, Any]]:
    """The packets of all parts, each until the next frame is shown, the last one until the `end` of the input."""
    last: int | None = None
    shown = [time for part in parts for time in part.shown]
    lengths = {time: after - time for time, after in itertools.pairwise(shown)}
    longest = max(lengths.values(), default=round(1 / (clip.rate * clip.time_base)))
    if end is not None and 0 < end - shown[-1] <= longest:  # else the input was cut, or is truncated
        lengths[shown[-1]] = end - shown[-1]
    for part in parts:
        for packet, time, delay in packets(part):
            decoded = part.times[0] - shift + round(delay * packet.time_base / clip.time_base)
            if last is not None and decoded <= last:
                decoded = last + 1
            last = decoded
            length = round((packet.duration or 0) * packet.time_base / clip.time_base)
            packet.time_base, packet.duration = clip.time_base, lengths.get(time, length)
            packet.pts, packet.dts = time - shift, min(decoded, time - shift)
            packet.stream = made
            yield decoded * clip.time_base, packet


def _copied(
    source: Any, others: dict[int, Any], first: int | None, stop: int | None, clip: Clip
) -> Iterator[tuple[Fraction, Any]]:
    begin = Fraction(0) if first is None else first * clip.time_base
    end = None if stop is None else stop * clip.time_base
    if first is not None:
        source.seek(int(begin * 1_000_000), backward=True)
    for packet in source.demux([source.streams[index] for index in others]):
        if packet.size == 0 or packet.pts is None:
            continue
        when = packet.pts * packet.time_base
        if when < begin and first is not None:
            continue
        if end is not None and when >= end:
            continue
        shift = round(begin / packet.time_base)
        packet.pts -= shift
        if packet.dts is not None:
            packet.dts -= shift
        packet.stream = others[packet.stream.index]
        yield (packet.pts if packet.dts is None else packet.dts) * packet.time_base, packet


def _chapters(source: Any, begin: Fraction, end: Fraction | None) -> list[Any]:
    found = []
    for chapter in source.chapters():
        base = chapter["time_base"]
        start, stop = chapter["start"] * base - begin, chapter["end"] * base - begin
        if stop <= 0 or (end is not None and start >= end - begin):
            continue
        found.append({**chapter, "start": max(0, round(start / base)), "end": round(stop / base)})
    return found
