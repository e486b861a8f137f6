"""Published tables next to what we measure.

`tables/*.csv` hold the papers' numbers, one file per paper, one number per row, with its protocol, source and errata.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from scalewise.errors import InvalidRequest, ProtocolMismatch, ScalewiseError
from scalewise.evaluate.conventions import PaperCost, paper_cost
from scalewise.evaluate.protocols import find_protocol
from scalewise.evaluate.runner import EvalResult, evaluate
from scalewise.evaluate.upscalers import Upscaler, bicubic

# What `evaluate` measures, by the name of a table's metric; other metrics stay as published.
MEASURED = {"psnr": "psnr", "ssim": "ssim", "ws_psnr": "ws_psnr", "ws_ssim": "ws_ssim"}
# The same set under the names that folders have.
FOLDERS = {"B100": ("B100", "BSD100", "BSDS100"), "DIV2K": ("DIV2K", "DIV2K_valid"), "Urban100": ("Urban100", "U100")}


@dataclass(frozen=True)
class Published:
    """One printed number. `dial` is the paper's own setting; `flops` its cost, as the paper counts."""

    table: str
    method: str
    dataset: str
    scale: float
    metric: str
    protocol: str
    value: float
    dial: str
    flops: str
    source: str
    note: str


@dataclass(frozen=True)
class Reproduced:
    """A published number next to ours, or the reason why ours is missing. `cost`: our value of the cost that the
    paper prints with it, counted as the paper does; None where its way to count is not known."""

    published: Published
    ours: float = math.nan
    absent: str = ""
    cost: PaperCost | None = None

    @property
    def difference(self) -> float:
        return self.ours - self.published.value


def tables() -> list[str]:
    """The names of the published tables."""
    folder = resources.files("scalewise") / "evaluate" / "tables"
    return sorted(file.name[:-4] for file in folder.iterdir() if file.name.endswith(".csv"))


def load_table(name: str) -> list[Published]:
    """The rows of a published table. Raises InvalidRequest if there is none of this name."""
    if name not in tables():
        raise InvalidRequest(f"no published table {name!r}: known are {', '.join(tables())}")
    text = (resources.files("scalewise") / "evaluate" / "tables" / f"{name}.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(io.StringIO(text))
    return [Published(**row | {"scale": float(row["scale"]), "value": float(row["value"])}) for row in rows]  # type: ignore[arg-type]


def reproduce(
    table: str,
    data: Path | str | None = None,
    models: Callable[[str, str], Upscaler | None] | None = None,
    *,
    methods: Sequence[str] = (),
    progress: Callable[[Published], object] | None = None,
) -> list[Reproduced]:
    """Every row of a table with what we measure: `data` holds one folder per dataset, named as in the table.

    `models(method, dial)` gives the upscaler of a row, or None if there are no weights for it; bicubic needs none.
    `methods` limits the rows. What cannot be measured says why.
    """
    found: dict[tuple[str, str, str, float, str], tuple[EvalResult, PaperCost | None] | str] = {}
    rows = []
    for row in load_table(table):
        if methods and row.method not in methods:
            continue
        key = (row.method, row.dial, row.dataset, row.scale, row.protocol)
        if row.metric not in MEASURED:
            rows.append(Reproduced(row, absent="not measured by this command"))
            continue
        if not row.protocol:
            rows.append(Reproduced(row, absent="measured as no protocol of ours does"))
            continue
        if key not in found:
            if progress is not None:
                progress(row)
            found[key] = _measure(row, data, models)
        measured = found[key]
        if isinstance(measured, str):
            rows.append(Reproduced(row, absent=measured))
            continue
        result, cost = measured
        ours = result.mean.get(MEASURED[row.metric], math.nan)
        absent = f"{len(result.skipped)} pictures could not be read" if result.skipped else ""
        rows.append(Reproduced(row, ours, absent, cost))
    return rows


def _measure(
    row: Published, data: Path | str | None, models: Callable[[str, str], Upscaler | None] | None
) -> tuple[EvalResult, PaperCost | None] | str:
    """The evaluation that gives a row and its cost, or the reason why there is none."""
    folder = _dataset_folder(row.dataset, data)
    if folder is None:
        return f"no data: {row.dataset}"
    try:
        own = models(row.method, row.dial) if models is not None and row.method != "bicubic" else None
        upscaler = bicubic if row.method == "bicubic" else own
        if upscaler is None:
            return f"no weights: {row.method}"
        result = evaluate(upscaler, folder, row.scale, find_protocol(row.protocol))
    except ScalewiseError as error:
        return str(error)
    return result, _cost(upscaler, result)


def _cost(upscaler: Upscaler, result: EvalResult) -> PaperCost | None:
    """The cost that the papers print with their numbers, where it is known how they count."""
    for convention in ("classsr", "camixer"):
        try:
            return paper_cost(upscaler, result, convention)
        except ProtocolMismatch:
            continue
    return None


def _dataset_folder(dataset: str, data: Path | str | None) -> Path | None:
    if data is None:
        return None
    candidates = (Path(data) / name for name in FOLDERS.get(dataset, (dataset,)))
    return next((folder for folder in candidates if folder.is_dir()), None)
