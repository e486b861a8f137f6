"""The public names: what `import scalewise` offers, and that it costs nothing until a name is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"
HEAVY = ("torch", "pyvips")
REPORT = f"import sys; print('LOADED', [name for name in {HEAVY} if name in sys.modules])"


def run(code: str) -> str:
    """The output of `code` in a fresh interpreter."""
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_nothing_heavy() -> None:
    assert "LOADED []" in run(f"import scalewise; {REPORT}")


def test_help_loads_nothing_heavy() -> None:
    output = run(f"""
import runpy, sys
sys.argv = ["scalewise", "--help"]
try:
    runpy.run_module("scalewise", run_name="__main__", alter_sys=True)
except SystemExit:
    pass
{REPORT}
""")
    assert "upscale" in output
    assert "LOADED []" in output


def test_no_module_bears_the_name_of_a_public_function() -> None:
    import scalewise

    modules = {path.stem for path in (SOURCE / "scalewise").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert not modules & set(scalewise.__all__)
