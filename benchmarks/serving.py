"""The server beside the command line, on this machine: from a first picture to the first enlarged pixel, and how soon
the worker is free again after a job was cancelled.

    python benchmarks/serving.py                  # as the page asks, by HTTP
    python benchmarks/serving.py --browser        # on the page itself: needs playwright and Chromium

Every figure is of a photo of one megapixel, in the files of the server that `scalewise app` starts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

PHOTO = Path(__file__).resolve().parent.parent / "examples" / "photo.jpg"
SIZE = (1224, 816)  # one megapixel
OVER = ("done", "failed", "cancelled")


def command_line(photo: Path, scale: float, budget: str) -> float:
    """Seconds of `scalewise upscale`, from its start to its end."""
    out = photo.with_name("command.jpg")
    began = time.perf_counter()
    words = ["upscale", str(photo), "-s", f"{scale:g}", "--budget", budget, "-o", str(out), "--overwrite", "-q"]
    subprocess.run([sys.executable, "-m", "scalewise", *words], check=True)
    return time.perf_counter() - began


@contextmanager
def server() -> Iterator[str]:
    """The address of a server in a process of its own, ready for its first visitor."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-u", "-m", "scalewise", "app", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        address = f"http://127.0.0.1:{port}"
        httpx.get(f"{address}/v1/models", timeout=300)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def ended(client: httpx.Client, id: str) -> dict[str, Any]:
    """A job at its end, by its events."""
    job: dict[str, Any] = {}
    with client.stream("GET", f"/v1/jobs/{id}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                job = json.loads(line[6:])
    return job


def by_http(address: str, photo: Path, scale: float, budget: str) -> float:
    """Seconds from choosing the picture to holding the preview of the result, by the requests that the page sends."""
    with httpx.Client(base_url=address, timeout=300) as client:
        began = time.perf_counter()
        picture = client.post("/v1/pictures", files={"file": ("photo.jpg", photo.read_bytes())}).json()
        client.get(f"/v1/pictures/{picture['id']}/preview")
        fields = {"picture": picture["id"], "scale": f"{scale:g}", "budget": budget}
        client.post("/v1/forecast", data=fields)
        job = ended(client, client.post("/v1/jobs", data=fields).json()["id"])
        assert job["state"] == "done", job
        client.get(f"/v1/jobs/{job['id']}/preview").raise_for_status()
        seconds = time.perf_counter() - began
        client.delete(f"/v1/jobs/{job['id']}")
    return seconds


@contextmanager
def in_chromium() -> Iterator[Callable[[str, Path, float, str], float]]:
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    with sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])

        def measure(address: str, photo: Path, scale: float, budget: str) -> float:
            page = browser.new_page()
            page.goto(address)
            page.locator("#models label").first.wait_for(state="attached", timeout=300_000)
            began = time.perf_counter()
            page.set_input_files("#file", str(photo))
            page.locator("#budget").fill(budget.rstrip("%"))
            page.locator(f"input[name=factor][value='{scale:g}']").check(force=True)
            page.click("#go")
            page.locator("#take").wait_for(timeout=120_000)
            seconds = time.perf_counter() - began
            page.close()
            return seconds

        yield measure
        browser.close()


def metric(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"scalewise_{name} "))


def cancelled(address: str, photo: Path, model: str, at: float) -> float:
    """Seconds from DELETE to a worker that runs nothing, asked when the share `at` is done of a picture of one tile."""
    with httpx.Client(base_url=address, timeout=300) as client:
        data = {"scale": "4", "model": model}
        job = client.post("/v1/jobs", files={"file": ("photo.jpg", photo.read_bytes())}, data=data).json()
        while job["state"] not in OVER and not (job["state"] == "running" and job["progress"] >= at):
            job = client.get(f"/v1/jobs/{job['id']}").json()
        began = time.perf_counter()
        client.delete(f"/v1/jobs/{job['id']}")
        while metric(client, "jobs_running"):
            pass
        return time.perf_counter() - began


def main() -> None:
    report = partial(print, flush=True)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browser", action="store_true", help="on the page, in Chromium")
    parser.add_argument("--repeats", type=int, default=3, help="of each figure; the median counts")
    parser.add_argument("--budgets", default="25%,100%", help="shares of the work in percent")
    parser.add_argument("--models", default="fast,bicubic", help="whose jobs are cancelled")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, server() as address, ExitStack() as open_browser:
        photo = Path(folder) / "photo.jpg"
        with Image.open(PHOTO) as picture:
            picture.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS).save(photo, quality=92)
        page = open_browser.enter_context(in_chromium()) if given.browser else by_http
        for budget in filter(None, given.budgets.split(",")):
            pairs = [(command_line(photo, 2, budget), page(address, photo, 2, budget)) for _ in range(given.repeats)]
            line, shown = (statistics.median(column) for column in zip(*pairs, strict=True))
            where = "page" if given.browser else "requests of the page"
            report(f"x2 at {budget}: command line {line:.2f} s, {where} {shown:.2f} s, {shown / line:.2f} of it")
        for model in filter(None, given.models.split(",")):
            times = [cancelled(address, photo, model, at) for at in (0.0, 0.1, 0.5)]
            report(f"{model} x4 cancelled within the tile: free after {', '.join(f'{one:.2f}' for one in times)} s")


if __name__ == "__main__":
    main()
