"""The picture of docs/your-models.md: one weight file at 100% and at 60% of its work.

python docs/pictures/own_model.py disp_x4.pth

The photo of examples/ is enlarged by 4, on one thread. The dB say how near 60% comes to 100%, in luma.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from PIL import Image, ImageDraw

import scalewise
from scalewise.evaluate.metrics import psnr

ROOT = Path(__file__).resolve().parent.parent.parent
CROP = (1040, 260, 1360, 500)  # left, top, right, bottom in the enlarged photo


def main(weights: str) -> None:
    photo = ROOT / "examples" / "photo.jpg"
    scalewise.upscale(photo, 4, model=weights, budget=0.6)  # loads and measures
    results = []
    for budget in (1.0, 0.6):
        began = time.perf_counter()
        results.append((scalewise.upscale(photo, 4, model=weights, budget=budget), time.perf_counter() - began))
    (whole, seconds), (part, less) = results
    pixels = [torch.from_numpy(done.image).permute(2, 0, 1) / 255 for done in (whole, part)]
    near = f"{psnr(pixels[1], pixels[0], channel='y'):.1f} dB from 100%"
    panels = [
        ("where the work went at 60%", Image.fromarray(part.effort_picture().numpy())),
        (f"100% of the work: {seconds:.2f} s", Image.fromarray(whole.image).crop(CROP)),
        (f"{part.report.share:.0%}: {less:.2f} s, {near}", Image.fromarray(part.image).crop(CROP)),
    ]
    width, height = CROP[2] - CROP[0], CROP[3] - CROP[1]
    sheet = Image.new("RGB", (3 * width + 40, height + 40), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (label, panel) in enumerate(panels):
        print(label)
        draw.text((10 + index * (width + 10), 8), label, fill="black")
        panel.thumbnail((width, height))
        sheet.paste(panel, (10 + index * (width + 10), 30))
    sheet.save(ROOT / "docs" / "images" / "own_model.png", optimize=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
