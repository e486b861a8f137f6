"""Enlarging a file as the command line does, and looking at what came of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scalewise import images, zoo
from scalewise.budget.budget import Budget
from scalewise.budget.cost import CostReport
from scalewise.execution.pages import enlarge_pages
from scalewise.execution.plan import RunOptions

DATA = Path(__file__).parent / "data"
BICUBIC = zoo.bicubic()


def enlarged(source: Path, out: Path, **how: object) -> CostReport:
    """The file by 2, as the command line writes it; the report says what was left out."""
    writer = images.create_pages(
        out,
        images.open(source),
        lambda size: (2 * size[0], 2 * size[1]),
        encoding=images.Encoding(**how),  # type: ignore[arg-type]
    )
    return enlarge_pages(writer, BICUBIC, Budget.full(), RunOptions(dtype="fp32"))[1]


def said(report: CostReport, *words: str) -> bool:
    return all(any(word in note for note in report.notes) for word in words)


def pixels(path: Path) -> np.ndarray:
    """In [0, 1]: (h, w, 3)."""
    return images.open(path).read().permute(1, 2, 0).numpy()
