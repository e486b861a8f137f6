"""A running server for the tests: uvicorn in a thread, on a free port."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from scalewise.app import Limits


@contextlib.contextmanager
def running(limits: Limits | None = None) -> Iterator[tuple[str, object]]:
    """(address, worker) while the server runs."""
    import uvicorn

    from scalewise.app.http import build

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    application = build(limits or Limits())
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
        yield f"http://127.0.0.1:{port}", application.state.worker
    finally:
        server.should_exit = True
        thread.join(20)
