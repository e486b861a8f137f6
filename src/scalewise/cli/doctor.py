"""`scalewise doctor`: what is installed, what this machine can do, and whether the models load."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from typing import NamedTuple

import typer

from scalewise.cli.format import format_line, memory
from scalewise.errors import ScalewiseError

REQUIRED = ("torch", "numpy", "pyvips", "safetensors", "pillow", "typer", "rich", "psutil")
OPTIONAL = {  # the library → the extra that brings it, or nothing, and what it is for
    "lightning": ("train", "training"),
    "fastapi": ("app", "the web page"),
    "uvicorn": ("app", "the web page"),
    "ray": ("ray", "many machines"),
    "rasterio": ("geo", "maps with coordinates"),
    "spandrel": ("spandrel", "weight files of other projects"),
    "onnx": ("onnx", "ONNX files"),
    "onnxruntime": ("onnx", "ONNX files"),
    "openvino": ("bench", "comparison"),
    "matplotlib": ("", "curves and figures"),
    "pyiqa": ("", "LPIPS, NIQE, BRISQUE, PIQE"),
}
LOADERS = {
    "jpeg": "jpegload",
    "png": "pngload",
    "tiff": "tiffload",
    "webp": "webpload",
    "gif": "gifload",
    "heic": "heifload",
    "avif": "heifload",
}


class Finding(NamedTuple):
    """What was checked, what was found, and whether that is fine."""

    name: str
    value: str
    fine: bool = True


def doctor() -> None:
    """Say what is installed, what this machine can do, and whether the models load; exit code 1 if one does not."""
    findings = list(_findings())
    width = max(len(one.name) for one in findings) + 2
    for one in findings:
        typer.echo(f"{one.name:<{width}}{format_line(one.value)}")
    if broken := [one.name for one in findings if not one.fine]:
        typer.echo(f"scalewise: not in order: {', '.join(broken)}", err=True)
        raise typer.Exit(1)


def _findings() -> Iterator[Finding]:
    yield from _versions()
    yield from _machine()
    yield from _formats()
    yield from _models()
    for name, (extra, purpose) in OPTIONAL.items():
        version = _version(name)
        how = f"; extra {extra}" if extra else ""
        yield Finding(name, version or f"not installed (for {purpose}{how})")
    if _version("spandrel") is not None:
        from scalewise.foreign.torchvision_names import usable

        stand_in = "absent or made for another torch: spandrel gets its three names from scalewise"
        yield Finding("torchvision", "loads" if usable() else stand_in)


def _versions() -> Iterator[Finding]:
    import pyvips

    import scalewise

    yield Finding("scalewise", scalewise.__version__)
    yield Finding("python", f"{platform.python_version()} ({platform.machine()}, {sys.platform})")
    for name in REQUIRED:
        version = _version(name)
        yield Finding(name, version or "not installed", version is not None)
    yield Finding("libvips", ".".join(str(pyvips.version(part)) for part in range(3)))


def _machine() -> Iterator[Finding]:
    import psutil
    import torch

    from scalewise.machine.device import fast_bf16, fast_int8, machine_of, pick_device
    from scalewise.storage import cache_folder

    device = pick_device(None)
    yield Finding("processor", machine_of(torch.device("cpu")))
    if device.type != "cpu":
        yield Finding("device", f"{device} ({machine_of(device)})")
    yield Finding("threads", str(torch.get_num_threads()))
    yield Finding("bf16", "fast here: used by default" if fast_bf16(device) else "slow here: fp32 is used")
    yield Finding(
        "int8", "fast here: --dtype int8" if fast_int8(device) else "not here: it needs a processor with AVX512-VNNI"
    )
    ram = psutil.virtual_memory()
    yield Finding("memory", f"{memory(ram.available)} free of {memory(ram.total)}")
    cache = cache_folder()
    nearest = next(path for path in (cache, *cache.parents) if path.exists())
    writable = os.access(nearest, os.W_OK)
    yield Finding("cache folder", f"{cache} ({'writable' if writable else 'not writable: measured again at each run'})")


def _formats() -> Iterator[Finding]:
    import pyvips

    from scalewise import images

    reads = sorted(name for name, loader in LOADERS.items() if pyvips.type_find("VipsForeignLoad", loader))
    if "heic" in reads and _version("pyvips-binary"):
        reads.remove("heic")  # its libheif opens the container for AVIF, and has no decoder for HEVC
    yield Finding("reads", " ".join(reads), {"jpeg", "png", "tiff", "webp"} <= set(reads))
    yield Finding("writes", " ".join(sorted(images.WRITABLE)))


def _models() -> Iterator[Finding]:
    from scalewise import zoo

    for name, entry in zoo.MODELS.items():
        if entry.needs_weights and entry.weights is None:
            continue
        try:
            loaded = zoo.load(name)
        except (ScalewiseError, OSError) as error:
            yield Finding(f"model {name}", str(error), False)
        else:
            count = sum(p.numel() for p in loaded.model.parameters())  # type: ignore[attr-defined]
            yield Finding(f"model {name}", f"loads, {count:,} parameters")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
