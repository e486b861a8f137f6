"""What became of each picture of a folder: a line of JSON for each, which a later run reads."""

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
    what was asked for), `status` "done" or "failed", and the report or the error. The last line of an input counts.
    `with Manifest.of(folder, request) as manifest` keeps other runs away.
    """

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        self.path = path
        self.request = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]
        found = read_lines(path)
        self.lines = {line["input"]: line for line in found if "input" in line and "status" in line}
        self._claims = {
            name for line in found if line.get("request") == self.request for name in line.get("claims", ())
        }

    @classmethod
    @contextmanager
    def of(cls, folder: Path, request: Mapping[str, Any]) -> Iterator[Manifest]:
        """The manifest in `folder`, which is there. Raises UnwritableOutput if another run holds it."""
        path = folder / MANIFEST
        with locked(path, f"another run is writing to {str(folder)!r}: wait for it, or name another folder"):
            try:
                yield cls(path, request)
            finally:
                if not path.stat().st_size:
                    path.unlink()

    def known(self, source: Path, output: Path) -> dict[str, Any] | None:
        """What an earlier run with the same request wrote of a picture that has not changed, if that is still so:
        a result that is there, or an input that could not be read."""
        line = self.lines.get(_absolute(source))
        if line is None or (line["request"], line["output"]) != (self.request, _absolute(output)):
            return None
        if line.get("stamp") != stamp(source):
            return None
        there = os.path.lexists(output) if line["status"] == "done" else line.get("final", False)
        return line if there else None

    def claim(self, outputs: Iterable[Path]) -> None:
        """Say which results are not there yet: one that a killed run made, and did not write down, is ours."""
        names = sorted({_absolute(output) for output in outputs} - self._claims)
        if names:
            append_line(self.path, {"request": self.request, "claims": names})
            self._claims.update(names)

    def claimed(self, output: Path) -> bool:
        """True if a run with the same request was to make this result."""
        return _absolute(output) in self._claims

    def done(self, source: Path, output: Path, report: Mapping[str, Any]) -> None:
        self._add(source, output, {"status": "done", "report": dict(report)})

    def failed(self, source: Path, output: Path, message: str, *, final: bool) -> None:
        """`final`: it would fail again, as long as the input is the same."""
        self._add(source, output, {"status": "failed", "error": message, "final": final})

    def _add(self, source: Path, output: Path, result: Mapping[str, Any]) -> None:
        line = {"input": _absolute(source), "output": _absolute(output), "request": self.request}
        line |= {"stamp": stamp(source), **result}
        append_line(self.path, line)
        self.lines[line["input"]] = line


def _absolute(path: Path) -> str:
    return os.path.abspath(path)
