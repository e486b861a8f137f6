"""What every request passes before anything of it is believed: whose name it asks for, where it comes from, who sends
it, how much and how slowly. ASGI, so that it holds for streams too."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from scalewise.app.problems import Refused
from scalewise.app.worker import UNEXPECTED, Limits

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LOG = logging.getLogger(__name__)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SAFE = ("GET", "HEAD", "OPTIONS")
FORMS = (b"multipart/form-data", b"application/x-www-form-urlencoded")
FORM_ROOM = 1 << 20  # bytes of a request beside its file
HEADER_BYTES = 32768
OPEN_PATHS = ("/", "/health")  # and /static: the same for everybody, they hold nothing of a visitor
COOKIE_DAYS = 30

# Nothing may be asked of another server, nothing in the page may run or be styled but its own files.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]


@dataclass(frozen=True)
class Access:
    """Who may come in: the names this server answers to, and the token it asks for, if any. `any_address`: also any
    IP address, for a server that listens at all of them; an address, unlike a name, always leads to the same place."""

    hosts: tuple[str, ...] = LOOPBACK
    token: str | None = None
    any_address: bool = False
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    cookie: str = "scalewise"

    def knows(self, host: str) -> bool:
        if host in self.hosts:
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return self.any_address

    def new_cookie(self) -> str:
        """A random visitor, signed: this server takes no visitor that it did not name."""
        visitor = secrets.token_urlsafe(24)
        return f"{visitor}.{self._signature(visitor)}"

    def visitor_of(self, cookie: str) -> str | None:
        visitor, _, signature = cookie.partition(".")
        good = hmac.compare_digest(signature.encode(), self._signature(visitor).encode())
        return visitor if visitor and good else None

    def _signature(self, visitor: str) -> str:
        return hmac.new(self.secret, visitor.encode(), hashlib.sha256).hexdigest()


def host_of(value: str) -> str:
    """The name in a Host header, without its port, in lower case; empty if it is none."""
    value = value.strip().lower()
    if value.startswith("["):
        name, bracket, rest = value[1:].partition("]")
        return name if bracket and (not rest or (rest[0] == ":" and rest[1:].isdigit())) else ""
    name, _, port = value.partition(":")
    return name.rstrip(".") if not port or port.isdigit() else ""


class Guard:
    """The outermost application. `scope["state"]["owner"]` tells the routes whose request it is."""

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        access: Access,
        limits: Limits,
        counts: dict[int, int],
    ) -> None:
        self.app, self.access, self.limits, self.counts = app, access, limits, counts  # answers by status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(send, self.limits.idle_seconds, self.counts, head=scope["method"] == "HEAD")
        try:
            self._check(scope, answer)
            await self.app(scope, _Body(receive, self.limits), answer)
        except Refused as error:
            await answer.problem(error)
        except _Gone:
            if not answer.ended:
                raise asyncio.CancelledError from None  # uvicorn closes the connection
        except Exception:
            LOG.exception("a request failed")
            await answer.problem(Refused(500, UNEXPECTED))

    def _check(self, scope: Scope, answer: _Answer) -> None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEADER_BYTES:
            raise Refused(431, "the headers of the request are too large")
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        one = {name: values[0].decode("latin-1") for name, values in headers.items()}
        for name in (b"host", b"origin", b"content-length", b"authorization", b"transfer-encoding"):
            if len(headers.get(name, ())) > 1:
                raise Refused(400, f"the request has more than one header {name.decode()}")
        host = host_of(one.get(b"host", ""))
        if not self.access.knows(host):
            raise Refused(421, "this server does not go by that name: start it with --allow-host NAME")
        self._check_origin(scope, one)
        if b"content-length" in one and b"transfer-encoding" in one:
            raise Refused(400, "the request says its length in two ways")
        if int(one.get(b"content-length", "0")) > self.limits.max_bytes + FORM_ROOM:
            raise self.limits_said()
        has_body = b"transfer-encoding" in one or one.get(b"content-length", "0") != "0"
        kind = one.get(b"content-type", "").partition(";")[0].strip().lower().encode()
        if has_body and kind not in FORMS:
            raise Refused(415, "send a form: multipart/form-data, or application/x-www-form-urlencoded without a file")
        scope.setdefault("state", {})["owner"] = self._owner(scope, one, answer)

    def limits_said(self) -> Refused:
        return Refused(413, f"an upload may have at most {self.limits.max_bytes / 2**20:.4g} MiB", "file")

    def _check_origin(self, scope: Scope, headers: dict[bytes, str]) -> None:
        """Requests of another site's page are refused; a link to the page itself may be followed."""
        origin = headers.get(b"origin")
        if origin is not None:
            scheme, _, place = origin.lower().partition("://")
            if scheme not in ("http", "https") or place != headers.get(b"host", "").strip().lower():
                raise Refused(403, "requests of pages of other sites are refused")
        site = headers.get(b"sec-fetch-site", "none")
        followed = scope["path"] == "/" and scope["method"] in SAFE and headers.get(b"sec-fetch-mode") == "navigate"
        if site not in ("same-origin", "none") and not followed:
            raise Refused(403, "requests of pages of other sites are refused")

    def _owner(self, scope: Scope, headers: dict[bytes, str], answer: _Answer) -> str:
        """Who asks: the bearer of a token, the visitor of a cookie, or an address. Raises Refused (401)."""
        access, path = self.access, scope["path"]
        scheme, _, bearer = headers.get(b"authorization", "").partition(" ")
        cookies = (pair.strip().partition("=") for pair in headers.get(b"cookie", "").split(";"))
        cookie = next((value for name, _, value in cookies if name == access.cookie), "")
        visitor = access.visitor_of(cookie)
        if bearer and scheme.lower() == "bearer":
            if access.token is not None and not hmac.compare_digest(bearer.encode(), access.token.encode()):
                raise Refused(401, "that is not this server's token")
            if path == "/v1/session" and visitor is None:
                answer.cookie = self._set_cookie(scope)
            return "bearer:" + hashlib.sha256(bearer.encode()).hexdigest()
        if visitor is not None:
            return f"visitor:{visitor}"
        if access.token is None:
            if path == "/":
                answer.cookie = self._set_cookie(scope)
            client = scope.get("client") or ("", 0)
            return f"address:{client[0]}"
        if path in OPEN_PATHS or path.startswith("/static/"):
            return "nobody"
        raise Refused(401, "this server asks for its token: Authorization: Bearer TOKEN")

    def _set_cookie(self, scope: Scope) -> bytes:
        secure = "; Secure" if scope.get("scheme") == "https" else ""
        value = self.access.new_cookie()
        kept = f"Max-Age={COOKIE_DAYS * 86400}; Path=/; HttpOnly; SameSite=Strict{secure}"
        return f"{self.access.cookie}={value}; {kept}".encode()


class _Gone(Exception):
    """The client does not read."""


class _Answer:
    """`send` with the headers that every answer has, and an end for clients that do not read."""

    def __init__(self, send: Send, seconds: float, counts: dict[int, int], *, head: bool) -> None:
        self.send, self.seconds, self.counts, self.head = send, seconds, counts, head
        self.begun = self.ended = False
        self.cookie: bytes | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self.counts[message["status"]] = self.counts.get(message["status"], 0) + 1
            message["headers"] = [*message.get("headers", ()), *HEADERS]
            if self.cookie is not None:
                message["headers"].append((b"set-cookie", self.cookie))
        elif not message.get("more_body", False):
            self.ended = True
        try:
            await asyncio.wait_for(self.send(message), self.seconds)
        except TimeoutError:
            self.ended = False
            raise _Gone from None

    async def problem(self, error: Refused) -> None:
        """The request may have a body that nobody read: the connection ends."""
        if self.begun:
            raise asyncio.CancelledError
        body = error.body()
        length = (b"content-length", str(len(body)).encode())
        headers = [*error.headers(), length]
        if (b"connection", b"close") not in headers:
            headers.append((b"connection", b"close"))
        await self({"type": "http.response.start", "status": error.status, "headers": headers})
        await self({"type": "http.response.body", "body": b"" if self.head else body})


class _Body:
    """`receive` that counts what comes, whatever its header said, and waits only so long for it."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self.receive, self.limits = receive, limits
        self.bytes, self.whole = 0, False
        self.deadline: float | None = None

    async def __call__(self) -> Message:
        if self.whole:  # waits for the client to leave, which may take as long as it likes
            return await self.receive()
        now = asyncio.get_running_loop().time()
        if self.deadline is None:
            self.deadline = now + self.limits.body_seconds
        try:
            wait = min(self.limits.idle_seconds, self.deadline - now)
            message = await asyncio.wait_for(self.receive(), max(0.0, wait))
        except TimeoutError:
            raise Refused(408, "the request came too slowly") from None
        self.bytes += len(message.get("body", b""))
        if self.bytes > self.limits.max_bytes + FORM_ROOM:
            raise Refused(413, f"an upload may have at most {self.limits.max_bytes / 2**20:.4g} MiB", "file")
        self.whole = not message.get("more_body", False)
        return message


class Connection(H11Protocol):
    """A connection that says nothing, or half a header, is closed after a while; so are those that are too many."""

    header_seconds = 10.0
    most = 400  # connections at once
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
            return
        self._wait_for_header()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self._wait_for_header()
        else:
            self._header_came()

    def connection_lost(self, exc: Exception | None) -> None:
        self._header_came()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        body = Refused(400, "that is not a valid HTTP request").body()
        named = [(b"content-type", b"application/problem+json"), (b"connection", b"close")]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for event in (
                h11.Response(status_code=400, headers=named, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _wait_for_header(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.header_seconds, self._late)

    def _header_came(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if not self.transport.is_closing() and self.conn.their_state is h11.IDLE:
            self.transport.abort()


def machine_names() -> tuple[str, ...]:
    """What this machine calls itself."""
    name = socket.gethostname().lower()
    return (name, f"{name}.local") if name else ()


__all__ = ["LOOPBACK", "Access", "Connection", "Guard", "host_of", "machine_names"]
