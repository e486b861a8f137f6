"""What reuse in time saves: MACs, seconds, dB and flicker on clips made from photos, beside frame by frame.

    OMP_NUM_THREADS=1 python benchmarks/reuse.py PHOTO [PHOTO] --frames 48 --size 320x192 [--model fast] [--sheet x.png]

Clips: `screen`, slides with text and a moving cursor; `pan`, a window moving over a photo; `noise`, a still photo that
went through H.264; `cut`, one scene after another. HR frames are made first and reduced by the scale, so dB are known.

Flicker is the mean difference of consecutive outputs in levels: `same` where the inputs with their context are equal,
`other` where they are not; `along`, of a pan, between a frame and the one before it, moved as the window is: what is
left of motion. A sharper picture differs more while it moves, so compare with the same network at all of its work too.
Seconds are those of the processor, over all threads.
"""

from __future__ import annotations

import argparse
import itertools
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from scalewise.budget.budget import Budget
from scalewise.geometry.resize import imresize
from scalewise.pipeline import resolve_model
from scalewise.video.frames import FrameUpscaler, windows
from scalewise.video.still import noise_of

Frames = list[np.ndarray]


def photo(path: Path, height: int, width: int) -> np.ndarray:
    """The middle of a photo, uint8 (h, w, 3)."""
    picture = Image.open(path).convert("RGB")
    factor = max(width / picture.width, height / picture.height)
    picture = picture.resize((max(width, round(picture.width * factor)), max(height, round(picture.height * factor))))
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return np.asarray(picture.crop((left, top, left + width, top + height)))


def screen(image: np.ndarray, count: int) -> Frames:
    """A slide: text on white beside a picture; a cursor moves, and a line of text appears every 16 frames."""
    height, width, _ = image.shape
    slide = Image.new("RGB", (width, height), "white")
    slide.paste(Image.fromarray(image[:, : width // 2]), (width // 2, 0))
    found = []
    for k in range(count):
        frame = slide.copy()
        draw = ImageDraw.Draw(frame)
        for line in range(2 + k // 16):
            draw.text((12, 12 + 26 * line), f"{line + 1}. What does not change is kept", fill="black", font_size=18)
        x, y = 30 + (7 * k) % (width // 2), height // 2 + round(20 * np.sin(k / 5))
        draw.polygon([(x, y), (x, y + 20), (x + 14, y + 14)], fill="black", outline="white")
        found.append(np.asarray(frame))
    return found


def pan(image: np.ndarray, count: int, height: int, width: int, step: int) -> Frames:
    return [np.ascontiguousarray(image[:height, step * k : step * k + width]) for k in range(count)]


def reduced(frames: Frames, scale: int) -> Frames:
    """Antialiased bicubic, 8 bits."""
    found = []
    for frame in frames:
        hr = torch.from_numpy(frame.copy()).permute(2, 0, 1).float() / 255
        lr = imresize(hr, (frame.shape[0] // scale, frame.shape[1] // scale)).clamp(0, 1)
        found.append((lr * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())
    return found


def coded(frames: Frames, crf: int = 28) -> Frames:
    """The same after H.264, as a download would be."""
    import av

    context = av.CodecContext.create("libx264", "w")
    height, width, _ = frames[0].shape
    context.width, context.height, context.pix_fmt, context.options = width, height, "yuv420p", {"crf": str(crf)}
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    packets = [p for frame in frames for p in context.encode(av.VideoFrame.from_ndarray(frame, format="rgb24"))]
    decoder = av.CodecContext.create("h264", "r")
    made = [f for p in [*packets, *context.encode(None)] for f in decoder.decode(p)] + list(decoder.decode(None))
    return [frame.to_ndarray(format="rgb24") for frame in made]


def psnr(a: Frames, b: Frames) -> float:
    error = np.mean([np.mean((x.astype(np.float64) - y) ** 2) for x, y in zip(a, b, strict=True)])
    return float(10 * np.log10(255**2 / max(error, 1e-12)))


def flicker(made: Frames, given: Frames, scale: int, context: int) -> tuple[float, float]:
    """Mean difference of consecutive outputs, where the inputs and their context are equal, and where they are not."""
    same, other = [], []
    for k in range(1, len(made)):
        differ = torch.from_numpy((given[k] != given[k - 1]).any(-1)).float()[None, None]
        near = torch.nn.functional.max_pool2d(differ, 2 * context + 1, 1, context)[0, 0].numpy() > 0
        equal = ~near.repeat(scale, 0).repeat(scale, 1)
        step = np.abs(made[k].astype(np.int16) - made[k - 1]).mean(-1)
        same.append(step[equal])
        other.append(step[~equal])
    means = [float(np.concatenate(part).mean()) if sum(map(len, part)) else 0.0 for part in (same, other)]
    return means[0], means[1]


def along(made: Frames, step: int, border: int) -> float:
    """Mean difference of a frame and the one before it, moved by `step` columns; `border` pixels are left out."""
    inner = (slice(border, -border), slice(border, -border - step))
    differences = [
        np.abs(now[:, :-step].astype(np.int16) - before[:, step:])[inner].mean()
        for before, now in itertools.pairwise(made)
    ]
    return float(np.mean(differences))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--size", default="320x192", help="of the LR frames, width x height")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--model", default="fast")
    parser.add_argument("--budget", type=float, default=0.4, help="a share; 0: none")
    parser.add_argument("--plain", type=int, help="frames that are computed frame by frame; default: all")
    parser.add_argument("--step", type=int, default=2, help="HR pixels that the pan moves by from frame to frame")
    parser.add_argument("--clips", default="screen,pan,noise,cut")
    parser.add_argument("--sheet", type=Path, help="a contact sheet of some outputs, as PNG")
    asked = parser.parse_args()
    width, height = (int(n) * asked.scale for n in asked.size.split("x"))
    first, second = asked.photos[0], asked.photos[-1]
    model = resolve_model(asked.model).model
    context = model.limits.context or max(height, width)
    image, half = photo(first, height, width), asked.frames // 2
    makers = {
        "screen": lambda: screen(image, asked.frames),
        "pan": lambda: pan(
            photo(first, height, width + asked.step * asked.frames), asked.frames, height, width, asked.step
        ),
        "noise": lambda: [image] * asked.frames,
        "cut": lambda: screen(image, half) + screen(photo(second, height, width), asked.frames - half),
    }
    print(
        f"{'clip':7} {'how':22} {'MACs':>7} {'kept':>6} {'s/frame':>8} {'PSNR':>7} {'flicker same':>13} {'other':>6} "
        f"{'along':>6}"
    )
    rows = []

    def moved(name: str, made: Frames) -> str:
        return f"{along(made, asked.step, 16 * asked.scale):6.3f}" if name == "pan" else ""

    for name in asked.clips.split(","):
        hr = makers[name]()
        lr = reduced(hr, asked.scale)
        if name == "noise":
            lr = coded(lr)
        still = noise_of(lr[:24])
        ways = [("frame by frame", -1.0, 1.0), (f"kept, still {still:g}", still, 1.0)]
        if asked.budget:
            ways += [(f"frame by frame, {asked.budget:.0%}", -1.0, asked.budget)]
            ways += [(f"kept, {asked.budget:.0%}", still, asked.budget)]
        made: Frames = []
        for how, level, budget in ways:
            upscaler = FrameUpscaler(model, lr[0], (height, width), budget=Budget.fraction(budget), still=level)
            given = lr if level >= 0 else lr[: asked.plain]
            began = time.process_time()
            made = [
                enlarged.pixels.copy()
                for window in windows(given, upscaler.window_frames)
                for enlarged in upscaler.render(window)
            ]
            seconds, spent = (time.process_time() - began) / len(given), upscaler.spent
            same, other = flicker(made, given, asked.scale, context)
            print(
                f"{name:7} {how:22} {spent.macs / max(1, spent.macs_full):7.1%} {spent.reused / spent.patches:6.1%} "
                f"{seconds:8.3f} {psnr(made, hr[: len(given)]):7.3f} {same:13.4f} {other:6.3f} "
                f"{moved(name, made)}",
                flush=True,
            )
        base = [
            (imresize(torch.from_numpy(f).permute(2, 0, 1).float() / 255, (height, width)).clamp(0, 1) * 255)
            .round()
            .to(torch.uint8)
            .permute(1, 2, 0)
            .numpy()
            for f in lr
        ]
        same, other = flicker(base, lr, asked.scale, context)
        print(
            f"{name:7} {'bicubic':22} {'':7} {'':6} {'':8} {psnr(base, hr):7.3f} {same:13.4f} {other:6.3f} "
            f"{moved(name, base)}",
            flush=True,
        )
        same, other = flicker(hr, lr, asked.scale, context)
        print(f"{name:7} {'HR':22} {'':7} {'':6} {'':8} {'':7} {same:13.4f} {other:6.3f}", flush=True)
        rows.append(np.concatenate([base[len(base) // 2], made[len(made) // 2], hr[len(hr) // 2]], 1))
    if asked.sheet is not None:
        Image.fromarray(np.concatenate(rows)).save(asked.sheet)
        print(f"bicubic | kept | HR: {asked.sheet}")


if __name__ == "__main__":
    main()
