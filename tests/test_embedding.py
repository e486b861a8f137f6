"""docs/embedding.md does what it says: its blocks run, and a forked child is refused and not left waiting."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PARTS = re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", (ROOT / "docs" / "embedding.md").read_text(), re.M)
BLOCKS = [(title, code) for title, text in PARTS for code in re.findall(r"```python\n(.*?)```", text, re.S)]
OWN_PROCESS = ("Fork", "Spin counts")  # they ask for a fresh interpreter


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with Image.open(ROOT / "examples" / "photo.jpg") as photo:
        photo.resize((120, 80)).save(tmp_path / "photo.jpg", dpi=(300, 300))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_the_blocks_of_the_page_run(place: Path, title: str, code: str) -> None:
    if title in OWN_PROCESS:
        (place / "block.py").write_text(code)
        done = subprocess.run([sys.executable, "block.py"], capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout, done.stderr
        return
    threads = torch.get_num_threads()
    try:
        exec(compile(code, title, "exec"), {"__name__": "__main__"})
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)


def test_every_part_of_the_page_has_a_block() -> None:
    assert {title for title, _ in BLOCKS} == {title for title, _ in PARTS} and len(PARTS) == 8


FORK = """
import os, sys
import numpy as np, torch, scalewise
torch.set_num_threads(2)
picture = np.full((40, 40, 3), 90, np.uint8)
expected = scalewise.upscale(picture, 2).image
if os.fork() == 0:
    try:
        if sys.argv[1] == "one":
            torch.set_num_threads(1)
        print("same" if (scalewise.upscale(picture, 2).image == expected).all() else "other", flush=True)
    except scalewise.ScalewiseError as error:
        print(error, flush=True)
    finally:
        os._exit(0)
os.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork and GNU OpenMP")
@pytest.mark.parametrize(("threads", "says"), [("two", "spawn"), ("one", "^same")])
def test_a_forked_child_is_refused_and_does_not_wait_for_ever(threads: str, says: str) -> None:
    done = subprocess.run([sys.executable, "-c", FORK, threads], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and re.search(says, done.stdout), done.stdout + done.stderr
