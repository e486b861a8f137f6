"""Which pictures were meant, and where results, effort maps and reports go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from scalewise.cli.format import format_line
from scalewise.errors import InvalidRequest, ScalewiseError, UnreadableImage, UnwritableOutput


@dataclass(frozen=True)
class PictureTask:
    """One picture: where it is, where its result goes, where its map goes.

    `top` and `effort_top`: the folders that may have to be made. `overwrite`: files that are there may be replaced.
    """

    source: Path
    output: Path
    top: Path | None = None
    effort: Path | None = None
    effort_top: Path | None = None
    overwrite: bool = False


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
    if output is not None and not _is_folder(output) and Path(output).suffix.lower() != ext:
        raise InvalidRequest(f"-o {output} and --ext {ext[1:]} contradict each other: leave one out")
    return ext


def find_pieces(
    names: list[str],
    output: str | None,
    effort_map: str | None,
    suffix: str,
    ext: str | None,
    recursive: bool,
    several: bool,
) -> tuple[list[PictureTask], list[dict[str, Any]]]:
    """The pictures that were meant, and a line for each of several inputs that are not there."""
    from scalewise.batch import files

    there, failures = [], []
    for name in names:
        try:
            files.expand([name], recursive)
        except UnreadableImage as error:
            if not several:
                raise
            failures.append(complain(Path(name), error))
            continue
        there.append(name)
    pairs = files.plan_outputs(there, output, suffix, ext, recursive=recursive)
    top = Path(output) if output is not None and _is_folder(output) else None
    if effort_map is None:
        return [PictureTask(source, place, top) for source, place in pairs], failures
    if several and not _is_folder(effort_map):
        raise InvalidRequest(
            f"--effort-map {effort_map} is one file, and there are several inputs: name a folder (end it with /)"
        )
    maps = files.plan_outputs(there, effort_map, "_effort", ".png", recursive=recursive)
    effort_top = Path(effort_map) if _is_folder(effort_map) else None
    both = zip(pairs, maps, strict=True)
    return [PictureTask(source, place, top, map, effort_top) for (source, place), (_, map) in both], failures


def check_places(pieces: list[PictureTask], report: Path | None) -> None:
    """No file may be written twice, and none over an input. Raises InvalidRequest."""
    from scalewise.images import WRITABLE

    taken = {os.path.realpath(piece.source): "an input" for piece in pieces}
    beside = [("--effort-map", piece.effort) for piece in pieces if piece.effort is not None]
    for option, path in [*(("-o", piece.output) for piece in pieces), *beside, ("--report", report)]:
        if path is None:
            continue
        if option == "--effort-map" and path.suffix.lower() not in WRITABLE:
            raise InvalidRequest(f"--effort-map {path} is not a picture: name it .png")
        real = os.path.realpath(path)
        if real in taken:
            raise InvalidRequest(f"{option} {path} is {taken[real]} too: choose another name")
        taken[real] = option


@contextmanager
def folders(piece: PictureTask) -> Iterator[None]:
    """Make the folders that -o and --effort-map name by a slash, and those below; take back empty ones on failure."""
    made: list[Path] = []
    try:
        for path, top in ((piece.output, piece.top), (piece.effort, piece.effort_top)):
            if path is not None and top is not None and not path.parent.is_dir():
                made += make_folder(path.parent, top)
        yield
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        raise


def make_folder(folder: Path, top: Path) -> list[Path]:
    """Make `folder`, which is `top` or below it; what was made, outermost first."""
    if not top.parent.is_dir():
        raise UnwritableOutput(f"folder {str(top.parent)!r} does not exist; make it first")
    missing = [path for path in (folder, *folder.parents) if (path == top or top in path.parents) and not path.exists()]
    for path in reversed(missing):
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise UnwritableOutput(f"cannot make folder {str(path)!r}: {error.strerror}") from error
    return missing[::-1]


def _is_folder(name: str) -> bool:
    return name.endswith(("/", os.sep)) or Path(name).is_dir()


def complain(path: Path, error: ScalewiseError) -> dict[str, Any]:
    """Say what went wrong with one of several inputs, and go on."""
    message = str(error)
    typer.echo(f"scalewise: {format_line(message if str(path) in message else f'{path}: {message}')}", err=True)
    return {"input": str(path), "error": message}
