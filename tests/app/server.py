"""A running server for the tests: uvicorn in a thread, on a free port."""

from __future__ import annotations

import contextlib
import io
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
