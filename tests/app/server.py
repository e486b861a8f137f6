"""A running server for the tests: uvicorn in a thread, on a free port."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

from scalewise.app import Limits


@contextlib.contextmanager
def running(limits: Limits | None = None) -> Iterator[tuple[str, Any]]:
    """(address, worker) while the server runs."""
    from scalewise.app.http import build

    application = build(limits or Limits())
    with serving(application) as address:
        yield address, application.state.worker


@contextlib.contextmanager
def serving(application: Any) -> Iterator[str]:
    """The address of an application while it runs."""
    import uvicorn

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(application, port=port, log_level="error", timeout_graceful_shutdown=2))
    ready = threading.Event()
    started = server.startup

    async def startup(*given: object, **named: object) -> None:
        await started(*given, **named)  # type: ignore[arg-type]
        ready.set()

    server.startup = startup  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert ready.wait(60), "the server did not start"
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
