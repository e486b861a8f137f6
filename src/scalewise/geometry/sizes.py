"""How large, and which part: what users write, as numbers or as text, in pixels.

Numbers come rows first, as in the shape of an array: `size=(2160, 3840)`, `scale=(1.5, 2)`. Text comes width first, as
people write it: `3840x2160`, `2x1.5`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Sequence
from typing import Any, SupportsFloat, SupportsIndex

from scalewise.errors import InvalidRequest, UnsupportedScale, shown
from scalewise.geometry.grid import MAX_SIDE, Box, Size, check_output, output_size

Scale = float | tuple[float, float]
Sides = tuple[int | None, int | None]  # (rows, columns); None: as the shape of the picture has it

MAX_QUOTED_PIXELS = 10**9  # a larger number is not quoted in an error
MAX_DIGITS = 100  # Python refuses to read numbers of thousands of digits
_SIZE = "a size is (rows, columns), or width x height as text: '3840x2160', '3840x' (width) or 'x2160' (height)"
_SCALE = "a scale is a factor, (rows, columns), or text: '3.7', or width x height as '2x1.5'"


def parse_scale(text: str) -> Scale:
    """`3.7`, or width × height as `2x1.5`; gives one factor, or (rows, columns). Raises InvalidRequest."""
    parts = text.lower().replace("×", "x").split("x")
    try:
        factors = [float(part) for part in parts] if len(text) <= MAX_DIGITS else []
    except ValueError:
        factors = []
    if len(factors) not in (1, 2):
        raise InvalidRequest(f"scale {text[:40]!r} is not a scale: write 3.7, or width x height as 2x1.5")
    scale = factors[0] if len(factors) == 1 else (factors[1], factors[0])
    output_size((1, 1), scale)  # refuses now, and once, what no picture can have
    return scale


def parse_size(text: str) -> Sides:
    """Width × height, `3840x2160`, `3840x` or `x2160` → (rows, columns), None for the side that was left out. Raises
    InvalidRequest."""
    match = re.fullmatch(r"([0-9]{1,9})?\s*[x×]\s*([0-9]{1,9})?", text.strip().lower())
    sides = None if match is None else tuple(None if side is None else int(side) for side in match.groups())
    if sides is None or sides == (None, None) or 0 in sides:
        raise InvalidRequest(
            f"size {text[:40]!r} is not a size: write width x height in pixels, as 3840x2160, 3840x (width) or x2160 "
            "(height)"
        )
    return sides[1], sides[0]


def checked_scale(scale: object) -> Scale:
    """A factor or (rows, columns) of factors, from a number, a sequence of two, or text. Raises InvalidRequest."""
    if isinstance(scale, str):
        return parse_scale(scale)
    try:
        if isinstance(scale, SupportsFloat) and not isinstance(scale, bool) and not getattr(scale, "shape", ()):
            return float(scale)
        first, second = (float(factor) for factor in _sequence(scale))
    except (TypeError, ValueError):
        raise UnsupportedScale(f"scale is {shown(scale)}: {_SCALE}") from None
    return first, second


def checked_sides(size: object) -> Sides:
    """(rows, columns), from a sequence of two or from text. Raises InvalidRequest."""
    if isinstance(size, str):
        return parse_size(size)
    try:
        rows, columns = (None if side is None else whole(side) for side in _sequence(size))
    except (TypeError, ValueError):
        raise InvalidRequest(f"size is {shown(size)}: {_SIZE}") from None
    if (rows is None and columns is None) or max(rows or 0, columns or 0) > MAX_QUOTED_PIXELS:
        raise InvalidRequest(f"size is {shown(size)}: {_SIZE}")
    return rows, columns


def checked_crop(crop: object) -> Box:
    """(first row, first column, end row, end column), from a sequence of four. Raises InvalidRequest."""
    try:
        y0, x0, y1, x1 = (whole(number) for number in _sequence(crop))
    except (TypeError, ValueError):
        raise InvalidRequest(
            f"crop is {shown(crop)}: allowed are four whole numbers, (first row, first column, end row, end column)"
        ) from None
    if max(abs(y0), abs(x0), abs(y1), abs(x1)) > MAX_QUOTED_PIXELS:
        raise InvalidRequest(f"crop is {shown(crop)}: it is not inside any picture")
    return y0, x0, y1, x1


def wanted_size(size: Size, scale: object = None, out: object = None, long_edge: SupportsIndex | None = None) -> Size:
    """The output size (rows, columns) of a picture of `size`, for exactly one of scale, size and long edge.

    Scale and size are as `checked_scale` and `checked_sides` take them; a side that is None keeps the picture's shape.
    Raises InvalidRequest.
    """
    if sum(x is not None for x in (scale, out, long_edge)) != 1:
        raise InvalidRequest("say how far to enlarge by exactly one of scale, size and long edge")
    if scale is not None:
        return output_size(size, checked_scale(scale))
    if out is not None:
        rows, columns = checked_sides(out)
        if rows is None:
            assert columns is not None
            rows = scaled(size[0], columns, size[1])
        return check_output(size, (rows, columns if columns is not None else scaled(size[1], rows, size[0])))
    try:
        longest, edge = max(size), whole(long_edge)
    except TypeError:
        raise InvalidRequest(f"long edge is {shown(long_edge)}: allowed is a whole number of pixels") from None
    if abs(edge) > MAX_QUOTED_PIXELS:
        raise UnsupportedScale(f"long edge is {shown(long_edge)}: allowed are at most {MAX_SIDE} pixels")
    return check_output(size, (scaled(size[0], edge, longest), scaled(size[1], edge, longest)))


def scaled(length: int, target: int, of: int) -> int:
    """`length`, where `of` becomes `target`: rounded, at least 1."""
    return max(1, round(length * target / of))


def whole(number: object) -> int:
    """A whole number of any type, whole floats included, as an int. Raises TypeError."""
    if isinstance(number, float) and math.isfinite(number) and number == int(number):
        return int(number)
    if isinstance(number, bool):
        raise TypeError("a truth value is no number")
    return operator.index(number)  # type: ignore[arg-type] (raises the TypeError)


def _sequence(value: Any) -> Sequence[Any]:
    """Lists, tuples, arrays of one axis; a text of two characters is none."""
    if isinstance(value, str | bytes | dict | set):
        raise TypeError("not a sequence of numbers")
    return list(value)  # raises the TypeError
