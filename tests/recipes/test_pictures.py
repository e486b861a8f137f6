"""Rendered pages: seeded, with letters and lines; photos are linked and reduced."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

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


def test_the_command_links_photos_reduces_them_and_adds_pages(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    (tmp_path / "fonts").mkdir()
    (tmp_path / "fonts" / "DejaVuSans.ttf").touch()
    for name, size in (("large.jpg", (600, 560)), ("small.jpg", (300, 280))):
        Image.new("RGB", size, (90, 80, 70)).save(photos / name)
    pictures.main([str(photos), "--fonts", str(tmp_path / "fonts"), "--pages", "1", "--out", str(out)])
    assert {path.name for path in out.iterdir()} == {"large.jpg", "large_reduced.png", "small.jpg", "page_00.png"}
    assert 300 <= Image.open(out / "large_reduced.png").width <= 480
