"""Frames of a codec ↔ RGB: matrix, range, depth and chroma. libswscale does the work; deep pixels get our own matrix.

libswscale turns RGB of more than 8 bits into Y'CbCr with a bias of 3 levels of 10 bits (white is 943, not 940). So deep
frames go by way of 4:4:4 in 16 bits, where it changes no value, and the matrix is ITU-R BT.601, 709 or 2020 in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext
    from av.video.format import VideoFormat
    from av.video.frame import VideoFrame

Chroma = Literal["420", "422", "444", "rgb", "gray"]

LIMITED, FULL = 1, 2  # FFmpeg's AVColorRange
UNSPECIFIED = 2  # of primaries, transfer and matrix
MATRIX_RGB, MATRIX_709, MATRIX_601 = 0, 1, 6  # FFmpeg's AVColorSpace
# Weights of red and blue in luma, by AVColorSpace: BT.709, FCC, BT.470BG, SMPTE 170M, SMPTE 240M, BT.2020.
LUMA = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087)}
LUMA |= {9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
SWS_MATRIX = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}  # libswscale's own numbers for them
HD_ROWS = 720  # from this height on, a video that does not say so is taken for BT.709, as players do


@dataclass(frozen=True)
class Layout:
    """How a pixel format holds its samples: chroma, bits of a sample, opacity."""

    chroma: Chroma
    depth: int
    alpha: bool

    @classmethod
    def of(cls, pixel_format: VideoFormat) -> Layout:
        parts = pixel_format.components
        alpha = any(part.is_alpha for part in parts)
        depth = max(part.bits for part in parts)
        if pixel_format.has_palette:
            return cls("rgb", 8, True)
        if pixel_format.is_rgb or pixel_format.is_bayer:
            return cls("rgb", max(8, depth), alpha)
        if sum(not part.is_alpha for part in parts) == 1:
            return cls("gray", depth, alpha)
        wide, high = pixel_format.chroma_width(16), pixel_format.chroma_height(16)
        chroma: Chroma = "444" if wide == high == 16 else "422" if high == 16 and wide == 8 else "420"
        return cls(chroma, depth, alpha)

    @property
    def deep(self) -> bool:
        return self.depth > 8

    @property
    def channels(self) -> int:
        return 3 + self.alpha


@dataclass(frozen=True)
class Colour:
    """The tags of a stream, in FFmpeg's numbers; `matrix` and `range` are never unspecified: a guess is written down,
    as a player would guess otherwise for the larger picture."""

    range: int
    primaries: int
    transfer: int
    matrix: int

    @classmethod
    def of(cls, context: VideoCodecContext, frame: VideoFrame) -> Colour:
        matrix = context.colorspace
        if frame.format.is_rgb:
            matrix = MATRIX_RGB
        elif matrix not in LUMA:
            matrix = MATRIX_709 if frame.height >= HD_ROWS else MATRIX_601
        full = context.color_range == FULL or frame.format.name.startswith("yuvj") or frame.format.is_rgb
        return cls(FULL if full else LIMITED, context.color_primaries, context.color_trc, matrix)

    def written(self, chroma: Chroma) -> Colour:
        """The tags of the output: RGB that is stored as Y'CbCr gets a matrix and the usual range."""
        if self.matrix == MATRIX_RGB and chroma != "rgb":
            return Colour(LIMITED, self.primaries, self.transfer, MATRIX_709)
        if self.matrix != MATRIX_RGB and chroma == "rgb":
            return Colour(FULL, self.primaries, self.transfer, MATRIX_RGB)
        return self


def _flags() -> Any:
    from av.video.reformatter import Interpolation

    return (
        Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
    )


def decoded(frame: VideoFrame, layout: Layout, colour: Colour) -> np.ndarray:
    """(h, w, 3 or 4) of a decoded frame: uint8, or uint16 for more than 8 bits."""
    flags = _flags()
    if colour.matrix == MATRIX_RGB or layout.chroma == "gray":
        target = ("rgba64le" if layout.alpha else "rgb48le") if layout.deep else "rgba" if layout.alpha else "rgb24"
        made = frame.reformat(format=target, interpolation=flags, src_color_range=colour.range, dst_color_range=FULL)
        return _spread(made.to_ndarray(), layout) if layout.deep else made.to_ndarray()
    if not layout.deep:
        return frame.reformat(
            format="rgba" if layout.alpha else "rgb24",
            src_colorspace=SWS_MATRIX[colour.matrix],
            src_color_range=colour.range,
            dst_color_range=FULL,
            interpolation=flags,
        ).to_ndarray()
    same = {"src_color_range": colour.range, "dst_color_range": colour.range}
    planes = frame.reformat(
        format="yuva444p16le" if layout.alpha else "yuv444p16le", interpolation=flags, **same
    ).to_ndarray(channel_last=True)
    rgb = np.rint(to_rgb(planes[..., :3], layout.depth, colour) * 65535).astype(np.uint16)
    if not layout.alpha:
        return rgb
    return np.concatenate([rgb, _spread(planes[..., 3:], layout)], -1)


def encoded(pixels: np.ndarray, pixel_format: str, layout: Layout, colour: Colour) -> VideoFrame:
    """A frame of `pixel_format`, whose layout is `layout`, from (h, w, 3 or 4) of uint8 or uint16."""
    import av

    flags, alpha = _flags(), pixels.shape[-1] == 4
    if layout.deep and pixels.dtype == np.uint8:
        pixels = pixels.astype(np.uint16) * 257
    deep = pixels.dtype == np.uint16
    if not deep or colour.matrix == MATRIX_RGB or layout.chroma == "gray":
        name = ("rgba64le" if alpha else "rgb48le") if deep else "rgba" if alpha else "rgb24"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=name)
        made = frame.reformat(
            format=pixel_format,
            dst_colorspace=SWS_MATRIX.get(colour.matrix),
            dst_color_range=colour.range,
            src_color_range=FULL,
            interpolation=flags,
        )
    else:
        planes = from_rgb(pixels[..., :3].astype(np.float32) / 65535, layout.depth, colour)
        if alpha:
            planes = np.concatenate([planes, _narrow(pixels[..., 3:], layout)], -1)
        if layout.chroma == "444":
            return _tagged(_planar(planes >> (16 - layout.depth), pixel_format), colour)
        name = "yuva444p16le" if alpha else "yuv444p16le"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(planes), format=name, channel_last=True)
        frame.color_range = colour.range
        same = {"src_color_range": colour.range, "dst_color_range": colour.range}
        made = frame.reformat(format=pixel_format, interpolation=flags, **same)
    return _tagged(made, colour)


def _tagged(frame: VideoFrame, colour: Colour) -> VideoFrame:
    frame.color_range, frame.color_primaries = colour.range, colour.primaries
    frame.color_trc, frame.colorspace = colour.transfer, colour.matrix
    return frame


def _planar(levels: np.ndarray, pixel_format: str) -> VideoFrame:
    """A frame of planes of full size from (h, w, planes) uint16: libswscale would dither them, with the same bias."""
    import av

    frame = av.VideoFrame(levels.shape[1], levels.shape[0], pixel_format)
    for plane, values in zip(frame.planes, np.moveaxis(levels, -1, 0), strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint16).reshape(plane.height, plane.line_size // 2)
        rows[:, : plane.width] = values
    return frame


def to_rgb(planes: np.ndarray, depth: int, colour: Colour) -> np.ndarray:
    """Y'CbCr (h, w, 3), its `depth` bits on top of 16, as RGB float32 in [0, 1], clipped."""
    matrix = _from_luma(colour)
    levels = planes.astype(np.float32) / (1 << (16 - depth))
    black, span = _levels(depth, colour)
    levels = (levels - black) / span
    return np.clip(levels @ matrix.T, 0, 1)


def from_rgb(rgb: np.ndarray, depth: int, colour: Colour) -> np.ndarray:
    """RGB float32 in [0, 1] as Y'CbCr (h, w, 3) uint16, its `depth` bits on top."""
    matrix = _from_luma(colour)
    black, span = _levels(depth, colour)
    inverse = np.linalg.inv(matrix.astype(np.float64)).astype(np.float32)
    levels = np.rint(rgb @ inverse.T * span + black).clip(0, (1 << depth) - 1)
    return levels.astype(np.uint16) << (16 - depth)


def _from_luma(colour: Colour) -> np.ndarray:
    """RGB = M · (Y, Cb, Cr), with Y in [0, 1] and Cb, Cr in [-0.5, 0.5]."""
    red, blue = LUMA[colour.matrix]
    green = 1 - red - blue
    rows = [
        [1, 0, 2 * (1 - red)],
        [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
        [1, 2 * (1 - blue), 0],
    ]
    return np.array(rows, np.float32)


def _levels(depth: int, colour: Colour) -> tuple[np.ndarray, np.ndarray]:
    """Where Y, Cb and Cr are 0, and how far 1 is from there, in levels of `depth` bits."""
    unit, top = 1 << (depth - 8), (1 << depth) - 1
    luma, black, chroma = (top, 0, top) if colour.range == FULL else (219 * unit, 16 * unit, 224 * unit)
    middle = 128 * unit
    return np.array([black, middle, middle], np.float32), np.array([luma, chroma, chroma], np.float32)


def _spread(pixels: np.ndarray, layout: Layout) -> np.ndarray:
    """Samples whose `depth` bits are on top of 16 so that the highest level is 65535."""
    if layout.depth >= 16:
        return pixels
    top = (1 << layout.depth) - 1
    return np.rint((pixels >> (16 - layout.depth)).astype(np.float32) * (65535 / top)).astype(np.uint16)


def _narrow(pixels: np.ndarray, layout: Layout) -> np.ndarray:
    """The inverse of `_spread`."""
    if layout.depth >= 16:
        return pixels
    top = (1 << layout.depth) - 1
    return np.rint(pixels.astype(np.float32) * (top / 65535)).astype(np.uint16) << (16 - layout.depth)
