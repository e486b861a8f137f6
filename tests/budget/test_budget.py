"""Budgets and the solver."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalewise.budget.budget import Budget
from scalewise.budget.solver import solve, spread
from scalewise.errors import BudgetInfeasible


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("50%", "fraction", 0.5),
        ("0.5", "fraction", 0.5),
        (1, "fraction", 1.0),
        ("2e12macs", "macs", 2e12),
        (None, "fraction", 1.0),
    ],
)
def test_budgets_are_read(text: object, kind: str, value: float) -> None:
    assert Budget.parse(text) == Budget(kind, value)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["0", "0%", "-1", "101%", "nan", "inf", "half", "", "5 bananas", "1e400", "-2macs"])
def test_what_is_no_budget_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(BudgetInfeasible) as caught:
        Budget.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("50", "write 50% or, in seconds, 50s"),
        (1.5, "write 1.5% or, in seconds, 1.5s"),
        ("1e6", r"\(100%\)$"),
        ("150%", "^budget 150% .* at most 100%$"),
    ],
)
def test_a_share_above_1_is_refused_with_what_may_have_been_meant(text: str | float, says: str) -> None:
    with pytest.raises(BudgetInfeasible, match=says):
        Budget.parse(text)


problems = st.integers(1, 5).flatmap(
    lambda units: st.tuples(
        st.lists(st.lists(st.floats(-1, 5), min_size=3, max_size=3), min_size=units, max_size=units),
        st.lists(st.lists(st.floats(0.1, 3), min_size=3, max_size=3), min_size=units, max_size=units),
        st.floats(0, 30),
    )
)


@given(problems)
def test_the_solution_is_within_the_budget_and_near_the_best(problem: tuple) -> None:
    steps, runs, allowed = problem
    gain = torch.cat((torch.zeros(len(steps), 1), torch.tensor(steps, dtype=torch.float64)), 1)
    cost = torch.cat((torch.zeros(len(runs), 1), torch.tensor(runs, dtype=torch.float64).cumsum(1)), 1)
    choice = solve(gain, cost, allowed)
    rows = torch.arange(len(gain))
    spent, won = float(cost[rows, choice].sum()), float(gain[rows, choice].sum())
    assert spent <= allowed + 1e-9
    best = max(
        float(gain[rows, list(c)].sum())
        for c in itertools.product(range(4), repeat=len(gain))
        if float(cost[rows, list(c)].sum()) <= allowed + 1e-12
    )
    # greedy along concave envelopes misses the best by less than one unit's whole gain
    assert won >= best - float((gain.amax(1)).max()) - 1e-9


def test_a_budget_that_is_met_exactly_gives_the_choice_at_a_price() -> None:
    """The Lagrangian rule: the greatest gain less 1.5 for a unit of cost."""
    gain = torch.tensor([[0.0, 4, 5], [0, 3, 3.5], [0, 1, 1.1]])
    cost = torch.tensor([[0.0, 1, 2]]).expand(3, -1)
    assert solve(gain, cost, 2.0).tolist() == (gain - 1.5 * cost).argmax(1).tolist() == [1, 1, 0]


def test_below_the_floor_is_refused() -> None:
    with pytest.raises(BudgetInfeasible):
        solve(torch.zeros(2, 2), torch.ones(2, 2), 1.0)


@pytest.mark.parametrize(("text", "dial", "value"), [("eta=0.5", "eta", 0.5), (" gamma = 1 ", "gamma", 1.0)])
def test_native_dials_are_read_and_grant_everything(text: str, dial: str, value: float) -> None:
    budget = Budget.parse(text)
    assert (budget.kind, budget.dial, budget.value) == ("native", dial, value)
    assert budget.allowed(1000) == 1000
    assert budget.dial_of("k", dial) == value and Budget.fraction(0.5).dial_of(dial) is None


@pytest.mark.parametrize("text", ["eta=", "zeta=1", "eta=nan", "eta=1=2"])
def test_dials_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(BudgetInfeasible):
        Budget.parse(text)


def test_a_model_without_that_dial_says_which_it_has() -> None:
    with pytest.raises(BudgetInfeasible, match="has eta"):
        Budget.native("gamma", 0.5).dial_of("eta")
    with pytest.raises(BudgetInfeasible, match="no native dial"):
        Budget.native("gamma", 0.5).dial_of()


@given(st.integers(0, 500), st.integers(1, 30))
def test_spread_keeps_the_total_and_is_even(total: int, layers: int) -> None:
    shares = spread(total, layers)
    assert sum(shares) == total and len(shares) == layers
    assert max(shares) - min(shares) <= 1 and shares == sorted(shares, reverse=True)
