"""The curve of gains: fitted to cells, rising, and read between its points."""

from __future__ import annotations

import torch

from scalewise.budget.gains import GainCurve


def test_a_curve_is_found_again() -> None:
    scores = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    noise = 0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(1))
    curve = GainCurve.fit(scores, scores.square() + noise)
    asked = torch.tensor([0.2, 0.5, 0.9])
    torch.testing.assert_close(curve.at(asked), asked.double().square(), rtol=0, atol=0.03)


def test_it_rises_whatever_it_is_fitted_to() -> None:
    generator = torch.Generator().manual_seed(0)
    curve = GainCurve.fit(torch.rand(500, generator=generator), torch.randn(500, generator=generator))
    found = curve.at(torch.linspace(0, 3, 400))
    assert bool((found.diff() >= 0).all()) and found[0] == 0


def test_beyond_its_ends_it_goes_on() -> None:
    curve = GainCurve(((0.5, 1.0), (1.0, 3.0)))
    assert curve.at(torch.tensor([[0.0, 0.25], [0.75, 2.0]])).tolist() == [[0.0, 0.5], [2.0, 12.0]]


def test_of_few_cells_and_of_flat_ones() -> None:
    assert GainCurve.fit(torch.tensor([0.5]), torch.tensor([2.0])).points == ((0.5, 2.0),)
    assert GainCurve.fit(torch.zeros(3), torch.zeros(3)).points == ()
