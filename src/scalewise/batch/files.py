"""Many pictures: which files were meant, where each result goes, and a manifest of what became of each."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scalewise.errors import InvalidRequest, UnreadableImage, UnwritableOutput
from scalewise.images import READABLE, WRITABLE

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["MANIFEST", "Manifest", "expand", "output_path", "plan"]

StrPath = str | os.PathLike[str]

MANIFEST = "scalewise.jsonl"  # in the folder of the results


def expand(inputs: Iterable[StrPath], recursive: bool = False) -> list[Path]:
    """The pictures that `inputs` name: files as they are, folders by the pictures in them, sorted; none twice.

    In folders, files count whose extension is in `images.READABLE` and whose name does not start with a dot.
    `recursive` goes into sub-folders, but not through symbolic links, which may lead in circles.
    """
    return [path for path, _ in _walk(inputs, recursive)]


def output_path(input: StrPath, out: StrPath | None, suffix: str, ext: str | None = None) -> Path:
    """Where the result of one input goes.

    `out` None: beside the input, `photo.jpg` → `photo_x3.7.jpg` with suffix `_x3.7`. `out` a folder, or ending in a
    slash: the same name in there. Otherwise `out` is the file. `ext` sets the format (`.png`); without it the input's
    is kept if it can be written, else `.png`.
    """
    input = Path(input)
    if ext is None:
        ext = input.suffix if input.suffix.lower() in WRITABLE else ".png"
    name = f"{input.stem}{suffix}{ext}"
    if out is None:
        return input.with_name(name)
    return Path(out) / name if _is_folder(out) else Path(out)


def plan(
    inputs: Iterable[StrPath], out: StrPath | None, suffix: str, ext: str | None = None, *, recursive: bool = False
) -> list[tuple[Path, Path]]:
    """(input, output) for all pictures; sub-folders of an input folder are kept below `out`. Makes no folder itself."""
    pairs: list[tuple[Path, Path]] = []
    taken: dict[Path, Path] = {}
    found = list(_walk(inputs, recursive))
    if out is not None and len(found) > 1 and not _is_folder(out):
        raise InvalidRequest(f"{len(found)} inputs cannot all go to {str(out)!r}; name a folder (end it with /)")
    for path, below in found:
        # The slash survives, as the sub-folder may have to be made.
        target = out if out is None or below == Path() else f"{os.fspath(out)}/{below}/"
        output = output_path(path, target, suffix, ext)
        if out is not None:
            _check_links(Path(out), below)
        if output in taken:
            first, second, name = str(taken[output]), str(path), str(output)
            raise InvalidRequest(f"{first!r} and {second!r} would both go to {name!r}; write them to two folders")
        taken[output] = path
        pairs.append((path, output))
    inputs_too = {path for path, _ in found} & taken.keys()
    if inputs_too:  # as in a second run over a folder that holds the results of the first
        first, name = str(taken[min(inputs_too)]), str(min(inputs_too))
        raise InvalidRequest(f"{first!r} would go to {name!r}, which is an input too; write to another folder")
    return pairs


def _check_links(out: Path, below: Path) -> None:
    """A sub-folder of `out` that is a link would take results elsewhere. Raises UnwritableOutput."""
    for folder in (out / parent for parent in (below, *below.parents) if parent.parts):
        if folder.is_symlink():
            raise UnwritableOutput(f"{str(folder)!r} is a link, and results would leave {str(out)!r}: remove it")


def _walk(inputs: Iterable[StrPath], recursive: bool) -> Iterator[tuple[Path, Path]]:
    """(path, its folder relative to the input folder that it was found in)."""
    seen: set[str] = set()
    for name in inputs:
        start = Path(name)
        try:
            is_folder = start.is_dir()
            if not is_folder:
                start.stat()
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise UnreadableImage(f"cannot open {str(start)!r}: {why}") from error
        paths = _pictures(start, recursive) if is_folder else [start]
        if not paths:
            hint = "" if recursive else " (sub-folders were not searched)"
            allowed = " ".join(sorted(READABLE))
            raise UnreadableImage(f"folder {str(start)!r} holds no picture{hint}; allowed are {allowed}")
        for path in paths:
            real = os.path.realpath(path)
            if real not in seen:
                seen.add(real)
                yield path, path.parent.relative_to(start) if is_folder else Path()


def _pictures(folder: Path, recursive: bool) -> list[Path]:
    found: list[Path] = []
    for parent, folders, files in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        paths = (Path(parent, name) for name in files if not name.startswith("."))
        found += [path for path in paths if path.suffix.lower() in READABLE]
    return sorted(found)


def _is_folder(out: StrPath) -> bool:
    return os.fspath(out).endswith(("/", os.sep)) or Path(out).is_dir()


# --- what is done -----------------------------------------------------------------------------------------------------


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


def stamp(path: Path) -> list[int] | None:
    """Size and date of a file; None if it is not there."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Add a line of JSON that is on the disk when this returns. Raises UnwritableOutput."""
    text = json.dumps(value) + "\n"
    try:
        with path.open("ab") as file:
            if file.tell() and not _ends_a_line(path):
                text = "\n" + text  # the last run was killed while it wrote
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UnwritableOutput(f"could not write {str(path)!r}: {error.strerror}") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of such a file; none if it is not there, and without lines that were cut off."""
    found: list[dict[str, Any]] = []
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return found
    except OSError as error:
        raise UnwritableOutput(f"cannot read {str(path)!r}: {error.strerror}") from error
    for line in content.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


@contextmanager
def locked(path: Path, message: str) -> Iterator[None]:
    """Hold `path`, which is made, against other processes. Raises UnwritableOutput with `message`."""
    try:
        with path.open("ab") as file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise UnwritableOutput(message) from None
                except OSError:  # a network disk without locks
                    pass
            yield
    except PermissionError as error:
        raise UnwritableOutput(f"cannot write {str(path)!r}: {error.strerror}") from error


def _absolute(path: Path) -> str:
    return os.path.abspath(path)
