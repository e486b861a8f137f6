"""Many pictures: which files were meant, which are results of earlier runs, and where each result goes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from scalewise.batch.manifest import MANIFEST, results_in
from scalewise.errors import ImageError, InvalidRequest, UnreadableImage, UnwritableOutput
from scalewise.images import FORMATS, READABLE, WRITABLE, container, extension_of

StrPath = str | os.PathLike[str]
Size = tuple[int, int]
Why = Literal["kind", "link", "twice", "result"]


@dataclass(frozen=True)
class FoundPicture:
    """A picture, and the input folder that it was found in; None if it was named itself."""

    path: Path
    folder: Path | None = None

    @property
    def below(self) -> Path:
        """Its folder relative to the input folder."""
        return Path() if self.folder is None else self.path.parent.relative_to(self.folder)


@dataclass
class Found:
    """The pictures that were meant, and by reason what was passed over: `kind`, files whose extension is not in
    `images.READABLE`; `link`, links to folders; `twice`, other names of a picture found already; `result`, what earlier
    runs made of these pictures."""

    pictures: list[FoundPicture] = field(default_factory=list)
    passed_over: dict[Why, list[Path]] = field(default_factory=dict)

    def pass_over(self, why: Why, path: Path) -> None:
        self.passed_over.setdefault(why, []).append(path)


@dataclass(frozen=True)
class PlannedOutput:
    """One picture, its result, and the folder whose manifest lists it: that of `out`, else the input folder, else the
    picture's own."""

    source: Path
    output: Path
    home: Path


def find_pictures(inputs: Iterable[StrPath], recursive: bool = False) -> Found:
    """The pictures that `inputs` name: files as they are, folders by the pictures in them, sorted; none twice. Of a
    picture and links to it the picture itself counts, in whatever order they come.

    In folders, files count whose extension is in `images.READABLE` and whose name does not start with a dot.
    `recursive` goes into sub-folders, but not through links, which may lead in circles. Raises UnreadableImage for a
    name without a file, and for a folder without a picture.
    """
    found, named = Found(), list[FoundPicture]()
    for name in inputs:
        start = Path(name)
        is_folder = _exists(start)
        pictures = _pictures(start, recursive, found) if is_folder else [start]
        if not pictures:
            hint = "" if recursive else " (sub-folders were not searched)"
            allowed = " ".join(sorted(READABLE))
            raise UnreadableImage(f"folder {str(start)!r} holds no picture{hint}; allowed are {allowed}")
        named += [FoundPicture(path, start if is_folder else None) for path in pictures]
    chosen: dict[str, FoundPicture] = {}
    for one in sorted(named, key=lambda one: os.path.islink(one.path)):  # the file itself, rather than a link to it
        chosen.setdefault(os.path.realpath(one.path), one)
    for one in named:
        if chosen[os.path.realpath(one.path)] is one:
            found.pictures.append(one)
        else:
            found.pass_over("twice", one.path)
    return found


def without_results(found: Found, out: StrPath | None) -> Found:
    """Without what earlier runs made of the same pictures, so that a command may run again.

    A manifest knows them. Where results go next to their inputs (`out` None), so does the note in a picture of a
    folder, which a run for one picture has left.
    """
    folders = {parent for one in found.pictures for parent in _folders_of(one)}
    results = results_in(folders)
    inputs = {_absolute(one.path) for one in found.pictures}
    left = Found(passed_over=found.passed_over)
    for one in found.pictures:
        ours = results.get(_absolute(one.path)) in inputs
        if ours or (out is None and one.folder is not None and _has_our_note(one.path)):
            left.pass_over("result", one.path)
        else:
            left.pictures.append(one)
    return left


def output_path(
    input: StrPath, folder: StrPath | None, suffix: str, ext: str | None = None, *, whole_name: bool = False
) -> Path:
    """Where the result of one input goes: in `folder`, or next to the input: `photo.jpg` → `photo_x3.7.jpg`; with its
    `whole_name`, `photo.jpg_x3.7.jpg`.

    `ext` sets the format (`.png`); without it the input's is kept if it can be written, else `.png`. The input's first
    bytes say what it is: a WebP that is called `.jpg` may have alpha and frames, which a JPEG would lose.
    """
    input = Path(input)
    name = f"{input.name if whole_name else input.stem}{suffix}{ext or _extension(input)}"
    return Path(folder or input.parent) / name


def _extension(input: Path) -> str:
    format = container(input)
    by_name = format is None or format == FORMATS.get(input.suffix.lower())
    return input.suffix if by_name and input.suffix.lower() in WRITABLE else extension_of(format)


def plan_outputs(
    pictures: Sequence[FoundPicture], out: StrPath | None, suffix: str, ext: str | None = None
) -> list[PlannedOutput]:
    """Where the results of all pictures go; sub-folders of an input folder are kept below `out`. Makes no folder.

    `out` is a folder if there is one of that name, if it ends with a slash, or if an input is a folder; else it names
    the file. Pictures of one name and several extensions, whose results would meet, keep their whole names in them.
    Raises InvalidRequest for results of pictures of one name that meet, and UnwritableOutput.
    """
    folder = output_folder(out, any(one.folder is not None for one in pictures))
    if out is not None and folder is None and len(pictures) > 1:
        raise InvalidRequest(f"{len(pictures)} inputs cannot all go to {str(out)!r}; name a folder (end it with /)")
    if out is not None and folder is None:
        outputs = [Path(out)] * len(pictures)
    else:
        outputs = _result_names(pictures, folder, suffix, ext)
    planned: list[PlannedOutput] = []
    taken: dict[Path, Path] = {}
    for one, output in zip(pictures, outputs, strict=True):
        if output in taken:
            first, second, name = str(taken[output]), str(one.path), str(output)
            raise InvalidRequest(f"{first!r} and {second!r} would both go to {name!r}; write them to two folders")
        taken[output] = one.path
        home = (one.folder or one.path.parent) if out is None else folder or output.parent
        planned.append(PlannedOutput(one.path, output, home))
    inputs_too = {one.path for one in pictures} & taken.keys()
    if inputs_too:
        first, name = str(taken[min(inputs_too)]), str(min(inputs_too))
        raise InvalidRequest(f"{first!r} would go to {name!r}, which is an input too; write to another folder")
    return planned


def _result_names(pictures: Sequence[FoundPicture], folder: Path | None, suffix: str, ext: str | None) -> list[Path]:
    """Where each result goes, in `folder` or next to its input."""
    parents = [None if folder is None else folder / one.below for one in pictures]
    if folder is not None:
        for one in pictures:
            _check_links(folder, one.below)
    extensions = [ext or _extension(one.path) for one in pictures]
    whole = [False] * len(pictures)
    while True:  # a whole name may meet the result of a picture that is called so: that one keeps its own too
        outputs = [
            output_path(one.path, parent, suffix, extension, whole_name=all_of_it)
            for one, parent, extension, all_of_it in zip(pictures, parents, extensions, whole, strict=True)
        ]
        met: dict[Path, set[str]] = {}
        for one, output in zip(pictures, outputs, strict=True):
            met.setdefault(output, set()).add(one.path.name)
        meeting = [before or len(met[output]) > 1 for before, output in zip(whole, outputs, strict=True)]
        if meeting == whole:
            return outputs
        whole = meeting


def output_folder(out: StrPath | None, from_folder: bool) -> Path | None:
    """`out` as a folder, or None if it names a file. `from_folder`: an input is a folder. Raises InvalidRequest."""
    if out is None:
        return None
    name = os.fspath(out)
    if name.endswith(("/", os.sep)) or os.path.isdir(name):
        return Path(out)
    if not from_folder:
        return None
    if os.path.lexists(name):
        raise InvalidRequest(f"the input is a folder, and {name!r} is a file: name a folder")
    if Path(name).suffix.lower() in WRITABLE:
        raise InvalidRequest(f"the input is a folder, and {name!r} names a picture: name a folder (end it with /)")
    return Path(out)


def _check_links(out: Path, below: Path) -> None:
    """A sub-folder of `out` that is a link would take results elsewhere. Raises UnwritableOutput."""
    for folder in (out / parent for parent in (below, *below.parents) if parent.parts):
        if os.path.islink(folder):
            raise UnwritableOutput(f"{str(folder)!r} is a link, and results would leave {str(out)!r}: remove it")


def _exists(path: Path) -> bool:
    """True for a folder, False for a file. Raises UnreadableImage if there is neither."""
    try:
        path.stat()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UnreadableImage(f"cannot open {str(path)!r}: {why}") from error
    return os.path.isdir(path)


def _pictures(folder: Path, recursive: bool, found: Found) -> list[Path]:
    """The pictures in a folder, sorted; what is passed over goes into `found`."""
    pictures: list[Path] = []
    for parent, folders, files in os.walk(folder, followlinks=False):
        shown = sorted(name for name in folders if recursive and not name.startswith("."))
        for name in shown:
            if os.path.islink(os.path.join(parent, name)):
                found.pass_over("link", Path(parent, name))
        folders[:] = shown
        for name in sorted(files):
            if Path(name).suffix.lower() in READABLE and not name.startswith("."):
                pictures.append(Path(parent, name))
            elif not name.startswith(".") and name != MANIFEST:
                found.pass_over("kind", Path(parent, name))
    return sorted(pictures)


def _folders_of(one: FoundPicture) -> list[Path]:
    """The folders that may hold a manifest about a picture: its own, and those up to the input folder."""
    if one.folder is None:
        return [one.path.parent]
    return [one.folder / parent for parent in (one.below, *one.below.parents)]


def _has_our_note(path: Path) -> bool:
    from scalewise import images
    from scalewise.images.metadata.xmp import note_of

    try:
        return note_of(images.open(path).metadata.xmp) is not None
    except ImageError:
        return False


def is_made(path: Path, source: Path, note: str, size: Size) -> bool:
    """True if `path` is a picture of `size` (h, w) with `note` as its last note, and not older than `source`."""
    from scalewise import images
    from scalewise.images.metadata.xmp import note_of

    try:
        if not os.path.isfile(path) or path.stat().st_mtime_ns < source.stat().st_mtime_ns:
            return False
        found = images.open(path)
        notes = note_of(found.metadata.xmp) or ""
    except (OSError, ImageError):
        return False
    return found.size == size and (notes == note or notes.endswith(f"; then {note}"))


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))
