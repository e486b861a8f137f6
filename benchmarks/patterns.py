"""Pictures that are hard to compute in few bits: how far each number type is from fp32, ×4.

    python benchmarks/patterns.py [-n fast quality] [--dtype bf16 int8]

Text, noise, a slow gradient, stripes and a checkerboard of single pixels, all drawn here. `shift` is the mean
difference, in levels of 255.
"""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from scalewise import upscale

SIDE = 96
LINES = 8


def text() -> np.ndarray:
    page = Image.new("RGB", (2 * SIDE, SIDE), "white")
    for line in range(LINES):
        ImageDraw.Draw(page).text((4, line * SIDE / LINES), "The quick brown fox jumps, 0123", fill="black")
    return np.asarray(page)


def patterns() -> dict[str, np.ndarray]:
    """uint8 (h, w, 3) each."""
    y, x = np.mgrid[:SIDE, :SIDE]
    gray = {"gradient": 100 + 80 * y // SIDE, "stripes": x % 2 * 255, "checkerboard": (x + y) % 2 * 255}
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return {
        "text": text(),
        "noise": noise,
        **{name: np.repeat(levels.astype(np.uint8)[..., None], 3, 2) for name, levels in gray.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("-n", "--models", nargs="+", default=["fast", "quality"])
    parser.add_argument("--dtype", nargs="+", default=["bf16", "int8"], choices=["bf16", "int8"])
    asked = parser.parse_args()
    table = Table("network", "picture", "type", "dB to fp32", "largest", "shift")
    for model in asked.models:
        for name, picture in patterns().items():
            exact = upscale(picture, 4, model=model, dtype="fp32", device="cpu").image.astype(float)
            for dtype in asked.dtype:
                error = upscale(picture, 4, model=model, dtype=dtype, device="cpu").image - exact
                decibel = 10 * np.log10(255**2 / max(np.square(error).mean(), 1e-9))
                table.add_row(
                    model, name, dtype, f"{decibel:.1f}", f"{np.abs(error).max():.0f}", f"{error.mean():+.2f}"
                )
    Console(width=90).print(table)


if __name__ == "__main__":
    main()
