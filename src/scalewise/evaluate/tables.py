"""Published tables (`published.py`) next to what we measure, and to what we count (`counting.py`)."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalewise.budget.budget import Budget
from scalewise.errors import DataError, InvalidRequest, ProtocolMismatch, ScalewiseError
from scalewise.evaluate import counting, metrics
from scalewise.evaluate.conventions import PaperCost, paper_cost
from scalewise.evaluate.estimates import estimate_errors
from scalewise.evaluate.protocols import find_protocol
from scalewise.evaluate.published import Published, load_table, tables
from scalewise.evaluate.runner import EvalResult, evaluate, evaluate_alone
from scalewise.evaluate.timing import Timing, timed
from scalewise.evaluate.upscalers import Upscaler, bicubic, in_steps, upscaler_of
from scalewise.execution.plan import RunOptions

MEASURED = ("psnr", "ssim", "ws_psnr", "ws_ssim")  # what `evaluate` measures under a protocol
TRAINING = "training"  # the dial of a row that is the time of training's forward
# The same set under the names that folders have.
FOLDERS = {"B100": ("B100", "BSD100", "BSDS100"), "DIV2K": ("DIV2K", "DIV2K_valid"), "Urban100": ("Urban100", "U100")}


@dataclass(frozen=True)
class Reproduced:
    """A published number next to ours, or the reason why ours is missing. `cost`: our value of the cost that the
    paper prints with it, counted as the paper does; None where its way to count is not known. `count`: parameters and
    multiply-adds of the row's network, None for one that scalewise does not have; `flops`: the cost that is printed and
    ours, where it does not depend on the picture; `timing`: where the row is a time and ours was measured, which is
    then that of one thread. `absent` also says where ours is of something else than what is printed."""

    published: Published
    ours: float = math.nan
    absent: str = ""
    cost: PaperCost | None = None
    count: counting.Count | None = None
    flops: tuple[float, float] | None = None
    timing: Timing | None = None

    @property
    def difference(self) -> float:
        """NaN between times, which are of other machines and pictures."""
        return math.nan if self.timing is not None else self.ours - self.published.value

    def as_dict(self) -> dict[str, Any]:
        """For JSON: None where there is no number."""
        found = dataclasses.asdict(self.published) | {
            "ours": None if math.isnan(self.ours) else self.ours,
            "difference": None if math.isnan(self.difference) else self.difference,
            "absent": self.absent,
            "cost": None if self.cost is None else self.cost.as_dict(),
            "count": None if self.count is None else self.count.as_dict(),
            "timing": None if self.timing is None else dataclasses.asdict(self.timing),
        }
        return found | {"printed_flops": self.flops and self.flops[0], "counted_flops": self.flops and self.flops[1]}


Models = Callable[[str, str], Upscaler | None]


@dataclass(frozen=True)
class _Evaluated:
    result: EvalResult
    cost: PaperCost | None = None


@dataclass(frozen=True)
class _Ours:
    """What was measured of a row."""

    value: float
    absent: str = ""
    cost: PaperCost | None = None
    timing: Timing | None = None


def reproduce(
    table: str,
    data: Path | str | None = None,
    models: Models | None = None,
    *,
    methods: Sequence[str] = (),
    measures: Mapping[str, metrics.Measure] | None = None,
    time: RunOptions | None = None,
    progress: Callable[[Published], object] | None = None,
) -> list[Reproduced]:
    """Every row of a table, or of "all", with what we measure and count: `data` holds one folder per dataset, named as
    in the table. Parameters and multiply-adds need neither data nor weights.

    `models(method, dial)` gives the upscaler of a row, or None if there are no weights for it; bicubic needs none.
    `methods` limits the rows. `measures` are for lpips, niqe, brisque and piqe in place of pyiqa's. With `time`, which
    says how networks run, rows of milliseconds are timed on this processor, with untrained weights where there are no
    others. What cannot be measured says why. Raises InvalidRequest for a table that does not exist.
    """
    find: Models = models or (lambda method, dial: None)
    measured: dict[tuple[object, ...], _Evaluated | tuple[float, ...] | _Ours | str] = {}
    rows = []
    for row in [row for name in (tables() if table == "all" else [table]) for row in load_table(name)]:
        if methods and row.method not in methods:
            continue
        try:
            count, flops, counted = counting.count(row), counting.printed_cost(row), counting.measured(row)
            why = ""
        except InvalidRequest as error:
            count = flops = counted = None
            why = str(error)
        if row.metric in ("parameters_millions", "gmacs"):
            ours = _Ours(math.nan, why) if counted is None else _Ours(counted, counting.apart(row))
        elif row.metric == "milliseconds" and (why or time is None or row.dial == TRAINING):
            ours = _Ours(math.nan, why or ("not timed" if time is None else "the time of training is not measured"))
        elif row.metric in MEASURED and not row.protocol:
            ours = _Ours(math.nan, "measured as no protocol of ours does")
        else:
            kind = row.metric if row.metric not in MEASURED else "psnr"
            dataset = row.dataset if kind != "milliseconds" else ""
            key = (kind, row.method, _setting(row), dataset, row.scale, row.protocol)
            if key not in measured:
                if progress is not None:
                    progress(row)
                try:
                    measured[key] = (
                        _time(row, find, time)
                        if time is not None and row.metric == "milliseconds"
                        else _measure(row, data, find, measures or {})
                    )
                except ScalewiseError as error:
                    measured[key] = str(error)
            ours = _ours(row, measured[key])
        rows.append(Reproduced(row, ours.value, ours.absent, ours.cost, count, flops, ours.timing))
    return rows


def weights_of(method: str, dial: str) -> str:
    """The name under which weights for a row are given: the method, or the variant (`tadt-liif@fixed-beta`) where the
    row is of a network that was trained otherwise and is not a setting of the same one."""
    name = counting.NAMES.get((method, dial), "") if dial else ""
    return name if "@" in name else method


def _setting(row: Published) -> str:
    """A row's dial, where it is one: the estimates of all levels are measured at once."""
    return "" if row.metric == "psnr_estimate_mae" else row.dial


def steps_of(dial: str) -> tuple[float, ...] | None:
    """CiaoSR's Table 6, "steps to x2 x4 x12" or "one step": the factors on the way to the scale. None: another dial."""
    if dial == "one step":
        return ()
    found = re.fullmatch(r"steps to((?: x\d+)+)", dial)
    return None if found is None else tuple(float(part[1:]) for part in found[1].split())[:-1]


def _measure(
    row: Published, data: Path | str | None, models: Models, measures: Mapping[str, metrics.Measure]
) -> _Evaluated | tuple[float, ...]:
    """What gives a row. Raises ScalewiseError, which says why there is nothing."""
    folder = _dataset_folder(row.dataset, data)
    if folder is None:
        raise DataError(f"no data: {row.dataset}")
    steps = steps_of(row.dial)
    setting = "" if steps is not None else _setting(row)
    upscaler = bicubic if row.method == "bicubic" else models(row.method, setting)
    if upscaler is None:
        raise DataError(f"no weights: {weights_of(row.method, row.dial)}")
    if row.metric == "psnr_estimate_mae":
        return estimate_errors(upscaler, folder, row.scale)
    if steps:
        upscaler = in_steps(upscaler, steps)
    extra = {}
    if row.metric in metrics.PYIQA_METRICS:
        extra = {row.metric: measures[row.metric] if row.metric in measures else metrics.perceptual(row.metric)}
    if not row.protocol:
        return _Evaluated(evaluate_alone(upscaler, folder, row.scale, extra=extra))
    result = evaluate(upscaler, folder, row.scale, find_protocol(row.protocol), extra=extra)
    return _Evaluated(result, _cost(upscaler, result))


def _time(row: Published, models: Models, options: RunOptions) -> _Ours:
    """The milliseconds of a row's network, at the row's dial or with all of its work. Raises ScalewiseError."""
    upscaler, remark = models(row.method, row.dial), ""
    if upscaler is None:
        budget = Budget.parse(row.dial) if "=" in row.dial else Budget.full()
        upscaler = upscaler_of(counting.first_weights(row), budget, dataclasses.replace(options, device="cpu"))
        remark = "first weights" if budget != Budget.full() else "first weights, all of the work"
    timing = timed(upscaler, counting.timed_size(row), row.scale)
    return _Ours(timing.one_thread, remark, timing=timing)


def _ours(row: Published, measured: _Evaluated | tuple[float, ...] | _Ours | str) -> _Ours:
    """The value of a row in what was measured for it and its kin."""
    if isinstance(measured, str):
        return _Ours(math.nan, measured)
    if isinstance(measured, _Ours):
        return measured
    if isinstance(measured, tuple):
        level = int(row.dial.removeprefix("level "))
        known = level < len(measured)
        return _Ours(measured[level]) if known else _Ours(math.nan, f"these weights have {len(measured)} levels")
    result = measured.result
    absent = f"{len(result.skipped)} pictures could not be read" if result.skipped else ""
    return _Ours(result.mean.get(row.metric, math.nan), absent, measured.cost)


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
