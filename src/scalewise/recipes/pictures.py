"""Pictures to train on besides photos: the photos reduced further, and rendered pages of text, drawings and maps.

    python -m scalewise.recipes.pictures DIR [DIR …] --fonts DIR --out DIR

Every photo of DIR is linked and, reduced by a factor from 1.25 to 2, written again: sharper from pixel to pixel, at
another size of the same things. Pages are drawn with the fonts given (free ones, as DejaVu), so that the network meets
letters, thin lines and flat colour, which photos hardly have. Seeded: the same pictures each time of the same photos.
"""

from __future__ import annotations

import argparse
import math
import os
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from scalewise.data.decode import decode, find
from scalewise.errors import DataError, ScalewiseError, UnwritableOutput
from scalewise.storage import atomic_write

PAGE = (1600, 1200)
TEXT = (
    "light river stone the of and a measure window scale between paper north grain field 12 3.7 2026 copper quiet "
    "engine harbour under signal line paint every letter small map contour Garden Summer Road No. 48 km/h total sum"
)
WORDS = TEXT.split()


def page(fonts: Sequence[Path], draw_from: random.Random) -> Image.Image:
    """Lines of text in several sizes; some dark on light, some coloured, some light on dark."""
    dark = draw_from.random() < 0.3
    paper, ink = ((_shade(draw_from, *ends)) for ends in (((0, 60), (190, 255)) if dark else ((215, 255), (0, 90))))
    picture = Image.new("RGB", PAGE, paper)
    pen = ImageDraw.Draw(picture)
    columns = draw_from.choice((1, 2, 3))
    width = PAGE[0] // columns
    for column in range(columns):
        y = draw_from.randrange(8, 40)
        while y < PAGE[1] - 20:
            size = draw_from.choice((11, 13, 15, 18, 22, 30, 44))
            font = ImageFont.truetype(str(draw_from.choice(fonts)), size)
            text = " ".join(draw_from.choice(WORDS) for _ in range(40))
            while pen.textlength(text, font=font) > width - 30:
                text = text.rsplit(" ", 1)[0] if " " in text else text[:-1]
            colour = ink if draw_from.random() < 0.8 else _shade(draw_from, 0, 255)
            pen.text((column * width + 12, y), text, font=font, fill=colour)
            y += round(size * draw_from.uniform(1.15, 1.6))
    return picture


def drawing(fonts: Sequence[Path], draw_from: random.Random) -> Image.Image:
    """Line art: polygons, arcs, grids, hatching and contour lines at twice the size, reduced, with labels."""
    big = (PAGE[0] * 2, PAGE[1] * 2)
    picture = Image.new("RGB", big, _shade(draw_from, 170, 255))
    pen = ImageDraw.Draw(picture)

    def spot() -> tuple[int, int]:
        return draw_from.randrange(big[0]), draw_from.randrange(big[1])

    for _ in range(60):
        centre, count, radius = spot(), draw_from.randrange(3, 9), draw_from.randrange(20, 420)
        turn = draw_from.uniform(0, math.tau)
        corners = [
            (
                centre[0] + radius * draw_from.uniform(0.6, 1) * math.cos(turn + math.tau * k / count),
                centre[1] + radius * draw_from.uniform(0.6, 1) * math.sin(turn + math.tau * k / count),
            )
            for k in range(count)
        ]
        fill = _shade(draw_from, 60, 255) if draw_from.random() < 0.5 else None
        pen.polygon(corners, fill=fill, outline=_shade(draw_from, 0, 120), width=draw_from.randrange(1, 9))
    for _ in range(10):  # hatching and grids
        x, y, step = *spot(), draw_from.choice((5, 7, 9, 12, 16, 24))
        ink, slope = _shade(draw_from, 0, 140), draw_from.choice((0.0, 0.3, 1.0, -0.7))
        for k in range(draw_from.randrange(12, 60)):
            pen.line((x + k * step, y, x + k * step + slope * 400, y + 400), fill=ink, width=draw_from.randrange(1, 5))
    for _ in range(14):  # contours: one wave after another around a summit
        centre, ink = spot(), _shade(draw_from, 20, 150)
        bumps = [(draw_from.uniform(0, 0.2), draw_from.uniform(0, math.tau)) for _ in range(5)]
        for ring in range(draw_from.randrange(4, 16)):
            line = []
            for k in range(181):
                angle = math.tau * k / 180
                wave = 1 + sum(size * math.sin((n + 1) * angle + phase) for n, (size, phase) in enumerate(bumps))
                reach = (ring + 1) * 26 * wave
                line.append((centre[0] + reach * math.cos(angle), centre[1] + reach * math.sin(angle)))
            pen.line(line, fill=ink, width=draw_from.choice((2, 2, 3, 5)), joint="curve")
    for _ in range(60):
        font = ImageFont.truetype(str(draw_from.choice(fonts)), draw_from.choice((22, 28, 36, 60)))
        pen.text(spot(), " ".join(draw_from.sample(WORDS, 2)), font=font, fill=_shade(draw_from, 0, 100))
    return picture.resize(PAGE, Image.Resampling.BOX)


def _shade(draw_from: random.Random, low: int, high: int) -> tuple[int, int, int]:
    if draw_from.random() < 0.5:
        grey = draw_from.randint(low, high)
        return grey, grey, grey
    return draw_from.randint(low, high), draw_from.randint(low, high), draw_from.randint(low, high)


def write(folders: Sequence[Path], fonts: Path, pages: int, out: Path) -> None:
    """Link the photos, and write them reduced, and pages. Raises DataError if a folder has no picture or one is bad, if
    two have one name, or if there are no fonts or bad ones; UnwritableOutput if `out` cannot be made or written."""
    faces = sorted(path for path in fonts.glob("DejaVu*.ttf") if "Display" not in path.name)
    if pages and not faces:
        raise DataError(f"no DejaVu*.ttf in {str(fonts)!r}: give a folder that has them")
    for face in faces:
        try:
            ImageFont.truetype(str(face), 11)
        except OSError as error:
            raise DataError(f"{str(face)!r} is no font: {error}") from error
    photos = sorted(path for folder in folders for path in find(folder))
    taken: set[str] = set()
    for photo in photos:
        if photo.stem in taken:
            raise DataError(f"two photos are called {photo.stem!r}: rename one, as the second would take its place")
        taken.add(photo.stem)
    draw_from = random.Random(1)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for photo in photos:
            if not os.path.lexists(link := out / photo.name):
                link.symlink_to(photo.resolve())
    except OSError as error:
        raise UnwritableOutput(f"cannot make {str(out)!r}: {error.strerror or error}") from error
    for photo in photos:
        whole = Image.fromarray(decode(photo).permute(1, 2, 0).numpy())
        factor = draw_from.uniform(1.25, 2)
        small = (round(whole.width / factor), round(whole.height / factor))
        if min(small) >= 260:
            save_png(whole.resize(small, Image.Resampling.LANCZOS), out / f"{photo.stem}_reduced.png")
    for number in range(pages):
        save_png((page if number % 2 else drawing)(faces, draw_from), out / f"page_{number:02d}.png")


def save_png(picture: Image.Image, path: Path) -> None:
    """Whole or not at all. Raises UnwritableOutput."""
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG", compress_level=1)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--fonts", type=Path, required=True, help="a folder of .ttf files")
    parser.add_argument("--pages", type=int, default=24, help="pages and drawings, half of each")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        write(given.photos, given.fonts, given.pages, given.out)
    except ScalewiseError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
