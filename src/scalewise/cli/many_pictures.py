"""Many pictures of `scalewise upscale`: what is done is not done twice, and a bad one does not stop the rest."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scalewise.cli.one_picture import Result, Run, UpscaleRequest, echo
from scalewise.cli.paths import PictureTask, make_folder
from scalewise.errors import InvalidRequest, ScalewiseError, UnreadableImage

if TYPE_CHECKING:
    from scalewise.batch.manifest import Manifest

Outcome = Result | ScalewiseError
Work = Callable[[Sequence[PictureTask]], Iterator[tuple[int, Outcome]]]  # pieces → index and outcome, as they come


def one_by_one(run: Run, pieces: Sequence[PictureTask]) -> Iterator[tuple[int, Outcome]]:
    """In this process, in order."""
    for index, piece in enumerate(pieces):
        try:
            yield index, run(piece)
        except ScalewiseError as error:
            yield index, error
        except Exception:  # a mistake of ours must not end the run of all others
            if run.alone:
                raise
            traceback.print_exc()
            yield index, ScalewiseError("an error that nobody expected, see above: please report it")


def spread_out(
    make: Callable[[], Run], pieces: Sequence[PictureTask], *, address: str | None, workers: int | None
) -> Iterator[tuple[int, Outcome]]:
    """By the actors of a Ray cluster, in any order. Relative names are made absolute: workers live elsewhere."""
    from scalewise.batch.ray_pool import spread

    there = [_absolute(piece) for piece in pieces]
    for outcome in spread(there, partial(_Careful, make), address=address, actors=workers):
        unexpected = (outcome.error or "").strip().splitlines()[-1:]
        yield outcome.index, ScalewiseError(*unexpected) if unexpected else outcome.value


class _Careful:
    """A Run whose errors are values, which keep their kind on the way back from another machine."""

    def __init__(self, make: Callable[[], Run]) -> None:
        self.run = make()

    def __call__(self, piece: PictureTask) -> Outcome:
        try:
            return self.run(piece)
        except ScalewiseError as error:
            return error


def finished(
    pieces: Sequence[PictureTask], work: Work, manifest: Manifest | None, overwrite: bool
) -> Iterator[tuple[PictureTask, Outcome]]:
    """Every piece with its result, or why there is none. Without `overwrite`, what the manifest knows stays."""
    if manifest is None:
        for index, outcome in work(pieces):
            yield pieces[index], outcome
        return
    left: list[PictureTask] = []
    before = 0
    for piece in pieces:
        line = None if overwrite else manifest.known(piece.source, piece.output)
        if line is None:
            left.append(piece)
        elif line["status"] == "done":
            before += 1
            yield piece, Result(line["report"], "")
        else:
            yield piece, UnreadableImage(line["error"])
    if before:
        echo(f"{before} of {len(pieces)} were done before, as {manifest.path} says")
    # What is not there yet is ours, even if this run is killed between a result and its line.
    free = [piece.output for piece in left if manifest.claimed(piece.output) or not os.path.lexists(piece.output)]
    if left:
        manifest.claim(free)
    ours = set(free)
    left = [replace(piece, overwrite=overwrite or piece.output in ours) for piece in left]
    for index, outcome in work(left):
        piece = left[index]
        if isinstance(outcome, Result):
            manifest.done(piece.source, piece.output, outcome.report)
        else:
            final = isinstance(outcome, UnreadableImage | InvalidRequest)
            manifest.failed(piece.source, piece.output, str(outcome), final=final)
        yield piece, outcome


@contextmanager
def manifest_of(pieces: Sequence[PictureTask], request: UpscaleRequest) -> Iterator[Manifest | None]:
    """The manifest in the folder that all results go to, or that all their folders are in; none without a piece."""
    from scalewise.batch.manifest import Manifest

    if not pieces:
        yield None
        return
    top = pieces[0].top
    folder = top or Path(os.path.commonpath([os.path.abspath(piece.output.parent) for piece in pieces]))
    made = make_folder(folder, folder) if top is not None and not folder.is_dir() else []
    try:
        with Manifest.of(folder, request.as_dict()) as manifest:
            yield manifest
    finally:
        for path in reversed(made):
            with suppress(OSError):  # something is in there, as it should
                path.rmdir()


def _absolute(piece: PictureTask) -> PictureTask:
    names = ("source", "output", "top", "effort", "effort_top")
    there = {name: Path(os.path.abspath(path)) for name in names if (path := getattr(piece, name)) is not None}
    return replace(piece, **there)


__all__ = ["Work", "finished", "manifest_of", "one_by_one", "spread_out"]
