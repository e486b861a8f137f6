"""The page: a picture in, two dials, and where the work went. Every handler waits for the one worker."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes import Base

from scalewise import images, zoo
from scalewise.app import viewer
from scalewise.app.work import (
    Request,
    Result,
    Task,
    Worker,
    curve_of,
    follow,
    forecast,
    runnable,
    sentence,
    upscale_into,
)
from scalewise.errors import Cancelled, ScalewiseError

PRESETS = {"2×": (2.0, ""), "4×": (4.0, ""), "4K wide": (None, "3840x"), "A4, 300 dpi": (None, "3508")}
POLL = 0.2  # seconds between two looks at a running task
UNEXPECTED = "something went wrong that is not your fault; the server's log has the details"


def theme() -> Base:
    """System fonts: nothing is fetched from elsewhere."""
    fonts = ["system-ui", "Segoe UI", "Roboto", "sans-serif"]
    mono = ["ui-monospace", "Consolas", "monospace"]
    return Base(primary_hue="indigo", neutral_hue="slate", font=fonts, font_mono=mono)


def page(worker: Worker) -> gr.Blocks:
    limits = worker.limits
    with gr.Blocks(title="scalewise", analytics_enabled=False, delete_cache=(300, int(limits.keep_seconds))) as blocks:
        token = gr.State("", delete_callback=lambda held: worker.cancel(held) if held else None)
        gr.HTML(
            '<div class="sw-head"><h1>scalewise</h1><p>Enlarge a picture by any factor; '
            "the work goes where the picture needs it. Nothing leaves this machine.</p></div>"
        )
        with gr.Tab("One picture"), gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=290):
                file = gr.File(label="Picture: drop, choose or paste", elem_id="sw-file", height=120)
                with gr.Row():
                    presets = [gr.Button(name, size="sm", min_width=60) for name in PRESETS]
                scale = gr.Slider(1, 16, 2, step=0.05, label="Factor", elem_id="sw-scale")
                size = gr.Textbox(label="or size in pixels", placeholder="3840x2160, 3840x, x2160", max_lines=1)
                budget = gr.Slider(1, 100, 50, step=1, label="Budget, % of full work", elem_id="sw-budget")
                seconds = gr.Number(0, label="or seconds (0: no limit of time)", minimum=0, elem_id="sw-seconds")
                model = gr.Dropdown(list(runnable()), value="fast", label="Model", elem_id="sw-model")
                expected = gr.HTML(viewer.note("choose a picture to see what it will take"), elem_id="sw-expected")
                go = gr.Button("Enlarge", variant="primary", elem_id="sw-go")
                with gr.Row():
                    look = gr.Button("Look at the centre", size="sm", min_width=60, elem_id="sw-look")
                    stop = gr.Button("Cancel", variant="stop", size="sm", min_width=60, elem_id="sw-stop")
                with gr.Accordion("About this model", open=False):
                    card = gr.Markdown(_card("fast"), elem_classes="sw-note")
            with gr.Column(scale=3, min_width=320):
                status = gr.HTML(viewer.note(""), elem_id="sw-status")
                shown = gr.HTML(viewer.EMPTY, elem_id="sw-viewer")
                download = gr.DownloadButton("Download", interactive=False, elem_id="sw-download")
                with gr.Row():
                    report = gr.HTML(elem_id="sw-report")
                    with gr.Column():
                        ask = gr.Button("Quality against cost, for this picture", size="sm", elem_id="sw-ask")
                        drawn = gr.HTML(elem_id="sw-curve")
        with gr.Tab("Several pictures"):
            many = gr.File(label="Pictures", file_count="multiple", elem_id="sw-many")
            with gr.Row():
                many_scale = gr.Slider(1, 16, 2, step=0.05, label="Factor")
                many_budget = gr.Slider(1, 100, 50, step=1, label="Budget: % of the full work")
                many_model = gr.Dropdown(list(runnable()), value="fast", label="Model")
            with gr.Row():
                go_many = gr.Button("Enlarge all", variant="primary", elem_id="sw-go-many")
                stop_many = gr.Button("Cancel", variant="stop")
            many_status = gr.HTML(viewer.note(""), elem_id="sw-many-status")
            archive = gr.DownloadButton("Download all (zip)", interactive=False, elem_id="sw-zip")

        dials = [file, scale, size, budget, seconds, model]
        outputs = [status, shown, report, download, token]

        def whole(*given: Any) -> Iterator[tuple[Any, ...]]:
            yield from _run(worker, *given, crop=False)

        def centre(*given: Any) -> Iterator[tuple[Any, ...]]:
            yield from _run(worker, *given, crop=True)

        def several(*given: Any) -> Iterator[tuple[Any, ...]]:
            yield from _many(worker, *given)

        hidden: dict[str, Any] = {"api_visibility": "private"}
        waiting: dict[str, Any] = {**hidden, "concurrency_limit": limits.queue + 1, "show_progress": "hidden"}
        go.click(whole, [*dials, token], outputs, **waiting)
        look.click(centre, [*dials, token], outputs, **waiting)
        for button in (stop, stop_many):
            button.click(worker.cancel, token, None, queue=False, **hidden)
        for button, name in zip(presets, PRESETS, strict=True):
            factor, text = PRESETS[name]
            button.click(
                lambda now, factor=factor, text=text: (now if factor is None else factor, text),
                scale,
                [scale, size],
                show_progress="hidden",
                **hidden,
            )
        for dial in dials:
            dial.change(_expect, dials, expected, concurrency_limit=2, show_progress="hidden", **hidden)
        model.change(_card, model, card, show_progress="hidden", **hidden)
        ask.click(lambda *given: _curve(worker, *given), [file, scale, model], drawn, **waiting)
        go_many.click(
            several,
            [many, many_scale, many_budget, many_model, token],
            [many_status, archive, token],
            **waiting,
        )
        blocks.unload(lambda: worker.sweep())

        def upscale(
            picture: str, scale: float = 2.0, size: str = "", budget: str = "100%", model: str = "fast"
        ) -> tuple[str, dict[str, Any]]:
            task = worker.upscale(Request(Path(picture), scale, size, budget, model))
            task.wait()
            done: Result = task.value()
            return str(done.picture), done.report.as_dict()

        def told(*given: Any) -> tuple[str, dict[str, Any]]:
            try:
                return upscale(*given)
            except ScalewiseError as error:
                raise gr.Error(sentence(error)) from None

        with gr.Row(visible=False):  # the interface of gradio_client
            api = [gr.File(), gr.Number(2.0), gr.Textbox(""), gr.Textbox("100%"), gr.Textbox("fast")]
            answer = [gr.File(), gr.JSON()]
            gr.Button().click(told, api, answer, api_name="upscale", concurrency_limit=limits.queue + 1)
    blocks.queue(max_size=4 * (limits.queue + 1))
    return blocks


def _run(
    worker: Worker,
    file: str | None,
    scale: float,
    size: str,
    budget: float,
    seconds: float | None,
    model: str,
    token: str,
    *,
    crop: bool,
) -> Iterator[tuple[Any, ...]]:
    """Yields (status, viewer, report, download, token) while the task runs."""
    keep = (gr.skip(), gr.skip(), gr.skip())
    if not file:
        yield viewer.error("choose a picture first"), *keep, gr.skip()
        return
    if token:
        worker.forget(token)
    try:
        task = worker.upscale(Request(Path(file), scale, size or "", _asked(budget, seconds), model, crop))
    except ScalewiseError as error:
        yield viewer.error(error), *keep, ""
        return
    yield viewer.note("waiting for the worker"), gr.skip(), "", gr.update(interactive=False), task.token
    for line in _watch(task):
        yield line, *keep, gr.skip()
    try:
        done: Result = task.value()
    except Cancelled:
        yield viewer.note("cancelled; nothing was written"), *keep, gr.skip()
    except ScalewiseError as error:
        yield viewer.error(error), *keep, gr.skip()
    except Exception:
        yield viewer.error(UNEXPECTED), *keep, gr.skip()
        raise
    else:
        ready = gr.update(value=str(done.picture), interactive=True)
        words = "the centre, at its own budget" if crop else "done"
        yield (
            viewer.note(words),
            viewer.viewer(done, task.token),
            viewer.report_table(done.report),
            ready,
            gr.skip(),
        )


def _watch(task: Task) -> Iterator[str]:
    while not task.wait(POLL):
        if task.started is None:
            yield viewer.note("waiting for the worker")
        else:
            yield viewer.progress_line(task.share, time.monotonic() - task.started)


def _asked(budget: float, seconds: float | None) -> str:
    """The budget as text: seconds where some were given, else the share."""
    return f"{seconds:g}s" if seconds else f"{budget}%"


def _expect(file: str | None, scale: float, size: str, budget: float, seconds: float | None, model: str) -> str:
    if not file:
        return viewer.note("choose a picture to see what it will take")
    try:
        return viewer.forecast_line(forecast(images.open(file), scale, size or "", _asked(budget, seconds), model))
    except ScalewiseError as error:
        return viewer.error(error)


def _curve(worker: Worker, file: str | None, scale: float, model: str) -> str:
    if not file:
        return viewer.error("choose a picture first")
    request = Request(Path(file), scale=scale, model=model)
    try:
        task = worker.submit(lambda task: curve_of(task, request, worker.limits))
        task.wait()
        drawing = viewer.curve(task.value())
        worker.forget(task.token)
        return drawing
    except ScalewiseError as error:
        return viewer.error(error)


def _many(
    worker: Worker, files: list[str] | None, scale: float, budget: float, model: str, token: str
) -> Iterator[tuple[Any, ...]]:
    """Yields (status, archive, token): all pictures in one zip, those that failed named."""
    if not files:
        yield viewer.error("choose some pictures first"), gr.skip(), gr.skip()
        return
    if token:
        worker.forget(token)
    requests = [Request(Path(file), scale, "", f"{budget}%", model) for file in files]
    try:
        task = worker.submit(lambda task: _zip(worker, task, requests))
    except ScalewiseError as error:
        yield viewer.error(error), gr.skip(), ""
        return
    yield viewer.note("waiting for the worker"), gr.update(interactive=False), task.token
    for line in _watch(task):
        yield line, gr.skip(), gr.skip()
    try:
        path, failed = task.value()
    except ScalewiseError as error:
        yield viewer.error(error), gr.skip(), gr.skip()
        return
    words = f"{len(files) - len(failed)} of {len(files)} done"
    line = viewer.note(words) if not failed else viewer.error(f"{words}. {'; '.join(failed)}")
    yield line, gr.update(value=str(path), interactive=len(failed) < len(files)), gr.skip()


def _zip(worker: Worker, task: Task, requests: list[Request]) -> tuple[Path, list[str]]:
    path, failed = task.folder / "scalewise.zip", []
    taken: set[str] = set()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for index, request in enumerate(requests):
            part = Task(task.token, task.folder, task.run, started=task.started, cancelled=task.cancelled)
            try:
                done = upscale_into(part, request, worker.limits)
            except Cancelled:
                raise
            except ScalewiseError as error:
                failed.append(f"{request.path.name}: {sentence(error)}")
            else:
                name = done.picture.name
                name = name if name not in taken else f"{index}_{name}"
                taken.add(name)
                archive.write(done.picture, name)
                for made in (done.picture, done.before, done.after, done.effort):
                    made.unlink()
            follow(task, worker.limits)((index + 1) / len(requests))
    return path, failed


def _card(model: str) -> str:
    """What the model is, in two lines."""
    entry = zoo.MODELS[model]
    text = f"**{model}**: {entry.summary}. Licence {entry.licence}."
    if not entry.needs_weights:
        return text
    card = zoo.load(model).card
    data = card.get("training_data")
    return f"{text} Trained on {data}." if data else text
