"""ICC profiles (version 2, matrix and curve) for colours that a file names in other words: gAMA, cHRM, code points."""

from __future__ import annotations

import struct

import numpy as np

Point = tuple[float, float]  # x, y of CIE 1931
Primaries = tuple[Point, ...]  # red, green, blue

D65: Point = (0.3127, 0.3290)
_D50 = np.array([0.9642, 1.0, 0.8249])
_SRGB: Primaries = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_SRGB_GAMMA = 0.45455  # what a PNG in sRGB says
# ITU-T H.273, tables 2 and 3
_PRIMARIES: dict[int, tuple[Primaries, Point]] = {
    1: (_SRGB, D65),
    5: (((0.64, 0.33), (0.29, 0.60), (0.15, 0.06)), D65),
    6: (((0.63, 0.34), (0.31, 0.595), (0.155, 0.07)), D65),
    7: (((0.63, 0.34), (0.31, 0.595), (0.155, 0.07)), D65),
    9: (((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)), D65),
    11: (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), (0.314, 0.351)),
    12: (((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), D65),
}
_HDR = (16, 18)  # PQ, HLG
HDR_LEFT_OUT = "its colours are HDR (PQ or HLG), which are not carried: it will look flat"
_UNKNOWN = (0, 2)
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def of_gamma(gamma: float, primaries: Primaries | None, white: Point | None) -> bytes | None:
    """A profile for an encoding exponent (gAMA) and primaries; None if that is sRGB, or meaningless."""
    usual = abs(gamma - _SRGB_GAMMA) < 0.005
    near = primaries is None or all(
        abs(a - b) < 0.003 for one, two in zip(primaries, _SRGB, strict=True) for a, b in zip(one, two, strict=True)
    )
    if (usual and near) or not 0.1 < gamma < 10:
        return None
    curve = _srgb_curve() if usual else _curve_of(1 / gamma)
    return _profile(primaries or _SRGB, white or D65, curve, "gAMA and cHRM")


def of_code_points(primaries: int, transfer: int) -> tuple[bytes | None, bool]:
    """A profile for H.273's primaries and transfer characteristics, None if that is sRGB or unknown; and if it is
    HDR."""
    if transfer in _HDR:
        return None, True
    named = _PRIMARIES.get(primaries)
    if named is None or transfer in _UNKNOWN or (primaries == 1 and transfer in (1, 6, 13)):
        return None, False
    curves = {4: _curve_of(2.2), 5: _curve_of(2.8), 8: _curve_of(1.0)}
    # The curve of BT.709 is for cameras; pictures with it are shown as sRGB, as browsers do.
    return _profile(*named, curves.get(transfer, _srgb_curve()), f"code points {primaries}, {transfer}"), False


def _profile(primaries: Primaries, white: Point, curve: bytes, name: str) -> bytes | None:
    """A display profile; None if the primaries span nothing."""
    columns = _matrix(primaries, white)
    if columns is None:
        return None
    text = f"scalewise: {name}".encode()
    description = b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text + bytes(1 + 4 + 4 + 2 + 1 + 67)
    blocks = [(b"desc", description), (b"cprt", b"text" + bytes(4) + b"public domain\0"), (b"wtpt", _xyz(_D50))]
    blocks += [(tag, _xyz(column)) for tag, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T, strict=True)]
    blocks += [(tag, curve) for tag in (b"rTRC", b"gTRC", b"bTRC")]
    table, data = struct.pack(">I", len(blocks)), b""
    start = 128 + 4 + 12 * len(blocks)
    for tag, block in blocks:
        table += tag + struct.pack(">II", start + len(data), len(block))
        data += block + bytes(-len(block) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(data), b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H4s", 2000, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    header += struct.pack(">3i", *(round(value * 65536) for value in _D50))
    return header.ljust(128, b"\0") + table + data


def _matrix(primaries: Primaries, white: Point) -> np.ndarray | None:
    """XYZ of the primaries as columns, adapted to D50 by Bradford's method."""
    if min(white[1], *(y for _, y in primaries)) <= 0:
        return None
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    target = np.array([white[0] / white[1], 1, (1 - white[0] - white[1]) / white[1]])
    if abs(np.linalg.det(columns)) < 1e-6:
        return None
    columns = columns * np.linalg.solve(columns, target)
    cones = (_BRADFORD @ _D50) / (_BRADFORD @ target)
    adapted = np.linalg.inv(_BRADFORD) @ (cones[:, None] * (_BRADFORD @ columns))
    return adapted if np.abs(adapted).max() < 8 else None


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(float(value) * 65536) for value in values))


def _curve_of(exponent: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256)) + bytes(2)


def _srgb_curve() -> bytes:
    x = np.linspace(0, 1, 1024)
    y = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return b"curv" + bytes(4) + struct.pack(">I", 1024) + (y * 65535).round().astype(">u2").tobytes()
