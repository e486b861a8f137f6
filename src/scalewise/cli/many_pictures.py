"""Many pictures of `scalewise upscale`: what is done is not done twice, and a bad one does not stop the rest."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scalewise.cli.format import format_line
from scalewise.cli.one_picture import Result, UpscaleCommand, UpscaleRequest, echo
from scalewise.cli.paths import PassedOver, PictureTask, make_folder
from scalewise.errors import InvalidRequest, RequestDiffers, ScalewiseError, UnreadableImage

if TYPE_CHECKING:
    from scalewise.batch.manifest import Manifest

Outcome = Result | PassedOver | ScalewiseError
Work = Callable[[Sequence[PictureTask]], Iterator[tuple[int, Outcome]]]  # tasks → index and outcome, as they come
Manifests = Mapping[Path, "Manifest"]  # by folder


def one_by_one(command: UpscaleCommand, tasks: Sequence[PictureTask]) -> Iterator[tuple[int, Outcome]]:
    """In this process, in order."""
    for index, task in enumerate(tasks):
        try:
            yield index, command(task)
        except ScalewiseError as error:
            yield index, error
        except Exception:  # a mistake of ours must not end the run of all others
            if command.alone:
                raise
            traceback.print_exc()
            yield index, ScalewiseError("an error that nobody expected, see above: please report it")


def spread_out(
    make: Callable[[], UpscaleCommand], tasks: Sequence[PictureTask], *, address: str | None, workers: int | None
) -> Iterator[tuple[int, Outcome]]:
    """By the actors of a Ray cluster, in any order. Relative names are made absolute: workers live elsewhere.

    Ray gives the task of a lost worker to another, which may replace what the first has written: files of tasks that
    were free at the start belong to this run.
    """
    from scalewise.batch.ray_pool import spread

    absolute = [_absolute(task) for task in tasks]
    absolute = [
        replace(task, own=task.own | {path for path in task.files if not os.path.lexists(path)}) for task in absolute
    ]
    for outcome in spread(absolute, partial(_ErrorsAsValues, make), address=address, actors=workers):
        unexpected = (outcome.error or "").strip().splitlines()[-1:]
        yield outcome.index, ScalewiseError(*unexpected) if unexpected else outcome.value


class _ErrorsAsValues:
    """A command whose errors are values, which keep their kind on the way back from another machine."""

    def __init__(self, make: Callable[[], UpscaleCommand]) -> None:
        self.command = make()

    def __call__(self, task: PictureTask) -> Outcome:
        try:
            return self.command(task)
        except ScalewiseError as error:
            return error


def finished(tasks: Sequence[PictureTask], work: Work, manifests: Manifests) -> Iterator[tuple[PictureTask, Outcome]]:
    """Every task with its result, or why there is none. Unless it overwrites, what the manifests know stays."""
    left: list[PictureTask] = []
    known = 0
    for task in tasks:
        manifest = manifests.get(task.home)
        line = None if manifest is None or task.overwrite else manifest.known(task.source, task.output)
        if line is not None and line["status"] == "failed":
            yield task, UnreadableImage(line["error"])
        elif line is not None and (task.effort is None or os.path.lexists(task.effort)):
            known += 1
            yield task, Result(line["report"], "")
        else:
            own = frozenset() if manifest is None else {path for path in task.files if manifest.owns(path)}
            listed = manifest is not None and manifest.lists(task.output)
            left.append(replace(task, own=task.own | own, listed=listed))
    if known:
        names = ", ".join(str(manifest.path) for manifest in manifests.values())
        echo(format_line(f"{known} of {len(tasks)} were done before, as {names} says"))
    for index, outcome in work(left):
        task = left[index]
        if (manifest := manifests.get(task.home)) is not None:
            _write_down(manifest, task, outcome)
        yield task, outcome


def _write_down(manifest: Manifest, task: PictureTask, outcome: Outcome) -> None:
    if isinstance(outcome, Result):
        manifest.done(task.source, task.output, outcome.report)
    elif isinstance(outcome, ScalewiseError):
        # Another option may help with an unfinished run, without a change of the input.
        final = isinstance(outcome, UnreadableImage | InvalidRequest) and not isinstance(outcome, RequestDiffers)
        manifest.failed(task.source, task.output, str(outcome), final=final)


@contextmanager
def manifests_of(tasks: Sequence[PictureTask], request: UpscaleRequest) -> Iterator[Manifests]:
    """The manifests in all folders that the tasks name, held against other runs. Raises UnwritableOutput."""
    from scalewise.batch.manifest import Manifest

    made: list[Path] = []
    manifests: dict[Path, Manifest] = {}
    try:
        with ExitStack() as stack:
            for task in tasks:
                if task.home in manifests:
                    continue
                if task.top is not None and not os.path.isdir(task.home):
                    made += make_folder(task.home, task.home)
                manifest = stack.enter_context(Manifest.of(task.home, request.as_dict()))
                manifests[task.home] = manifest
                if manifest.unusable:
                    echo(
                        format_line(f"{manifest.path}: {manifest.unusable} lines are not of this version, passed over")
                    )
            yield manifests
    finally:
        for path in reversed(made):
            with suppress(OSError):  # something is in there, as it should
                path.rmdir()


def _absolute(task: PictureTask) -> PictureTask:
    names = ("source", "output", "home", "top", "effort", "effort_top")
    absolute = {name: Path(os.path.abspath(path)) for name in names if (path := getattr(task, name)) is not None}
    return replace(task, own=frozenset(Path(os.path.abspath(path)) for path in task.own), **absolute)
