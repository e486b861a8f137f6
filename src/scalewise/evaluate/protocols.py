"""How it is measured: evaluation protocols as data, side by side in docs/protocols.md."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from scalewise.errors import ProtocolMismatch
from scalewise.evaluate.metrics import Channel
from scalewise.geometry.grid import Size


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

    `lr_source`: how an LR is made where none is given. `given_up_to`: up to this scale the published LR must be given,
    and beyond it the LR is always made; None: given where there is one, else made. `multiple`: HR sides are first
    cropped to multiples of it; HR is then cropped, top left, to LR times scale. `scales`: the only ones that it knows;
    empty: all. `shave`: the border left out is shave[0] * ceil(scale) + shave[1]. `rounding`: the output is clamped
    and rounded to 8 bits ("8-bit"), or every tile is before they are merged ("tiles"), or it is clamped only ("clamp"),
    or left alone ("none"). `whole`: the picture is run whole, though only what its tiles cover is measured.
    `cell_clip`: networks are shown no larger scale than this. `window_pad`: the LR is mirrored to the next multiple of
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
            raise ProtocolMismatch(f"protocol {self.name} is for {allowed}; got x{scale:g}: use the protocol default")
        if not (math.isfinite(scale) and scale >= 1):
            raise ProtocolMismatch(f"protocol {self.name} needs a scale of at least 1; got {scale:g}")
        if (self.whole_scales or self.tiles or self.window_pad) and scale != int(scale):
            raise ProtocolMismatch(f"protocol {self.name} takes whole scales; got x{scale:g}: use the protocol default")

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
    "OSRT (Yu et al., CVPR 2023) and CAMixerSR on ODI-SR and SUN360: fisheye LR, whole picture, WS-PSNR next to PSNR",
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
