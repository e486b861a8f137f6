"""What hostile requests get: each row is one, with its status. None may read, write or fetch anything."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the page needs the extra `app`")

from app.server import running, small

from scalewise.app import Limits

SECRET = b"nobody may read this"
BOUNDARY = "b0undary"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    limits = Limits(max_bytes=1 << 20, max_pixels=4_000_000, idle_seconds=2, body_seconds=4)
    with running(limits, tmp_path_factory.mktemp("store")) as found:
        yield found


@pytest.fixture(scope="module")
def listener() -> Iterator[tuple[int, list[object]]]:
    """A server that must never be called, and who called it."""
    heard: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def wait() -> None:
            try:
                while True:
                    heard.append(listening.accept()[1])
            except OSError:
                return

        threading.Thread(target=wait, daemon=True).start()
        yield listening.getsockname()[1], heard


def form(*fields: tuple[str, bytes | str] | tuple[str, bytes | str, str]) -> bytes:
    """A multipart body; a third part of a field is its file name."""
    parts = []
    for name, value, *file in fields:
        told = f'; filename="{file[0]}"' if file else ""
        data = value if isinstance(value, bytes) else value.encode()
        parts.append(
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{told}\r\n\r\n'.encode() + data + b"\r\n"
        )
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def send(
    address: str, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    """The path goes out as it stands, which an HTTP library would not do."""
    host = address.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        given = {"Host": host, **(headers or {})}
        if body is not None:
            given.setdefault("Content-Length", str(len(body)))
            given.setdefault("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
        for name, value in given.items():
            if value:
                connection.putheader(name, value)
        connection.endheaders()
        if body:
            with contextlib.suppress(OSError):  # refused before it was read
                connection.send(body)
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
    finally:
        connection.close()


PICTURE = small(24)
FILE = ("file", PICTURE, "a.png")
EVIL = {"Host": "evil.example"}
FILE_DATA = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
GRADIO = json.dumps({"data": [FILE_DATA, 1, "", "100%", "bicubic"]}).encode()
JSON = {"Content-Type": "application/json"}


def png_of(width: int, height: int, size: int = 64) -> bytes:
    """A PNG whose header promises more than there is."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * size))
        + chunk(b"IEND", b"")
    )


PICKLE = b"\x80\x02cos\nsystem\n(X\x08\x00\x00\x00touch /xtR."
# A true PNG of 36 megapixels in a tenth of a megabyte.
BOMB = png_of(6000, 6000, 6000 * (3 * 6000 + 1))


TABLE: list[tuple[str, str, str, dict[str, str], bytes | None, int]] = [
    # name, method, path, headers, body, status; long lines, as a table is read across
    ("foreign host", "GET", "/", EVIL, None, 421),
    ("foreign host, models", "GET", "/v1/models", EVIL, None, 421),
    ("foreign host, job", "POST", "/v1/jobs", EVIL, form(FILE), 421),
    ("foreign host with our port", "GET", "/", {"Host": "evil.example:80"}, None, 421),
    ("host that ends in ours", "GET", "/", {"Host": "evil-127.0.0.1"}, None, 421),
    ("host with ours before", "GET", "/", {"Host": "127.0.0.1.evil.example"}, None, 421),
    ("host as user", "GET", "/", {"Host": "127.0.0.1@evil.example"}, None, 421),
    ("another address", "GET", "/", {"Host": "10.0.0.1"}, None, 421),
    ("decimal address", "GET", "/", {"Host": "2130706433"}, None, 421),
    ("no host", "GET", "/", {"Host": ""}, None, 400),
    ("host of brackets", "GET", "/", {"Host": "[::1"}, None, 421),
    ("host by forwarding", "GET", "/", {"Host": "evil.example", "X-Forwarded-Host": "localhost"}, None, 421),
    ("localhost is ours", "GET", "/", {"Host": "localhost"}, None, 200),
    ("foreign origin, job", "POST", "/v1/jobs", {"Origin": "http://evil.example"}, form(FILE), 403),
    ("foreign origin, upscale", "POST", "/v1/upscale", {"Origin": "http://evil.example"}, form(FILE), 403),
    ("foreign origin, picture", "POST", "/v1/pictures", {"Origin": "https://evil.example"}, form(FILE), 403),
    ("foreign origin, forecast", "POST", "/v1/forecast", {"Origin": "http://evil.example"}, form(FILE), 403),
    ("foreign origin, session", "POST", "/v1/session", {"Origin": "http://evil.example"}, None, 403),
    ("origin null", "POST", "/v1/jobs", {"Origin": "null"}, form(FILE), 403),
    ("origin of another port", "POST", "/v1/jobs", {"Origin": "http://127.0.0.1:1"}, form(FILE), 403),
    ("origin of a file", "POST", "/v1/jobs", {"Origin": "file://"}, form(FILE), 403),
    ("foreign origin, delete", "DELETE", "/v1/jobs/x", {"Origin": "http://evil.example"}, None, 403),
    ("foreign origin, look", "GET", "/v1/models", {"Origin": "http://evil.example"}, None, 403),
    ("preflight", "OPTIONS", "/v1/jobs", {"Origin": "http://evil.example"}, None, 403),
    ("cross-site post", "POST", "/v1/jobs", {"Sec-Fetch-Site": "cross-site"}, form(FILE), 403),
    ("same-site post", "POST", "/v1/jobs", {"Sec-Fetch-Site": "same-site"}, form(FILE), 403),
    ("cross-site picture", "GET", "/v1/models", {"Sec-Fetch-Site": "cross-site"}, None, 403),
    ("cross-site script", "GET", "/", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, None, 403),
    ("a link is followed", "GET", "/", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, None, 200),
    ("the old hole, call", "POST", "/gradio_api/call/upscale", JSON, GRADIO, 415),
    ("the old hole, join", "POST", "/gradio_api/queue/join", JSON, GRADIO, 415),
    ("the old hole, as a form", "POST", "/gradio_api/call/upscale", {}, form(("data", GRADIO)), 404),
    ("the old hole, file", "GET", "/gradio_api/file=/etc/passwd", {}, None, 404),
    ("a path as JSON", "POST", "/v1/jobs", JSON, b'{"file": "/etc/passwd"}', 415),
    ("FileData as JSON", "POST", "/v1/upscale", JSON, json.dumps(FILE_DATA).encode(), 415),
    ("FileData as a field", "POST", "/v1/jobs", {}, form(("file", json.dumps(FILE_DATA))), 422),
    ("a path as the file", "POST", "/v1/jobs", {}, form(("file", "/etc/passwd")), 422),
    ("/dev/zero as the file", "POST", "/v1/upscale", {}, form(("file", "/dev/zero")), 422),
    ("a URL as the file", "POST", "/v1/upscale", {}, form(("file", "http://127.0.0.1:{listener}/x.png")), 422),
    ("a path as the picture", "POST", "/v1/jobs", {}, form(("picture", "../../etc/passwd")), 404),
    ("an absolute picture", "POST", "/v1/jobs", {}, form(("picture", "/etc/passwd")), 404),
    ("a descriptor as the picture", "POST", "/v1/jobs", {}, form(("picture", "/proc/self/fd/11")), 404),
    ("a URL as the picture", "POST", "/v1/jobs", {}, form(("picture", "http://127.0.0.1:{listener}/x.png")), 404),
    ("a path as the model", "POST", "/v1/jobs", {}, form(FILE, ("model", "../../etc/passwd")), 422),
    ("a URL as the model", "POST", "/v1/jobs", {}, form(FILE, ("model", "http://127.0.0.1:{listener}/w")), 422),
    ("a module as the model", "POST", "/v1/jobs", {}, form(FILE, ("model", "os:system")), 422),
    ("a path as the format", "POST", "/v1/jobs", {}, form(FILE, ("format", "/../../x.png")), 422),
    ("an unknown format", "POST", "/v1/jobs", {}, form(FILE, ("format", "exe")), 422),
    ("an unknown field", "POST", "/v1/jobs", {}, form(FILE, ("bugdet", "10%")), 422),
    ("a field twice", "POST", "/v1/jobs", {}, form(FILE, ("scale", "2"), ("scale", "3")), 422),
    ("a file twice", "POST", "/v1/upscale", {}, form(FILE, FILE), 422),
    ("no field", "POST", "/v1/upscale", {}, form(), 422),
    ("traversal", "GET", "/static/../http.py", {}, None, 404),
    ("traversal, encoded", "GET", "/static/%2e%2e%2fhttp.py", {}, None, 404),
    ("traversal, twice encoded", "GET", "/static/%252e%252e%252fhttp.py", {}, None, 404),
    ("traversal by backslash", "GET", "/static/..%5c..%5cpyproject.toml", {}, None, 404),
    ("an absolute static file", "GET", "/static//etc/passwd", {}, None, 404),
    ("python is not served", "GET", "/static/http.py", {}, None, 404),
    ("a result by path", "GET", "/v1/jobs/..%2f..%2fother/result", {}, None, 404),
    ("a symlink", "GET", "/v1/pictures/link/preview", {}, None, 404),
    ("nobody's job", "GET", "/v1/jobs/nobody", {}, None, 404),
    ("nobody's result", "GET", "/v1/jobs/nobody/result", {}, None, 404),
    ("an archive of nobody's", "GET", "/v1/archive?job=nobody", {}, None, 404),
    ("a NUL in the path", "GET", "/v1/jobs/a%00b", {}, None, 404),
    ("a proxy's request", "GET", "http://evil.example/", {}, None, 404),
    ("a wrong method", "PUT", "/v1/jobs", {}, None, 405),
    ("TRACE", "TRACE", "/", {}, None, 405),
    ("a length that is too much", "POST", "/v1/jobs", {"Content-Length": str(400 << 20)}, b"", 413),
    ("a body that is too much", "POST", "/v1/jobs", {}, form(("file", b"0" * (3 << 20), "a.png")), 413),
    ("a length below zero", "POST", "/v1/jobs", {"Content-Length": "-1"}, b"", 400),
    ("a length in words", "POST", "/v1/jobs", {"Content-Length": "many"}, b"", 400),
    ("a length that is short", "POST", "/v1/jobs", {"Content-Length": "20"}, form(FILE), 422),
    ("a header that is huge", "GET", "/", {"X-Much": "x" * 100_000}, None, 431),
    ("a huge part without a boundary", "POST", "/v1/jobs", {"Content-Type": "multipart/form-data"}, b"x" * 1000, 400),
    ("a huge field", "POST", "/v1/jobs", {}, form(FILE, ("budget", "9" * 2000)), 422),
    ("a size of many digits", "POST", "/v1/jobs", {}, form(FILE, ("size", "9" * 5000 + "x")), 422),
    ("a long edge of many digits", "POST", "/v1/jobs", {}, form(FILE, ("long_edge", "9" * 4000)), 422),
    ("a crop outside", "POST", "/v1/jobs", {}, form(FILE, ("crop", "0,0,99,99")), 422),
    ("a scale that is no number", "POST", "/v1/jobs", {}, form(FILE, ("scale", "nan")), 422),
    ("a scale without end", "POST", "/v1/jobs", {}, form(FILE, ("scale", "inf")), 422),
    ("text as a picture", "POST", "/v1/upscale", {}, form(("file", b"hello", "a.png")), 415),
    ("SVG as PNG", "POST", "/v1/upscale", {}, form(("file", b"<svg xmlns=''/>", "a.png")), 415),
    ("a playlist as a picture", "POST", "/v1/upscale", {}, form(("file", b"#EXTM3U\nfile:///etc/a", "a.png")), 415),
    ("nothing as a picture", "POST", "/v1/upscale", {}, form(("file", b"", "a.png")), 422),
    ("a truncated picture", "POST", "/v1/upscale", {}, form(("file", small(200)[:3000], "a.png")), 422),
    ("a header that lies", "POST", "/v1/upscale", {}, form(("file", png_of(1000, 1000), "a.png")), 422),
    ("a header of 2^31", "POST", "/v1/upscale", {}, form(("file", png_of(2**31 - 1, 2**31 - 1), "a.png")), 422),
    ("a bomb", "POST", "/v1/upscale", {}, form(("file", BOMB, "a.png")), 413),
    ("a bomb to look at", "POST", "/v1/pictures", {}, form(("file", BOMB, "a.png")), 413),
    ("a path as the mask", "POST", "/v1/jobs", {}, form(FILE, ("mask", "/etc/passwd")), 422),
    ("a bomb as the mask", "POST", "/v1/jobs", {}, form(FILE, ("mask", BOMB, "m.png")), 422),
    ("a path as weights", "POST", "/v1/weights", {}, form(("file", "/etc/passwd")), 422),
    ("a pickle as weights", "POST", "/v1/weights", {}, form(("file", PICKLE, "w.pth")), 422),
    ("weights that are too much", "POST", "/v1/weights", {}, form(("file", b"0" * (3 << 20), "w.pth")), 413),
    ("foreign origin, weights", "POST", "/v1/weights", {"Origin": "https://evil.example"}, form(FILE), 403),
    ("a path as the model of one's own", "POST", "/v1/jobs", {}, form(FILE, ("model", "own:../../etc/passwd")), 422),
    ("nobody's weights", "DELETE", "/v1/weights/own:nobody", {}, None, 404),
    ("nobody's result, converted", "GET", "/v1/jobs/nobody/result?format=../../x", {}, None, 404),
    ("a bomb to foresee", "POST", "/v1/forecast", {}, form(("file", BOMB, "a.png")), 413),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_hostile_requests(
    server: tuple[str, Any],
    listener: tuple[int, list[object]],
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes | None,
    status: int,
) -> None:
    address, running = server
    root: Path = running.worker.store.root
    (root / "other").write_bytes(SECRET)
    if not (root / "link").is_symlink():
        (root / "link").symlink_to("/etc")
    before = sorted(root.iterdir())
    port, heard = listener
    body = None if body is None else body.replace(b"{listener}", str(port).encode())
    got, answered, content = send(address, method, path, headers, body)
    assert got == status, content[:300]
    assert SECRET not in content and b"root:" not in content and b"Traceback" not in content
    assert str(root).encode() not in content and b"/tmp" not in content
    assert not heard, "nothing is fetched"
    assert sorted(root.iterdir()) == before and not running.worker.jobs, "nothing is kept"
    if status >= 400:
        assert answered["content-type"] == "application/problem+json"
        told = json.loads(content)
        assert told["status"] == status and told["detail"] and "\n" not in told["detail"]
        if status in (413, 422) and b"file" in (body or b"") and "field" not in told:
            pytest.fail("the field is not named")


def test_the_table_is_long_enough() -> None:
    assert len(TABLE) >= 60


def test_every_endpoint_asks_for_the_token(tmp_path: Path) -> None:
    with running(parent=tmp_path / "store", token="correct horse") as (address, _):
        paths = server_paths(address)
        assert len(paths) > 15
        for method, path in paths:
            path = path.replace("{id}", "x")
            got = send(address, method, path, {}, form(FILE) if method == "POST" else None)[0]
            assert got == (200 if path == "/health" else 401), (method, path)
            got = send(address, method, path, {"Authorization": "Bearer wrong"})[0]
            assert got == 401, (method, path)
        assert send(address, "GET", "/v1/models", {"Authorization": "Bearer correct horse"})[0] == 200
        answered = send(address, "POST", "/v1/session", {"Authorization": "Bearer correct horse"})[1]
        cookie = answered["set-cookie"].partition(";")[0]
        assert send(address, "GET", "/v1/models", {"Cookie": cookie})[0] == 200
        assert send(address, "GET", "/v1/models", {"Cookie": cookie[:-1] + "0"})[0] in (200, 401)
        assert send(address, "GET", "/v1/models", {"Cookie": cookie.partition(".")[0]})[0] == 401
        assert "set-cookie" not in send(address, "GET", "/")[1], "the page alone gives nobody a cookie"


def server_paths(address: str) -> list[tuple[str, str]]:
    description = send(address, "GET", "/openapi.json", {"Authorization": "Bearer correct horse"})[2]
    paths = json.loads(description)["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


def test_other_visitors_see_nothing_of_mine(server: tuple[str, Any]) -> None:
    address, running = server
    mine, other = ({"Cookie": cookie_of(address)} for _ in range(2))
    told = json.loads(send(address, "POST", "/v1/pictures", mine, form(FILE))[2])
    picture = told["id"]
    status, _, content = send(address, "POST", "/v1/jobs", mine, form(("picture", picture), ("model", "bicubic")))
    assert status == 202
    job = json.loads(content)["id"]
    assert running.worker.jobs[job].done.wait(30)
    others = [other, {}, {"Authorization": "Bearer somebody"}, {"Cookie": "scalewise=forged.0"}]
    paths = [f"/v1/jobs/{job}{end}" for end in ("", "/events", "/result", "/effort-map?cells=true", "/preview")]
    paths += [f"/v1/jobs/{job}/view?x=0&y=0&w=4&h=4", f"/v1/archive?job={job}"]
    paths += [f"/v1/pictures/{picture}{end}" for end in ("", "/thumbnail", "/preview", "/view?x=0&y=0&w=4&h=4")]
    for path in paths:
        assert send(address, "GET", path, mine)[0] == 200, path
        for headers in others:
            assert send(address, "GET", path, headers)[0] == 404, (path, headers)
    for headers in others:
        assert send(address, "DELETE", f"/v1/jobs/{job}", headers)[0] == 404
        assert send(address, "DELETE", f"/v1/pictures/{picture}", headers)[0] == 404
        assert send(address, "POST", "/v1/jobs", headers, form(("picture", picture)))[0] == 404
    assert send(address, "DELETE", f"/v1/jobs/{job}", mine)[0] == 204
    assert send(address, "DELETE", f"/v1/pictures/{picture}", mine)[0] == 204


def cookie_of(address: str) -> str:
    told = send(address, "GET", "/")[1]["set-cookie"]
    assert "HttpOnly" in told and "SameSite=Strict" in told
    return told.partition(";")[0]


@pytest.mark.parametrize(
    "name", ["..", ".", "/", "../../etc/passwd", "/etc/passwd", "a\\..\\b.png", "x" * 400, "-o", "%00"]
)
def test_names_of_files_are_words_and_not_places(server: tuple[str, Any], name: str) -> None:
    address, _ = server
    body = form(("file", PICTURE, name), ("model", "bicubic"))
    status, answered, _ = send(address, "POST", "/v1/upscale", {}, body)
    assert status == 200
    told = answered["content-disposition"]
    assert "/" not in told.partition("filename=")[2].replace("UTF-8''", "") and ".." not in told.replace("..png", "")


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["two hosts", "two kinds of length", "two lengths", "a space in a name", "TLS", "a chunk that is none"],
)
def test_requests_that_are_none_are_refused_and_closed(server: tuple[str, Any], raw: bytes) -> None:
    answer = talk(server[0], raw)
    assert answer == b"" or answer.split()[1] in (b"400", b"415"), answer
    assert b"\r\n\r\n" not in answer or b"application/problem+json" in answer


def test_chunks_are_counted(server: tuple[str, Any]) -> None:
    head = f"POST /v1/upscale HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    body = form(("file", b"0" * (3 << 20), "a.png"))
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(body[i : i + 65536]), body[i : i + 65536]) for i in range(0, len(body), 65536)
    )
    answer = talk(server[0], head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
    assert answer == b"" or answer.split()[1] == b"413", answer[:200]


def test_chunks_work_otherwise(server: tuple[str, Any]) -> None:
    head = f"POST /v1/upscale HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    body = form(FILE, ("model", "bicubic"))
    sent = head.encode() + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (
        len(body),
        body,
    )
    assert talk(server[0], sent).split()[1] == b"200"


def talk(address: str, raw: bytes) -> bytes:
    host, port = address.removeprefix("http://").split(":")
    held = io.BytesIO()
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        try:
            connection.sendall(raw)
            while piece := connection.recv(65536):
                held.write(piece)
        except ConnectionError:
            pass  # it closed before it read all
    return held.getvalue()


def test_slow_bodies_are_ended(server: tuple[str, Any]) -> None:
    head = f"POST /v1/upscale HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
    answer = talk(server[0], head.encode() + b"Content-Length: 1000\r\n\r\n--b")
    assert answer.split()[1] == b"408"


@pytest.mark.parametrize("half", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localh"])
def test_half_open_connections_are_closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, half: bytes) -> None:
    from scalewise.app.guard import Connection

    monkeypatch.setattr(Connection, "header_seconds", 0.3)
    with running(parent=tmp_path / "store") as (address, _):
        assert talk(address, half) == b""


def test_connections_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from scalewise.app.guard import Connection

    monkeypatch.setattr(Connection, "most", 5)
    with running(parent=tmp_path / "store") as (address, _):
        host, port = address.removeprefix("http://").split(":")
        held = [socket.create_connection((host, int(port)), timeout=20) for _ in range(9)]
        closed = 0
        for connection in held[5:]:
            try:
                closed += connection.recv(1) == b""
            except ConnectionError:
                closed += 1
        assert closed == 4
        for connection in held:
            connection.close()


def test_nothing_may_be_loaded_from_elsewhere(server: tuple[str, Any]) -> None:
    import re

    address, _ = server
    for path in ("/", "/docs"):
        _, answered, content = send(address, "GET", path)
        policy = answered["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert not re.search(rb"(src|href)=\"(?!/)", content), "files of this server only"
        assert not re.search(rb"\son\w+=|style=|<style|<script>", content), "nothing inline"


@pytest.mark.parametrize(
    ("host", "token", "open", "says"),
    [("0.0.0.0", None, False, "--token"), ("192.168.1.5", None, False, "--token"), ("127.0.0.1", "short", False, "8")],
)
def test_other_machines_need_a_token(host: str, token: str | None, open: bool, says: str) -> None:
    from scalewise.app.serving import access_for
    from scalewise.errors import InvalidRequest

    with pytest.raises(InvalidRequest, match=says):
        access_for(host, 7860, (), token, open)


def test_names_that_a_server_goes_by() -> None:
    from scalewise.app.serving import access_for

    local = access_for("127.0.0.1", 1)
    assert local.knows("localhost") and local.knows("::1") and not local.knows("10.0.0.7") and not local.knows("")
    everywhere = access_for("0.0.0.0", 1, ("pictures.example",), "correct horse")
    assert (
        everywhere.knows("10.0.0.7") and everywhere.knows("pictures.example") and not everywhere.knows("evil.example")
    )
    assert access_for("192.168.1.5", 1, (), None, True).knows("192.168.1.5")
