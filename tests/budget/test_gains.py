"""The curve of gains: fitted to cells, rising, and read between its points."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scalewise.budget.gains import GainCurve


def fitted(scores: Tensor, gains: Tensor) -> GainCurve:
    curve = GainCurve.fit(scores, gains)
    assert curve is not None
    return curve


def test_a_curve_is_found_again() -> None:
    scores = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    noise = 0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(1))
    curve = fitted(scores, scores.square() + noise)
    asked = torch.tensor([0.2, 0.5, 0.9])
    torch.testing.assert_close(curve.at(asked), asked.double().square(), rtol=0, atol=0.03)


def test_it_rises_whatever_it_is_fitted_to() -> None:
    generator = torch.Generator().manual_seed(0)
    curve = fitted(torch.rand(500, generator=generator), torch.randn(500, generator=generator))
    found = curve.at(torch.linspace(0, 3, 400))
    assert bool((found.diff() >= 0).all()) and found[0] == 0


def test_beyond_its_ends_it_goes_on() -> None:
    curve = GainCurve(((0.5, 1.0), (1.0, 3.0)))
    assert curve.at(torch.tensor([[0.0, 0.25], [0.75, 2.0]])).tolist() == [[0.0, 0.5], [2.0, 12.0]]


def test_of_few_cells_and_of_flat_ones() -> None:
    assert fitted(torch.tensor([0.5]), torch.tensor([2.0])).points == ((0.5, 2.0),)
    assert GainCurve.fit(torch.zeros(3), torch.zeros(3)) is None


def test_what_is_lost_in_one_bin_is_not_forgotten_in_the_next() -> None:
    """Gains and larger losses by turns: no cell is worth anything."""
    scores = torch.linspace(0.1, 1, 240)
    gains = torch.tensor([1.0, -3.0]).repeat_interleave(10).repeat(12)
    assert all(gain == 0 for _, gain in fitted(scores, gains).points)


@pytest.mark.parametrize(
    "points", [(), ((0.0, 1.0),), ((0.5, 1.0), (0.4, 2.0)), ((0.5, 2.0), (0.6, 1.0)), ((0.5, float("nan")),)]
)
def test_what_is_no_curve_is_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError, match="no curve"):
        GainCurve(points)
