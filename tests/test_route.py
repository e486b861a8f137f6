"""Decisions become maps."""

from __future__ import annotations

import torch

from scalewise.route import Decision, effort_map, paint


def test_the_map_is_the_share_of_the_most_that_a_unit_could_spend() -> None:
    choice = torch.tensor([[[0, 1], [2, 2]]])
    cost = torch.tensor([0.0, 5.0, 10.0], dtype=torch.float64)
    assert effort_map((Decision("patch", 32, choice, cost),)).tolist() == [[0.0, 0.5], [1.0, 1.0]]


def test_layers_add_up() -> None:
    cost = torch.tensor([0.0, 1.0])
    layers = tuple(Decision("window", 8, torch.tensor([[[k, 1]]]), cost) for k in (0, 1))
    assert effort_map(layers).tolist() == [[0.5, 1.0]]


def test_the_picture_shows_each_unit_where_it_is() -> None:
    picture = paint(torch.tensor([[0.0, 1.0]]), 4, torch.ones(4, 6))
    assert picture.shape == (4, 6, 3) and picture.dtype == torch.uint8
    assert bool((picture[:, :4] == picture[0, 0]).all()) and bool((picture[:, 4:] == picture[0, 4]).all())
    assert picture[0, 4].sum() > picture[0, 0].sum()
