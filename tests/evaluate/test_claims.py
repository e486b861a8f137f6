"""docs/claims.md: every claim has a verdict and a command that exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from scalewise.cli import app
from scalewise.errors import InvalidRequest
from scalewise.evaluate import counting
from scalewise.evaluate.protocols import find_protocol
from scalewise.evaluate.published import load_table, tables
from scalewise.recipes import find

ROOT = Path(__file__).resolve().parents[2]
VERDICTS = {"demonstrated", "bounded", "contradicted", "not reproduced", "untested"}


def claims() -> list[list[str]]:
    """The cells of every row."""
    lines = (ROOT / "docs/claims.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    return [row for row in rows if row[0] != "claim"]


def test_there_are_twenty_claims_and_few_are_untested() -> None:
    assert len(claims()) >= 20
    assert all(len(row) == 4 and row[2] in VERDICTS for row in claims()), [row for row in claims() if len(row) != 4]
    assert sum(row[2] == "untested" for row in claims()) <= 4


@pytest.mark.parametrize("command", sorted({row[-1].strip("`") for row in claims()}))
def test_the_command_of_a_claim_exists(command: str) -> None:
    program, *words = shlex.split(command)
    if program in ("pytest", "python"):
        assert (ROOT / words[0]).is_file()
        return
    assert program == "scalewise"
    group = typer.main.get_command(app)
    assert isinstance(group, click.Group) or hasattr(group, "commands")
    known = group.commands[words[0]]  # type: ignore[attr-defined]
    options = {name for parameter in known.params for name in parameter.opts}
    assert {word for word in words[1:] if re.fullmatch(r"--?[a-z][a-z-]*", word)} <= options
    if words[0] == "reproduce":
        assert words[1] in tables()
    if words[0] == "train":
        assert find(words[1]).steps
    if "--protocol" in words:
        find_protocol(words[words.index("--protocol") + 1])


def test_every_row_of_every_table_has_a_network_or_a_reason() -> None:
    refused = {"APE": "cannot be built"} | dict.fromkeys(counting.NOT_OURS, "no network of scalewise")
    for row in (row for name in tables() for row in load_table(name)):
        why = refused.get(row.dial) or refused.get(row.method)
        if why is not None:
            with pytest.raises(InvalidRequest, match=why):
                counting.network_of(row)
        else:
            assert counting.network_of(row) is not None or row.method == "bicubic"


def one(table: str, method: str, metric: str, scale: float = 4, dial: str = "") -> counting.Published:
    wanted = (method, metric, scale, dial)
    return next(row for row in load_table(table) if (row.method, row.metric, row.scale, row.dial) == wanted)


def test_counts_are_those_that_are_printed() -> None:
    assert counting.measured(one("tadt", "tadt-baseline-liif", "parameters_millions", 1)) == pytest.approx(
        9.17, abs=5e-3
    )
    assert counting.measured(one("tadt", "rdn-liif", "gmacs", 2)) == pytest.approx(15567.48, rel=1e-3)
    assert counting.measured(one("tadt", "tadt-baseline-liif", "gmacs", 4)) == pytest.approx(1952.41, rel=0.01)
    whole, local = (one("adaformer", "adaformer", "psnr", dial=dial) for dial in ("local and global", "local branch"))
    assert counting.count(local).macs / counting.count(whole).macs == pytest.approx(654.25 / 696.08, abs=1e-3)
    for table, method, dial in (("enaf", "carn", ""), ("camixer", "camixer-s", "gamma=0.5"), ("carn", "carn-m", "")):
        cost = counting.printed_cost(one(table, method, "psnr", dial=dial))
        assert cost is not None and cost[1] == pytest.approx(cost[0], rel=5e-3)
