"""Static HDR metadata: mastering display (SMPTE ST 2086) and content light level (CTA-861.3), for encoders."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

# AVMasteringDisplayMetadata: red, green, blue, white point as x, y rationals; least and greatest luminance; two flags.
_MASTERING = struct.Struct("=20i2i")
_LIGHT = struct.Struct("=2I")
_X, _L = 50000, 10000  # units of chromaticity and luminance in the bit stream


def light_of(frame: VideoFrame) -> dict[str, tuple[float, ...]]:
    """`mastering`: (rx, ry, gx, gy, bx, by, wx, wy, least, greatest cd/m²), `light`: (MaxCLL, MaxFALL), if present."""
    found: dict[str, tuple[float, ...]] = {}
    data: Any
    for data in frame.side_data:
        raw = bytes(data)
        if data.type.name == "MASTERING_DISPLAY_METADATA" and len(raw) >= _MASTERING.size:
            values = _MASTERING.unpack_from(raw)
            numbers = [n / d if d else 0.0 for n, d in zip(values[0:20:2], values[1:20:2], strict=True)]
            if all(values[20:22]):
                found["mastering"] = tuple(numbers)
        elif data.type.name == "CONTENT_LIGHT_LEVEL" and len(raw) >= _LIGHT.size:
            found["light"] = tuple(float(value) for value in _LIGHT.unpack_from(raw))
    return found


def encoder_params(light: dict[str, tuple[float, ...]], encoder: str) -> list[str]:
    """`name=value` for x264-params, x265-params and svtav1-params; none for other encoders."""
    made = []
    names = {"libx264": ("mastering-display", "cll"), "libx265": ("master-display", "max-cll")}
    names["libsvtav1"] = ("mastering-display", "content-light")
    if encoder not in names:
        return []
    display, level = names[encoder]
    if "mastering" in light:
        rx, ry, gx, gy, bx, by, wx, wy, least, most = light["mastering"]
        if encoder == "libsvtav1":  # plain decimals there, units of the bit stream in the others
            points = [f"{name}({x:.5f},{y:.5f})" for name, x, y in (("G", gx, gy), ("B", bx, by), ("R", rx, ry))]
            text = "".join(points) + f"WP({wx:.5f},{wy:.5f})L({most:.4f},{least:.4f})"
        else:
            pairs = (("G", gx, gy), ("B", bx, by), ("R", rx, ry), ("WP", wx, wy))
            text = "".join(f"{name}({round(x * _X)},{round(y * _X)})" for name, x, y in pairs)
            text += f"L({round(most * _L)},{round(least * _L)})"
        made.append(f"{display}={text}")
    if "light" in light:
        most, mean = light["light"]
        made.append(f"{level}={most:.0f},{mean:.0f}")
    return made
