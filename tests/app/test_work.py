"""The worker behind the page: one task after another, a bounded queue, nothing left behind."""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page needs the extra `app`")

from scalewise.app.work import Busy, Limits, Request, Worker, curve_of, forecast, wanted
from scalewise.errors import Cancelled, InvalidRequest, ScalewiseError


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker(Limits(queue=2, max_pixels=1_000_000))
    yield made
    made.close()
    assert not made.root.exists()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "a photo.png"
    pixels = np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_a_picture_comes_back_with_its_report(worker: Worker, photo: Path) -> None:
    task = worker.upscale(Request(photo, 2.5, "", "50%"))
    task.wait()
    done = task.value()
    assert Image.open(done.picture).size == (140, 100) and done.picture.name == "a_photo_140x100.png"
    assert done.report.share <= 0.5
    assert {Image.open(path).size for path in (done.before, done.after)} == {(140, 100)}
    assert all(path.parent == task.folder for path in (done.picture, done.before, done.after, done.effort))
    worker.forget(task.token)
    assert not task.folder.exists() and worker.find(task.token) is None


def test_the_centre_alone_is_small(worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("RGB", (600, 400), (200, 30, 30)).save(path)
    task = worker.upscale(Request(path, 2.0, crop=True, model="bicubic"))
    task.wait()
    assert Image.open(task.value().picture).size == (512, 512)


def test_too_many_are_refused_politely_and_the_queue_goes_on(worker: Worker) -> None:
    gate = threading.Event()
    tasks = [worker.submit(lambda task: gate.wait(30)) for _ in range(3)]
    with pytest.raises(Busy, match="3 requests"):
        worker.submit(lambda task: None)
    gate.set()
    for task in tasks:
        assert task.wait(30) and task.value()
    worker.submit(lambda task: 7).wait(30)


def test_cancelling_ends_a_task_and_not_the_worker(worker: Worker, photo: Path) -> None:
    gate = threading.Event()
    first = worker.submit(lambda task: gate.wait(30))
    second = worker.upscale(Request(photo, 2.0))
    worker.cancel(second.token)
    gate.set()
    assert first.wait(30) and second.wait(30)
    with pytest.raises(Cancelled):
        second.value()


def test_late_tasks_end_with_a_sentence(photo: Path) -> None:
    worker = Worker(Limits(seconds=0))
    try:
        task = worker.upscale(Request(photo, 2.0))
        assert task.wait(30)
        with pytest.raises(InvalidRequest, match="stopped after 0 s"):
            task.value()
    finally:
        worker.close()


def test_results_nobody_asks_for_go_away(photo: Path) -> None:
    worker = Worker(Limits(keep_seconds=0))
    try:
        task = worker.upscale(Request(photo, 2.0, model="bicubic"))
        task.wait(30)
        worker.sweep()
        assert not task.folder.exists()
    finally:
        worker.close()


@pytest.mark.parametrize("bad", ["12 bytes of x", ""])
def test_what_is_no_picture_is_one_sentence(worker: Worker, tmp_path: Path, bad: str) -> None:
    path = tmp_path / "x.png"
    path.write_text(bad)
    task = worker.upscale(Request(path))
    assert task.wait(30)
    with pytest.raises(ScalewiseError) as caught:
        task.value()
    assert "\n" not in str(caught.value)


def test_limits_are_said_before_the_work(worker: Worker, photo: Path) -> None:
    task = worker.upscale(Request(photo, 30.0))
    assert task.wait(30)
    with pytest.raises(InvalidRequest, match="megapixels"):
        task.value()
    small = Worker(Limits(max_bytes=10))
    try:
        with pytest.raises(InvalidRequest, match="MiB"):
            small.upscale(Request(photo))
    finally:
        small.close()


def test_an_upload_that_is_gone_is_one_sentence(worker: Worker, photo: Path) -> None:
    photo.unlink()
    with pytest.raises(InvalidRequest, match="send the picture again"):
        worker.upscale(Request(photo))


def test_visitors_cannot_name_files_as_models(worker: Worker, photo: Path) -> None:
    task = worker.upscale(Request(photo, model="/etc/passwd"))
    assert task.wait(30)
    with pytest.raises(InvalidRequest, match="not served here"):
        task.value()


@pytest.mark.parametrize(
    ("text", "out"),
    [("", (80, 112)), ("140x100", (100, 140)), ("140x", (100, 140)), ("×100", (100, 140)), ("112", (80, 112))],
)
def test_sizes_are_read(text: str, out: tuple[int, int]) -> None:
    assert wanted((40, 56), 2.0, text) == out


@pytest.mark.parametrize("text", ["x", "big", "1x2x3", "-5", "10x10"])
def test_sizes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ScalewiseError):
        wanted((40, 56), 2.0, text)


def test_the_forecast_knows_size_and_loss(photo: Path) -> None:
    from scalewise import images

    half = forecast(images.open(photo), 2.0, "", "50%", "fast")
    full = forecast(images.open(photo), 2.0, "", "100%", "fast")
    assert half.size == (80, 112) and half.seconds < full.seconds
    assert half.loss is not None and full.loss == 0 and half.loss > 0


def test_the_curve_of_a_picture_rises_with_the_work(worker: Worker, tmp_path: Path) -> None:
    path = Path(__file__).resolve().parents[2] / "examples" / "photo.jpg"
    task = worker.submit(lambda task: curve_of(task, Request(path, 2.0), worker.limits))
    assert task.wait(60)
    points = task.value()
    shares = [share for share, _ in points]
    assert shares == sorted(shares) and points[-1][1] > points[0][1]


def test_several_pictures_make_one_archive(worker: Worker, photo: Path, tmp_path: Path) -> None:
    from scalewise.app.page import _zip

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    requests = [Request(path, 2.0, model="bicubic") for path in (photo, broken, photo)]
    task = worker.submit(lambda task: _zip(worker, task, requests))
    assert task.wait(60)
    path, failed = task.value()
    assert len(zipfile.ZipFile(path).namelist()) == 2
    assert len(failed) == 1 and failed[0].startswith("broken.png")
    assert sorted(p.name for p in task.folder.iterdir()) == ["scalewise.zip"]
