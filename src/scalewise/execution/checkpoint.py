"""A folder next to a long output, `NAME.EXT.scalewise-job`: what a run needs to go on where it was cut off.

- job.json: what was asked for (digests of input and weights, size, budget, number type), the side of a tile, the shape
  of the canvas, and a digest of plan.pt
- plan.pt: what was decided: the choice for each patch, window or branch, which the router need not make again
- pixels: the canvas, mapped into memory while the run lasts; only finished rows of tiles count
- bands.jsonl: a line for each finished row of tiles, written when its pixels are on the disk, with a digest of those
  pixels and the costs so far
- effort-0.pt, effort-1.pt: the effort map so far, in turn, where decisions fall while tiles run
- arrivals.json: of a run without a checkpoint (`arrivals.py`)
- arrived.json: the stamps of the finished picture, its effort map and its report, each written just before the file
  gets its name

The folder may have been damaged or put there by somebody else. So files of other names are never touched, links are not
followed, and every record is checked before it is used: rows of tiles that do not fit are computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch.version import __version__ as torch_version

from scalewise.budget.budget import Budget
from scalewise.budget.cost import Macs
from scalewise.errors import RequestDiffers, UnwritableOutput
from scalewise.execution.checkpoint_records import (
    ARRIVALS,
    BANDS,
    EFFORT,
    JOB,
    PIXELS,
    PLAN,
    UNUSABLE,
    DamagedRecord,
    EffortCells,
    JobRecords,
    digest_of,
    digest_of_rows,
    plan_bytes,
    read_arrived,
    read_effort,
    read_records,
    sealed,
    tensor_bytes,
)
from scalewise.execution.eight_bits import takes_eight_bits
from scalewise.execution.plan import RunPlan
from scalewise.execution.tiles import Tally, TileRunner
from scalewise.images import Sink, Source
from scalewise.models.digest import digest_of_model
from scalewise.models.model import Model, RoutePlan
from scalewise.storage import append_line, is_plain, locked, stamp, write_bytes
from scalewise.version import __version__

FOLDER = ".scalewise-job"
LONG_SECONDS = 60  # runs that will take longer keep a checkpoint
_LOCK, _ARRIVED = "lock", "arrived.json"
_NAMES = (_LOCK, JOB, PLAN, PIXELS, BANDS, _ARRIVED, ARRIVALS, *EFFORT)
_NAME_BYTES = 255  # of a file name, where the system does not say
_CHUNK_BYTES = 1 << 20


def folder_of(output: Path) -> Path:
    """The folder for `output`. A name that would be too long is cut, and a digest of it keeps it apart from others."""
    name, most = os.fsencode(output.name), _NAME_BYTES
    with suppress(OSError, ValueError, AttributeError):
        most = os.pathconf(output.parent, "PC_NAME_MAX")
    if len(name) + len(FOLDER) > most:
        digest = hashlib.blake2b(name, digest_size=8).hexdigest()
        name = os.fsencode(os.fsdecode(name[: most - len(FOLDER) - len(digest) - 4]).strip()) + b"~" + digest.encode()
    return output.with_name(os.fsdecode(name) + FOLDER)


def exists(output: Path) -> bool:
    """True if an earlier run left a folder for `output`. Raises UnwritableOutput for anything else of that name."""
    folder = folder_of(output)
    if not os.path.lexists(folder):
        return False
    _check_folder(folder)
    return True


def has_rows(output: Path) -> bool:
    """True if an earlier run left finished rows of tiles for `output`. Raises UnwritableOutput as `exists` does."""
    return exists(output) and os.path.lexists(folder_of(output) / JOB)


def request_of(run_plan: RunPlan, model: Model, budget: Budget, output: Path) -> dict[str, Any]:
    """What makes the pixels of a run, as JSON: a run with the same request may go on where another ended."""
    dtype = str(run_plan.dtype)
    return json.loads(
        json.dumps(
            {
                "scalewise": __version__,
                "torch": torch_version,
                "input": digest_of_file(run_plan.source),
                "page": run_plan.source.page,
                "model": digest_of_model(model),
                "size": run_plan.out,
                "budget": asdict(budget),
                "dtype": f"int8, {dtype}" if takes_eight_bits(run_plan.options, run_plan.device) else dtype,
                "device": run_plan.device.type,
                "tile": run_plan.options.tile,
                "crop": run_plan.options.crop,
                "beyond": run_plan.options.beyond,
                "mask": None if run_plan.mask is None else hashlib.sha256(run_plan.mask.numpy().tobytes()).hexdigest(),
                "frame": asdict(run_plan.frame),
                "format": output.suffix.lower(),
            }
        )
    )


def digest_of_file(source: Source) -> str:
    """The digest of the input's content, whatever its name and date."""
    assert source.path is not None
    digest = hashlib.blake2b(digest_size=20)
    with source.path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


class RunCheckpoint:
    """Keeps the finished rows of tiles of one run. `with RunCheckpoint.of(output, request, run_plan) as checkpoint`.

    `run_plan` has the tiles of the run that goes on, as others would round differently, and `plan` its decisions, None
    for a new run. `notes` says that it goes on, or why it does not. After `end` the folder goes when the block ends
    well, and without a finished row in any case.
    """

    def __init__(self, output: Path, request: Mapping[str, Any], run_plan: RunPlan, restart: bool) -> None:
        self.output, self.folder, self.request = output, folder_of(output), dict(request)
        self.run_plan = run_plan
        self.plan: RoutePlan | None = None
        self.notes = ""
        self._bands: list[dict[str, Any]] = []
        self._effort: EffortCells | None = None
        self._seal = ""  # of the last record
        self._arrived: dict[str, list[int]] = {}
        self._ended = False
        for path in self.folder.glob(".*.part"):  # what a killed run left half-written
            path.unlink(missing_ok=True)
        self._find(restart)

    @property
    def pixels(self) -> Path:
        """The file that holds the canvas."""
        return self.folder / PIXELS

    @property
    def bands(self) -> int:
        """How many rows of tiles are finished."""
        return len(self._bands)

    @classmethod
    @contextmanager
    def of(
        cls, output: Path, request: Mapping[str, Any], run_plan: RunPlan, *, restart: bool = False
    ) -> Iterator[RunCheckpoint]:
        """The checkpoint next to `output`, held by this process alone. `restart` drops what does not fit the request.

        Raises UnwritableOutput, and RequestDiffers without `restart`.
        """
        with held(output) as folder:
            try:
                checkpoint = cls(output, request, run_plan, restart)
            except BaseException:
                if os.listdir(folder) == [_LOCK]:
                    remove(folder)
                raise
            try:
                yield checkpoint
            except BaseException as error:
                if checkpoint._bands:
                    rows = f"{checkpoint.bands} finished rows of tiles"
                    error.add_note(f"{str(folder)!r} keeps {rows}: the same command goes on from there")
                else:
                    remove(folder)
                raise
            if checkpoint._ended or not checkpoint._bands:
                remove(folder)

    def begin(self, runner: TileRunner, sink: Sink) -> None:
        """Write down what was decided, and take up what an earlier run finished."""
        if self._bands:
            self._take_up(runner, sink)
        else:
            plan, (height, _) = plan_bytes(runner.plan), sink.size
            write_bytes(self.folder / PLAN, plan)
            side = runner.run_plan.side
            record = {"request": self.request, "side": side, "rows": height, "plan": digest_of(plan)}
            record = sealed(record | {"bytes": self.pixels.stat().st_size})
            write_bytes(self.folder / JOB, (json.dumps(record, indent=1) + "\n").encode())
            self._seal = record["seal"]
        tops = _rows_of_bands(runner.run_plan)

        def record_row(band: int, tally: Tally) -> None:
            sink.flush()
            line = {"band": band, "ran": tally.ran.as_dict(), "lean": tally.lean, "full": tally.full}
            line |= {"notes": list(tally.notes), "pixels": digest_of_rows(self.pixels, tops[band], sink.size[0])}
            if not tally.planned:
                cells = tensor_bytes({"unit": tally.unit, "cells": tally.cells})
                write_bytes(self.folder / EFFORT[len(self._bands) % 2], cells)
                line["effort"] = digest_of(cells)
            line = sealed(line, self._seal)
            append_line(self.folder / BANDS, line)
            self._bands.append(line)
            self._seal = line["seal"]

        runner.on_row_written = record_row

    def arriving(self, path: Path, arriving: list[int]) -> None:
        """For `storage.on_arrival`: the picture of this run, its map or its report is about to get its name."""
        if path.parent != self.folder:
            self._arrived[_absolute(path)] = arriving
            write_bytes(self.folder / _ARRIVED, json.dumps(self._arrived).encode())

    def owns(self, path: Path) -> bool:
        """True if the file at `path` was made by this run, which was killed before its end, and not touched since."""
        return is_plain(path) and self._arrived.get(_absolute(path), ()) == stamp(path)

    def end(self) -> None:
        """The output is there: nothing of this is needed any more when the block has ended."""
        self._ended = True

    def _find(self, restart: bool) -> None:
        """Take over what an earlier run left, as far as it fits. Raises RequestDiffers."""
        why = ""
        if os.path.lexists(self.folder / JOB):
            try:
                why = self._fit(read_records(self.folder), restart)
            except RequestDiffers:
                raise
            except UNUSABLE as error:
                self._bands = []
                why = str(error) if isinstance(error, DamagedRecord) else f"it cannot be read ({type(error).__name__})"
        if self._bands:
            self.notes = f"going on after {len(self._bands)} finished rows of tiles of an earlier run"
            self.notes += f"; {why}" if why else ""
            return
        if why:
            self.notes = f"starting anew, as what an earlier run left does not fit: {why}"
        self.plan = None
        _clear(self.folder)

    def _fit(self, found: JobRecords, restart: bool) -> str:
        """Use the rows of tiles that are as they were written; says what is not. Raises RequestDiffers."""
        changed = [name for name, value in self.request.items() if found.request.get(name) != value]
        # Rows of another input are of no use, whereas options may have been changed by mistake.
        if changed and changed != ["input"] and found.bands and not restart:
            raise RequestDiffers(str(self.folder), len(found.bands), changed)
        if changed:
            return f"{', '.join(changed)} changed"
        if not self.run_plan.model.fits(found.plan, self.run_plan.source.size):
            return "its plan is one of another model or picture"
        grid = self.run_plan.model.limits.patch_stride
        if found.side < 1 or found.side % grid:
            return f"its tiles of {found.side} pixels are none"
        run_plan = replace(self.run_plan, side=found.side)
        boxes = _rows_of_bands(run_plan)
        if found.rows != run_plan.canvas[0] or found.bytes % max(1, found.rows):
            return "its canvas has another size"
        if not is_plain(self.pixels) or self.pixels.stat().st_size != found.bytes:
            return "its pixels are cut off"
        fitting = 0
        for line, band in zip(found.bands, boxes, strict=False):
            if line["band"] != band or line["pixels"] != digest_of_rows(self.pixels, boxes[band], found.rows):
                break
            fitting += 1
        damaged = len(found.bands) - fitting
        if not fitting:
            return "its pixels are damaged" if damaged else "no row of tiles is finished"
        if not found.plan.route:
            last, size = found.bands[fitting - 1], run_plan.source.size
            self._effort = read_effort(self.folder / EFFORT[(fitting - 1) % 2], last, size)
        self._bands = found.bands[:fitting]
        self._seal = self._bands[-1]["seal"]
        self.run_plan, self.plan = run_plan, found.plan
        if damaged or found.cut:
            lines = "".join(json.dumps(line) + "\n" for line in self._bands)
            write_bytes(self.folder / BANDS, lines.encode())
        self._arrived = read_arrived(self.folder / _ARRIVED)
        return f"{damaged + found.cut} more are damaged and are done again" if damaged + found.cut else ""

    def _take_up(self, runner: TileRunner, sink: Sink) -> None:
        last, tally = self._bands[-1], runner.tally
        runner.rows = last["band"] + 1
        tally.ran, tally.lean, tally.full = Macs(**last["ran"]), last["lean"], last["full"]
        tally.notes = tuple(last["notes"])
        if self._effort is not None:
            tally.unit, tally.cells = self._effort.unit, self._effort.cells
        left = [tile.target[0] for tile in runner.run_plan.tiles if runner.row(tile) >= runner.rows]
        top = runner.run_plan.window[0]
        sink.resume(max(0, min(left) - top) if left else sink.size[0])


@contextmanager
def held(output: Path) -> Iterator[Path]:
    """The folder for `output`, made if there is none, against other runs. Raises UnwritableOutput."""
    folder = folder_of(output)
    with ExitStack() as stack:
        while True:
            try:
                folder.mkdir()
            except FileExistsError:
                _check_folder(folder)
            except OSError as error:
                raise UnwritableOutput(f"cannot make folder {str(folder)!r}: {error.strerror}") from error
            message = f"{str(output)!r} is being made by another run: wait for it"
            with suppress(FileNotFoundError):  # the run that held it has just removed it
                stack.enter_context(locked(folder / _LOCK, message))
                break
        yield folder


def _check_folder(folder: Path) -> None:
    """Raise UnwritableOutput unless `folder` is a folder, and all in it has a name and kind that a run writes."""
    advice = "move it, or choose another output"
    try:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            raise UnwritableOutput(f"{str(folder)!r} is not a folder that scalewise made: {advice}")
        for path in folder.iterdir():
            if not (path.name in _NAMES or (path.name[0] == "." and path.suffix == ".part")) or not is_plain(path):
                if not os.path.lexists(path):  # a run that ends has removed it
                    continue
                raise UnwritableOutput(f"{str(folder)!r} holds {path.name!r}, which scalewise did not write: {advice}")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UnwritableOutput(f"cannot read folder {str(folder)!r}: {error.strerror}; {advice}") from error


def _clear(folder: Path) -> None:
    """Remove what a run wrote, but the lock."""
    for path in [*(folder / name for name in _NAMES if name != _LOCK), *folder.glob(".*.part")]:
        with suppress(OSError):
            path.unlink()


def remove(folder: Path) -> None:
    """Remove the folder of a run, while it is held: the lock last, and the folder only if nobody has made it anew."""
    _clear(folder)
    with suppress(OSError):
        (folder / _LOCK).unlink()
        folder.rmdir()


def _rows_of_bands(run_plan: RunPlan) -> dict[int, tuple[int, int]]:
    """Number of a row of tiles → the rows of the canvas that it fills, from above."""
    top, height = run_plan.window[0], run_plan.canvas[0]
    found: dict[int, tuple[int, int]] = {}
    for tile in run_plan.tiles:
        band = tile.core[0] // run_plan.side
        rows = max(0, tile.target[0] - top), min(height, tile.target[2] - top)
        before = found.get(band, rows)
        found[band] = min(before[0], rows[0]), max(before[1], rows[1])
    return found


def _absolute(path: Path) -> str:
    return os.path.abspath(path)
