"""The page in a real browser: `make test-browser` installs Chromium and runs these. Screenshots go to SCREENSHOTS."""

from __future__ import annotations

import base64
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright: make test-browser")
pytest.importorskip("fastapi", reason="the page needs the extra `app`")

from app.server import pages, running, small
from playwright.sync_api import expect  # pyright: ignore[reportMissingImports]

from scalewise.app import Limits

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
PHOTO = ROOT / "examples" / "photo.jpg"
LONG = 120_000  # milliseconds that a job may take
expect.set_options(timeout=30_000)  # anything else, on a busy machine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    with running(Limits(max_pixels=30_000_000), tmp_path_factory.mktemp("store")) as found:
        yield found


@pytest.fixture(params=[1440, 390])
def page(request: pytest.FixtureRequest, browser: Any, server: tuple[str, Any]) -> Iterator[Any]:
    yield from opened(browser, server, request.param)


@pytest.fixture
def wide(browser: Any, server: tuple[str, Any]) -> Iterator[Any]:
    yield from opened(browser, server, 1440)


def opened(browser: Any, server: tuple[str, Any], width: int) -> Iterator[Any]:
    """A page at the start; it may ask nothing of another server, and say nothing on the console."""
    size = {"width": width, "height": 900 if width > 500 else 844}
    context = browser.new_context(viewport=size, has_touch=width < 500, accept_downloads=True)
    made = context.new_page()
    foreign: list[str] = []
    said: list[str] = []
    made.on("request", lambda sent: foreign.append(sent.url) if not sent.url.startswith((server[0], "blob:")) else None)
    made.on("console", lambda message: said.append(message.text) if "status of 4" not in message.text else None)
    made.on("pageerror", lambda error: said.append(str(error)))
    made.goto(server[0])
    expect(made.locator("#models label")).to_have_count(3, timeout=LONG)  # the first visitor waits for torch
    yield made
    assert not foreign and not said
    context.close()
    for held in (server[1].worker.jobs, server[1].worker.pictures):
        for one in list(held.values()):
            (server[1].worker.drop_job if held is server[1].worker.jobs else server[1].worker.drop_picture)(
                one.id, one.owner
            )


def file(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": data}


def give(page: Any, *files: dict[str, Any] | str) -> None:
    page.set_input_files("#file", list(files))
    expect(page.locator("#work")).to_be_visible()


def quickly(page: Any) -> None:
    """The model that takes no time."""
    page.locator("#advanced summary").click()
    page.select_option("#research", "bicubic")


def enlarge(page: Any) -> None:
    page.click("#go")
    expect(page.locator("#take")).to_be_visible(timeout=LONG)


def downloaded(page: Any, what: str = "#take") -> tuple[str, bytes]:
    with page.expect_download() as found:
        page.click(what)
    return found.value.suggested_filename, Path(found.value.path()).read_bytes()


def pixels(page: Any) -> np.ndarray:
    """What the stage shows."""
    page.wait_for_timeout(50)  # one frame is drawn
    shot = page.locator("#look").screenshot(animations="disabled")
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def width_of(page: Any) -> bool:
    return page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_the_journey(page: Any) -> None:
    assert width_of(page)
    give(page, str(PHOTO))
    row = page.locator("#list li")
    expect(row).to_contain_text("656 × 437 · JPEG")
    expect(page.locator("#outcome")).to_contain_text("656 × 437 becomes 1 312 × 874")
    expect(page.locator("#budget-words")).to_contain_text("100% of the full work · full quality")
    expect(page.locator("#expected")).to_contain_text("about")
    page.locator("#budget").fill("10")
    expect(page.locator("#budget-words")).to_contain_text("10% of the full work · a little softer")
    page.click("#go")
    expect(page.locator("#track")).to_be_visible()
    expect(page.locator("#left")).to_contain_text(re.compile("left|nearly done"), timeout=LONG)
    expect(page.locator("#take")).to_be_visible(timeout=LONG)
    expect(page.locator("#tag-before")).to_be_visible()
    expect(page.locator("#tag-after")).to_be_visible()
    expect(page.locator("#take")).to_have_text(re.compile("Download JPEG · \\d+ KB"))
    page.locator("#numbers summary").click()
    expect(page.locator("#report")).to_contain_text("10.0% of the full model")
    page.click("#effort")
    expect(page.locator("#legend")).to_contain_text("most work: fine detail")
    name, data = downloaded(page)
    assert name == "photo_2x.jpg" and Image.open(io.BytesIO(data)).size == (1312, 874)
    assert width_of(page)


def test_nothing_but_pictures_is_offered_at_first(page: Any) -> None:
    expect(page.locator("#drop")).to_be_visible()
    expect(page.locator("#panel")).to_be_hidden()


def test_examples_are_there_to_click(page: Any) -> None:
    page.locator("[data-example='badge.png']").click()
    expect(page.locator("#list li")).to_contain_text("160 × 160 · PNG")


DROP = """([name, text]) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const held = new DataTransfer();
  held.items.add(new File([bytes], name));
  const where = document.querySelector("header");
  for (const kind of ["dragenter", "dragover", "drop"]) {
    where.dispatchEvent(new DragEvent(kind, { dataTransfer: held, bubbles: true, cancelable: true }));
  }
}"""
PASTE = """([name, text]) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const held = new DataTransfer();
  held.items.add(new File([bytes], name));
  const told = { clipboardData: held, bubbles: true, cancelable: true };
  document.body.dispatchEvent(new ClipboardEvent("paste", told));
}"""


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_drops_anywhere_and_pastes_again_and_again(wide: Any) -> None:
    for number in range(3):
        wide.evaluate(DROP, [f"drop{number}.png", encoded(small(20 + number))])
        wide.evaluate(PASTE, [f"paste{number}.png", encoded(small(40 + number))])
        expect(wide.locator("#list li")).to_have_count(2 * number + 2)
    expect(wide.locator("#list")).to_contain_text("42 × 42 · PNG")
    expect(wide.locator("#over")).to_be_hidden()


def test_one_way_to_say_how_large(wide: Any) -> None:
    give(wide, file("a.png", small(60)))
    outcome = wide.locator("#outcome")
    expect(outcome).to_contain_text("becomes 120 × 120")
    wide.locator("input[name=factor][value='4']").check(force=True)
    expect(outcome).to_contain_text("becomes 240 × 240")
    wide.fill("#factor", "2.5")
    expect(outcome).to_contain_text("becomes 150 × 150")
    expect(wide.locator("input[name=factor]:checked")).to_have_count(0)
    wide.locator("input[name=by][value=size]").check(force=True)
    expect(wide.locator("#factor")).to_be_hidden()
    wide.fill("#width", "300")
    expect(outcome).to_contain_text("becomes 300 × 300")
    wide.locator("input[name=by][value=print]").check(force=True)
    expect(wide.locator("#width")).to_be_hidden()
    wide.fill("#cm", "10")
    wide.fill("#dpi", "254")
    expect(outcome).to_contain_text("becomes 1 000 × 1 000")
    wide.locator("input[name=by][value=factor]").check(force=True)
    expect(outcome).to_contain_text("becomes 150 × 150")  # each keeps what it had


def test_what_the_server_refuses_is_said_before_at_its_field(wide: Any) -> None:
    give(wide, file("a.png", small(600)))
    wide.fill("#factor", "50")
    told = wide.locator("[data-error='how-large']")
    expect(told).to_contain_text("megapixels")
    wide.fill("#factor", "2")
    expect(told).to_be_hidden()


def test_models_of_one_level_have_no_dial(wide: Any) -> None:
    give(wide, file("a.png", small(30)))
    wide.locator("#budget").fill("40")
    quickly(wide)
    expect(wide.locator("#budget")).to_be_disabled()
    expect(wide.locator("#budget-words")).to_have_text("This model always does all of its work.")
    enlarge(wide)


def test_a_panorama_is_one_click(page: Any) -> None:
    """With any model; and what cannot be one is refused there, before anything runs."""
    held = io.BytesIO()
    Image.open(io.BytesIO(small(40))).resize((80, 40)).save(held, "png")
    give(page, file("round.png", held.getvalue()))
    quickly(page)
    page.check("#sphere")
    enlarge(page)
    expect(page.locator("#report")).to_contain_text("360°")
    page.reload()
    expect(page.locator("#list li")).to_have_count(1, timeout=LONG)
    expect(page.locator("#sphere")).to_be_checked()
    told = page.locator("[data-error='projection']")
    give(page, file("square.png", small(40)))
    expect(told).to_contain_text("twice as wide as high")
    page.uncheck("#sphere")
    expect(told).to_be_hidden()


def test_the_viewer(wide: Any) -> None:
    """Left of the divider the original, right of it the result; zoom stays at the pointer."""
    flat = Image.new("RGB", (300, 200), (250, 20, 20))
    flat.paste((20, 20, 250), (200, 0, 300, 200))
    held = io.BytesIO()
    flat.save(held, "png")
    give(wide, file("flag.png", held.getvalue()))
    quickly(wide)
    enlarge(wide)
    box = wide.locator("#look").bounding_box()
    assert box is not None
    zoom = wide.locator("#zoom")
    before = zoom.text_content()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    edge = box["x"] + 16 + (box["width"] - 32) * 2 / 3  # where red meets blue
    wide.mouse.move(edge, middle[1])
    wide.mouse.wheel(0, -600)
    expect(zoom).not_to_have_text(before)
    shown = pixels(wide)
    row = shown[int(box["height"] / 2)]
    x = int(edge - box["x"])
    assert row[x - 40][0] > 200 > 100 > row[x - 40][2] and row[x + 40][2] > 200, "the place under the pointer stays"
    wide.mouse.move(edge, middle[1])
    wide.mouse.down()
    wide.mouse.move(edge - 100, middle[1], steps=4)
    wide.mouse.up()
    row = pixels(wide)[int(box["height"] / 2)]
    assert row[x - 60][2] > 200 and row[x - 140][0] > 200, "dragging moves the picture"
    divider = wide.locator("#divider")
    wide.mouse.move(*middle)
    wide.mouse.down()
    wide.mouse.move(box["x"] + 0.25 * box["width"], middle[1], steps=4)
    wide.mouse.up()
    expect(divider).to_have_attribute("aria-valuenow", "25")
    wide.keyboard.press("ArrowRight")
    expect(divider).to_have_attribute("aria-valuenow", "27")
    wide.mouse.dblclick(box["x"] + 0.8 * box["width"], middle[1])
    expect(zoom).to_have_text("100%")
    wide.locator("#look").focus()
    wide.keyboard.press("+")
    expect(zoom).to_have_text("125%")
    wide.keyboard.press("-")
    expect(zoom).to_have_text("100%")
    wide.keyboard.press("Space")
    expect(divider).to_be_hidden()
    expect(wide.locator("#tag-before")).to_be_visible()
    wide.keyboard.press("Space")
    expect(divider).to_be_visible()
    wide.keyboard.press("0")
    expect(zoom).to_have_text(before or "")


def test_pinching(browser: Any, server: tuple[str, Any]) -> None:
    for page in opened(browser, server, 390):
        give(page, file("a.png", small(200)))
        expect(page.locator("#list li")).to_contain_text("200 × 200")
        before = page.locator("#zoom").text_content()
        touch = page.context.new_cdp_session(page)

        def fingers(kind: str, *points: tuple[int, int], touch: Any = touch) -> None:
            told = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(points)]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": told})

        fingers("touchStart", (170, 250), (220, 250))
        fingers("touchMove", (140, 250), (250, 250))
        fingers("touchMove", (95, 250), (295, 250))
        fingers("touchEnd")
        expect(page.locator("#zoom")).not_to_have_text(before)


def test_transparency_lies_on_a_chequerboard(wide: Any) -> None:
    held = io.BytesIO()
    Image.new("RGBA", (40, 40), (200, 10, 10, 0)).save(held, "png")
    give(wide, file("glass.png", held.getvalue()))
    expect(wide.locator("#list li")).to_contain_text("40 × 40")
    shown = pixels(wide)
    centre = shown[200:500, 350:650].reshape(-1, 3)
    assert len(np.unique(centre, axis=0)) == 2 and np.ptp(centre, axis=1).max() < 12, "two grays, and no hidden red"
    quickly(wide)
    enlarge(wide)
    name, data = downloaded(wide)
    assert name == "glass_2x.png" and Image.open(io.BytesIO(data)).mode == "RGBA"


def test_what_browsers_cannot_show_is_shown(wide: Any) -> None:
    deep = np.zeros((50, 80), np.uint16)
    deep[:, 40:] = 50_000
    held = io.BytesIO()
    Image.fromarray(deep).save(held, "tiff")
    give(wide, file("deep.tif", held.getvalue()))
    expect(wide.locator("#list li")).to_contain_text("80 × 50 · TIFF · 16 bit")
    row = pixels(wide)[400]
    assert abs(int(row[800][0]) - 195) < 12 and row[200][0] < 20
    quickly(wide)
    enlarge(wide)
    data = downloaded(wide)[1]
    assert np.asarray(Image.open(io.BytesIO(data))).dtype == np.uint16


def test_frames_are_counted_and_kept(wide: Any) -> None:
    give(wide, file("film.gif", pages(5, "gif")))
    expect(wide.locator("#list li")).to_contain_text("5 frames")
    quickly(wide)
    enlarge(wide)
    assert getattr(Image.open(io.BytesIO(downloaded(wide)[1])), "n_frames", 1) == 5


def test_another_format(wide: Any) -> None:
    give(wide, file("a.png", small(30)))
    quickly(wide)
    wide.select_option("#format", "webp")
    enlarge(wide)
    name, data = downloaded(wide)
    assert name == "a_2x.webp" and Image.open(io.BytesIO(data)).format == "WEBP"
    jobs = wide.evaluate("() => performance.getEntriesByName(`${location.origin}/v1/jobs`).length")
    wide.select_option("#format", "png")  # converted, and not computed again
    expect(wide.locator("#take")).to_have_text("Download PNG")
    name, data = downloaded(wide)
    assert name == "a_2x.png" and Image.open(io.BytesIO(data)).format == "PNG"
    assert wide.evaluate("() => performance.getEntriesByName(`${location.origin}/v1/jobs`).length") == jobs
    wide.fill("#factor", "3")
    expect(wide.locator("#go")).to_have_text("Enlarge again")


def test_what_is_painted_gets_the_work_first(wide: Any, server: tuple[str, Any]) -> None:
    give(wide, file("flat.png", flat_picture(96)))
    expect(wide.locator("#brush")).to_be_visible()
    wide.locator("#budget").fill("100")
    wide.click("#brush")
    expect(wide.locator("#brush-words")).to_contain_text("move the dial")
    wide.locator("#budget").fill("30")
    expect(wide.locator("#brush-words")).to_contain_text("Paint what matters")
    box = wide.locator("#look").bounding_box()
    assert box is not None
    before = pixels(wide)
    x, y, side = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, min(box["width"], box["height"]) - 32
    wide.mouse.move(x - side * 0.4, y - side * 0.4)  # within the upper left of nine patches
    wide.mouse.down()
    wide.mouse.move(x - side * 0.25, y - side * 0.25, steps=4)
    wide.mouse.up()
    assert np.abs(pixels(wide) - before).max() > 30  # the paint is seen, and the picture has not moved
    expect(wide.locator("#clear")).to_be_visible()
    wide.click("#brush")
    expect(wide.locator("#look")).not_to_have_class(re.compile("painting"))
    wide.click("#brush")
    enlarge(wide)
    (job,) = server[1].worker.jobs.values()
    cells = job.result.report.effort_map
    assert cells.shape == (3, 3) and cells[0, 0] > cells.flatten()[1:].max() and job.result.report.share <= 0.3
    wide.click("#clear")
    expect(wide.locator("#go")).to_have_text("Enlarge again")
    wide.select_option("#research", "bicubic") if wide.locator("#research").is_visible() else quickly(wide)
    expect(wide.locator("#brush")).to_be_hidden()


def test_a_weight_file_of_ones_own(wide: Any) -> None:
    give(wide, file("a.png", small(30)))
    wide.locator("#advanced summary").click()
    wide.set_input_files("#weights", [file("mine.pth", b"no weights")])
    expect(wide.locator("[data-error=own]")).to_contain_text("cannot be used", timeout=LONG)
    wide.set_input_files("#weights", [str(ROOT / "src" / "scalewise" / "weights" / "fast.safetensors")])
    expect(wide.locator("#own-words")).to_contain_text("fast.safetensors", timeout=LONG)
    expect(wide.locator("[data-error=own]")).to_be_hidden()
    enlarge(wide)
    assert Image.open(io.BytesIO(downloaded(wide)[1])).size == (60, 60)


def flat_picture(side: int) -> bytes:
    held = io.BytesIO()
    Image.new("RGB", (side, side), (90, 90, 90)).save(held, "png")
    return held.getvalue()


def test_several_pictures(page: Any) -> None:
    give(page, file("one.png", small(20)), file("broken.png", b"no picture"), file("two.jpg", small(30, format="jpeg")))
    rows = page.locator("#list li")
    expect(rows).to_have_count(3)
    expect(rows.nth(1)).to_contain_text("not a picture")
    quickly(page)
    expect(page.locator("#go")).to_have_text("Enlarge 2 pictures")
    page.click("#go")
    expect(page.locator("#zip")).to_be_visible(timeout=LONG)
    expect(rows.nth(0)).to_contain_text("done · 40 × 40")
    expect(rows.nth(2)).to_contain_text("done · 60 × 60")
    name, data = downloaded(page, "#zip")
    assert name == "scalewise.zip" and zipfile.ZipFile(io.BytesIO(data)).namelist() == ["one_2x.png", "two_2x.jpg"]
    rows.nth(1).locator(".drop-it").click()
    expect(rows).to_have_count(2)
    assert width_of(page)


def test_what_is_no_picture_is_said_at_once(page: Any) -> None:
    page.set_input_files("#file", [file("notes.txt", b"hello")])
    told = page.locator("#intro-error")
    expect(told).to_contain_text("notes.txt: the file is not a picture of a kind that can be read")
    expect(page.locator("#drop")).to_be_visible()


def test_names_are_text(wide: Any) -> None:
    give(wide, file("<img src=x onerror=alert(1)>.png", small(20)))
    expect(wide.locator("#list b")).to_contain_text("<img src=x onerror=alert(1)>.png")


def test_cancel_and_again(wide: Any, server: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from scalewise.app import tasks

    def endless(upload: Any, facts: Any, wish: Any, folder: Any, limits: Any, progress: Any) -> None:
        while True:
            progress(0.4)

    give(wide, file("a.png", small(20)))
    quickly(wide)
    with monkeypatch.context() as patched:
        patched.setattr(tasks, "enlarge", endless)
        wide.click("#go")
        expect(wide.locator("#left")).to_contain_text("%")
        (job,) = server[1].worker.jobs.values()
        wide.click("#cancel")
        expect(wide.locator("#go")).to_be_visible()
        assert job.done.wait(30) and job.state == "cancelled"
    enlarge(wide)


def test_a_reload_goes_on(wide: Any, server: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from scalewise.app import tasks

    gate, real = threading.Event(), tasks.enlarge

    def slowly(*given: Any) -> Any:
        given[-1](0.5)
        assert gate.wait(60)
        return real(*given)

    monkeypatch.setattr(tasks, "enlarge", slowly)
    give(wide, file("a.png", small(30)))
    quickly(wide)
    wide.fill("#factor", "3.5")
    wide.click("#go")
    expect(wide.locator("#left")).to_contain_text("%")
    wide.reload()
    expect(wide.locator("#list li")).to_contain_text("%")
    expect(wide.locator("#factor")).to_have_value("3.5")
    gate.set()
    expect(wide.locator("#take")).to_be_visible(timeout=LONG)
    assert downloaded(wide)[0] == "a_3.5x.png"
    wide.reload()
    expect(wide.locator("#take")).to_be_visible()


def test_large_results_are_shown_pixel_for_pixel(wide: Any) -> None:
    """Only every other column of the result is white: a preview would be gray."""
    stripes = np.zeros((8, 3000), np.uint8)
    stripes[:, ::2] = 255
    held = io.BytesIO()
    Image.fromarray(stripes).save(held, "tiff")  # browsers show none, so the server reduces it
    give(wide, file("stripes.tif", held.getvalue()))
    expect(wide.locator("#list li")).to_contain_text("3 000 × 8")
    wide.wait_for_load_state("networkidle")  # its preview is there, which fits it into the stage anew
    with wide.expect_response(re.compile("/view")):
        wide.click("#whole")
    wide.wait_for_timeout(300)  # it is decoded and drawn
    shown = pixels(wide)
    row = shown[shown.shape[0] // 2, 100:300, 0]
    assert {int(row.min()), int(row.max())} == {0, 255} and (np.abs(np.diff(row)) == 255).all()


def test_the_token_is_asked_for(browser: Any, tmp_path: Path) -> None:
    with running(parent=tmp_path / "store", token="correct horse") as (address, _):
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        expect(page.locator("#ask")).to_be_visible()
        page.fill("#token", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#ask-error")).to_contain_text("not this server's token")
        page.fill("#token", "correct horse")
        page.keyboard.press("Enter")
        expect(page.locator("#models label")).to_have_count(3, timeout=LONG)
        context.close()
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{address}/#token=correct%20horse")
        expect(page.locator("#models label")).to_have_count(3, timeout=LONG)
        assert "token" not in page.url
        context.close()


def test_the_page_weighs_little_and_comes_from_here(wide: Any) -> None:
    sizes = wide.evaluate(
        "() => [...performance.getEntriesByType('resource'), ...performance.getEntriesByType('navigation')]"
        ".map((one) => [one.name, one.transferSize])"
    )
    total = sum(size for name, size in sizes if "/v1/" not in name)
    print(f"page weight {total} bytes")
    assert 30_000 < total <= 120_000


def test_the_description_is_a_page(wide: Any, server: tuple[str, Any]) -> None:
    wide.goto(f"{server[0]}/docs")
    wide.locator("summary", has_text="/v1/jobs").first.click()
    expect(wide.locator("details[open]")).to_contain_text("factor, 1 to 100")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(page: Any, scheme: str, accessible: Callable[[Any, str], None]) -> None:
    page.emulate_media(color_scheme=scheme)
    accessible(page, "start")
    give(page, file("a.png", small(30)), file("b.png", small(30)))
    expect(page.locator("#expected")).to_contain_text("about")
    accessible(page, "chosen")
    page.fill("#factor", "500")
    expect(page.locator("[data-error='how-large']")).to_be_visible()
    accessible(page, "refused")
    page.fill("#factor", "2")
    quickly(page)
    page.click("#go")
    expect(page.locator("#zip")).to_be_visible(timeout=LONG)
    page.locator("#numbers summary").click()
    accessible(page, "done")
    page.locator("#research").select_option("")
    page.click("#brush")
    expect(page.locator("#brush-words")).to_be_visible()
    accessible(page, "painting")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_how_it_looks(browser: Any, server: tuple[str, Any], width: int, scheme: str) -> None:
    """Everything that matters is on one screen; the picture of it goes to SCREENSHOTS."""
    height = 900 if width > 500 else 844
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.goto(server[0])
    give(page, str(PHOTO))
    page.locator("#budget").fill("25")
    enlarge(page)
    page.click("#effort")
    for what in ("#stage", "#take", "#legend", "#list li", "#zoom-out", "#effort"):
        box = page.locator(what).bounding_box()
        assert box is not None and box["x"] >= 0 and box["y"] >= 0 and box["x"] + box["width"] <= width, what
        assert box["y"] + min(box["height"], 40) <= height, what
    page.click("#brush")
    for what in ("#clear", "#brush-words", "#brush"):
        page.evaluate("(what) => { document.querySelector(what).hidden = false; }", what)
        box = page.locator(what).bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width, what
    page.click("#brush")
    if scheme == "light":
        page.click("#effort")
    if folder := os.environ.get("SCREENSHOTS"):
        page.evaluate("() => document.activeElement.blur()")
        page.mouse.move(0, 0)
        page.wait_for_timeout(300)  # hovering fades
        shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        shot.quantize(256).save(Path(folder) / f"app_{width}_{scheme}.png", optimize=True)
    context.close()
