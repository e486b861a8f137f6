"""The pictures of README, from what `make demo` wrote: `python docs/pictures/montage.py`."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

import scalewise

ROOT = Path(__file__).resolve().parent.parent.parent
BOX = (950, 190, 1450, 690)  # the bird's head, in the enlarged picture


def main() -> None:
    after = Image.open(ROOT / "demo" / "photo_x3.7.png").convert("RGB")
    effort = Image.open(ROOT / "demo" / "effort.png").convert("RGB")
    photo = Image.open(ROOT / "examples" / "photo.jpg")
    before = scalewise.upscale(photo, size=after.size[::-1], model="bicubic").image
    side = BOX[3] - BOX[1]
    wide = round(side * effort.width / effort.height)
    sheet = Image.new("RGB", (2 * side + wide + 16, side), "white")
    sheet.paste(before.crop(BOX), (0, 0))
    sheet.paste(after.crop(BOX), (side + 8, 0))
    sheet.paste(effort.resize((wide, side), Image.Resampling.NEAREST), (2 * side + 16, 0))
    sheet.save(Path(__file__).with_name("before_after_effort.jpg"), quality=90)


if __name__ == "__main__":
    main()
