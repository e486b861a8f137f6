"""README's blocks do what they say, in order, as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MADE = {"photo_x3.7.png", "effort.png", "large", "album", "photo_from_python.png"}


def blocks(section: str) -> list[tuple[str, str]]:
    """(language, text) of each block below a heading."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```(\w+)\n(.*?)```", text.partition(f"\n## {section}\n")[2].partition("\n## ")[0], re.DOTALL)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="blocks for a shell")
def test_the_blocks_of_the_readme_run_in_order(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    commands = tmp_path / "bin"
    commands.mkdir()
    script = commands / "scalewise"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m scalewise "$@"\n')
    script.chmod(0o755)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PATH": f"{commands}:{os.environ['PATH']}"}
    run = {"bash": ["bash", "-e", "-c"], "python": [sys.executable, "-c"]}
    found = blocks("Command line") + blocks("Python")
    assert [language for language, _ in found] == ["bash", "python"]
    for language, text in found:
        done = subprocess.run([*run[language], text], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} >= MADE


def test_the_readme_names_files_that_exist() -> None:
    for _, text in blocks("Command line") + blocks("Python"):
        for name in re.findall(r"examples/[\w./-]*", text):
            assert (ROOT / name).exists(), name
