"""How a dB is measured: evaluation protocols as data, the runner, and one prediction under all protocols.

PSNR of one prediction differs by more than 1 dB between the conventions of this field, so every number here names its
`EvalProtocol`. `evaluate` runs any callable over a folder of pictures under one of them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scalewise import images, metrics
from scalewise.effort import Budget
from scalewise.errors import DataError, ImageError, ProtocolMismatch
from scalewise.grid import Frame, Size, rectangle
from scalewise.inference import pick_device
from scalewise.metrics import Channel, eight_bit
from scalewise.model import Model, SuperResolver
from scalewise.pipeline import Job, enlarge
from scalewise.projection import fisheye_shrink
from scalewise.resize import imresize, pillow_bicubic

Picture = Float[Tensor, "3 h w"]


# ---------------------------------------------------------------------------------------------------------------------
# What is measured: an upscaler


@dataclass(frozen=True)
class Prediction:
    """One enlarged picture: `sr` (3, H, W), neither clamped nor rounded, and what it cost."""

    sr: Picture
    macs: int = 0
    macs_full: int = 0
    seconds: float = 0.0


# (lr (3, h, w) in [0, 1], output size (H, W), the scale that the network is told) → Prediction. The told scale is
# H / h, but for protocols with `cell_clip`; geometry always follows the size.
Upscaler = Callable[[Picture, Size, float], Prediction]


def bicubic(lr: Picture, size: Size, scale: float) -> Prediction:
    """MATLAB's bicubic: the floor of every table. Its taps are sampling, so its MACs are 0."""
    start = time.perf_counter()
    return Prediction(imresize(lr, size), seconds=time.perf_counter() - start)


class _Pixels:
    """Keeps what the model gave, neither clamped nor rounded: a protocol decides about both."""

    def __init__(self, size: Size) -> None:
        self.size = size
        self.sr = torch.empty(3, *size)

    def __enter__(self) -> _Pixels:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def write(self, y0: int, x0: int, rgb: Tensor, alpha: Tensor | None = None) -> None:
        self.sr[:, y0 : y0 + rgb.shape[-2], x0 : x0 + rgb.shape[-1]] = rgb

    def finish(self) -> Picture:
        return self.sr


def upscaler_of(model: Model, budget: Budget | None = None, job: Job | None = None) -> Upscaler:
    """A model as it runs in `pipeline.enlarge`, within a budget per picture (per tile where a protocol has tiles)."""
    budget, job = budget or Budget.full(), job or Job()

    def run(lr: Picture, size: Size, scale: float) -> Prediction:
        if any(target - n * scale > 1.5 for n, target in zip(lr.shape[-2:], size, strict=True)):
            return _run_told(model, lr, size, scale, job)
        sr, report = enlarge(images.open(lr), _Pixels(size), model, budget, job)
        return Prediction(sr, report.macs, report.macs_full, report.seconds)

    return run


def _run_told(model: Model, lr: Picture, size: Size, scale: float, job: Job) -> Prediction:
    """The whole picture at once, with cells as large as `scale` would make them, whatever the size."""
    if not isinstance(model, SuperResolver) or model.scales is not None:
        raise ProtocolMismatch(f"cell_clip tells the network x{scale:g}; only any-scale upsamplers listen to that")
    device = pick_device(job.device)
    low = (lr.shape[-2], lr.shape[-1])
    start = time.perf_counter()
    cell = torch.full((1, 2), 1 / scale, device=device)
    query = dataclasses.replace(rectangle(Frame(low), size, device=device), cell=cell)
    sr = model(lr[None].to(device), query, 1 / cell).rgb[0].cpu()
    macs = model.macs(low, size).total
    return Prediction(sr, macs, macs, time.perf_counter() - start)


def self_ensemble(upscaler: Upscaler) -> Upscaler:
    """The mean over the 8 flips and turns of the input ("+" in the papers); costs add up."""

    def ensemble(lr: Picture, size: Size, scale: float) -> Prediction:
        parts = []
        for turns in range(4):
            for mirrored in (False, True):
                turned = torch.rot90(lr.flip(-1) if mirrored else lr, turns, (-2, -1))
                part = upscaler(turned.contiguous(), size if turns % 2 == 0 else (size[1], size[0]), scale)
                sr = torch.rot90(part.sr, -turns, (-2, -1))
                parts.append(dataclasses.replace(part, sr=sr.flip(-1) if mirrored else sr))
        return _sum(torch.stack([part.sr for part in parts]).mean(0), parts)

    return ensemble


def wrapped(upscaler: Upscaler, pixels: int = 16) -> Upscaler:
    """For 360° pictures: the network sees `pixels` LR columns of the other side, so that longitude has no seam."""

    def wrap(lr: Picture, size: Size, scale: float) -> Prediction:
        w = lr.shape[-1]
        unit = w // math.gcd(w, size[1])  # the output columns of so many LR columns are whole
        margin = min(-(-pixels // unit) * unit, w)
        more = margin * size[1] // w
        ring = torch.cat([lr[..., w - margin :], lr, lr[..., :margin]], -1)
        part = upscaler(ring, (size[0], size[1] + 2 * more), scale)
        return dataclasses.replace(part, sr=part.sr[..., more : more + size[1]])

    return wrap


def _sum(sr: Picture, parts: Sequence[Prediction]) -> Prediction:
    """The picture that several runs gave, at their total cost."""
    return Prediction(
        sr,
        sum(part.macs for part in parts),
        sum(part.macs_full for part in parts),
        sum(part.seconds for part in parts),
    )


# ---------------------------------------------------------------------------------------------------------------------
# How it is measured: protocols


@dataclass(frozen=True)
class Tiles:
    """Networks run tile by tile in some protocols. Overlaps are averaged.

    `remainder`: what the last full step leaves over is dropped (and not measured), or one more tile ends at the border.
    Beyond `largest_scale` the image is run whole.
    """

    size: int
    overlap: int
    remainder: Literal["drop", "shift"]
    largest_scale: float = math.inf

    def starts(self, length: int, size: int) -> list[int]:
        step = size - self.overlap
        if self.remainder == "drop":
            return list(range(0, length - size + 1, step))
        return [*range(0, length - size, step), length - size]

    def side(self, h: int, w: int) -> int:
        """Tiles are square; "shift" shrinks them to the image, "drop" cannot."""
        if self.remainder == "shift":
            return min(self.size, h, w)
        if min(h, w) < self.size:
            raise ProtocolMismatch(f"patches of {self.size} LR pixels do not fit into an LR of {w}x{h}")
        return self.size

    def area(self, h: int, w: int) -> Size:
        """The part of an LR image that tiles cover."""
        side = self.side(h, w)
        return self.starts(h, side)[-1] + side, self.starts(w, side)[-1] + side


@dataclass(frozen=True)
class EvalProtocol:
    """One way to measure; docs/protocols.md has them side by side.

    `lr_source`: how an LR is made where none is given. `given_up_to`: up to this scale the published LR must be there,
    and beyond it the LR is always made; None: given where there is one, else made. `multiple`: HR sides are first
    cropped to multiples of it; HR is then cropped, top left, to LR times scale. `scales`: the only ones that it knows;
    empty: all. `shave`: the border left out is shave[0] * ceil(scale) + shave[1]. `rounding`: the output is clamped
    and rounded to 8 bits ("8-bit"), or every tile is before they are merged ("tiles"), or it is clamped only ("clamp"),
    or left alone ("none"). `whole`: the picture is run whole, though only what its tiles cover is measured.
    `cell_clip`: networks are told no larger scale than this. `window_pad`: the LR is mirrored to the next multiple of
    this, always by at least one pixel, as LTE's test does for SwinIR.
    """

    name: str
    source: str
    lr_source: Literal["matlab", "pillow", "fisheye"] = "matlab"
    given_up_to: float | None = None
    multiple: int = 1
    scales: tuple[float, ...] = ()
    whole_scales: bool = False
    channel: Channel = "y"
    shave: tuple[int, int] = (1, 0)
    rounding: Literal["8-bit", "tiles", "clamp", "none"] = "8-bit"
    tiles: Tiles | None = None
    whole: bool = False
    cell_clip: float | None = None
    window_pad: int | None = None
    projection: Literal["plane", "erp"] = "plane"

    def border(self, scale: float) -> int:
        return self.shave[0] * math.ceil(scale) + self.shave[1]

    def check(self, scale: float) -> None:
        """Raises ProtocolMismatch if this protocol does not know the scale."""
        if self.scales and scale not in self.scales:
            allowed = ", ".join(f"x{known:g}" for known in self.scales)
            raise ProtocolMismatch(f"protocol {self.name} is for {allowed}; got x{scale:g}: use --protocol default")
        if not (math.isfinite(scale) and scale >= 1):
            raise ProtocolMismatch(f"protocol {self.name} needs a scale of at least 1; got {scale:g}")
        if (self.whole_scales or self.tiles or self.window_pad) and scale != int(scale):
            raise ProtocolMismatch(f"protocol {self.name} takes whole scales; got x{scale:g}: use --protocol default")

    def area(self, lr: Size, scale: float) -> Size:
        """The part of an LR image, from its top left, that is measured."""
        return lr if self.tiles is None or scale > self.tiles.largest_scale else self.tiles.area(*lr)


PATCHES = Tiles(size=32, overlap=4, remainder="drop")

DEFAULT = EvalProtocol(
    "default",
    "ours; what most papers since EDSR mean by Set5, Set14, B100, Urban100, Manga109: Y, border ceil(scale), 8 bits",
)
LIIF_BENCHMARK = EvalProtocol(
    "liif-benchmark",
    "LIIF (Chen et al., CVPR 2021) and LTE, test code, benchmark sets; the tables of TADT",
    lr_source="pillow",
    given_up_to=4,
    whole_scales=True,
    channel="y-liif",
    rounding="clamp",
)
LIIF_DIV2K = dataclasses.replace(
    LIIF_BENCHMARK,
    name="liif-div2k",
    source="LIIF and LTE, test code, DIV2K validation; the tables of TADT and CiaoSR",
    channel="rgb",
    shave=(1, 6),
)
CIAOSR = EvalProtocol(
    "ciaosr",
    "CiaoSR (Cao et al., CVPR 2023), its configuration files for the benchmark sets",
    lr_source="pillow",
    given_up_to=4,
    multiple=12,
    whole_scales=True,
    tiles=Tiles(size=192, overlap=32, remainder="shift", largest_scale=4),
)
CLASSSR = EvalProtocol(
    "classsr",
    "ClassSR (Kong et al., CVPR 2021), test code for Test2K, Test4K and Test8K",
    scales=(4,),
    channel="rgb",
    rounding="tiles",
    tiles=PATCHES,
)
ARM = dataclasses.replace(CLASSSR, name="arm", source="ARM (Chen et al., ECCV 2022), test code: ClassSR's, and F2K")
ENAF = dataclasses.replace(
    CLASSSR,
    name="enaf",
    source="ENAF (WACV 2025), test code: ClassSR's patches, but neither clamped nor rounded",
    rounding="none",
)
CAMIXER_LARGE = EvalProtocol(
    "camixer-large",
    "CAMixerSR (Wang et al., CVPR 2024), test options for F2K, Test2K, Test4K, Test8K",
    scales=(4,),
    channel="rgb",
    shave=(0, 0),
    tiles=Tiles(size=64, overlap=4, remainder="shift"),
)
CAMIXER_LIGHT = EvalProtocol(
    "camixer-light",
    "CAMixerSR (Wang et al., CVPR 2024), test options for the lightweight benchmark sets (BasicSR)",
    scales=(2, 3, 4),
)
ADAFORMER = EvalProtocol(
    "adaformer",
    "AdaFormer (AAAI 2024), test code: Y with border scale on every set, DIV2K and Test2K-8K too",
    scales=(2, 3, 4),
    channel="y-liif",
)
ODI = EvalProtocol(
    "odi",
    "OSRT (Yu et al., CVPR 2023) and CAMixerSR on ODI-SR and SUN360: fisheye LR, whole picture, WS-PSNR beside PSNR",
    lr_source="fisheye",
    scales=(2, 4, 8, 16),
    channel="rgb",
    shave=(0, 0),
    projection="erp",
)

PROTOCOLS: dict[str, EvalProtocol] = {
    known.name: known
    for known in (
        DEFAULT,
        LIIF_BENCHMARK,
        LIIF_DIV2K,
        CIAOSR,
        CLASSSR,
        ARM,
        ENAF,
        CAMIXER_LARGE,
        CAMIXER_LIGHT,
        ADAFORMER,
        ODI,
    )
}


def find_protocol(text: str) -> EvalProtocol:
    """A name, or one with settings: `liif-div2k:cell_clip=4,window_pad=8` (LTE's test), `classsr:whole=1` (PCSR's)."""
    name, _, settings = text.partition(":")
    if name not in PROTOCOLS:
        raise ProtocolMismatch(f"unknown protocol {name!r}: known are {', '.join(PROTOCOLS)}")
    changes: dict[str, Any] = {}
    for setting in filter(None, settings.split(",")):
        key, _, value = setting.partition("=")
        if key not in ("cell_clip", "window_pad", "whole") or not value.isdecimal() or int(value) < 1:
            raise ProtocolMismatch(f"cannot set {setting!r}: allowed are cell_clip=N, window_pad=N and whole=1")
        changes[key] = int(value) if key != "whole" else True
    return dataclasses.replace(PROTOCOLS[name], name=text, **changes)


# ---------------------------------------------------------------------------------------------------------------------
# On what: pairs of pictures


@dataclass(frozen=True)
class Pair:
    """One HR picture and its published LR, if there is one."""

    name: str
    hr: Path
    lr: Path | None = None


def find_pairs(data: Path | str, scale: float) -> list[Pair]:
    """The pictures of a data folder, sorted by name, in any of the usual layouts.

    `HR` beside `LR_bicubic/X4` (or `LR/X4`, `LR_fisheye/X4`; HR may hold `X4` too), `GTmod12` beside `LRbicx4`,
    `image_SRF_4/*_HR.png`, `DIV2K_valid_HR` beside `DIV2K_valid_LR_bicubic/X4`, or just pictures.
    """
    data, tag = Path(data), f"{scale:g}"
    if not data.is_dir():
        raise DataError(f"no folder {str(data)!r}: give a folder of HR pictures, or one with HR and LR_bicubic/X{tag}")
    beside_lr = next((path for path in sorted(data.glob("*_HR")) if path.is_dir()), None)
    if (data / "HR").is_dir():
        hr = data / "HR" / f"X{tag}" if (data / "HR" / f"X{tag}").is_dir() else data / "HR"
        lr = _first_folder(data / kind / f"X{tag}" for kind in ("LR_bicubic", "LR", "LR_fisheye"))
    elif (data / "GTmod12").is_dir():
        hr, lr = data / "GTmod12", _first_folder([data / f"LRbicx{tag}"])
    elif list(data.glob("image_SRF_*")):
        return _srf_pairs(data, tag)
    elif beside_lr is not None:
        hr, lr = beside_lr, _first_folder([data / f"{beside_lr.name[:-3]}_LR_bicubic" / f"X{tag}"])
    else:
        hr, lr = data, None
    pairs = [Pair(path.stem, path, _lr_of(path, lr, tag)) for path in _pictures(hr)]
    if not pairs:
        raise DataError(f"no pictures in {str(hr)!r}: it should hold {', '.join(sorted(images.READABLE))}")
    return pairs


def _first_folder(candidates: Any) -> Path | None:
    return next((path for path in candidates if path.is_dir()), None)


def _pictures(folder: Path) -> list[Path]:
    files = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in files if path.suffix.lower() in images.READABLE)


def _lr_of(hr: Path, folder: Path | None, tag: str) -> Path | None:
    if folder is None:
        return None
    names = [f"{hr.stem}x{tag}{hr.suffix}", f"{hr.stem}x{tag}.png", hr.name, f"{hr.stem}.png"]
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise ProtocolMismatch(f"{folder} lacks {names[0]}, the LR of {hr.name}: add it, or give the HR folder alone")
    return found


def _srf_pairs(data: Path, tag: str) -> list[Pair]:
    folder = data / f"image_SRF_{tag}"
    highs = sorted(folder.glob("*_HR.*")) if folder.is_dir() else []
    if not highs:
        there = ", ".join(path.name for path in sorted(data.glob("image_SRF_*")))
        raise ProtocolMismatch(f"no image_SRF_{tag}/*_HR.png in {data}; there is {there}")
    pairs = []
    for high in highs:
        low = high.with_name(high.name.replace("_HR.", "_LR."))
        if not low.is_file():
            raise ProtocolMismatch(f"{folder} lacks {low.name}, the LR of {high.name}: add it")
        pairs.append(Pair(high.stem.removesuffix("_HR"), high, low))
    return pairs


def _read(path: Path) -> Picture:
    source = images.open(path)
    return source.read((0, 0, *source.size))


def load_pair(pair: Pair, scale: float, protocol: EvalProtocol) -> tuple[Picture, Picture]:
    """(lr, hr) as the protocol wants them: HR cropped, LR given or made. Raises ImageError, ProtocolMismatch."""
    hr = _read(pair.hr)
    if protocol.projection == "erp" and hr.shape[-1] != 2 * hr.shape[-2]:
        raise ProtocolMismatch(
            f"protocol {protocol.name} is for equirectangular pictures, twice as wide as high; "
            f"{pair.hr.name} is {hr.shape[-1]}x{hr.shape[-2]}"
        )
    strict = protocol.given_up_to is not None and scale <= protocol.given_up_to
    if strict and pair.lr is None:
        raise ProtocolMismatch(
            f"protocol {protocol.name} takes the published LR at x{scale:g} and there is none for {pair.hr.name}: "
            f"add LR_bicubic/X{scale:g}, or use --protocol default, which makes it"
        )
    if pair.lr is not None and (protocol.given_up_to is None or strict):
        lr = _read(pair.lr)
        size = _hr_size(hr, lr, scale, pair)
    else:
        lr, size = None, (hr.shape[-2], hr.shape[-1])
    h, w = (math.floor((n - n % protocol.multiple) / scale + 1e-9) for n in size)
    if lr is not None and protocol.multiple == 1:
        h, w = lr.shape[-2:]  # at fractional scales the floor may lie one below
    if min(h, w) < 1:
        raise ProtocolMismatch(f"{pair.hr.name} is too small for {protocol.name} at x{scale:g}: {tuple(hr.shape[1:])}")
    hr = hr[:, : max(1, round(h * scale)), : max(1, round(w * scale))]
    return (make_lr(hr, (h, w), scale, protocol) if lr is None else lr[:, :h, :w]), hr


def make_lr(hr: Picture, size: Size, scale: float, protocol: EvalProtocol) -> Picture:
    """The LR that a protocol makes from a cropped HR, at 8-bit levels."""
    if protocol.lr_source == "fisheye":
        return eight_bit(fisheye_shrink(hr, int(scale)))
    if protocol.lr_source == "pillow":
        levels = (eight_bit(hr) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        return torch.from_numpy(pillow_bicubic(levels, size).copy()).permute(2, 0, 1).float() / 255
    return eight_bit(imresize(hr, size))


def _hr_size(hr: Picture, lr: Picture, scale: float, pair: Pair) -> Size:
    """LR times scale, which the HR must cover with less than one crop step (12, or the scale) to spare."""
    size = round(lr.shape[-2] * scale), round(lr.shape[-1] * scale)
    for n, target in zip(hr.shape[-2:], size, strict=True):
        if not target <= n < target + max(12, math.ceil(scale)):
            raise ProtocolMismatch(
                f"{pair.hr.name}: LR {lr.shape[-1]}x{lr.shape[-2]} times {scale:g} is {size[1]}x{size[0]}, but HR is "
                f"{hr.shape[-1]}x{hr.shape[-2]}: not a pair of scale {scale:g}"
            )
    return size


# ---------------------------------------------------------------------------------------------------------------------
# The runner


def predict(upscaler: Upscaler, lr: Picture, size: Size, scale: float, protocol: EvalProtocol) -> Prediction:
    """One picture as the protocol runs it: whole, mirrored to windows, or tile by tile.

    Where a protocol drops the remainder of tiles, the prediction is smaller than `size`, from the same top left.
    """
    told = scale if protocol.cell_clip is None else min(scale, protocol.cell_clip)
    if protocol.window_pad is not None:
        upscaler = _mirrored(upscaler, protocol.window_pad)
    if protocol.tiles is None or protocol.whole or scale > protocol.tiles.largest_scale:
        part = upscaler(lr, size, told)
        area = protocol.area((lr.shape[-2], lr.shape[-1]), scale)
        height, width = (min(round(n * scale), whole) for n, whole in zip(area, size, strict=True))
        return dataclasses.replace(part, sr=part.sr[:, :height, :width])
    return _tiled(upscaler, lr, int(scale), told, protocol.tiles, round_tiles=protocol.rounding == "tiles")


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


def _tiled(
    upscaler: Upscaler, lr: Picture, scale: int, told: float, tiles: Tiles, *, round_tiles: bool = False
) -> Prediction:
    h, w = lr.shape[-2:]
    side = tiles.side(h, w)
    starts = [(y, x) for y in tiles.starts(h, side) for x in tiles.starts(w, side)]
    parts = []

    def run(y: int, x: int) -> Picture:
        part = upscaler(lr[:, y : y + side, x : x + side], (side * scale, side * scale), told)
        parts.append(dataclasses.replace(part, sr=part.sr[:, :0]))  # the cost; the pixels go to the canvas
        return eight_bit(part.sr) if round_tiles else part.sr

    area = tiles.area(h, w)
    canvas = fuse(
        ((y * scale, x * scale, run(y, x)) for y, x in starts),
        (area[0] * scale, area[1] * scale),
    )
    return _sum(canvas, parts)


def fuse(patches: Any, size: Size) -> Picture:
    """Patches (row, column, picture) on a canvas of `size`, the mean where they overlap.

    ClassSR's code halves every overlap strip, columns then rows; with at most two patches per axis that is the mean.
    """
    canvas = torch.zeros(3, *size)
    count = torch.zeros(*size)
    for y, x, patch in patches:
        canvas[:, y : y + patch.shape[-2], x : x + patch.shape[-1]] += patch.cpu().float()
        count[y : y + patch.shape[-2], x : x + patch.shape[-1]] += 1
    return canvas / count


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
    """One picture: `values` holds psnr, ssim, consistency, macs, macs_full, macs_share, seconds, and what was added."""

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
    extra: Mapping[str, Callable[[Picture, Picture], float]] | None = None,
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
    extra: Mapping[str, Callable[[Picture, Picture], float]],
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
    values["macs"] = prediction.macs
    values["macs_full"] = prediction.macs_full
    values["macs_share"] = prediction.macs / prediction.macs_full if prediction.macs_full else 0.0
    values["seconds"] = prediction.seconds
    return ImageResult(name, (height, width), values)


# ---------------------------------------------------------------------------------------------------------------------
# One prediction under all protocols


@dataclass(frozen=True)
class Comparison:
    """The mean of one set of predictions under one protocol, or `absent`: why it cannot be measured so."""

    protocol: str
    psnr: float = math.nan
    ssim: float = math.nan
    absent: str = ""


def compare_protocols(
    upscaler: Upscaler, data: Path | str, scale: float, protocols: Sequence[EvalProtocol] | None = None
) -> list[Comparison]:
    """The same predictions scored under every protocol: how far the conventions alone lie apart.

    Pairs and predictions are those of `default`, each picture run whole; a protocol then crops, rounds, shaves and
    weights them as it does.
    """
    pictures = []
    for pair in find_pairs(data, scale):
        lr, hr = load_pair(pair, scale, DEFAULT)
        with torch.inference_mode():
            pictures.append((upscaler(lr, (hr.shape[-2], hr.shape[-1]), scale).sr.float().cpu(), hr))
    rows = []
    for protocol in protocols or PROTOCOLS.values():
        try:
            scores = [_rescore(sr, hr, scale, dataclasses.replace(protocol, whole=True)) for sr, hr in pictures]
        except ProtocolMismatch as error:
            rows.append(Comparison(protocol.name, absent=str(error)))
            continue
        kinds = [("ws_psnr", "ws_ssim")] if protocol.projection == "erp" else []
        for psnr, ssim in [("psnr", "ssim"), *kinds]:
            name = protocol.name + (" (WS)" if psnr == "ws_psnr" else "")
            psnrs, ssims = ([values[key] for values in scores] for key in (psnr, ssim))
            rows.append(Comparison(name, sum(psnrs) / len(psnrs), sum(ssims) / len(ssims)))
    return rows


def _rescore(sr: Picture, hr: Picture, scale: float, protocol: EvalProtocol) -> dict[str, float]:
    protocol.check(scale)
    height, width = hr.shape[-2:]
    if protocol.projection == "erp" and width != 2 * height:
        raise ProtocolMismatch(f"protocol {protocol.name} is for equirectangular pictures, twice as wide as high")
    height, width = height - height % protocol.multiple, width - width % protocol.multiple
    area = protocol.area((int(height / scale), int(width / scale)), scale)
    height, width = (min(round(n * scale), whole) for n, whole in zip(area, (height, width), strict=True))
    return score(sr[:, :height, :width], hr[:, :height, :width], scale, protocol)
