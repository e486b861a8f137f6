"""The gate before the page: known hosts and origins, the endpoints that the page needs, a visitor's own uploads.

Gradio opens a path, and fetches a URL, that a request names. Here a request's files are compared with what the server
stored for that visitor, as text, before Gradio sees them; nothing that a request names is opened or resolved.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scalewise.errors import InvalidRequest

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
EVERY_ADDRESS = ("0.0.0.0", "[::]", "")  # what --host calls all addresses of the machine
COOKIE = "scalewise-visitor"
MAX_JSON_BYTES = 1 << 20  # of a call: files travel as uploads, not in it
MAX_SESSIONS = 100_000  # remembered with their visitors; the oldest are dropped

READABLE = re.compile(
    r"/(?:config|theme\.css|favicon\.ico|robots\.txt|manifest\.json|pwa_icon(?:/\d+)?)?|/(?:static|assets|svelte)/.+"
    r"|/api/models|/results/[^/]+/[^/]+|/gradio_api/(?:info|startup-events|queue/data|queue/status|upload_progress)"
    r"|/gradio_api/(?:heartbeat|call/upscale)/(?P<session>[^/]+)|/gradio_api/file=(?P<file>.+)"
)
CALLS = re.compile(r"/gradio_api/(?:queue/join|call/upscale|run/\w+|cancel|reset)")  # JSON
UPLOADS = "/gradio_api/upload"
FORM = "/api/upscale"


class Refused(Exception):
    """A status, and one sentence for the visitor."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Gate:
    """ASGI middleware around everything that the server answers.

    `uploads` is the folder where Gradio keeps files; `host` is what the server listens at, and `allowed_hosts` are
    further names under which it is reached, for example through a proxy, as `host_names` gives them.
    """

    def __init__(self, app: ASGIApp, uploads: Path, host: str, allowed_hosts: Iterable[str]) -> None:
        self.app = app
        self.uploads = str(uploads)
        self.named = frozenset(allowed_hosts)
        self.hosts = self.named.union(LOCAL_HOSTS, [_bracketed(host)]).difference(EVERY_ADDRESS)
        self.every_address = _bracketed(host) in EVERY_ADDRESS
        self.owners: dict[str, set[str]] = {}  # path of an upload: the visitors who sent it
        self.sessions: dict[str, str] = {}  # session, event or upload id: the visitor who used it first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        known = request.cookies.get(COOKIE, "")
        visitor = known if re.fullmatch(r"[A-Za-z0-9_-]{32}", known) else secrets.token_urlsafe(24)

        async def greet(message: Message) -> None:
            if message["type"] == "http.response.start" and visitor != known:
                cookie = f"{COOKIE}={visitor}; Path=/; HttpOnly; SameSite=Lax"
                message = {**message, "headers": [*message["headers"], (b"set-cookie", cookie.encode())]}
            await send(message)

        try:
            self._check_host(request)
            if request.method in ("GET", "HEAD"):
                self._check_read(request, visitor)
                await self.app(scope, receive, greet)
                return
            self._check_origin(request)
            path = scope["path"]
            if request.method != "POST":
                raise Refused(405, f"{request.method} is not answered here: use GET or POST")
            self._claim(request.query_params.getlist("session_hash"), visitor)
            self._claim(request.query_params.getlist("upload_id"), visitor)
            if path == FORM:
                await self.app(scope, receive, greet)
            elif path == UPLOADS:
                await self.app(_uncompressed(scope), receive, self._remember(greet, visitor))
            elif CALLS.fullmatch(path):
                body = await self._call(receive, visitor)
                scope = _uncompressed(scope, str(len(body)))
                await self.app(scope, _replay(body, receive), self._remember(greet, visitor))
            else:
                raise Refused(404, "there is nothing at this address")
        except Refused as refusal:
            await JSONResponse({"error": str(refusal)}, refusal.status)(scope, receive, greet)

    def _check_host(self, request: Request) -> None:
        given = request.headers.getlist("host")
        name = _hostname(given[0]) if len(given) == 1 else None
        if name in self.hosts:
            return
        server = request.scope.get("server")
        if self.every_address and server and name == _bracketed(str(server[0]).removeprefix("::ffff:")):
            return
        raise Refused(
            403,
            f"this server does not answer to the host {', '.join(given)[:100]!r}: use {', '.join(sorted(self.hosts))}, "
            "or start it with --allow-host NAME",
        )

    def _check_origin(self, request: Request) -> None:
        """Browsers say from which site a page sends; programs say nothing."""
        for origin in request.headers.getlist("origin"):
            match = re.fullmatch(r"https?://([^/]+)", origin.lower())
            if match and (match[1] == request.headers["host"].lower() or _hostname(match[1]) in self.named):
                continue
            raise Refused(403, f"pages of {origin[:100]!r} may not use this server: open its own page")

    def _check_read(self, request: Request, visitor: str) -> None:
        match = READABLE.fullmatch(request.scope["path"])
        if match is None:
            raise Refused(404, "there is nothing at this address")
        sessions = [match["session"], *request.query_params.getlist("session_hash")]
        self._claim([*sessions, *request.query_params.getlist("upload_id")], visitor)
        path = match["file"]
        if path is None:
            return
        folder, _, name = path.removeprefix(self.uploads + os.sep).partition(os.sep)
        inside = path.startswith(self.uploads + os.sep) and re.fullmatch(r"[0-9a-f]{64}", folder)
        if (
            not inside
            or name != os.path.basename(name)
            or name in ("", ".", "..")
            or visitor not in self.owners.get(path, {visitor})
        ):
            raise Refused(403, "this file is not yours to read")

    def _claim(self, sessions: Iterable[Any], visitor: str) -> None:
        """Each id belongs to the visitor who used it first."""
        for session in sessions:
            if isinstance(session, str) and self.sessions.setdefault(session, visitor) != visitor:
                raise Refused(403, "this session is another visitor's: load the page again")
        while len(self.sessions) > MAX_SESSIONS:
            del self.sessions[next(iter(self.sessions))]

    async def _call(self, receive: Receive, visitor: str) -> bytes:
        """The body of a call, written anew from what was checked, so that nobody reads it differently."""
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_JSON_BYTES:
                raise Refused(413, f"a call may have at most {MAX_JSON_BYTES >> 20} MiB: send pictures as uploads")
        try:
            call = json.loads(body)
            if not isinstance(call, dict):
                raise ValueError("not an object")
            self._claim([call.get("session_hash"), call.get("event_id")], visitor)
            self._check_files(call, visitor)
            return json.dumps(call).encode()
        except (ValueError, RecursionError):
            raise Refused(400, "a call must be a JSON object") from None

    def _check_files(self, call: Any, visitor: str) -> None:
        rest = [call]
        while rest:
            item = rest.pop()
            if isinstance(item, list):
                rest += item
            if not isinstance(item, dict):
                continue
            rest += item.values()
            if "path" in item:
                path = item["path"]
                if not isinstance(path, str) or visitor not in self.owners.get(path, ()):
                    raise Refused(403, "the call names a file that you did not upload: send the picture itself")
                item.pop("url", None)
                item.pop("is_stream", None)

    def _remember(self, send: Send, visitor: str) -> Send:
        """Note in an answer which uploads and which event now belong to the visitor."""
        status, body = 0, b""

        async def noting(message: Message) -> None:
            nonlocal status, body
            status = message.get("status", status)
            body += message.get("body", b"")
            if message["type"] == "http.response.body" and not message.get("more_body") and status == 200:
                answer = json.loads(body)
                if isinstance(answer, list):
                    self.owners = {path: who for path, who in self.owners.items() if os.path.exists(path)}
                    for path in answer:
                        self.owners.setdefault(path, set()).add(visitor)
                else:
                    self._claim([answer.get("event_id")], visitor)
            await send(message)

        return noting


def host_names(names: Iterable[str]) -> frozenset[str]:
    """Names as a Host header has them. Raises InvalidRequest for what is no name, such as a URL."""
    found = frozenset(_bracketed(name) for name in names)
    for name in found:
        if name != _hostname(name):
            raise InvalidRequest(f"host {name!r} is not a host: write a name or an address, without scheme and port")
    return found


def _bracketed(host: str) -> str:
    """As a Host header has it: lower case, IPv6 in brackets."""
    host = host.strip("[]").lower()
    return f"[{host}]" if host.count(":") > 1 else host


def _hostname(authority: str) -> str | None:
    """The host of `host:port`, None where it is no such thing."""
    match = re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?", authority.lower())
    return match[1] if match else None


def _uncompressed(scope: Scope, length: str | None = None) -> Scope:
    """The scope with an answer that can be read, and with the length of a body that was written anew."""
    changed = {b"accept-encoding"} if length is None else {b"accept-encoding", b"content-length"}
    headers = [(name, value) for name, value in scope["headers"] if name not in changed]
    if length is not None:
        headers.append((b"content-length", length.encode()))
    return {**scope, "headers": headers}


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


__all__ = ["Gate", "host_names"]
