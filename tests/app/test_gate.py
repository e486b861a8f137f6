"""What a request may name: nothing but what this server stored for this visitor. Every endpoint is posted to."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs the extra `app`")

import gradio.processing_utils
import gradio.routes
import httpx
from app.server import serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from scalewise.app import Limits
from scalewise.app.gate import MAX_JSON_BYTES, Gate, host_names
from scalewise.app.http import build
from scalewise.errors import InvalidRequest

META = {"_type": "gradio.FileData"}
SECRET = (7, 77, 177)  # the colour of pictures that nobody may see


def picture(colour: tuple[int, int, int] = (200, 30, 30), side: int = 12) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(held, "png")
    return held.getvalue()


class Site:
    """A running server, its routes that change something, and its handlers that take a file."""

    def __init__(self, application: Any, address: str) -> None:
        self.application, self.address = application, address
        self.uploads = application.state.worker.root / "uploads"
        config = httpx.get(f"{address}/config").json()
        kinds = {component["id"]: component["type"] for component in config["components"]}
        inputs = {each["id"]: [kinds[i] for i in each["inputs"]] for each in config["dependencies"]}
        self.handlers = {index: names for index, names in inputs.items() if "file" in names}
        self.forecast = next(index for index, names in self.handlers.items() if len(names) == 6)

    @contextlib.contextmanager
    def visitor(self) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=self.address, timeout=30) as client:
            assert client.get("/").status_code == 200 and client.cookies
            yield client

    def stored(self) -> set[Path]:
        return set(self.uploads.rglob("*"))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    application = build(Limits(queue=4, max_bytes=8 << 20, max_pixels=4_000_000))
    with serving(application) as address:
        yield Site(application, address)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Gradio was about to fetch, on either of its two roads."""
    found: list[Any] = []

    async def fetch(url: str, *given: Any, **named: Any) -> str:
        found.append(url)
        raise ValueError("nothing is fetched in a test")

    monkeypatch.setattr(gradio.processing_utils, "async_ssrf_protected_download", fetch)
    monkeypatch.setattr(gradio.routes, "secure_url_stream_response", fetch)
    return found


def upload(client: httpx.Client, data: bytes, name: str = "x.png") -> str:
    answer = client.post("/gradio_api/upload", files={"files": (name, data)})
    assert answer.status_code == 200
    return answer.json()[0]


def calls(site: Site, file: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every way to hand a file to the server's code: (address, JSON)."""
    yield "/gradio_api/call/upscale", {"data": [file, 1, "", "100%", "bicubic"]}
    for index, kinds in site.handlers.items():
        data = [file if kind == "file" else None for kind in kinds]
        for address in ("/gradio_api/queue/join", "/gradio_api/run/predict"):
            yield address, {"data": data, "fn_index": index, "session_hash": f"of{index}{os.urandom(4).hex()}"}


# --- hosts and origins ------------------------------------------------------------------------------------------------


def changing(routes: Any) -> Iterator[tuple[str, str]]:
    """(method, path) of every route, mounted ones too, that is more than reading."""
    for route in routes:
        for method in (getattr(route, "methods", None) or set()) - {"GET", "HEAD"}:
            yield method, route.path.replace("{", "").replace("}", "")
        inner = getattr(route, "original_router", route)
        yield from changing(getattr(inner, "routes", None) or ())


def test_every_endpoint_refuses_foreign_hosts_and_origins(site: Site) -> None:
    found = set(changing(site.application.routes))
    posts = {path for method, path in found if method == "POST"}
    assert {"/api/upscale", "/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/component_server"} <= posts
    found |= {(method, "/api/upscale") for method in ("PUT", "DELETE", "PATCH", "OPTIONS")}
    host = site.address.removeprefix("http://")
    before = site.stored()
    with site.visitor() as client:
        for method, path in sorted(found):
            for headers, says in (
                ({"Host": "evil.example"}, "host"),
                ({"Host": f"evil.example:{host.split(':')[1]}", "Origin": "http://evil.example"}, "host"),
                ({"Origin": "http://evil.example"}, "evil.example"),
                ({"Origin": "http://localhost:1"}, "localhost:1"),
                ({"Origin": f"http://{host}.evil.example"}, "evil.example"),
                ({"Origin": "null"}, "null"),
            ):
                answer = client.request(method, path, headers=headers, files={"files": ("x.png", picture())})
                assert answer.status_code == 403, (method, path, headers)
                assert says in answer.json()["error"] and "access-control-allow-origin" not in answer.headers
        for path in ("/", "/config", "/api/models", "/gradio_api/info", "/gradio_api/queue/data?session_hash=x"):
            assert client.get(path, headers={"Host": "evil.example"}).status_code == 403
    assert site.stored() == before


def test_endpoints_that_the_page_does_not_need_are_not_there(site: Site) -> None:
    needed = {"/api/upscale", "/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset"}
    needed |= {"/gradio_api/call/api_name", "/gradio_api/run/api_name"}
    with site.visitor() as client:
        for method, path in sorted(set(changing(site.application.routes))):
            if path not in needed:
                answer = client.request(method, path, json={"data": ["/etc/passwd"]})
                assert answer.status_code == 404 and set(answer.json()) == {"error"}, (method, path)
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
            assert client.request(method, "/api/upscale").status_code == 405
        for path in (
            "/gradio_api/proxy=http://127.0.0.1/",
            "/gradio_api/deep_link?session_hash=x",
            "/gradio_api/runs",
            "/gradio_api/run-history/buckets",
            "/gradio_api/file/etc/passwd",
            "/openapi.json",
            "//gradio_api/file=/etc/passwd",
            "/monitoring",
        ):
            assert client.get(path).status_code == 404, path


def say_host(request: Request) -> PlainTextResponse:
    return PlainTextResponse("served")


@pytest.mark.parametrize(
    ("listens", "allowed", "host", "origin", "status"),
    [
        ("127.0.0.1", [], "127.0.0.1:7860", None, 404),
        ("127.0.0.1", [], "LOCALHOST:7860", "http://localhost:7860", 404),
        ("127.0.0.1", [], "[::1]:7860", "http://[::1]:7860", 404),
        ("127.0.0.1", [], "192.168.1.5:7860", None, 403),
        ("127.0.0.1", [], "localhost.evil.example", None, 403),
        ("127.0.0.1", [], "evil.example#localhost", None, 403),
        ("127.0.0.1", [], "localhost@evil.example", None, 403),
        ("127.0.0.1", [], "", None, 403),
        ("box.lan", [], "box.lan:7860", "http://box.lan:7860", 404),
        ("::1", [], "[::1]:7860", None, 404),
        ("0.0.0.0", [], "192.168.1.5:7860", None, 404),  # the address that the request was sent to
        ("0.0.0.0", [], "192.168.1.6:7860", None, 403),
        ("0.0.0.0", [], "0.0.0.0:7860", None, 403),
        ("0.0.0.0", [], "evil.example:7860", None, 403),
        ("127.0.0.1", ["Pictures.example"], "pictures.example", "https://pictures.example", 404),
        ("127.0.0.1", ["pictures.example"], "localhost:7860", "https://pictures.example", 404),  # through a proxy
        ("127.0.0.1", ["pictures.example"], "pictures.example", "https://evil.example", 403),
        ("127.0.0.1", ["pictures.example"], "pictures.example", "file://", 403),
    ],
)
def test_hosts_and_origins(listens: str, allowed: list[str], host: str, origin: str | None, status: int) -> None:
    gate = Gate(Starlette(routes=[Route("/", say_host)]), Path("/nowhere"), listens, host_names(allowed))
    client = TestClient(gate, base_url="http://192.168.1.5:7860")
    headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
    assert client.post("/nothing", headers=headers).status_code == status
    assert client.get("/", headers={"Host": host}).status_code == (200 if status == 404 or origin else 403)


@pytest.mark.parametrize("name", ["http://pictures.example", "pictures.example:80", "*", "", "a b"])
def test_what_is_no_host_is_one_sentence(name: str) -> None:
    with pytest.raises(InvalidRequest, match="without scheme and port"):
        host_names([name])


# --- files ------------------------------------------------------------------------------------------------------------

PATHS: dict[str, Callable[[Site, Path], str]] = {
    "picture": lambda site, secret: str(secret),
    "passwd": lambda site, secret: "/etc/passwd",
    "relative": lambda site, secret: os.path.relpath(secret),
    "dots": lambda site, secret: f"{site.uploads}/../../{secret.name}",
    "dots of the root": lambda site, secret: "../" * 30 + "etc/passwd",
    "endless": lambda site, secret: "/dev/zero",
    "terminal": lambda site, secret: "/dev/stdin",
    "environment": lambda site, secret: "/proc/self/environ",
    "memory": lambda site, secret: "/proc/self/mem",
    "folder": lambda site, secret: str(site.uploads),
    "empty": lambda site, secret: "",
    "null": lambda site, secret: "\0",
    "file url": lambda site, secret: f"file://{secret}",
    "public url": lambda site, secret: "http://1.1.1.1/x.png",
    "private url": lambda site, secret: "http://127.0.0.1:9/x.png",
    "static": lambda site, secret: "/gradio_api/file=/etc/passwd",
}


def refused_everywhere(site: Site, client: httpx.Client, path: str) -> None:
    before = site.stored()
    kinds: tuple[Any, ...] = (
        {"path": path, "meta": META},
        {"path": path},
        [{"path": path, "meta": META}],
        {"value": {"deeper": [{"path": path, "meta": META}]}},
        {"path": path, "meta": META, "is_stream": True},
        {"path": path, "url": "http://1.1.1.1/x.png", "meta": META, "orig_name": "x.png"},
    )
    for kind in kinds:
        for address, call in calls(site, kind):
            answer = client.post(address, json=call)
            assert answer.status_code == 403 and "did not upload" in answer.json()["error"], (address, kind)
    assert site.stored() == before


@pytest.mark.parametrize("name", PATHS)
def test_no_path_of_a_request_is_opened(site: Site, fetched: list[Any], tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(SECRET))
    with site.visitor() as client:
        refused_everywhere(site, client, PATHS[name](site, secret))
    assert not fetched


def test_open_files_and_links_of_the_server_are_not_followed(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(SECRET))
    site.uploads.mkdir(exist_ok=True)
    link = site.uploads / "link.png"
    link.symlink_to(secret)
    folder = site.uploads / ("0" * 64)
    folder.symlink_to(tmp_path)
    try:
        with site.visitor() as client, secret.open("rb") as held:
            for path in (f"/proc/self/fd/{held.fileno()}", str(link), str(folder / secret.name)):
                refused_everywhere(site, client, path)
            mine = upload(client, picture())
            for path in (f"{mine}/../../link.png", f"{site.uploads}//{mine[len(str(site.uploads)) + 1 :]}"):
                refused_everywhere(site, client, path)
    finally:
        link.unlink()
        folder.unlink()


@pytest.mark.parametrize(
    "file",
    ["/etc/passwd", "http://1.1.1.1/x.png", {"url": "http://1.1.1.1/x.png", "meta": META}, ["/etc/passwd"], {}],
)
def test_what_is_no_file_is_an_error(site: Site, fetched: list[Any], file: Any) -> None:
    before = site.stored()
    with site.visitor() as client:
        for address, call in calls(site, file):
            if address.endswith("run/predict"):
                assert client.post(address, json=call).status_code in (404, 500), call
        answer = client.post("/gradio_api/call/upscale", json={"data": [file, 1, "", "100%", "bicubic"]})
        told = client.get(f"/gradio_api/call/upscale/{answer.json()['event_id']}").text
        assert "event: error" in told and "root:" not in told
    assert not fetched and site.stored() == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"not json", 400),
        (b"\xff\xfe", 400),
        (b'{"data": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", 400),
        (b'{"data": [' + b"1" * 5000 + b"]}", 400),
        (b'{"data": ["' + b"x" * MAX_JSON_BYTES + b'"]}', 413),
        (b'{"data": [1], "data": [{"path": "/etc/passwd"}]}', 403),
        (b'{"data": [{"path": "x", "p\\u0061th": "/etc/passwd"}]}', 403),
        (b'{"event_data": {"path": "/etc/passwd"}, "data": []}', 403),
    ],
)
def test_calls_that_cannot_be_checked_are_refused(site: Site, body: bytes, status: int) -> None:
    with site.visitor() as client:
        for address in ("queue/join", "call/upscale", "run/predict", "cancel", "reset"):
            for kind in ("application/json", "text/plain"):
                answer = client.post(f"/gradio_api/{address}", content=body, headers={"Content-Type": kind})
                assert answer.status_code == status and "\n" not in answer.json()["error"]


def test_gradio_refuses_too_where_the_gate_is_open(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gate, "_check_files", lambda *given: None)
    with site.visitor() as client:
        for path in ("/etc/passwd", "/dev/zero", "/proc/self/environ"):
            call = {"data": [{"path": path, "meta": META}, 1, "", "100%", "bicubic"]}
            event = client.post("/gradio_api/call/upscale", json=call).json()["event_id"]
            told = client.get(f"/gradio_api/call/upscale/{event}").text
            assert "event: error" in told and "not uploaded by a user" in told
    assert not [path for path in site.stored() if path.name in ("passwd", "zero", "environ")]


def test_no_url_is_fetched_for_a_reader(site: Site, fetched: list[Any]) -> None:
    with site.visitor() as client, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        near = f"http://127.0.0.1:{listener.getsockname()[1]}/x.png"
        for url in ("http://1.1.1.1/x.png", "https://1.1.1.1/", near):
            assert client.get(f"/gradio_api/file={url}").status_code == 403
            assert client.get(f"/gradio_api/proxy={url}").status_code == 404
            mine = upload(client, picture())
            call = {"data": [{"path": mine, "url": url, "meta": META}, 1, "", "100%", "bicubic"]}
            event = client.post("/gradio_api/call/upscale", json=call).json()["event_id"]
            assert "event: complete" in client.get(f"/gradio_api/call/upscale/{event}").text
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert not fetched


# --- visitors ---------------------------------------------------------------------------------------------------------


def test_an_upload_belongs_to_the_visitor_who_sent_it(site: Site) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(noise).save(held, "png")
    with site.visitor() as one, site.visitor() as other, httpx.Client(base_url=site.address) as nobody:
        mine = upload(one, held.getvalue())
        assert one.get(f"/gradio_api/file={mine}").content == held.getvalue()
        for client in (other, nobody):
            refused_everywhere(site, client, mine)
            for name in (mine, mine.replace("/uploads/", "/uploads//"), mine.replace("/x.png", "/./x.png")):
                answer = client.get(f"/gradio_api/file={name}", headers={"x-gradio-user": "mcp"})
                assert answer.status_code == 403 and held.getvalue() not in answer.content, name
        call = {"data": [{"path": mine, "meta": META}, 1, "", "100%", "bicubic"]}
        event = one.post("/gradio_api/call/upscale", json=call).json()["event_id"]
        for client in (other, nobody):
            assert client.get(f"/gradio_api/call/upscale/{event}").status_code == 403
            assert client.get(f"/gradio_api/queue/data?session_hash={event}").status_code == 403
        lines = one.get(f"/gradio_api/call/upscale/{event}").text.splitlines()
        assert "event: complete" in lines
        result = json.loads(lines[lines.index("event: complete") + 1].removeprefix("data: "))[0]["path"]
        shown = Image.open(io.BytesIO(one.get(f"/gradio_api/file={result}").content))
        assert np.array_equal(np.asarray(shown), noise)
        refused_everywhere(site, other, result)


def test_a_session_belongs_to_the_visitor_who_used_it_first(site: Site) -> None:
    with site.visitor() as one, site.visitor() as other:
        call = {"data": [None, 2, "", 50, 0, "fast"], "fn_index": site.forecast, "session_hash": "a-session"}
        event = one.post("/gradio_api/queue/join", json=call).json()["event_id"]
        for path in ("queue/data?session_hash=a-session", "heartbeat/a-session", "call/upscale/a-session"):
            assert other.get(f"/gradio_api/{path}").status_code == 403, path
        assert other.get("/gradio_api/queue/data?session_hash=new&session_hash=a-session").status_code == 403
        for path in ("queue/join", "run/predict", "call/upscale", "cancel", "reset"):
            for claimed in ({"session_hash": "a-session"}, {"event_id": event}):
                answer = other.post(f"/gradio_api/{path}", json={**call, "session_hash": "new", **claimed})
                assert answer.status_code == 403 and "another visitor" in answer.json()["error"], path
        assert "process_completed" in one.get("/gradio_api/queue/data?session_hash=a-session").text


@pytest.mark.parametrize("name", ["../../x.png", "/etc/cron.d/x", "..", "a/../../b.png", "..\\x.png", "\\\\h\\x.png"])
def test_names_of_uploads_lead_nowhere(site: Site, name: str) -> None:
    above = set(site.uploads.parent.iterdir())
    with site.visitor() as client:
        answer = client.post("/gradio_api/upload", files={"files": (name, picture())})
        assert answer.status_code in (200, 400, 500)
        for path in answer.json() if answer.status_code == 200 else ():
            folder, last = Path(path).relative_to(site.uploads).parts
            assert len(folder) == 64 and last not in ("", ".", "..")
    assert set(site.uploads.parent.iterdir()) == above
    assert not any(path.is_symlink() for path in site.stored())


def test_drawings_with_scripts_are_not_shown_by_the_server(site: Site) -> None:
    with site.visitor() as client:
        mine = upload(client, b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>', "x.svg")
        data = [{"path": mine, "meta": META}, 2, "", 50, 0, "fast"]
        call = {"data": data, "fn_index": site.forecast, "session_hash": "svg"}
        assert client.post("/gradio_api/queue/join", json=call).status_code == 200
        assert "process_completed" in client.get("/gradio_api/queue/data?session_hash=svg").text
        assert client.get(f"/gradio_api/file={mine}").headers["content-disposition"].startswith("attachment")


def test_uploads_still_work_in_every_handler(site: Site) -> None:
    with site.visitor() as client:
        mine = upload(client, picture(side=16), "mine here (1).png")
        url = f"{site.address}/gradio_api/file={mine}"
        file = {"path": mine, "url": url, "orig_name": "mine here (1).png", "size": 1, "mime_type": "", "meta": META}
        dials = [file, 2, "", 100, 0, "bicubic"]
        forms = {
            "file slider textbox slider number dropdown": dials,
            "file slider textbox slider number dropdown state": [*dials, None],
            "file slider dropdown": [file, 2, "bicubic"],
            "file slider slider dropdown state": [[file], 2, 100, "bicubic", None],
            "file number textbox textbox textbox": [file, 2, "", "100%", "bicubic"],
        }
        for index, kinds in site.handlers.items():
            session = f"works{index}"
            call = {"data": forms[" ".join(kinds)], "fn_index": index, "session_hash": session}
            assert client.post("/gradio_api/queue/join", json=call).status_code == 200
            told = client.get(f"/gradio_api/queue/data?session_hash={session}").text
            done = [line for line in told.splitlines() if '"process_completed"' in line]
            assert len(done) == 1 and '"success":true' in done[0] and "sw-error" not in done[0], (index, done)
