"""The jobs of the interface against a running server: their way, events, cancelling, limits, refusals."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the page needs the extra `app`")

from app.server import finished, image_of, served, small, start

from scalewise.app import Limits
from scalewise.app.worker import Job


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Any]]:
    with served(Limits(queue=3, per_visitor=2, max_pixels=4_000_000), tmp_path_factory.mktemp("store")) as found:
        yield found


@pytest.fixture
def gate(server: tuple[httpx.Client, Any]) -> Iterator[threading.Event]:
    """Holds the worker in a job of its own until it is set."""
    found, opened, begun = server[1], threading.Event(), threading.Event()
    picture = found.worker.receive("gate", "x", lambda path: path.write_bytes(b"x"), lambda path: None)

    def wait(job: Job) -> None:
        begun.set()
        opened.wait(60)

    job = found.worker.submit("gate", picture, wait, keep=True)
    assert begun.wait(60)
    yield opened
    opened.set()
    assert job.done.wait(60)
    found.worker.drop_job(job.id, "gate")
    found.worker.drop_picture(picture.id, "gate")


def test_a_job_from_its_start_to_its_result(server: tuple[httpx.Client, Any]) -> None:
    client, found = server
    job = finished(client, small(40), "a photo.png", model="fast", scale="2.5", budget="50%", effort_map="true")
    assert job["state"] == "done" and job["progress"] == 1 and (job["width"], job["height"]) == (100, 100)
    assert job["report"]["share"] <= 0.5 and job["name"] == "a photo_2.5x.png" and job["problem"] is None
    assert image_of(client, job).size == (100, 100)
    assert image_of(client, job, "effort-map").size == (40, 40)
    cells = image_of(client, job, "effort-map?cells=true").size
    assert cells == (2, 2) and job["effort_extent"] == [1.6, 1.6]
    assert client.get(f"/v1/jobs/{job['id']}").json() == job
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert client.get(f"/v1/jobs/{job['id']}").status_code == 404
    assert not (found.worker.store.root / job["id"]).exists()


def test_a_picture_for_a_picture(server: tuple[httpx.Client, Any]) -> None:
    client, found = server
    answer = client.post("/v1/upscale", files={"file": ("blob", small(24, format="jpeg"))}, data={"model": "bicubic"})
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg", "sniffed, not believed"
    assert Image.open(io.BytesIO(answer.content)).size == (48, 48)
    assert json.loads(answer.headers["x-scalewise-report"])["size"] == [48, 48]
    assert "filename*=UTF-8''blob_2x.jpg" in answer.headers["content-disposition"]
    assert not found.worker.jobs and not found.worker.pictures, "what was answered is gone"


def test_a_stored_picture_serves_several_jobs(server: tuple[httpx.Client, Any]) -> None:
    client, _ = server
    stored = client.post("/v1/pictures", files={"file": ("Grüße aus Köln.png", small(16))}).json()
    assert (stored["width"], stored["height"], stored["format"]) == (16, 16, "png")
    jobs = []
    for scale in ("2", "3"):
        job = client.post("/v1/jobs", data={"picture": stored["id"], "scale": scale, "model": "bicubic"}).json()
        with client.stream("GET", f"/v1/jobs/{job['id']}/events") as stream:
            stream.read()
        jobs.append(job["id"])
    thumbnail = client.get(f"/v1/pictures/{stored['id']}/thumbnail")
    assert Image.open(io.BytesIO(thumbnail.content)).size == (16, 16)
    assert client.delete(f"/v1/pictures/{stored['id']}").status_code == 204
    assert client.get(f"/v1/jobs/{jobs[0]}/result").status_code == 200, "a job does not need it any more"
    archive = client.get("/v1/archive", params={"job": jobs})
    names = zipfile.ZipFile(io.BytesIO(archive.content)).namelist()
    assert names == ["Grüße aus Köln_2x.png", "Grüße aus Köln_3x.png"]


@pytest.mark.parametrize(
    ("form", "field", "says"),
    [
        ({"scale": "0.5"}, "scale", "greater than or equal to 1"),
        ({"scale": "abc"}, "scale", "number"),
        ({"scale": "2", "size": "100x"}, "size", "one of"),
        ({"size": "big"}, "size", "3840x2160"),
        ({"size": "10x10"}, "size", "smaller"),
        ({"scale": "100", "crop": None}, "scale", "megapixels"),
        ({"long_edge": "2500"}, "long_edge", "megapixels"),
        ({"budget": "a lot"}, "budget", "50%"),
        ({"budget": "50"}, "budget", "100%"),
        ({"budget": "50%"}, "budget", "below the least"),
        ({"budget": "0.4%"}, "budget", "budget 0.4% is below the least"),
        ({"model": "fasst"}, "model", "choose one of"),
        ({"model": "pano"}, "model", "use quality with projection erp"),
        ({"format": "doc"}, "format", "png"),
        ({"quality": "0"}, "quality", "1"),
        ({"crop": "1,2,3"}, "crop", "x,y,width,height"),
        ({"projection": "cube"}, "projection", "erp"),
        ({"projection": "erp"}, "projection", "twice as wide as high"),
        ({"timeout": "-1"}, "timeout", "0"),
        ({"mask": "x"}, "mask", "file"),
        ({"bugdet": "x"}, "bugdet", "no field"),
        ({"model": "own:x"}, "model", "send it again"),
    ],
)
def test_refusals_name_the_field(server: tuple[httpx.Client, Any], form: dict[str, Any], field: str, says: str) -> None:
    client, found = server
    sent = {name: value for name, value in form.items() if value is not None}
    answer = start(client, small(30), **sent)
    assert answer.status_code == 422 and answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["field"] == field and says in told["detail"], told
    if field not in ("timeout", "mask"):
        foreseen = client.post("/v1/forecast", files={"file": small(30)}, data={"model": "bicubic", **sent})
        assert foreseen.status_code == 422 and foreseen.json() == told, "the forecast says what the job would"
    assert all(job.done.is_set() for job in found.worker.jobs.values())


def test_the_forecast_knows_size_seconds_and_loss(server: tuple[httpx.Client, Any]) -> None:
    client, _ = server

    def foresee(**form: str) -> dict[str, Any]:
        return client.post("/v1/forecast", files={"file": small(320)}, data=form).json()

    half, full, few = foresee(budget="50%"), foresee(), foresee(budget="5%")
    assert half["width"] == 640 and half["seconds"] < full["seconds"] and half["format"] == "png"
    assert full["loss_db"] == 0 and full["loss"] == "full quality" and 0 < half["loss_db"] < few["loss_db"]


def test_each_model_is_forecast_and_runs_at_a_scale_that_it_was_not_made_for(
    server: tuple[httpx.Client, Any],
) -> None:
    client, _ = server
    for model in (one["name"] for one in client.get("/v1/models").json()["models"]):
        answer = client.post("/v1/forecast", files={"file": small(24)}, data={"model": model, "scale": "2.5"})
        assert answer.status_code == 200 and answer.json()["width"] == 60, (model, answer.text)
    job = finished(client, small(24), model="adaformer-x2-tiny", scale="2.5")
    assert job["state"] == "done" and "bicubic" in job["report"]["notes"][0]


def test_too_many_are_refused_and_the_queue_goes_on(server: tuple[httpx.Client, Any], gate: threading.Event) -> None:
    client, found = server
    visitors = [{"Authorization": f"Bearer visitor {k}"} for k in range(4)]

    def ask(k: int) -> httpx.Response:
        return client.post("/v1/jobs", files={"file": small(8)}, data={"model": "bicubic"}, headers=visitors[k])

    first = [ask(0), ask(0)]
    assert [one.status_code for one in first] == [202, 202] and first[1].json()["before"] == 2
    mine = ask(0)
    assert mine.status_code == 429 and int(mine.headers["retry-after"]) > 0
    assert ask(1).status_code == 202
    full = ask(2)
    assert full.status_code == 503 and int(full.headers["retry-after"]) > 0
    waiting = client.get(f"/v1/jobs/{first[0].json()['id']}/result", headers=visitors[0])
    assert waiting.status_code == 409 and "waiting" in waiting.json()["detail"]
    gate.set()
    for job in list(found.worker.jobs.values()):
        assert job.done.wait(60) and job.state == "done"


def test_a_job_that_waits_can_be_cancelled(server: tuple[httpx.Client, Any], gate: threading.Event) -> None:
    client, found = server
    job = start(client, small(8)).json()
    held = found.worker.jobs[job["id"]]
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert not held.folder.exists()
    gate.set()
    assert held.done.wait(60) and held.state == "cancelled"


def test_cancelling_ends_a_job_at_its_next_word(
    server: tuple[httpx.Client, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from scalewise.app import tasks

    begun, words = threading.Event(), []

    def endless(upload: Any, facts: Any, request: Any, folder: Any, limits: Any, progress: Any) -> None:
        begun.set()
        while True:
            words.append(progress(0.4))

    monkeypatch.setattr(tasks, "enlarge", endless)
    client, found = server
    job = start(client, small(8)).json()
    assert begun.wait(60)
    held = found.worker.jobs[job["id"]]
    assert client.get(f"/v1/jobs/{job['id']}").json()["state"] == "running"
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert held.done.wait(60) and held.state == "cancelled" and not held.folder.exists()


def test_the_time_of_a_job_is_limited(server: tuple[httpx.Client, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from scalewise.app import tasks

    def endless(upload: Any, facts: Any, request: Any, folder: Any, limits: Any, progress: Any) -> None:
        while True:
            progress(0.4)

    monkeypatch.setattr(tasks, "enlarge", endless)
    client, _ = server
    job = finished(client, small(8), timeout="0.01")
    assert job["state"] == "failed" and job["problem"]["status"] == 504 and job["problem"]["field"] == "timeout"
    assert client.get(f"/v1/jobs/{job['id']}/result").status_code == 504
    waited = client.post("/v1/upscale", files={"file": small(8)}, data={"model": "bicubic", "timeout": "0.01"})
    assert waited.status_code == 504 and waited.json()["field"] == "timeout"


def test_hanging_up_cancels(server: tuple[httpx.Client, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from scalewise.app import tasks

    begun = threading.Event()

    def endless(upload: Any, facts: Any, request: Any, folder: Any, limits: Any, progress: Any) -> None:
        begun.set()
        while True:
            progress(0.4)

    monkeypatch.setattr(tasks, "enlarge", endless)
    client, found = server
    with (
        httpx.Client(base_url=client.base_url, timeout=httpx.Timeout(60, read=0.2)) as leaving,
        pytest.raises(httpx.ReadTimeout),
    ):
        leaving.post("/v1/upscale", files={"file": small(8)}, data={"model": "bicubic"})
    assert begun.wait(60)
    for job in list(found.worker.jobs.values()):
        assert job.done.wait(60)


def test_an_error_of_ours_is_no_secret_and_no_trace(
    server: tuple[httpx.Client, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from scalewise.app import tasks

    def broken(*given: Any) -> None:
        raise RuntimeError("/srv/secret/key is wrong")

    monkeypatch.setattr(tasks, "enlarge", broken)
    job = finished(server[0], small(8))
    assert job["problem"]["status"] == 500 and "secret" not in json.dumps(job)


def test_models_say_what_they_are_for(server: tuple[httpx.Client, Any]) -> None:
    told = server[0].get("/v1/models").json()
    models = {one["name"]: one for one in told["models"]}
    assert told["limits"]["max_pixels"] == 4_000_000
    assert models["fast"]["mask"] is True and models["bicubic"]["mask"] is models["tadt-liif-tiny"]["mask"] is False
    assert [name for name, one in models.items() if not one["research"]] == ["fast", "quality", "photo"]
    assert models["bicubic"]["least_budget"] == 1 and models["fast"]["least_budget"] < 0.1
    assert models["edsr-ciaosr-tiny"]["least_budget"] < 0.1, "a network of one level runs on a part of the picture"


def test_health_and_metrics(server: tuple[httpx.Client, Any]) -> None:
    client, _ = server
    assert client.get("/health").json()["status"] == "ok"
    finished(client, small(8))
    text = client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['scalewise_jobs_total{state="done"}']) >= 1 and float(values["scalewise_jobs_running"]) == 0
    assert float(values['scalewise_responses_total{status="202"}']) >= 1


def test_the_description_is_true(server: tuple[httpx.Client, Any]) -> None:
    client, _ = server
    told = client.get("/openapi.json").json()
    assert told["info"]["title"] == "scalewise"
    schemas = told["components"]["schemas"]
    posted = schemas["JobForm"]["properties"]
    assert set(posted) == {
        *("file", "picture", "scale", "size", "long_edge", "budget", "model", "format", "quality", "crop"),
        *("projection", "effort_map", "mask", "timeout", "keep"),
    }
    assert schemas["JobForm"]["additionalProperties"] is False
    job = finished(client, small(8))
    assert set(job) == set(schemas["JobAbout"]["properties"])
    stored = client.post("/v1/pictures", files={"file": small(8)}).json()
    assert set(stored) == set(schemas["PictureAbout"]["properties"])
    problem = client.get("/v1/jobs/nobody").json()
    assert set(problem) <= set(schemas["Problem"]["properties"])
