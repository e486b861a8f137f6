"""The folder of a run that is not finished: parts that can be played, and what is needed to go on.

`OUT.parts/` next to the output holds a video file for each run, `part-000.mp4` and so on, without sound, and
`run.jsonl`: what was asked for, and for each window of frames their times, and then what they cost. A part that was cut
off counts up to its last keyframe; the next run begins there with a new one.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from scalewise.errors import InvalidRequest, UnwritableOutput
from scalewise.storage import append_line, locked, read_lines
from scalewise.video.frames import Spent

RECORDS = "run.jsonl"


@dataclass
class Part:
    """One file of encoded frames: `count` of them are whole, shown at `times`."""

    path: Path
    times: list[int]
    count: int = 0

    @property
    def shown(self) -> list[int]:
        """The times of the frames that count."""
        return self.times[: self.count]


@dataclass
class Parts:
    """What earlier runs finished, and the place for this one. Held by one process at a time; close it."""

    folder: Path
    done: list[Part] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)
    still: float | None = None  # that an earlier run measured
    _number: int = 0
    _stack: ExitStack = field(default_factory=ExitStack)

    @property
    def frames(self) -> int:
        """Frames that earlier runs finished."""
        return sum(part.count for part in self.done)

    @property
    def last_time(self) -> int | None:
        """When the last of them is shown."""
        times = [part.times[part.count - 1] for part in self.done if part.count]
        return times[-1] if times else None

    def path(self, kind: str, suffix: str, number: int | None = None) -> Path:
        return self.folder / f"{kind}-{self._number if number is None else number:03}.{suffix}"

    def begin(self, suffix: str) -> Path:
        """The file of this run."""
        append_line(self.folder / RECORDS, {"part": self._number})
        return self.path("part", suffix)

    def announce(self, times: list[int], still: float) -> None:
        """Frames that are shown at these times come next."""
        append_line(self.folder / RECORDS, {"part": self._number, "times": times, "still": still})

    def record(self, spent: Spent) -> None:
        """What the frames that came took."""
        append_line(self.folder / RECORDS, {"spent": asdict(spent)})

    def closed(self) -> None:
        """The file of this run was ended as it should be: all its frames count."""
        append_line(self.folder / RECORDS, {"closed": self._number})

    def close(self) -> None:
        self._stack.close()

    def discard(self) -> None:
        """The output is there: remove the folder."""
        self._stack.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def folder_of(output: Path) -> Path:
    return output.with_name(output.name + ".parts")


def open_parts(output: Path, request: dict[str, Any], suffix: str, *, resume: bool, restart: bool) -> Parts:
    """The parts of a run for `output`. Without `resume`, a folder that is there is refused unless `restart` drops it.

    Raises InvalidRequest if an earlier run was asked for something else, UnwritableOutput if another process holds it.
    """
    folder = folder_of(output)
    if restart and folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists() and not resume and (folder / RECORDS).exists():
        raise InvalidRequest(f"{str(folder)!r} holds an unfinished run: resume it, or restart to drop it")
    if resume and not (folder / RECORDS).exists():
        resume = False  # nothing to go on with: begin
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UnwritableOutput(f"cannot make folder {str(folder)!r}: {error.strerror}") from error
    parts = Parts(folder)
    parts._stack.enter_context(locked(folder / "lock", f"{str(folder)!r} is in use by another run"))
    try:
        if resume:
            _read(parts, request, suffix, output)
        else:
            append_line(folder / RECORDS, {"request": request})
    except BaseException:
        parts.close()
        raise
    return parts


def _read(parts: Parts, request: dict[str, Any], suffix: str, output: Path) -> None:
    lines = read_lines(parts.folder / RECORDS)
    asked = next((line["request"] for line in lines if "request" in line), None)
    if asked != request:
        changed = sorted(key for key in request if not isinstance(asked, dict) or asked.get(key) != request[key])
        raise InvalidRequest(
            f"{str(parts.folder)!r} was made with another {', '.join(changed)}: ask for the same again, or restart to "
            "drop it"
        )
    closed = {line["closed"] for line in lines if "closed" in line}
    times: dict[int, list[int]] = {}
    for line in lines:
        if "times" in line:
            times.setdefault(line["part"], []).extend(line["times"])
            parts.still = line["still"]
        if "spent" in line:
            spent = dict(line["spent"])
            spent["exits"] = {int(level): count for level, count in spent["exits"].items()}
            spent["notes"] = tuple(spent["notes"])
            parts.spent.add(Spent(**spent))
    numbers = sorted({line["part"] for line in lines if "part" in line})
    parts._number = numbers[-1] + 1 if numbers else 0
    for number in numbers:
        own = times.get(number, [])
        path = parts.path("part", suffix, number)
        count = _files(output, parts.frames, len(own)) if not suffix else whole_frames(path, number in closed)
        if min(count, len(own)):
            parts.done.append(Part(path, own, min(count, len(own))))
    parts.spent.frames = parts.frames


def whole_frames(path: Path, closed: bool) -> int:
    """Frames of a part that can be used: all of one that was ended, or cut off between two fragments (which begin at
    keyframes), else those before its last keyframe."""
    import av
    from av import error as errors

    count = last_key = 0
    closed = closed or _ends_with_a_fragment(path)
    try:
        with av.open(str(path)) as container:
            for packet in container.demux(video=0):
                if packet.size == 0 or packet.pts is None:
                    continue
                if packet.is_keyframe:
                    last_key = count
                count += 1
    except (errors.FFmpegError, OSError, IndexError):
        closed = False
    return count if closed else last_key


def _ends_with_a_fragment(path: Path) -> bool:
    """True for an MP4 or MOV file whose last box is whole, and holds samples."""
    if path.suffix not in (".mp4", ".mov"):
        return False
    kind, at = b"", 0
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            while at + 8 <= size:
                file.seek(at)
                length, kind = struct.unpack(">I4s", file.read(8))
                if length == 1:
                    length = struct.unpack(">Q", file.read(8))[0]
                if length < 8:
                    return False
                at += length
    except (OSError, struct.error):
        return False
    return at == size and kind == b"mdat"


def _files(folder: Path, before: int, most: int) -> int:
    """PNG files of one run, whose first number follows `before`."""
    count = 0
    while count < most and (folder / f"{before + count + 1:06}.png").exists():
        count += 1
    return count


def packets(part: Part) -> Iterator[tuple[Any, int, int]]:
    """The packets of a part that count, with the times at which they are shown and decoded, in the clip's own units."""
    import av

    with av.open(str(part.path)) as container:
        shown = sorted(p.pts for p in container.demux(video=0) if p.size and p.pts is not None)
    rank = {pts: k for k, pts in enumerate(shown)}
    with av.open(str(part.path)) as container:
        stream = container.streams.video[0]
        for packet in container.demux(stream):
            if packet.size == 0 or packet.pts is None or rank[packet.pts] >= part.count:
                continue
            delay = 0 if packet.dts is None else packet.dts - shown[0]
            yield packet, part.times[rank[packet.pts]], delay
