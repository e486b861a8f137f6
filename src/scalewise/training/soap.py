"""SOAP (Vyas et al., arXiv:2409.11321, algorithm 3): Adam in the eigenbasis of Shampoo's two factors.

A kernel (out, in, 3, 3) is a matrix (out, 9·in). The averages of G·Gᵀ and Gᵀ·G have eigenvectors in which the entries
of the gradient are nearly uncorrelated, and there Adam's step for each entry alone is a good one. 600 steps of `lean`
reach what AdamW reaches in some 1600, and a step takes as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

REFRESH_STEPS = 20  # from one correction of the eigenbasis, by a power iteration, to the next
FACTOR_DECAY = 0.95  # decay of the averages of G·Gᵀ and Gᵀ·G
EPSILON = 1e-8
LARGEST_SIDE = 1024  # the largest factor; a longer side of a matrix keeps its own basis


class SOAP(Optimizer):
    """Adam in the eigenbasis of each parameter's gradients; decoupled weight decay as in AdamW.

    A parameter of any shape counts as a matrix: its first dimension by all others. The first step of a parameter only
    looks at its gradient, as a basis is needed before anything is averaged in it.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float | Tensor,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        decay: float = 0.0,
    ) -> None:
        super().__init__(list(parameters), {"lr": learning_rate, "betas": betas, "weight_decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step along the gradients; parameters without one stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _step(parameter, parameter.grad, self.state[parameter], group)
        return loss


def _step(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    matrix = gradient.reshape(len(gradient), -1) if gradient.ndim else gradient.reshape(1, 1)
    if not state:
        state.update(step=0, mean=torch.zeros_like(matrix), square=torch.zeros_like(matrix))
        for side, factor in _factors(matrix).items():
            state[side], state[f"{side}_basis"] = factor, _eigenvectors(factor)
        return
    state["step"] += 1
    first, second = group["betas"]
    state["mean"].lerp_(matrix, 1 - first)
    state["square"].lerp_(_turned(matrix, state).square(), 1 - second)
    mean = _turned(state["mean"], state) / (1 - first ** state["step"])
    size = (state["square"] / (1 - second ** state["step"])).sqrt() + EPSILON
    if group["weight_decay"]:
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.sub_(group["lr"] * _turned(mean / size, state, back=True).reshape(parameter.shape))
    for side, factor in _factors(matrix).items():
        state[side].lerp_(factor, 1 - FACTOR_DECAY)
        if state["step"] % REFRESH_STEPS == 1:
            _refresh(state, side)


def _factors(matrix: Tensor) -> dict[str, Tensor]:
    """Those of the two factors that are not too large."""
    rows, columns = matrix.shape
    factors = {"rows": matrix @ matrix.T} if rows <= LARGEST_SIDE else {}
    return factors | ({"columns": matrix.T @ matrix} if columns <= LARGEST_SIDE else {})


def _eigenvectors(factor: Tensor) -> Tensor:
    """Eigenvectors of a symmetric matrix, in float64: in float32 eigh fails or answers NaN where gradients are small,
    as they are late in a training."""
    largest = factor.abs().max().double().clamp_min(torch.finfo(torch.float64).tiny)
    return torch.linalg.eigh(factor.double() / largest)[1].to(factor.dtype)


def _turned(matrix: Tensor, state: dict[str, Any], *, back: bool = False) -> Tensor:
    """A matrix turned into the eigenbasis, or back."""
    if "rows" in state:
        basis = state["rows_basis"]
        matrix = (basis if back else basis.T) @ matrix
    if "columns" in state:
        basis = state["columns_basis"]
        matrix = matrix @ (basis.T if back else basis)
    return matrix


def _refresh(state: dict[str, Any], side: str) -> None:
    """One power iteration, with the columns of the basis in the order of their eigenvalues."""
    basis = state[f"{side}_basis"]
    moved = state[side] @ basis
    order = (basis * moved).sum(0).argsort(descending=True)
    state["square"] = state["square"].index_select(0 if side == "rows" else 1, order)
    state[f"{side}_basis"] = torch.linalg.qr(moved[:, order])[0]
