"""Clips over the interface: stored, looked at by three frames, enlarged; and what is refused."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the page needs the extra `app`")
pytest.importorskip("av", reason="needs PyAV: pip install '.[video]'")

from app.server import served, small
from video.clips import pan, read, screen, write

from scalewise.app import Limits, clip_tasks
from scalewise.app.problems import Refused
from scalewise.app.worker import Job
from scalewise.video.clip import open_clip, pictures

DURATION = b"\x44\x89\x88"  # the element of a Matroska file, before eight bytes of milliseconds


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Any]]:
    with served(Limits(per_visitor=2, clip_seconds=5, clip_pixels=40_000), tmp_path_factory.mktemp("store")) as found:
        yield found


def stored(client: httpx.Client, path: Path, name: str = "a talk.mp4") -> httpx.Response:
    return client.post("/v1/clips", files={"file": (name, path.read_bytes())})


def finished(server: tuple[httpx.Client, Any], what: str, clip: str, **form: str) -> dict[str, Any]:
    client, found = server
    started = client.post(f"/v1/{what}", data={"clip": clip, "model": "bicubic", **form})
    assert started.status_code == 202, started.text
    job = found.worker.jobs[started.json()["id"]]
    assert job.done.wait(120)
    return client.get(f"/v1/jobs/{job.id}").json()


def test_a_clip_from_its_upload_to_its_result(server: tuple[httpx.Client, Any], tmp_path: Path) -> None:
    client, found = server
    source = write(tmp_path / "in.mp4", screen(30), codec="libx264", pix_fmt="yuv420p", sound=True)
    clip = stored(client, source).json()
    assert (clip["width"], clip["height"], clip["frames"], clip["codec"]) == (96, 64, 30, "h264")
    assert clip["rate"] == 25 and clip["seconds"] == pytest.approx(1.2, abs=0.05)
    assert client.get(f"/v1/clips/{clip['id']}").json() == clip
    job = finished(server, "clip-jobs", clip["id"], model="fast", budget="50%", scale="2")
    assert job["state"] == "done" and (job["width"], job["height"], job["name"]) == (192, 128, "a talk_2x.mp4")
    assert job["report"]["frames"] == 30 and job["report"]["share"] <= 0.5 and job["progress"] == 1
    answer = client.get(f"/v1/jobs/{job['id']}/result")
    assert answer.headers["content-type"] == "video/mp4" and len(answer.content) == job["bytes"]
    (tmp_path / "out.mp4").write_bytes(answer.content)
    frames, times = read(tmp_path / "out.mp4")
    assert frames[0].shape == (128, 192, 3) and times == read(source)[1]
    assert sorted(path.name for path in found.worker.jobs[job["id"]].folder.iterdir()) == ["input", "result.mp4"]
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert client.delete(f"/v1/clips/{clip['id']}").status_code == 204
    assert client.get(f"/v1/clips/{clip['id']}").status_code == 404


def test_a_preview_shows_three_frames_before_and_after(server: tuple[httpx.Client, Any], tmp_path: Path) -> None:
    client, _ = server
    moving = pan(30)
    clip = stored(client, write(tmp_path / "in.mkv", moving)).json()
    job = finished(server, "clip-previews", clip["id"], scale="1.5")
    report = job["report"]
    assert report["frames"] == 30 and report["seconds"] > 0 and report["times"] == [0.2, 0.6, 1.0]
    for number, time in enumerate(report["times"], 1):
        before, after = (
            Image.open(io.BytesIO(client.get(f"/v1/jobs/{job['id']}/frames/{number}?before={which}").content))
            for which in ("true", "false")
        )
        assert (np.asarray(before) == moving[round(25 * time)]).all()
        assert after.size == (job["width"], job["height"]) == (144, 96)
    assert client.get(f"/v1/jobs/{job['id']}/frames/4").status_code == 404
    for what in ("effort-map?cells=true", "preview", "view?x=0&y=0&w=8&h=8", "result?format=png"):
        assert client.get(f"/v1/jobs/{job['id']}/{what}").status_code == 404, "these are of pictures"


@pytest.mark.parametrize(
    ("form", "field", "says"),
    [
        ({"scale": "2", "size": "200x"}, "size", "one of scale and size"),
        ({"scale": "8"}, "scale", "megapixels"),
        ({"format": "gif"}, "format", "mp4, mkv, mov, webm"),
        ({"budget": "soon"}, "budget", "budget"),
        ({"model": "../../x"}, "model", "not served"),
        ({"model": "own:x"}, "model", "not here any more"),
        ({"size": "-3x"}, "size", "size"),
        ({"size": "201x101"}, "size", "needs even sides: ask for 200x100"),
        ({"budget": "2e9macs"}, "budget", "realtime"),
        ({"crf": "52"}, "crf", "0 (best) to 51 for h264"),
    ],
)
def test_refusals_name_the_field(
    server: tuple[httpx.Client, Any], tmp_path: Path, form: dict[str, str], field: str, says: str
) -> None:
    client, found = server
    clip = stored(client, write(tmp_path / "in.mkv", screen(3), codec="libx264", pix_fmt="yuv420p")).json()
    jobs = len(found.worker.jobs)
    answer = client.post("/v1/clip-jobs", data={"clip": clip["id"], **form})
    assert answer.status_code == 422 and answer.json()["field"] == field and says in answer.json()["detail"]
    assert len(found.worker.jobs) == jobs


@pytest.mark.parametrize("chroma", ["420", "444"])
@pytest.mark.parametrize("asked", [{"scale": "1.57"}, {"size": "101x"}, {"size": "x75"}])
def test_a_job_says_the_size_that_its_frames_will_have(
    server: tuple[httpx.Client, Any], tmp_path: Path, asked: dict[str, str], chroma: str
) -> None:
    client, _ = server
    clip = stored(client, write(tmp_path / "in.mkv", screen(3), codec="libx264", pix_fmt=f"yuv{chroma}p")).json()
    job = finished(server, "clip-jobs", clip["id"], **asked)
    (tmp_path / "out.mp4").write_bytes(client.get(f"/v1/jobs/{job['id']}/result").content)
    height, width = read(tmp_path / "out.mp4")[0][0].shape[:2]
    assert (job["width"], job["height"]) == (width, height)
    assert (width % 2 == height % 2 == 0) == (chroma == "420")
    assert job["name"] == ("a talk_1.57x.mp4" if "scale" in asked else f"a talk_{width}x{height}.mp4")


def test_what_the_clip_itself_forbids_ends_the_job_in_one_sentence(
    server: tuple[httpx.Client, Any], tmp_path: Path
) -> None:
    clip = stored(server[0], write(tmp_path / "in.mkv", screen(3))).json()
    job = finished(server, "clip-jobs", clip["id"], budget="0.001s")
    assert job["state"] == "failed" and job["problem"]["field"] == "budget"
    job = finished(server, "clip-jobs", clip["id"], timeout="0.0001", keep="true")
    assert job["state"] == "failed" and job["problem"]["status"] in (422, 504)
    assert str(server[1].worker.store.root) not in job["problem"]["detail"]


def test_a_preview_is_deinterlaced_as_the_clip_is(server: tuple[httpx.Client, Any], tmp_path: Path) -> None:
    fields: dict[str, Any] = {"codec": "libx264", "pix_fmt": "yuv420p", "options": {"x264-params": "tff=1"}}
    source = write(tmp_path / "in.mkv", pan(10, step=6), **fields)
    job = finished(server, "clip-previews", stored(server[0], source).json()["id"])
    before = np.asarray(Image.open(io.BytesIO(server[0].get(f"/v1/jobs/{job['id']}/frames/2?before=true").content)))
    clip = open_clip(source)
    combed, mended = (
        next(found.pixels for found in pictures(clip, deinterlace=one) if found.time >= clip.ticks(0.2))
        for one in (False, True)
    )
    assert (before == mended).all() and (before != combed).any()


def test_a_clip_that_takes_too_much_room_is_stopped(tmp_path: Path) -> None:
    source = write(tmp_path / "in.mkv", pan(60))
    facts, made = clip_tasks.look(source, Limits()), tmp_path / "made"
    made.mkdir()
    asked = clip_tasks.ClipRequest(model="bicubic", crf=0)
    heard: list[float] = []
    with pytest.raises(Refused, match="room that one visitor has") as error:
        clip_tasks.enlarge(source, facts, asked, made, Limits(visitor_bytes=100_000), heard.append, 900)
    assert error.value.field == "crf" and 0 < max(heard) < 0.9


def test_a_clip_that_is_longer_than_its_file_says_is_stopped_at_the_limit(
    server: tuple[httpx.Client, Any], tmp_path: Path
) -> None:
    source = write(tmp_path / "in.mkv", screen(20), rate=2)  # 10 s, where 5 s are taken
    content = source.read_bytes()
    at = content.index(DURATION) + len(DURATION)
    source.write_bytes(content[:at] + struct.pack(">d", 4000.0) + content[at + 8 :])
    clip = stored(server[0], source).json()
    assert clip["seconds"] == 4
    job = finished(server, "clip-jobs", clip["id"], keep="true")
    assert job["state"] == "failed" and (job["problem"]["status"], job["problem"]["field"]) == (413, "file")
    assert "says that the clip is 4 s long, but it is longer, and at most 5 s" in job["problem"]["detail"]
    assert 0.5 < job["progress"] < 1


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv", "avi"])
def test_a_video_among_the_pictures_is_sent_to_its_tab(
    server: tuple[httpx.Client, Any], tmp_path: Path, container: str
) -> None:
    content = write(tmp_path / f"in.{container}", screen(3), codec="libx264", pix_fmt="yuv420p").read_bytes()
    answer = server[0].post("/v1/pictures", files={"file": ("a talk", content)})
    assert answer.status_code == 415 and "the tab Clip takes it" in answer.json()["detail"]


@pytest.mark.parametrize("kind", ["gif", "webp", "avif"])
def test_a_damaged_picture_is_no_video(server: tuple[httpx.Client, Any], kind: str) -> None:
    answer = server[0].post("/v1/pictures", files={"file": ("x", small(32, format=kind)[:60])})
    assert answer.status_code in (415, 422) and "video" not in answer.json()["detail"]


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{path}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{path}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
    '<Representation id="0" bandwidth="1" mimeType="video/mp4"><BaseURL>{path}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_playlists_open_nothing(server: tuple[httpx.Client, Any], tmp_path: Path, kind: str) -> None:
    """A file that names others would have the server read them."""
    secret = write(tmp_path / "secret.mp4", screen(3), codec="libx264", pix_fmt="yuv420p")
    (tmp_path / "list").write_text(PLAYLISTS[kind].format(path=secret))
    answer = stored(server[0], tmp_path / "list")
    assert answer.status_code == 415 and answer.json()["field"] == "file" and "secret" not in answer.text


def test_what_is_no_clip_or_too_much_is_refused(server: tuple[httpx.Client, Any], tmp_path: Path) -> None:
    client, found = server
    held = set(found.worker.pictures)
    (tmp_path / "x.png").write_bytes(small())
    picture = stored(client, tmp_path / "x.png")
    assert picture.status_code == 415 and "the tab Pictures takes" in picture.json()["detail"]
    large = stored(client, write(tmp_path / "large.mkv", screen(2, 256, 256)))
    assert large.status_code == 413 and "megapixels" in large.json()["detail"]
    long = stored(client, write(tmp_path / "long.mkv", screen(20), rate=2))
    assert long.status_code == 413 and "at most 5 s" in long.json()["detail"]
    broken = write(tmp_path / "broken.mp4", screen(3), codec="libx264", pix_fmt="yuv420p")
    broken.write_bytes(broken.read_bytes()[:700])
    assert stored(client, broken).status_code in (415, 422)
    assert set(found.worker.pictures) == held, "what is refused leaves nothing"


def test_a_clip_is_no_picture_and_nobody_elses(server: tuple[httpx.Client, Any], tmp_path: Path) -> None:
    client, _ = server
    clip = stored(client, write(tmp_path / "in.mkv", screen(3))).json()["id"]
    picture = client.post("/v1/pictures", files={"file": ("x.png", small())}).json()["id"]
    assert client.get(f"/v1/pictures/{clip}").status_code == client.get(f"/v1/clips/{picture}").status_code == 404
    assert client.post("/v1/clip-jobs", data={"clip": picture}).status_code == 404
    assert client.post("/v1/jobs", data={"picture": clip}).status_code == 404
    with httpx.Client(base_url=client.base_url, headers={"Authorization": "Bearer somebody-else"}) as other:
        assert other.get(f"/v1/clips/{clip}").status_code == other.delete(f"/v1/clips/{clip}").status_code == 404
        assert other.post("/v1/clip-jobs", data={"clip": clip}).status_code == 404


def test_cancelling_ends_a_clip_between_two_frames(
    server: tuple[httpx.Client, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, found = server
    clip = stored(client, write(tmp_path / "in.mkv", pan(60))).json()["id"]
    heard, told = [], Job.progress

    def progress(job: Job, share: float) -> None:
        heard.append(share)
        if share > 0.3:
            job.cancelled.set()
        told(job, share)

    monkeypatch.setattr(Job, "progress", progress)
    job = found.worker.jobs[client.post("/v1/clip-jobs", data={"clip": clip, "model": "bicubic"}).json()["id"]]
    assert job.done.wait(120) and job.state == "cancelled" and max(heard) < 0.5
    assert client.get(f"/v1/jobs/{job.id}/result").status_code == 410
    found.worker.drop_job(job.id, job.owner)
    assert not job.folder.exists()


def test_without_pyav_it_says_what_to_install(
    server: tuple[httpx.Client, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = server
    assert client.get("/v1/models").json()["clips"] == {"missing": None, "seconds": 5, "pixels": 40_000}
    monkeypatch.setattr("scalewise.app.clips.find_spec", lambda name: None)
    assert "scalewise[video]" in client.get("/v1/models").json()["clips"]["missing"]
    answer = stored(client, write(tmp_path / "in.mkv", screen(2)))
    assert answer.status_code == 501 and "scalewise[video]" in answer.json()["detail"]
