"""Every page of a file, or every frame of an animation: the loop around `enlarge`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from scalewise.budget.budget import Budget
from scalewise.budget.cost import CostReport
from scalewise.errors import InvalidRequest
from scalewise.execution.checkpoint import RunCheckpoint
from scalewise.execution.deadline import sample_of
from scalewise.execution.enlarge import enlarge
from scalewise.execution.plan import RunOptions, RunPlan
from scalewise.execution.planner import plan_run
from scalewise.execution.progress import Progress
from scalewise.geometry.projection import Projection, frame_of
from scalewise.images import PageWriter, Source
from scalewise.images.pages import ANIMATIONS
from scalewise.models.model import Model

MIN_PAGE_SHARE = 0.01  # of a file's seconds, that its later pages still get when earlier ones used them up


def enlarge_pages(
    pages: PageWriter,
    model: Model,
    budget: Budget,
    options: RunOptions,
    progress: Progress | None = None,
    *,
    run_plan: RunPlan | None = None,
    checkpoint: RunCheckpoint | None = None,
) -> tuple[Path, CostReport]:
    """Render all pages, each within `budget`, and write the file; its path and one report for all. Seconds are those
    of the whole file: each page gets its part of what is left.

    The pages are discarded on any error. `run_plan` and `checkpoint` are those of a single page.
    """
    check_projection(pages.source, len(pages), options.projection)
    reports: list[CostReport] = []
    encoding = 0.0  # seconds, when all pages are rendered
    with pages:
        for page, sink in pages:

            def of_all(share: float, done: int = len(reports)) -> bool | None:
                return None if progress is None else progress((done + share) / len(pages))

            request = budget
            if budget.kind == "seconds" and len(pages) > 1:
                if not reports:
                    encoding = pages.encoding_seconds(sample_of(page, sink.size))
                left = budget.value - encoding - sum(report.seconds for report in reports)
                request = Budget.seconds(max(left, MIN_PAGE_SHARE * budget.value) / (len(pages) - len(reports)))
            planned = run_plan if len(pages) == 1 else None
            if planned is None:
                planned = plan_run(page, sink.size, model, request, options)
            reports.append(enlarge(planned, sink, progress and of_all, checkpoint=checkpoint)[1])
        path = pages.finish()
    return path, joined(reports, pages.notes)


def check_projection(source: Source, pages: int, projection: Projection) -> None:
    """Raises InvalidRequest, before any page is rendered, where 360° pictures are asked for and a page can be none."""
    if projection != "erp" or source.format in ANIMATIONS:  # whose frames are alike
        return
    for number in range(pages if pages > 1 else 0):
        try:
            if source.sizes:
                with suppress(InvalidRequest):  # then its metadata may make it a part of one
                    frame_of(source.sizes[number], projection)
                    continue
            page = source.at(number)
            frame_of(page.size, projection, page.gpano)
        except InvalidRequest as error:
            raise InvalidRequest(f"page {number + 1} of {pages}: {error}") from None


def joined(reports: Sequence[CostReport], notes: tuple[str, ...] = (), called: str = "pages or frames") -> CostReport:
    """One report of several pages: sums, the highest peak, and size, effort and map of the first."""
    first = reports[0]
    macs = sum(report.macs for report in reports)
    notes = tuple(dict.fromkeys(note for part in (*(report.notes for report in reports), notes) for note in part))
    if len(reports) == 1:
        return replace(first, notes=notes)
    return replace(
        first,
        macs=macs,
        macs_full=sum(report.macs_full for report in reports),
        by_kind={kind: sum(report.by_kind[kind] for report in reports) for kind in first.by_kind},
        seconds=sum(report.seconds for report in reports),
        peak_bytes=max(report.peak_bytes for report in reports),
        rim=sum(report.rim * report.macs for report in reports) / macs if macs else 0.0,
        notes=(f"{len(reports)} {called}", *notes),
    )
