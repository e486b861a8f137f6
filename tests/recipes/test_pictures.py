"""Rendered pages: seeded, with letters and lines; photos are linked and reduced."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from scalewise.errors import UnwritableOutput
from scalewise.recipes import pictures


@pytest.fixture(autouse=True)
def pillows_font(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's own font, for the machine may have no DejaVu."""
    fonts = {size: ImageFont.load_default(size) for size in (11, 13, 15, 18, 22, 28, 30, 36, 44, 60)}
    monkeypatch.setattr(pictures.ImageFont, "truetype", lambda path, size: fonts[size])


@pytest.mark.parametrize("make", [pictures.page, pictures.drawing])
def test_pages_are_seeded_and_have_edges(make: Callable[[Sequence[Path], random.Random], Image.Image]) -> None:
    first, again, other = (np.asarray(make([Path("any.ttf")], random.Random(seed))) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.shape == (1200, 1600, 3) and float(np.abs(np.diff(first.astype(int), axis=1)).mean()) > 0.5


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    (tmp_path / "fonts").mkdir()
    (tmp_path / "fonts" / "DejaVuSans.ttf").touch()
    for name, size in (("large.jpg", (600, 560)), ("small.png", (300, 280))):
        Image.new("RGB", size, (90, 80, 70)).save(folder / name)
    return folder


def test_the_command_links_photos_reduces_them_and_adds_pages(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pictures.main([str(photos), "--fonts", str(tmp_path / "fonts"), "--pages", "1", "--out", str(out)])
    assert {path.name for path in out.iterdir()} == {"large.jpg", "large_reduced.png", "small.png", "page_00.png"}
    assert 300 <= Image.open(out / "large_reduced.png").width <= 480


@pytest.mark.parametrize("kind", ["no fonts", "bad font", "no photos", "bad photo", "one name", "taken"])
def test_what_cannot_be_read_or_made_is_refused(
    photos: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fonts, out, why = tmp_path / "fonts", tmp_path / "out", kind
    if kind == "no fonts":
        fonts, why = photos, "no DejaVu"
    elif kind == "bad font":
        monkeypatch.undo()
        (fonts / "DejaVuSans.ttf").rename(fonts / "DejaVuNone.ttf")  # Pillow looks for others of a known name
        why = "DejaVuNone.ttf' is no font"
    elif kind == "one name":
        Image.new("RGB", (8, 8)).save(photos / "large.webp")
        why = "two photos are called 'large'"
    elif kind == "no photos":
        photos, why = tmp_path / "fonts", "no pictures in"
    elif kind == "bad photo":
        (photos / "broken.jpg").write_bytes(b"not a picture")
        why = "broken.jpg"
    else:
        out.write_text("a file")
        why = "cannot make"
    with pytest.raises(SystemExit):
        pictures.main([str(photos), "--fonts", str(fonts), "--pages", "1", "--out", str(out)])
    assert why in capsys.readouterr().err


def test_a_full_disk_leaves_no_part_of_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Image.Image, path: Path, **options: object) -> None:
        path.write_bytes(b"part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(UnwritableOutput, match="free some space"):
        pictures.save_png(Image.new("RGB", (8, 8)), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
