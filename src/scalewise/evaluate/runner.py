"""The runner: a picture as a protocol runs it, its score, and the means over a folder."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scalewise.errors import ImageError
from scalewise.evaluate import metrics
from scalewise.evaluate.metrics import eight_bit
from scalewise.evaluate.pairs import Picture, find_pairs, find_pictures, load_pair, read_picture
from scalewise.evaluate.patchwise import tiled
from scalewise.evaluate.protocols import DEFAULT, EvalProtocol, find_protocol
from scalewise.evaluate.upscalers import Prediction, Upscaler
from scalewise.geometry.grid import Size, output_size


def predict(upscaler: Upscaler, lr: Picture, size: Size, scale: float, protocol: EvalProtocol) -> Prediction:
    """One picture as the protocol runs it: whole, mirrored to windows, or tile by tile.

    Where a protocol drops the remainder of tiles, the prediction is smaller than `size`, from the same top left.
    """
    seen_scale = scale if protocol.cell_clip is None else min(scale, protocol.cell_clip)
    if protocol.window_pad is not None:
        upscaler = _mirrored(upscaler, protocol.window_pad)
    if protocol.tiles is None or protocol.whole or scale > protocol.tiles.largest_scale:
        part = upscaler(lr, size, seen_scale)
        area = protocol.area((lr.shape[-2], lr.shape[-1]), scale)
        height, width = (min(round(n * scale), whole) for n, whole in zip(area, size, strict=True))
        return dataclasses.replace(part, sr=part.sr[:, :height, :width])
    return tiled(upscaler, lr, int(scale), seen_scale, protocol.tiles, round_tiles=protocol.rounding == "tiles")


def _mirrored(upscaler: Upscaler, window: int) -> Upscaler:
    """LTE's test for windowed encoders: pads even where the size divides, mirroring the edge row too."""

    def mirror(lr: Picture, size: Size, scale: float) -> Prediction:
        h, w = lr.shape[-2:]
        high, wide = ((n // window + 1) * window for n in (h, w))
        padded = torch.cat([lr, lr.flip(-2)], -2)[:, :high]
        padded = torch.cat([padded, padded.flip(-1)], -1)[..., :wide]
        part = upscaler(padded, (high * size[0] // h, wide * size[1] // w), scale)
        return dataclasses.replace(part, sr=part.sr[:, : size[0], : size[1]])

    return mirror


def score(sr: Picture, hr: Picture, scale: float, protocol: EvalProtocol) -> dict[str, float]:
    """PSNR and SSIM of a prediction under a protocol, and their spherical kin for 360° pictures.

    SSIM is NaN where less than its 11x11 window is left.
    """
    if protocol.rounding == "8-bit" or (protocol.rounding == "tiles" and protocol.whole):
        sr = eight_bit(sr)
    elif protocol.rounding == "clamp":
        sr = sr.clamp(0, 1)
    shave = protocol.border(scale)
    names = ["psnr", "ssim", "ws_psnr", "ws_ssim"] if protocol.projection == "erp" else ["psnr", "ssim"]
    fits = min(sr.shape[-2:]) - 2 * shave >= metrics.SSIM_WINDOW
    values = {}
    for name in names:
        measure = getattr(metrics, name)
        usable = fits or "ssim" not in name
        values[name] = measure(sr, hr, channel=protocol.channel, shave=shave) if usable else math.nan
    return values


@dataclass(frozen=True)
class ImageResult:
    """One picture: `values` holds psnr, ssim, consistency, macs, macs_full, macs_share, seconds, and what was added.

    Where patches were routed, `path0`, `path1`, … say how many took each path."""

    name: str
    size: Size
    values: Mapping[str, float]


@dataclass(frozen=True)
class Skipped:
    """A picture that could not be read."""

    name: str
    error: str


@dataclass(frozen=True)
class EvalResult:
    """What `evaluate` found. Means are over pictures, in dB for PSNR. A run with skipped pictures is not a success."""

    protocol: str
    scale: float
    images: tuple[ImageResult, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def mean(self) -> dict[str, float]:
        """Per value, over the pictures that have it; NaN if none has."""
        keys = dict.fromkeys(["psnr", "ssim", "macs_share", "seconds"])
        keys |= dict.fromkeys(key for image in self.images for key in image.values)
        means = {}
        for key in keys:
            values = [image.values[key] for image in self.images if not math.isnan(image.values.get(key, math.nan))]
            means[key] = sum(values) / len(values) if values else math.nan
        return means

    @property
    def paths(self) -> tuple[int, ...]:
        """How many patches of all pictures took each path; empty where none were routed."""
        counts = [
            [int(number) for key, number in image.values.items() if re.fullmatch(r"path\d+", key)]
            for image in self.images
        ]
        return tuple(map(sum, zip(*counts, strict=True)))

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `scalewise evaluate`; numbers that JSON does not know (no error at all, no value) are null."""
        return {
            "protocol": self.protocol,
            "scale": self.scale,
            "mean": plain(self.mean),
            "images": [{"name": one.name, "size": [*reversed(one.size)], **plain(one.values)} for one in self.images],
            "skipped": [{"name": one.name, "error": one.error} for one in self.skipped],
        }

    def write(self, path: Path | str) -> None:
        Path(path).write_text(json.dumps(self.as_dict(), indent=2) + "\n")


def plain(values: Mapping[str, float]) -> dict[str, float | None]:
    """For JSON: None where a number is not finite."""
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def evaluate(
    upscaler: Upscaler,
    data: Path | str,
    scale: float,
    protocol: EvalProtocol | str = DEFAULT,
    *,
    extra: Mapping[str, metrics.Measure] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> EvalResult:
    """Run `upscaler` over the pictures of a folder and measure it as `protocol` says.

    `extra` adds measures of (sr, hr), e.g. {"lpips": metrics.perceptual("lpips")}, on 8-bit levels without the border.
    A picture that cannot be read is skipped and named; a pair that the protocol cannot measure raises ProtocolMismatch.
    """
    protocol = find_protocol(protocol) if isinstance(protocol, str) else protocol
    protocol.check(scale)
    pairs = find_pairs(data, scale)
    results, skipped = [], []
    for done, pair in enumerate(pairs):
        if progress is not None:
            progress(done, len(pairs))
        try:
            lr, hr = load_pair(pair, scale, protocol)
        except ImageError as error:
            skipped.append(Skipped(pair.name, str(error)))
            continue
        results.append(_measure(upscaler, pair.name, lr, hr, scale, protocol, extra or {}))
    return EvalResult(protocol.name, scale, tuple(results), tuple(skipped))


def _measure(
    upscaler: Upscaler,
    name: str,
    lr: Picture,
    hr: Picture,
    scale: float,
    protocol: EvalProtocol,
    extra: Mapping[str, metrics.Measure],
) -> ImageResult:
    with torch.inference_mode():
        prediction = predict(upscaler, lr, (hr.shape[-2], hr.shape[-1]), scale, protocol)
        sr = prediction.sr.float().cpu()
        height, width = sr.shape[-2:]
        hr = hr[:, :height, :width]
        values = score(sr, hr, scale, protocol)
        seen = lr[:, : round(height / scale), : round(width / scale)]
        values["consistency"] = metrics.consistency(seen, sr)
        border = protocol.border(scale)
        inner = (slice(None), slice(border, height - border), slice(border, width - border))
        values |= {key: measure(eight_bit(sr)[inner], hr[inner]) for key, measure in extra.items()}
    return ImageResult(name, (height, width), values | _costs(prediction))


def _costs(prediction: Prediction) -> dict[str, float]:
    share = prediction.macs / prediction.macs_full if prediction.macs_full else 0.0
    found = {"macs": prediction.macs, "macs_full": prediction.macs_full, "macs_share": share}
    found |= {f"path{path}": patches for path, patches in enumerate(prediction.paths)}
    return found | {"seconds": prediction.seconds}


def evaluate_alone(
    upscaler: Upscaler,
    data: Path | str,
    scale: float,
    *,
    extra: Mapping[str, metrics.Measure] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> EvalResult:
    """Enlarge the pictures of a folder, which have no HR, and measure what needs none: consistency, costs, and `extra`,
    called with (sr, None) on 8-bit levels. A picture that cannot be read is skipped and named."""
    found = find_pictures(Path(data))
    results, skipped = [], []
    for done, path in enumerate(found):
        if progress is not None:
            progress(done, len(found))
        try:
            lr = read_picture(path)
        except ImageError as error:
            skipped.append(Skipped(path.stem, str(error)))
            continue
        size = output_size((lr.shape[-2], lr.shape[-1]), scale)
        with torch.inference_mode():
            prediction = upscaler(lr, size, scale)
            sr = prediction.sr.float().cpu()
            values = {"consistency": metrics.consistency(lr, sr)}
            values |= {key: measure(eight_bit(sr), None) for key, measure in (extra or {}).items()}
        results.append(ImageResult(path.stem, size, values | _costs(prediction)))
    return EvalResult("without HR", scale, tuple(results), tuple(skipped))
