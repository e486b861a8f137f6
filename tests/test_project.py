"""What the project says of itself in more than one place agrees."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import scalewise

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def written(pattern: str, file: str) -> str:
    found = re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, f"{file} has no line like {pattern}"
    return found[1]


def test_the_version_has_one_source() -> None:
    assert "version" in PROJECT["dynamic"]
    assert written(r"^version: (\S+)$", "CITATION.cff") == scalewise.__version__
    assert written(r"^## (\d\S*)", "CHANGELOG.md") == scalewise.__version__


def test_every_dependency_has_an_exact_version_to_test_with() -> None:
    exact = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    lines = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]
    assert {re.split(r"[\[<>=!~; ]", line)[0].lower() for line in lines} <= exact


def test_pre_commit_lints_with_the_tested_ruff() -> None:
    ruff = re.compile(r"ruff-pre-commit\n    rev: v([\d.]+)").search((ROOT / ".pre-commit-config.yaml").read_text())
    assert ruff is not None and f"ruff=={ruff[1]}\n" in (ROOT / "constraints.txt").read_text()
