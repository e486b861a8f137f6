"""The page in a real browser: `make test-browser` installs Chromium and runs these. Screenshots go to SCREENSHOTS."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms

pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright: make test-browser")
pytest.importorskip("gradio", reason="the page needs the extra `app`")

from app.server import running
from playwright.sync_api import sync_playwright

from scalewise.app import Limits

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: make test-browser installs it"),
]

PHOTO = Path(__file__).resolve().parents[2] / "examples" / "photo.jpg"
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--no-first-run")  # fmt: skip


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(Limits(max_pixels=120_000_000)) as (found, _):
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Any]:
    """Open pages; at the end none of them may have asked another server for anything."""
    outside: list[str] = []
    contexts = []

    def visit(**options: Any) -> Any:
        query = options.pop("query", "")
        context = browser.new_context(viewport=options.pop("viewport", {"width": 1440, "height": 1000}), **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(90_000)
        page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else outside.append(r.url))
        page.goto(address + query)
        page.wait_for_selector("#sw-go")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not outside


def upload(page: Any, path: Path) -> None:
    page.set_input_files("#sw-file input[type=file]", str(path))
    page.wait_for_selector(f"#sw-file :text('{path.stem[:6]}')")
    page.wait_for_selector("#sw-expected :text('pixels'), #sw-expected .sw-error")  # the page has noticed


def set_number(page: Any, where: str, value: float) -> None:
    field = page.locator(f"{where} input[type=number]")
    field.fill(str(value))
    field.press("Enter")


def slide(page: Any, name: str, value: float) -> None:
    page.locator(f".sw-{name}").evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


def download(page: Any) -> bytes:
    page.wait_for_selector("#sw-download:not([disabled])")
    with page.expect_download() as held:
        page.click("#sw-download")
    return Path(held.value.path()).read_bytes()


def test_upload_enlarge_compare_and_download(visit: Any, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo = tmp_path / "sample.png"
    Image.open(PHOTO).resize((160, 120)).save(photo, icc_profile=profile)
    page = visit()
    upload(page, photo)
    set_number(page, "#sw-scale", 2.7)
    page.wait_for_selector("#sw-expected :text('432 × 324')")
    set_number(page, "#sw-budget", 50)
    page.click("#sw-go")
    page.wait_for_selector(".sw-view")
    assert "432 × 324" in page.inner_text("#sw-report") and "of the full model" in page.inner_text("#sw-report")

    def style(selector: str, name: str) -> str:
        return page.locator(selector).evaluate(f"e => getComputedStyle(e).{name}")

    before = style(".sw-after", "clipPath")
    slide(page, "cut", 20)
    assert style(".sw-after", "clipPath") != before and "20%" in style(".sw-after", "clipPath")
    assert style(".sw-effort", "opacity") == "0"
    slide(page, "overlay", 0.6)
    assert style(".sw-effort", "opacity") == "0.6"
    width = page.locator(".sw-stage").bounding_box()["width"]
    slide(page, "zoom", 3)
    assert abs(page.locator(".sw-stage").bounding_box()["width"] - 3 * width) < 8
    loaded = page.eval_on_selector_all(".sw-stage img", "all => all.map(e => e.naturalWidth)")
    assert len(loaded) == 3 and all(loaded)
    result = Image.open(io.BytesIO(download(page)))
    assert result.size == (432, 324) and result.format == "PNG" and result.info["icc_profile"] == profile


def test_a_picture_can_be_pasted(visit: Any) -> None:
    page = visit()
    page.evaluate(
        """async () => {
          const canvas = document.createElement('canvas');
          canvas.width = 40; canvas.height = 30;
          const blob = await new Promise((done) => canvas.toBlob(done, 'image/png'));
          const held = new DataTransfer();
          held.items.add(new File([blob], 'pasted.png', {type: 'image/png'}));
          document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: held, bubbles: true}));
        }"""
    )
    page.wait_for_selector("#sw-file :text('pasted')")
    page.wait_for_selector("#sw-expected :text('80 × 60')")


def test_cancel_ends_the_work(visit: Any, tmp_path: Path) -> None:
    photo = tmp_path / "large.png"
    Image.open(PHOTO).resize((2600, 1800)).save(photo)
    page = visit()
    upload(page, photo)
    set_number(page, "#sw-scale", 4)
    set_number(page, "#sw-budget", 100)
    page.click("#sw-go")
    page.wait_for_selector("#sw-status .sw-bar")
    page.click("#sw-stop")
    page.wait_for_selector("#sw-status :text('cancelled')")
    assert page.locator(".sw-view").count() == 0


def test_files_that_are_no_pictures_get_a_sentence(visit: Any, tmp_path: Path) -> None:
    short = tmp_path / "short.png"
    short.write_bytes(b"\x89PNG\r\n\x1a\n1234")
    bomb = tmp_path / "bomber.png"
    bomb.write_bytes(_bomb())
    page = visit()
    for path in (short, bomb):
        upload(page, path)
        page.click("#sw-go")
        page.wait_for_selector(f"#sw-status .sw-error:has-text('{path.name}')")
        said = page.inner_text("#sw-status")
        assert "Traceback" not in said and "/tmp" not in said
        page.locator("#sw-file button[aria-label='Clear']").click()


def _bomb() -> bytes:
    """A PNG whose header promises 2 gigapixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 40_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_two_visitors_do_not_mix(visit: Any, tmp_path: Path) -> None:
    pages = []
    for colour in ((200, 30, 30), (30, 30, 200)):
        path = tmp_path / f"colour{colour[0]}.png"
        Image.new("RGB", (300, 200), colour).save(path)
        page = visit()
        upload(page, path)
        pages.append((page, colour))
    for page, _ in pages:
        page.click("#sw-go")
    for page, colour in pages:
        page.wait_for_selector(".sw-view")
        result = Image.open(io.BytesIO(download(page))).convert("RGB")
        assert all(abs(a - b) <= 2 for a, b in zip(result.getpixel((300, 200)), colour, strict=True))


def test_several_pictures_come_as_one_zip(visit: Any, tmp_path: Path) -> None:
    paths = []
    for index in range(3):
        path = tmp_path / f"many{index}.png"
        Image.new("RGB", (40 + index, 30), (index * 60, 90, 90)).save(path)
        paths.append(str(path))
    page = visit()
    page.get_by_role("tab", name="Several pictures").click()
    page.set_input_files("#sw-many input[type=file]", paths)
    page.wait_for_selector("#sw-many :text('many2')")
    page.click("#sw-go-many")
    page.wait_for_selector("#sw-zip:not([disabled])")
    with page.expect_download() as held:
        page.click("#sw-zip")
    archive = zipfile.ZipFile(held.value.path())
    assert sorted(archive.namelist()) == ["many0_80x60.png", "many1_82x60.png", "many2_84x60.png"]


@pytest.mark.parametrize(("width", "height"), [(1440, 1000), (390, 844)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_can_be_photographed(visit: Any, width: int, height: int, scheme: str) -> None:
    page = visit(viewport={"width": width, "height": height}, color_scheme=scheme, query=f"/?__theme={scheme}")
    upload(page, PHOTO)
    set_number(page, "#sw-scale", 2.7)
    page.click("#sw-go")
    page.wait_for_selector(".sw-view")
    slide(page, "overlay", 0.35)
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out to the right"
    page.wait_for_function("[...document.querySelectorAll('.sw-stage img')].every(e => e.complete)")
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        page.screenshot(path=f"{folder}/app_{width}_{scheme}.png", full_page=width < 600)


def test_the_dials_can_be_reached_by_keyboard(visit: Any) -> None:
    page = visit()
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.closest('[id^=sw-]')?.id || ''"))
    assert {"sw-scale", "sw-budget", "sw-model", "sw-go", "sw-stop"} <= seen
