"""Many at once against a server in a process of its own: answered or refused, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the page needs the extra `app`")

import httpx
import psutil
from app.server import small

CLIENTS, SLOW, LEAVING = 60, 10, 10


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """(address, process); its temporary files lie in `tmp_path`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "scalewise", "app", "--port", str(port), "--queue", "6", "--per-visitor", "60"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert f"http://localhost:{port}/" in process.stdout.readline(), "said when it listens"
    yield f"http://127.0.0.1:{port}", process
    process.kill()
    process.wait(30)


def post(address: str, data: bytes, **form: str) -> httpx.Response:
    return httpx.post(f"{address}/v1/upscale", files={"file": ("x.png", data)}, data=form, timeout=300)


def metric(address: str, name: str) -> float:
    lines = httpx.get(f"{address}/metrics", timeout=60).text.splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"scalewise_{name} "))


def slowly(address: str, data: bytes, seconds: float, ended: list[bytes]) -> None:
    """Half a body, and then nothing for longer than the server waits."""
    host, port = address.removeprefix("http://").split(":")
    head = "POST /v1/upscale HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(f"{head}Content-Length: {len(data) + 500}\r\n\r\n--b\r\n".encode())
        ended.append(connection.recv(4096))


def leave(address: str, data: bytes) -> None:
    """Hang up while the picture is being worked on."""
    try:
        with httpx.Client(timeout=httpx.Timeout(60, read=0.7)) as client:
            client.post(f"{address}/v1/upscale", files={"file": ("x.png", data)})
    except httpx.HTTPError:
        pass


@pytest.mark.slow
def test_sixty_at_once(server: tuple[str, subprocess.Popen[str]], tmp_path: Path) -> None:
    address, process = server
    data = small(96)
    for _ in range(8):
        assert post(address, data).status_code == 200
    memory = psutil.Process(process.pid).memory_info
    level = memory().rss
    seen: list[int] = []
    ended: list[bytes] = []
    threads = [threading.Thread(target=lambda: seen.append(post(address, data).status_code)) for _ in range(CLIENTS)]
    for k in range(SLOW):
        threads[k] = threading.Thread(target=slowly, args=(address, data, 60, ended))
    for k in range(SLOW, SLOW + LEAVING):
        threads[k] = threading.Thread(target=leave, args=(address, data))
    for thread in threads:
        thread.start()
    for thread in threads[SLOW:]:
        thread.join(300)
    last = time.monotonic()
    while metric(address, "jobs_running") + metric(address, "jobs_waiting"):
        assert time.monotonic() - last < 30
    idle = time.monotonic() - last
    for thread in threads[:SLOW]:
        thread.join(60)
    now = memory().rss
    print(f"{dict(Counter(seen))}, idle after {idle:.2f} s, memory {level >> 20} → {now >> 20} MiB")
    assert len(seen) == CLIENTS - SLOW - LEAVING and set(seen) <= {200, 503} and seen.count(200) >= 5
    assert len(ended) == SLOW and all(answer.split()[1] == b"408" for answer in ended)
    assert idle <= 1.0
    assert now < 1.1 * level
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"]
    assert not left
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert process.stderr is not None and "Traceback" not in process.stderr.read()
    assert not list(tmp_path.iterdir()), "the server leaves nothing behind"


@pytest.mark.slow
def test_the_end_of_a_server_with_jobs(server: tuple[str, subprocess.Popen[str]], tmp_path: Path) -> None:
    """SIGTERM: what waits is told so; kill -9: what was left goes at the next start."""
    address, process = server
    post(address, small(32))  # all is loaded
    started = [httpx.post(f"{address}/v1/jobs", files={"file": small(1024)}, timeout=60).json() for _ in range(2)]
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(post(address, small(32)).status_code))
    waiting.start()
    assert any(metric(address, "jobs_waiting") == 2 for _ in range(1000)), "the first runs, two wait"
    states: list[str] = []
    with httpx.stream("GET", f"{address}/v1/jobs/{started[1]['id']}/events", timeout=60) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                if not states:
                    process.send_signal(signal.SIGTERM)
                states.append(json.loads(line[6:])["state"])
    waiting.join(60)
    assert answers == [503] and states[-1] in ("waiting", "cancelled")
    assert process.wait(60) == 0
    assert process.stderr is not None and "Traceback" not in process.stderr.read()
    assert not list(tmp_path.iterdir())
