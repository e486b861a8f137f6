"""Encoding beside the work: the same bytes as at once, and nothing left of a run that ends early."""

from __future__ import annotations

import errno
import gc
import os
import random
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import pyvips
from images.containers import profile

from scalewise import images
from scalewise.errors import UnwritableOutput
from scalewise.images import sink as sink_module
from scalewise.images.metadata.metadata import set_blob
from scalewise.images.stream import StreamedCanvas

SIZE, TILE = (70, 51), (16, 20)  # rows and columns of the picture, and of a tile
PROFILE = profile()


@pytest.fixture(autouse=True)
def small_pictures_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "STREAMED_MIN_PIXELS", 0)


def noise(channels: int, dtype: str = "uint8") -> np.ndarray:
    values = np.random.default_rng(0).random((*SIZE, channels), np.float32)
    return values if dtype == "float32" else (values * np.iinfo(dtype).max).astype(dtype)


def encoders() -> int:
    return sum("encoder" in thread.name for thread in threading.enumerate())


def write_tiles(sink: images.Sink, source: images.Source, order: random.Random | None = None) -> None:
    tiles = [(y, x) for y in range(0, SIZE[0], TILE[0]) for x in range(0, SIZE[1], TILE[1])]
    if order is not None:
        order.shuffle(tiles)
    for y, x in tiles:
        box = (y, x, min(y + TILE[0], SIZE[0]), min(x + TILE[1], SIZE[1]))
        sink.write(y, x, source.read(box), source.read_alpha(box))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_canvas_is_read_as_it_is(channels: int, dtype: str) -> None:
    canvas = noise(channels, dtype)
    rows = StreamedCanvas(canvas)
    rows.mark_done(len(canvas))
    read = rows.image()
    assert np.array_equal(np.ndarray(canvas.shape, dtype, read.write_to_memory()), canvas)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize(("channels", "dtype"), [(3, "uint8"), (1, "uint8"), (4, "uint16"), (1, "float32")])
def test_the_bytes_are_those_of_a_picture_encoded_at_once(
    tmp_path: Path, suffix: str, strip: bool, channels: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if suffix == ".jpg" and channels == 4:
        channels = 3
    monkeypatch.setattr("scalewise.images.stream.STRIP_ROWS", 7)
    image = pyvips.Image.new_from_array(noise(channels, dtype)).copy(xres=5, yres=5)
    image = image.copy(interpretation={1: "b-w", 3: "srgb", 4: "rgb16"}[channels])
    if channels == 3:
        set_blob(image, "icc-profile-data", PROFILE)
    image.tiffsave(str(tmp_path / "in.tif"))
    source, how = images.open(tmp_path / "in.tif"), images.Encoding(strip=strip)
    with images.create(tmp_path / f"beside{suffix}", SIZE, source, encoding=how) as sink:
        write_tiles(sink, source)
        assert encoders() == 1
        sink.finish()
    with images.create(tmp_path / f"once{suffix}", SIZE, source, encoding=how) as sink:
        sink.write(0, 0, source.read(), source.read_alpha())
        assert encoders() == 0
        sink.finish()
    assert (tmp_path / f"beside{suffix}").read_bytes() == (tmp_path / f"once{suffix}").read_bytes()


def test_tiles_in_any_order_give_the_same_file(tmp_path: Path) -> None:
    source, files = images.open(noise(3)), []
    for number, order in enumerate((None, random.Random(0), random.Random(1))):
        with images.create(tmp_path / f"{number}.png", SIZE, source) as sink:
            write_tiles(sink, source, order)
            files.append(sink.finish().read_bytes())
    assert files[0] == files[1] == files[2]


def test_pages_are_encoded_beside_too(tmp_path: Path) -> None:
    pages = [pyvips.Image.new_from_array(noise(3) // (1 + k)) for k in range(2)]
    tall = pages[0].join(pages[1], "vertical").copy(interpretation="srgb")
    tall.set_type(pyvips.GValue.gint_type, "page-height", SIZE[0])
    tall.tiffsave(str(tmp_path / "in.tif"))
    with images.create_pages(tmp_path / "out.tif", images.open(tmp_path / "in.tif"), lambda size: size) as writer:
        for page, sink in writer:
            with sink:
                write_tiles(sink, page)
                assert encoders() == 1
                sink.finish()
        writer.finish()
    assert encoders() == 0
    written = images.open(tmp_path / "out.tif")
    for number in range(2):
        assert np.array_equal(written.at(number).fetch((0, 0, *SIZE)), noise(3) // (1 + number))


@pytest.mark.parametrize("whole", [True, False])
def test_a_canvas_goes_with_its_sink(tmp_path: Path, whole: bool) -> None:
    """Not only when Python looks for circles: until then pictures would pile up."""
    gc.disable()
    try:
        source = images.open(noise(3))
        with images.create(tmp_path / "a.png", SIZE, source) as sink:
            canvas = weakref.ref(sink._canvas)  # type: ignore[arg-type]
            write_tiles(sink, source)
            if whole:
                sink.finish()
        assert canvas() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_a_run_that_ends_early_leaves_no_file_and_no_thread(tmp_path: Path, suffix: str) -> None:
    source = images.open(noise(3))
    with pytest.raises(KeyboardInterrupt), images.create(tmp_path / f"a{suffix}", SIZE, source) as sink:
        sink.write(0, 0, source.read((0, 0, 40, SIZE[1])))
        raise KeyboardInterrupt
    forgotten = images.create(tmp_path / f"a{suffix}", SIZE, source)
    forgotten.write(0, 0, source.read((0, 0, 40, SIZE[1])))
    assert encoders() == 1
    del forgotten
    assert encoders() == 0 and list(tmp_path.iterdir()) == []


def test_a_failing_encoder_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        os.write(descriptor, b"half a file")
        raise pyvips.Error("unable to call save", "first line\nsystem error: No space left on device\n")

    monkeypatch.setattr(pyvips.Target, "new_to_descriptor", full)
    source = images.open(noise(3))
    with pytest.raises(UnwritableOutput, match="No space left") as caught:  # noqa: SIM117
        with images.create(tmp_path / "a.png", SIZE, source) as sink:
            write_tiles(sink, source)
            sink.finish()
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == [] and encoders() == 0


def test_metadata_that_cannot_be_put_in_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("scalewise.images.write.write_container", broken)
    source = images.open(noise(3))
    with pytest.raises(UnwritableOutput, match="Input/output error"):  # noqa: SIM117
        with images.create(tmp_path / "a.png", SIZE, source) as sink:
            write_tiles(sink, source)
            sink.finish()
    assert list(tmp_path.iterdir()) == [] and encoders() == 0
