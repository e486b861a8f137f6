"""The tab for a clip in a real browser: three frames before and after, progress, cancelling, the download."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright: make test-browser")
pytest.importorskip("fastapi", reason="the page needs the extra `app`")
pytest.importorskip("av", reason="needs PyAV: pip install '.[video]'")

from app.server import running
from playwright.sync_api import expect  # pyright: ignore[reportMissingImports]
from video.clips import pan, read, screen, write

from scalewise.app import Limits

pytestmark = pytest.mark.browser
LONG = 120_000  # milliseconds that a job may take
expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    with running(Limits(), tmp_path_factory.mktemp("store")) as found:
        yield found


@pytest.fixture(params=[1440, 390])
def page(request: pytest.FixtureRequest, browser: Any, server: tuple[str, Any]) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": request.param, "height": 860}, accept_downloads=True)
    made = context.new_page()
    said: list[str] = []
    made.on("console", lambda message: said.append(message.text) if "status of 4" not in message.text else None)
    made.on("pageerror", lambda error: said.append(str(error)))
    made.goto(server[0])
    expect(made.locator("#models label")).to_have_count(3, timeout=LONG)  # the first visitor waits for torch
    made.locator("input[name=view][value=clip]").check(force=True)
    yield made
    assert not said
    context.close()


def test_a_clip_from_its_choice_to_its_download(page: Any, tmp_path: Path) -> None:
    expect(page.locator("#intro")).to_be_hidden()
    expect(page.locator("#clip-go")).to_be_disabled()
    page.set_input_files("#clip-file", str(write(tmp_path / "talk.mkv", screen(30))))
    expect(page.locator("#clip-about")).to_contain_text("talk.mkv: 96 × 64 · 30 frames · 1.2 s")
    page.select_option("#clip-model", "bicubic")
    page.fill("#clip-factor", "1.5")
    expect(page.locator("#clip-outcome")).to_contain_text("144 × 96")
    page.click("#clip-show")
    expect(page.locator("#clip-after")).to_be_visible(timeout=LONG)
    expect(page.locator("#clip-expected")).to_contain_text("All of it takes about")
    expect(page.locator("#clip-frame-1")).to_have_text("0.2 s")
    page.click("#clip-frame-3")
    expect(page.locator("#clip-frame-3")).to_have_attribute("aria-pressed", "true")
    page.click("#clip-go")
    expect(page.locator("#clip-take")).to_have_text(re.compile(r"Download MP4 · \d+ KB"), timeout=LONG)
    with page.expect_download() as found:
        page.click("#clip-take")
    assert found.value.suggested_filename == "talk_1.5x.mp4"
    found.value.save_as(tmp_path / "out.mp4")
    assert len(read(tmp_path / "out.mp4")[0]) == 30
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.reload()
    expect(page.locator("#clip-take")).to_be_visible()
    page.locator("input[name=view][value=pictures]").check(force=True)
    expect(page.locator("#intro")).to_be_visible()


def test_a_clip_is_cancelled(
    page: Any, server: tuple[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scalewise.app import clip_tasks

    def endless(*given: Any) -> None:
        while True:
            given[5](0.4)

    monkeypatch.setattr(clip_tasks, "enlarge", endless)
    page.set_input_files("#clip-file", str(write(tmp_path / "in.mkv", pan(10))))
    page.click("#clip-go")
    expect(page.locator("#clip-left")).to_contain_text("%")
    (job,) = [job for job in server[1].worker.jobs.values() if not job.done.is_set()]
    page.click("#clip-cancel")
    expect(page.locator("#clip-go")).to_be_visible()
    assert job.done.wait(30) and job.state == "cancelled"


def test_what_cannot_be_is_said_at_its_field(page: Any, tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_text("no clip")
    page.set_input_files("#clip-file", str(tmp_path / "x.mp4"))
    expect(page.locator("[data-clip-error=go]")).to_contain_text("cannot be read as a video")
    page.set_input_files("#clip-file", str(write(tmp_path / "in.mkv", screen(3))))
    page.fill("#clip-factor", "90")
    page.click("#clip-go")
    expect(page.locator("[data-clip-error=how-large]")).to_contain_text("megapixels")


def test_a_clip_that_comes_to_the_pictures(page: Any, tmp_path: Path) -> None:
    """By its type or its name it goes to the tab Clip; without either, a sentence says where it belongs."""
    content = write(tmp_path / "in.mp4", screen(3), codec="libx264", pix_fmt="yuv420p").read_bytes()
    page.locator("input[name=view][value=pictures]").check(force=True)
    page.set_input_files("#file", [{"name": "talk", "mimeType": "", "buffer": content}])
    expect(page.locator("#intro-error")).to_contain_text("talk: the file is a video: the tab Clip takes it")
    files = [{"name": name, "mimeType": "", "buffer": content} for name in ("TALK.MKV", "other.mp4")]
    page.set_input_files("#file", files)
    expect(page.locator("#clip-about")).to_contain_text("TALK.MKV: 96 × 64")
    expect(page.locator("[data-clip-error=go]")).to_contain_text("only TALK.MKV was taken")


def test_what_was_said_of_other_settings_or_of_another_clip_is_gone(page: Any, tmp_path: Path) -> None:
    source = str(write(tmp_path / "in.mkv", screen(6)))
    page.set_input_files("#clip-file", source)
    page.select_option("#clip-model", "bicubic")
    expected = page.locator("#clip-expected")
    for change in (lambda: page.fill("#clip-factor", "1.5"), lambda: page.set_input_files("#clip-file", source)):
        expect(page.locator("#clip-show")).to_be_enabled()
        page.click("#clip-show")
        expect(expected).to_contain_text("All of it takes", timeout=LONG)
        change()
        expect(expected).not_to_contain_text("All")
    expect(page.locator("input[name=clip-factor]:checked")).to_have_count(0)
    page.fill("#clip-factor", "")
    expect(page.locator("input[name=clip-factor][value='2']")).to_be_checked()


def test_an_answer_that_comes_too_late_is_thrown_away(page: Any, server: tuple[str, Any], tmp_path: Path) -> None:
    held: list[Any] = []
    page.route("**/v1/clips", lambda route: held.append(route) if not held else route.continue_())
    page.set_input_files("#clip-file", str(write(tmp_path / "first.mkv", screen(3))))
    page.set_input_files("#clip-file", str(write(tmp_path / "second.mkv", screen(4))))
    expect(page.locator("#clip-about")).to_contain_text("second.mkv: 96 × 64 · 4 frames")
    with page.expect_response(lambda answer: answer.request.method == "DELETE"):
        held[0].continue_()
    expect(page.locator("#clip-about")).to_contain_text("second.mkv: 96 × 64 · 4 frames")
    assert [one.name for one in server[1].worker.pictures.values() if one.name == "first.mkv"] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility(page: Any, tmp_path: Path, scheme: str, accessible: Callable[[Any, str], None]) -> None:
    page.emulate_media(color_scheme=scheme)
    accessible(page, "clip: start")
    page.set_input_files("#clip-file", str(write(tmp_path / "in.mkv", screen(6))))
    page.select_option("#clip-model", "bicubic")
    page.click("#clip-show")
    expect(page.locator("#clip-after")).to_be_visible(timeout=LONG)
    accessible(page, "clip: three frames")
    page.click("#clip-go")
    expect(page.locator("#clip-take")).to_be_visible(timeout=LONG)
    accessible(page, "clip: done")
    page.locator("input[name=clip-by][value=time]").check(force=True)
    page.fill("#clip-factor", "90")
    page.click("#clip-go")
    expect(page.locator("[data-clip-error=how-large]")).to_be_visible()
    accessible(page, "clip: refused")


def test_without_pyav_the_tab_says_what_to_install(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalewise.app.clips.find_spec", lambda name: None)
    page.reload()
    page.locator("input[name=view][value=clip]").check(force=True)
    expect(page.locator("#clip-missing")).to_contain_text("pip install 'scalewise[video]'")
    expect(page.locator("#clip-steps")).to_be_hidden()
