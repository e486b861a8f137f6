"""A running server for the tests: uvicorn in a thread, on a free port; and its jobs."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from scalewise.app import Limits


@contextlib.contextmanager
def running(limits: Limits | None = None, parent: Path | None = None, **access: Any) -> Iterator[tuple[str, Any]]:
    """(address, server) while it runs; `access` as of `access_for`."""
    from scalewise.app.http import build
    from scalewise.app.serving import Uvicorn, access_for, config_of, listen

    socket = listen("127.0.0.1", 0)
    port = socket.getsockname()[1]
    app = build(limits or Limits(), access_for("127.0.0.1", port, **access), parent)
    server = app.state.server
    ready = threading.Event()
    runner = Uvicorn(config_of(app, log_level="error"), server.worker, ready.set)
    thread = threading.Thread(target=runner.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    assert ready.wait(60), "the server did not start"
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.worker.stop()
        runner.should_exit = True
        thread.join(20)
        server.worker.close()


@contextlib.contextmanager
def served(limits: Limits, parent: Path) -> Iterator[tuple[httpx.Client, Any]]:
    """(a client of it, server) while it runs."""
    with running(limits, parent) as (address, server), httpx.Client(base_url=address, timeout=120) as client:
        yield client, server


def small(side: int = 24, seed: int = 0, format: str = "png", mode: str = "RGB") -> bytes:
    """A picture of noise, as the bytes of a file."""
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 4), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels, "RGBA").convert(mode).save(held, format)
    return held.getvalue()


def pages(count: int, format: str, side: int = 16) -> bytes:
    """A file of several pictures."""
    made = [Image.open(io.BytesIO(small(side, seed))) for seed in range(count)]
    held = io.BytesIO()
    more = {"loop": 0, "duration": 80} if format == "gif" else {}
    made[0].save(held, format, save_all=True, append_images=made[1:], **more)
    return held.getvalue()


def start(client: httpx.Client, data: bytes, name: str = "x.png", **form: str) -> httpx.Response:
    return client.post("/v1/jobs", files={"file": (name, data)}, data={"model": "bicubic", **form})


def finished(client: httpx.Client, data: bytes, name: str = "x.png", **form: str) -> dict[str, Any]:
    """A job, from its stream of events."""
    started = start(client, data, name, **form)
    assert started.status_code == 202, started.text
    told: dict[str, Any] = {}
    with client.stream("GET", f"/v1/jobs/{started.json()['id']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("data: "):
                told = json.loads(line[6:])
    assert told["state"] in ("done", "failed", "cancelled"), "the last event is the end"
    return told


def image_of(client: httpx.Client, job: dict[str, Any], what: str = "result") -> Image.Image:
    answer = client.get(f"/v1/jobs/{job['id']}/{what}")
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))
