"""What a job of a picture makes: sizes, pages, depth, parts, other formats; with a mask, with one's own weight file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the page needs the extra `app`")

from app.server import finished, image_of, pages, served, small, start

from scalewise.app import Limits

SHIPPED = Path(__file__).resolve().parents[2] / "src" / "scalewise" / "weights" / "fast.safetensors"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Any]]:
    with served(Limits(queue=3, per_visitor=2, max_pixels=4_000_000), tmp_path_factory.mktemp("store")) as found:
        yield found


@pytest.mark.parametrize(("format", "count"), [("gif", 6), ("tiff", 3), ("webp", 4)])
def test_every_page_and_frame_is_kept(server: tuple[httpx.Client, Any], format: str, count: int) -> None:
    client, _ = server
    data = pages(count, format)
    stored = client.post("/v1/pictures", files={"file": ("x", data)}).json()
    assert stored["pages"] == count
    job = finished(client, data)
    picture = image_of(client, job)
    assert getattr(picture, "n_frames", 1) == count and picture.size == (32, 32)


def test_frames_that_a_format_cannot_hold_are_said_to_be_left_out(server: tuple[httpx.Client, Any]) -> None:
    job = finished(server[0], pages(3, "gif"), format="png")
    assert any("first of 3" in note for note in job["report"]["notes"])


@pytest.mark.parametrize(
    ("form", "size"),
    [
        ({"scale": "3"}, (90, 60)),
        ({"size": "120x80"}, (120, 80)),
        ({"size": "120x"}, (120, 80)),
        ({"size": "x80"}, (120, 80)),
        ({"long_edge": "120"}, (120, 80)),
        ({}, (60, 40)),
        ({"scale": "2", "crop": "3,2,10,8"}, (20, 16)),
    ],
)
def test_how_large(server: tuple[httpx.Client, Any], form: dict[str, str], size: tuple[int, int]) -> None:
    client, _ = server
    held = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 30, 30)).save(held, "png")
    job = finished(client, held.getvalue(), **form)
    assert (job["width"], job["height"]) == size and image_of(client, job).size == size


def test_depth_alpha_and_other_formats(server: tuple[httpx.Client, Any]) -> None:
    client, _ = server
    held = io.BytesIO()
    Image.fromarray(np.full((10, 12), 40_000, np.uint16)).save(held, "tiff")
    job = finished(client, held.getvalue())
    assert np.asarray(image_of(client, job)).dtype == np.uint16
    shown = image_of(client, job, "preview")
    assert shown.format == "PNG" and shown.mode in ("L", "RGB") and abs(np.asarray(shown).mean() - 40_000 / 257) < 2
    alpha = finished(client, small(12, mode="RGBA"), format="webp")
    assert image_of(client, alpha).mode == "RGBA" and image_of(client, alpha, "preview").mode == "RGBA"
    part = client.get(f"/v1/jobs/{alpha['id']}/view", params={"x": 4, "y": 2, "w": 8, "h": 6, "width": 4})
    assert Image.open(io.BytesIO(part.content)).size == (4, 3)


def test_a_part_is_the_pixels_themselves(server: tuple[httpx.Client, Any]) -> None:
    client, _ = server
    job = finished(client, small(20, seed=3), scale="3")
    whole = np.asarray(image_of(client, job))
    part = client.get(f"/v1/jobs/{job['id']}/view", params={"x": 11, "y": 7, "w": 30, "h": 20})
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(part.content))), whole[7:27, 11:41])


def png(pixels: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "png")
    return held.getvalue()


def test_a_mask_says_where_the_work_goes_first(server: tuple[httpx.Client, Any]) -> None:
    client, _ = server
    flat, mask = np.full((96, 96, 3), 90, np.uint8), np.zeros((12, 12), np.uint8)
    mask[:4, :4] = 255
    files = {"file": ("x.png", png(flat)), "mask": ("mask.png", png(mask))}
    job = client.post("/v1/jobs", files=files, data={"scale": "1.5", "budget": "30%"}).json()
    while job["state"] in ("waiting", "running"):
        job = client.get(f"/v1/jobs/{job['id']}").json()
    assert job["state"] == "done" and job["report"]["share"] <= 0.3
    cells = np.asarray(image_of(client, job, "effort-map?cells=true").convert("RGB")).astype(int).sum(-1)
    assert cells.shape == (3, 3) and (cells[0, 0] > cells.ravel()[1:]).all()


@pytest.mark.parametrize(
    ("given", "form", "says"),
    [
        (b"text", {}, "not a picture"),
        (b"", {}, "empty"),
        (small(8), {"model": "tadt-liif-tiny"}, "takes no mask"),
        (small(8), {"file": "pages"}, "one picture"),
    ],
)
def test_a_mask_that_cannot_be_used_is_refused(
    server: tuple[httpx.Client, Any], given: bytes, form: dict[str, str], says: str
) -> None:
    data = pages(2, "tiff") if form.get("file") else small(24)
    fields = {name: value for name, value in form.items() if name != "file"}
    answer = server[0].post("/v1/jobs", files={"file": ("x", data), "mask": ("m", given)}, data=fields)
    assert answer.status_code == 422 and answer.json()["field"] == "mask" and says in answer.json()["detail"]


def test_a_finished_result_is_converted_without_computing_again(server: tuple[httpx.Client, Any]) -> None:
    client, found = server
    job = finished(client, pages(3, "gif"), "moving.gif")
    ended = dict(found.worker.counts)
    webp = client.get(f"/v1/jobs/{job['id']}/result", params={"format": "webp", "quality": 100})
    assert (
        webp.headers["content-type"] == "image/webp"
        and 'filename="moving_2x.webp"' in webp.headers["content-disposition"]
    )
    with Image.open(io.BytesIO(webp.content)) as made:
        assert (made.format, getattr(made, "n_frames", 1), made.size) == ("WEBP", 3, (32, 32))
    own = client.get(f"/v1/jobs/{job['id']}/result")
    assert client.get(f"/v1/jobs/{job['id']}/result", params={"format": "gif"}).content == own.content
    assert dict(found.worker.counts) == ended
    for wrong, field in (({"format": "doc"}, "format"), ({"format": "../x"}, "format"), ({"quality": "0"}, "quality")):
        answer = client.get(f"/v1/jobs/{job['id']}/result", params=wrong)
        assert answer.status_code == 422 and answer.json()["field"] == field
    clear = finished(client, small(12, mode="RGBA"))
    refused = client.get(f"/v1/jobs/{clear['id']}/result", params={"format": "jpg"})
    assert refused.status_code == 422 and refused.json()["detail"].startswith("jpg cannot hold the transparency")


def test_a_note_says_once_and_rightly_why_pages_are_left_out(server: tuple[httpx.Client, Any]) -> None:
    client, _ = server
    still = finished(client, pages(3, "gif"), format="png")["report"]["notes"]
    assert still == ["the first of 3 pages or frames: png does not hold them (ask for tif, gif or webp)"]
    held = io.BytesIO()
    Image.new("RGB", (16, 16)).save(held, "tiff", save_all=True, append_images=[Image.new("L", (9, 20))])
    unlike = finished(client, held.getvalue(), format="gif")["report"]["notes"]
    said = "they are of several sizes or kinds, and frames of a gif are alike (ask for tif)"
    assert [note for note in unlike if "page" in note] == [f"the first of 2 pages or frames: {said}"]


def test_bands_of_a_map_that_are_left_out_are_not_called_pages(
    server: tuple[httpx.Client, Any], tmp_path: Path
) -> None:
    rasterio = pytest.importorskip("rasterio", reason="needs rasterio: pip install '.[geo]'")
    how: dict[str, Any] = {"driver": "GTiff", "width": 24, "height": 20, "count": 5, "dtype": "uint8"}
    place = rasterio.transform.from_origin(8, 49, 0.1, 0.1)
    with rasterio.open(tmp_path / "map.tif", "w", crs="EPSG:4326", transform=place, **how) as file:
        file.write(np.full((5, 20, 24), 90, np.uint8))
    notes = finished(server[0], (tmp_path / "map.tif").read_bytes(), format="png")["report"]["notes"]
    assert any("all bands but 1, 2, 3" in note for note in notes) and not any("page" in note for note in notes)


def test_a_weight_file_of_ones_own(server: tuple[httpx.Client, Any]) -> None:
    client, found = server
    first = client.post("/v1/weights", files={"file": ("mine.safetensors", SHIPPED.read_bytes())})
    assert first.status_code == 201, first.text
    told = first.json()
    assert told["title"] == "mine.safetensors" and told["mask"] and told["least_budget"] < 0.1
    job = finished(client, small(40), model=told["name"], budget="50%")
    assert job["state"] == "done" and job["report"]["share"] <= 0.5
    same = finished(client, small(40), model="fast", budget="50%")
    assert np.array_equal(np.asarray(image_of(client, job)), np.asarray(image_of(client, same)))
    with httpx.Client(base_url=str(client.base_url), timeout=60) as other:
        other.get("/")  # another visitor
        answer = start(other, small(8), model=told["name"])
        assert answer.status_code == 422 and answer.json()["field"] == "model"
        assert other.delete(f"/v1/weights/{told['name']}").status_code == 404
    assert client.delete(f"/v1/weights/{told['name']}").status_code == 204
    assert start(client, small(8), model=told["name"]).status_code == 422 and not found.worker.models


@pytest.mark.parametrize("data", [b"", b"text", b"PK\x03\x04", b"\x80\x02cos\nsystem\n(X\x02\0\0\0lstR.", small(30)])
def test_what_is_no_weight_file_is_refused_in_plain_words(server: tuple[httpx.Client, Any], data: bytes) -> None:
    client, found = server
    before = set(found.worker.store.root.iterdir())
    answer = client.post("/v1/weights", files={"file": ("evil.pth", data)})
    told = answer.json()
    assert answer.status_code == 422 and told["field"] == "file" and "/" not in told["detail"].replace(".pth", "")
    assert not found.worker.models and set(found.worker.store.root.iterdir()) <= before
