"""The server as one application: its routes, guarded; the page, health and metrics, and how problems are answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from scalewise.app.problems import Refused
from scalewise.errors import InvalidRequest
from scalewise.version import __version__

try:
    import python_multipart  # noqa: F401 (FastAPI reads forms with it)
    from fastapi import FastAPI, Request, Response
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
except ImportError as missing:
    raise InvalidRequest(f"the web page needs {missing.name}: install it with pip install 'scalewise[app]'") from None

from scalewise.app.clips import add_clips, clips_granted
from scalewise.app.guard import Access, Guard
from scalewise.app.jobs import add_jobs
from scalewise.app.pictures import add_pictures
from scalewise.app.server import Server, told
from scalewise.app.weights import add_weights
from scalewise.app.worker import Limits

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
TYPES |= {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


def build(limits: Limits | None = None, access: Access | None = None, parent: Path | None = None) -> FastAPI:
    """The server, guarded: page and interface, with a worker of its own. `parent`: where it keeps files."""
    server = Server(limits or Limits(), access or Access(), parent)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        server.worker.start()
        yield
        server.short.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(server.worker.close)

    app = FastAPI(
        title="scalewise",
        version=__version__,
        summary="Enlarge pictures by any factor; compute only where the picture needs it.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        lifespan=life,
        responses=told(422),  # or FastAPI would describe an answer of its own
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.server = server
    _problems(app)
    add_jobs(app, server)
    add_pictures(app, server)
    add_clips(app, server)
    add_weights(app, server)
    _others(app, server)
    _files(app)
    app.add_middleware(Guard, access=server.access, limits=server.limits, counts=server.requests)  # type: ignore[arg-type]
    return app


def _problems(app: FastAPI) -> None:
    def answer(problem: Refused) -> Response:
        headers = {name.decode(): value.decode() for name, value in problem.headers()}
        return Response(problem.body(), problem.status, headers)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return answer(error)

    @app.exception_handler(HTTPException)
    async def plain(_: Request, error: HTTPException) -> Response:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, Refused):  # raised while the body was read
                return answer(cause)
            cause = cause.__cause__ or cause.__context__
        told = {404: "there is nothing here", 405: "this cannot be done here", 400: "the form cannot be read"}
        said = answer(Refused(error.status_code, told.get(error.status_code, str(error.detail))))
        for name, value in (error.headers or {}).items():
            said.headers[name] = value
        return said

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = str(first["loc"][-1])[:60] if len(first["loc"]) > 1 else None
        if first["type"] == "extra_forbidden":
            return answer(Refused(422, f"there is no field {field!r} here: /docs lists them", field))
        if first["type"] == "missing":
            return answer(Refused(422, f"the field {field} is missing", field))
        if "UploadFile" in str(first["msg"]):
            return answer(Refused(422, f"send {field} as a file", field))
        reason = str(first["msg"])[:1].lower() + str(first["msg"])[1:200]
        return answer(Refused(422, f"{field}: {reason}" if field else reason, field))


def _others(app: FastAPI, server: Server) -> None:
    limits = server.limits

    @app.get("/v1/models", tags=["about the server"], summary="What can be asked for", responses=told(401))
    async def models() -> dict[str, Any]:
        """The models that can be named, what else this server can do, and its limits."""
        from scalewise.app import models as served
        from scalewise.app import tasks

        found = await server.shortly(served.models)
        granted = {"max_bytes": limits.max_bytes, "max_pixels": limits.max_pixels, "seconds": limits.seconds}
        granted |= {"max_weight_bytes": limits.max_weight_bytes}
        clips = clips_granted(limits)
        return {"models": found, "formats": list(tasks.formats()), "limits": granted, "clips": clips}

    @app.get("/health", tags=["about the server"], summary="Whether it lives")
    async def health() -> dict[str, Any]:
        """Answers while the server lives, also when it is busy."""
        return {"status": "ending" if server.worker.closing.is_set() else "ok", "version": __version__}

    @app.get(
        "/metrics",
        tags=["about the server"],
        summary="Counters",
        responses={200: {"content": {"text/plain": {}}}, **told(401)},
    )
    async def metrics() -> Response:
        """Counters and gauges, as Prometheus reads them."""
        return Response(server.metrics(), media_type="text/plain; version=0.0.4")

    @app.post(
        "/v1/session", status_code=204, tags=["about the server"], summary="Come in with the token", responses=told(401)
    )
    async def session() -> None:
        """With the server's token: sets the cookie that the page goes on with."""


def _files(app: FastAPI) -> None:
    """The page, and what it is made of: these files and no other, read once."""
    folder = resources.files("scalewise.app") / "static"
    files = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}

    def served(name: str) -> Response:
        kind = TYPES[name.rpartition(".")[2]]
        return Response(files[name], media_type=kind, headers={"Cache-Control": "no-cache"})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return served("index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return served("docs.html")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return served("icon.svg")

    @app.get("/static/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in files:
            raise Refused(404, "there is nothing here")
        return served(name)


__all__ = ["Server", "build"]
