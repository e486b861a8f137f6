"""Running the server: where it listens, who may come in, how it ends."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from scalewise.app.guard import HEADER_BYTES, LOOPBACK, Access, Connection, machine_names
from scalewise.app.http import build
from scalewise.app.worker import Limits, Worker
from scalewise.errors import InvalidRequest

ENDED = 130  # the exit code where a signal ended a job that did not stop in time


class Uvicorn(uvicorn.Server):
    """Ends waiting answers as soon as a signal comes, so that they can be finished in time; says when it listens."""

    def __init__(self, config: uvicorn.Config, worker: Worker, ready: Callable[[], None] | None = None) -> None:
        super().__init__(config)
        self.worker, self.ready = worker, ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGINT and SIGTERM end the server cleanly, which is no failure: uvicorn's own would raise them again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.ready is not None and self.started:
            self.ready()

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.worker.stop()
        super().handle_exit(sig, frame)


def config_of(app: FastAPI, **named: Any) -> uvicorn.Config:
    """How uvicorn runs it, here and in tests."""
    told: dict[str, Any] = {
        "http": Connection,
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "log_level": "warning",
    }
    told |= {"server_header": False, "proxy_headers": False, "timeout_keep_alive": 10, "timeout_graceful_shutdown": 5}
    options: dict[str, Any] = told | {"h11_max_incomplete_event_size": HEADER_BYTES} | named
    return uvicorn.Config(app, **options)


def listen(host: str, port: int) -> socket.socket:
    """A socket at the address. Raises InvalidRequest."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, proto)
        if sys.platform != "win32":
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidRequest(
            f"cannot listen at {host}:{port}: {reason.lower()} (choose another --port or --host)"
        ) from None
    found.set_inheritable(True)
    return found


def is_loopback(host: str) -> bool:
    return host in LOOPBACK or host.startswith("127.")


def access_for(
    host: str, port: int, allow: tuple[str, ...] = (), token: str | None = None, open: bool = False
) -> Access:
    """Raises InvalidRequest where other machines could come in without a token, and nobody said that they may."""
    if token is not None and len(token) < 8:
        raise InvalidRequest("--token is short: give at least 8 characters")
    if not is_loopback(host) and token is None and not open:
        raise InvalidRequest(
            f"--host {host} lets other machines in: give --token SECRET, which they have to know, or --open to let "
            "everybody use this server"
        )
    everywhere = host in ("0.0.0.0", "::", "")
    names = (*LOOPBACK, *(name.strip("[]").lower() for name in allow))
    names += machine_names() if everywhere else (host.strip("[]").lower(),)
    return Access(names, token, everywhere, cookie=f"scalewise-{port}")  # cookies are shared by all ports


def serve(
    host: str = "127.0.0.1",
    port: int = 7860,
    limits: Limits | None = None,
    *,
    access: Access | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Run the server until it is interrupted. Raises InvalidRequest."""
    access = access or access_for(host, port)
    found = listen(host, port)
    app = build(limits, access)
    name = "localhost" if host == "127.0.0.1" else f"[{host}]" if ":" in host else host
    address = f"http://{name}:{port}/" + (f"#token={urllib.parse.quote(access.token)}" if access.token else "")
    worker: Worker = app.state.server.worker
    runner = Uvicorn(config_of(app), worker, lambda: say(f"scalewise: {address}  (Ctrl+C ends it)"))
    try:
        runner.run(sockets=[found])
    finally:
        if not worker.close(0):  # Python would crash at its end, under the thread that computes
            os._exit(ENDED)


__all__ = ["Uvicorn", "access_for", "config_of", "listen", "serve"]
