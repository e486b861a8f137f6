"""Many pictures: which files were meant, and where each result goes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from scalewise.errors import InvalidRequest, UnreadableImage, UnwritableOutput
from scalewise.images import READABLE, WRITABLE

StrPath = str | os.PathLike[str]


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


def plan_outputs(
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
