"""How long idle threads spin is the program's affair: importing says nothing, the command line does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
SPIN = "import os; print('SPIN', os.environ.get('GOMP_SPINCOUNT'))"


def run(code: str, **set_before: str) -> str:
    """The output of `code` in a fresh interpreter."""
    plain = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = plain | {"PYTHONPATH": str(SOURCE)} | set_before
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_importing_sets_no_environment_variable() -> None:
    code = "import os; before = dict(os.environ); import scalewise; print(dict(os.environ) == before)"
    assert run(code).strip() == "True"


def test_the_command_line_limits_spinning() -> None:
    code = (
        "import sys, scalewise.cli; sys.argv = ['scalewise', '--version']\ntry: scalewise.cli.main()\n"
        f"except SystemExit: pass\n{SPIN}"
    )
    assert "SPIN 5000" in run(code)


@pytest.mark.parametrize(
    ("before", "set_before", "answer", "spin"),
    [
        ("", {}, "True", "1234"),
        ("import sys; sys.modules['torch'] = sys; ", {}, "False", "None"),
        ("", {"GOMP_SPINCOUNT": "7"}, "True", "7"),
        ("", {"OMP_WAIT_POLICY": "passive"}, "True", "None"),
    ],
)
def test_it_can_be_asked_for_before_torch_is_loaded(
    before: str, set_before: dict[str, str], answer: str, spin: str
) -> None:
    code = f"{before}import scalewise; print('ANSWER', scalewise.set_idle_threads(1234)); {SPIN}"
    output = run(code, **set_before)
    assert f"ANSWER {answer}" in output and f"SPIN {spin}" in output
