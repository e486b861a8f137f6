"""A Gradio demo in a few lines, for those who host one: pip install gradio, python examples/space.py.

The package's own page is `scalewise app`; this one shows how to put scalewise behind another's interface.
"""

from __future__ import annotations

import gradio
from PIL import Image

import scalewise

MOST = 8_000_000  # pixels of a result, for a small machine


def enlarge(picture: Image.Image | None, scale: float, budget: float) -> tuple[Image.Image, str]:
    if picture is None:
        raise gradio.Error("choose a picture first")
    if picture.width * picture.height * scale**2 > MOST:
        raise gradio.Error(f"the result may have at most {MOST // 10**6} megapixels: choose a smaller factor")
    try:
        done = scalewise.upscale(picture, scale, budget=budget / 100)
    except scalewise.ScalewiseError as error:
        raise gradio.Error(str(error)) from None
    return done.image, f"{done.report.share:.0%} of the full work, {done.report.seconds:.1f} s"


sliders = [gradio.Slider(1, 8, 2, label="Factor"), gradio.Slider(5, 100, 100, label="Effort, %")]
demo = gradio.Interface(
    enlarge, [gradio.Image(type="pil"), *sliders], [gradio.Image(), gradio.Text()], title="scalewise"
)

if __name__ == "__main__":
    demo.launch()
