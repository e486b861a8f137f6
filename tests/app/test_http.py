"""Plain HTTP and gradio_client against a running server; the examples of docs/api.md are run as they stand."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs the extra `app`")

import httpx
import psutil
from app.server import running

from scalewise.app import Limits

ROOT = Path(__file__).resolve().parents[2]
PHOTO = ROOT / "examples" / "photo.jpg"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, Any]]:
    with running(Limits(queue=4, max_bytes=8 << 20, max_pixels=4_000_000)) as found:
        yield found


def small(side: int = 24, seed: int = 0) -> bytes:
    held = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)).save(held, "png")
    return held.getvalue()


def post(address: str, data: bytes, name: str = "x.png", **form: str) -> httpx.Response:
    return httpx.post(f"{address}/api/upscale", files={"image": (name, data)}, data=form, timeout=120)


def test_a_picture_for_a_picture(server: tuple[str, Any]) -> None:
    address, worker = server
    answer = post(address, small(), scale="2.5", budget="50%")
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (60, 60)
    report = json.loads(answer.headers["x-scalewise-report"])
    assert report["size"] == [60, 60] and report["share"] <= 0.5
    assert not worker.tasks, "what was answered is gone"


@pytest.mark.parametrize(
    ("name", "data", "form", "status", "says"),
    [
        ("x.png", b"\x89PNG\r\n\x1a\n1234", {}, 400, ""),
        ("x.png", small(), {"scale": "0.5"}, 400, "scale"),
        ("x.png", small(), {"scale": "90"}, 400, "megapixels"),
        ("x.png", small(), {"model": "../../etc/passwd"}, 400, "not served here"),
        ("x.png", small(), {"budget": "a lot"}, 400, "budget"),
        ("x.png", b"0" * (9 << 20), {}, 413, "MiB"),
    ],
)
def test_errors_are_sentences(
    server: tuple[str, Any], name: str, data: bytes, form: dict[str, str], status: int, says: str
) -> None:
    answer = post(server[0], data, name, **form)
    assert answer.status_code == status
    sentence = answer.json()["error"]
    assert says in sentence and "\n" not in sentence and "Traceback" not in sentence and "/tmp" not in sentence


def test_no_file_of_the_server_can_be_read(server: tuple[str, Any]) -> None:
    address, worker = server
    held = worker.submit(lambda task: None)
    (worker.root / "other").write_text("secret")
    for path in (
        "/results/nobody/after.png",
        f"/results/{held.token}/..%2fother",
        f"/results/{held.token}/%2e%2e/other",
        "/results/../other",
        "/gradio_api/file=/etc/passwd",
        f"/gradio_api/file={worker.root}/other",
        f"/gradio_api/file={ROOT}/README.md",
    ):
        answer = httpx.get(address + path)
        assert answer.status_code in (400, 403, 404), path
        assert b"secret" not in answer.content and b"root:" not in answer.content


def test_nothing_may_be_fetched_from_elsewhere(server: tuple[str, Any]) -> None:
    page = httpx.get(server[0])
    assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]


def test_the_examples_of_the_docs_run(server: tuple[str, Any], tmp_path: Path) -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    blocks = re.findall(r"```(bash|python)\n(.*?)```", text, re.S)
    ours = [(kind, code) for kind, code in blocks if "localhost:7860" in code]
    assert {kind for kind, _ in ours} == {"bash", "python"} and len(ours) >= 3
    shutil.copy(PHOTO, tmp_path / "photo.jpg")
    for kind, code in ours:
        code = code.replace("http://localhost:7860", server[0])
        command = ["bash", "-ec", code] if kind == "bash" else [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{code}\n{done.stderr[-2000:]}"
    assert Image.open(tmp_path / "photo_large.jpg").size == (1771, 1180)


@pytest.mark.slow
def test_forty_at_once_are_answered_or_refused_and_leave_nothing(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "scalewise", "app", "--port", str(port), "--queue", "6"]
    process = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL)
    address, photo = f"http://127.0.0.1:{port}", PHOTO.read_bytes()
    try:
        transport = httpx.HTTPTransport(retries=10)  # the server needs some seconds to start; retries back off
        with httpx.Client(transport=transport, timeout=120) as client:
            assert client.get(f"{address}/api/models").status_code == 200
        for _ in range(3):
            assert post(address, photo, "photo.jpg", scale="2", budget="50%").status_code == 200
        server = psutil.Process(process.pid)
        level = server.memory_info().rss
        seen: list[int] = []

        def ask() -> None:
            seen.append(post(address, photo, "photo.jpg", scale="2", budget="50%").status_code)

        threads = [threading.Thread(target=ask) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        now = server.memory_info().rss
        answered = seen.count(200)
        print(f"answered {answered}, refused {seen.count(503)}; memory {level >> 20} → {now >> 20} MiB")
        assert len(seen) == 40 and set(seen) <= {200, 503} and answered >= 7
        assert now < 1.1 * level
        left = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert not left
    finally:
        process.terminate()
        process.wait(30)
    assert not list(tmp_path.glob("scalewise*")), "the server leaves nothing behind"
