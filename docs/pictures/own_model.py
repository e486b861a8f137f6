"""The picture and the table of docs/your-models.md: one weight file at less than all of its work.

python docs/pictures/own_model.py FILE PHOTO [PHOTO ...]

Each photo is reduced by the file's scale, rounded to 8 bits and enlarged again, in fp32 on one thread. dB are those of
the luma against the photo, without a border as wide as the scale. Seconds are those of the processor; budgets take
turns, and the median counts. The picture shows the first photo.
"""

from __future__ import annotations

import statistics
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

import scalewise
from scalewise.evaluate.metrics import psnr
from scalewise.geometry.resize import imresize

ROOT = Path(__file__).resolve().parent.parent.parent
BUDGETS, SHOWN = (1.0, 0.75, 0.6, 0.5), 0.6
TURNS = 5
CROP = (320, 240)  # width, height of what is shown of the enlarged photo


def pair(path: str, scale: int) -> tuple[np.ndarray, torch.Tensor]:
    """LR (h, w, 3) uint8, and the photo (3, H, W) in [0, 1]."""
    photo = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
    height, width = (n // scale * scale for n in photo.shape[1:])
    hr = photo[:, :height, :width].float() / 255
    lr = (imresize(hr, (height // scale, width // scale)).clamp(0, 1) * 255).round().byte()
    return lr.permute(1, 2, 0).contiguous().numpy(), hr


def measured(model: Any, lr: np.ndarray, hr: torch.Tensor, scale: int) -> dict[float, tuple[Any, float, float]]:
    """By budget: the result, its dB, its seconds."""
    seconds: dict[float, list[float]] = {budget: [] for budget in BUDGETS}
    results = {}
    for turn in range(TURNS + 1):  # the first one warms up
        for budget in BUDGETS:
            began = time.process_time()
            results[budget] = scalewise.upscale(lr, scale, model=model, budget=budget, dtype="fp32", device="cpu")
            if turn:
                seconds[budget].append(time.process_time() - began)
    found = {}
    for budget, result in results.items():
        sr = torch.from_numpy(result.image).permute(2, 0, 1) / 255
        found[budget] = result, psnr(sr, hr, channel="y", shave=scale), statistics.median(seconds[budget])
    return found


def main(weights: str, photos: list[str]) -> None:
    model = scalewise.load(weights, device="cpu")
    scale = round(max(model.model.limits.scales or (4,)))
    found = [measured(model, *pair(path, scale), scale) for path in photos]
    print("| budget | dB | lost | most lost on one | share of the MACs | share of the time |")
    print("|---|---|---|---|---|---|")
    whole = sum(one[1.0][2] for one in found)
    for budget in BUDGETS:
        decibels = [one[budget][1] for one in found]
        losses = [one[1.0][1] - one[budget][1] for one in found]
        macs = statistics.mean(one[budget][0].report.share for one in found)
        spent = sum(one[budget][2] for one in found) / whole
        numbers = f"{statistics.mean(decibels):.3f} | {statistics.mean(losses):.3f} | {max(losses):.3f}"
        print(f"| {budget:.0%} | {numbers} | {macs:.3f} | {spent:.3f} |")
    draw(found[0])


def draw(found: dict[float, tuple[Any, float, float]]) -> None:
    """The effort map and the part of two results that varies most, side by side."""
    (whole, full_db, full_seconds), (part, db, seconds) = found[1.0], found[SHOWN]
    image = Image.fromarray(whole.image)
    corners = product(range(0, image.width - CROP[0] + 1, 80), range(0, image.height - CROP[1] + 1, 80))
    boxes = [(left, top, left + CROP[0], top + CROP[1]) for left, top in corners]
    box = max(boxes, key=lambda box: np.asarray(image.crop(box).convert("L")).std())
    panels = [
        (f"where the work went at {SHOWN:.0%}", Image.fromarray(part.effort_picture().numpy())),
        (f"100%: {full_seconds:.2f} s, {full_db:.2f} dB", image.crop(box)),
        (f"{part.report.share:.0%}: {seconds:.2f} s, {db:.2f} dB", Image.fromarray(part.image).crop(box)),
    ]
    sheet = Image.new("RGB", (3 * CROP[0] + 40, CROP[1] + 40), "white")
    pen = ImageDraw.Draw(sheet)
    for index, (label, panel) in enumerate(panels):
        print(label)
        x = 10 + index * (CROP[0] + 10)
        pen.text((x, 8), label, fill="black")
        if index == 0:
            panel = panel.resize((CROP[0], round(CROP[0] * panel.height / panel.width)), Image.Resampling.LANCZOS)
        sheet.paste(panel.crop((0, 0, CROP[0], min(CROP[1], panel.height))), (x, 30))
    sheet.save(ROOT / "docs" / "images" / "own_model.png", optimize=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2:])
