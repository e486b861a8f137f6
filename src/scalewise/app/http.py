"""Plain HTTP beside the page, and `serve`: `POST /api/upscale` gives a picture for a picture."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import tempfile
import urllib.parse
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import pyvips

from scalewise import zoo
from scalewise.app.work import Busy, Limits, Request, Worker, runnable, sentence
from scalewise.errors import Cancelled, InvalidRequest, ScalewiseError

try:
    import fastapi
    import gradio.processing_utils
    import uvicorn
except ImportError as missing:
    raise InvalidRequest(f"the web page needs {missing.name}: install it with pip install 'scalewise[app]'") from None

CHUNK = 1 << 20  # bytes of an upload read at once

# Nothing may be asked of another server; Gradio needs inline styles and compiles its templates in the page.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; base-uri 'self'; "
    "worker-src 'self' blob:; form-action 'self'; frame-ancestors 'self'"
)


def build(limits: Limits, host: str = "127.0.0.1", allowed_hosts: Sequence[str] = ()) -> fastapi.FastAPI:
    """The whole server: page, results and interface, with a worker of its own. It answers to the local names, to
    `host` and to `allowed_hosts`."""
    from scalewise.app.gate import Gate, host_names

    names = host_names(allowed_hosts)
    pyvips.cache_set_max(0)  # the pictures of those who left would stay in memory
    worker = Worker(limits)
    # Gradio keeps uploads where this points, and removes them; must be set before the page is made.
    uploads = worker.root / "uploads"
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from scalewise.app.page import page, theme
    from scalewise.app.viewer import PASTE, STYLE

    @asynccontextmanager
    async def life(_: fastapi.FastAPI) -> AsyncIterator[None]:
        yield
        worker.close()

    server = fastapi.FastAPI(title="scalewise", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)
    server.state.worker = worker
    server.add_middleware(Gate, uploads=uploads, host=host, allowed_hosts=names)
    _routes(server, worker)
    # The folders of uploads and results are named by a hash of content and seed, and Gradio's seed outlives the server.
    gradio.processing_utils.hash_seed = secrets.token_bytes(32)
    blocks = page(worker)
    blocks.has_launched = True  # Gradio checks no path before its own launch, and mounting does not count as one
    return gradio.mount_gradio_app(
        server,
        blocks,
        path="/",
        max_file_size=limits.max_bytes,
        show_error=True,
        enable_monitoring=False,
        run_history=False,
        theme=theme(),
        css=STYLE,
        js=PASTE,
        footer_links=[],
    )


def serve(
    host: str = "127.0.0.1", port: int = 7860, limits: Limits | None = None, allowed_hosts: Sequence[str] = ()
) -> None:
    """Run the server until it is interrupted."""
    server = build(limits or Limits(), host, allowed_hosts)
    uvicorn.run(server, host=host, port=port, log_level="warning", timeout_graceful_shutdown=5)


def _routes(server: fastapi.FastAPI, worker: Worker) -> None:
    @server.middleware("http")
    async def guard(request: fastapi.Request, call_next: Any) -> Any:
        length = request.headers.get("content-length", "")
        if request.method == "POST" and not length.isdigit():
            return _sentence(411, "uploads must say how long they are (Content-Length)")
        if length.isdigit() and int(length) > worker.limits.max_bytes + CHUNK:
            return _sentence(413, f"uploads may have at most {worker.limits.max_bytes >> 20} MiB")
        response = await call_next(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @server.get("/api/models")
    def models() -> dict[str, str]:
        return {name: zoo.MODELS[name].summary for name in runnable()}

    @server.get("/results/{token}/{name}")
    def result(token: str, name: str) -> fastapi.Response:
        task = worker.find(token)
        path = task.folder / name if task is not None else None
        if path is None or path.parent != path.parent.parent / token or name != Path(name).name or not path.is_file():
            return _sentence(404, "there is no such result, or its time is over")
        return fastapi.responses.FileResponse(path, headers={"Cache-Control": "private, no-store"})

    @server.post("/api/upscale")
    async def upscale(
        request: fastapi.Request,
        image: Annotated[fastapi.UploadFile, fastapi.File()],
        scale: Annotated[float, fastapi.Form()] = 2.0,
        size: Annotated[str, fastapi.Form()] = "",
        budget: Annotated[str, fastapi.Form()] = "100%",
        model: Annotated[str, fastapi.Form()] = "fast",
    ) -> fastapi.Response:
        with tempfile.TemporaryDirectory(dir=worker.root) as folder:
            path = Path(folder) / Path(image.filename or "picture").name.replace("\0", "")[-80:]
            try:
                await _store(image, path, worker.limits)
                task = worker.upscale(Request(path, scale, size, budget, model))
            except Busy as error:
                return _sentence(503, str(error))
            except (ScalewiseError, OSError) as error:
                return _sentence(400, str(error))
            try:
                while not task.wait(0):
                    if await request.is_disconnected():
                        worker.cancel(task.token)
                    await asyncio.sleep(0.02)
                done = task.value()
                answer = fastapi.Response(done.picture.read_bytes(), media_type=_media(done.picture))
                answer.headers["X-Scalewise-Report"] = json.dumps(done.report.as_dict())
                name = urllib.parse.quote(done.picture.name)
                answer.headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{name}"
                return answer
            except (ScalewiseError, Cancelled) as error:
                return _sentence(400, str(error))
            except Exception:  # the worker's log has it
                return _sentence(500, "something went wrong that is not your fault")
            finally:
                worker.cancel(task.token)
                await asyncio.to_thread(worker.forget, task.token)


async def _store(upload: fastapi.UploadFile, path: Path, limits: Limits) -> None:
    written = 0
    with path.open("wb") as file:
        while block := await upload.read(CHUNK):
            written += len(block)
            if written > limits.max_bytes:
                raise InvalidRequest(f"uploads may have at most {limits.max_bytes >> 20} MiB")
            file.write(block)


def _sentence(status: int, text: str) -> fastapi.Response:
    return fastapi.responses.JSONResponse({"error": sentence(text)}, status)


def _media(path: Path) -> str:
    suffix = path.suffix.lower().lstrip(".")
    return f"image/{ {'jpg': 'jpeg', 'jpe': 'jpeg', 'tif': 'tiff'}.get(suffix, suffix) }"


__all__ = ["build", "serve"]
