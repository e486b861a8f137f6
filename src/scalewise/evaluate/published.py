"""Published numbers, as they are printed.

`tables/*.csv` hold the papers' numbers, one file per paper, one number per row, with its protocol, source and errata.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from importlib import resources

from scalewise.errors import InvalidRequest


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
