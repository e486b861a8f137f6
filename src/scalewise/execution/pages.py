"""Every page of a file, or every frame of an animation: the loop above `pipeline.enlarge`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from scalewise.budget.budget import Budget
from scalewise.budget.cost import CostReport
from scalewise.execution.checkpoint import RunCheckpoint
from scalewise.execution.deadline import sample_of
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import RunOptions, RunPlan
from scalewise.execution.tiles import Progress
from scalewise.images import PageWriter
from scalewise.models.model import Model


def enlarge_pages(
    album: PageWriter,
    model: Model,
    budget: Budget,
    options: RunOptions,
    progress: Progress | None = None,
    *,
    run_plan: RunPlan | None = None,
    checkpoint: RunCheckpoint | None = None,
) -> tuple[Path, CostReport]:
    """Render all pages of `album`, each within `budget`, and write the file; its path and one report for all. Seconds
    are those of the whole file: each page gets its part of what is left.

    The album is discarded on any error. `ahead` and `journal` are for a single page, as in `enlarge`.
    """
    reports: list[CostReport] = []
    behind = 0.0  # seconds that encoding takes when all pages are there
    with album:
        for page, sink in album:

            def of_all(share: float, done: int = len(reports)) -> bool | None:
                return None if progress is None else progress((done + share) / len(album))

            request = budget
            if budget.kind == "seconds" and len(album) > 1:
                if not reports:
                    behind = album.encoding_seconds(sample_of(page, sink.size))
                # without first measurements
                left = budget.value - behind - sum(report.seconds for report in reports)
                request = Budget.seconds(max(left, 0.01 * budget.value) / (len(album) - len(reports)))
            if run_plan is not None and len(album) == 1:
                report = enlarge(
                    run_plan.source, sink, model, request, options, of_all, run_plan=run_plan, checkpoint=checkpoint
                )[1]
            else:
                report = enlarge(page, sink, model, request, options, of_all)[1]
            reports.append(report)
        path = album.finish()
    return path, joined(reports, album.notes)


def joined(reports: Sequence[CostReport], notes: tuple[str, ...] = ()) -> CostReport:
    """One report of several pages: sums, the highest peak, and size, effort and map of the first."""
    first = reports[0]
    macs = sum(report.macs for report in reports)
    said = dict.fromkeys(note for part in (*(report.notes for report in reports), notes) for note in part)
    if len(reports) == 1:
        return replace(first, notes=tuple(said))
    return replace(
        first,
        macs=macs,
        macs_full=sum(report.macs_full for report in reports),
        by_kind={kind: sum(report.by_kind[kind] for report in reports) for kind in first.by_kind},
        seconds=sum(report.seconds for report in reports),
        peak_bytes=max(report.peak_bytes for report in reports),
        rim=sum(report.rim * report.macs for report in reports) / macs if macs else 0.0,
        notes=(f"{len(reports)} pages or frames", *said),
    )
