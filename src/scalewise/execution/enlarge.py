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
from scalewise.execution.checkpoint import RunCheckpoint
from scalewise.execution.deadline import paced, repeats, words
from scalewise.execution.plan import RunOptions, RunPlan
from scalewise.execution.planner import plan_run
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
    options: RunOptions,
    progress: Progress | None = None,
    *,
    run_plan: RunPlan | None = None,
    checkpoint: RunCheckpoint | None = None,
) -> tuple[Any, CostReport]:
    """Render all of `source` into `sink`, or the crop of `job`; the sink's result and the report.

    The sink is discarded on any error. `ahead` is what `plan_run` said of this run, if it was asked before. A
    `journal` keeps each row of tiles that is finished, and knows those that an earlier run finished.
    """
    started = time.perf_counter()
    with sink, PeakMemory(pick_device(options.device)) as peak, torch.no_grad():
        run_plan = run_plan or plan_run(source, sink.size, model, budget, options)
        plan = checkpoint.plan if checkpoint is not None else None
        controller = None
        if plan is None:
            plan, controller = paced(run_plan, budget, model, options, sink)
        run = Run.of(run_plan, plan)
        if checkpoint is not None:
            assert isinstance(sink, images.Sink)
            checkpoint.begin(run, sink)
        if controller is not None:
            run.steer = controller.after
            controller.start()
        run.render(sink, progress)
        if controller is not None and (took := controller.took()) is not None:
            learn_speed(model, run_plan, *took)
        result = sink.finish()
        seconds = time.perf_counter() - started - (0.0 if controller is None else controller.excused)
        if checkpoint is not None:
            checkpoint.end()
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
        effort=run.plan.effort if controller is None else replace(run.plan.effort, budget=words(controller.budget)),
        effort_map=levelled(run.effort.cells, tally.ran.total / tally.full if tally.full else 1.0),
        effort_unit=run.effort.unit,
        rim=1 - tally.lean / tally.ran.total if tally.ran.total else 0.0,
        notes=(
            *run_plan.notes,
            *tally.notes,
            *([] if controller is None or controller.deadline is None else [repeats(controller)]),
        ),
    )
    return result, report
