"""Decisions become maps."""

from __future__ import annotations

import torch

from scalewise.budget.route import Decision, effort_map, levelled, map_unit, paint


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


def test_fine_and_coarse_decisions_meet_on_the_coarse_grid() -> None:
    tokens = Decision("token", 1, torch.ones(1, 4, 4, dtype=torch.int64).tril(), torch.tensor([0.0, 1.0]))
    windows = Decision("window", 2, torch.tensor([[[1, 0], [0, 0]]]), torch.tensor([0.0, 4.0]))
    assert map_unit((tokens, windows)) == 2
    assert effort_map((tokens, windows)).tolist() == [[7 / 8, 0.0], [0.5, 3 / 8]]


def test_the_levelled_map_has_the_share_as_its_mean() -> None:
    cells = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    for share in (0.02, 0.3, float(cells.mean()), 0.9, 1.0):
        map = levelled(cells, share)
        assert abs(float(map.mean()) - share) < 1e-6 and float(map.min()) >= 0 and float(map.max()) <= 1 + 1e-6
        assert bool((map.flatten().argsort() == cells.flatten().argsort()).all()) or share == 1.0
