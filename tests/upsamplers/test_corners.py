"""Corners and bands: pixels are those that nearest sampling takes, and the size of a band changes nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from upsamplers import literal

from scalewise.compat.geometry import PublishedGeometry
from scalewise.geometry.grid import Frame, Query, rectangle
from scalewise.upsamplers.corners import EXACT, MLP, as_convolution, bilinear, in_bands, sides, to_rows


@pytest.mark.parametrize("scale", [1, 1.25, 1.5, 2, 2.5, 3, 3.7, 4, 6, 30])
@pytest.mark.parametrize("n", [1, 2, 7, 48, 131, 300])
def test_pixels_are_those_of_nearest_sampling(n: int, scale: float) -> None:
    out = round(n * scale)
    side = sides(Frame((n, n)), (n, n))[0]
    coordinates = literal.make_coord((out, 1))[:, 0, 0]
    exact = (2 * torch.arange(out, dtype=torch.float64) + 1) * n / (2 * out)
    published = (coordinates.double() + 1) * n / 2
    number = torch.arange(n).float().view(1, 1, n, 1)
    for reach in (0.5, max(0.0, (n - 2 / scale) / (2 * max(n - 1, 1)))):
        for sign in (-1, 1):
            shifted = (coordinates + (sign * 2 * reach / n + 1e-6)).clamp(-1 + 1e-6, 1 - 1e-6)
            grid = torch.stack((torch.zeros(out), shifted), -1).view(1, out, 1, 2)
            expected = F.grid_sample(number, grid, mode="nearest", align_corners=False).flatten().long()
            same = PublishedGeometry().corners(published.view(1, -1), side, reach, (sign,)).index.flatten()
            assert torch.equal(same, expected)
            ours = EXACT.corners(exact.float().view(1, -1), side, reach, (sign,)).index.flatten()
            moved = exact + sign * reach
            clear = (moved - moved.round()).abs() > 1e-3  # the published 1e-6 is n / 2 of it in LR pixels
            assert torch.equal(ours[clear], expected[clear])


def test_area_weights_are_those_of_linear_interpolation() -> None:
    frame = Frame((5, 6))
    lr = torch.randn(2, 3, 5, 6)
    for out in ((5, 6), (15, 18), (13, 47)):
        query = rectangle(frame, out)
        ours = bilinear(to_rows(lr), query.y, query.x, sides(frame, (5, 6)), 6).permute(0, 3, 1, 2)
        theirs = F.interpolate(lr, out, mode="bilinear", align_corners=False)
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_panorama_has_no_first_column() -> None:
    frame = Frame((4, 100), (0, -3), wrap=True)
    rows, columns = sides(frame, (4, 10))
    assert (rows.first, rows.last, columns.first, columns.last) == (0, 3, 0, 9)


def test_a_tile_ends_where_the_image_ends() -> None:
    rows, columns = sides(Frame((20, 20), (16, -2)), (8, 8))
    assert (rows.first, rows.last, columns.first, columns.last) == (0, 3, 2, 7)


@pytest.mark.parametrize("band", [1, 7, 10_000])
def test_bands_change_nothing(band: int) -> None:
    query = rectangle(Frame((3, 4)), (9, 11))

    def render(piece: Query) -> torch.Tensor:
        y, x = torch.broadcast_tensors(piece.y, piece.x)
        return torch.stack((y, x, y * x), -1)

    y, x = torch.broadcast_tensors(query.y, query.x)
    assert torch.equal(in_bands(query, 1, render, band), torch.stack((y, x, y * x), 1))
    points = Query(y.flatten(1), x.flatten(1), query.cell)
    expected = torch.stack((points.y, points.x, points.y * points.x), -1)
    assert torch.equal(in_bands(points, 1, render, band), expected)


def test_a_linear_layer_on_unfolded_features_is_a_convolution() -> None:
    features = torch.randn(2, 5, 4, 6)
    layer = MLP(45, (7,), 3).first
    unfolded = F.unfold(features, 3, padding=1).transpose(1, 2)
    ours = to_rows(as_convolution(layer.weight, features, layer.bias, True))
    assert torch.allclose(ours, layer(unfolded), atol=1e-6)
