"""Which pictures were meant, and where results, effort maps and reports go."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scalewise.cli.format import explain, format_line
from scalewise.errors import InvalidRequest, ScalewiseError, UnreadableImage, UnwritableOutput

if TYPE_CHECKING:
    from scalewise.batch.files import Found, FoundPicture, Why

SHOWN_NAMES = 5  # of the files that are passed over


@dataclass(frozen=True)
class PictureTask:
    """One picture: where it is, where its result goes, where its map and its report go.

    `top` and `effort_top`: the folders that may have to be made. `home`: the folder of the manifest that lists it.
    `overwrite`: files of these names may be replaced; `own`: those that an earlier run with the same request has made.
    `listed`: a manifest lists the output.
    """

    source: Path
    output: Path
    home: Path
    top: Path | None = None
    effort: Path | None = None
    effort_top: Path | None = None
    report: Path | None = None
    overwrite: bool = False
    own: frozenset[Path] = frozenset()
    listed: bool = False

    def may_replace(self, path: Path) -> bool:
        return self.overwrite or path in self.own

    @property
    def files(self) -> list[Path]:
        """The files that will be written."""
        return [path for path in (self.output, self.effort, self.report) if path is not None]


@dataclass
class Tasks:
    """What is to be done, an entry for each of several inputs that cannot be read, and what was passed over."""

    tasks: list[PictureTask] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    passed_over: dict[Why, list[Path]] = field(default_factory=dict)


def checked_suffix(suffix: str) -> str:
    if any(sign in suffix for sign in ("/", os.sep, "\0")):
        raise InvalidRequest(f"--suffix {suffix!r} cannot be part of a file name: choose the folder by -o")
    return suffix


def checked_ext(ext: str | None, output: str | None) -> str | None:
    """`png`, `.png` → `.png`; `auto` is the input's, as in Real-ESRGAN."""
    from scalewise.images import WRITABLE

    if ext is None or ext == "auto":
        return None
    ext = f".{ext.lower().lstrip('.')}"
    if ext not in WRITABLE:
        raise InvalidRequest(f"--ext {ext[1:]} cannot be written: allowed are {' '.join(sorted(WRITABLE))}")
    suffix = "" if output is None or output.endswith(("/", os.sep)) or os.path.isdir(output) else Path(output).suffix
    if suffix and suffix.lower() != ext:
        raise InvalidRequest(f"-o {output} and --ext {ext[1:]} contradict each other: leave one out")
    return ext


def find_tasks(
    names: list[str],
    output: str | None,
    effort_map: str | None,
    suffix: str,
    ext: str | None,
    recursive: bool,
    several: bool,
) -> Tasks:
    """The pictures that were meant, and where everything goes. Raises InvalidRequest, UnreadableImage."""
    from scalewise.batch import files

    found, tasks = _found(names, recursive, several)
    found = files.without_results(found, output)
    tasks.passed_over = found.passed_over
    from_folder = any(os.path.isdir(name) for name in names)
    top = files.output_folder(output, from_folder)
    planned = files.plan_outputs(found.pictures, output, suffix, ext)
    efforts, effort_top = _effort_maps(found.pictures, effort_map, several, from_folder)
    tasks.tasks = [
        PictureTask(one.source, one.output, one.home, top, effort, effort_top)
        for one, effort in zip(planned, efforts, strict=True)
    ]
    return tasks


def _found(names: list[str], recursive: bool, several: bool) -> tuple[Found, Tasks]:
    """What the names mean. One of several that cannot be read does not stop the others."""
    from scalewise.batch import files

    readable, tasks = [], Tasks()
    for name in names:
        try:
            files.find_pictures([name], recursive)
        except UnreadableImage as error:
            if not several:
                raise
            tasks.failures.append(complain(Path(name), error))
            continue
        readable.append(name)
    return files.find_pictures(readable, recursive), tasks


def _effort_maps(
    pictures: list[FoundPicture], effort_map: str | None, several: bool, from_folder: bool
) -> tuple[Iterable[Path | None], Path | None]:
    """Where the effort maps go, and the folder that may have to be made for them."""
    from scalewise.batch import files

    if effort_map is None:
        return [None] * len(pictures), None
    folder = files.output_folder(effort_map, from_folder)
    if several and folder is None:
        raise InvalidRequest(
            f"--effort-map {effort_map} is one file, and there are several inputs: name a folder (end it with /)"
        )
    planned = files.plan_outputs(pictures, effort_map, "_effort", ".png")
    return [one.output for one in planned], folder


def check_paths(tasks: list[PictureTask], report: Path | None) -> None:
    """No file may be written twice, and none over an input. Raises InvalidRequest."""
    from scalewise.images import WRITABLE

    taken = {os.path.realpath(task.source): "an input" for task in tasks}
    maps = [("--effort-map", task.effort) for task in tasks if task.effort is not None]
    for option, path in [*(("-o", task.output) for task in tasks), *maps, ("--report", report)]:
        if path is None:
            continue
        if option == "--effort-map" and path.suffix.lower() not in WRITABLE:
            raise InvalidRequest(f"--effort-map {path} is not a picture: name it .png")
        real = os.path.realpath(path)
        if real in taken:
            raise InvalidRequest(f"{option} {path} is {taken[real]} too: choose another name")
        taken[real] = option


@contextmanager
def folders(task: PictureTask) -> Iterator[None]:
    """Make the folders of -o and --effort-map, and those below; take back empty ones on failure."""
    made: list[Path] = []
    try:
        for path, top in ((task.output, task.top), (task.effort, task.effort_top)):
            if path is not None and top is not None and not os.path.isdir(path.parent):
                made += make_folder(path.parent, top)
        yield
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        raise


def make_folder(folder: Path, top: Path) -> list[Path]:
    """Make `folder`, which is `top` or below it; what was made, outermost first. Raises UnwritableOutput."""
    if not os.path.isdir(top.parent):
        raise UnwritableOutput(f"folder {str(top.parent)!r} does not exist; make it first")
    missing = [
        path for path in (folder, *folder.parents) if (path == top or top in path.parents) and not os.path.exists(path)
    ]
    for path in reversed(missing):
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise UnwritableOutput(f"cannot make folder {str(path)!r}: {error.strerror}") from error
    return missing[::-1]


REASONS: dict[Why, str] = {
    "kind": "of a kind that is not read",
    "link": "links to folders",
    "twice": "the same as others",
    "result": "results of earlier runs",
}
LARGE = "larger than what was asked for"
MADE = "which an earlier command has enlarged with this model, scale and budget (--overwrite does it again)"


@dataclass(frozen=True)
class PassedOver:
    """One of several pictures that is not enlarged: the `reason`, which others may share, and what is true of it."""

    reason: str
    detail: str


def format_passed_over(passed_over: dict[Why, list[Path]]) -> list[str]:
    """`3 files passed over, of a kind that is not read: a.txt, b.mov, c.bmp`, a line for each reason."""
    return [format_names(paths, "passed over", REASONS[why]) for why, paths in passed_over.items() if paths]


def format_names(paths: list[Path], what: str, why: str) -> str:
    more = f" and {len(paths) - SHOWN_NAMES} more" if len(paths) > SHOWN_NAMES else ""
    names = ", ".join(path.name for path in paths[:SHOWN_NAMES])
    return format_line(f"{len(paths)} file{'s' * (len(paths) > 1)} {what}, {why}: {names}{more}")


def complain(path: Path, error: ScalewiseError) -> dict[str, Any]:
    """Say what went wrong with one of several inputs, and go on."""
    message = explain(error)
    name = format_line(str(path))
    typer.echo(f"scalewise: {message if name in message else f'{name}: {message}'}", err=True)
    return {"input": str(path), "error": str(error)}
