"""One picture, from its source into a sink: plan, decide, render tile after tile, report."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from scalewise import images
from scalewise.budget.budget import Budget
from scalewise.budget.cost import CostReport
from scalewise.budget.route import levelled
from scalewise.execution.checkpoint import Journal
from scalewise.execution.deadline import paced, repeats, words
from scalewise.execution.plan import Job, Outlook
from scalewise.execution.planner import look_ahead
from scalewise.execution.probe import learn_speed
from scalewise.execution.tiles import Canvas, Progress, Run
from scalewise.machine.device import pick_device
from scalewise.machine.memory import PeakMemory
from scalewise.models.model import Model


def enlarge(
    source: images.Source,
    sink: Canvas,
    model: Model,
    budget: Budget,
    job: Job,
    progress: Progress | None = None,
    *,
    ahead: Outlook | None = None,
    journal: Journal | None = None,
) -> tuple[Any, CostReport]:
    """Render all of `source` into `sink`, or the crop of `job`; the sink's result and the report.

    The sink is discarded on any error. `ahead` is what `look_ahead` said of this run, if it was asked before. A
    `journal` keeps each row of tiles that is finished, and knows those that an earlier run finished.
    """
    started = time.perf_counter()
    with sink, PeakMemory(pick_device(job.device)) as peak, torch.no_grad():
        ahead = ahead or look_ahead(source, sink.size, model, budget, job)
        plan = journal.plan if journal is not None else None
        pace = None
        if plan is None:
            plan, pace = paced(ahead, budget, model, job, sink)
        run = Run.of(ahead, plan)
        if journal is not None:
            assert isinstance(sink, images.Sink)
            journal.begin(run, sink)
        if pace is not None:
            run.steer = pace.after
            pace.start()
        run.render(sink, progress)
        if pace is not None and (took := pace.took()) is not None:
            learn_speed(model, ahead, *took)
        result = sink.finish()
        seconds = time.perf_counter() - started - (0.0 if pace is None else pace.excused)
        if journal is not None:
            journal.end()
        if progress is not None:
            progress(1.0)
    tally = run.tally
    report = CostReport(
        macs=tally.ran.total,
        macs_full=tally.full,
        by_kind=tally.ran.as_dict(),
        seconds=seconds,
        peak_bytes=peak.bytes,
        size=sink.size,
        effort=run.plan.effort if pace is None else replace(run.plan.effort, budget=words(pace.budget)),
        effort_map=levelled(run.effort.cells, tally.ran.total / tally.full if tally.full else 1.0),
        effort_unit=run.effort.unit,
        rim=1 - tally.lean / tally.ran.total if tally.ran.total else 0.0,
        notes=(*ahead.notes, *tally.notes, *([] if pace is None or pace.deadline is None else [repeats(pace)])),
    )
    return result, report
