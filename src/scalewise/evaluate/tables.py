"""Published tables (`published.py`) next to what we measure, and to what we count (`counting.py`)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalewise.errors import InvalidRequest, ProtocolMismatch, ScalewiseError
from scalewise.evaluate import counting
from scalewise.evaluate.conventions import PaperCost, paper_cost
from scalewise.evaluate.protocols import find_protocol
from scalewise.evaluate.published import Published, load_table, tables
from scalewise.evaluate.runner import EvalResult, evaluate
from scalewise.evaluate.upscalers import Upscaler, bicubic

# What `evaluate` measures, by the name of a table's metric; other metrics stay as published.
MEASURED = {"psnr": "psnr", "ssim": "ssim", "ws_psnr": "ws_psnr", "ws_ssim": "ws_ssim"}
# The same set under the names that folders have.
FOLDERS = {"B100": ("B100", "BSD100", "BSDS100"), "DIV2K": ("DIV2K", "DIV2K_valid"), "Urban100": ("Urban100", "U100")}


@dataclass(frozen=True)
class Reproduced:
    """A published number next to ours, or the reason why ours is missing. `cost`: our value of the cost that the
    paper prints with it, counted as the paper does; None where its way to count is not known. `count`: parameters and
    multiply-adds of the row's network, None for one that scalewise has not; `flops`: the cost that is printed and ours,
    where it does not depend on the picture."""

    published: Published
    ours: float = math.nan
    absent: str = ""
    cost: PaperCost | None = None
    count: counting.Count | None = None
    flops: tuple[float, float] | None = None

    @property
    def difference(self) -> float:
        return self.ours - self.published.value

    def as_dict(self) -> dict[str, Any]:
        """For JSON: None where there is no number."""
        found = dataclasses.asdict(self.published) | {
            "ours": None if math.isnan(self.ours) else self.ours,
            "difference": None if math.isnan(self.ours) else self.difference,
            "absent": self.absent,
            "cost": None if self.cost is None else self.cost.as_dict(),
            "count": None if self.count is None else self.count.as_dict(),
        }
        return found | {"printed_flops": self.flops and self.flops[0], "counted_flops": self.flops and self.flops[1]}


def reproduce(
    table: str,
    data: Path | str | None = None,
    models: Callable[[str, str], Upscaler | None] | None = None,
    *,
    methods: Sequence[str] = (),
    progress: Callable[[Published], object] | None = None,
) -> list[Reproduced]:
    """Every row of a table, or of "all", with what we measure and count: `data` holds one folder per dataset, named as
    in the table. Parameters and multiply-adds need neither data nor weights.

    `models(method, dial)` gives the upscaler of a row, or None if there are no weights for it; bicubic needs none.
    `methods` limits the rows. What cannot be measured says why. Raises InvalidRequest for a table that there is not.
    """
    found: dict[tuple[str, str, str, float, str], tuple[EvalResult, PaperCost | None] | str] = {}
    rows = []
    for row in [row for name in (tables() if table == "all" else [table]) for row in load_table(name)]:
        if methods and row.method not in methods:
            continue
        try:
            count, flops, counted = counting.count(row), counting.printed_cost(row), counting.measured(row)
            why = "not measured by this command"
        except InvalidRequest as error:
            count = flops = counted = None
            why = str(error)
        if row.metric not in MEASURED:
            ours = math.nan if counted is None else counted
            rows.append(Reproduced(row, ours, "" if counted is not None else why, count=count, flops=flops))
            continue
        if not row.protocol:
            rows.append(Reproduced(row, absent="measured as no protocol of ours does", count=count, flops=flops))
            continue
        key = (row.method, row.dial, row.dataset, row.scale, row.protocol)
        if key not in found:
            if progress is not None:
                progress(row)
            found[key] = _measure(row, data, models)
        measured = found[key]
        if isinstance(measured, str):
            rows.append(Reproduced(row, absent=measured, count=count, flops=flops))
            continue
        result, cost = measured
        ours = result.mean.get(MEASURED[row.metric], math.nan)
        absent = f"{len(result.skipped)} pictures could not be read" if result.skipped else ""
        rows.append(Reproduced(row, ours, absent, cost, count, flops))
    return rows


def weights_of(method: str, dial: str) -> str:
    """The name under which weights for a row are given: the method, or the variant (`tadt-liif@fixed-beta`) where the
    row is of a network that was trained otherwise and is not a setting of the same one."""
    name = counting.NAMES.get((method, dial), "") if dial else ""
    return name if "@" in name else method


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
            return f"no weights: {weights_of(row.method, row.dial)}"
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
