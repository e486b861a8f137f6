"""Small clips for tests, made by PyAV: a recorded screen, a pan over a texture, noise, a cut; sound and subtitles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from scalewise.geometry.resize import imresize


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random colours with edges, uint8 (h, w, 3)."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(3, max(2, height // 8), max(2, width // 8), generator=generator)
    smooth = imresize(coarse, (height, width)).clamp(0, 1)
    edges = (smooth * 6).round() / 6
    return (edges * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def screen(frames: int, height: int = 64, width: int = 96, step: int = 3) -> list[np.ndarray]:
    """A picture that stays, and a bright cursor of 6×4 that moves over it."""
    still, found = texture(height, width), []
    for k in range(frames):
        frame = still.copy()
        y, x = 20 + k % 5, (4 + step * k) % (width - 6)
        frame[y : y + 6, x : x + 4] = 255
        found.append(frame)
    return found


def pan(frames: int, height: int = 64, width: int = 96, step: int = 2, seed: int = 1) -> list[np.ndarray]:
    """A window that moves over a larger picture."""
    large = texture(height, width + step * frames, seed)
    return [np.ascontiguousarray(large[:, step * k : step * k + width]) for k in range(frames)]


def write(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    codec: str = "ffv1",
    pix_fmt: str = "bgr0",
    rate: int = 25,
    times: Sequence[int] | None = None,
    base: Fraction | None = None,
    options: dict[str, str] | None = None,
    sound: bool = False,
    subtitles: bool = False,
    metadata: dict[str, str] | None = None,
    tags: dict[str, int] | None = None,
    aspect: Fraction | None = None,
    rotation: int = 0,
    interlaced: bool = False,
    chapters: Sequence[tuple[int, int, str]] = (),
    matrix: int = 1,
) -> Path:
    """Encode frames (h, w, 3 or 4), uint8 or uint16, to a file; a tone and two subtitles if asked for."""
    import av

    frames = list(frames)
    base = base or Fraction(1, rate)
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata or {})
        if chapters:
            container.set_chapters(
                [
                    {"id": k, "start": a, "end": b, "time_base": Fraction(1, 1000), "metadata": {"title": title}}
                    for k, (a, b, title) in enumerate(chapters)
                ]
            )
        stream: Any = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = base
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        tone: Any = container.add_stream("aac", rate=48000) if sound else None
        text: Any = None
        texts: Any = None
        if subtitles:
            file = path.with_suffix(".srt")
            file.write_text("1\n00:00:00,000 --> 00:00:00,150\none\n\n2\n00:00:00,200 --> 00:00:00,350\ntwo\n")
            texts = av.open(str(file))
            text = container.add_stream_from_template(texts.streams.subtitles[0])
        for k, pixels in enumerate(frames):
            names = {("uint8", 3): "rgb24", ("uint8", 4): "rgba", ("uint16", 3): "rgb48le", ("uint16", 4): "rgba64le"}
            frame = av.VideoFrame.from_ndarray(pixels, format=names[str(pixels.dtype), pixels.shape[-1]])
            if not pix_fmt.startswith(("bgr", "gbr", "rgb")):
                frame = frame.reformat(format=pix_fmt, dst_colorspace=matrix, dst_color_range=1)
            frame.pts, frame.time_base = times[k] if times is not None else k, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if tone is not None:
            _tone(container, tone, len(frames) / rate)
        if text is not None:
            for packet in texts.demux():
                if packet.size:
                    packet.stream = text
                    container.mux(packet)
            texts.close()
    return path


def _tone(container: Any, stream: Any, seconds: float) -> None:
    import av

    for k in range(max(1, round(seconds * 48000 / 1024))):
        wave = np.sin(np.arange(k * 1024, (k + 1) * 1024) * 2 * np.pi * 440 / 48000).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]) * 0.1, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48000, k * 1024, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def read(path: Path) -> tuple[list[np.ndarray], list[Fraction]]:
    """Frames of a file as RGB or RGBA of 8 bits, and when each is shown in seconds."""
    import av

    from scalewise.video.colour import Colour, Layout, decoded

    frames, times = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            assert frame.pts is not None and frame.time_base is not None
            layout = Layout.of(frame.format)
            colour = Colour.of(container.streams.video[0].codec_context, frame)
            pixels = decoded(frame, layout, colour)
            frames.append(pixels if pixels.dtype == np.uint8 else np.rint(pixels / 257).astype(np.uint8))
            times.append(frame.pts * frame.time_base)
    return frames, times
