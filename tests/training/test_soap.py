"""SOAP: Adam where the basis is given, far ahead of it where the directions of the gradient are mixed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from scalewise.training import soap
from scalewise.training.soap import SOAP


def descend(optimizer: Optimizer, parameter: nn.Parameter, gradients: list[Tensor]) -> None:
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1)])
def test_a_single_number_moves_as_with_adam(shape: tuple[int, ...]) -> None:
    """The first gradient only makes the basis."""
    gradients = [torch.randn(shape, generator=torch.Generator().manual_seed(k)) for k in range(6)]
    ours, theirs = (nn.Parameter(torch.full(shape, 2.0)) for _ in range(2))
    descend(SOAP([ours], 0.1, decay=0.01), ours, gradients)
    descend(AdamW([theirs], 0.1, betas=(0.9, 0.99), weight_decay=0.01), theirs, gradients[1:])
    torch.testing.assert_close(ours, theirs)


def test_without_a_basis_it_is_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soap, "LARGEST_SIDE", 2)
    gradients = [torch.randn(4, 3, generator=torch.Generator().manual_seed(k)) for k in range(6)]
    ours, theirs = (nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    descend(SOAP([ours], 0.1), ours, gradients)
    descend(AdamW([theirs], 0.1, betas=(0.9, 0.99), weight_decay=0.0), theirs, gradients[1:])
    torch.testing.assert_close(ours, theirs)


def lost(optimizer: type[Optimizer], rate: float) -> float:
    """How far a linear map is from the one that made its samples, after 200 steps; the inputs vary a thousand times
    less along some turned directions than along others."""
    random = torch.Generator().manual_seed(0)
    mixed = torch.linalg.qr(torch.randn(18, 18, generator=random))[0] * torch.logspace(0, -3, 18)
    wanted = torch.randn(6, 18, generator=random)
    parameter = nn.Parameter(torch.zeros(6, 18))
    steps = optimizer([parameter], rate)  # type: ignore[call-arg]
    for step in range(200):
        inputs = mixed @ torch.randn(18, 64, generator=random)
        steps.zero_grad()
        ((parameter - wanted) @ inputs).square().mean().backward()
        for group in steps.param_groups:
            group["lr"] = rate * (1 - step / 200)
        steps.step()
    return float(((parameter.detach() - wanted) @ mixed).square().sum())


def test_it_is_ahead_of_adam_where_directions_are_mixed() -> None:
    rates = (0.01, 0.03, 0.1, 0.3)
    assert min(lost(SOAP, rate) for rate in rates) < 0.2 * min(lost(AdamW, rate) for rate in rates)


def test_a_stored_state_goes_on_exactly() -> None:
    gradients = [torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(k)) for k in range(30)]
    straight = nn.Parameter(torch.ones(4, 2, 3, 3))
    optimizer = SOAP([straight], 0.1)
    descend(optimizer, straight, gradients[:23])
    parted = nn.Parameter(straight.detach().clone())
    other = SOAP([parted], 0.1)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    descend(optimizer, straight, gradients[23:])
    descend(other, parted, gradients[23:])
    assert torch.equal(straight, parted)


def test_a_parameter_without_a_gradient_stays() -> None:
    parameter = nn.Parameter(torch.ones(3))
    SOAP([parameter], 0.1).step()
    assert torch.equal(parameter, torch.ones(3))


def test_factors_of_dead_channels_and_small_gradients_have_a_basis() -> None:
    """In float32 LAPACK fails at some of these, or answers NaN."""
    for seed in range(12):
        random = torch.Generator().manual_seed(seed)
        sizes = torch.logspace(-16, -24, 144)[torch.randperm(144, generator=random)]
        gradient = torch.randn(16, 144, generator=random) * sizes
        gradient[:, torch.randperm(144, generator=random)[:48]] = 0
        parameter = nn.Parameter(torch.ones(16, 144))
        optimizer = SOAP([parameter], 0.1)
        descend(optimizer, parameter, [gradient, gradient])
        basis = optimizer.state[parameter]["columns_basis"]
        torch.testing.assert_close(basis.T @ basis, torch.eye(144), atol=1e-4, rtol=0)
        assert parameter.isfinite().all()
