"""`examples/browser/index.html` in Chromium: an exported file enlarges a picture by WASM, tile by tile, as we do.

ORT_WEB names the folder `dist` of the npm package onnxruntime-web; `make test-browser` fetches it.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright: make test-browser")
pytest.importorskip("onnxscript", reason="writing ONNX files needs onnxscript")

from browser.chromium import MARKS, chromium
from playwright.sync_api import expect  # pyright: ignore[reportMissingImports]

from scalewise import images
from scalewise.checkpoints.build import patch_routed
from scalewise.export.onnx_file import export, in_full

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = Path(os.environ.get("ORT_WEB") or ROOT / "examples" / "browser" / "node_modules" / "onnxruntime-web" / "dist")
NEEDED = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
pytestmark = [
    *MARKS,
    pytest.mark.skipif(
        not all((RUNTIME / name).is_file() for name in NEEDED),
        reason="no onnxruntime-web: make test-browser fetches it",
    ),
]


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder with the page and the runtime, and its address."""
    runtime = tmp_path / "node_modules" / "onnxruntime-web" / "dist"
    runtime.mkdir(parents=True)
    for name in NEEDED:
        shutil.copyfile(RUNTIME / name, runtime / name)
    shutil.copyfile(ROOT / "examples" / "browser" / "index.html", tmp_path / "index.html")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield tmp_path, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_page_enlarges_as_we_do_and_asks_nobody_else(served: tuple[Path, str]) -> None:
    folder, address = served
    network, (top, left, height, width) = patch_routed(8, [1, 2], [3, 4], 32, 8).eval(), (60, 200, 130, 310)
    export(network, 4, folder / "network.onnx", tile=128)
    lr = images.open(ROOT / "examples" / "photo.jpg").read((top, left, top + height, left + width))
    levels = (lr * 255).round().byte()
    buffer = io.BytesIO()
    Image.fromarray(levels.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    with chromium() as browser:
        page, asked, errors = browser.new_page(), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{address}/index.html")
        expect(page.locator("#state")).to_have_text("ready: ×4", timeout=60_000)
        page.set_input_files("#file", {"name": "photo.png", "mimeType": "image/png", "buffer": buffer.getvalue()})
        expect(page.locator("#state")).to_have_text("310×130 → 1240×520", timeout=60_000)
        picture = page.evaluate("document.getElementById('canvas').toDataURL('image/png').split(',')[1]")
    found = torch.from_numpy(np.array(Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")))
    ours = (in_full(network, levels[None] / 255, 4).clamp(0, 1) * 255).round()
    assert (found.permute(2, 0, 1) - ours).abs().max() <= 1
    assert not errors and all(url.startswith((address, "blob:")) for url in asked)
