"""Spoiled files by the thousand, tried in child processes: `python tests/fuzzing.py --count 20000 --seed 1`.

Each input is a valid picture or weight file with bytes changed, in a way that its number and the seed decide. What is
looked for: a crash, anything but our own errors, more than 10 seconds, a file left behind, and code that ran. A child
says which input it is at, so that one that dies or hangs is known by its number, and the next child goes on behind it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import queue
import random
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIMIT = 10.0  # seconds for one input
START = 120.0  # seconds for a child to import and make its seeds
_NASTY = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE)
_MOST_PIXELS = 2**20  # of a spoiled picture that happens to be large, only a corner is enlarged


# Seeds: valid files, made from nothing but a fixed generator.


def picture_seeds() -> dict[str, bytes]:
    import numpy as np
    import tifffile
    from PIL import Image, ImageCms, PngImagePlugin

    noise = np.random.default_rng(0)
    y, x = np.mgrid[0:24, 0:20]
    rgb = np.stack([y * 9, x * 11, (x * y) % 256], -1).astype(np.uint8)
    rgba = np.dstack([rgb, noise.integers(0, 256, (24, 20), dtype=np.uint8)])
    gray16 = noise.integers(0, 65536, (24, 20), dtype=np.uint16)
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif.get_ifd(0x8769)[0xA002] = 20
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" tiff:ImageWidth="20" GPano:FullPanoWidthPixels="20"/></rdf:RDF></x:xmpmeta>'
    )
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "tree")
    texts.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
    seeds: dict[str, bytes] = {}

    def put(name: str, image: Image.Image, format: str, **options: Any) -> None:
        out = io.BytesIO()
        image.save(out, format, **options)
        seeds[name] = out.getvalue()

    colour, see_through = Image.fromarray(rgb), Image.fromarray(rgba)
    put("rgb.png", colour, "png", exif=exif, icc_profile=icc, pnginfo=texts, dpi=(300, 300))
    put("rgba.png", see_through, "png")
    put("16.png", Image.fromarray(gray16), "png")
    put("palette.png", colour.convert("P"), "png", transparency=3)
    put("1.png", colour.convert("1"), "png")
    put("apng.png", colour, "png", save_all=True, append_images=[colour])
    put("rgb.jpg", colour, "jpeg", exif=exif, icc_profile=icc, xmp=xmp)
    put("progressive.jpg", colour, "jpeg", progressive=True, subsampling=2)
    put("cmyk.jpg", colour.convert("CMYK"), "jpeg")
    put("gray.jpg", colour.convert("L"), "jpeg")
    put("lossy.webp", colour, "webp", exif=exif, xmp=xmp, icc_profile=icc)
    put("lossless.webp", see_through, "webp", lossless=True)
    put("frames.webp", colour, "webp", save_all=True, append_images=[see_through, colour], duration=50)
    put("rgb.gif", colour, "gif")
    turned = colour.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    put("frames.gif", colour, "gif", save_all=True, append_images=[turned, colour], duration=50)
    put("rgb.avif", colour, "avif", exif=exif)
    put("rgba.avif", see_through, "avif")
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        put(f"{compression}.tif", colour, "tiff", compression=compression, exif=exif)
    put("group4.tif", colour.convert("1"), "tiff", compression="group4")
    put("pages.tif", colour, "tiff", save_all=True, append_images=[see_through, Image.fromarray(gray16)])
    tiffs: list[tuple[str, np.ndarray, dict[str, Any]]] = [
        ("float.tif", rgb.astype(np.float32) / 9 - 3, {"photometric": "rgb"}),
        ("tiled.tif", rgb, {"photometric": "rgb", "tile": (16, 16)}),
        ("big.tif", gray16, {"bigtiff": True, "byteorder": ">"}),
    ]
    for name, array, options in tiffs:
        out = io.BytesIO()
        tifffile.imwrite(out, array, **options)
        seeds[name] = out.getvalue()
    for path in sorted((Path(__file__).parent / "images" / "data").iterdir()):
        if path.suffix != ".xml" and "zeros" not in path.name:  # those are no whole pictures
            seeds[path.name] = path.read_bytes()
    return seeds


class _Touch:
    """Unpickled by a trusting reader, it makes a file."""

    def __init__(self, sentinel: str) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> Any:
        return open, (self.sentinel, "w")


def weight_seeds(folder: Path, sentinel: Path) -> dict[str, bytes]:
    import torch

    from scalewise.checkpoints.files import write_safetensors
    from scalewise.checkpoints.spec import Pair, spec, tail
    from scalewise.encoders.edsr import EDSR
    from scalewise.training.state import write_state
    from scalewise.upsamplers.liif import LIIF

    torch.manual_seed(0)
    tensors = {"head.weight": torch.rand(4, 3, 3, 3), "head.bias": torch.rand(4), "tail.weight": torch.rand(3, 4, 3, 3)}
    write_safetensors(folder / "a.safetensors", tensors, {"network": "x", "scales": [2]}, True)
    seeds = {"plain.safetensors": (folder / "a.safetensors").read_bytes()}
    network = Pair(spec(EDSR, channels=4, blocks=1), tail(LIIF, hidden=(4,)))
    model = network.build()
    network.save(model, folder / "n.safetensors", {"licence": "none"})
    seeds["native.safetensors"] = (folder / "n.safetensors").read_bytes()
    tensors = model.state_dict()
    torch.save({"params": tensors, "iteration": 3}, folder / "z.pth")
    seeds["zip.pth"] = (folder / "z.pth").read_bytes()
    torch.save({"params_ema": tensors}, folder / "l.pth", _use_new_zipfile_serialization=False)
    seeds["legacy.pth"] = (folder / "l.pth").read_bytes()
    seeds["evil.pth"] = pickle.dumps({"params": _Touch(str(sentinel))}, 2)
    torch.save({"params": tensors, "more": _Touch(str(sentinel))}, folder / "e.pth")
    seeds["evilzip.pth"] = (folder / "e.pth").read_bytes()
    write_state(folder, {"model": tensors, "step": 7, "random": torch.get_rng_state()})
    seeds["last.ckpt"] = (folder / "last.ckpt").read_bytes()
    torch.save({"format": 1, "more": _Touch(str(sentinel))}, folder / "s.ckpt")
    seeds["evil.ckpt"] = (folder / "s.ckpt").read_bytes()
    return seeds


# Spoiling.


def spoiled(content: bytes, name: str, others: list[bytes], rng: random.Random) -> bytes:
    """`content` with one to six changes; sometimes with the sums mended that would give a change away."""
    inner = None
    if name.endswith((".pth", ".ckpt")) and content[:2] == b"PK" and rng.random() < 0.5:
        inner = _records(content)
    if inner:
        key = rng.choice(list(inner)) if rng.random() < 0.3 else next(k for k in inner if k.endswith("data.pkl"))
        inner[key] = _changed(inner[key], others, rng)
        return _archive(inner)
    content = _changed(content, others, rng)
    if name.endswith(".png") and rng.random() < 0.7:
        content = _with_sums(content)
    if name.endswith(".safetensors") and rng.random() < 0.5:
        content = _with_length(content, rng)
    return content


def _changed(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if not data:
            data = bytearray(b"\0")
        # Headers matter most.
        at = rng.randrange(min(len(data), 96)) if rng.random() < 0.4 else rng.randrange(len(data))
        match rng.randrange(9):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.randrange(256)
            case 2:
                size = rng.choice((1, 2, 4, 8))
                value = rng.choice(_NASTY) & (256**size - 1)
                data[at : at + size] = value.to_bytes(size, rng.choice(("big", "little")))  # type: ignore[arg-type]
            case 3:
                del data[at:]
            case 4:
                del data[at : at + rng.randrange(1, 64)]
            case 5:
                data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 64)))
            case 6:
                other = rng.choice(others)
                start = rng.randrange(len(other))
                data[at : at + rng.randrange(64)] = other[start : start + rng.randrange(1, 256)]
            case 7:
                piece = data[at : at + rng.randrange(1, 128)]
                data[at:at] = piece * rng.choice((1, 2, 50))
            case 8:
                end = at + rng.randrange(1, 32)
                data[at:end] = bytes([rng.choice((0, 255, 0x80))]) * (min(end, len(data)) - at)
    return bytes(data)


def _with_sums(content: bytes) -> bytes:
    """A PNG whose chunks have the right sums again, as far as they can be followed."""
    out, at = bytearray(content[:8]), 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4])
        if at + 12 + length > len(content):
            break
        body = content[at + 4 : at + 8 + length]
        out += content[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out + content[at:])


def _with_length(content: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header has the length that it says."""
    end = content.rfind(b"}}") + 2
    if end < 10:
        return content
    header = content[8:end] + b" " * rng.randrange(8)
    return struct.pack("<Q", len(header)) + header + content[end:]


def _records(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def _archive(records: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return out.getvalue()


# Trying, in a child.


def try_picture(path: Path, out: Path, rng: random.Random) -> None:
    """The way of a picture, without a network: open, every page, write, encode."""
    from scalewise import images

    source = images.open(path)
    if source.size[0] * source.size[1] * source.pages > _MOST_PIXELS:
        source.read((0, 0, min(16, source.size[0]), min(16, source.size[1])), bled=True)
        return
    suffix = rng.choice([".png", ".tif", ".webp", ".jpg", ".gif"]) if rng.random() < 0.5 else path.suffix
    encoding = images.Encoding(note="a note", dpi="scale", strip=rng.random() < 0.1)
    writer = images.create_pages(out / f"o{suffix}", source, lambda size: (2 * size[0], 2 * size[1]), encoding=encoding)
    with writer:
        for page, sink in writer:
            colour, alpha = page.read(bled=True), page.read_alpha()
            sink.write(0, 0, doubled(colour), None if alpha is None else doubled(alpha))
            sink.finish()
        writer.finish()


def doubled(pixels: Any) -> Any:
    return pixels.repeat_interleave(2, 1).repeat_interleave(2, 2)


def try_weights(path: Path, out: Path, rng: random.Random) -> None:
    from scalewise import compat
    from scalewise.training.state import read_state

    if path.suffix == ".ckpt":
        read_state(path.parent)
    else:
        compat.load(path)


def child(start: int, stop: int, seed: int, folder: Path) -> None:
    """Try inputs start to stop - 1; a line of JSON on stdout before and after each."""
    warnings.simplefilter("ignore")
    import torch

    from scalewise.errors import ScalewiseError

    torch.set_num_threads(1)
    sentinel, out = folder / "code-was-run", folder / "out"
    out.mkdir(exist_ok=True)
    seeds: list[tuple[str, bytes, Callable[[Path, Path, random.Random], None]]] = []
    seeds += [(name, content, try_picture) for name, content in picture_seeds().items()]
    made = folder / "made"
    made.mkdir(exist_ok=True)
    weights = [(name, content, try_weights) for name, content in weight_seeds(made, sentinel).items()]
    seeds += weights * 2
    others = [content for _, content, _ in seeds]

    def say(**words: Any) -> None:
        print(json.dumps(words), flush=True)

    say(ready=len(seeds))
    for number in range(start, stop):
        rng = random.Random(f"{seed}/{number}")
        name, content, attempt = seeds[number % len(seeds)]
        path = folder / ("last.ckpt" if name.endswith(".ckpt") else f"in{Path(name).suffix}")
        path.write_bytes(spoiled(content, name, others, rng))
        say(at=number, name=name)
        began, answer, wrong = time.perf_counter(), "accepted", ""
        try:
            attempt(path, out, rng)
        except ScalewiseError as error:
            answer = "refused"
            if "\n" in str(error):
                wrong = f"an error of several lines: {error!s}"
            if any(out.iterdir()):
                wrong = f"left behind after an error: {[entry.name for entry in out.iterdir()]}"
        except Exception:
            wrong = traceback.format_exc(limit=-4)
        if any(entry.name.startswith(".") for entry in out.iterdir()):
            wrong = f"a temporary file stays: {[entry.name for entry in out.iterdir()]}"
        for entry in out.iterdir():
            entry.unlink()
        if sentinel.exists():
            wrong = "code was run"
            sentinel.unlink()
        say(done=number, name=name, answer=answer, wrong=wrong, seconds=time.perf_counter() - began)


# Watching, in the parent.


@dataclass
class Outcome:
    """What became of all inputs; `wrong` has (number, seed name, what); `again` those that were late once."""

    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[int, str, str]] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    slowest: tuple[float, int, str] = (0.0, -1, "")


def run(count: int, seed: int = 0, first: int = 0, report: Callable[[str], None] | None = None) -> Outcome:
    """Try inputs first to first + count - 1; children that die or hang are replaced.

    One that is late is tried once more in a new child, since a busy machine may have been late, and not the input.
    """
    outcome, number, stop = Outcome(), first, first + count
    with tempfile.TemporaryDirectory() as folder:
        while number < stop:
            number = _watch(number, stop, seed, Path(folder), outcome, report)
    return outcome


def _watch(
    start: int, stop: int, seed: int, folder: Path, outcome: Outcome, report: Callable[[str], None] | None
) -> int:
    """One child, until it ends; the number to go on with."""
    source = Path(__file__).resolve().parent.parent / "src"
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "VIPS_WARNING": "0"}
    command = [sys.executable, __file__, "--child", str(start), str(stop), str(seed), str(folder)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, errors="replace"
    )
    lines: queue.Queue[str] = queue.Queue()
    assert process.stdout is not None
    pipe = process.stdout

    def pump() -> None:
        for line in pipe:
            lines.put(line)
        lines.put("")

    threading.Thread(target=pump, daemon=True).start()
    number, name, limit, why = start, "", START, ""
    while True:
        try:
            line = lines.get(timeout=limit)
        except queue.Empty:
            process.kill()
            why = f"no answer in {limit:g} s, twice"
            if name and number not in outcome.again:
                process.wait()
                outcome.again.append(number)
                if report:
                    report(f"{number} {name}: no answer in {limit:g} s, tried again")
                return number
            break
        if not line:
            code = process.wait()
            why = "" if code == 0 else f"the process died with code {code}"
            break
        words = json.loads(line)
        if "ready" in words:
            limit = LIMIT
        elif "at" in words:
            number, name = words["at"], words["name"]
        elif "done" in words:
            outcome.answers[words["answer"]] += not words["wrong"]
            outcome.slowest = max(outcome.slowest, (words["seconds"], words["done"], words["name"]))
            if words["wrong"]:
                outcome.wrong.append((words["done"], words["name"], words["wrong"]))
                if report:
                    report(f"{words['done']} {words['name']}: {words['wrong']}")
            number, name = words["done"] + 1, ""
            if report and number % 1000 == 0:
                report(f"{number}: {dict(outcome.answers)}, {len(outcome.wrong)} wrong")
    process.wait()
    if why:
        assert name, f"a child did not start: {why}"
        outcome.wrong.append((number, name, why))
        if report:
            report(f"{number} {name}: {why}")
        return number + 1
    return stop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        start, stop, seed = (int(word) for word in options.child[:3])
        child(start, stop, seed, Path(options.child[3]))
        return
    outcome = run(options.count, options.seed, options.first, lambda line: print(line, flush=True))
    print(f"{options.count} inputs: {dict(outcome.answers)}; slowest {outcome.slowest[0]:.2f} s ({outcome.slowest[2]})")
    print(f"{len(outcome.wrong)} wrong, {len(outcome.again)} late once")
    sys.exit(bool(outcome.wrong))


if __name__ == "__main__":
    main()
