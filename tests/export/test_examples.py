"""What docs/export.md shows runs as it stands there, and gives our picture."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scalewise.checkpoints.build import patch_routed
from scalewise.export.onnx_file import export, in_full

ROOT = Path(__file__).resolve().parents[2]


def test_the_python_example_gives_our_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="writing ONNX files needs onnxscript")
    pytest.importorskip("onnxruntime", reason="the example runs in onnxruntime")
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL | re.MULTILINE)
    network = patch_routed(8, [1, 2], [3, 4], 32, 8).eval()
    export(network, 4, tmp_path / "fast_x4.onnx")
    with Image.open(ROOT / "examples" / "photo.jpg") as photo:
        photo.crop((200, 60, 264, 100)).save(tmp_path / "photo.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/export.md", "exec"), {})
    with Image.open("photo.jpg") as lr, Image.open("photo_x4.png") as sr:
        given, found = (torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in (lr, sr))
    ours = (in_full(network, given[None] / 255, 4).clamp(0, 1) * 255).round()
    assert found.shape == (3, 160, 256) and (found - ours).abs().max() <= 1


def test_the_browser_page_is_as_short_as_the_docs_say_and_loads_nothing_from_elsewhere() -> None:
    page = (ROOT / "examples" / "browser" / "index.html").read_text()
    said = re.search(r"is a page of (\d+) lines", (ROOT / "docs" / "export.md").read_text())
    assert said is not None and len(page.splitlines()) == int(said[1]) <= 40
    assert not re.search(r"https?:|//[a-z]", page.replace("// ", ""))
