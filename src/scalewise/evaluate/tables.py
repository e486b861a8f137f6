"""What is printed: published tables beside what we measure, and quality against cost.

`tables/*.csv` hold the papers' numbers, one file per paper, one number per row, with its protocol, source and errata.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from scalewise.errors import BudgetInfeasible, InvalidRequest, MissingDependency, ProtocolMismatch, ScalewiseError
from scalewise.evaluate import (
    DEFAULT,
    Comparison,
    EvalProtocol,
    EvalResult,
    PaperCost,
    Upscaler,
    bicubic,
    evaluate,
    find_protocol,
    paper_cost,
    plain,
)

# ---------------------------------------------------------------------------------------------------------------------
# Published tables

# What `evaluate` measures, by the name of a table's metric; other metrics stay as published.
MEASURED = {"psnr": "psnr", "ssim": "ssim", "ws_psnr": "ws_psnr", "ws_ssim": "ws_ssim"}
# The same set under the names that folders have.
FOLDERS = {"B100": ("B100", "BSD100", "BSDS100"), "DIV2K": ("DIV2K", "DIV2K_valid"), "Urban100": ("Urban100", "U100")}


@dataclass(frozen=True)
class Published:
    """One printed number. `dial` is the paper's own setting; `flops` stands beside it, as the paper counts."""

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
    """A published number beside ours, or why there is none of ours. `cost`: ours of what the paper prints
    beside it, as it counts; None where that is not known."""

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
        raise InvalidRequest(f"no published table {name!r}: there are {', '.join(tables())}")
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
    """The evaluation behind a row and its cost, or why there is none."""
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
    """What the papers print beside their numbers, where it is known how they count."""
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


def reproduced_table(rows: Sequence[Reproduced], style: Literal["text", "csv", "markdown"] = "text") -> str:
    """published | ours | difference | FLOPs published | ours | why absent. CSV also has the source and the note of
    every number."""
    header = ["method", "dial", "dataset", "scale", "metric", "protocol"]
    header += ["published", "ours", "difference", "FLOPs", "our count", "why absent"]
    if style == "csv":
        header += ["source", "note"]
    cells = []
    for row in rows:
        printed = row.published
        digits = max(2, decimals(printed.value)) if "psnr" in printed.metric else 4
        line = [printed.method, printed.dial, printed.dataset, f"{printed.scale:g}", printed.metric, printed.protocol]
        line += [f"{printed.value:.{digits}f}" if printed.metric in MEASURED else f"{printed.value:g}"]
        line += ["", ""] if math.isnan(row.ours) else [f"{row.ours:.{digits}f}", f"{row.difference:+.{digits}f}"]
        cost = "" if row.cost is None else f"{row.cost.mean / 1e6:.1f}M ({row.cost.share:.1%})"
        line += [printed.flops, cost, row.absent]
        cells.append([*line, printed.source, printed.note] if style == "csv" else line)
    return table_text(header, cells, style)


def decimals(value: float) -> int:
    """How many a printed number has."""
    return len(repr(value).partition(".")[2])


def comparison_table(rows: Sequence[Comparison], style: Literal["text", "csv", "markdown"] = "text") -> str:
    """One set of predictions under all protocols: what `compare_protocols` found."""
    cells = []
    for row in rows:
        numbers = ["", ""] if row.absent else [f"{row.psnr:.2f}", f"{row.ssim:.4f}"]
        cells.append([row.protocol, *numbers, row.absent])
    return table_text(["protocol", "PSNR", "SSIM", "why absent"], cells, style)


def table_text(header: Sequence[str], rows: Sequence[Sequence[str]], style: Literal["text", "csv", "markdown"]) -> str:
    """A table as aligned text, CSV or Markdown, with a newline at its end."""
    if style == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        return text.getvalue()
    cells = [[cell.replace("|", "\\|") if style == "markdown" else cell for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    cells.insert(1, ["-" * width for width in widths])
    left, between, right = ("| ", " | ", " |") if style == "markdown" else ("", "  ", "")
    lines = [left + between.join(map(str.ljust, row, widths)) + right for row in cells]
    return "".join(line.rstrip() + "\n" for line in lines)


# ---------------------------------------------------------------------------------------------------------------------
# Quality against cost


@dataclass(frozen=True)
class CurvePoint:
    """One model at one budget: means over pictures."""

    model: str
    budget: float
    psnr: float
    ssim: float
    macs: float
    macs_share: float
    seconds: float


@dataclass(frozen=True)
class Curve:
    """Quality against cost. `notes` name the budgets that a model cannot meet, and pictures that were skipped."""

    protocol: str
    scale: float
    points: tuple[CurvePoint, ...]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        points = [{"model": point.model, **plain(_numbers(point))} for point in self.points]
        return {"protocol": self.protocol, "scale": self.scale, "points": points, "notes": list(self.notes)}

    def write(self, path: Path | str) -> None:
        Path(path).write_text(json.dumps(self.as_dict(), indent=2) + "\n")

    def plot(self, path: Path | str) -> None:
        """PSNR against MACs and against seconds, one line per model, bicubic as a dashed floor."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise MissingDependency("the picture of a curve needs matplotlib: pip install matplotlib") from None
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for panel, cost in zip(panels, ("macs", "seconds"), strict=True):
            for model in dict.fromkeys(point.model for point in self.points):
                points = sorted((p for p in self.points if p.model == model), key=lambda p: getattr(p, cost))
                if model == "bicubic":
                    label = f"bicubic, {points[0].psnr:.2f} dB"
                    panel.axhline(points[0].psnr, linestyle="--", color="0.5", label=label)
                    continue
                panel.plot([getattr(p, cost) for p in points], [p.psnr for p in points], marker="o", label=model)
            panel.set_xlabel("MACs per image" if cost == "macs" else "seconds per image")
            panel.grid(alpha=0.3)
        panels[0].set_ylabel("PSNR (dB)")
        panels[0].legend()
        figure.suptitle(f"×{self.scale:g}, protocol {self.protocol}")
        figure.savefig(path, dpi=150)


def _numbers(point: CurvePoint) -> dict[str, float]:
    values = dataclasses.asdict(point)
    del values["model"]
    return values


def curve(
    models: Mapping[str, Callable[[float], Upscaler]],
    data: Path | str,
    scale: float,
    protocol: EvalProtocol | str = DEFAULT,
    *,
    budgets: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    progress: Callable[[str, float], object] | None = None,
) -> Curve:
    """Evaluate each model at each budget (a share of its own MACs); bicubic is always there, as the floor.

    A budget that a model cannot meet leaves a note instead of a point.
    """
    protocol = find_protocol(protocol) if isinstance(protocol, str) else protocol
    points, notes = [], []
    jobs = [("bicubic", 0.0, lambda _: bicubic)]
    jobs += [(name, budget, build) for name, build in models.items() if name != "bicubic" for budget in budgets]
    for name, budget, build in jobs:
        if progress is not None:
            progress(name, budget)
        try:
            result = evaluate(build(budget), data, scale, protocol)
        except BudgetInfeasible as error:
            notes.append(f"{name} at {budget:.0%}: {error}")
            continue
        mean = result.mean
        notes += [f"{name}: {picture.name} was skipped: {picture.error}" for picture in result.skipped]
        costs = (mean.get(key, math.nan) for key in ("psnr", "ssim", "macs", "macs_share", "seconds"))
        points.append(CurvePoint(name, budget, *costs))
    return Curve(protocol.name, scale, tuple(points), tuple(dict.fromkeys(notes)))
