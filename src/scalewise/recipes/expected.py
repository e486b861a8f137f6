"""What the papers print for a recipe, read from `evaluate/tables/*.csv`: the promise that `Recipe.expects` holds."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from importlib import resources


def printed(method: str, dataset: str, sources: Mapping[str, str]) -> dict[str, float]:
    """The dB of a method on one set at scales up to 4; `sources`: file → which of a paper's tables."""
    return {
        _name(row): float(row["value"])
        for paper, source in sources.items()
        for row in _rows(paper)
        if (row["method"], row["dataset"], row["source"]) == (method, dataset, source) and float(row["scale"]) <= 4
    }


def printed_at(method: str, paper: str, protocol: str, dial: str, scale: int) -> dict[str, float]:
    """The dB of a method on all sets at one scale and value of its dial."""
    return {
        _name(row): float(row["value"])
        for row in _rows(paper)
        if (row["method"], row["protocol"], row["dial"]) == (method, protocol, dial) and float(row["scale"]) == scale
    }


def _rows(paper: str) -> Iterator[dict[str, str]]:
    file = resources.files("scalewise") / "evaluate" / "tables" / f"{paper}.csv"
    rows = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    return (row for row in rows if row["metric"] == "psnr")


def _name(row: Mapping[str, str]) -> str:
    return f"{row['protocol']} {row['dataset']} x{row['scale']}"
