"""Which codec holds what, and in which container: pixel formats, quality, even sides."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from scalewise.errors import InvalidRequest, UnwritableOutput
from scalewise.geometry.grid import Size
from scalewise.video.clip import Clip
from scalewise.video.colour import Chroma, Colour, Layout
from scalewise.video.hdr import encoder_params

KEYFRAME_SECONDS = 2.0  # between two at most: what an interrupted run loses
FOLDER = "png-folder"


@dataclass(frozen=True)
class Codec:
    """An encoder of FFmpeg. `crf` is its usual quality and `worst` the highest number; None: it is always the same."""

    encoder: str
    crf: int | None
    worst: int
    part: str  # container of what is not finished yet: one that can be read when it was cut off
    containers: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)

    @property
    def part_suffix(self) -> str:
        """Of a part's name; empty for a folder of pictures."""
        return {"matroska": "mkv"}.get(self.part, self.part)


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
CODECS = {
    "h264": Codec("libx264", 18, 51, "mp4", (".mp4", ".mov", ".mkv", ".m4v")),
    "hevc": Codec("libx265", 20, 51, "mp4", (".mp4", ".mov", ".mkv", ".m4v")),
    "av1": Codec("libsvtav1", 26, 63, "mp4", (".mp4", ".mkv", ".webm")),
    "ffv1": Codec("ffv1", None, 0, "matroska", (".mkv",), {"level": "3", "g": "1", "slicecrc": "1"}),
    "prores": Codec("prores_ks", None, 0, "mov", (".mov", ".mkv"), {"vendor": "apl0"}),
    FOLDER: Codec("png", None, 0, "", ()),
}
MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}


@dataclass(frozen=True)
class Coding:
    """How frames are encoded: `codec` is a key of CODECS, `pixel_format` one of FFmpeg's, `layout` what it holds.

    `notes` say what it cannot hold of the input."""

    codec: str
    pixel_format: str
    layout: Layout
    colour: Colour
    crf: int | None
    preset: str | None
    light: dict[str, tuple[float, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    intra: bool = False  # every frame is a keyframe, and leaves the encoder at once

    @property
    def encoder(self) -> str:
        return CODECS[self.codec].encoder

    @property
    def step(self) -> Size:
        """Sides are multiples of this: (rows, columns)."""
        return {"420": (2, 2), "422": (1, 2), "gray": (1, 1), "444": (1, 1), "rgb": (1, 1)}[self.layout.chroma]

    def options(self, rate: Fraction) -> dict[str, str]:
        """For the encoder. Groups of pictures are closed, so that parts can be cut and joined at keyframes."""
        found = dict(CODECS[self.codec].options)
        if self.crf is not None:
            found |= {"crf": str(self.crf), "g": str(max(1, round(KEYFRAME_SECONDS * rate)))}
        if self.intra:
            found |= {"g": "1", "tune": "zerolatency"}
        if self.preset is not None:
            found["preset"] = self.preset
        params = encoder_params(self.light, self.encoder)
        if self.encoder == "libx265":
            # With B-frames x265 gives a part of one or two frames times that no container takes.
            params = ["log-level=error", "open-gop=0", "bframes=0", *params]
        if self.encoder == "prores_ks":
            found["profile"] = "4444" if self.layout.chroma == "444" else "hq"
        if params:
            found[{"libx264": "x264-params", "libx265": "x265-params"}.get(self.encoder, "svtav1-params")] = ":".join(
                params
            )
        return found


def coding_for(
    clip: Clip, output: Path, codec: str | None = None, crf: int | None = None, preset: str | None = None
) -> Coding:
    """How a clip is written to `output`. Raises InvalidRequest, UnwritableOutput."""
    suffix = output.suffix.lower()
    if codec is None:
        codec = _usual(clip, output, suffix)
    if codec not in CODECS:
        raise InvalidRequest(f"codec {codec!r} is not known: allowed are {', '.join(CODECS)}")
    kind = CODECS[codec]
    if codec != FOLDER and suffix not in kind.containers:
        raise UnwritableOutput(
            f"{str(output)!r}: {codec} is written to {', '.join(kind.containers)}: choose one of these names, or "
            "another codec"
        )
    if crf is not None and kind.crf is None:
        raise InvalidRequest(f"crf {crf}: {codec} has no such dial; it is for h264, hevc and av1")
    if crf is not None and not 0 <= crf <= kind.worst:
        raise InvalidRequest(f"crf {crf} is out of range: 0 (best) to {kind.worst} for {codec}")
    if preset is not None and kind.crf is None:
        raise InvalidRequest(f"preset {preset}: {codec} has none; it is for h264, hevc and av1")
    layout, name, notes = _pixel_format(codec, clip.layout)
    crf = kind.crf if crf is None else crf
    if kind.encoder == "libsvtav1" and preset is None:
        preset = "6"
    return Coding(codec, name, layout, clip.colour.written(layout.chroma), crf, preset, clip.hdr, notes)


def _usual(clip: Clip, output: Path, suffix: str) -> str:
    if suffix == "" or output.is_dir():
        return FOLDER
    if suffix == ".webm":
        return "av1"
    if suffix not in MUXERS:
        raise UnwritableOutput(f"{str(output)!r}: name a file that ends with {', '.join(MUXERS)}, or a folder for PNG")
    if clip.layout.alpha:
        return "prores" if suffix == ".mov" else "ffv1" if suffix == ".mkv" else "h264"
    return "hevc" if clip.layout.deep else "h264"


def _pixel_format(codec: str, own: Layout) -> tuple[Layout, str, tuple[str, ...]]:
    """The nearest layout that a codec holds, its pixel format, and what is lost."""
    chroma: Chroma = own.chroma
    depth, alpha, notes = own.depth, own.alpha, []
    if codec == FOLDER:
        layout = Layout("rgb", 16 if own.deep else 8, alpha)
        return layout, ("rgba64be" if alpha else "rgb48be") if own.deep else "rgba" if alpha else "rgb24", ()
    if codec == "ffv1":
        depth = next(bits for bits in (8, 10, 12, 16) if bits >= depth)
        chroma = "444" if chroma == "gray" else chroma
        if chroma == "rgb":
            deep = "gbrap" if alpha else "gbrp"
            name = ("bgra" if alpha else "bgr0") if depth == 8 else f"{deep}{depth}le"
        else:
            name = f"yuv{'a' * alpha}{chroma}p" + (f"{depth}le" if depth > 8 else "")
        return Layout(chroma, depth, alpha), name, ()
    if codec == "prores":
        chroma = "444" if alpha or chroma in ("444", "rgb") else "422"
        if depth > 10:
            notes.append(f"{depth} bits became 10: ffv1 keeps them")
        return Layout(chroma, 10, alpha), f"yuv{'a' * alpha}{chroma}p10le", tuple(notes)
    if alpha:
        notes.append(f"{codec} holds no transparency: it was left out (prores in .mov and ffv1 in .mkv keep it)")
    if depth > 8:
        if depth > 10:
            notes.append(f"{depth} bits became 10: ffv1 keeps them")
        depth = 10
    chroma = "444" if chroma == "rgb" else "420" if chroma == "gray" else chroma
    if codec == "av1" and chroma != "420":
        notes.append(f"colour became 4:2:0, the only one that av1 has here: h264 and hevc keep {':'.join(chroma)}")
        chroma = "420"
    return Layout(chroma, depth, False), f"yuv{chroma}p" + ("10le" if depth > 8 else ""), tuple(notes)


def fitted(size: Size, coding: Coding, *, asked: bool) -> Size:
    """The output size as the codec can hold it: the nearest multiple. A size that was `asked` for exactly is refused.

    Raises InvalidRequest."""
    nearest = (
        max(coding.step[0], round(size[0] / coding.step[0]) * coding.step[0]),
        max(coding.step[1], round(size[1] / coding.step[1]) * coding.step[1]),
    )
    if asked and nearest != size:
        chroma = ":".join(coding.layout.chroma)
        raise InvalidRequest(
            f"size {size[1]}x{size[0]} is odd, and {coding.codec} with colour in {chroma} needs even sides: ask for "
            f"{nearest[1]}x{nearest[0]}, or for codec ffv1 with an input in 4:4:4"
        )
    return nearest


def pixel_aspect(clip: Clip, out: Size) -> Fraction | None:
    """Width of an output pixel over its height, so that the picture is shown in the shape it had; None: square."""
    own = clip.pixel_aspect or Fraction(1)
    (h, w), (height, width) = clip.size, out
    if abs(width * h - height * w) <= max(w, h) * 2:  # a pixel or two of rounding is no other shape
        return clip.pixel_aspect
    aspect = own * Fraction(w * height, h * width)
    return None if aspect == 1 else aspect.limit_denominator(1000)
