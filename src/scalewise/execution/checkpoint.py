"""A directory beside a long output, `NAME.EXT.scalewise-job`: what a run needs to go on where it was cut off.

- job.json: what was asked for: digests of input and weights, size, budget, number type; and the side of a tile
- plan.pt: what was decided: the choice for each patch, window or branch, which the router need not make again
- pixels: the canvas, mapped into memory while the run lasts; only finished rows of tiles count
- bands.jsonl: a line for each finished row of tiles, written when its pixels are on the disk, with the costs so far
- effort.pt: the effort map so far, where decisions fall while tiles run
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch

from scalewise.budget.budget import Budget, Effort
from scalewise.budget.cost import Macs
from scalewise.budget.route import Decision
from scalewise.errors import UnwritableOutput
from scalewise.execution.plan import RunPlan
from scalewise.execution.tiles import Tally, TileRunner
from scalewise.images import Sink, Source
from scalewise.models.digest import digest_of_model
from scalewise.models.model import Model, RoutePlan
from scalewise.storage import append_line, atomic_write, locked, read_lines
from scalewise.version import __version__

FOLDER = ".scalewise-job"
LONG_SECONDS = 60  # runs that will take longer keep a journal
_CHUNK = 1 << 20


def folder_of(output: Path) -> Path:
    return output.with_name(output.name + FOLDER)


def forget(output: Path) -> None:
    """Remove what an earlier run left beside `output`. Raises UnwritableOutput if it is still running."""
    with _held(output):
        shutil.rmtree(folder_of(output), ignore_errors=True)


def _held(output: Path) -> AbstractContextManager[None]:
    return locked(folder_of(output) / "lock", f"{str(output)!r} is being made by another run: wait for it")


def request_of(run_plan: RunPlan, model: Model, budget: Budget, output: Path) -> dict[str, Any]:
    """What makes the pixels of a run, as JSON: a run with the same wish may go on where another ended."""
    return json.loads(
        json.dumps(
            {
                "scalewise": __version__,
                "torch": str(torch.__version__),
                "input": digest_of_file(run_plan.source),
                "page": run_plan.source.page,
                "model": digest_of_model(model),
                "size": run_plan.out,
                "budget": asdict(budget),
                "dtype": str(run_plan.dtype),
                "device": run_plan.device.type,
                "tile": run_plan.options.tile,
                "crop": run_plan.options.crop,
                "frame": asdict(run_plan.frame),
                "format": output.suffix.lower(),
            }
        )
    )


def digest_of_file(source: Source) -> str:
    """Of the content of the input, whatever its name and date."""
    assert source.path is not None
    digest = hashlib.blake2b(digest_size=20)
    with source.path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class RunCheckpoint:
    """Keeps the finished rows of tiles of one run. `with RunCheckpoint.of(output, wish) as journal`.

    `said` tells what was found there: that the run goes on, or why it cannot. Left by an error before the first row is
    finished, and after `end`, the directory goes away.
    """

    def __init__(self, folder: Path, request: Mapping[str, Any]) -> None:
        self.folder, self.request = folder, dict(request)
        self.said = ""
        self.side: int | None = None  # of the tiles of the run that goes on
        self.plan: RoutePlan | None = None
        self._bands: list[dict[str, Any]] = []
        self._ended = False
        for path in folder.glob(".*.part"):  # what a killed run left half-written
            path.unlink(missing_ok=True)
        self._find()

    @property
    def pixels(self) -> Path:
        """The file that holds the canvas."""
        return self.folder / "pixels"

    @classmethod
    @contextmanager
    def of(cls, output: Path, request: Mapping[str, Any]) -> Iterator[RunCheckpoint]:
        """The journal beside `output`, held by this process alone. Raises UnwritableOutput."""
        folder = folder_of(output)
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise UnwritableOutput(f"cannot make folder {str(folder)!r}: {error.strerror}") from error
        with _held(output):
            checkpoint = cls(folder, request)
            try:
                yield checkpoint
            finally:
                if checkpoint._ended or not checkpoint._bands:
                    shutil.rmtree(folder, ignore_errors=True)

    def run_plan(self, run_plan: RunPlan) -> RunPlan:
        """The outlook with the tiles of the run that goes on: others would round differently."""
        if self.side is None:
            return run_plan
        return replace(run_plan, side=self.side)

    def begin(self, runner: TileRunner, sink: Sink) -> None:
        """Write down what was decided, and take up what an earlier run finished."""
        if self._bands:
            self._take_up(runner, sink)
        else:
            plan = runner.plan
            with atomic_write(self.folder / "plan.pt") as temporary:
                torch.save(_plain(plan), temporary)
            record = {"wish": self.request, "side": runner.run_plan.side, "bytes": self.pixels.stat().st_size}
            with atomic_write(self.folder / "job.json") as temporary:
                temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

        def record_row(band: int, tally: Tally) -> None:
            sink.flush()
            if not tally.planned:
                with atomic_write(self.folder / "effort.pt") as temporary:
                    torch.save({"band": band, "unit": tally.unit, "cells": tally.cells}, temporary)
            line = {"band": band, "ran": tally.ran.as_dict(), "lean": tally.lean, "full": tally.full}
            line["notes"] = list(tally.notes)
            append_line(self.folder / "bands.jsonl", line)
            self._bands.append(line)

        runner.on_row_written = record_row

    def end(self) -> None:
        """The output is there: nothing of this is needed any more."""
        self._ended = True

    def _find(self) -> None:
        try:
            record = json.loads((self.folder / "job.json").read_text(encoding="utf-8"))
            changed = [name for name, value in self.request.items() if record["wish"].get(name) != value]
            if not changed and self.pixels.stat().st_size == record["bytes"]:
                content = torch.load(self.folder / "plan.pt", weights_only=True)
                self.plan, self.side = _of_plain(content), int(record["side"])
                self._bands = read_lines(self.folder / "bands.jsonl")
        except FileNotFoundError:
            changed = []
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, UnpicklingError, EOFError) as error:
            changed = [f"it cannot be read ({type(error).__name__})"]
        if self._bands:
            self.said = f"going on after {len(self._bands)} finished rows of tiles of an earlier run"
            return
        if changed:
            self.said = f"starting anew, as what an earlier run left does not fit: {', '.join(changed)} changed"
        self.plan = self.side = None
        for path in self.folder.iterdir():
            if path.name != "lock":
                with suppress(OSError):
                    path.unlink()

    def _take_up(self, runner: TileRunner, sink: Sink) -> None:
        last, tally = self._bands[-1], runner.tally
        runner.rows = last["band"] + 1
        tally.ran, tally.lean, tally.full = Macs(**last["ran"]), last["lean"], last["full"]
        tally.notes = tuple(last["notes"])
        if not tally.planned and (self.folder / "effort.pt").exists():
            content = torch.load(self.folder / "effort.pt", weights_only=True)
            tally.unit, tally.cells = content["unit"], content["cells"]
        left = [tile.target[0] for tile in runner.run_plan.tiles if runner.row(tile) >= runner.rows]
        top = runner.run_plan.window[0]
        sink.resume(max(0, min(left) - top) if left else sink.size[0])


def _plain(plan: RoutePlan) -> dict[str, Any]:
    route = [{name: getattr(one, name) for name in _DECISION} for one in plan.route]
    effort, overhead = plan.effort.as_dict(), plan.overhead.as_dict()
    return {"effort": effort, "route": route, "macs": plan.macs, "full": plan.macs_full, "overhead": overhead}


def _of_plain(content: Mapping[str, Any]) -> RoutePlan:
    route = tuple(Decision(**one) for one in content["route"])
    effort = Effort(**cast(dict[str, Any], content["effort"]))
    return RoutePlan(effort, route, content["macs"], content["full"], Macs(**content["overhead"]))


_DECISION = ("unit", "extent", "choice", "cost", "evidence")
