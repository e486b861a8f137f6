"""What came of each picture of a folder: a line of JSON for each, which a later run reads."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scalewise.storage import append_line, locked, read_lines, stamp

MANIFEST = "scalewise.jsonl"  # in the folder of the results


class Manifest:
    """A file with a line of JSON for each picture that is finished or has failed; a later run skips those.

    A line holds `input` and `output` as absolute paths, `stamp` (size and date of the input), `request` (a digest of
    what was asked for), and one of these:

    - `status` "done", with `made`, the stamp of the result, and the `report`
    - `status` "failed", with the `error`, and `final` if the same input would fail again
    - `arriving`, the stamp of a result that was about to get its name: a run that was killed then has made it

    The last line of an input counts. A result belongs to a run only as long as its stamp is the one in the file, so
    what somebody else puts in its place is never replaced. Lines of another form are passed over; `unusable` counts
    them. `with Manifest.of(folder, request) as manifest` keeps other runs away.
    """

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        self.path = path
        self.request = digest_of_request(request)
        self._lines: dict[str, dict[str, Any]] = {}  # by input: the last that says what came of it
        self._made: dict[str, dict[str, Any]] = {}  # by output: the last that says who made it
        self.unusable = 0
        for line in read_lines(path):
            if not _is_usable(line):
                self.unusable += 1
                continue
            self._take(line)

    @classmethod
    @contextmanager
    def of(cls, folder: Path, request: Mapping[str, Any]) -> Iterator[Manifest]:
        """The manifest in `folder`, which exists. Raises UnwritableOutput, also if another run holds it."""
        path = folder / MANIFEST
        with locked(path, f"another run is writing to {str(folder)!r}: wait for it, or name another folder"):
            try:
                yield cls(path, request)
            finally:
                if not path.stat().st_size:
                    path.unlink()

    def known(self, source: Path, output: Path) -> dict[str, Any] | None:
        """What an earlier run with the same request wrote of a picture that has not changed, if that is still so:
        there is a result, touched since or not, or the input could not be read."""
        line = self._lines.get(_absolute(source))
        if line is None or (line["request"], line["output"]) != (self.request, _absolute(output)):
            return None
        if line["stamp"] != stamp(source):
            return None
        if line["status"] == "done":
            return line if os.path.lexists(output) else None
        return line if line["final"] else None

    def lists(self, output: Path) -> bool:
        """True if a run for several pictures made what was at `output`, whatever was asked of it."""
        return _absolute(output) in self._made

    def owns(self, output: Path) -> bool:
        """True if the file that is at `output` was made by a run with this request and not touched since."""
        line, now = self._made.get(_absolute(output)), stamp(output)
        if line is None or now is None or os.path.islink(output):
            return False
        return line["request"] == self.request and _stamp_of_result(line) == now

    def done(self, source: Path, output: Path, report: Mapping[str, Any]) -> None:
        self._add(source, output, {"status": "done", "made": stamp(output), "report": dict(report)})

    def failed(self, source: Path, output: Path, message: str, *, final: bool) -> None:
        """`final`: it would fail again, as long as the input is the same."""
        self._add(source, output, {"status": "failed", "error": message, "final": final})

    def _add(self, source: Path, output: Path, result: Mapping[str, Any]) -> None:
        line = _line(self.request, source, output) | dict(result)
        append_line(self.path, line)
        self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        if "status" in line:
            self._lines[line["input"]] = line
        if _stamp_of_result(line) is not None:
            self._made[line["output"]] = line


def record_arrival(manifest: Path, request: str, source: Path, file: Path, arriving: list[int]) -> None:
    """Add a line that says that `file`, made from `source`, is about to get its name. Raises UnwritableOutput.

    It is added in one piece, so workers that do not hold the manifest may write it.
    """
    append_line(manifest, _line(request, source, file) | {"arriving": arriving})


def digest_of_request(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]


def results_in(folders: Iterable[Path]) -> dict[Path, Path]:
    """Result → input, for all results that the manifests in these folders list and that nobody has touched since."""
    found: dict[Path, Path] = {}
    for folder in folders:
        path = folder / MANIFEST
        if not os.path.lexists(path):
            continue
        for line in read_lines(path):
            if (
                _is_usable(line)
                and (made := _stamp_of_result(line)) is not None
                and stamp(Path(line["output"])) == made
            ):
                found[Path(line["output"])] = Path(line["input"])
    return found


def _line(request: str, source: Path, output: Path) -> dict[str, Any]:
    return {"input": _absolute(source), "output": _absolute(output), "request": request, "stamp": stamp(source)}


def _stamp_of_result(line: Mapping[str, Any]) -> list[int] | None:
    return line.get("made") or line.get("arriving")


def _is_usable(line: Mapping[str, Any]) -> bool:
    """True if a line has what this version writes, each of its kind."""
    if not all(isinstance(line.get(name), str) for name in ("input", "output", "request")):
        return False
    if not (line.get("stamp") is None or _is_stamp(line["stamp"])):
        return False
    match line.get("status"):
        case "done":
            return _is_stamp(line.get("made")) and isinstance(line.get("report"), dict)
        case "failed":
            return isinstance(line.get("error"), str) and isinstance(line.get("final"), bool)
        case None:
            return _is_stamp(line.get("arriving"))
    return False


def _is_stamp(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(number) is int for number in value)


def _absolute(path: Path) -> str:
    return os.path.abspath(path)
