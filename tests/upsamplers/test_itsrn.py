"""ITSRN runs its networks once per distinct pair of offsets, which integer and simple scales have few of."""

from __future__ import annotations

import torch

from scalewise.geometry.grid import Frame, Query, rectangle
from scalewise.upsamplers import itsrn
from scalewise.upsamplers.corners import sides
from scalewise.upsamplers.itsrn import ITSRN, repeated_offsets


def offsets(size: tuple[int, int], out: tuple[int, int]) -> itsrn.Offsets | None:
    upsampler, frame = ITSRN(3, (4,)), Frame(size)
    query = rectangle(frame, out)
    rows, columns = upsampler._corners(query, sides(frame, size))
    return repeated_offsets(rows, columns, query)


def test_an_integer_scale_has_few_offsets() -> None:
    found = offsets((50, 70), (200, 280))
    assert found is not None
    assert len(found.y) <= 12 and len(found.x) <= 12  # two corners of four offsets, and those at the borders


def test_offsets_are_the_corners_offsets() -> None:
    frame = Frame((50, 70))
    query = rectangle(frame, (150, 210))
    rows, columns = ITSRN(3, (4,))._corners(query, sides(frame, (50, 70)))
    found = repeated_offsets(rows, columns, query)
    assert found is not None
    assert torch.allclose(found.y[found.row], rows.rel, atol=1e-4)
    assert torch.allclose(found.x[found.column], columns.rel, atol=1e-4)


def test_no_scale_needs_more_runs_than_corners() -> None:
    size, out = (31, 37), (101, 97)
    upsampler = ITSRN(3, (4, 4))
    most = 4 * out[0] * out[1] * (4 * 4 + 256)
    assert upsampler.macs(size, out).linear - upsampler.merge.macs(3 * out[0] * out[1]).linear <= most


@torch.no_grad()
def test_sharing_changes_no_number() -> None:
    upsampler, frame = ITSRN(3, (8, 8)), Frame((6, 7))
    field = upsampler.prepare(torch.randn(1, 3, 6, 7), torch.randn(1, 3, 6, 7), frame)
    query = rectangle(frame, (18, 21))
    y, x = torch.broadcast_tensors(query.y, query.x)
    points = Query(y.flatten(1), x.flatten(1), query.cell)  # points never share
    shared = upsampler.sample(field, query).flatten(2).transpose(1, 2)
    assert torch.allclose(shared, upsampler.sample(field, points), atol=1e-5)
